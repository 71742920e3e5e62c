# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Score: a file of prompts and responses in, a file of rewards out, in input order, nothing lost.

A row holds prompt + response, prompt + responses (a list), or messages; other fields such as id are carried over.
Each line of the output has score (a list for responses), tokens and truncated, or error where the row cannot be scored.
"""

import argparse
import csv
import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import re
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
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
ROWS_AT_ONCE = 2048
INPUT = ("prompt", "response", "responses", "messages")
OUTPUT = ("file", "row", "score", "tokens", "truncated", "error")


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args([] if "ipykernel" in sys.modules else argv)


# %% Reading rows
{{shared("read_rows")}}


{{shared("messages")}}


def conversations(row):
    """The conversations of one row, each a list of messages that ends with the answer to score."""
    row = {name: value for name, value in row.items() if value is not None}
    if "messages" in row:
        found = [as_messages(row["messages"], "user")]
    elif "prompt" in row and ("response" in row or "responses" in row):
        prompt = as_messages(row["prompt"], "user")
        answers = row["responses"] if "responses" in row else [row["response"]]
        if not isinstance(answers, list) or not answers:
            raise Reject("wrong_type", "responses must be a list of at least one answer")
        found = [prompt + as_messages(answer, "assistant") for answer in answers]
    else:
        raise Reject(
            "missing_column", f"no prompt + response(s) and no messages; the row has {', '.join(map(str, row))}"
        )
    for messages in found:
        if not messages or messages[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", "the last message must be the assistant's")
    return found


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


# %% Scoring
def score_rows(rows, model, tokenizer, max_length, args):
    """Input rows -> output rows, one for one. The answers of one row share the computation of its prompt."""
    results, groups = [], []
    for file, number, row, problem in rows:
        carried = {f"input_{k}" if k in OUTPUT else k: v for k, v in (row or {}).items() if k not in INPUT}
        result = {"file": file, "row": number, **carried}
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            encoded = [encode(messages, tokenizer, max_length) for messages in conversations(row)]
            sequences = [ids for ids, _ in encoded]
            most = max(1, args.batch_tokens // max(map(len, sequences), default=1))  # answers that surely fit one pass
            groups += [sequences[i : i + most] for i in range(0, len(sequences), most)]
            result |= {
                "score": [],
                "tokens": [len(ids) for ids, _ in encoded],
                "truncated": [n > 0 for _, n in encoded],
            }
        except Exception as error:  # templates raise what they like; the row must still come out
            result |= {"score": None, "error": ": ".join(map(str, error.args))[:300]}
        results.append((result, (row or {}).get("responses") is not None))
    if groups and not hasattr(model, "checked"):
        model.checked = True
        tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
        print(try_packing(model, groups[:4], args.packing, tolerance), file=sys.stderr)
    scores = iter(score_ids(model, groups, args.batch_tokens).tolist())
    for result, several in results:
        if "error" not in result:
            result["score"] = [next(scores) for _ in result["tokens"]]
            result |= {} if several else {name: result[name][0] for name in ("score", "tokens", "truncated")}
    return [result for result, _ in results]


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    find_files(args.data)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    max_length = args.max_length or reward.get("max_length", 2048)
    rows, out = read_rows(args.data, args.split), Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".partial")  # written beside, then renamed: never half a file
    count = failed = truncated = 0
    try:
        with open(beside, "w") as file:
            while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
                for result in score_rows(some, model, tokenizer, max_length, args):
                    file.write(json.dumps(result, default=str) + "\n")
                    failed += "error" in result
                    truncated += "true" in json.dumps(result.get("truncated"))
                count += len(some)
                print(f"{count} rows", file=sys.stderr)
        if count == failed:
            refuse(
                f"none of {count} rows can be scored",
                "prompt + response(s), or messages, a row",
                f"head {args.data[0]}",
            )
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{count} rows scored into {out}: {failed} with an error, {truncated} cut to {max_length} tokens")


# %% Run
if __name__ == "__main__":
    main(parameters())
