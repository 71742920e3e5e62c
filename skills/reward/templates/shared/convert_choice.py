def stands_for(label, meanings):
    """Whether a label is one of `a|b|c`; `<0` and `>0` stand for every number below and above."""
    for meaning in meanings.split("|"):
        if meaning and label == plain(meaning):
            return True
        if re.fullmatch(r"[<>]-?[\d.]+", meaning) and re.fullmatch(r"[+-]?\d+(\.\d*)?", label):
            value, bound = float(label), float(meaning[1:])
            if value < bound if meaning[0] == "<" else value > bound:
                return True
    return False


def plain(label):
    """A label as text; 1, 1.0 and "1.0", as tables write it, are one."""
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", str(label).strip())


def meaning_of(label, args):
    """What a label says of two answers: "a", "b" or "tie"; None where it is none of the labels known."""
    label = plain(label)
    a_wins, b_wins = stands_for(label, args.a_wins), stands_for(label, args.b_wins)
    if a_wins != b_wins:
        return "a" if a_wins else "b"
    return "tie" if label in map(plain, args.ties) else None


def votes_of(row, args):
    """What each rater said of two answers, where the row tells."""
    try:
        votes = values_at(row, [args.votes]) if args.votes else []
    except Reject:
        return []
    return [meaning for vote in votes[:100] if (meaning := meaning_of(vote, args))]


def convert(row, args):
    """A row with two answers and a label, or with several answers and a list of labels, one for each two in order.

    Returns (comparisons, counts of those not made); a comparison that cannot be read is a Reject in the list."""
    prompt, values = prompt_of(row, args), values_at(row, args.responses or [args.chosen, args.rejected])
    answers = [candidate(row, prompt, value, args) for value in values]
    add_ratings(answers, row, args)
    labels, met = look_up(row, args.winner), list(itertools.islice(itertools.combinations(answers, 2), 10_000))
    labels = labels if isinstance(labels, list) else [labels]
    if len(labels) != len(met):
        raise Reject("unknown_label", f"{len(labels)} labels for {len(met)} pairs of answers")
    made = []
    for (a, b), label in zip(met, labels):
        if not (meaning := meaning_of(label, args)):
            told = f"label {str(label)[:40]!r} is neither {args.a_wins!r} nor {args.b_wins!r}"
            made.append(Reject("unknown_label", told))
            continue
        comparison = {"better": b, "worse": a} if meaning == "b" else {"better": a, "worse": b}
        comparison |= {"tie": meaning == "tie", "place": "b_wins" if meaning == "b" else "a_wins"}
        comparison["votes"] = votes_of(row, args) if len(met) == 1 else []
        if args.margin:  # the label has the sign already
            comparison["margin"] = abs(number(look_up(row, args.margin), "margin"))
        made.append(comparison)
    return made, {}
