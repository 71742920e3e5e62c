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
#     "datasets>=4.7",
# ]
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
RENDERED_BY = "reward 0.1.0: reward.py render score"
ROWS_AT_ONCE = 512  # what is in memory, and what is lost at most when the run is killed


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
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    add("--model", default="model", help="Reward model: a folder or a hub id.")
    add("--data", nargs="*", default=["responses.jsonl"], help="Files of prompt + response(s), or of messages.")
    add("--gold", default="", help="Field of true rewards or labels, for best-of-n curves.")
    add("--out", default="scores.jsonl", help="File of scores, one line per input row.")
    add("--split", default="train", help="Split of a hub dataset.")
    add("--max-length", type=within(int, 0, 1000000), default=0, help="Tokens a conversation may have; 0: as trained.")
    add("--batch-tokens", type=within(int, 8), default=8192, help="Tokens per forward pass.")
    add("--packing", default=True, help="Shared prompts once, no padding, where possible.", **yes_or_no)
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Precision; auto: bfloat16 on a GPU, else float32.",
    )
    add("--resume", default=True, help="Go on where a run that was cut off stopped.", **yes_or_no)
    return parser.parse_args(argv)


# %% Reading rows
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # beside data, and none


def find_files(sources):
    """Data files behind files and folders, and hub ids (owner/name, or owner/name/configuration), in order."""
    found = []
    for source in sources:
        path = Path(source)
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [p for p in inside if p.is_file() and p.name.removesuffix(".gz").endswith(SUFFIXES)]
        files = [p for p in files if p.name not in ABOUT or p == path]
        if re.fullmatch(r"[\w.-]+(/[\w.-]+){1,2}", source) and not (path.exists() or path.parent.exists()):
            files = [source]
        elif not files:
            refuse(f"no data in {source!r}", f"a file or folder of {', '.join(SUFFIXES)} (.gz), or a hub id", "ls")
        found += files
    return found


def read_file(path, opened=lambda file: None):
    """Yield (row, problem) for one file; problem names why a row is not one, else None. `opened` is told the file."""
    name = path.name.removesuffix(".gz")
    with open(path, "rb") as raw:
        opened(raw)
        packed = raw.peek(2)[:2] == b"\x1f\x8b"  # whatever its name says
        file = gzip.open(raw) if packed else raw
        if name.endswith(SUFFIXES[:4]) and file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):  # Windows writes UTF-16
            file = io.BytesIO(file.read().decode("utf-16").encode())
        if name.endswith(".parquet"):
            from pyarrow.parquet import ParquetFile

            batches = ParquetFile(io.BytesIO(file.read()) if packed else file).iter_batches(1000)
            yield from ((row, None) for batch in batches for row in batch.to_pylist())
        elif name.endswith(".arrow"):
            import pyarrow

            yield from ((row, None) for batch in pyarrow.ipc.open_stream(file) for row in batch.to_pylist())
        elif name.endswith((".csv", ".tsv")):
            csv.field_size_limit(2**31 - 1)
            text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
            header = text.readline()
            text.seek(0)
            between = "\t" if name.endswith(".tsv") else next((mark for mark in ",;\t" if mark in header), ",")
            rows = csv.DictReader(text, delimiter=between)
            if twice := [name for name in rows.fieldnames or () if name and rows.fieldnames.count(name) > 1]:
                raise ValueError(f"two columns are named {twice[0]!r}")
            for row in rows:
                broken = None in row or None in row.values() or re.search("[\udc80-\udcff]", "".join(row.values()))
                yield row, "not_utf8_or_ragged" if broken else None
        elif name.endswith(".json"):
            yield from json_rows(file)
        else:
            yield from (parse(line) for line in file if line.strip())


def parse(text):
    """JSON bytes -> (value, None) or (None, problem)."""
    try:
        return json.loads(text.decode("utf-8-sig")), None
    except (ValueError, RecursionError) as error:
        return None, "not_utf8" if isinstance(error, UnicodeDecodeError) else "not_json"


def json_rows(file):
    """(row, problem) of a .json file that is a list, an object around a list, one object, or JSON lines."""
    start = file.read(100).decode("utf-8-sig", "replace").lstrip()[:1]
    file.seek(0)
    if start == "[":
        yield from list_elements(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape"))
        return
    lines = (line for line in file if line.strip())
    first, second = next(lines, None), next(lines, None)
    if first and second and not parse(first)[1]:  # each line is a row of its own
        yield parse(first)
        yield parse(second)
        yield from map(parse, lines)
        return
    file.seek(0)
    value, problem = parse(file.read())
    if problem:
        file.seek(0)
        yield from (parse(line) for line in file if line.strip())
    elif isinstance(value, dict):
        yield from ((row, None) for row in rows_in(value))
    else:
        yield value, None


def rows_in(value):
    """Rows of a JSON object: of a list of objects in it, of a table as pandas writes it ({column: {"0": value, …}},
    {"0": row, …}) or by columns ({column: [value, …]}); else the object is the one row."""
    inside = list(value.values())
    lists = [v for v in inside if isinstance(v, list) and v and isinstance(v[0], dict)]
    if lists:
        return next((rows for rows in lists if not {"role", "from"} & set(rows[0])), [value])  # those are messages
    if all(isinstance(v, dict) for v in inside) and all(map(str.isdigit, value)):
        return inside or [value]
    if all(isinstance(v, dict) and v.keys() == inside[0].keys() and all(map(str.isdigit, v)) for v in inside):
        inside = [list(v.values()) for v in inside]
    if len(inside) > 1 and all(isinstance(v, list) and len(v) == len(inside[0]) > 1 for v in inside):
        return [dict(zip(value, row)) for row in zip(*inside)]
    return [value]


def list_elements(file):
    """(element, problem) of a JSON list, read piece by piece, for it may be larger than memory."""
    decoder, between, text, place, size = json.JSONDecoder(), re.compile(r"[\s,]*"), file.read(2**20), 0, 2**20
    place = text.index("[") + 1
    while True:
        place = between.match(text, place).end()
        if text[place : place + 1] == "]":
            break
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = len(text)
        if end < len(text):  # else it may go on in the next piece
            broken = re.search("[\udc80-\udcff]", text[place:end])
            yield (None, "not_utf8") if broken else (value, None)
            place, size = end, 2**20
        elif more := file.read(size):
            text, place, size = text[place:] + more, 0, size * 2
        else:
            yield None, "not_json"
            return
    if text[place + 1 :].strip() or file.read(2**20).strip():
        yield None, "not_json"


def hub_rows(source, split):
    """Rows of a hub dataset; what stands behind owner/name is a configuration of it, else a folder in it."""
    from datasets import get_dataset_config_names, load_dataset

    name, part = re.fullmatch("([^/]+/[^/]+)/?(.*)", source).groups()
    chosen = {"name" if part in get_dataset_config_names(name) else "data_dir": part} if part else {}
    return load_dataset(name, **chosen, split=split, streaming=True)


def read_rows(sources, split, opened=lambda file: None):
    """Yield (source, row number from 1, row, problem) over all sources, in order; `opened` is told each file."""
    for source in find_files(sources):
        try:
            local = isinstance(source, Path)
            rows = read_file(source, opened) if local else ((row, None) for row in hub_rows(source, split))
            for number, (row, problem) in enumerate(rows, 1):
                problem = problem or (None if isinstance(row, dict) else "not_an_object")
                yield str(source), number, None if problem else row, problem
        except ImportError as error:
            refuse(f"{source} needs a package: {error}", "it installed", f"pip install {error.name}", 5)
        except Exception as error:  # pyarrow, zlib and the hub client share no base class
            mend = "open it by hand" if local else "--split NAME, OWNER/NAME/CONFIGURATION, or a folder it lies in"
            refuse(f"{source}: {str(error)[:300]}", "a readable file or a reachable hub dataset", mend)


ROLES = {"human": "user", "prompter": "user", "observation": "tool", "function_call": "assistant"}
ROLES |= dict.fromkeys(("gpt", "ai", "bot", "model", "chatgpt"), "assistant")


class Reject(Exception):
    """Why a row is not used: a reason to count and a detail to read."""


def as_messages(value, role):
    """Text, one message or a list of messages (role/content or from/value) -> list of {role, content}, and thinking
    where a turn has it in a field of its own; <think> in the content stays there."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    messages = []
    for message in value if isinstance(value, list) else [value]:
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"expected text or messages, got {type(message).__name__}")
        who, said = message.get("role", message.get("from")), message.get("content", message.get("value"))
        who = str(who).lower()
        who = ROLES.get(who, who)
        if who not in ("system", "developer", "user", "assistant", "tool"):
            raise Reject("unknown_role", f"role {who[:40]!r}")
        if message.get("tool_calls"):
            raise Reject("unsupported_field", f"a {who} turn has tool_calls, which would be lost")
        thoughts = {t for k in ("reasoning_content", "reasoning", "thinking") if (t := message.get(k))}
        if len(thoughts) > 1 or not all(isinstance(thought, str) for thought in thoughts):
            raise Reject("two_thinkings", f"a {who} turn has thinking in several fields that differ, or none of text")
        said = text_of_parts(said) if isinstance(said, list) and said else said
        said = "" if said is None and thoughts else said
        if not isinstance(said, str):
            raise Reject("wrong_type", f"content of a {who} turn is {type(said).__name__}, not text")
        messages.append({"role": who, "content": said} | dict.fromkeys(["thinking"] * bool(thoughts), *thoughts))
    return messages


def text_of_parts(parts):
    """Content as a list of {type: text, text: …} -> text. An image or sound is no text and rejects the row."""
    if other := [p for p in parts if not isinstance(p, dict) or not isinstance(p.get("text"), str)]:
        kind = other[0].get("type") if isinstance(other[0], dict) else type(other[0]).__name__
        raise Reject("not_text", f"a part of the content is {str(kind)[:40]}, not text")
    return "".join(part["text"] for part in parts)


def conversations(row):
    """The conversations of one row, each (messages of the prompt, messages of the answer to score)."""
    row = {name: value for name, value in row.items() if value is not None}
    if len(given := [name for name in ("messages", "response", "responses") if name in row]) > 1:
        raise Reject("too_much", f"{' and '.join(given)}: one of them is to be scored, and the others would be lost")
    if "messages" in row:
        messages = as_messages(row["messages"], "user")
        found = [(messages[:-1], messages[-1:])]
    elif "prompt" in row and ("response" in row or "responses" in row):
        prompt = as_messages(row["prompt"], "user")
        answers = row["responses"] if "responses" in row else [row["response"]]
        if not isinstance(answers, list) or not answers:
            raise Reject("wrong_type", "responses must be a list of at least one answer")
        found = [(prompt, as_messages(answer, "assistant")) for answer in answers]
    else:
        raise Reject(
            "missing_column", f"no prompt + response(s) and no messages; the row has {', '.join(map(str, row))}"
        )
    for _, answer in found:
        if not answer or answer[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", "the last message must be the assistant's")
    return found


# %% From messages to token ids to rewards
def as_text(messages, tokenizer):
    """Messages -> the text that the chat template makes of them. Thinking in a field of its own goes in under each name
    that templates know; they read one and ignore the others."""
    given = []
    for message in messages:
        thought = message.get("thinking")
        names = dict.fromkeys(("reasoning_content", "reasoning", "thinking") if thought else (), thought)
        given.append({"role": message["role"], "content": message["content"], **names})
    return tokenizer.apply_chat_template(given, tokenize=False)


def encode(messages, tokenizer, max_length):
    """Messages -> (token ids, number of tokens cut off). The only place where text is built, for every stage."""
    return encode_text(as_text(messages, tokenizer), tokenizer, max_length)


def encode_text(text, tokenizer, max_length):
    """Text in the chat template -> (token ids, number of tokens cut off).

    Cuts from the left, for the reward is read at the end; a leading BOS stays."""
    ids = tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False)["input_ids"]
    cut = max(0, len(ids) - max_length)
    bos = ids[:1] if cut and ids[0] == tokenizer.bos_token_id else []
    return bos + ids[cut + len(bos) :], cut


def fingerprint(value):
    """Short hash of text, or of anything that JSON can hold."""
    return hashlib.sha256((value if isinstance(value, str) else json.dumps(value)).encode()).hexdigest()[:16]


def shared_prefix(group):
    """Length of the longest common prefix of token-id lists that leaves each a token of its own; 0 for one alone."""
    shared = min(map(len, group)) - 1 if len(group) > 1 else 0
    for other in group[1:]:
        shared = next((i for i in range(shared) if group[0][i] != other[i]), shared)
    return shared


def shares(group):
    """For each sequence of a group: (tokens that the first or the one before begins with too, its place)."""
    return [(0, 0)] + [max((shared_prefix([group[j], group[i]]), j) for j in {0, i - 1}) for i in range(1, len(group))]


def pack(groups, device="cpu"):
    """Groups of token-id lists (a pair, k answers to one prompt, growing parts of an answer) -> model inputs of one row
    without padding.

    A group lies there as [the first | rest of the second | …], the rest being what neither the first nor the one before
    begins with, so a prompt is computed once. Positions go on from the shared part; `keys` gathers for each segment
    the keys that its queries may see; `last` is where each sequence ends."""
    ids, positions, keys, last, q_ends, k_ends = [], [], [], [], [0], [0]
    for group in groups:
        places = []  # of the keys of each sequence
        for sequence, (skip, other) in zip(group, shares(group)):
            places.append((places[other][:skip] if skip else []) + [*range(len(ids), len(ids) + len(sequence) - skip)])
            keys += places[-1]
            positions += range(skip, len(sequence))
            ids += sequence[skip:]
            last.append(len(ids) - 1)
            q_ends.append(len(ids))
            k_ends.append(len(keys))
    ends = torch.tensor([q_ends, k_ends], dtype=torch.int32, device=device)
    packed = {"keys": torch.tensor(keys, device=device), "ends": ends, "q_ends": q_ends, "k_ends": k_ends}
    ids, positions = torch.tensor([[ids], [positions]], device=device)
    row = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids), "packed": packed}
    return row | {"last": torch.tensor(last, device=device)}


def segment_mask(queries, keys, window, like):
    """(queries, keys) in like's dtype: 0 where the last of so many tokens see a key, -inf where they do not."""
    back = torch.arange(keys - queries, keys, device=like.device)[:, None] - torch.arange(keys, device=like.device)
    seen = (back >= 0) & (back < (window or keys))
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, float("-inf"))


def packed_attention(module, query, key, value, mask, scaling=None, sliding_window=None, packed=None, **other):
    """transformers' attention interface for packed rows: (1, heads, tokens, dim) in, (1, tokens, heads, dim) out.

    On a GPU in 16 bit one variable-length flash kernel; elsewhere one scaled_dot_product_attention a segment."""
    if packed is None or mask is not None or other.get("softcap") or other.get("s_aux") is not None:
        raise NotImplementedError("packed attention has no masks, soft-capping or sinks")
    if torch.is_autocast_enabled(query.device.type):  # q_norm and k_norm with float32 weights leave float32 behind
        query, key, value = (t.to(torch.get_autocast_dtype(query.device.type)) for t in (query, key, value))
    window, q, k = sliding_window or getattr(module, "sliding_window", None) or 0, packed["q_ends"], packed["k_ends"]
    key, value = (t[0].index_select(1, packed["keys"]) for t in (key, value))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = [max(b - a for a, b in zip(ends, ends[1:])) for ends in (q, k)]
        query, key, value = query[0].transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        options = {"scale": scaling, "window_size": (window - 1 if window else -1, 0), "enable_gqa": True}
        return varlen_attn(query, key, value, *packed["ends"], *longest, **options)[None], None
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[0], 0)[None] for t in (key, value))
    attend = torch.nn.functional.scaled_dot_product_attention
    masks = packed.setdefault((window, query.dtype), [])  # the same in every layer
    out = []
    for i, (q0, q1, k0, k1) in enumerate(zip(q, q[1:], k, k[1:])):
        segment, m, n = (query[:, :, q0:q1], key[:, :, k0:k1], value[:, :, k0:k1]), q1 - q0, k1 - k0
        if i == len(masks):
            masks.append(segment_mask(m, n, window, query) if m < n or 0 < window < n else None)
        out.append(attend(*segment, masks[i], is_causal=masks[i] is None, scale=scaling))
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def packed_forward(self, input_ids=None, position_ids=None, last=None, packed=None, **_):
    """Forward of a sequence classifier for packed rows: one reward a sequence, (sequences, 1)."""
    body = getattr(self, self.base_model_prefix)
    hidden = body(input_ids=input_ids, position_ids=position_ids, use_cache=False, packed=packed).last_hidden_state
    return SequenceClassifierOutputWithPast(logits=self.score(hidden[0, last]))


def why_not_packable(model):
    """A reason (str) when the architecture cannot be packed, else ''."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"{', '.join(sorted(kinds))} layers carry state from one sequence to the next"
    if not isinstance(model, GenericForSequenceClassification) or not model._supports_attention_backend:
        return "it does not pool and attend the generic way"
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        return "it attends in both directions"
    if getattr(config, "attention_dropout", 0):
        return "it drops attention weights at random"
    return "it caps its attention logits" if getattr(config, "attn_logit_softcapping", None) else ""


def try_packing(model, groups, wanted, tolerance):
    """Turn packing on where the architecture allows it and it gives the padded rewards. Returns a line that says so.

    The second test is the sharper one: when the first answer of a group changes, the others must not move at all."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if reason := why_not_packable(base) if wanted else "packing is off":
        return f"padded batches: {reason}"
    padded, vocabulary = score_ids(model, groups, 8192), model.config.get_text_config().vocab_size
    transformers.AttentionInterface.register("packed_groups", packed_attention)
    base.padded_attention = base.config._attn_implementation
    base.set_attn_implementation("packed_groups")
    base.forward, base.packs = MethodType(packed_forward, base), True
    changed = [[[*group[0][:-1], (group[0][-1] + 1) % vocabulary], *group[1:]] for group in groups]
    others = [place > 0 for group in groups for place in range(len(group))]
    try:
        packed = score_ids(model, groups, 8192)
        leak = (score_ids(model, changed, 8192) - packed)[others].abs().sum() / padded.abs().max()
        reason = f"rewards differ by {(packed - padded).abs().max() / padded.abs().max():.1e}, leak {leak:.1e}"
        if leak <= 1e-5 and (packed - padded).abs().max() <= tolerance * padded.abs().max():
            return "packed batches, shared prompts computed once; checked against padded ones"
    except Exception as error:  # no kernel in this torch, or none for these shapes; padding always works
        reason = str(error)[:200]
    stop_packing(model)
    return f"padded batches: {reason}"


def stop_packing(model):
    """Back to padded rows."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation(base.padded_attention)
    del base.forward, base.packs


def pad(groups, pad_token_id, device="cpu"):
    """Groups of token-id lists -> model inputs, one padded row a sequence."""
    sequences = [sequence for group in groups for sequence in group]
    width = max(map(len, sequences))
    ids = [sequence + [pad_token_id] * (width - len(sequence)) for sequence in sequences]
    mask = [[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def batches(groups, batch_tokens, packs):
    """Yield lists of indices into groups, each a forward pass of at most batch_tokens tokens, or of one group alone.

    Packed rows keep the order; padded ones go from long to short, so that little of them is padding."""
    batch, used, width = [], 0, 0
    longest = [max(map(len, group)) for group in groups]
    for i in range(len(groups)) if packs else sorted(range(len(groups)), key=lambda i: -longest[i]):
        group = groups[i]
        packed = sum(map(len, group)) - sum(skip for skip, _ in shares(group)) if packs else 0
        if batch and used + (packed or width * len(group)) > batch_tokens:
            yield batch
            batch, used = [], 0
        width = width if batch else longest[i]
        used += packed or width * len(group)
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()  # not inference_mode: FSDP2 goes on training with what it gathers here
def score_ids(model, groups, batch_tokens):
    """Rewards (float32 tensor) of every token-id list in groups of them, in order; packed where the model packs."""
    packs, rewards = getattr(model, "packs", False), [torch.zeros(0)] * len(groups)
    for batch in batches(groups, batch_tokens, packs):
        some = [groups[i] for i in batch]
        padding = model.config.get_text_config().pad_token_id
        inputs = pack(some, model.device) if packs else pad(some, padding, model.device)
        scores = model(**inputs, use_cache=False).logits[:, 0].float().cpu()
        for i, part in zip(batch, scores.split([len(group) for group in some])):
            rewards[i] = part
    return torch.cat([torch.zeros(0), *rewards])


def reward_heads(model):
    """The linear layers that make rewards; with LoRA the base's, and last the trained one."""
    named = model.named_modules()
    return [m for name, m in named if isinstance(m, torch.nn.Linear) and re.search(r"(^|\.)score(\.|$)", name)]


def keep_float32(model):
    """Compute in float32 where rounding would show: in the reward head, for rewards rounded to bfloat16 tie, and in
    4-bit layers on a CPU, which bitsandbytes rounds to bfloat16 in evaluation alone. Returns the model."""

    def forward(self, hidden):
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), self.weight.float())

    for head in reward_heads(model):
        head.forward = MethodType(forward, head)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_reward_model(path, dtype="auto", dequantize=False):
    """Returns (model, tokenizer, contents of reward.json), ready to score.

    Refuses what would score silently wrong: a causal LM, a head that is in no file, probes that come out otherwise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if native else "float32"
    expected = "a folder written by train.py, or a sequence classifier with one label"
    try:
        folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path))
        names = ("adapter_config.json", "reward.json")
        adapter, reward = (json.loads((folder / n).read_bytes()) if (folder / n).exists() else {} for n in names)
        base = adapter.get("base_model_name_or_path", str(folder))
        base = next((str(p) for p in (Path(base), folder.parent / base) if p.is_dir()), base)
        kind = (transformers.AutoConfig.from_pretrained(base).architectures or ["unknown"])[0]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        refuse(f"no reward model at {path}: {str(error)[:200]}", expected, "python run/train.py")
    if not adapter and not kind.endswith("ForSequenceClassification"):
        refuse(f"{path} is a {kind}: it would score with a random head", expected, "python run/train.py")
    if not tokenizer.chat_template:
        mend = "put chat_template.jinja beside its tokenizer"
        refuse(f"{path} has no chat template", "the one it was trained with", mend)
    head = None
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as saved:
            names = [name for name in saved.keys() if re.search(r"(^|\.)score\.weight$", name)]
            head = saved.get_tensor(names[0]).float() if names else head
    lost = {"score.weight"} if adapter and head is None else set()  # before PEFT, which fails with a KeyError
    options = {"num_labels": 1, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if quantized := reward.get("quantization"):
        options["quantization_config"] = transformers.BitsAndBytesConfig(**quantized)
    try:
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(base, **options)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a head with more than one label
        refuse(f"{path} cannot be loaded: {str(error)[-200:]}", expected, "another --model")
    if lost := lost | (set(info["missing_keys"]) - ({"score.weight"} if adapter else set())):
        refuse(f"{path} holds no {', '.join(sorted(lost)[:3])}: its scores would be random", expected, "train again")
    if adapter:
        model = peft.PeftModel.from_pretrained(model.dequantize() if quantized and dequantize else model, folder)
    if head is not None:
        weight = reward_heads(model)[-1].weight
        weight.data = head.to(weight.device)  # as it was trained, not rounded to bfloat16
    config = model.config.get_text_config()
    config.pad_token_id = config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if config.pad_token_id is None:
        refuse(f"{path} names no token to pad with", "the one it was trained with", "pad_token_id in its config.json")
    model = keep_float32(model.eval() if quantized else model.eval().to(device))

    probes = reward.get("probes", [])
    ids = [encode(probe["messages"], tokenizer, reward["max_length"])[0] for probe in probes]
    if [fingerprint(i) for i in ids] != [probe["ids"] for probe in probes]:
        refuse(f"{path} gives other tokens for its probes", "the tokenizer it was saved with", "train again")
    scores = score_ids(model, [[i] for i in ids], 16384).tolist()
    off = [abs(score - probe["score"]) / max(1, abs(probe["score"])) for score, probe in zip(scores, probes)]
    tolerance = 1e-3 if dtype == reward.get("dtype") == "float32" else 0.1
    if not all(x <= tolerance for x in off):
        refuse(f"{path} scores its probes {off} off", f"at most {tolerance}", "the files and versions of reward.json")
    if not reward:
        print(f"warning: {path} has no reward.json: template, length limit and scores are unchecked", file=sys.stderr)
    return model, tokenizer, reward


def apply_scaling(rewards, scaling, lengths):
    """Raw rewards -> the scale that `scaling` (reward.json's entry, written by scale.py) stands for; None leaves them.

    First the reward that an answer of its length has anyway is taken off (`lengths` counts the characters of each
    scored answer). Then z = (reward − reference) / scale goes through `shape`, averaged over the references: the mean
    for a z-score, 0 for a temperature, reference answers for par and quantile. To compare with answers to the very same
    prompt, call it with scaling | {"references": their raw rewards}. Depends on no other reward of the call. Returns a
    list of floats."""
    import numpy as np

    values = np.asarray(rewards, float)
    if scaling is None:
        return values.tolist()
    if scaling.get("length"):
        values = values - np.interp(lengths, *scaling["length"])
    if scaling["shape"] == "curve":
        values = np.interp(values, *scaling["points"])
    elif scaling["shape"] == "quantile":  # share of the references below; one as high counts half
        below, up_to = (np.searchsorted(np.sort(scaling["references"]), values, side) for side in ("left", "right"))
        values = (below + up_to) / 2 / len(scaling["references"])
    else:
        log_sigmoid = {"linear": None, "sigmoid": np.exp, "log_sigmoid": np.positive}[scaling["shape"]]
        each = ((values - reference) / scaling["scale"] for reference in scaling["references"])
        values = sum(log_sigmoid(-np.logaddexp(0, -z)) if log_sigmoid else z for z in each) / len(scaling["references"])
    return np.clip(values, *scaling.get("clip") or (-np.inf, np.inf)).tolist()


# %% Scoring
def passes(groups, batch_tokens, packs):
    """Answers by prompt, {prompt: [(place, token ids)]} -> lists of (place, token ids) that each fit one forward pass,
    the prompt counted once where the model packs."""
    for answers in groups.values():
        longest, shared = (
            max(len(ids) for _, ids in answers),
            shared_prefix([ids for _, ids in answers]) if packs else 0,
        )
        most = min((batch_tokens - shared) // (longest - shared), 8 * batch_tokens // longest)
        yield from (answers[i : i + max(1, most)] for i in range(0, len(answers), max(1, most)))


INPUT = ("prompt", "response", "responses", "messages")
OUTPUT = ("file", "row", "score", "scaled", "best", "length", "tokens", "truncated", "error")


def score_rows(rows, model, tokenizer, reward, args):
    """Input rows -> output rows, one for one. Answers to the same prompt are scored together, wherever they stand."""
    results, groups, places = [], {}, itertools.count()
    max_length, scaling = args.max_length or reward.get("max_length", 2048), reward.get("scaling")
    for file, number, row, problem in rows:
        carried = {f"input_{k}" if k in OUTPUT else k: v for k, v in (row or {}).items() if k not in INPUT}
        result = {"file": file, "row": number, **carried}
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            found = conversations(row)
            references = against(row, found[0][0], scaling)
            encoded = [encode(prompt + answer, tokenizer, max_length) for prompt, answer in found + references]
            if not all(ids for ids, _ in encoded):
                raise Reject("empty", "a conversation of no tokens")
            for (prompt, _), (ids, _) in zip(found + references, encoded):
                groups.setdefault(fingerprint(prompt), []).append((next(places), ids))
            result["score"] = [None] * len(encoded)
            result["length"] = [sum(len(m["content"]) for m in answer) for _, answer in found]
            result["tokens"], result["truncated"] = [len(ids) for ids, _ in encoded], [cut > 0 for _, cut in encoded]
        except Exception as error:  # templates raise what they like; the row must still come out
            result |= {"score": None, "error": ": ".join(map(str, error.args))[:300]}
        results.append((result, (row or {}).get("responses") is not None))
    if groups and not hasattr(model, "checked"):
        model.checked = True
        tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
        some = [[ids for _, ids in answers[:2]] for answers in list(groups.values())[:4]]
        print(try_packing(model, some, args.packing, tolerance), file=sys.stderr)
    parts = list(passes(groups, args.batch_tokens, getattr(model, "packs", False)))
    scores = score_ids(model, [[ids for _, ids in part] for part in parts], args.batch_tokens).tolist()
    by_place = iter(s for _, s in sorted(zip((place for part in parts for place, _ in part), scores)))
    for result, several in results:
        if "error" not in result:
            finish(result, several, [next(by_place) for _ in result["score"]], scaling)
    return [result for result, _ in results]


def against(row, prompt, scaling):
    """The reference answers of a row, to be scored beside its responses, where the scaling compares with such."""
    if not row.get("references") or (scaling or {}).get("method") not in ("lsc", "par", "quantile"):
        return []
    return [(prompt, as_messages(answer, "assistant")) for answer in row["references"]]


def finish(result, several, scores, scaling):
    """Put the scores of one row into its result, with what follows from them."""
    n = len(result["length"])
    if not np.isfinite(scores).all():
        result |= {"score": None, "error": f"not_finite: the rewards are {scores}"[:300]}
        return
    if scores[n:]:
        scaling = scaling | {"references": scores[n:]}
    scaled = {"scaled": apply_scaling(scores[:n], scaling, result["length"])} if scaling else {}
    result |= {"score": scores[:n], **scaled, "tokens": result["tokens"][:n], "truncated": result["truncated"][:n]}
    if several:
        result["best"] = int(np.argmax(scaled.get("scaled", scores[:n])))
    else:
        result |= {name: result[name][0] for name in ("score", "length", "tokens", "truncated", *scaled)}


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
def key_of(args, *leave_out):
    """Changes with the model, the data and the parameters but those left out: a run goes on only from one like it."""
    files = [file for file in find_files(args.data) if isinstance(file, Path)]
    files += sorted(file for file in Path(args.model).rglob("*") if file.is_file()) if Path(args.model).is_dir() else []
    marks = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return fingerprint([marks, {k: v for k, v in vars(args).items() if k not in leave_out}, RENDERED_BY])


def write_json(path, value):
    """Beside, then renamed."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(beside, path)


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
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
