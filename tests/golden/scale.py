# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "torch>=2.6",
#     "transformers>=4.57.1",
#     "peft>=0.17",
#     "bitsandbytes>=0.49",
#     "python-dotenv>=1.0",
#     "pyarrow>=21",
#     "numpy>=1.26",
#     "scipy>=1.12",
#     "statsmodels>=0.14",
#     "matplotlib>=3.8",
# ]
# ///
"""Scale: fit what the rewards mean on a calibration set, write that into reward.json, and say what it changes in RL.

The calibration set is a file of scores, as evaluate.py and score.py write them, or of formatted pairs that the model
scores first. report.html and scaling.json compare every method on it. The probes in reward.json stay raw rewards.
"""

import argparse
import base64
import hashlib
import html
import io
import json
import os
import shutil
import sys
from array import array
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure
    from scipy.optimize import isotonic_regression, minimize, minimize_scalar
    from scipy.special import expit
    from scipy.stats import spearmanr
    from statsmodels.nonparametric.smoothers_lowess import lowess
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

RENDERED_BY = "reward 0.1.0: reward.py render scale --source scores"
METHODS = ("standard", "robust", "linear", "running", "temperature", "platt", "isotonic", "lsc", "par", "quantile")
NOT_DEBIASED = ("running", "lsc", "par", "quantile")
PROBABILITIES = ("platt", "isotonic")  # of an answer being good; the others leave rewards, whose differences count
WITHIN_0_1 = (*PROBABILITIES, "par", "quantile")


# %% Parameters
def refuse(received, expected, mend, code=3):
    """Stop with one readable message. Exit codes: 2 wrong use, 3 data refused, 5 the environment lacks something."""
    print(f"error: {received}\n  expected: {expected}\n  try: {mend}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def within(kind, low, high=float("inf")):
    """An argparse type: a number between low and high, both included."""

    def number(text):
        if low <= (value := kind(text)) <= high:
            return value
        raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")

    return number


def own_folder(out, marker):
    """The folder to write, behind a link where it is one. Refused where this script did not write what is there: it
    holds things, but no `marker`."""
    out = Path(out)
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        refuse(f"{out} holds other things, which would be deleted", "a folder of its own", "--out OTHER")
    return str(out.resolve() if out.is_symlink() else out)


def replace_folder(beside, out):
    """`beside` takes the place of `out` in two renames: whenever this is interrupted, no half of a folder is there."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(beside, out)
    shutil.rmtree(old, ignore_errors=True)


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", default="model", help="Folder of the reward model whose reward.json gains it.")
    add("--data", default="eval/scores.jsonl", help="Calibration set: of evaluate or score; or pairs.")
    add("--out", default="scaling", help="Folder for report.html and scaling.json.")
    add(
        "--method",
        choices=[
            "standard",
            "robust",
            "linear",
            "running",
            "temperature",
            "platt",
            "isotonic",
            "lsc",
            "par",
            "quantile",
            "none",
        ],
        default="standard",
        help="How to scale; the report compares all. none: no scale.",
    )
    add(
        "--debias",
        choices=["none", "lowess", "window"],
        default="none",
        help="Take off what length alone explains, before scaling.",
    )
    add("--clip", type=within(float, 0, 0.5), default=0.0, help="Share to clip, half at each end; 0: only proposed.")
    add("--low", type=within(float, -1000000.0, 1000000.0), default=0.0, help="Lower end (linear).")
    add("--high", type=within(float, -1000000.0, 1000000.0), default=1.0, help="Upper end (linear).")
    add("--label", default="label", help="Field that says 1 for good, 0 for bad (platt, isotonic).")
    add(
        "--algorithm",
        choices=["grpo", "grpo-batch", "grpo-none", "dr-grpo", "rloo", "reinforce++", "ppo"],
        default="grpo",
        help="What the rewards are for; the advice speaks of it.",
    )
    add(
        "--rewards",
        choices=["one", "summed", "normalized"],
        default="one",
        help="One; or several, summed raw or normalized in each group.",
    )
    return parser.parse_args(argv)


# %% The calibration set
class Items(NamedTuple):
    """Every scored answer once (arrays of one length), and the pairs among them."""

    score: np.ndarray
    length: np.ndarray  # characters; nan where unknown
    label: np.ndarray  # 1 good, 0 bad, nan unknown; in a pair chosen is good
    prompt: np.ndarray  # the same number for all answers to one prompt, rising
    pairs: np.ndarray  # (pairs, 2): where chosen and where rejected stand
    won: np.ndarray  # 1 for each pair, 0.5 for a tie


def scored_rows(args):
    """Rows of a file of scores, one JSON object a line; None for a line that is none."""
    try:
        with open(args.data, "rb") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    yield None
    except OSError as error:
        refuse(f"{args.data}: {error.strerror}", "scores.jsonl of evaluate.py or score.py", "python run/evaluate.py")


def answers_of(row, label):
    """(scores, lengths, labels) of the answers in one row: lists of floats of one length, nan where unknown."""
    if "chosen" in row:
        lengths, labels = (
            [row.get("chosen_length"), row.get("rejected_length")],
            [None, None] if row.get("tie") else [1, 0],
        )
        found = [[row["chosen"], row["rejected"]], lengths, labels]
    else:
        found = [v if isinstance(v, list) else [v] for v in (row["score"], row.get("length"), row.get(label))]
        found = [part if part != [None] else part * len(found[0]) for part in found]
    numbers = [[float("nan") if x is None else float(x) for x in part] for part in found]
    if not numbers[0] or not np.isfinite(numbers[0]).all() or len({len(part) for part in numbers}) > 1:
        raise ValueError("no score, one that is no number, or lists of different lengths")
    return numbers


def collect(rows, label):
    """(Items, number of rows without a usable score), the same for every order of the rows: prompts are sorted by a
    hash of their id, rows without one by score. A million answers take about 100 MB."""
    columns, keys, sizes, won, skipped = [array("d") for _ in range(3)], array("q"), array("q"), array("d"), 0
    for row in rows:
        try:
            numbers = answers_of(row, label)
        except (TypeError, ValueError, KeyError):
            skipped += 1
            continue
        name = row.get("prompt_id")
        digest = hashlib.blake2b(repr(name).encode(), digest_size=7).digest()
        keys.append(0 if name is None else int.from_bytes(digest, "big"))
        sizes.append(len(numbers[0]))
        won.append(float("nan") if "chosen" not in row else 0.5 if row.get("tie") else 1.0)
        for column, part in zip(columns, numbers):
            column.extend(part)
    score, length, label, keys, sizes, won = map(np.asarray, (*columns, keys, sizes, won))
    start, prompt = np.cumsum(sizes) - sizes, np.empty(len(keys), int)
    turn = np.lexsort((score[start], keys))
    prompt[turn] = np.cumsum((keys[turn] == 0) | (np.diff(keys[turn], prepend=-1) != 0)) - 1
    prompt = np.repeat(prompt, sizes)
    order = np.lexsort((length, score, prompt))
    pairs = np.argsort(order)[start[~np.isnan(won), None] + [0, 1]]
    return Items(score[order], length[order], label[order], prompt[order], pairs, won[~np.isnan(won)]), skipped


# %% Fitting
class Unfit(Exception):
    """Why a method cannot be fitted: (received, expected, what to try), as refuse wants them."""


def apply_scaling(rewards, scaling, lengths):
    """Raw rewards -> the scale that `scaling` (reward.json's entry, written by scale.py) stands for; None leaves them.

    First the reward that an answer of its length has anyway is taken off (`lengths` counts the characters of each
    scored answer). Then z = (reward − reference) / scale goes through `shape`, averaged over the references: the mean
    for a z-score, 0 for a temperature, reference answers for par and quantile. To compare with answers to the very same
    prompt, call it with scaling | {"references": their raw rewards}. Depends on no other reward of the call. Returns a
    list of floats."""
    import numpy as np

    values = np.asarray(rewards, float)
    if scaling is None:
        return values.tolist()
    if scaling.get("length"):
        values = values - np.interp(lengths, *scaling["length"])
    if scaling["shape"] == "curve":
        values = np.interp(values, *scaling["points"])
    elif scaling["shape"] == "quantile":  # share of the references below; one as high counts half
        below, up_to = (np.searchsorted(np.sort(scaling["references"]), values, side) for side in ("left", "right"))
        values = (below + up_to) / 2 / len(scaling["references"])
    else:
        log_sigmoid = {"linear": None, "sigmoid": np.exp, "log_sigmoid": np.positive}[scaling["shape"]]
        each = ((values - reference) / scaling["scale"] for reference in scaling["references"])
        values = sum(log_sigmoid(-np.logaddexp(0, -z)) if log_sigmoid else z for z in each) / len(scaling["references"])
    return np.clip(values, *scaling.get("clip") or (-np.inf, np.inf)).tolist()


def update_running(scaling, rewards):
    """The scaling of method running after more rewards: mean and spread of all so far (Chan et al. 1983, eq. 1.5).

    `scaling` is None, or what an earlier call returned; saved in reward.json it goes on where it stopped."""
    import numpy as np

    n, new = len(rewards), np.asarray(rewards, float)
    scaling = scaling or {"method": "running", "shape": "linear", "references": [0.0], "scale": 1.0, "count": 0}
    seen, mean = scaling["count"], scaling["references"][0]
    total, gap = seen + n, new.mean() - mean
    squares = seen * scaling["scale"] ** 2 + n * new.var() + gap**2 * seen * n / total
    return scaling | {"references": [mean + gap * n / total], "scale": (squares / total) ** 0.5, "count": total}


def stated(difference, won=1.0):
    """(p, y) of pairs by their difference of rewards: p = σ(|difference|) for the side with the higher reward, and
    whether it won (y: 1, 0, ½ where rewards or answers tie). `won`: 1 where the first side did, ½ for a tie."""
    right = (np.sign(difference) + 1) / 2
    return expit(np.abs(difference)), won * right + (1 - won) * (1 - right)


def calibration(p, y):
    """Expected calibration error (arXiv 1706.04599, eq. 3) of probabilities p for outcomes y, and its bins as a table.

    At most ten bins of about equal count, for rewards often state little more than ½, and of 100 or more, for chance
    alone puts n outcomes 0.4 / √n off; equal p share a bin, whatever their order."""
    bins = min(10, max(1, len(p) // 100))
    place = np.searchsorted(np.quantile(p, np.arange(1, bins) / bins), p, "right")
    counts, said, came = (np.bincount(place, weights, bins) for weights in (None, p, y))
    table = [{"count": int(n), "stated": s / n, "true": c / n} for n, s, c in zip(counts, said, came) if n]
    return float(np.abs(said - came).sum() / len(p)), table


def length_curve(kind, scores, lengths, gap):
    """[characters, the reward expected at that length], 257 knots at most (arXiv 2409.17407).

    lowess: robust local regression on half of the answers around each, over the logarithm of the length.
    window: mean reward of the answers within gap / 4 characters, 20 at least; gap is the mean between a pair's two."""
    knots = np.unique(np.quantile(lengths, np.linspace(0, 1, 257), method="nearest"))
    order = np.argsort(lengths, kind="stable")
    if kind == "lowess":
        x = np.log1p(lengths[order])
        curve = lowess(scores[order], x, frac=0.5, delta=0.01 * np.ptp(x))
        expected = np.interp(np.log1p(knots), *curve.T)
    else:
        sums = np.concatenate([[0.0], np.cumsum(scores[order])])
        start = np.searchsorted(lengths[order], knots - gap / 4, "left")
        end = np.searchsorted(lengths[order], knots + gap / 4, "right")
        short = np.maximum(0, 21 - (end - start)) // 2
        start, end = np.maximum(0, start - short), np.minimum(len(scores), end + short)
        expected = (sums[end] - sums[start]) / (end - start)
    return [knots.tolist(), expected.tolist()]


def logistic(z, target):
    """Mean negative log-likelihood of targets (1, 0, or 0.5 for a tie) under σ(z)."""
    return np.mean(np.logaddexp(0, z) - target * z)


def fit_temperature(margins, won):
    """T in σ(margin / T) by maximum likelihood (Guo et al., arXiv 1706.04599)."""
    if not len(margins):
        raise Unfit("no pairs", "rows with chosen and rejected, as evaluate.py writes", "--method standard")
    if not (margins < 0).any() and not margins[won < 1].any():
        raise Unfit("every pair is in the right order", "errors, to tell how sure to be", "more or harder pairs")
    unit = np.abs(margins).mean() or 1.0
    found = minimize_scalar(lambda t: logistic(margins / unit / np.exp(t), won), bounds=(-7, 7), method="bounded")
    if found.x > 6.9:
        raise Unfit("the differences say nothing of who won", "a model that beats chance", "--method standard")
    return unit * np.exp(found.x)


def fit_platt(scores, labels):
    """(reference, scale) in P(good) = σ((score − reference) / scale) by maximum likelihood (Platt 1999)."""
    if scores[labels == 1].min() >= scores[labels == 0].max():
        raise Unfit("every good answer beats every bad one", "errors, to tell how sure to be", "more answers")
    mean, std = scores.mean(), scores.std()
    z = (scores - mean) / std
    slope, offset = minimize(lambda w: logistic(w[0] * z + w[1], labels), [1.0, 0.0], method="BFGS").x
    if slope <= 1e-3:
        raise Unfit("good answers do not score higher", "a model that beats chance", "--method standard")
    return mean - offset / slope * std, std / slope


def fit_isotonic(scores, labels):
    """The rising step curve of P(good) over the score with the least squared error, as [scores, probabilities]."""
    x, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    fitted = isotonic_regression(np.bincount(where, labels) / counts, weights=counts)
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))
    return [x[ends].tolist(), fitted.x[ends].tolist()]


def fit(items, use, method, debias, args, before=None):
    """The entry for reward.json, fitted on the answers where `use` (bool array) holds. Raises Unfit with the reason.

    before: the saved entry that running statistics go on from."""
    scaling = {"method": method, "shape": "linear", "references": [0.0], "scale": 1.0, "length": None, "clip": None}
    pairs, labels = items.pairs[use[items.pairs[:, 0]]], items.label[use]
    won, labelled = items.won[use[items.pairs[:, 0]]], ~np.isnan(labels)
    values = items.score
    if debias != "none":
        lengths = items.length[use]
        if np.isnan(lengths).any() or use.sum() < 20:
            raise Unfit("fewer than 20 lengths of answers are known", "rows with length", "--debias none")
        other = items.length[pairs] if len(pairs) else np.stack([lengths, np.roll(lengths, len(lengths) // 2)], 1)
        gap = np.abs(other[:, 0] - other[:, 1]).mean()
        scaling["length"] = length_curve(debias, values[use], lengths, gap)
        values = np.asarray(apply_scaling(values, scaling, items.length))
    scores, margins = values[use], values[pairs[:, 0]] - values[pairs[:, 1]]
    mean, std = float(scores.mean()), float(scores.std())
    levels = [args.clip / 2, 1 - args.clip / 2]
    if std == 0:
        raise Unfit("every score is the same", "scores that differ", "another --data")
    if method in PROBABILITIES and set(labels[labelled]) != {0.0, 1.0}:
        raise Unfit(f"{args.label} is not 0 for some answers and 1 for others", "both, or pairs", "--label FIELD")
    if method == "standard":
        scaling |= {"references": [mean], "scale": std}
    elif method == "robust":  # the spread of a normal distribution with these quartiles
        low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75]).tolist()
        scaling |= {"references": [middle], "scale": (high - low) / 1.349}
    elif method == "linear":  # the ends of what is observed onto [low, high], as in NeMo-RL
        low, high = np.quantile(scores, levels).tolist()
        slope = (high - low) / (args.high - args.low)
        scaling |= {"references": [low - args.low * slope], "scale": slope, "clip": [args.low, args.high]}
    elif method == "running":
        state = update_running(before, scores)
        scaling |= {name: state[name] for name in ("references", "scale", "count")}
    elif method == "temperature":
        scaling["scale"] = float(fit_temperature(margins, won))
    elif method == "platt":
        reference, scale = fit_platt(scores[labelled], labels[labelled])
        scaling |= {"shape": "sigmoid", "references": [float(reference)], "scale": float(scale)}
    elif method == "isotonic":
        scaling |= {"shape": "curve", "points": fit_isotonic(scores[labelled], labels[labelled])}
    elif method == "lsc":  # the 85th percentile of a normal distribution, as arXiv 2402.00742
        scaling |= {"shape": "log_sigmoid", "references": [mean + 1.0364 * std]}
    elif method == "par":  # arXiv 2502.18770, which stops gaining at ten references
        scaling |= {"shape": "sigmoid", "references": np.quantile(scores, (np.arange(10) + 0.5) / 10).tolist()}
    elif method == "quantile":
        scaling |= {"shape": "quantile", "references": np.quantile(scores, (np.arange(256) + 0.5) / 256).tolist()}
    if scaling["scale"] == 0:
        raise Unfit("most scores are the same", "quantiles that differ", "--method standard")
    if args.clip and method not in ("linear", *WITHIN_0_1):
        observed = apply_scaling(items.score[use], scaling, items.length[use])
        scaling["clip"] = np.quantile(observed, levels).tolist()
    return scaling


# %% What a method does to this calibration set
def predictions(items, values, method):
    """(p, y): what values say, and what came. P(good) of each labelled answer for platt and isotonic, P(chosen wins) as
    σ(difference) of each pair for the others, told from the side that it takes for the winner. None without any."""
    if method in PROBABILITIES:
        known = ~np.isnan(items.label)
        return (values[known], items.label[known]) if known.any() else None
    return stated(values[items.pairs[:, 0]] - values[items.pairs[:, 1]], items.won) if len(items.pairs) else None


def rank_correlation(a, b):
    """Spearman's, or None where one of the two is constant or unknown."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else None


def compare(items, method, debias, args):
    """(one row of the report, rewards after): a method before and after. Calibration error, accuracy and length
    correlation come from prompts that its parameters were not fitted on (two folds), and are None where a fold is too
    small to fit; ranks and clipping from the fit on everything."""
    row = {"method": " + ".join(part for part in (method, debias) if part != "none") or "none"}
    try:
        scaling = fit(items, np.ones(len(items.score), bool), method, debias, args)
    except Unfit as reason:
        return row | {"not possible": reason.args[0], "it needs": reason.args[1]}, None
    values = np.asarray(apply_scaling(items.score, scaling, items.length))
    apart, known, side = values.copy(), True, np.random.default_rng(0).permutation(items.prompt[-1] + 1)[items.prompt]
    halves = [side % 2 == 0, side % 2 == 1]
    try:
        for half in halves:
            apart[half] = apply_scaling(items.score[half], fit(items, ~half, method, debias, args), items.length[half])
    except Unfit:
        known = False
    raw = expit(items.score) if method in PROBABILITIES else items.score
    before, after = predictions(items, raw, method), predictions(items, apart, method)
    low, high = scaling["clip"] or {
        "quantile": (0, 1),
        "curve": values[[items.score.argmin(), items.score.argmax()]],
    }.get(scaling["shape"], (-np.inf, np.inf))
    wins = np.sign(apart[items.pairs[items.won == 1]] @ [1, -1]) / 2 + 0.5
    by_length = [rank_correlation(apart[half], items.length[half]) for half in halves]
    factor, residue = advantage_change(items, values, args.algorithm, args.rewards)
    return row | {
        "calibration error before": before and calibration(*before)[0],
        "calibration error after": calibration(*after)[0] if known and after else None,
        "rank agreement": rank_correlation(items.score, values),
        "pair accuracy": float(wins.mean()) if known and len(wins) else None,
        "share clipped": float(((values <= low) | (values >= high)).mean()),
        "length correlation before": rank_correlation(items.score, items.length),
        "length correlation after": sum(by_length) / 2 if known and None not in by_length else None,
        "advantages": "changed" if residue > 0.02 else "no-op" if abs(factor - 1) < 0.02 else f"times {factor:.3g}",
        "advantage_factor": factor,
        "advantage_residue": residue,
    }, apart


# %% What it means for an algorithm
EQUAL = "Adding one constant to all rewards and multiplying them change nothing"
CENTRED = "Adding a constant, even a different one for each prompt, changes nothing; multiplying scales every advantage"
ADAM = "Adam takes a common factor out again, up to the clipping of gradients, so that the learning rate stays"
WEIGHS = f"so a scale weighs the reward against the KL term. {ADAM}; set beta for the scale, or method standard, with "
WEIGHS += "which a beta found once holds for the next reward model"
ADVICE = {
    "grpo": f"{EQUAL}, nor does another constant for each prompt: each group is divided by its own spread (+ 1e-4). "
    "Keep the scale as it is (method none, or temperature where the chances are of use), beta and learning rate too.",
    "grpo-batch": f"{EQUAL}. Constants that differ between prompts widen the spread of the batch, by which all is "
    "divided: they shrink every advantage by one factor. Keep the scale as it is; groups that spread wider weigh more, "
    "where they should not, set scale_rewards to group.",
    "grpo-none": f"{CENTRED}, {WEIGHS}.",
    "dr-grpo": f"{CENTRED}, {WEIGHS}. As for GRPO without scaling: the two differ in how tokens are averaged.",
    "rloo": f"{CENTRED}, {WEIGHS}. The KL term is part of the reward, and advantages are k / (k - 1) times those of "
    "Dr. GRPO.",
    "reinforce++": f"{EQUAL}, but constants that differ between prompts stay in the advantages: an easy prompt gets "
    "high ones whatever the answer. Where the KL term is part of the reward, a scale decides how much it weighs: set "
    "method standard, then beta.",
    "ppo": "With a critic that has learned the rewards, adding a constant and multiplying change nothing, for "
    "advantages are whitened. With one that starts at zero, as here, a constant changes them until it is learned: "
    "set method standard, which centres the rewards. A scale decides how much the KL term in the reward weighs: set "
    "beta after it.",
}
SEVERAL = {
    "summed": "Several rewards are summed before they are normalised: the spread of each is its weight, so multiplying "
    "one changes the advantages. Set method standard (robust with outliers) for each of them, then the weights.",
    "normalized": "Several rewards are normalised in their groups before they are summed: adding to one of them or "
    "multiplying it changes nothing. Set the weights alone.",
}
OTHER = "Clipping, sigmoids, ranks and debiasing are neither adding nor multiplying: they change what a policy learns."


def what_to_set(compared, args):
    """Sentences that name a parameter to set, from the figures of this calibration set."""
    rows, told = {key: row for key, (row, _) in compared.items()}, []
    before, after = (rows["temperature", args.debias].get(f"calibration error {when}") for when in ("before", "after"))
    if after is not None and before > after + 0.01:
        told += [
            f"σ(difference) is off by {before:.3f}, with method temperature by {after:.3f}: set it where thresholds, "
            "chances or sums with other rewards use the numbers."
        ]
    for debias in ("lowess", "window"):
        row = rows["none", debias]
        before, after = (row.get(f"length correlation {when}") for when in ("before", "after"))
        if after is not None and abs(before) > 0.2 and abs(after) < abs(before) / 2:
            right = [rows["none", "none"]["pair accuracy"], row["pair accuracy"]]
            cost = f", pair accuracy goes from {right[0]:.3f} to {right[1]:.3f}" if None not in right else ""
            told += [f"Reward and length correlate by {before:+.2f}; debias {debias} leaves {after:+.2f}{cost}."]
            break
    return told


def advantages(rewards, algorithm, normalized=False):
    """Advantages (flat array) of rewards (rewards per answer, prompts, answers), without a KL term.

    grpo, rloo and normalized as in TRL 1.16, reinforce++ as in arXiv 2501.03262; ppo: generalised advantages (λ = 0.95,
    answers of 16 tokens) under a critic that is zero, whitened over the batch's tokens."""

    def normal(r, axis=None):
        return (r - r.mean(axis, keepdims=True)) / (r.std(axis, ddof=1, keepdims=True) + 1e-4)

    if normalized:
        return normal(sum(normal(reward, 1) for reward in rewards)).ravel()
    rewards = np.sum(rewards, 0)
    centred, k = rewards - rewards.mean(1, keepdims=True), rewards.shape[1]
    if algorithm == "grpo":
        return normal(rewards, 1).ravel()
    if algorithm == "grpo-batch":
        return (centred / (rewards.std(ddof=1) + 1e-4)).ravel()
    if algorithm == "reinforce++":
        return normal(rewards).ravel()
    if algorithm == "ppo":
        return normal(rewards[..., None] * 0.95 ** np.arange(15, -1, -1)).ravel()
    return centred.ravel() * (k / (k - 1) if algorithm == "rloo" else 1)


def advantage_change(items, values, algorithm, several):
    """(factor, residue): advantages after ≈ factor · advantages before; residue is the share of their norm beyond that.

    Groups are the answers to one prompt where the set has three or more of them, else eight answers at random; 1,000 at
    most. A second reward, where there are several, is drawn from a standard normal distribution."""
    rng, sizes = np.random.default_rng(0), np.bincount(items.prompt)
    k = int(np.argmax(np.bincount(sizes)[3:], axis=0)) + 3 if sizes.max() > 2 else 8
    if sizes.max() > 2:
        chosen = np.flatnonzero(sizes[items.prompt] == k)[: 1000 * k]
    else:
        k = min(k, len(values))
        chosen = rng.permutation(len(values))[: min(1000, len(values) // k) * k]
    before, after = (np.asarray(v)[chosen].reshape(1, -1, k) for v in (items.score, values))
    if several != "one":
        second = rng.normal(size=before.shape)
        before, after = np.concatenate([before, second]), np.concatenate([after, second])
    old, new = (advantages(r, algorithm, several == "normalized") for r in (before, after))
    factor = float(old @ new / max(old @ old, 1e-30))
    return factor, float(np.linalg.norm(new - factor * old) / max(np.linalg.norm(new), 1e-30))


# %% The report
def chart(title, x="", y=""):
    """(Figure, Axes) in the look of every report: `title` is also what stands for the picture where it is not seen."""
    import matplotlib

    matplotlib.rcParams["text.parse_math"] = False  # a name with dollars is a name
    figure = Figure(figsize=(7.6, 3), layout="constrained", label=title)
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e5e7eb")
    return figure, axes


def html_table(rows):
    """A list of dicts as a table: numbers to the right, whole ones with separators, others with three decimals."""

    def cell(tag, text, value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and text is value:
            text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        text = "" if text is None else str(text)
        kind = " class=n" if number else " class=w" * (len(text) > 60)
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    first = rows[0] if rows else {"nothing to show": ""}
    lines = [[cell("th", name, value) for name, value in first.items()]]
    lines += [[cell("td", value, value) for value in row.values()] for row in rows]
    return f"<div><table>{''.join('<tr>' + ''.join(line) + '</tr>' for line in lines)}</table></div>"


def html_report(title, parts):
    """A self-contained HTML page (str): no script, nothing loaded from elsewhere, every text escaped.

    A part is a paragraph (str), a heading ("# …"), a verdict ("! …"), a table (list of dicts) or a picture (Figure)."""
    body = []
    for part in parts:
        if isinstance(part, str):
            tag = {"# ": "h2", "! ": "strong"}.get(part[:2], "p")
            body.append(f"<{tag}>{html.escape(part[2:] if tag != 'p' else part)}</{tag}>")
        elif isinstance(part, list):
            body.append(html_table(part))
        else:
            image = io.BytesIO()
            part.savefig(image, format="png", dpi=144)
            source = base64.b64encode(image.getvalue()).decode()
            body.append(f'<img alt="{html.escape(part.get_label())}" src="data:image/png;base64,{source}">')
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2937;"
        "background:#fff;overflow-wrap:break-word}h1,h2{line-height:1.2;color:#111827}h2{margin:2.5rem 0 .6rem;"
        "font-size:1.3rem}p{max-width:46rem;margin:.6rem 0}img{max-width:100%;margin:.8rem 0}div{overflow-x:auto;"
        "margin:.8rem 0}table{border-collapse:collapse;font-size:14px}td,th{padding:.35rem .8rem;text-align:left;"
        "border-bottom:1px solid #e5e7eb;vertical-align:top;white-space:pre-wrap;min-width:3rem;max-width:30rem}"
        ".w{overflow-wrap:anywhere}"
        "th{background:#f3f4f6;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums;"
        "white-space:nowrap}strong{display:block;margin:.5rem 0;padding:.7rem 1rem;border-left:4px solid #b45309;"
        "background:#fff7ed;font-weight:600;white-space:pre-line}"
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><style>{style}</style><h1>{html.escape(title)}</h1>{"".join(body)}</html>\n'
    )
    return page.encode("utf-8", "replace").decode()  # half a character is shown as ?


def draw_means(axes, x, y, count, **style):
    """Mean of y over mean of x, in `count` parts of equal size along x."""
    parts = np.array_split(np.argsort(x, kind="stable"), min(count, len(x)))
    axes.plot(*([column[part].mean() for part in parts] for column in (x, y)), marker="o", **style)


def pictures(items, apart, method, proposed):
    """Rewards before and after, with the clip bounds; how well they predict; how they follow length."""
    sides = [(items.score, "raw", "tab:blue"), (apart, "scaled", "tab:orange")]
    figure, axes = chart("Rewards before and after; the dotted clip bounds hold 99 %", "reward", "share of answers")
    for values, name, colour in sides:
        axes.hist(values, 60, weights=np.full(len(values), 1 / len(values)), alpha=0.6, label=name, color=colour)
    for bound in proposed:
        axes.axvline(bound, color="black", linestyle=":", linewidth=1)
    yield figure, axes
    if predictions(items, apart, method):
        figure, axes = chart("Reliability: on the diagonal a probability means what it says", "predicted", "came true")
        low = 0 if method in PROBABILITIES else 0.5
        axes.plot([low, 1], [low, 1], color="grey", linewidth=1)
        for values, name, colour in sides:
            raw = expit(values) if name == "raw" and method in PROBABILITIES else values
            bins = calibration(*predictions(items, raw, method))[1]
            axes.plot([b["stated"] for b in bins], [b["true"] for b in bins], marker="o", color=colour, label=name)
        yield figure, axes
    if not np.isnan(items.length).any():
        figure, axes = chart("Mean reward by length, in standard deviations", "characters of the answer", "reward")
        for values, name, colour in sides:
            z = (values - values.mean()) / (values.std() or 1)
            draw_means(axes, items.length, z, 20, color=colour, label=name)
        axes.set_xscale("symlog")
        yield figure, axes


def write_scaling(model, scaling):
    """Put the entry into reward.json of a model and of its merged copy: beside, then renamed. Everything else stays."""
    for path in (model / "reward.json", model / "merged" / "reward.json"):
        if path.parent.is_dir():
            reward = json.loads(path.read_text()) if path.exists() else {}
            beside = path.with_name(path.name + ".partial")
            beside.write_text(json.dumps(reward | {"scaling": scaling}, indent=2))
            os.replace(beside, path)


def as_line(row, algorithm):
    """A row of compare as short text by column."""
    pairs = {
        name: (row[f"{name} before"], row[f"{name} after"]) for name in ("calibration error", "length correlation")
    }
    return {
        "method": row["method"],
        **{name: "unknown" if None in both else "{:.3f} → {:.3f}".format(*both) for name, both in pairs.items()},
        "rank agreement": row["rank agreement"],
        "pair accuracy": row["pair accuracy"],
        "clipped": f"{row['share clipped']:.1%}",
        f"{algorithm} advantages": row["advantages"],
    }


def refuse_invalid(args):
    """Combinations that mean nothing, each with its reason."""
    if not Path(args.model).is_dir():
        refuse(f"{args.model} is no folder", "the folder of the model, to write into", "--model FOLDER")
    if args.method == "linear" and args.low >= args.high:
        refuse(f"--low {args.low} --high {args.high}", "low below high", "--low 0 --high 1")
    if args.clip and args.method in WITHIN_0_1:
        refuse(f"--clip with {args.method}, whose values lie between 0 and 1 already", "no clip", "--clip 0")
    reasons = dict.fromkeys(
        ("lsc", "par", "quantile"), "answers to one prompt may stand in as references, without length"
    )
    reasons["running"] = "the next set would get another length curve, and the state would mix them"
    if args.debias != "none" and args.method in NOT_DEBIASED:
        refuse(f"--debias with {args.method}: {reasons[args.method]}", "one of them", "--debias none")


def main(args):
    args.out = own_folder(args.out, "scaling.json")
    refuse_invalid(args)
    items, skipped = collect(scored_rows(args), args.label)
    if not len(items.score) or items.prompt[-1] < 1:
        refuse(f"{args.data}: {len(items.score)} scores, {skipped} rows without", "two rows or more", "another --data")
    with open(args.data, "rb") as file:
        digest = hashlib.sha256()
        for part in iter(lambda: file.read(2**20), b""):
            digest.update(part)
        digest = digest.hexdigest()
    path = Path(args.model) / "reward.json"
    try:
        before = (json.loads(path.read_text()) if path.exists() else {}).get("scaling") or {}
    except (ValueError, AttributeError) as error:
        refuse(f"{path}: {error}", "the JSON that train.py wrote", "python run/train.py")
    before = before if args.method == before.get("method") == "running" else None
    earlier = before["fitted_on"]["sha256"] if before else []
    if digest in earlier:
        refuse(f"{args.data} is part of the running statistics already", "rewards not yet counted", "another --data")
    try:
        scaling = fit(items, np.ones(len(items.score), bool), args.method, args.debias, args, before)
    except Unfit as reason:
        refuse(f"--method {args.method} --debias {args.debias} on {args.data}: {reason.args[0]}", *reason.args[1:])
    levels = (0.01, 0.25, 0.5, 0.75, 0.99)
    scaling["fitted_on"] = {
        "data": args.data,
        "sha256": [*earlier, digest],
        "answers": len(items.score),
        "pairs": len(items.pairs),
        "labels": int((~np.isnan(items.label)).sum()),
        "skipped": skipped,
        "mean": float(items.score.mean()),
        "std": float(items.score.std()),
        "quantiles": dict(zip(map(str, levels), np.quantile(items.score, levels).tolist())),
        "rendered_by": RENDERED_BY,
    }
    if (args.method, args.debias, args.clip) == ("none", "none", 0):
        scaling = None
    with_debias = [(method, "none" if method in NOT_DEBIASED else args.debias) for method in METHODS]
    bare = [("none", debias) for debias in ("none", "lowess", "window")]
    candidates = dict.fromkeys([*bare, *with_debias, (args.method, args.debias)])
    compared = {candidate: compare(items, *candidate, args) for candidate in candidates}
    chosen, apart = compared[args.method, args.debias]
    values = apply_scaling(items.score, scaling, items.length)
    proposed = np.quantile(values, [0.005, 0.995]).tolist()
    advice = [ADVICE[args.algorithm]] * (args.rewards != "normalized") + [SEVERAL.get(args.rewards), OTHER]
    advice = [text for text in [*advice, *what_to_set(compared, args)] if text]
    result = {"scaling": scaling, "proposed_clip": proposed, "algorithm": args.algorithm, "rewards": args.rewards}
    result |= {"advice": advice, "methods": [row for row, _ in compared.values()]}
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "scaling.json").write_text(json.dumps(result, indent=2) + "\n")
    shown = [as_line(row, args.algorithm) for row, _ in compared.values() if "advantages" in row]
    impossible = [row for row, _ in compared.values() if "not possible" in row]
    told = ", ".join(f"{k} {v}" for k, v in as_line(chosen, args.algorithm).items() if isinstance(v, str))
    parts = [
        f"! {told}",
        f"Calibration set: {args.data}, {len(items.score)} answers, {len(items.pairs)} pairs, {skipped} rows without a "
        f"score. Proposed clip bounds, which hold 99 % of what is observed: {proposed[0]:.3g} to {proposed[1]:.3g}.",
        "# Every method on this set",
        "Calibration error before is evaluate's without a scaling. After it, and pair accuracy and length correlation, "
        "are from prompts that nothing was fitted on; evaluate, run again, counts those that were fitted on too.",
        shown,
        *([impossible] if impossible else []),
        f"# What it means for {args.algorithm}, {args.rewards} reward{'s' * (args.rewards != 'one')}",
        *advice,
        "# The chosen method",
        *(figure for figure, axes in pictures(items, apart, args.method, proposed) if axes.legend(loc="best")),
    ]
    (beside / "report.html").write_text(html_report("Scale of the reward", parts), encoding="utf-8")
    replace_folder(beside, Path(args.out))
    write_scaling(Path(args.model), scaling)
    print(told, *advice, sep="\n")
    print(f"written to {path}; {args.out}/report.html compares the methods")
    print("eval/report.html describes unscaled rewards; for scaled ones: python run/evaluate.py --out eval-scaled")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
