# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
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

# % if source == "pairs"
import logging
import re
from types import MethodType

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import peft
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from pyarrow.parquet import ParquetFile
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# % endif

RENDERED_BY = {{rendered_by}}
METHODS = ("standard", "robust", "linear", "running", "temperature", "platt", "isotonic", "lsc", "par", "quantile")
NOT_DEBIASED = ("running", "lsc", "par", "quantile")
PROBABILITIES = ("platt", "isotonic")  # of an answer being good; the others leave rewards, whose differences count
WITHIN_0_1 = (*PROBABILITIES, "par", "quantile")


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


{{shared("replace_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    # % if source == "pairs"
    yes_or_no = {"action": argparse.BooleanOptionalAction}
    # % endif
    {{flags}}
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


# % if source == "scores"
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


# % else
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


def scored_rows(args):
    """Formatted pairs of a parquet file with the model's rewards, a part of the file at a time."""
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    max_length, tolerance = args.max_length or reward.get("max_length", 2048), 1e-4
    try:
        batches = ParquetFile(args.data).iter_batches(1024)
    except (OSError, ValueError) as error:
        refuse(f"{args.data}: {str(error)[:200]}", "a parquet file written by format.py", "python run/format.py")
    for number, batch in enumerate(batches):
        rows, sides = batch.to_pylist(), ("chosen", "rejected")
        groups = [[encode(row["prompt"] + row[side], tokenizer, max_length)[0] for side in sides] for row in rows]
        if number == 0:
            tolerance = tolerance if model.dtype == torch.float32 else 5e-2
            print(try_packing(model, groups[:4], args.packing, tolerance), file=sys.stderr)
        scores = score_ids(model, groups, args.batch_tokens).view(-1, 2).tolist()
        for row, both in zip(rows, scores):
            lengths = {f"{side}_length": sum(len(m["content"]) for m in row[side]) for side in sides}
            yield {"prompt_id": row.get("prompt_id"), "tie": row.get("tie"), **dict(zip(sides, both)), **lengths}


# % endif
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


{{shared("apply_scaling")}}


{{shared("update_running")}}


{{shared("calibration")}}


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
{{shared("advice")}}


# %% The report
{{shared("html_report")}}


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
    # % if source == "pairs"
    load_dotenv(find_dotenv(usecwd=True))
    # % endif
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
{{shared("run")}}
