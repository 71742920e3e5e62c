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
# ]
# ///
"""Ensemble: combine several reward models' scores of the same answers, with an uncertainty for each answer.

Reads the files that score.py, bulk.py (its parts, joined) or evaluate.py wrote, one from each model, on the same rows.
Each model's rewards are first brought to mean 0 and standard deviation 1 on these rows, because two models have no
common scale. They are combined as the mean, the minimum (WCO) or the mean less λ times the variance (UWO; all three
arXiv 2310.02743). Writes scores.jsonl in the form of the first file, so that scale.py can read it, and summary.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

try:
    import numpy as np
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

import math
from array import array

try:
    from scipy.stats import spearmanr
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

RENDERED_BY = "reward 0.1.0: reward.py render ensemble --of scores"


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
    yes_or_no = {"action": argparse.BooleanOptionalAction}
    add(
        "--data",
        nargs="*",
        default=["scores.jsonl", "scores-2.jsonl"],
        help="Scores of the same rows, a file a model (scores).",
    )
    add(
        "--combine",
        choices=["mean", "min", "uncertainty"],
        default="uncertainty",
        help="Mean, worst (WCO), or mean less the variance (UWO).",
    )
    add(
        "--penalty",
        type=within(float, 0, 100),
        default=0.5,
        help="How often uncertainty takes the variance off (scores).",
    )
    add("--align", default=True, help="Bring each to mean 0, spread 1 on these rows (scores).", **yes_or_no)
    add("--out", default="ensemble", help="Folder for scores.jsonl and summary.json; or the model.")
    return parser.parse_args(argv)


# %% Scores in
def rows_of(path):
    """Yield the rows of a file of scores."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    refuse(f"{path} line {number} is no JSON object", "scores.jsonl of score.py", "python run/score.py")
                yield row
    except OSError as error:
        refuse(f"{path}: {error.strerror}", "a file of scores", "python run/score.py --model MODEL --out FILE")


def values_of(row):
    """Rewards of the answers in a row, scaled where there is a scaling: a list, empty where the row has none."""
    if "chosen" in row:
        return [row["chosen"], row["rejected"]]
    found = row.get("scaled", row.get("score"))
    return found if isinstance(found, list) else [] if found is None else [found]


def collect(path):
    """(rewards of all answers, answers in each row, hash of what was scored, whether every reward is scaled)."""
    rewards, sizes, about, scaled = array("d"), array("q"), hashlib.sha256(), True
    for number, row in enumerate(rows_of(path), 1):
        found = values_of(row)
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in found):
            refuse(f"{path} row {number} holds a reward that is no finite number", "numbers", "score it again")
        rewards.extend(found)
        sizes.append(len(found))
        scaled &= not found or "scaled" in row
        names = ("row", "pair", "length", "chosen_length", "rejected_length")
        about.update(repr([row.get(name) for name in names]).encode())
    return np.asarray(rewards), np.asarray(sizes), about.hexdigest(), scaled


# %% One score out of several
def combined(parts, args):
    """Rewards of several models (models, answers) -> those of the ensemble (answers)."""
    if args.combine == "min":
        return parts.min(0)
    return parts.mean(0) - (args.penalty * parts.var(0) if args.combine == "uncertainty" else 0)


def lines_of(path, rewards, unsure):
    """Rows of the first file with the ensemble's rewards and the spread between its members."""
    start = 0
    for row in rows_of(path):
        n = len(values_of(row))
        both, start = (rewards[start : start + n].tolist(), unsure[start : start + n].tolist()), start + n
        kept = {k: v for k, v in row.items() if k not in ("score", "scaled", "best")}
        if n and "chosen" in row:
            kept |= {"chosen": both[0][0], "rejected": both[0][1], "uncertainty": both[1]}
        elif n and isinstance(row["score"], list):
            kept |= {"score": both[0], "uncertainty": both[1], "best": int(np.argmax(both[0]))}
        elif n:
            kept |= {"score": both[0][0], "uncertainty": both[1][0]}
        yield kept


def main(args):
    args.out = own_folder(args.out, "summary.json")
    if len(args.data) < 2:
        refuse(f"--data {' '.join(args.data)}", "two files of scores or more", "--data scores.jsonl scores-2.jsonl", 2)
    found = [collect(path) for path in args.data]
    sizes = found[0][1]
    for path, (_, others, about, scaled) in zip(args.data, found):
        if about != found[0][2] or len(others) != len(sizes) or (others != sizes).any():
            told = f"{path} and {args.data[0]} are about other rows or answers"
            refuse(told, "scores of one file of answers by each model", "score the same --data with each model")
        if not args.align and not scaled:
            refuse(f"--no-align, but {path} is not scaled", "rewards on one scale", "--align, or run/scale.py first")
    parts = np.stack([rewards for rewards, *_ in found])
    if not parts.size or (np.ptp(parts, axis=1) == 0).any():
        refuse(f"{parts.shape[1]} rewards, of one model all the same", "rewards that differ", "other --data")
    if args.align:
        parts = (parts - parts.mean(1, keepdims=True)) / parts.std(1, keepdims=True)
    rewards, unsure = combined(parts, args), parts.std(0)
    ranks = [float(spearmanr(one, rewards).statistic) for one in parts]
    summary = {"combine": args.combine, "penalty": args.penalty, "aligned": args.align, "rows": len(sizes)}
    summary |= {"answers": parts.shape[1], "uncertainty": float(unsure.mean()), "rendered_by": RENDERED_BY}
    summary["members"] = [{"file": f, "rank_correlation": r} for f, r in zip(args.data, ranks)]
    if "chosen" in next(rows_of(args.data[0])):
        lead = parts[:, ::2] - parts[:, 1::2]
        alike = (lead > 0).all(0) | (lead < 0).all(0)
        right = [(d > 0) + (d == 0) / 2 for d in (*lead, rewards[::2] - rewards[1::2])]
        for member, share in zip([*summary["members"], summary], right):
            member["accuracy"] = float(share.mean())
        summary["all_agree"] = float(alike.mean())
        for name, where in (("accuracy_where_all_agree", alike), ("accuracy_elsewhere", ~alike)):
            summary[name] = float(right[-1][where].mean()) if where.any() else None
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with open(beside / "scores.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines_of(args.data[0], rewards, unsure))
    (beside / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    replace_folder(beside, Path(args.out))
    for member in summary["members"]:
        share = f", accuracy {member['accuracy']:.3f}" if "accuracy" in member else ""
        print(f"{member['file']}: rank correlation with the ensemble {member['rank_correlation']:.3f}{share}")
    if "accuracy" in summary:
        print(f"{args.combine} of all: accuracy {summary['accuracy']:.3f}")
    if summary.get("accuracy_elsewhere") is not None and summary["accuracy_where_all_agree"] is not None:
        told = f"{summary['accuracy_where_all_agree']:.3f} of those, {summary['accuracy_elsewhere']:.3f} of the others"
        print(f"all prefer the same answer in {summary['all_agree']:.1%} of the pairs: right in {told}")
    print(f"written to {args.out}/: scores.jsonl with an uncertainty for each answer, summary.json")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
