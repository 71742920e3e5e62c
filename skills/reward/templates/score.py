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
import json
import logging
import os
import re
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
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
ROWS_AT_ONCE = 2048


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    {{flags}}
    return parser.parse_args([] if "ipykernel" in sys.modules else argv)


# %% Reading rows
{{shared("read_rows")}}


{{shared("messages")}}


def conversations(row):
    """The conversations of one row, each a list of messages that ends with the answer to score."""
    if "messages" in row:
        found = [as_messages(row["messages"], "user")]
    elif "prompt" in row and ("response" in row or "responses" in row):
        prompt = as_messages(row["prompt"], "user")
        answers = row["responses"] if "responses" in row else [row["response"]]
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


{{shared("score_ids")}}


{{shared("load_reward_model")}}


# %% Scoring
def score_rows(rows, model, tokenizer, max_length, batch_tokens):
    """Input rows -> output rows, one for one."""
    results, sequences = [], []
    for file, number, row, problem in rows:
        known = ("prompt", "response", "responses", "messages")
        result = {"file": file, "row": number, **{k: v for k, v in (row or {}).items() if k not in known}}
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            encoded = [encode(messages, tokenizer, max_length) for messages in conversations(row)]
            result |= {
                "score": [],
                "tokens": [len(ids) for ids, _ in encoded],
                "truncated": [cut > 0 for _, cut in encoded],
            }
            sequences += [(result, ids) for ids, _ in encoded]
        except Exception as error:  # templates raise what they like; the row must still come out
            result |= {"score": None, "error": ": ".join(map(str, error.args))[:300]}
        results.append((result, "responses" in (row or {})))
    for (result, _), value in zip(sequences, score_ids(model, [ids for _, ids in sequences], batch_tokens).tolist()):
        result["score"].append(value)
    for result, several in results:
        if "error" not in result and not several:
            result |= {name: result[name][0] for name in ("score", "tokens", "truncated")}
        yield result


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    find_files(args.data)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    max_length = args.max_length or reward.get("max_length", 2048)
    count = failed = truncated = 0
    out, waiting = Path(args.out), []
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".partial")
    with open(beside, "w") as file:

        def flush():
            nonlocal count, failed, truncated
            for result in score_rows(waiting, model, tokenizer, max_length, args.batch_tokens):
                count, failed = count + 1, failed + ("error" in result)
                truncated += "error" not in result and bool(torch.tensor(result["truncated"]).any())
                file.write(json.dumps(result, default=str) + "\n")
            waiting.clear()
            print(f"{count} rows", file=sys.stderr)

        for row in read_rows(args.data, args.split):
            waiting.append(row)
            if len(waiting) == ROWS_AT_ONCE:
                flush()
        flush()
    if not count - failed:
        beside.unlink()
        refuse(f"none of {count} rows can be scored", "prompt + response(s), or messages, in each row", "head FILE")
    os.replace(beside, out)
    print(f"{count} rows scored into {out}: {failed} with an error, {truncated} cut to {max_length} tokens")


# %% Run
if __name__ == "__main__":
    main(parameters())
