LIMITS = {"empty": 0.05, "repeated token": 0.05, "random words": 0.05, "prompt echo": 0.05, "other prompt": 0.1}
LIMITS |= {"truncated": 0.5, "padded out": 0.5}
"""Share of prompts on which such an answer may beat the chosen one before RL would find and repeat it. Refusals have no
limit: where prompts are harmful they are right."""


def verdict(m):
    """(words, reasons) on whether RL should follow this reward, from the metrics `m`. A reason that bars says "no"; the
    others are reservations. Each names its figure and what mends it."""
    reasons, span = [], f"accuracy {m['accuracy']:.3f}, 95 % interval [{m['low']:.3f}, {m['high']:.3f}]"

    def reason(holds, bars, figure, mend):
        if holds:
            reasons.append({"bars": bars, "reason": figure, "mend": mend})

    more = "train on more pairs, longer, or from a stronger base model; the loss should fall well below 0.69"
    more += " (where it rose again on held-out pairs: fewer epochs, or keep_best)"
    shown = m["low"] > 0.5
    reason(not shown, True, f"not shown to beat chance: {span}", more)
    beaten = m["length_baseline"] >= m["low"]
    side = "longer" if m["longer"] >= 0.5 else "shorter"
    told = f"not shown to beat taking the {side} answer, which is right in {m['length_baseline']:.3f}: {span}"
    reason(shown and beaten, True, told, more + "; or balance the lengths of the training pairs")
    mend = "more pairs"
    if "folds" not in m:
        mend = "more held-out pairs, or all of them, cross-validated: python run/evaluate.py --folds 5 --also ''"
    reason(m["pairs"] < 200, False, f"only {m['pairs']} pairs were judged: {span}", mend)
    won, unsure = [], []
    for kind, probe in m["probes"].items():
        limit, told = LIMITS.get(kind, 1), f"{kind} in {probe['rate']:.0%} [{probe['low']:.0%}, {probe['high']:.0%}]"
        won += [f"{told}, limit {limit:.0%}"] * (probe["low"] > limit)
        unsure += [f"{told}, limit {limit:.0%}"] * (probe["low"] <= limit < probe["high"])
    mend = "add such answers as rejected ones to the training pairs, and filter them out before the reward in RL"
    reason(won, True, "degenerate answers beat the chosen one: " + "; ".join(won), mend)
    told = "degenerate answers that may win more often than their limit: " + "; ".join(unsure)
    reason(unsure, False, told, "python run/evaluate.py --probes 500, for narrower intervals")
    pull = m["correlation"]["length_in_pair"]
    told = f"the reward follows length: rank correlation {pull:+.2f} between the differences in a pair"
    reason(abs(pull) > 0.3, False, told, "debias length when scaling, or balance the lengths of the training pairs")
    told = f"differences are poor probabilities: calibration error {m['calibration']['ece']:.3f}"
    meant = (m["scaling"] or "temperature").startswith("temperature")  # no other scale makes probabilities of them
    mend = "scale with method temperature; GRPO with group scaling does not need it"
    reason(meant and m["calibration"]["ece"] > 0.1, False, told, mend)
    told = f"{m['ties']} of {m['pairs']} pairs have equal rewards"
    mend = "python run/evaluate.py --dtype float32, or a chat template that keeps what differs"
    reason(m["ties"] > 0.01 * m["pairs"], False, told, mend)
    told = f"{m['truncated']} of {m['pairs']} pairs were cut to {m['max_length']} tokens"
    reason(m["truncated"] > 0.05 * m["pairs"], False, told, "train and evaluate with a larger max_length")
    for name, part in m["subsets"].items():
        cure = "debias length when scaling" if name.startswith("length") else "more training pairs of this kind"
        told = f"{name}: accuracy {part['accuracy']:.3f} is below the rest (p = {part['p_differs']:.2g} after Holm)"
        below = part["p_differs"] < 0.05 and part["accuracy"] < m["accuracy"]
        reason(below, False, told, f"{cure}, or keep such prompts out of RL")
    bars = any(r["bars"] for r in reasons)
    words = "Not fit for RL" if bars else "Fit for RL, with reservations" if reasons else "Fit for RL"
    return words, reasons
