# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.6", "transformers>=4.57", "peft>=0.17", "bitsandbytes>=0.49", "pyarrow", "python-dotenv"]
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

import peft
import torch
import transformers
from dotenv import find_dotenv, load_dotenv
from huggingface_hub import snapshot_download
from pyarrow.parquet import read_table
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = "reward 0.1.0: reward.py render evaluate"


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


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", default="model", help="Reward model: a folder or a hub id.")
    add("--data", default="data/eval.parquet", help="Parquet file of formatted pairs.")
    add("--out", default="eval", help="Folder for metrics.json and scores.jsonl.")
    add("--max-length", type=within(int, 0, 1000000), default=0, help="Tokens a conversation may have; 0: as trained.")
    add("--batch-tokens", type=within(int, 8), default=16384, help="Tokens per forward pass, padding included.")
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Precision; auto: bfloat16 on a GPU, else float32.",
    )
    return parser.parse_args([] if "ipykernel" in sys.modules else argv)


# %% From messages to token ids to rewards
def encode(messages, tokenizer, max_length):
    """Messages -> (token ids, number of tokens cut off). The only place where text is built, for every stage.

    Cuts from the left, for the reward is read at the end; a leading BOS stays."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False)["input_ids"]
    cut = max(0, len(ids) - max_length)
    bos = ids[:1] if cut and ids[0] == tokenizer.bos_token_id else []
    return bos + ids[cut + len(bos) :], cut


def fingerprint(value):
    """Short hash of text, or of anything that JSON can hold."""
    return hashlib.sha256((value if isinstance(value, str) else json.dumps(value)).encode()).hexdigest()[:16]


@torch.inference_mode()
def score_ids(model, sequences, batch_tokens):
    """Rewards (float32 tensor) of lists of token ids, in their order. Similar lengths share a batch."""
    pad = model.config.get_text_config().pad_token_id
    rewards, order = torch.zeros(len(sequences)), sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    while order:
        width = len(sequences[order[0]])
        now, order = order[: max(1, batch_tokens // width)], order[max(1, batch_tokens // width) :]
        ids = torch.tensor([sequences[i] + [pad] * (width - len(sequences[i])) for i in now], device=model.device)
        mask = torch.tensor([[1] * len(sequences[i]) + [0] * (width - len(sequences[i])) for i in now])
        logits = model(input_ids=ids, attention_mask=mask.to(model.device)).logits
        rewards[now] = logits[:, 0].float().cpu()
    return rewards


def keep_float32(model):
    """Compute in float32 where rounding would show: in the reward head, for rewards rounded to bfloat16 tie, and in
    4-bit layers on a CPU, which bitsandbytes rounds to bfloat16 in evaluation alone. Returns the model."""

    def forward(self, hidden):
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), self.weight.float())

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and re.search(r"(^|\.)score(\.|$)", name):
            module.forward = MethodType(forward, module)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_reward_model(path, dtype="auto", dequantize=False):
    """Returns (model, tokenizer, contents of reward.json), ready to score.

    Refuses what would score silently wrong: a causal LM, a head that is in no file, probes that come out otherwise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    expected = "a folder written by train.py, or a sequence classifier with one label"
    try:
        folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path))
        names = ("adapter_config.json", "reward.json")
        adapter, reward = (json.loads((folder / n).read_text()) if (folder / n).exists() else {} for n in names)
        base = adapter.get("base_model_name_or_path", str(folder))
        kind = (AutoConfig.from_pretrained(base).architectures or ["unknown"])[0]
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        refuse(f"no reward model at {path}: {str(error)[:200]}", expected, "python run/train.py")
    if not adapter and not kind.endswith("ForSequenceClassification"):
        refuse(f"{path} is a {kind}: it would score with a random head", expected, "python run/train.py")
    options = {"num_labels": 1, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if quantized := reward.get("quantization"):
        options["quantization_config"] = BitsAndBytesConfig(**quantized)
    model, info = AutoModelForSequenceClassification.from_pretrained(base, **options)
    lost = info["missing_keys"]
    if adapter:
        model = peft.PeftModel.from_pretrained(model.dequantize() if quantized and dequantize else model, folder)
        with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
            lost = [] if any("score" in name for name in saved.keys()) else ["score.weight"]
    if lost:
        refuse(f"{path} holds no {', '.join(sorted(lost)[:3])}: its scores would be random", expected, "train again")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model = keep_float32(model.eval() if quantized else model.eval().to(device))

    probes = reward.get("probes", [])
    ids = [encode(probe["messages"], tokenizer, reward["max_length"])[0] for probe in probes]
    if [fingerprint(i) for i in ids] != [probe["ids"] for probe in probes]:
        refuse(
            f"{path} turns its probes into other tokens than in training", "the tokenizer saved with it", "train again"
        )
    off = [abs(s - p["score"]) / max(1, abs(p["score"])) for s, p in zip(score_ids(model, ids, 16384).tolist(), probes)]
    if not max(off, default=0) <= (1e-3 if dtype == reward.get("dtype") == "float32" else 0.1):
        refuse(
            f"{path} scores its probes {max(off):.2g} off", "the scores in reward.json", "compare files and versions"
        )
    if not reward:
        print(f"warning: {path} has no reward.json: template, length limit and scores are unchecked", file=sys.stderr)
    return model, tokenizer, reward


def accuracy(chosen, rejected):
    """Exact share of pairs in the right order, a tie counting half, with Wilson's 95 % interval (JASA 22, 1927)."""
    n, ties = len(chosen), sum(c == r for c, r in zip(chosen, rejected))
    share = (sum(c > r for c, r in zip(chosen, rejected)) + ties / 2) / n
    centre, spread = share + 1.92 / n, 1.96 * math.sqrt(share * (1 - share) / n + 0.9604 / n**2)
    low, high = ((centre + sign * spread) / (1 + 3.8416 / n) for sign in (-1, 1))
    return {"accuracy": share, "low": low, "high": high, "pairs": n, "ties": ties}


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
    pairs = read_pairs(args.data)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    max_length = args.max_length or reward.get("max_length", 2048)
    encoded = [encode(p["prompt"] + p[side], tokenizer, max_length) for side in ("chosen", "rejected") for p in pairs]
    scores = score_ids(model, [ids for ids, _ in encoded], args.batch_tokens).tolist()
    chosen, rejected = scores[: len(pairs)], scores[len(pairs) :]
    cut = [a[1] + b[1] > 0 for a, b in zip(encoded[: len(pairs)], encoded[len(pairs) :])]
    lengths = [[sum(len(m["content"]) for m in p[side]) for p in pairs] for side in ("chosen", "rejected")]

    def measure(rows):
        """Accuracy of the model and of "the longer answer is better" on the pairs with these numbers."""
        measured = accuracy([chosen[i] for i in rows], [rejected[i] for i in rows])
        longer = accuracy(*([side[i] for i in rows] for side in lengths))
        return measured | {"length_baseline": longer["accuracy"], "truncated": sum(cut[i] for i in rows)}

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
    print(f"{'source':{width}}  pairs  accuracy  95 % interval    longer is better   ties  truncated")
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
