# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.6", "transformers>=4.57", "peft>=0.17", "bitsandbytes>=0.49", "pyarrow", "python-dotenv"]
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
RENDERED_BY = "reward 0.1.0: reward.py render score"
ROWS_AT_ONCE = 2048


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
    add("--data", nargs="*", default=["responses.jsonl"], help="Files of prompt + response(s), or of messages.")
    add("--out", default="scores.jsonl", help="File of scores, one line per input row.")
    add("--split", default="train", help="Split of a hub dataset.")
    add("--max-length", type=within(int, 0, 1000000), default=0, help="Tokens a conversation may have; 0: as trained.")
    add("--batch-tokens", type=within(int, 8), default=16384, help="Tokens per forward pass, padding included.")
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Precision; auto: bfloat16 on a GPU, else float32.",
    )
    return parser.parse_args([] if "ipykernel" in sys.modules else argv)


# %% Reading rows
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def find_files(sources):
    """Data files behind files and folders, and hub dataset ids (owner/name), in order."""
    found = []
    for source in sources:
        path = Path(source)
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [p for p in inside if p.is_file() and p.name.removesuffix(".gz").endswith(SUFFIXES)]
        if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.parent.exists():
            files = [source]
        elif not files:
            refuse(f"no data in {source!r}", f"a file or folder of {', '.join(SUFFIXES)} (.gz), or a hub id", "ls")
        found += files
    return found


def read_file(path):
    """Yield (row, problem) for one file; problem names why a row is not one, else None."""
    name = path.name.removesuffix(".gz")
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        if name.endswith(".parquet"):
            from pyarrow.parquet import ParquetFile

            batches = ParquetFile(io.BytesIO(file.read()) if path.suffix == ".gz" else file).iter_batches()
            yield from ((row, None) for batch in batches for row in batch.to_pylist())
        elif name.endswith((".csv", ".tsv")):
            csv.field_size_limit(2**31 - 1)
            text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
            for row in csv.DictReader(text, delimiter="\t" if name.endswith(".tsv") else ","):
                broken = None in row or None in row.values() or re.search("[\udc80-\udcff]", "".join(row.values()))
                yield row, "not_utf8_or_ragged" if broken else None
        elif name.endswith(".json") and (rows := whole_json(file)) is not None:
            yield from ((row, None) for row in rows)
        else:
            file.seek(0)
            yield from (parse(line) for line in file if line.strip())


def parse(text):
    """JSON bytes -> (value, None) or (None, problem)."""
    try:
        return json.loads(text.decode("utf-8-sig")), None
    except (ValueError, RecursionError) as error:
        return None, "not_utf8" if isinstance(error, UnicodeDecodeError) else "not_json"


def whole_json(file):
    """Rows of a .json file that is one list, one object around a list, or one object; None where it is JSON lines."""
    value, _ = parse(file.read())
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)), [value])
    return value if isinstance(value, list) else None


def read_rows(sources, split):
    """Yield (source, row number from 1, row, problem) over all sources, in order."""
    for source in find_files(sources):
        try:
            if isinstance(source, str):
                from datasets import load_dataset

                rows = ((row, None) for row in load_dataset(source, split=split, streaming=True))
            else:
                rows = read_file(source)
            for number, (row, problem) in enumerate(rows, 1):
                yield str(source), number, row, problem or (None if isinstance(row, dict) else "not_an_object")
        except ImportError as error:
            refuse(f"{source} needs a package: {error}", "it installed", f"pip install {error.name}", 5)
        except Exception as error:  # pyarrow, zlib and the hub client share no base class
            refuse(f"{source}: {str(error)[:300]}", "a readable file or a reachable hub dataset", "open it by hand")


ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}


class Reject(Exception):
    """Why a row is not used: a reason to count and a detail to read."""


def look_up(row, path):
    """Value at a path: a column's own name, a.b for nested fields, a+b for several joined by a blank line."""
    if path in row:
        return row[path]
    if "+" in path:
        return "\n\n".join(text for part in path.split("+") if (text := str(look_up(row, part) or "").strip()))
    value = row
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise Reject("missing_column", f"no {path!r}; the row has {', '.join(map(str, list(row)[:12]))}")
        value = value[key]
    return value


def as_messages(value, role):
    """Text, one message or a list of messages (role/content or from/value) -> list of {role, content}."""
    messages = []
    for message in value if isinstance(value, list) else [value]:
        if isinstance(message, str) and not isinstance(value, list):
            message = {"role": role, "content": message}
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"expected text or messages, got {type(message).__name__}")
        who, said = message.get("role", message.get("from")), message.get("content", message.get("value"))
        who = ROLES.get(str(who), str(who))
        if who not in ("system", "developer", "user", "assistant", "tool"):
            raise Reject("unknown_role", f"role {who[:40]!r}")
        if not isinstance(said, str):
            raise Reject("wrong_type", f"content of a {who} turn is {type(said).__name__}, not text")
        messages.append({"role": who, "content": said})
    return messages


def split_context(chosen, rejected):
    """Two whole dialogues -> (shared prompt, chosen answer, rejected answer), each a list of messages."""
    if chosen[:-1] != rejected[:-1]:
        raise Reject("diverging_context", "the dialogues differ before the last answer")
    return chosen[:-1], chosen[-1:], rejected[-1:]


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
