# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
# % if of == "scores"
"""Ensemble: combine several reward models' scores of the same answers, with an uncertainty for each answer.

Reads the files that score.py, bulk.py (its parts, joined) or evaluate.py wrote, one from each model, on the same rows.
Each model's rewards are first brought to mean 0 and standard deviation 1 on these rows, because two models have no
common scale. They are combined as the mean, the minimum (WCO) or the mean less λ times the variance (UWO; all three
arXiv 2310.02743). Writes scores.jsonl in the form of the first file, so that scale.py can read it, and summary.json.
"""

# % else
"""Ensemble: the average of the weights of several reward models (WARM, arXiv 2401.12187), at the price of one.

It may be done where the models are fine-tunes of one base with one head, so this checks: the same architecture, base,
tokenizer and chat template, heads that point the same way, and that the average is no worse than its members on
held-out pairs. Writes a model like train.py's, with probes of its own; its rewards have no scaling yet.
"""

# % endif

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

# % if of == "scores"
import math
from array import array

try:
    from scipy.stats import spearmanr
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

# % else
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


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


{{shared("replace_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    # % if of == "scores"
    yes_or_no = {"action": argparse.BooleanOptionalAction}
    # % endif
    {{flags}}
    return parser.parse_args(argv)


# % if of == "scores"
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


# % else
# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


# %% Whether it may be done
def differences(first, other):
    """What keeps two models (model, tokenizer, reward) from being averaged: [(what, a, b)]."""
    (model, tokenizer, reward), (model_2, tokenizer_2, reward_2) = first, other
    shapes = [{name: tuple(t.shape) for name, t in m.state_dict().items()} for m in (model, model_2)]
    pairs = {
        "architecture": (type(model).__name__, type(model_2).__name__),
        "shapes of the weights": shapes,
        "base model": (reward.get("base_model"), reward_2.get("base_model")),
        "vocabulary": (tokenizer.get_vocab(), tokenizer_2.get_vocab()),
        "chat template": (tokenizer.chat_template, tokenizer_2.chat_template),
    }
    return [what for what, (a, b) in pairs.items() if a != b]


def share_right(model, tokenizer, max_length, pairs, batch_tokens):
    """Array with 1 for each pair in the right order, ½ for a tie."""
    sides = ("chosen", "rejected")
    ids = [[encode(pair["prompt"] + pair[side], tokenizer, max_length)[0] for side in sides] for pair in pairs]
    scores = score_ids(model, ids, batch_tokens).view(-1, 2).numpy()
    return (np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2


def read_pairs(path, limit):
    """The first pairs of a parquet file, without labelled ties."""
    try:
        batches = ParquetFile(path).iter_batches(limit)
        return [pair for pair in next(batches).to_pylist() if not pair.get("tie")]
    except (OSError, ValueError, StopIteration) as error:
        refuse(f"{path}: {str(error)[:200]}", "a parquet file written by format.py", "python run/format.py")


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "reward.json")
    if len(args.models) < 2:
        refuse(f"--models {' '.join(args.models)}", "two models or more", "--models model model-2", 2)
    if Path(args.out).resolve() in [Path(path).resolve() for path in args.models]:
        refuse(f"--out {args.out}, one of the models", "a folder of its own", "--out OTHER")
    pairs = read_pairs(args.pairs, args.limit) if args.pairs else []
    first, mean, heads, right, limits = None, {}, [], [], []
    for path in args.models:
        model, tokenizer, reward = load_reward_model(path, "float32", dequantize=True)
        model = keep_float32(model.merge_and_unload() if isinstance(model, peft.PeftModel) else model)
        if first and (different := differences(first, (model, tokenizer, reward))):
            told = f"{path} and {args.models[0]} differ in {', '.join(different)}"
            refuse(told, "fine-tunes of one base", "average those alone; scores of others: reward.py render ensemble")
        first = first or (model, tokenizer, reward)
        heads.append(reward_heads(model)[-1].weight.detach().float().flatten().cpu())
        if (alike := float(torch.nn.functional.cosine_similarity(heads[0], heads[-1], dim=0))) < args.least_cosine:
            told = f"the heads of {args.models[0]} and {path} point elsewhere (cosine {alike:.2f})"
            refuse(told, f"{args.least_cosine} or more, as from one train.seed", "train with the same train.seed")
        limits.append(reward.get("max_length", 2048))
        if pairs:
            right.append(share_right(model, tokenizer, limits[-1], pairs, args.batch_tokens))
        for name, tensor in model.state_dict().items():
            part = tensor.float() / len(args.models) if tensor.is_floating_point() else tensor
            mean[name] = mean[name] + part if name in mean and tensor.is_floating_point() else part.clone()
    _, tokenizer, reward = first
    model.load_state_dict(mean)
    if (limit := min(limits)) < max(limits):
        print(f"the members read {', '.join(map(str, limits))} tokens; the average reads {limit}")
    facts = {"averaged": args.models, "pairs": len(pairs)}
    if pairs:
        ours = share_right(model, tokenizer, limit, pairs, args.batch_tokens)
        lead = ours - np.mean(right, axis=0)
        facts |= {"accuracy": float(ours.mean()), "members": [float(r.mean()) for r in right]}
        each = ", ".join(f"{share:.3f}" for share in facts["members"])
        told = f"accuracy {facts['accuracy']:.3f} on {len(pairs)} pairs, the members' {each}"
        if lead.mean() < -2 * lead.std() / len(lead) ** 0.5:
            refuse(f"the average is worse than its members: {told}", "at least their mean", "use one of them alone", 4)
        print(told)
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    dtype = reward.get("dtype", "float32")
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    asked = [probe["messages"] for probe in reward.get("probes", [])]
    ids = [encode(messages, tokenizer, limit)[0] for messages in asked]
    scores = score_ids(model.float(), [[i] for i in ids], args.batch_tokens).tolist()
    probes = [{"messages": m, "ids": fingerprint(i), "score": s} for m, i, s in zip(asked, ids, scores)]
    reward = reward | {"rendered_by": RENDERED_BY, "scaling": None, "quantization": None, "ensemble": facts}
    reward |= {"max_length": limit, "probes": probes, "dtype": dtype}
    (beside / "reward.json").write_text(json.dumps(reward, indent=2))
    load_reward_model(beside, dtype)
    replace_folder(beside, Path(args.out))
    print(f"written to {args.out}: the average of {len(args.models)} models; its rewards have no scaling yet")


# % endif
# %% Run
{{shared("run")}}
