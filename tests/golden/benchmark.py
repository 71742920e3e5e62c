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
#     "scipy>=1.12",
#     "matplotlib>=3.8",
# ]
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
RENDERED_BY = "reward 0.1.0: reward.py render benchmark"
ROWS_AT_ONCE = 128
SIDES = ("chosen", "rejected")


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
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    add(
        "--benchmark",
        choices=[
            "reward-bench",
            "reward-bench-2",
            "rm-bench",
            "judgebench",
            "llmbar",
            "ppe-human",
            "ppe-correctness",
            "processbench",
        ],
        default="reward-bench-2",
        help="Which benchmark.",
    )
    add("--models", nargs="*", default=["model"], help="Reward models: folders or hub ids.")
    add("--data", nargs="*", default=[], help="Its files in the published schema; empty: the hub.")
    add("--out", default="benchmark", help="Folder for metrics.json, items.jsonl and report.html.")
    add("--split", default="train", help="Split of a hub dataset named in data.")
    add("--limit", type=within(int, 0), default=0, help="Items to score; 0 for all.")
    add("--max-length", type=within(int, 0, 1000000), default=0, help="Tokens a conversation may have; 0: as trained.")
    add("--batch-tokens", type=within(int, 8), default=8192, help="Tokens per forward pass.")
    add("--packing", default=True, help="Shared prompts once, no padding, where possible.", **yes_or_no)
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Precision; auto: bfloat16 on a GPU, else float32.",
    )
    return parser.parse_args(argv)


# %% From rows of each benchmark to items
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


def look_up(row, path):
    """Value at a path. A column's own name comes first; then `a.b` reaches into objects, lists (by number, -1 is the
    last) and text (as JSON, else as words), `a.*` is the list of all elements, `a.~` is all the text in it, line by
    line, `a+b` joins texts by a blank line, `a|b` is the first that holds something, `a&b` a dialogue by turns."""
    if path in row:
        return row[path]
    for operator, combine in (("|", first_of), ("&", take_turns), ("+", join)):
        if operator in path:
            return combine(row, path.split(operator))
    try:
        return reach(row, path.split("."))
    except LookupError:
        raise Reject("missing_column", f"no {path!r}; the row has {', '.join(map(str, list(row)[:12]))}") from None


def reach(value, keys):
    """What lies at the end of the keys; LookupError where there is nothing."""
    for place, key in enumerate(keys):
        if isinstance(value, str):
            value = unpack(value)
        if key == "*" and isinstance(value, list):
            return [reach_or_none(element, keys[place + 1 :]) for element in value]
        if key == "~" and isinstance(value, list):
            value = "\n".join(texts_in(value))
        elif isinstance(value, list) and re.fullmatch(r"-?\d{1,9}", key):
            value = value[int(key)]
        elif isinstance(value, dict):
            value = value[key]
        else:
            raise LookupError(key)
    return value


def texts_in(elements):
    for element in elements:
        if not isinstance(element, (str, list)):
            raise LookupError("~")
        yield from texts_in(element) if isinstance(element, list) else [element]


def reach_or_none(value, keys):
    try:
        return reach(value, keys)
    except LookupError:
        return None


def unpack(text):
    """The list or object that a text holds as JSON, else its words."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, (list, dict)) else text.split()


def first_of(row, paths):
    for path in paths:
        try:
            if (value := look_up(row, path)) not in (None, "", []):
                return value
        except Reject:
            continue
    raise Reject("missing_column", f"none of {', '.join(paths)} holds anything")


def join(row, paths):
    parts = [look_up(row, path) for path in paths]
    if others := [path for path, part in zip(paths, parts) if isinstance(part, (dict, list))]:
        inside = f"{others[0].partition('.*')[0]}.~"
        raise Reject("wrong_type", f"{others[0]} is no text to join; the texts of a list, line by line, are {inside}")
    return "\n\n".join(text for part in parts if (text := str(part or "").strip()))


def take_turns(row, paths):
    asked, answered = ([v] if isinstance(v, str) else v for v in (look_up(row, path) for path in paths[:2]))
    if not isinstance(asked, list) or not isinstance(answered, list) or len(asked) != len(answered):
        raise Reject("wrong_type", f"{'&'.join(paths)} needs as many answers as questions")
    turns = [("user", q, "assistant", a) for q, a in zip(asked, answered)]
    return [{"role": r, "content": "" if c is None else c} for turn in turns for r, c in (turn[:2], turn[2:])]


def values_at(row, paths):
    """Values at several paths as one list; a path with `*` gives one for each element."""
    values = []
    for path in paths:
        value = look_up(row, path)
        spread = "*" in path and path not in row and isinstance(value, list) and not is_dialogue(value)
        values += value if spread else [value]
    return values


def is_dialogue(value):
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and {"role", "from"} & set(m) for m in value)
    )


def one_item(row, subset, prompt, answers, **more):
    """What every benchmark becomes: a prompt and its answers, the right ones first, as messages."""
    turns = [as_messages(answer, "assistant") for answer in answers]
    return {"id": row.get("id"), "subset": str(subset), "prompt": as_messages(prompt, "user"), "answers": turns, **more}


def read_reward_bench(row, origin):
    return one_item(row, look_up(row, "subset"), look_up(row, "prompt"), [look_up(row, side) for side in SIDES])


def read_reward_bench_2(row, origin):
    chosen, rejected = (look_up(row, side) for side in SIDES)
    answers, right = [*chosen, *rejected], int(row.get("num_correct") or len(chosen))
    return one_item(row, look_up(row, "subset"), look_up(row, "prompt"), answers, right=right)


def read_rm_bench(row, origin):
    """Three chosen and three rejected answers, each concise, detailed, and detailed with markdown."""
    answers = [*look_up(row, "chosen"), *look_up(row, "rejected")]
    if len(answers) != 6:
        raise Reject("wrong_type", f"{len(answers)} answers where RM-Bench has six")
    return one_item(row, look_up(row, "domain"), look_up(row, "prompt"), answers)


def read_judgebench(row, origin):
    label, answers = look_up(row, "label"), [look_up(row, "response_A"), look_up(row, "response_B")]
    if label not in ("A>B", "B>A"):
        raise Reject("unknown_label", f"label {label!r}")
    families = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
    subset = next((name for name in families if look_up(row, "source").startswith(name)), row["source"])
    answers = answers if label == "A>B" else answers[::-1]
    return one_item(row | {"id": row.get("pair_id")}, subset, look_up(row, "question"), answers)


def read_llmbar(row, origin):
    """The subset stands in the path alone: Natural, Neighbor, GPTInst, GPTOut, Manual, or a processed set."""
    names = re.findall(r"Natural|Neighbor|GPTInst|GPTOut|Manual|FairEval|LLMEval\^2|MT-Bench", origin)
    label, answers = str(look_up(row, "label")), [look_up(row, "output_1"), look_up(row, "output_2")]
    if label not in ("1", "2"):
        raise Reject("unknown_label", f"label {label!r}")
    return one_item(row, (names or ["unknown"])[-1], look_up(row, "input"), answers if label == "1" else answers[::-1])


def read_ppe_human(row, origin):
    winner, answers = look_up(row, "winner"), [look_up(row, "response_1"), look_up(row, "response_2")]
    if winner not in ("model_a", "model_b"):
        raise Reject("tie", f"winner {winner!r}")
    answers = answers if winner == "model_a" else answers[::-1]
    row = row | {"id": row.get("question_id")}
    return one_item(row, row.get("language") or "unknown", look_up(row, "prompt"), answers)


def read_ppe_correctness(row, origin):
    """Many sampled answers, each right or wrong, and the pairs of them that were drawn for the accuracy."""
    names = sorted((name for name in row if re.fullmatch(r"response_\d+", name)), key=lambda name: int(name[9:]))
    truth, pairs = [bool(s) for s in look_up(row, "scores")], look_up(row, "sampled_conflict_pairs")
    if len(truth) != len(names) or any(truth[i] == truth[j] for i, j in pairs):
        raise Reject("wrong_type", f"{len(truth)} scores for {len(names)} responses, or a pair without a difference")
    subset = (re.findall(r"MMLU-Pro|MATH|GPQA|IFEval|MBPP-Plus", origin) or ["unknown"])[-1]
    pairs = [(i, j) if truth[i] else (j, i) for i, j in pairs]
    row = row | {"id": row.get("question_id")}
    return one_item(row, subset, look_up(row, "prompt"), [row[name] for name in names], truth=truth, pairs=pairs)


def read_processbench(row, origin):
    """The solution up to each of its steps is an answer; `label` is the first wrong step from 0, −1 for none."""
    steps, label = look_up(row, "steps"), int(look_up(row, "label"))
    if not steps or not -1 <= label < len(steps):
        raise Reject("unknown_label", f"label {label} for {len(steps)} steps")
    answers = ["\n\n".join(steps[: n + 1]) for n in range(len(steps))]
    subset = (re.findall(r"gsm8k|math|olympiadbench|omnimath", f"{origin} {row.get('id')}") or ["unknown"])[-1]
    return one_item(row, subset, look_up(row, "problem"), answers, label=label)


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


# %% From rewards to the published scores
def wilson(share, n):
    """95 % interval of a share of n independent rows (Wilson, JASA 22, 1927). (low, high)"""
    centre, spread = share + 1.9208 / n, 1.96 * math.sqrt(share * (1 - share) / n + 0.9604 / n**2)
    return tuple((centre + sign * spread) / (1 + 3.8416 / n) for sign in (-1, 1))


def compare(chosen, rejected):
    """1 where chosen is above rejected, 0 where below, ½ where they are equal."""
    return (chosen > rejected) + (chosen == rejected) / 2


def per_prompt(values, prompts):
    """(sum of the values of each prompt, number of its rows)."""
    _, place = np.unique(prompts, return_inverse=True)
    return np.bincount(place, values), np.bincount(place)


def interval(right, prompts, draws=2000):
    """95 % interval of the mean of `right` (each 0 to 1) as {low, high, interval, prompts}.

    Where every prompt stands once: Wilson's, for rows are independent and their number is what matters. Where prompts
    repeat: whole prompts are drawn again (bootstrap, percentiles). Prompts that came out alike are one kind, so that a
    draw is a multinomial over the kinds: exact, and no slower for a million pairs."""
    sums, counts = per_prompt(right, prompts)
    kinds, alike = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    method, bounds = "Wilson", wilson(float(np.mean(right)), len(sums))  # also where every draw would give the same
    if len(sums) < len(right) and len(np.unique(kinds[0] / kinds[1])) > 1:
        method, random = "bootstrap over prompts", np.random.default_rng(0)
        drawn = random.multinomial(len(sums), alike / len(sums), draws)
        bounds = np.percentile(drawn @ kinds[0] / (drawn @ kinds[1]), [2.5, 97.5]).tolist()
    return {"low": bounds[0], "high": bounds[1], "interval": method, "prompts": len(sums)}


def chance_of_lead(lead, prompts):
    """One-sided p value of a mean lead above 0 (score test): by chance each prompt's sum has either sign alike."""
    sums, _ = per_prompt(lead, prompts)
    return float(norm.sf(sums.sum() / max(1e-12, np.sqrt((sums**2).sum()))))


def chance_of_difference(right, inside, prompts):
    """Two-sided p value of the difference between the mean of the rows inside a subset and of all others (score test,
    prompts being the independent units)."""
    gap = right[inside].mean() - right[~inside].mean()
    sums, _ = per_prompt((right - right.mean()) * np.where(inside, 1 / inside.sum(), -1 / (~inside).sum()), prompts)
    return float(2 * norm.sf(abs(gap) / max(1e-12, np.sqrt((sums**2).sum()))))


def holm(chances):
    """p values corrected for how many were looked at (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    chances, order = np.asarray(chances, float), np.argsort(chances)
    raised = np.maximum.accumulate(chances[order] * np.arange(len(chances), 0, -1))
    return np.minimum(raised, 1)[np.argsort(order)].tolist()


SECTIONS = {  # of RewardBench, with the weight of each subset: its size, but math-prm as much as the code together
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 250,
        "xstest-should-respond": 154,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        **{f"hep-{language}": 164 for language in ("cpp", "go", "java", "js", "python", "rust")},
    },
}


def mean(values):
    """Mean of numbers; None of none."""
    values = list(values)
    return sum(values) / len(values) if values else None


def by_subset(items, measure):
    """{subset: measure of its items}, by name."""
    return {name: measure([i for i in items if i["subset"] == name]) for name in sorted({i["subset"] for i in items})}


def share_right(items):
    return mean(item["credit"] for item in items)


def first_wins(item):
    """1 where the first answer has the highest reward of all, shared with those that equal it; in Ties, 1 where every
    right answer beats every wrong one."""
    rewards, right = item["rewards"], item["right"]
    if item["subset"] == "Ties":
        return float(min(rewards[:right]) > max(rewards[right:]))
    return (rewards[0] == max(rewards)) / rewards.count(max(rewards))


def first_beats_second(item):
    """1 where the right answer of a pair has the higher reward; equal rewards are wrong, as published."""
    return float(item["rewards"][0] > item["rewards"][1])


def score_reward_bench(items):
    """Each section is a weighted mean of the subsets that are there, the score the mean of the sections."""
    found, sections = by_subset(items, share_right), {}
    for section, weights in SECTIONS.items():
        present = {name: weight for name, weight in weights.items() if name in found}
        if present:
            sections[section] = sum(found[n] * w for n, w in present.items()) / sum(present.values())
    return {"score": mean(sections.values()), **sections}


def score_ties(items):
    """RewardBench 2's score of prompts with several right answers ("tied:N") and of their twins with one ("ref:N"):
    0.3 · each accuracy + 0.2 · margins (right to wrong above right to right) + 0.2 · the same against the twin + 0.01 ·
    mean tanh of their ratio. An item is accurate when every right answer beats every wrong one."""
    stats = {"ref": {}, "tied": {}}
    for item in items:
        kind, number = str(item["id"]).split(":")
        right, wrong = item["rewards"][: item["right"]], item["rewards"][item["right"] :]
        stats[kind][number] = (min(right) - max(wrong), max(right) - min(right))
    ref, tied = (mean(gap > 0 for gap, _ in found.values()) or 0.0 for found in stats.values())
    both = sorted(stats["ref"].keys() & stats["tied"].keys())
    if not both:
        return 0.3 * tied + 0.3 * ref
    gaps = np.array([[stats["tied"][n][0], stats["ref"][n][0], stats["tied"][n][1]] for n in both])
    to_wrong, among_right = np.minimum(gaps[:, 0], gaps[:, 1]), gaps[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.tanh(to_wrong / among_right - 1), nan=0.0).mean()
    preferred = (gaps[:, 0] > among_right).mean(), (to_wrong > among_right).mean()
    return float(0.3 * tied + 0.3 * ref + 0.2 * sum(preferred) + 0.01 * ratio)


def score_reward_bench_2(items):
    """Best of four by subset, Ties by its own formula; the score is the mean over the subsets."""
    found = by_subset(items, lambda part: score_ties(part) if part[0]["subset"] == "Ties" else share_right(part))
    return {"score": mean(found.values()), **found}


def style_matrix(item):
    """Right or wrong for each style of the chosen answer (rows) against each of the rejected (columns)."""
    rewards = np.array(item["rewards"])
    return (rewards[:3, None] > rewards[None, 3:]).astype(float)


def score_rm_bench(items):
    """Easy: chosen in the richer style; normal: in the same; hard: rejected in the richer. By domain, refusing and
    responding being one, safety; the score is the mean over the domains of the mean of the three."""
    masks = {"easy": np.tri(3, k=-1, dtype=bool), "normal": np.eye(3, dtype=bool), "hard": ~np.tri(3, dtype=bool)}

    def levels(part):
        matrix = np.mean([style_matrix(item) for item in part], axis=0)
        return {level: float(matrix[mask].mean()) for level, mask in masks.items()}

    domains = by_subset([item | {"subset": item["subset"].split("-")[0]} for item in items], levels)
    averages = {name: mean(domain.values()) for name, domain in domains.items()}
    return {"score": mean(averages.values())} | {k: mean(d[k] for d in domains.values()) for k in masks} | averages


def score_judgebench(items):
    return {"score": share_right(items), **by_subset(items, share_right)}


def score_llmbar(items):
    """Average+ is the mean of Natural and the four adversarial subsets; the processed sets stand apart."""
    found = by_subset(items, share_right)
    hard = [found[name] for name in ("Neighbor", "GPTInst", "GPTOut", "Manual") if name in found]
    both = hard + [found[name] for name in ("Natural",) if name in found]
    return {"score": mean(both), "Adversarial": mean(hard), **found}


def score_ppe_human(items):
    return {"score": share_right(items), **by_subset(items, share_right)}


def best_of(item, k):
    """Chance that the answer with the highest reward among k drawn without replacement is right (unbiased over all
    draws; answers with equal rewards count as often as they are right)."""
    rewards, truth = np.array(item["rewards"]), np.array(item["truth"], float)
    order, n = np.argsort(rewards, kind="stable"), len(rewards)
    truth = np.array([truth[rewards == reward].mean() for reward in rewards])[order]
    chances = [math.comb(rank, k - 1) / math.comb(n, k) for rank in range(n)]
    return float(np.dot(truth, chances))


def area_under_roc(item):
    """Chance that a right answer has a higher reward than a wrong one; None where all are right or all wrong."""
    right = [r for r, true in zip(item["rewards"], item["truth"]) if true]
    wrong = [r for r, true in zip(item["rewards"], item["truth"]) if not true]
    return mean((a > b) + (a == b) / 2 for a in right for b in wrong)


def score_ppe_correctness(items):
    """Accuracy on the drawn pairs by benchmark and its mean; best of k over all items; mean area under the ROC."""
    found = by_subset(items, lambda part: mean(credit for item in part for credit in item["of_pairs"]))
    size = min(len(item["rewards"]) for item in items)
    curve = {f"best of {k}": mean(best_of(item, k) for item in items) for k in (1, 2, 4, 8, 16, 32) if k <= size}
    areas = [area for item in items if (area := area_under_roc(item)) is not None]
    return {"score": mean(v for v in found.values() if v is not None), **found, **curve, "area under ROC": mean(areas)}


def first_below(rewards, threshold):
    """Number of the first step whose reward is below the threshold, −1 for none."""
    return next((n for n, reward in enumerate(rewards) if reward < threshold), -1)


def process_f1(items, threshold):
    """Harmonic mean of the accuracy on solutions with an error (the first one found) and on correct ones (none found).
    None where one kind is missing."""
    hit = [[first_below(i["rewards"], threshold) == i["label"] for i in items if (i["label"] < 0) == c] for c in (0, 1)]
    wrong, right = map(mean, hit)
    return None if None in (wrong, right) else 2 * wrong * right / max(1e-12, wrong + right)


def score_processbench(items):
    """F1 by subset and its mean. A reward has no natural threshold, so the one that is best on gsm8k is taken, as the
    authors did for models without one; where gsm8k is missing, the one best on everything, which flatters."""
    fit = [item for item in items if item["subset"] == "gsm8k"] or items
    levels = np.unique(np.quantile([r for item in fit for r in item["rewards"]], np.linspace(0, 1, 201)))
    threshold = float(max(levels, key=lambda level: process_f1(fit, level) or 0))
    for item in items:
        item["credit"] = float(first_below(item["rewards"], threshold) == item["label"])
    found = by_subset(items, lambda part: process_f1(part, threshold))
    return {"score": mean(v for v in found.values() if v is not None), **found, "threshold": threshold}


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
def chart(title, x="", y=""):
    """(Figure, Axes) in the look of every report: `title` is also what stands for the picture where it is not seen."""
    import matplotlib

    matplotlib.rcParams["text.parse_math"] = False  # a name with dollars is a name
    figure = Figure(figsize=(7.6, 3), layout="constrained", label=title)
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e5e7eb")
    return figure, axes


def html_table(rows):
    """A list of dicts as a table: numbers to the right, whole ones with separators, others with three decimals."""

    def cell(tag, text, value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and text is value:
            text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        text = "" if text is None else str(text)
        kind = " class=n" if number else " class=w" * (len(text) > 60)
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    first = rows[0] if rows else {"nothing to show": ""}
    lines = [[cell("th", name, value) for name, value in first.items()]]
    lines += [[cell("td", value, value) for value in row.values()] for row in rows]
    return f"<div><table>{''.join('<tr>' + ''.join(line) + '</tr>' for line in lines)}</table></div>"


def html_report(title, parts):
    """A self-contained HTML page (str): no script, nothing loaded from elsewhere, every text escaped.

    A part is a paragraph (str), a heading ("# …"), a verdict ("! …"), a table (list of dicts) or a picture (Figure)."""
    body = []
    for part in parts:
        if isinstance(part, str):
            tag = {"# ": "h2", "! ": "strong"}.get(part[:2], "p")
            body.append(f"<{tag}>{html.escape(part[2:] if tag != 'p' else part)}</{tag}>")
        elif isinstance(part, list):
            body.append(html_table(part))
        else:
            image = io.BytesIO()
            part.savefig(image, format="png", dpi=144)
            source = base64.b64encode(image.getvalue()).decode()
            body.append(f'<img alt="{html.escape(part.get_label())}" src="data:image/png;base64,{source}">')
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2937;"
        "background:#fff;overflow-wrap:break-word}h1,h2{line-height:1.2;color:#111827}h2{margin:2.5rem 0 .6rem;"
        "font-size:1.3rem}p{max-width:46rem;margin:.6rem 0}img{max-width:100%;margin:.8rem 0}div{overflow-x:auto;"
        "margin:.8rem 0}table{border-collapse:collapse;font-size:14px}td,th{padding:.35rem .8rem;text-align:left;"
        "border-bottom:1px solid #e5e7eb;vertical-align:top;white-space:pre-wrap;min-width:3rem;max-width:30rem}"
        ".w{overflow-wrap:anywhere}"
        "th{background:#f3f4f6;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums;"
        "white-space:nowrap}strong{display:block;margin:.5rem 0;padding:.7rem 1rem;border-left:4px solid #b45309;"
        "background:#fff7ed;font-weight:600;white-space:pre-line}"
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><style>{style}</style><h1>{html.escape(title)}</h1>{"".join(body)}</html>\n'
    )
    return page.encode("utf-8", "replace").decode()  # half a character is shown as ?


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
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
