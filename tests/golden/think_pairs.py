# /// script
# requires-python = ">=3.10"
# dependencies = ["pyarrow>=21", "datasets>=4.7"]
# ///
"""Think pairs: make preference pairs about thinking from completions that are known to be right or wrong.

A right completion is chosen over a wrong one of the same prompt (poor), its own answer without thinking (absent), its
thinking cut off (cut), one step repeated over and over (repeated), or the thinking of another question before its own
answer (unfaithful). Writes rows that format.py reads, and a report of what became of every input row.
"""

import argparse
import bisect
import collections
import csv
import functools
import gzip
import io
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

RENDERED_BY = "reward 0.1.0: reward.py render think_pairs"
KINDS = ("poor", "absent", "cut", "repeated", "unfaithful")


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
    add("--data", nargs="*", default=[], help="Completions labelled right or wrong, or labelled steps.")
    add("--out", default="thinking_pairs.jsonl", help="File of pairs to write, for format to read.")
    add("--split", default="train", help="Split of a hub dataset.")
    add("--label", default="correct", help="Column that says whether a response is right.")
    add("--close", default="", help="Text that ends the thinking where there are no tags.")
    add(
        "--step",
        choices=["auto", "paragraph", "line", "sentence"],
        default="auto",
        help="Where steps end; auto: the widest that divides.",
    )
    add(
        "--kinds",
        nargs="*",
        default=["poor", "absent", "cut", "repeated", "unfaithful"],
        help="What good thinking stands against.",
    )
    add("--each", type=within(int, 1, 100), default=1, help="Pairs of each kind from one good completion.")
    add("--match-length", default=False, help="Only pairs among which longer tells nothing.", **yes_or_no)
    add("--seed", type=within(int, 0), default=42, help="Decides where to cut, what to repeat, which to take.")
    return parser.parse_args(argv)


# %% Reading completions
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


def labelled_steps(row):
    """[(question, steps, place of the first wrong step, -1 for none)] of a row of ProcessBench, PRMBench or TRL's
    stepwise data; [] for other rows. Raises ValueError or KeyError where a label is none of the steps, or they are no
    texts."""
    if {"problem", "steps", "label"} <= set(row):
        found = [(row["problem"], row["steps"], int(row["label"]))]
    elif {"original_question", "original_process", "modified_process", "error_steps"} <= set(row):
        asked, first = row["original_question"], min(row["error_steps"] or [0]) - 1
        found = [(asked, row["original_process"], -1)]
        found += [(row.get("modified_question") or asked, row["modified_process"], first)]
    elif {"prompt", "completions", "labels"} <= set(row):
        known = {"true": True, "1": True, "+": True, "false": False, "0": False, "-": False}
        wrong = [place for place, good in enumerate(row["labels"]) if not known[str(good).lower()]]
        found = [(row["prompt"], row["completions"], wrong[0] if wrong else -1)]
        if len(row["labels"]) != len(row["completions"]):
            raise ValueError(f"{len(row['labels'])} labels for {len(row['completions'])} steps")
    else:
        found = []
    for question, steps, first in found:
        if not isinstance(steps, list) or not steps or not all(isinstance(text, str) for text in (question, *steps)):
            raise ValueError("question and steps must be text, and at least one step")
        if first >= len(steps):
            raise ValueError(f"an error in step {first + 1} of {len(steps)}")
    return found


def as_completions(row, label):
    """(prompt, answer message, correct, (steps, first error)) of each completion in a row; None where unknown.

    Reads prompt + response(s) or messages, with a label for each; labelled_steps; and the GSM8K model solutions."""
    row = {name: value for name, value in row.items() if value is not None}
    if stepwise := labelled_steps(row):
        found = []
        for question, steps, first in stepwise:
            text = "<think>\n" + "\n\n".join(steps) + f"\n</think>\n\n{steps[-1]}"
            message = {"role": "assistant", "content": text}
            found.append((as_messages(question, "user"), message, first < 0, (steps, first)))
        return found
    if "question" in row and (solved := [v for v in row.values() if isinstance(v, dict) and "solution" in v]):
        asked = row["question"]  # GSM8K model solutions
        found = [(as_messages(v["solution"], "assistant")[0], v.get("is_correct")) for v in solved]
    elif "messages" in row:
        asked, answer = (messages := as_messages(row["messages"], "user"))[:-1], messages[-1:]
        found = [(answer[0], row.get(label))] if answer else []
    elif "prompt" in row and ("response" in row or "responses" in row):
        asked, answers = row["prompt"], row["responses"] if "responses" in row else [row["response"]]
        labels = row[label] if isinstance(row.get(label), list) else [row.get(label)] * len(answers)
        if not isinstance(answers, list) or len(labels) != len(answers):
            raise Reject("wrong_type", f"responses must be a list, and {label} one value or as many")
        found = [(as_messages(answer, "assistant")[-1], good) for answer, good in zip(answers, labels)]
    else:
        raise Reject(
            "missing_column", f"no prompt + response(s), messages or steps; the row has {', '.join(map(str, row))}"
        )
    if not found or any(answer["role"] != "assistant" for answer, _ in found):
        raise Reject("last_turn_not_assistant", "the last message must be the assistant's")
    prompt = as_messages(asked, "user")
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return [(prompt, answer, known.get(str(good).lower()), None) for answer, good in found]


class Convention(NamedTuple):
    """How a model marks its thinking, in regular expressions. `markup` is the rest of the format, around the answer;
    `lone`: a closing tag with no opening one before it tells that the prompt opened the block."""

    open: str
    close: str
    markup: str = ""
    lone: bool = True


CONVENTIONS = {  # only what cannot be derived, as </think> is from <think>, [/THINK] from [THINK]
    "harmony": Convention(
        r"<\|channel\|>analysis[^<]*<\|message\|>",
        r"<\|end\|>",
        r"<\|start\|>assistant[^<]*|<\|channel\|>(?!analysis)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
        r"|<\|return\|>|<\|call\|>",
        lone=False,
    ),
    "harmony_decoded": Convention(r"\Aanalysis(?=.*assistantfinal)", "assistantfinal", lone=False),  # no special tokens
    "cohere": Convention(
        r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", r"<\|(?:START|END)_(?:RESPONSE|TEXT)\|>|<\|END_OF_TURN_TOKEN\|>"
    ),
    "gemma": Convention(r"<\|channel>thought\n?", r"<channel\|>", r"<turn\|>"),
    "kimi_k3": Convention(
        r"<\|open\|>think<\|sep\|>",
        r"<\|close\|>think<\|sep\|>",
        r"<\|(?:open|close)\|>(?:response|message)<\|sep\|>|<\|end_of_msg\|>",
    ),
    "muse": Convention(r" to=self<\|message\|>", r"<\|eom\|>", r"<\|start\|>assistant| to=user<\|message\|>|<\|eot\|>"),
    "apertus": Convention(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    "granite": Convention(r"Here(?: is|'s) my thought process:", r"Here(?: is|'s) my response:", lone=False),
}
TAG = r"([<\[◁])/?((?:\w+:)?(?i:think|thinking|thought|reasoning)(?::\w+)?[>\]▷])"
QUOTES = ("``", '""', "''", "“”", "‘’", "«»")


class Thinking(NamedTuple):
    """A completion in its parts. `thinking` and `answer` are stripped text; `parts` is everything, (kind, text) in
    order with kind thinking, answer or tag (from token ids: kind and ids). Joined, the parts are the completion.

    status, the first that holds:
    absent    no block            unclosed  it never ends: cut off       empty   closed, and nothing in it
    nested    a block in a block  several   more than one block          quoted  the answer speaks of the tags
    opened    closed; its opening tag is the end of the prompt           closed  one block, then the answer"""

    thinking: str
    answer: str
    status: str
    opened: bool
    parts: tuple
    convention: Convention


def tags_like(tag):
    """The convention of an opening tag such as <think> or [THINK]."""
    return Convention(re.escape(tag), re.escape(f"{tag[0]}/{tag[1:]}"))


def conventions_in(text):
    """Every convention that text could follow: those of the table, and one for each tag it holds."""
    tags = dict.fromkeys(left + name for left, name in re.findall(TAG, text))
    return [*CONVENTIONS.values(), *map(tags_like, tags)]


def find_tags(text, convention):
    """(start, end, kind) of every tag in text: open, close, markup, or quoted. Quoted is a tag between quotation marks,
    and an opening one in the middle of a sentence or in a code block behind the thinking."""
    rules = zip(("open", "close", "markup"), convention)
    tags, closed = [], 0
    for tag in re.finditer("|".join(f"(?P<{kind}>{rule})" for kind, rule in rules if rule), text, re.DOTALL):
        kind, (start, end) = tag.lastgroup, tag.span()
        around = text[max(0, start - 1) : start] + text[end : end + 1]
        within = re.search(r"[^\s.!?:>] $", text[max(0, start - 2) : start]) or text.count("```", closed, start) % 2
        if not convention.markup and (around in QUOTES or kind == "open" and within):
            kind = "quoted"
        closed = end if kind == "close" else closed
        tags.append((start, end, kind))
    return tags


def recognise(text, opened):
    """The convention that text follows: that of its first opening tag, else of its first tag, else <think>."""
    first = {}
    for convention in conventions_in(text):
        for start, _, kind in find_tags(text, convention):
            if kind in ("open", "markup") or kind == "close" and (convention.lone or opened):
                first.setdefault((kind != "open", start), convention)
    return first[min(first)] if first else tags_like("<think>")


def split_spans(tags, size, opened, markup):
    """Tags in something of `size` -> ([(kind, start, end)], blocks, whether one is nested, whether one never ends)."""
    spans, depth, blocks, nested, last, at = [], int(opened), int(opened), False, None, 0

    def put(kind, start, end):
        nonlocal at, last
        spans.extend([(kind, at, start), ("tag", start, end)])
        at, last = end, None

    for start, end, kind in tags:
        if depth == 0 and kind == "open":
            put("answer", start, end)
            depth, blocks = 1, blocks + 1
        elif depth == 0 and markup and kind != "quoted":
            put("answer", start, end)
        elif depth and kind == "open":
            depth, nested = depth + 1, True
        elif depth and kind in ("close", "markup"):
            depth, last = depth - 1 if kind == "close" else 0, (start, end)
            if depth == 0:
                put("thinking", start, end)
    if last:  # more blocks begin than end: the last closing tag ends them all
        put("thinking", *last)
        depth = 0
    spans.append(("thinking" if depth else "answer", at, size))
    return [span for span in spans if span[1] < span[2]], blocks, nested, depth > 0


def assemble(parts, texts, blocks, nested, unclosed, opened, convention):
    """Parts and the text of each -> Thinking."""
    thinking, answer = (
        between.join(text for (part, _), text in zip(parts, texts) if part == kind).strip()
        for kind, between in (("thinking", "\n"), ("answer", ""))
    )
    statuses = {
        "absent": not blocks,
        "unclosed": unclosed,
        "empty": not thinking,
        "nested": nested,
        "several": blocks > 1,
        "quoted": re.search(f"{convention.open}|{convention.close}", answer, re.DOTALL),
        "opened": opened,
    }
    status = next((name for name, holds in statuses.items() if holds), "closed")
    return Thinking(thinking, answer, status, opened, tuple(parts), convention)


def split_thinking(text, opened=False, convention=None):
    """A completion -> Thinking.

    opened: whether the prompt ends with the opening tag (see opening_tag); a lone closing tag says so by itself.
    convention: of the model (see convention_of), a name in CONVENTIONS or an opening tag; None looks at the text."""
    if isinstance(convention, str):
        convention = CONVENTIONS.get(convention) or tags_like(convention)
    convention = convention or recognise(text, opened)
    tags = find_tags(text, convention)
    opened = is_opened(tags, text[: tags[0][0]] if tags else "", opened, convention)
    spans, *found = split_spans(tags, len(text), opened, convention.markup)
    parts = [(kind, text[start:end]) for kind, start, end in spans]
    return assemble(parts, [text for _, text in parts], *found, opened, convention)


def is_opened(tags, before, opened, convention):
    """Whether a completion begins inside a block: its first tag closes one, or the prompt opened it and the completion
    does not do so again. `before` is the text before its first tag."""
    first = tags[0][2] if tags else ""
    return bool(convention.lone and first == "close" or opened and not (first == "open" and not before.strip()))


def opening_tag(prompt):
    """The opening tag that a rendered prompt ends with, or "": the completion then begins inside the block."""
    endings = [re.search(rf"(?:{convention.open})\s*\Z", prompt) for convention in conventions_in(prompt)]
    return next((ending.group() for ending in endings if ending), "")


def convention_of(tokenizer):
    """The convention that the chat template or the added tokens of a tokenizer name, or None."""
    named = f"{tokenizer.chat_template or ''} {' '.join(tokenizer.get_added_vocab())}"
    known = [c for c in conventions_in(named) if re.search(f"{c.open}|{c.close}", named)]
    return min(known, key=lambda c: re.search(f"{c.open}|{c.close}", named).start(), default=None)


def thinking_tags(tokenizer):
    """{tag: id} of the tokens that are an opening or closing tag, by name."""
    rules = convention_of(tokenizer)
    vocabulary = tokenizer.get_added_vocab() if rules else {}
    return {token: i for token, i in vocabulary.items() if re.fullmatch(f"{rules.open}|{rules.close}", token)}


def split_thinking_ids(ids, tokenizer, opened=False):
    """Token ids of a completion -> Thinking whose parts hold ids. Where tags are one token each, only that token is a
    tag: the same letters in other tokens are text. Elsewhere a token across a border goes with what it begins in."""
    convention, ids = convention_of(tokenizer), list(ids)
    decode = functools.partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    if len(thinking_tags(tokenizer)) < 2:
        whole = split_thinking(decode(ids), opened, convention)
        decoded = functools.cache(lambda i: len(decode(ids[:i]).rstrip("\ufffd")))  # no half characters
        at, size, parts = 0, 0, []
        for kind, text in whole.parts:
            size, start = size + len(text), at
            at = bisect.bisect_left(range(len(ids)), size, start, key=decoded)
            parts += [(kind, ids[start:at])] * (at > start)
        parts[-1:] = [(kind, part + ids[at:]) for kind, part in parts[-1:] or [("answer", [])] if ids]
        return whole._replace(parts=tuple(parts))
    rules, tags = list(zip(("open", "close", "markup"), convention)), []
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        kind = next((kind for kind, rule in rules if rule and re.fullmatch(rule, token)), "")
        tags += [(place, place + 1, kind)] * bool(kind)
    opened = is_opened(tags, decode(ids[: tags[0][0]]) if tags else "", opened, convention)
    spans, *found = split_spans(tags, len(ids), opened, convention.markup)
    parts = [(kind, ids[start:end]) for kind, start, end in spans]
    return assemble(parts, [decode(part) for _, part in parts], *found, opened, convention)


def step_ends(text, kind="auto"):
    """Where each step of a text ends: at blank lines, else at line ends, else at sentence ends (kind auto)."""
    rules = {"paragraph": r"\n\s*\n\s*", "line": r"\s*\n\s*", "sentence": r"(?<=[.!?。！？])\s*(?=\S)"}
    for rule in rules.values() if kind == "auto" else [rules[kind]]:
        ends = [m.start() for m in re.finditer(rule, text) if text[: m.start()].strip() and text[m.end() :].strip()]
        if ends:
            break
    return [*dict.fromkeys(ends), len(text.rstrip())] if text.strip() else []


def read_completions(args, counts):
    """Every completion with thinking and a label: (prompt, thinking, answer, correct)."""
    for file, number, row, problem in read_rows(args.data, args.split):
        counts["rows"] += 1
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            found = as_completions(row, args.label)
        except (Reject, TypeError, ValueError, LookupError) as error:
            reason = error.args[0] if isinstance(error, Reject) else "wrong_type"
            print(f"{file} row {number}: {': '.join(map(str, error.args))[:200]}", file=sys.stderr)
            counts[f"row_{reason}"] += 1
            continue
        for prompt, message, correct, _ in found:
            thinking, answer = message.get("thinking", ""), message["content"]
            if not thinking:
                rule = Convention(r"(?!)", re.escape(args.close)) if args.close else None
                split = split_thinking(message["content"], bool(args.close), rule)
                thinking, answer = split.thinking, split.answer
            counts["completions"] += 1
            lacks = "no_label" if correct is None else "no_thinking" if not thinking.strip() else ""
            counts[lacks or ("right" if correct else "wrong")] += 1
            if not lacks:
                yield prompt, thinking.strip(), answer.strip(), correct


# %% From a good completion to a worse one
def written(thinking, answer):
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


def steps_of(thinking, kind):
    """The steps of a text; joined they are the text."""
    ends = step_ends(thinking, kind)
    return [thinking[a:b] for a, b in zip([0, *ends], [*ends[:-1], len(thinking)])]


def worse(kind, good, others, sizes, rng, args):
    """The text of a worse completion than `good` (prompt, thinking, answer, correct), or None where there can be none.

    `others` are all good completions, ordered by the length of their thinking, which `sizes` holds."""
    _, thinking, answer, _ = good
    steps = steps_of(thinking, args.step)
    if kind == "absent":
        return answer or None
    if kind == "cut":
        return "<think>\n" + "".join(steps[: rng.randrange(1, len(steps))]).rstrip() if len(steps) > 1 else None
    if kind == "repeated":  # as long as what it stands against, so that length tells nothing
        at = rng.randrange(max(1, len(steps) // 2))
        said, again = "".join(steps[: at + 1]).rstrip(), "\n" + steps[at].strip()
        while len(said) + len(again) / 2 < len(thinking) and len(steps) > 1:
            said += again
        return written(said, answer) if said.count(again.strip()) > 1 else None
    place = bisect.bisect_left(sizes, len(thinking))
    near = [other for other in others[max(0, place - 8) : place + 8] if other[0] != good[0] and other[1] != thinking]
    return written(rng.choice(near)[1], answer) if near else None


def match_lengths(pairs, rng):
    """As many pairs whose chosen answer is longer as pairs whose rejected one is, at every ratio of the two lengths."""
    bins = collections.defaultdict(lambda: ([], []))
    for pair in pairs:
        chosen, rejected = (len(pair[side][0]["content"]) for side in ("chosen", "rejected"))
        lower, upper = sorted((chosen, rejected))
        bins[round(8 * upper / lower) if lower < upper else 0][chosen > rejected].append(pair)
    kept = bins.pop(0, ([], []))[0]  # of one length
    for shorter, longer in bins.values():
        most = min(len(shorter), len(longer))
        kept += rng.sample(shorter, most) + rng.sample(longer, most)
    return kept


def make_pairs(completions, args, rng):
    """{kind: pairs}, each pair a row {prompt, chosen, rejected, kind}."""
    groups = collections.defaultdict(lambda: ([], []))
    for completion in completions:
        groups[json.dumps(completion[0])][completion[3]].append(completion)
    others = sorted((c for c in completions if c[3]), key=lambda c: len(c[1]))
    sizes = [len(thinking) for _, thinking, _, _ in others]
    pairs = {kind: [] for kind in args.kinds}
    for wrong, right in groups.values():
        for kind in args.kinds:
            for good in right:
                poor = [written(*bad[1:3]) for bad in rng.sample(wrong, min(len(wrong), args.each))]
                made = (
                    poor if kind == "poor" else [worse(kind, good, others, sizes, rng, args) for _ in range(args.each)]
                )
                for text in dict.fromkeys(filter(None, made)):
                    sides = {"chosen": written(*good[1:3]), "rejected": text}
                    answers = {side: [{"role": "assistant", "content": said}] for side, said in sides.items()}
                    pairs[kind] += [{"prompt": good[0], **answers, "kind": kind}]
    return pairs


# %% Run
def main(args):
    rng, counts, report = random.Random(args.seed), collections.Counter(), {}
    if not args.data:
        refuse("no completions named", "files of prompt + responses + labels, or of labelled steps", "--data FILE", 2)
    if unknown := set(args.kinds) - set(KINDS):
        refuse(f"--kinds {' '.join(unknown)}", f"some of {', '.join(KINDS)}", f"--kinds {' '.join(KINDS)}", 2)
    completions = list(read_completions(args, counts))
    told = ", ".join(f"{n} {name}" for name, n in counts.items())
    if not counts["right"]:
        mend = f"--label COLUMN (now {args.label}), or --close TEXT where the thinking has no tags"
        refuse(f"no completion that is right and has thinking: {told}", "some that are, labelled", mend)
    made, rows = make_pairs(completions, args, rng), []
    for kind, pairs in made.items():
        kept = match_lengths(pairs, rng) if args.match_length else pairs
        lengths = [[len(p[side][0]["content"]) for side in ("chosen", "rejected")] for p in kept]
        share = sum((c > r) + (c == r) / 2 for c, r in lengths) / len(kept) if kept else None
        report[kind] = {"pairs": len(kept), "dropped_for_length": len(pairs) - len(kept), "chosen_longer": share}
        rows += kept
    if not rows:
        refuse(
            f"no pair from {told}", "right and wrong completions of one prompt, or other --kinds", "--no-match-length"
        )
    rng.shuffle(rows)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".partial")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(beside, out)
    facts = {"rows": len(rows), "counts": counts, "kinds": report, "rendered_by": RENDERED_BY, "parameters": vars(args)}
    out.with_name(f"{out.name}.report").write_text(json.dumps(facts, indent=2) + "\n")
    print(told)
    for kind, found in report.items():
        share = "" if found["chosen_longer"] is None else f", chosen longer in {found['chosen_longer']:.1%}"
        print(f"{kind:11}{found['pairs']:>7} pairs, {found['dropped_for_length']} dropped for their length{share}")
    print(f"written to {out}; next: python run/format.py --data {out} --source kind")


if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
