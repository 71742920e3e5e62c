# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Evaluate: how often a reward model prefers the better answer, exactly, with intervals, next to the length baseline.

Writes metrics.json, and scores.jsonl with both rewards of every pair. Every pair counts once, whatever the batch size.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import re
import shutil
import statistics
import sys
from pathlib import Path
from types import MethodType

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import peft
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from pyarrow.parquet import read_table
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args([] if "ipykernel" in sys.modules else argv)


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


{{shared("accuracy")}}


# %% Evaluation
def read_pairs(path):
    """Formatted pairs of a parquet file, with the columns that format.py writes."""
    try:
        pairs = read_table(path, columns=["prompt", "chosen", "rejected", "source"]).to_pylist()
    except (OSError, ValueError) as error:
        refuse(f"{path}: {str(error)[:200]}", "a parquet file written by format.py", "python run/format.py")
    if not pairs:
        refuse(f"{path} holds no pairs", "at least one", "python run/format.py --eval-fraction 0.3")
    return pairs


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    own_folder(args.out, "metrics.json")
    pairs = read_pairs(args.data)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    max_length = args.max_length or reward.get("max_length", 2048)
    encoded = [[encode(p["prompt"] + p[side], tokenizer, max_length) for side in ("chosen", "rejected")] for p in pairs]
    cut = [any(lost for _, lost in pair) for pair in encoded]
    groups = [[ids for ids, _ in pair] for pair in encoded]
    print(try_packing(model, groups[:4], args.packing, 1e-4 if model.dtype == torch.float32 else 5e-2))
    scores = score_ids(model, groups, args.batch_tokens).tolist()
    chosen, rejected = scores[0::2], scores[1::2]
    lengths = [[sum(len(m["content"]) for m in p[side]) for p in pairs] for side in ("chosen", "rejected")]

    def measure(rows):
        """Accuracy of the model on these pairs, and of length alone: the better of longer and of shorter."""
        measured = accuracy([chosen[i] for i in rows], [rejected[i] for i in rows])
        longer = accuracy(*([side[i] for i in rows] for side in lengths))
        alone = {"longer": longer["accuracy"], "length_baseline": max(longer["accuracy"], 1 - longer["accuracy"])}
        return measured | alone | {"truncated": sum(cut[i] for i in rows)}

    sources = sorted({p["source"] for p in pairs})
    metrics = measure(range(len(pairs)))
    metrics["loss"] = statistics.fmean(
        math.log1p(math.exp(-abs(d))) + max(-d, 0) for d in map(float.__sub__, chosen, rejected)
    )
    metrics["margin"] = statistics.fmean(chosen) - statistics.fmean(rejected)
    metrics["reward_mean"], metrics["reward_std"] = statistics.fmean(scores), statistics.pstdev(scores)
    metrics["by_source"] = {s: measure([i for i, p in enumerate(pairs) if p["source"] == s]) for s in sources}
    metrics |= {"model": args.model, "data": args.data, "max_length": max_length, "rendered_by": RENDERED_BY}

    beside = Path(args.out.rstrip("/") + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    with open(beside / "scores.jsonl", "w") as file:
        for i, pair in enumerate(pairs):
            row = {
                "pair": i,
                "source": pair["source"],
                "chosen": chosen[i],
                "rejected": rejected[i],
                "truncated": cut[i],
            }
            file.write(json.dumps(row) + "\n")
    shutil.rmtree(args.out, ignore_errors=True)
    os.replace(beside, args.out)
    width = max(map(len, ["all", *sources]))
    print(f"{'source':{width}}  pairs  accuracy  95 % interval         length alone   ties  truncated")
    for name, m in {"all": metrics, **metrics["by_source"]}.items():
        interval = f"[{m['low']:.3f}, {m['high']:.3f}]  {m['length_baseline']:>16.3f}"
        print(
            f"{name:{width}}  {m['pairs']:>5}  {m['accuracy']:>8.3f}  {interval}  {m['ties']:>5}  {m['truncated']:>9}"
        )
    if metrics["low"] <= max(0.5, metrics["length_baseline"]):
        print("not shown to beat chance and the length baseline: the interval reaches down to them")
    print(f"written to {args.out}/")


# %% Run
if __name__ == "__main__":
    main(parameters())
