# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Score: turn files of prompts and responses into a file of rewards, one line per row, in input order.

A row holds prompt + response, prompt + responses (a list), or messages; other fields such as id are carried over.
A line of the output has score, length (characters), tokens and truncated (lists for responses), scaled if the model has
a scaling, best (index of the best response), or error if the row cannot be scored. Answers to one prompt share its
computation, even from different rows. An interrupted run that is started again continues where it stopped.
"""

import argparse
import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
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
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
ROWS_AT_ONCE = 512  # what is in memory, and what is lost at most when the run is killed


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


# %% Reading rows
{{shared("read_rows")}}


{{shared("messages")}}


{{shared("conversations")}}


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


{{shared("apply_scaling")}}


# %% Scoring
{{shared("passes")}}


{{shared("score_rows")}}


# %% Best of n
@functools.cache
def weights(k):
    """(k, k): in row n - 1 the probability that the i-th lowest of k is the highest of n drawn without replacement,
    C(i - 1, n - 1) / C(k, n), each row made from the one before."""
    rows, below = [np.full(k, 1 / k)], np.arange(k)
    for n in range(1, k):
        rows.append(rows[-1] * np.maximum(0, below - n + 1) * (n + 1) / n / (k - n))
    return np.array(rows)


def expected_best(scores, values):
    """Expected value of the answer that scores highest among n of the k, for n = 1 … k: the mean over every choice
    of n (as arXiv 2210.10760), so unbiased. Equal scores share the mean of their values. (k,) and (k,) -> (k,)."""
    _, level = np.unique(scores, return_inverse=True)
    values = (np.bincount(level, values) / np.bincount(level))[level]
    return weights(len(scores)) @ values[np.argsort(scores, kind="stable")]


def add_to_curves(curves, result, gold):
    """Add one row to {k: {name: [rows, sums by n, sums of squares by n]}}. Returns whether gold was used."""
    scores = result.get("scaled", result["score"])
    found = {"reward": (scores, scores)}
    if (
        isinstance(gold, list)
        and len(gold) == len(scores)
        and all(isinstance(g, (int, float)) and math.isfinite(g) for g in gold)
    ):
        found |= {"gold": (scores, gold), "gold_at_most": (gold, gold)}
    for name, (by, values) in found.items():
        best = expected_best(by, np.asarray(values, float))
        rows, sums, squares = curves.setdefault(str(len(scores)), {}).get(name, (0, 0.0, 0.0))
        curves[str(len(scores))][name] = [rows + 1, (best + sums).tolist(), (best**2 + squares).tolist()]
    return "gold" in found


def as_curves(curves):
    """The sums as curves: for each k, by n, means with standard errors, and the KL from the policy (same source)."""
    made = []
    for k, named in sorted(curves.items(), key=lambda item: int(item[0])):
        curve = {"k": int(k), "n": list(range(1, int(k) + 1))}
        curve["kl"] = [math.log(n) - (n - 1) / n for n in curve["n"]]
        for name, (rows, sums, squares) in named.items():
            mean = np.array(sums) / rows
            spread = np.maximum(0, np.array(squares) / rows - mean**2)
            error = (spread / max(1, rows - 1)) ** 0.5
            curve[name] = {"rows": rows, "mean": mean.tolist(), "standard_error": error.tolist()}
        made.append(curve)
    return made


# %% Streaming, and going on where a run was cut off
{{shared("key_of")}}


{{shared("write_json")}}


def begin(args, beside, progress):
    """Where to go on: {key, rows read, bytes written, counts, sums}, from the last whole part that was written."""
    key, state = key_of(args, "resume"), {}
    if args.resume and progress.exists() and beside.exists():
        state = json.loads(progress.read_text())
        if state["key"] != key or beside.stat().st_size < state["bytes"]:
            print("starting anew: the model, the data or a parameter is another", file=sys.stderr)
            state = {}
        else:
            print(f"going on after {state['rows']} rows", file=sys.stderr)
    return state or {"key": key, "rows": 0, "bytes": 0, "failed": 0, "truncated": 0, "without_gold": 0, "curves": {}}


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    find_files(args.data)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside, progress = (out.with_name(out.name + end) for end in (".partial", ".progress.json"))
    state, gold = begin(args, beside, progress), f"input_{args.gold}" if args.gold in OUTPUT else args.gold
    rows = itertools.islice(read_rows(args.data, args.split), state["rows"], None)
    with open(beside, "ab") as file:
        file.truncate(state["bytes"])
        while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
            for result in score_rows(some, model, tokenizer, reward, args):
                file.write(json.dumps(result, default=str).encode() + b"\n")
                state["failed"] += "error" in result
                state["truncated"] += "true" in json.dumps(result.get("truncated"))
                if "best" in result:
                    used = add_to_curves(state["curves"], result, result.get(gold))
                    state["without_gold"] += bool(gold) and not used
            file.flush()
            os.fsync(file.fileno())
            state |= {"rows": state["rows"] + len(some), "bytes": file.tell()}
            write_json(progress, state)
            print(f"{state['rows']} rows", file=sys.stderr)
    if state["rows"] == state["failed"]:
        beside.unlink()
        progress.unlink(missing_ok=True)
        wanted = "prompt + response(s), or messages, a row"
        refuse(f"none of {state['rows']} rows can be scored", wanted, f"head {args.data[0]}")
    counts = {name: state[name] for name in ("rows", "failed", "truncated", "without_gold")}
    curves = as_curves(state["curves"])
    summary = {"model": args.model, "data": args.data, **counts, "best_of_n": curves, "rendered_by": RENDERED_BY}
    write_json(out.with_name(out.name + ".summary.json"), summary)
    os.replace(beside, out)
    progress.unlink()
    for curve in curves:
        for name in ("reward", "gold", "gold_at_most"):
            if name in curve:
                shown = {n: curve[name]["mean"][n - 1] for n in curve["n"] if n & (n - 1) == 0 or n == curve["k"]}
                told = ", ".join(f"{n}: {mean:.3f}" for n, mean in shown.items())
                print(f"expected {name} of the best of n, {curve[name]['rows']} rows with {curve['k']}:  {told}")
    cut = f"{state['truncated']} cut to {args.max_length or reward.get('max_length', 2048)} tokens"
    print(f"{state['rows']} rows scored into {out}: {state['failed']} with an error, {cut}")


# %% Run
{{shared("run")}}
