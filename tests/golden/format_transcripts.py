# /// script
# requires-python = ">=3.10"
# dependencies = ["pyarrow>=21", "datasets>=4.7"]
# ///
"""Format: turn preference data into clean pairs, with every row accounted for.

Writes train.parquet and eval.parquet (prompt, chosen and rejected as messages; source and prompt_id; margin, tie,
ratings and attributes if the data has them), rejected.jsonl with every row that was not used and why, and report.json.
rows = used + ties + rejected, always.
"""

import argparse
import collections
import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import time
import unicodedata
from pathlib import Path

RENDERED_BY = "reward 0.1.0: reward.py render format --kind transcripts"


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
    add("--data", nargs="*", default=["preferences.jsonl"], help="Files, folders or a hub dataset id.")
    add("--out", default="data", help="Folder to write.")
    add("--chosen", default="chosen", help="Path of the better answer, or of answer A.")
    add("--rejected", default="rejected", help="Path of the worse answer, or of answer B.")
    add("--system", default="", help="Path of a system prompt; empty for none.")
    add("--source", default="", help="Path of the name to report by; empty: the file's.")
    add("--margin", default="", help="Path of the number by which chosen is better.")
    add("--margin-scale", type=within(float, 0), default=0.0, help="Rating gap that makes a margin of 1; 0: no margin.")
    add("--keep-ties", default=False, help="Write ties too, marked, for a loss that uses them.", **yes_or_no)
    add("--where", nargs="*", default=[], help="Conditions on rows to keep, as score_ratio>=2.")
    add("--split", default="train", help="Split of a hub dataset.")
    add("--eval-fraction", type=within(float, 0.001, 0.9), default=0.1, help="Share of the prompts held out.")
    add("--split-by", default="", help="Path of what may not be on both sides; empty: how the user begins.")
    add("--seed", type=within(int, 0), default=42, help="Decides which prompts are held out.")
    add("--max-rejected", type=within(float, 0, 1), default=0.2, help="Refuse when more of the rows cannot be used.")
    add("--limit", type=within(int, 0), default=0, help="Rows to read; 0 for all.")
    return parser.parse_args(argv)


# %% Reading rows
class Progress:
    """A bar on stderr, where that is a terminal: the share that is done, rows a second, the time that is left."""

    def __init__(self, whole):
        self.whole, self.start, self.shown = whole, time.monotonic(), 0.0
        self.file, self.size, self.before = None, 0, 0
        self.wanted = sys.stderr.isatty()

    def opened(self, file):
        """From now on this file is read; `whole` is in bytes."""
        self.before, self.file, self.size = self.before + self.size, file, os.fstat(file.fileno()).st_size

    def show(self, rows, done=0):
        """Rows so far, and how much of the whole is done where no files are read."""
        if not self.wanted or (now := time.monotonic()) - self.shown < 0.1:
            return
        if self.file:
            done = self.before + (self.size if self.file.closed else self.file.tell())
        self.shown, seconds, share = now, now - self.start, min(1, done / self.whole) if self.whole else 0
        bar = f"{share:4.0%} [{'#' * int(24 * share):24}] " if share else ""
        left = f", {seconds / share - seconds:,.0f} s left" if share else ""
        line = f"{bar}{rows:,} rows, {rows / max(seconds, 1e-3):,.0f} a second{left}"
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)

    def end(self):
        """Take the bar away."""
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


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


# %% From a row to comparisons
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


def parse_transcript(text):
    """hh-rlhf text, "\\n\\nHuman: …\\n\\nAssistant: …" -> messages. Text before the first speaker is an error."""
    if not isinstance(text, str):
        raise Reject("wrong_type", f"a transcript is text, not {type(text).__name__}")
    head, *turns = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if head.strip() or not turns:
        raise Reject("wrong_type", "no 'Human:' and 'Assistant:' turns, or text before the first")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(turns[::2], turns[1::2])]


def system_of(row, args):
    return as_messages(look_up(row, args.system) or [], "system") if args.system else []


def number(value, name="rating"):
    """A rating, rank or margin as a finite number; a list counts as its lowest, true and false as 1 and 0."""
    if isinstance(value, list) and value:
        return min(number(element, name) for element in value)
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), value)
    try:
        made = float(value)
    except (TypeError, ValueError):
        raise Reject("no_rating", f"{name} {str(value)[:40]!r} is no number") from None
    if not math.isfinite(made):  # NaN and infinity would spoil every weight in one step
        raise Reject("no_rating", f"{name} {made} is not finite")
    return made


def number_or_none(value):
    try:
        return number(value)
    except Reject:
        return None


def convert(row, args):
    """A row with two whole transcripts -> ([comparison], counts of those not made)."""
    dialogues = [system_of(row, args) + parse_transcript(look_up(row, path)) for path in (args.chosen, args.rejected)]
    better, worse = ({"prompt": dialogue[:-1], "answer": dialogue[-1:]} for dialogue in dialogues)
    margin = {"margin": number(look_up(row, args.margin), "margin")} if args.margin else {}
    return [{"better": better, "worse": worse, **margin}], {}


# %% From a comparison to a pair
def check(prompt, chosen, rejected):
    """Reject what would train wrong without any error: TRL itself accepts all of these."""
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", f"{name} ends with {answer[-1]['role'] if answer else 'nothing'}")
        if not (answer[-1]["content"].strip() or answer[-1].get("thinking", "").strip()):
            raise Reject(f"empty_{name}", f"{name} has no text")
    if not any(message["content"].strip() for message in prompt):
        raise Reject("empty_prompt", "no prompt text")
    if chosen == rejected:
        raise Reject("identical", "chosen and rejected are the same")
    asked = prompt[-1]["content"]
    if all(
        a[0]["role"] == "user" or len(asked) >= 20 and a[0]["content"].startswith(asked) for a in (chosen, rejected)
    ):
        raise Reject("doubled_prompt", "both answers begin with the prompt, which would then stand there twice")


def text_of(messages):
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def beginning_of(prompt):
    """The words with which the user begins, in order of the alphabet: those of the first turn, and of the next turns
    while they are few. Whatever the case, width, order, repetition, punctuation, system prompt, answers in between and
    later turns, such prompts stay on one side. With a word more or less they may part: to join those as well, new rows
    would have to move old ones."""
    turns, words, text = [[m] for m in prompt if m["role"] == "user"] or [prompt], set(), ""
    for turn in turns:
        words |= set(re.split(r"[\W_]+", unicodedata.normalize("NFKC", text_of(turn)).casefold())) - {""}
        text = " ".join(sorted(words))
        if len(text.encode("utf-8", "replace")) >= 20:  # longer than "hello" or "can you help me"
            break
    return text


def digest_of(text):
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def split_of(together, seed, eval_fraction):
    """The side, "train" or "eval", of all with this text, by a hash of it: new rows move no old ones."""
    return "eval" if int(digest_of(f"{seed}:{together}")[:8], 16) / 2**32 < eval_fraction else "train"


def as_pair(comparison, source, args):
    """A comparison as a row to write, or a Reject that says why it is none."""
    if isinstance(comparison, Reject):
        raise comparison
    better, worse, tie = comparison["better"], comparison["worse"], comparison.get("tie")
    if better["prompt"] != worse["prompt"]:
        raise Reject("diverging_context", "the dialogues differ before the last answer")
    if tie and not args.keep_ties:
        raise Reject("tie", tie if isinstance(tie, str) else "both answers are rated alike")
    if comparison.get("contradicted"):
        raise Reject("contradicts_rating", f"chosen is rated {better['rating']}, rejected {worse['rating']}")
    check(better["prompt"], better["answer"], worse["answer"])
    pair = {"prompt": better["prompt"], "chosen": better["answer"], "rejected": worse["answer"], "source": source}
    pair |= {"prompt_id": digest_of(text_of(better["prompt"]))[:16]}
    pair |= {"tie": bool(tie)} if args.keep_ties else {}
    gap = comparison.get("margin", better["rating"] - worse["rating"] if "rating" in better else None)
    if "margin" in comparison or args.margin_scale:
        if gap is None:
            raise Reject("no_rating", "--margin-scale divides a margin or the gap of two ratings, and there is none")
        pair["margin"] = gap / (args.margin_scale or 1)
        if pair["margin"] < 0:  # a loss that multiplies by it would learn the opposite
            raise Reject("contradicts_rating", f"the margin by which chosen is better is {gap}")
    for name in ("rating", "attributes"):
        if name in better:
            pair |= {f"chosen_{name}": better[name], f"rejected_{name}": worse[name]}
    turns = itertools.chain(better["prompt"], better["answer"], worse["answer"])
    "".join([source, *itertools.chain(*map(dict.values, turns))]).encode()  # a lone surrogate is no text, and raises
    return pair


# %% Every row to its place
MENDS = {
    "not_json": "mend the line: one object on each, no comma after it (jq -c . FILE > NEW)",
    "not_utf8": "iconv -f latin1 -t utf-8 FILE > NEW",
    "not_utf8_or_ragged": "iconv -f latin1 -t utf-8 FILE > NEW, or put fields that hold separators in quotes",
    "missing_column": "name the columns: --prompt, --chosen, --rejected, --responses, --ratings",
    "unknown_role": "use the roles system, user, assistant, tool (or human, gpt, ai, bot, model, prompter)",
    "unknown_label": "say what the label means: --winner, --a-wins, --b-wins, --ties",
    "unsupported_field": "write the call into the content, or leave these rows out",
    "two_thinkings": "keep one of reasoning_content, reasoning and thinking, as text",
    "doubled_prompt": "--prompt '' where chosen and rejected include the prompt",
    "last_turn_not_assistant": "end both answers with a turn of the assistant",
    "diverging_context": "the two dialogues may differ in the last answer only",
    "not_text": "use data without images or sound: the reward model reads text",
    "no_rating": "mend these rows or leave them out; or name another column: --ratings, --margin",
    "no_partner": "add other answers to the same prompt; labels of single answers are for KTO, not for a reward model",
    "over_cap": "raise --pairs-per-prompt",
    "duplicate_answer": "nothing: the same answer to the same prompt is there already",
    "contradicts_rating": "--ratings with nothing after it and --margin '', to trust chosen and rejected",
    "wrong_type": "mend these rows or leave them out; the text of all that is in a list is PATH.~, line by line",
    "tie": "nothing, or --keep-ties for a loss that can use them",
    "left_out": "nothing: --where leaves it out",
}
MEND = "mend these rows or leave them out"
BY_CHOICE = ("left_out", "over_cap")  # what the parameters ask for is no fault of the data
BAD_ROW = (Reject, TypeError, ValueError, OverflowError, RecursionError, LookupError, AttributeError)


def reason_of(error):
    """(reason to count, detail to read) of one of BAD_ROW."""
    if isinstance(error, Reject):
        return error.args
    return "not_unicode" if isinstance(error, UnicodeError) else "wrong_type", f"{error}"[:200]


def wanted(row, conditions):
    """Reject a row that fails one of the conditions of --where."""
    for condition in conditions:
        parts = re.fullmatch(r"(.+?)\s*(>=|<=|!=|==?|>|<)\s*(.*)", condition)
        if not parts:
            refuse(f"--where {condition!r}", "a path, one of = != < <= > >=, a value", "--where 'score>=2'", 2)
        path, sign, bound = parts.groups()
        value = look_up(row, path)
        if sign in ("=", "==", "!="):
            both = number_or_none(value), number_or_none(bound)
            same = str(value) == bound or None not in both and both[0] == both[1]
            met = same == (sign != "!=")
        else:
            gap = number(value, path) - number(bound, "--where")
            met = gap > 0 if sign[0] == ">" else gap < 0
            met = met or "=" in sign and gap == 0
        if not met:
            raise Reject("left_out", f"not {condition}")


def name_of(file):
    """What a file is called without its folder and the suffixes of data."""
    name = os.path.basename(file).removesuffix(".gz")
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def converted_rows(args, report):
    """Yield ((file, row number), origin, what convert makes of the row, why it cannot be used or None). The origin is
    the source and what the split goes by, where that is not the prompt."""
    files = [file for file in find_files(args.data) if isinstance(file, Path)]
    progress = Progress(sum(file.stat().st_size for file in files))
    rows = itertools.islice(read_rows(args.data, args.split, progress.opened), args.limit or None)
    try:
        for file, place, row, problem in rows:
            report["rows"] += 1
            progress.show(report["rows"])
            try:
                if problem:
                    raise Reject(problem, "the row could not be read")
                wanted(row, args.where)
                source = str(look_up(row, args.source)) if args.source else name_of(file)
                together = look_up(row, args.split_by) if args.split_by else None
                found = convert(row, args)
            except BAD_ROW as error:
                yield (file, place), None, None, reason_of(error)
            else:
                yield (file, place), (source, None if together is None else str(together)), found, None
    finally:
        progress.end()


def groups(args, report):
    """Yield ({row: why it is not used, if no pair is made of it}, origin, comparisons, counts of those not made)."""
    for row, origin, found, why in converted_rows(args, report):
        made, missed = found or ([], {})
        alone = ("tie", "all answers are rated alike") if missed.get("tie") else ("no_partner", "nothing to compare")
        yield {row: why or alone}, origin, made, missed


def read_pairs(args, report, unused):
    """Yield (split, pair); count every row in `report`, write those not used to the file `unused`."""
    for members, origin, comparisons, missed in groups(args, report):
        report["comparisons"].update(missed)
        used, lost = set(), {}
        for comparison in comparisons:
            rows = members
            try:
                pair = as_pair(comparison, origin[0], args)
            except BAD_ROW as error:
                why = reason_of(error)
                report["comparisons"][why[0]] += 1
                lost |= dict.fromkeys(rows, why)
                continue
            together = beginning_of(pair["prompt"]) if origin[1] is None else origin[1]
            side = split_of(together, args.seed, args.eval_fraction)
            yield side, pair
            used.update(rows)
            report[side] += 1
            report["comparisons"]["pair"] += 1
            report["ties_kept"] += (tied := pair.get("tie", False))
            longer = [sum(len(m["content"]) for m in pair[answer]) for answer in ("chosen", "rejected")]
            report["chosen_longer"] += not tied and (longer[0] > longer[1]) + (longer[0] == longer[1]) / 2
        for (file, place), (reason, detail) in (members | lost).items():
            told = {"file": file, "row": place, "reason": reason, "detail": detail, "mend": MENDS.get(reason, MEND)}
            if (file, place) not in used:
                report["ties"] += reason == "tie"
                report["rejected"][reason] += reason != "tie"
                report["examples"].setdefault(reason, f"{file} row {place}: {detail}")
                unused.write(json.dumps(told) + "\n")
                continue
            report["used"] += 1
            if (file, place) in lost and reason != "tie":
                unused.write(json.dumps({**told, "used": "with its other answers"}) + "\n")


def new_report():
    names = ["rows", "used", "ties", "train", "eval", "ties_kept", "chosen_longer", "prompt_part_empty"]
    counts = dict.fromkeys(names, 0)
    return counts | {"rejected": collections.Counter(), "comparisons": collections.Counter(), "examples": {}}


def judge(report, args):
    """Complete the report, or refuse data from which nothing good can come, with the flag that mends it."""
    reasons = (+report["rejected"]).most_common()
    pairs, lost = report["train"] + report["eval"], sum(n for reason, n in reasons if reason not in BY_CHOICE)
    strict = pairs - report["ties_kept"]
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    worst = reasons[0][0] if reasons else ""
    mend, example = MENDS.get(worst, MEND), report["examples"].get(worst)
    such_as = f", such as {example}" if example else ""
    if not report["rows"]:
        refuse(f"{' '.join(args.data)} holds no rows", "at least one preference pair", "another file")
    if not strict:
        found = f"none of {report['rows']} rows is a pair; ties: {report['ties']}, rejected: {counted}{such_as}"
        refuse(found, "rows with a prompt, a better and a worse answer", mend)
    if lost > args.max_rejected * report["rows"]:
        found = f"{lost} of {report['rows']} rows rejected: {counted}{such_as}"
        refuse(found, f"at most {args.max_rejected:.0%}", f"{mend}; or --max-rejected 1")
    if not report["train"] or not report["eval"]:
        found = f"a split is empty: {report['train']} train and {report['eval']} eval pairs"
        refuse(found, "pairs on both sides", "more prompts, --eval-fraction 0.3, --split-by COLUMN, or another --seed")
    report["chosen_longer"] /= strict
    return report | {"pairs": pairs, "rejected": dict(reasons), "comparisons": dict(+report["comparisons"])}, counted


def columns(args):
    """Schema of the files to write; the optional columns stand there where the parameters make them."""
    import pyarrow

    text, real = pyarrow.string(), pyarrow.float64()
    messages = pyarrow.list_(pyarrow.struct([(name, text) for name in ("role", "content", "thinking")]))
    names = [(name, messages) for name in ("prompt", "chosen", "rejected")] + [("source", text), ("prompt_id", text)]
    given = {name for name, value in vars(args).items() if value}  # not every kind has each parameter
    names += [("margin", real)] * bool(given & {"margin", "margin_scale"}) + [("tie", pyarrow.bool_())] * args.keep_ties
    for name, kind in (("rating", real), ("attributes", pyarrow.list_(real))):
        if given & {f"{name}s", name}:
            names += [(f"chosen_{name}", kind), (f"rejected_{name}", kind)]
    return pyarrow.schema(names)


def write_pairs(args, folder):
    """Write the data set into an empty folder, or refuse. Returns its report and the rejected rows as text."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema, report, digest = columns(args), new_report(), hashlib.sha256()
    waiting = {"train": [], "eval": []}
    writers = {side: ParquetWriter(folder / f"{side}.parquet", schema) for side in waiting}
    with open(folder / "rejected.jsonl", "w") as unused:
        for side, pair in read_pairs(args, report, unused):
            digest.update(json.dumps(pair).encode())
            waiting[side].append(pair)
            if len(waiting[side]) == 1000:
                writers[side].write_table(pyarrow.Table.from_pylist(waiting[side], schema))
                waiting[side].clear()
    for side, writer in writers.items():
        writer.write_table(pyarrow.Table.from_pylist(waiting[side], schema))
        writer.close()
    report, counted = judge(report, args)
    report |= {"data_sha256": digest.hexdigest(), "rendered_by": RENDERED_BY, "parameters": vars(args)}
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report, counted


def replace_folder(beside, out):
    """`beside` takes the place of `out` in two renames: whenever this is interrupted, no half of a folder is there."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(beside, out)
    shutil.rmtree(old, ignore_errors=True)


def main(args):
    out, written = Path(args.out).resolve(), {"train.parquet", "eval.parquet", "rejected.jsonl", "report.json"}
    if others := sorted({p.name for p in out.iterdir()} - written) if out.is_dir() else [out.name] * out.exists():
        found = f"{args.out} holds {', '.join(others[:5])}, which would be deleted"
        refuse(found, "a folder of its own", "--out OTHER")
    beside = out.with_name(out.name + ".partial")  # written beside, then renamed: never half a data set
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        report, counted = write_pairs(args, beside)
        replace_folder(beside, out)
    except OSError as error:
        refuse(f"{args.out}: {error}", "a folder that can be written, on a disk with room", "--out OTHER")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    used = f"{report['used']} used for " if report["used"] != report["pairs"] else ""
    print(f"{report['rows']} rows: {used}{report['pairs']} pairs, {report['ties']} ties; rejected: {counted}")
    if report["used"] != report["pairs"]:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(report["comparisons"].items()))
        print(f"{sum(report['comparisons'].values())} comparisons within them: {counts}")
    there = f"in {args.out}; see report.json and rejected.jsonl there"
    print(f"{report['train']} train + {report['eval']} eval pairs {there}")
    longer = report["chosen_longer"]
    print(f"length alone is right in {max(longer, 1 - longer):.1%}: a model must beat that")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
