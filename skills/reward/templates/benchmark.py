# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Benchmark: reward models on a published benchmark, scored as published, side by side.

Reads the benchmark from the hub or from local files in its published schema. Writes metrics.json, items.jsonl with the
rewards of every item, and report.html. Rewards are taken raw: most of these scores do not depend on their scale.
"""

import argparse
import base64
import collections
import csv
import gzip
import hashlib
import html
import io
import itertools
import json
import logging
import math
import os
import re
import shutil
import sys
from pathlib import Path
from types import MethodType

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import numpy as np
    import peft
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from matplotlib.figure import Figure
    from safetensors import safe_open
    from scipy.stats import norm
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
ROWS_AT_ONCE = 128
SIDES = ("chosen", "rejected")


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


{{shared("replace_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


# %% From rows of each benchmark to items
{{shared("read_rows")}}


{{shared("messages")}}


{{shared("look_up")}}


{{shared("benchmark_items")}}


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


# %% From rewards to the published scores
{{shared("wilson")}}


{{shared("interval")}}


{{shared("intervals")}}


{{shared("benchmark_scores")}}


def pair_credits(item):
    """Right or wrong on each drawn pair of an item with many answers."""
    item["of_pairs"] = [float(item["rewards"][i] > item["rewards"][j]) for i, j in item["pairs"]]
    return mean(item["of_pairs"])


PPE = ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus")
BENCHMARKS = {  # hub ids with their splits, published size, and how to read a row, credit an item and score them all
    "reward-bench": (
        [("allenai/reward-bench", "filtered")],
        2985,
        read_reward_bench,
        first_beats_second,
        score_reward_bench,
    ),
    "reward-bench-2": (
        [("allenai/reward-bench-2", "test")],
        1865,
        read_reward_bench_2,
        first_wins,
        score_reward_bench_2,
    ),
    "rm-bench": (
        [("THU-KEG/RM-Bench", "train")],
        1327,
        read_rm_bench,
        lambda item: float(style_matrix(item).mean()),
        score_rm_bench,
    ),
    "judgebench": (
        [("ScalerLab/JudgeBench", split) for split in ("gpt", "claude")],
        620,
        read_judgebench,
        first_beats_second,
        score_judgebench,
    ),
    "llmbar": ([("princeton-nlp/LLMBar", "train")], 419, read_llmbar, first_beats_second, score_llmbar),
    "ppe-human": (
        [("lmarena-ai/PPE-Human-Preference-V1", "test")],
        16038,
        read_ppe_human,
        first_beats_second,
        score_ppe_human,
    ),
    "ppe-correctness": (
        [(f"lmarena-ai/PPE-{name}-Best-of-K", "train") for name in PPE],
        2555,
        read_ppe_correctness,
        pair_credits,
        score_ppe_correctness,
    ),
    "processbench": (
        [("Qwen/ProcessBench", split) for split in ("gsm8k", "math", "olympiadbench", "omnimath")],
        3400,
        read_processbench,
        lambda item: 0.0,
        score_processbench,
    ),
}


def read_items(args, counts):
    """Yield the items of the benchmark; count rows, ties and those that do not fit its schema in `counts`."""
    hub, _, read, *_ = BENCHMARKS[args.benchmark]
    for source, split in [(source, args.split) for source in args.data] or hub:
        for origin, number, row, problem in read_rows([source], split):
            try:
                if problem:
                    raise Reject(problem, "the row could not be read")
                item = read(row, f"{origin} {split}")
                counts["items"] += 1
                yield item
            except (Reject, TypeError, ValueError, LookupError, AttributeError) as error:
                reason, detail = error.args if isinstance(error, Reject) else ("wrong_type", str(error)[:200])
                counts[f"left out: {reason}"] += 1
                counts["left out"] += reason != "tie"
                if reason != "tie":
                    print(f"{origin} row {number}: {reason}: {detail}", file=sys.stderr)
            if args.limit and counts["items"] == args.limit:
                return


def score_items(path, args, file):
    """Items with their rewards, without their texts, and counts. A line an item goes into `file`."""
    model, tokenizer, reward = load_reward_model(path, args.dtype)
    max_length = args.max_length or reward.get("max_length", 2048)
    counts, found, packing = collections.Counter(), [], None
    items = read_items(args, counts)
    while some := list(itertools.islice(items, ROWS_AT_ONCE)):
        groups = []
        for item in some:
            try:
                encoded = [encode(item["prompt"] + answer, tokenizer, max_length) for answer in item["answers"]]
            except Exception as error:  # templates raise what they like
                told = f"{path}: its chat template refuses item {item['id']}: {str(error)[:200]}"
                refuse(told, "a template that takes every item", "put another chat_template.jinja beside the tokenizer")
            counts["truncated"] += any(lost for _, lost in encoded)
            ids = [ids for ids, _ in encoded]
            most = max(2, args.batch_tokens // max(map(len, ids)))  # answers that surely fit one pass
            groups += [ids[i : i + most] for i in range(0, len(ids), most)]
        if packing is None:
            packing = try_packing(model, groups[:4], args.packing, 1e-4 if model.dtype == torch.float32 else 5e-2)
            print(f"{path}: {packing}", flush=True)
        rewards = iter(score_ids(model, groups, args.batch_tokens).tolist())
        for item in some:
            kept = {name: value for name, value in item.items() if name not in ("prompt", "answers")}
            kept["rewards"] = [next(rewards) for _ in item["answers"]]
            if not all(map(math.isfinite, kept["rewards"])):
                refuse(f"{path}: a reward that is no finite number", "finite ones", "--dtype float32")
            file.write(json.dumps({"model": path, **kept}) + "\n")
            found.append(kept)
        print(f"{path}: {len(found)} items", file=sys.stderr, flush=True)
    if not found:
        told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no rows"
        refuse(f"nothing of {args.benchmark} can be scored: {told}", "rows in its published schema", "--data FILES")
    return found, dict(counts)


def judge(args, file):
    """(metrics of every model, items of every model) on the benchmark."""
    _, size, _, credit, score = BENCHMARKS[args.benchmark]
    metrics = {"benchmark": args.benchmark, "data": args.data or "hub", "published_items": size, "models": {}}
    all_items = {}
    for path in args.models:
        items, counts = score_items(path, args, file)
        for item in items:
            item["credit"] = credit(item)
        scores = score(items)
        subsets = {}
        for name in sorted({item["subset"] for item in items}):
            credits = np.array([item["credit"] for item in items if item["subset"] == name], float)
            subsets[name] = {"items": len(credits), "credit": float(credits.mean())}
            subsets[name] |= {
                k: v for k, v in interval(credits, np.arange(len(credits))).items() if k in ("low", "high")
            }
        metrics["models"][path] = {"scores": scores, "counts": counts, "subsets": subsets}
        all_items[path] = items
    first, *others = args.models
    chances = []
    for other in others:
        lead = np.array([a["credit"] - b["credit"] for a, b in zip(all_items[first], all_items[other])])
        chances.append(min(1.0, 2 * chance_of_lead(lead if lead.mean() > 0 else -lead, np.arange(len(lead)))))
    metrics["p_differs_from_first"] = dict(zip(others, holm(chances))) if others else {}
    return metrics


# %% The report
{{shared("html_report")}}


def remarks(metrics):
    """What keeps the scores from being comparable with published ones (list of lines)."""
    told, size = [], metrics["published_items"]
    for path, found in metrics["models"].items():
        counts = found["counts"]
        ties = counts.get("left out: tie", 0)
        if counts["items"] + ties != size:
            told.append(f"{path}: {counts['items'] + ties} items where the benchmark has {size}: not comparable")
        if ties:
            told.append(f"{path}: {ties} ties left out")
        if counts.get("left out"):
            told.append(f"{path}: {counts['left out']} rows do not fit the schema and were left out")
        if counts.get("truncated"):
            told.append(f"{path}: {counts['truncated']} items were cut to fit; raise --max-length")
    return told


def table_of(metrics):
    """Rows of the table: a score each, a column for each model."""
    models = metrics["models"]
    names = list(dict.fromkeys(name for found in models.values() for name in found["scores"]))
    return [{"score": name} | {path: found["scores"].get(name) for path, found in models.items()} for name in names]


def page(metrics):
    models, told = metrics["models"], remarks(metrics)
    rows = table_of(metrics)
    figure, axes = chart(f"{metrics['benchmark']}: credit by subset, 95 % intervals", "credit")
    subsets = sorted({name for found in models.values() for name in found["subsets"]}, reverse=True)
    figure.set_figheight(1.2 + 0.3 * len(subsets) * (1 + 0.3 * len(models)))
    for number, (path, found) in enumerate(models.items()):
        there = [(place, found["subsets"][name]) for place, name in enumerate(subsets) if name in found["subsets"]]
        middle = [part["credit"] for _, part in there]
        spread = [[abs(m - part[end]) for m, (_, part) in zip(middle, there)] for end in ("low", "high")]
        places = [place - 0.18 * number for place, _ in there]
        axes.errorbar(middle, places, xerr=spread, fmt="o", capsize=3, label=Path(path).name)
    axes.set_yticks(range(len(subsets)), subsets)
    axes.set_xlim(-0.02, 1.02)
    if len(models) > 1:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    parts = ["# Scores", rows, *told, "# Subsets", "Credit is the mean over the items, before any weighting.", figure]
    shown = [
        {"subset": name, "model": path, "items": p["items"], "credit": p["credit"], "low": p["low"], "high": p["high"]}
        for path, found in models.items()
        for name, p in found["subsets"].items()
    ]
    parts += [shown]
    if metrics["p_differs_from_first"]:
        parts += ["# Against the first model", "p that the difference in credit is chance, item by item (Holm)."]
        parts += [[{"model": path, "p": p} for path, p in metrics["p_differs_from_first"].items()]]
    return html_report(f"{metrics['benchmark']}: {len(models)} reward model{'s' * (len(models) > 1)}", parts)


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "metrics.json")
    if not args.models or len(set(args.models)) < len(args.models):
        refuse(f"models {args.models}", "one or more different models", "--models model", 2)
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        with open(beside / "items.jsonl", "w") as file:
            metrics = judge(args, file) | {"rendered_by": RENDERED_BY}
        (beside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (beside / "report.html").write_text(page(metrics), encoding="utf-8")
        replace_folder(beside, Path(args.out))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    rows = table_of(metrics)
    width = max(len(row["score"]) for row in rows)
    print(f"{args.benchmark:{width}}  " + "  ".join(args.models))
    for row in rows:
        values = [f"{row[path]:.3f}" if row[path] is not None else "-" for path in args.models]
        print(f"{row['score']:{width}}  " + "  ".join(f"{v:>{len(path)}}" for v, path in zip(values, args.models)))
    for line in remarks(metrics):
        print(line)
    print(f"written to {args.out}/: metrics.json, items.jsonl, report.html")


# %% Run
{{shared("run")}}
