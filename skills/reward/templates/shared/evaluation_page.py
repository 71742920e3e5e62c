def pick_rows(files, numbers):
    """{number: pair} of some pairs, by their number over all files, in one pass."""
    found, count = {}, 0
    for path in files:
        for pairs in read_pairs(path):
            found |= {n: pairs[n - count] for n in numbers if count <= n < count + len(pairs)}
            count += len(pairs)
    return found


def side_by_side(pairs, numbers, c, other=None):
    """Rows of a table with both answers and their rewards; long texts are cut in the middle."""

    def cut(messages, most):
        text = "\n\n".join(m["content"] if len(messages) == 1 else f"{m['role']}: {m['content']}" for m in messages)
        return text if len(text) <= most else f"{text[: most // 2]} […] {text[-most // 2 :]}"

    rows = []
    for n in numbers:
        row = {"pair": f"{n}\n{pairs[n]['source']}", "prompt": cut(pairs[n]["prompt"], 500)}
        for side in SIDES:
            rewards = f"{c[side][n]:+.2f}" + (f" | {other[side][n]:+.2f}" if other else "")
            row[f"{side}, reward"] = f"{rewards}\n{cut(pairs[n][side], 600)}"
        rows.append(row)
    return rows


def draw_shares(title, parts, x="accuracy", limits=()):
    """A chart of shares with their intervals, a line each: {name: {accuracy or rate, low, high}}."""
    figure, axes = chart(title, x)
    figure.set_figheight(1 + 0.3 * max(3, len(parts)))
    names, shares = list(parts)[::-1], list(parts.values())[::-1]
    middle = [p.get("accuracy", p.get("rate")) for p in shares]
    spread = [[abs(v - p[end]) for v, p in zip(middle, shares)] for end in ("low", "high")]
    axes.errorbar(middle, range(len(names)), xerr=spread, fmt="o", color="#1f4e79", capsize=3)
    axes.set_yticks(range(len(names)), [n if len(n) < 45 else n[:42] + "…" for n in names])
    axes.set_xlim(-0.02, 1.02)
    axes.axvline(0.5, color="#999", linestyle=":")
    for place, limit in enumerate(limits[::-1]):
        if limit is not None:
            axes.plot([limit] * 2, [place - 0.35, place + 0.35], color="#b45309")
    return figure


def draw_rewards(c):
    figure, axes = chart("Rewards of chosen and rejected answers", "reward", "answers")
    edges = np.histogram_bin_edges(np.concatenate([c[side] for side in SIDES]), min(60, 10 + len(c["chosen"]) // 20))
    for side, color in zip(SIDES, ("#1f4e79", "#b45309")):
        axes.hist(c[side], edges, histtype="stepfilled", alpha=0.45, color=color, label=side)
    axes.legend(frameon=False)
    return figure


def draw_reliability(bins):
    figure, axes = chart("Reliability, with 95 % intervals", "probability stated by σ(difference)", "share right")
    x, y = ([part[name] for part in bins] for name in ("stated", "true"))
    ends = [wilson(part["true"], part["count"]) for part in bins]
    spread = [[abs(v - end[i]) for v, end in zip(y, ends)] for i in (0, 1)]
    axes.plot([0.5, max(x)], [0.5, max(x)], color="#999", linestyle=":")
    axes.errorbar(x, y, yerr=spread, fmt="o", color="#1f4e79", capsize=3)
    return figure


def span_of(part):
    return f"{part['low']:.3f}\u00a0to\u00a0{part['high']:.3f}"


def chance_text(p):
    return None if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def page(m, c, files, other=None):
    """The whole report as HTML."""
    largest = sorted(m["subsets"], key=lambda name: -m["subsets"][name]["pairs"])[:40]
    subsets = {name: part for name, part in m["subsets"].items() if name in largest}
    difference = np.where(c["labelled_tie"], 0, c["chosen"] - c["rejected"])
    worst = [n for n in np.argsort(difference, kind="stable")[:WORST] if difference[n] < 0]
    apart = np.abs(difference / max(1e-12, difference.std()))
    disputed = []
    if other:
        others = other["chosen"] - other["rejected"]
        apart = np.minimum(apart, np.abs(others / max(1e-12, others.std()))) * (np.sign(difference) != np.sign(others))
        disputed = [n for n in np.argsort(-apart, kind="stable")[: WORST // 2] if apart[n] > 0]
    pairs = pick_rows(files, {*worst, *disputed})
    span = (
        f"{m['accuracy']:.1%} of {m['pairs']} pairs in the right order, 95 % interval {m['low']:.1%} to {m['high']:.1%}"
    )
    explained = (
        "The dotted line is chance. p beats: the probability of such a lead over chance and over length if there were"
        " none; p differs: of such a distance to all other pairs if there were none. Both are corrected for the"
        f" {m['claims']} comparisons made here (Holm)."
    )
    told = f"{span} ({m['interval']}, {m['prompts']} prompts). Length alone is right in {m['length_baseline']:.1%}."
    parts = [f"! {m['verdict']}", told]
    parts += [
        [
            {"": "not fit" if r["bars"] else "reservation", "reason": r["reason"], "remedy": r["mend"]}
            for r in m["reasons"]
        ]
    ] * bool(m["reasons"])
    names = ("pairs", "prompts", "ties", "truncated", "accuracy", "loss", "margin", "reward_mean", "reward_std")
    meant = (
        f"Rewards are {'raw' if not m['scaling'] else 'scaled: ' + m['scaling']}. Ties: pairs with equal rewards, half "
        f"right. Truncated: pairs cut to {m['max_length']} tokens. Loss: −log σ(chosen − rejected), 0.693 by chance. "
        "Margin: chosen − rejected on average."
    )
    parts += ["# Figures", meant, [{name.replace("_", " "): m[name] for name in names}], draw_rewards(c)]
    if "folds" in m:
        shares = ", ".join(f"{share:.3f}" for share in m["folds"]["accuracy"])
        parts += [f"Cross-validated: each pair is judged by a model that saw no pair of its prompt; by fold {shares}."]
    if m["labelled_ties"]["pairs"]:
        tied, far = m["labelled_ties"], m["mean_distance"]
        parts += [
            f"{tied['pairs']} pairs are labelled ties and left out of accuracy: the rewards in them lie"
            f" {tied['mean_distance']:.3f} apart on average, in the other pairs {far:.3f}."
        ]
    if m["best_of_n"]:
        parts += ["# Best of n", "Among three or more rated answers to a prompt, whether the best is put first."]
        parts += [[m["best_of_n"]]]
    parts += ["# Where it is right", explained]
    parts += [draw_shares("Accuracy by subset", {"all": m, **subsets})]
    shown = ("ties", "length_baseline", "p_beats", "p_differs")
    parts += [
        [
            {"subset": name, "pairs": p["pairs"], "accuracy": p["accuracy"], "95 % interval": span_of(p)}
            | {k.replace("_", " "): chance_text(p[k]) if k.startswith("p_") else p[k] for k in shown}
            for name, p in {"all": {**m, "p_beats": None, "p_differs": None}, **subsets}.items()
        ]
    ]
    if m["probes"]:
        parts += [
            "# Degenerate answers",
            "How often they get a higher reward than the chosen answer. A bar is the limit; above it RL finds them.",
        ]
        limits = [LIMITS.get(kind) for kind in m["probes"]]
        parts += [draw_shares("Share of prompts on which a degenerate answer wins", m["probes"], "share", limits)]
        parts += [
            [
                {
                    "answer": kind,
                    "wins": p["rate"],
                    "95 % interval": span_of(p),
                    "limit": LIMITS.get(kind),
                    "prompts": p["prompts"],
                }
                for kind, p in m["probes"].items()
            ]
        ]
    found = m["calibration"]
    told = (
        f"Expected calibration error {found['ece']:.3f} (0 is perfect), Brier score {found['brier']:.3f} (a coin's is "
    )
    told += "0.25). On the dotted line rewards mean what they state; below it they are too sure."
    parts += ["# Calibration", told, draw_reliability(found["bins"])]
    goes = (
        "Rank correlation of the reward with the length in characters and the number of list items, over all answers "
    )
    goes += "and, in pair, of the differences between the two; for language the share of the variance (η²). 0 is none."
    parts += ["# What the reward correlates with", goes]
    parts += [[{name.replace("_", " "): value for name, value in m["correlation"].items()}]]
    if other:
        also = m["also"]
        parts += [
            f"# Beside {also['model']}",
            [{k.replace("_", " "): v for k, v in also.items() if k not in ("model", "agree_by_source")}],
        ]
        parts += [[{"source": s, "agree": share} for s, share in also["agree_by_source"].items()]]
        parts += ["Where both are sure and disagree (rewards: this model | the other):"]
        parts += [side_by_side(pairs, disputed, c, other)]
    parts += [f"# The {len(worst)} most confident mistakes", side_by_side(pairs, worst, c)]
    made = {k: m[k] for k in ("model", "data", "max_length", "rendered_by")} | {
        "folds": m.get("folds", {}).get("number")
    }
    return html_report("Evaluation of a reward model", [*parts, "# Made from", [made]])
