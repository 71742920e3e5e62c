def draw_tokens(pairs, args):
    figure, axes = chart("Tokens of the longer conversation of each pair", "tokens", "pairs")
    measured = pairs.tokens[pairs.tokens > 0]
    axes.hist(measured, bins=np.geomspace(measured.min(), measured.max() + 1, 40), color="#2563eb")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.axvline(args.max_length, color="#b45309")
    axes.annotate(f" max_length {args.max_length:,}", (args.max_length, 0.92), xycoords=("data", "axes fraction"))
    return figure


def draw_rule(name, table):
    """Accuracy of a rule by source with its 95 % interval: all together and the sixteen largest sources."""
    shown = [("all", table["all"]), *list(table["by_source"].items())[:16]][::-1]
    figure, axes = chart(RULES[name].capitalize(), "share of the pairs in which the rule is right (95 % interval)")
    figure.set_figheight(1.2 + 0.28 * len(shown))
    share = np.array([row["accuracy"] for _, row in shown])
    reach = np.abs(np.array([[row["low"], row["high"]] for _, row in shown]).T - share)
    axes.axvline(0.5, color="#9ca3af", linestyle="--")
    axes.errorbar(share, range(len(shown)), xerr=reach, fmt="o", color="#2563eb", ecolor="#93c5fd", elinewidth=3)
    axes.set_yticks(range(len(shown)), [f"{name[:36]} ({row['pairs']:,})" for name, row in shown])
    axes.set(xlim=(0, 1), ylim=(-0.7, len(shown) - 0.3))
    axes.grid(visible=False)
    return figure


def page_of(report, pairs, args):
    """Parts of report.html, the most important first."""
    found, sides = report["findings"], report["pairs"]
    parts = [f"{sum(sides.values()):,} pairs: {sides['train']:,} to train on, {sides['eval']:,} held out; "]
    parts[0] += f"{report['prompts']:,} prompts, {len(report['sources']):,} sources, {report['ties']:,} kept ties. "
    parts[0] += report["verdict"]
    for entry in found:
        if entry["severity"] == "high":
            parts.append(f"! {told(entry)}\nMend it: {entry['mend']}")
    parts += ["# Findings", [line_of(entry) for entry in found]]
    if report["not_measured"]:
        parts += ["Not measured:", [{"measure": name, "why": why} for name, why in report["not_measured"].items()]]
    if report["agreement"]["agreement"] is not None:
        parts.append("Of two judgements of the same answers to the same prompt {agreement:.1%} agree ")
        parts[-1] = f"{parts[-1]}({{pairs_judged_again:,}} pairs were judged again).".format(**report["agreement"])
    if raters := report["agreement_of_raters"]:
        parts.append("Of two raters of the same answers {agreement:.1%} say the same".format(**raters))
        parts[-1] += f" ({raters['two_judgements']:,} times two votes in the source)."
    tokens = report["tokens"]
    if tokens["measured"]:
        sampled = (
            "" if tokens["measured"] == sum(sides.values()) else f" (a sample of {tokens['measured']:,}, projected)"
        )
        parts += ["# Tokens", f"What each max_length would cost{sampled}. The model was made for "]
        parts[-1] += f"{tokens['model_made_for'] or 'an unknown number of'} tokens."
        names = {"limit": "max_length", "over": "measured above", "pairs": "pairs it would cost"}
        parts.append(
            [{n: row[key] for key, n in names.items()} | {"share": f"{row['share']:.1%}"} for row in tokens["limits"]]
        )
        parts.append(draw_tokens(pairs, args))
    parts += [
        "# Shortcuts",
        "What a rule that reads nothing would reach. A reward model that learns the rule looks good here and ",
    ]
    parts[-1] += "fails in use. A half means that the rule knows nothing; ties of the rule count half."
    parts += [draw_rule(name, table) for name, table in report["baselines"].items()]
    parts += ["# Sources", source_table(report)]
    languages = sorted(report["languages"].items(), key=lambda item: -item[1]["prompt"])
    parts += [
        "# Languages",
        "By script and the commonest words of seven languages: an approximation. Undecided: little text, code.",
    ]
    parts.append([{"language": name, **counts} for name, counts in languages])
    if report["evaluation_sets"]:
        parts += ["# Evaluation sets", report["evaluation_sets"]]
    if report["rejected"]:
        parts += ["# Rows that were not used", report["rejected"]]
    parts.append("# Examples")
    for entry in found:
        if entry["examples"]:
            parts += [f"{entry['finding']}: {entry['what']}", entry["examples"]]
    return [*parts, "# How it was measured", *methods_of(args)]


def source_table(report):
    """A line for each of the thirty largest sources."""
    rows = sorted(report["sources"].items(), key=lambda item: -sum(item[1].values()))[:30]
    longer, lists = (report["baselines"][name]["by_source"] for name in ("longer", "more_list_lines"))
    faults = [entry for entry in report["findings"] if entry["examples"]]
    first = report["baselines"].get("first_answer", {"by_source": {}})["by_source"]
    raters = (report["agreement_of_raters"] or {"by_source": {}})["by_source"]

    def line(source, sides):
        found = [
            f"{entry['by_source'][source]:,} {entry['finding']}" for entry in faults if source in entry["by_source"]
        ]
        shares = {
            "longer wins": longer.get(source, {}).get("accuracy"),
            "more lists": lists.get(source, {}).get("accuracy"),
        }
        shares |= {"first answer wins": first.get(source, {}).get("accuracy")} if first else {}
        shares |= {"raters agree": raters.get(source)} if raters else {}
        return {"source": source, **sides, **shares, "found": ", ".join(found)}

    return [line(source, sides) for source, sides in rows]


def methods_of(args):
    """How the findings were measured, as paragraphs."""
    return [
        "Duplicates, contradictions and shared prompts: 64-bit hashes of the exact text.",
        f"Near duplicates: MinHash sketches of {BINS} values over runs of 8 bytes (lower case, single spaces, without "
        "system prompts), in "
        f"16 bands, from a Jaccard similarity of {args.near} on (standard error at most 0.06). A pair counts when its "
        "prompt and its two answers, in either order, are that similar to those of another. Links are followed. "
        "Prompts of 3 to 21 words are also compared by their words: one more or one less. No other rewording is found.",
        "Contamination: the words of the user's turns in training prompts, without case and punctuation: all of them, "
        f"or a run of {args.ngram} ({SHORT} where the evaluation prompt has fewer than {args.ngram}, all where fewer "
        f"than {SHORT}). Runs that more than five rows of a set share are its own wording and not counted.",
        "An answer says nothing when it has at most one letter or digit, or is a placeholder such as N/A, and the "
        "other has at least 20 characters. A list line begins with a bullet or a number. Agreement: of two judgements "
        "of the same answers to the same prompt, how many agree; a copied row counts as a judgement.",
    ]


def line_of(entry):
    """A finding as a line of the table."""
    many = f"{entry['pairs']:,} of {entry['of']} ({entry['share']:.1%})" if entry["examples"] else entry["of"]
    return {
        "": entry["severity"],
        "finding": entry["finding"],
        "how many": many,
        "what": entry["what"],
        "mend": entry["mend"],
    }


def told(entry):
    """A finding as a sentence."""
    counted = f"{entry['pairs']:,} of {entry['of']} ({entry['share']:.1%}): " if entry["examples"] else ""
    return f"{entry['finding']}: {counted}{entry['what']}"
