# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "numpy>=1.26",
#     "scipy>=1.12",
#     "pyarrow>=21",
#     "matplotlib>=3.8",
#     "transformers>=4.57.1",
#     "datasets>=4.7",
#     "python-dotenv>=1.0",
# ]
# ///
"""Audit: find what in the formatted pairs would train a worse model without any error, before it costs GPU hours.

Writes report.html for people, and report.json with every finding, its sources and example rows. The pairs are read in
batches and only hashes, sketches and counts are kept: less than 0.5 kB a pair, whatever its length.
"""

import argparse
import base64
import collections
import csv
import functools
import gzip
import hashlib
import html
import io
import json
import math
import os
import re
import shutil
import sys
import time
import zlib
from array import array
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import numpy as np
    import pyarrow
    from dotenv import find_dotenv, load_dotenv
    from matplotlib.figure import Figure
    from pyarrow.parquet import ParquetFile, ParquetWriter
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

RENDERED_BY = "reward 0.1.0: reward.py render audit"
SIDES, EXAMPLES = ("train", "eval"), 3
CLEAN = 'clean = "data-clean" under [audit], then data = "data-clean" under [train]'
TEMPLATE = "chat_template = FILE under [train], one that keeps what tells the answers apart"
LOOK = "look at the examples and their source; leave it out of data under [format] if it is no good"
FINDINGS = {  # name: (share from which it is medium, and high; share of what; what it is; what mends it)
    "template_refuses": (0, 0.01, "measured pairs", "the chat template refuses the roles", "another " + TEMPLATE),
    "template_erases": (0, 0.01, "measured pairs", "the chat template gives both answers the same tokens", TEMPLATE),
    "thinking_erased": (0, 0, "measured pairs", "the chat template deletes the thinking of an answer", TEMPLATE),
    "overlong": (0.01, 0.1, "measured pairs", "longer than max_length {} tokens: train {}", "{}"),
    "contaminated_exact": (0, 0, "train pairs", "the prompt is one of an evaluation set", CLEAN),
    "contaminated_ngram": (0, 0.01, "train pairs", "the prompt shares a run of words with an evaluation set", CLEAN),
    "prompt_in_both": (0, 0.01, "eval pairs", "the held-out prompt also stands in train", CLEAN),
    "prompt_near_both": (0.01, 0.05, "eval pairs", "the held-out prompt stands in train almost as it is", CLEAN),
    "prompt_word_more": (0.05, 1, "eval pairs", "the held-out prompt has a word more or less than one in train", CLEAN),
    "contradiction": (0.01, 0.05, "pairs", "the same answers are preferred the other way round as well", CLEAN),
    "identical": (0.001, 0.02, "pairs", "both answers are the same", CLEAN),
    "white_space_only": (0.001, 0.02, "pairs", "the answers differ in white space only", CLEAN),
    "one_sided_empty": (0.005, 0.05, "pairs", "one answer says nothing, the other does", LOOK),
    "duplicate": (0.01, 0.1, "pairs", "the same pair stands there before", CLEAN),
    "near_duplicate": (0.05, 0.2, "pairs", "prompt and answers are almost those of another pair", LOOK),
    "two_languages": (0.01, 0.05, "pairs", "the two answers are in different languages", LOOK),
}
RULES = {
    "longer": "preferring the longer answer",
    "more_list_lines": "preferring the answer with more list lines",
    "first_answer": "preferring the answer that stood first",
}
DROPPED = ("identical", "white_space_only", "template_erases", "duplicate", "contradiction")
DROPPED += ("contaminated_exact", "contaminated_ngram", "prompt_of_eval")


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
    add = parser.add_argument
    add("--data", default="data", help="Folder written by the format stage.")
    add("--out", default="audit", help="Folder for report.html and report.json.")
    add("--model", default="", help="Model whose tokenizer counts; empty: train's, or none.")
    add("--chat-template", default="", help="File of a chat template; empty: train's, or the model's.")
    add(
        "--max-length",
        type=within(int, 8, 1000000),
        default=2048,
        help="Tokens a conversation may have; as under [train].",
    )
    add(
        "--overlong",
        choices=["drop", "truncate"],
        default="drop",
        help="What train does above max_length; as under [train].",
    )
    add("--token-sample", type=within(int, 0), default=20000, help="Pairs to tokenize, spread evenly; 0 for all.")
    add("--against", nargs="*", default=[], help="Evaluation sets (files, hub ids) that must not leak in.")
    add("--split", default="test", help="Split of a hub dataset named in against.")
    add("--ngram", type=within(int, 3, 50), default=13, help="Words in a row that a prompt may not share with one.")
    add("--near", type=within(float, 0.5, 1), default=0.8, help="Jaccard similarity from which texts are near doubles.")
    add("--clean", default="", help="Folder for the pairs without the faulty; empty: none.")
    return parser.parse_args(argv)


# %% Near duplicates and languages
BINS = 64
EDGES = np.arange(BINS, dtype="u8") << np.uint64(58)


def sketch(*texts):
    """MinHash of the runs of 8 bytes that stand in any of the texts, in lower case and single-spaced: an array of
    BINS 16-bit values. Two sketches agree in about the Jaccard similarity of their runs, with a standard error of at
    most 0.06. One permutation in bins, empty bins filled from the next (Shrivastava and Li 2014, arXiv 1406.4784)."""
    plain = [" ".join(text.lower().split()).encode("utf-8", "replace").ljust(8, b"\0") for text in texts]
    runs = np.concatenate([np.ndarray(len(text) - 7, "<u8", text, strides=(1,)) for text in plain])
    for shift, factor in ((32, 0x9E3779B97F4A7C15), (29, 0xBF58476D1CE4E5B9), (32, 0x94D049BB133111EB)):
        runs = (runs ^ (runs >> np.uint64(shift))) * np.uint64(factor)
    runs.sort()
    first = np.searchsorted(runs, EDGES)
    full = np.flatnonzero(first < np.append(first[1:], len(runs)))
    source = full[np.searchsorted(full, np.arange(BINS)) % len(full)]
    return runs[first[source]].astype("u2")


def alike(sketches, near):
    """Group of each row (array of int): rows whose sketches all agree in a share of at least `near` are linked.

    Candidates share one of 16 bands (locality-sensitive hashing); at similarity 0.8 a band is missed by all in fewer
    than 1 of 1,000 cases. Links are followed, so the ends of a chain may be less alike.

    Args:
        sketches: one array of shape (rows, BINS) or several, as for prompts and answers.
    """
    rows, links, width = len(sketches[0]), [], 4 // len(sketches)
    for start in range(0, BINS, 4):
        band = np.hstack([part[:, start : start + width] for part in sketches])
        keys = np.ascontiguousarray(band).view("u8").ravel()
        order = np.argsort(keys, kind="stable")
        opens = np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)) != 0
        leader = order[np.maximum.accumulate(np.where(opens, np.arange(rows), 0))]
        leader, follower = leader[~opens], order[~opens]
        for part in np.array_split(np.arange(len(leader)), len(leader) // 100_000 + 1):
            a, b = leader[part], follower[part]
            same = np.min([(s[a] == s[b]).mean(1, dtype="f4") for s in sketches], axis=0) >= near
            links.append(np.stack([a[same], b[same]]))
    ends = np.concatenate(links, axis=1)
    return connected_components(coo_matrix((np.ones(ends.shape[1], bool), ends), (rows, rows)), directed=False)[1]


SCRIPTS = {"Japanese": "぀-ヿ", "Chinese": "㐀-鿿", "Korean": "가-힣", "Cyrillic": "Ѐ-ӿ", "Arabic": "؀-ۿ"}
SCRIPTS |= {"Hebrew": "֐-׿", "Greek": "Ͱ-Ͽ", "Devanagari": "ऀ-ॿ", "Thai": "฀-๿", "Latin": "A-Za-zÀ-ɏ"}
SCRIPTS = {name: re.compile(f"[{characters}]") for name, characters in SCRIPTS.items()}
STOP_WORDS = {
    "English": "the and is of to that it for you with are this what how my not be have can was i do he as they we",
    "German": "der die und das ist nicht ein zu mit den ich wie von für auf sich eine dem auch es",
    "French": "le les et des est une que pour dans vous pas qui du je sur avec au ce il sont",
    "Spanish": "el los las que una por para es del como se su más lo pero con al muy este son",
    "Portuguese": "os que uma para com não em do da é mais como dos ao seu são você por um as",
    "Italian": "il che di per una sono non con del della come gli più è anche le nel questo si un",
    "Dutch": "de het een en van is dat niet op voor met zijn ik aan te ook er maar dit bij",
}
STOP_WORDS = {name: frozenset(words.split()) for name, words in STOP_WORDS.items()}


def language(text):
    """Language or script of the first 600 characters, by script and by the commonest words of seven languages: an
    approximation. "undecided" for little text, code, and languages not listed."""
    text = text[:600]
    counts = {"Latin": len(text)} if text.isascii() else {n: len(found.findall(text)) for n, found in SCRIPTS.items()}
    script = "Japanese" if 5 * counts.get("Japanese", 0) > counts.get("Chinese", 1) else max(counts, key=counts.get)
    if script != "Latin":
        return script if counts[script] >= 5 else "undecided"
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {name: sum(word in common for word in words) for name, common in STOP_WORDS.items()}
    best = max(hits, key=hits.get)
    return best if hits[best] >= 3 and hits[best] >= 0.1 * len(words) else "undecided"


# %% Evaluation sets that must not leak in
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


PROMPT_COLUMNS = "prompt question instruction input problem query context conversations messages conversation_a history"
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_]+")
SHORT = 8


def asked(value):
    """What the user asks in a prompt of any shape: text, messages, nested fields, an hh-rlhf transcript."""
    if isinstance(value, str):
        turns = re.findall(r"\n\nHuman:(.*?)(?=\n\nAssistant:|\Z)", value, re.DOTALL)
        return "\n".join(turns) if turns else value
    if isinstance(value, list):
        asking = ("user", "human", "prompter", "none")
        users = [v for v in value if not isinstance(v, dict) or str(v.get("role", v.get("from"))).lower() in asking]
        return "\n".join(asked(v.get("content", v.get("value")) if isinstance(v, dict) else v) for v in users)
    return max((asked(v) for v in value.values()), key=len, default="") if isinstance(value, dict) else ""


@functools.lru_cache(2**18)
def word_hash(word):
    return zlib.crc32(word.encode("utf-8", "replace")) + 1


def word_hashes(text):
    """Hash of each word (or Chinese, Japanese, Korean character) of a text in lower case: an array."""
    return np.fromiter(map(word_hash, WORD.findall(text.lower())), "u8")


def run_hashes(words, length):
    """Hash of each run of so many words: a polynomial modulo 2**64."""
    total = np.zeros(max(0, len(words) - length + 1), "u8")
    for start in range(length if len(total) else 0):
        total = total * np.uint64(0x9E3779B97F4A7C15) + words[start : start + len(total)]
    return total


def whole_hash(words):
    return int.from_bytes(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "little")


class EvaluationSets:
    """Prompts of the sets named in `against`, as hashes: whole, and in runs of `ngram` words (of SHORT words where a
    prompt has fewer than ngram; whole only where it has fewer than that). A run that stands in more than five rows of
    a set is its own wording and says nothing."""

    def __init__(self, args):
        self.rows, self.lengths, self.whole, self.hits = [], (SHORT, args.ngram), {}, {}
        runs = {length: [] for length in self.lengths}
        for source in args.against:
            grams = {length: ([], []) for length in self.lengths}
            for file, number, row, problem in read_rows([source], args.split):
                if problem:
                    continue
                named = [name for name in PROMPT_COLUMNS.split() if row.get(name)][:3] or ["chosen"] * ("chosen" in row)
                words = word_hashes("\n".join(asked(row[name]) for name in named))
                if not len(words):
                    continue
                self.whole.setdefault(whole_hash(words), len(self.rows))
                length = args.ngram if len(words) >= args.ngram else SHORT
                found = np.unique(run_hashes(words, length))
                grams[length][0].append(found)
                grams[length][1].append(np.full(len(found), len(self.rows)))
                self.rows.append((source, f"{Path(file).name} row {number}", "+".join(named)))
            for length, (found, owners) in grams.items():
                if found:
                    keys, first, counts = np.unique(np.concatenate(found), return_index=True, return_counts=True)
                    runs[length].append((keys[counts <= 5], np.concatenate(owners)[first][counts <= 5]))
        self.runs = {}
        for length, parts in runs.items():
            keys, owners = map(np.concatenate, zip(*parts)) if parts else (np.zeros(0, "u8"), np.zeros(0, int))
            order = np.argsort(keys)
            self.runs[length] = keys[order], owners[order]
        if args.against and not self.rows:
            expected = f"rows with a column {', '.join(PROMPT_COLUMNS.split())} or chosen"
            refuse(f"{' '.join(args.against)}: no prompts found", expected, "another --against, or --split")

    def counted(self, hits):
        """What each set holds and how many of its rows the training prompts share: a list of dicts."""
        shared, sets = {self.rows[row] for row in hits}, collections.Counter(source for source, *_ in self.rows)
        found = collections.Counter(source for source, *_ in shared)
        columns = {source: columns for source, _, columns in self.rows}
        return [{"set": s, "prompts": n, "shared": found[s], "read from": columns[s]} for s, n in sets.items()]

    def look(self, text):
        """("contaminated_exact" or "contaminated_ngram", row of an evaluation set), or None, for a training prompt."""
        words = word_hashes(text)
        if (row := self.whole.get(whole_hash(words))) is not None:
            return "contaminated_exact", row
        for length, index in self.runs.items():  # index: sorted hashes, row of each
            if len(index[0]) and len(found := run_hashes(words, length)):
                at = np.minimum(np.searchsorted(index[0], found), len(index[0]) - 1)
                if len(same := np.flatnonzero(index[0][at] == found)):
                    return "contaminated_ngram", int(index[1][at[same[0]]])
        return None


# %% Tokens
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


def thinking_erased(messages, tokenizer):
    """Whether the template deletes thinking of the answer, or another part between tags like <think>, [/THINK] or
    <channel|>: a pair that differs there would teach nothing."""
    said, text = messages[-1], as_text(messages, tokenizer)
    whole = said["content"].strip() in text
    parts = [] if whole else re.split(r"<[^<>\s]*>|\[/?THINK\]|◁/?think▷", said["content"])
    return not all(part.strip() in text for part in (said.get("thinking") or "", *parts * (len(parts) > 1)))


LIMITS = [2**power for power in range(9, 18)]


def token_limits(longest, pairs, positions=None):
    """What each usual limit would cost: (list of {limit, over, share, pairs}, smallest limit that costs under 1 %).

    Args:
        longest: tokens of the longer conversation of each measured pair.
        pairs: number of all pairs, of which `longest` may be a sample.
        positions: tokens the model was made for; None where unknown. No limit above it is named as the smallest.
    """
    rows = []
    for limit in LIMITS:
        share = sum(tokens > limit for tokens in longest) / max(1, len(longest))
        rows.append({"limit": limit, "over": sum(tokens > limit for tokens in longest), "share": share})
        rows[-1]["pairs"] = round(share * pairs)
        if not share:
            break
    enough = [row["limit"] for row in rows if row["share"] < 0.01 and row["limit"] <= (positions or math.inf)]
    return rows, min(enough, default=None)


def load_tokenizer(args):
    """(tokenizer as train.py has it, tokens the model was made for), or None without a model."""
    if not args.model:
        return None, None
    try:
        import transformers
    except ImportError as lacking:
        mend = f"uv run {__file__}, or --model '' to go without token checks"
        refuse(f"{lacking}", "the packages named above", mend, 5)
    transformers.utils.logging.set_verbosity_error()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        if args.chat_template:
            tokenizer.chat_template = Path(args.chat_template).read_text(encoding="utf-8")
        config = transformers.AutoConfig.from_pretrained(args.model).get_text_config()
    except (OSError, ValueError) as error:
        mend = "another --model, or --model '' to go without token checks"
        refuse(f"{args.model}: {str(error)[:200]}", "a model folder or hub id, and a template file", mend)
    if not tokenizer.chat_template:
        mend = "--chat-template FILE, such as the skill's assets/plain.jinja"
        refuse(f"{args.model} has no chat template", "one, to turn messages into text", mend)
    return tokenizer, getattr(config, "max_position_embeddings", None)


# %% One pass over the pairs
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


def wilson(share, n):
    """95 % interval of a share of n independent rows (Wilson, JASA 22, 1927). (low, high)"""
    centre, spread = share + 1.9208 / n, 1.96 * math.sqrt(share * (1 - share) / n + 0.9604 / n**2)
    return tuple((centre + sign * spread) / (1 + 3.8416 / n) for sign in (-1, 1))


def accuracy(chosen, rejected):
    """Exact share of pairs in the right order, a tie counting half, with its interval."""
    n, ties = len(chosen), sum(c == r for c, r in zip(chosen, rejected))
    share = (sum(c > r for c, r in zip(chosen, rejected)) + ties / 2) / n
    low, high = wilson(share, n)
    return {"accuracy": share, "low": low, "high": high, "pairs": n, "ties": ties}


LISTED = re.compile(r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
SAYS_NOTHING = re.compile(r"[\W_]*(?:\w?|n/?a|null|none|nan|deleted|removed)[\W_]*", re.IGNORECASE)


def hash_of(text):
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def batches(args, side):
    """Yield (row number of the first, record batch) over one split."""
    start = 0
    for batch in ParquetFile(Path(args.data) / f"{side}.parquet").iter_batches(1024):
        yield start, batch
        start += len(batch)


class Pairs:
    """What is kept of the pairs: one entry of each array per pair, train first."""

    def __init__(self, args):
        try:
            files = [ParquetFile(Path(args.data) / f"{side}.parquet") for side in SIDES]
            self.report = json.loads((Path(args.data) / "report.json").read_text())
        except (OSError, ValueError) as error:
            refuse(f"{args.data}: {str(error)[:200]}", "a folder written by format.py", "python run/format.py")
        if lost := {"prompt", "chosen", "rejected", "source"} - set(files[0].schema_arrow.names):
            refuse(
                f"{args.data} has no columns {', '.join(sorted(lost))}", "what format.py writes", "python run/format.py"
            )
        self.sizes = [file.metadata.num_rows for file in files]
        total = sum(self.sizes)
        self.parts = (slice(0, self.sizes[0]), slice(self.sizes[0], total))
        self.hashes = {name: np.zeros(total, "u8") for name in ("prompt", "chosen", "rejected")}
        self.marks = {name: np.zeros(total, bool) for name in FINDINGS}
        self.prompt_sketch, self.answer_sketch = (np.zeros((total, BINS), "u2") for _ in range(2))
        self.source, self.tie = np.zeros(total, "i4"), np.zeros(total, bool)
        self.chars, self.listed = np.zeros((total, 2), "i4"), np.zeros((total, 2), "i4")
        self.languages, self.tokens = np.zeros((total, 3), "u1"), np.zeros(total, "i4")
        self.sources, self.known = {}, {}
        # of short prompts, which a sketch says too little of: a hash of all words, and of all but each one
        self.words, self.without, self.lengths = np.zeros(total, "u8"), array("Q"), np.zeros(total, "u1")
        self.evaluation_row, self.told = {}, collections.Counter()

    def read(self, args):
        """Fill the arrays. Tokens are counted in a sample, everything else in every pair."""
        tokenizer, self.positions = load_tokenizer(args)
        self.against = EvaluationSets(args)
        total = sum(self.sizes)
        step, progress = total / min(total, args.token_sample or total), Progress(total)
        for side, offset in zip(SIDES, (0, self.sizes[0])):
            for start, batch in batches(args, side):
                for row, pair in enumerate(batch.to_pylist(), offset + start):
                    self.note(row, pair)
                    if side == "train" and (found := self.against.look(asked(pair["prompt"]))):
                        self.marks[found[0]][row], self.evaluation_row[row] = True, found[1]
                    if tokenizer and int((row + 1) / step) > int(row / step):
                        self.count_tokens(row, pair, tokenizer)
                progress.show(offset + start + len(batch), offset + start + len(batch))
        progress.end()

    def note(self, row, pair):
        """Everything about one pair that needs no other."""
        prompt = "\n".join(f"{message['role']}: {message['content']}" for message in pair["prompt"])
        both = [
            [m[k] for m in pair[side] for k in ("thinking", "content") if m.get(k)] for side in ("chosen", "rejected")
        ]
        answers = ["\n".join(texts) for texts in both]
        for name, text in zip(("prompt", "chosen", "rejected"), (prompt, *answers)):
            self.hashes[name][row] = hash_of(text)
        # without a long system prompt, which would make all prompts alike
        said = [m["content"] for m in pair["prompt"] if m["role"] not in ("system", "developer")]
        self.prompt_sketch[row], self.answer_sketch[row] = sketch("\n".join(said) or prompt), sketch(*answers)
        words = word_hashes("\n".join(said) or prompt)
        if 3 <= len(words) <= 21:
            words = words * words * np.uint64(0x9E3779B97F4A7C15)  # not linear, for they are summed
            self.words[row], self.lengths[row] = words.sum(), len(words)
            self.without.extend((words.sum() - words).tolist())
        self.source[row] = self.sources.setdefault(pair["source"], len(self.sources))
        self.tie[row] = bool(pair.get("tie"))
        self.chars[row] = [len(text) for text in answers]
        self.listed[row] = [len(LISTED.findall(text)) for text in answers]
        spoken = [language(text) for text in (asked(pair["prompt"][-1:]), *answers)]
        self.languages[row] = [self.known.setdefault(name, len(self.known)) for name in spoken]
        bare = [bool(SAYS_NOTHING.fullmatch(text)) for text in answers]
        self.marks["identical"][row] = answers[0] == answers[1]
        self.marks["white_space_only"][row] = answers[0] != answers[1] and answers[0].split() == answers[1].split()
        self.marks["one_sided_empty"][row] = bare[0] != bare[1] and max(self.chars[row]) >= 20
        self.marks["two_languages"][row] = "undecided" not in spoken[1:] and spoken[1] != spoken[2]

    def count_tokens(self, row, pair, tokenizer):
        said = [pair["prompt"] + pair[side] for side in ("chosen", "rejected")]
        try:
            ids = [encode(messages, tokenizer, 10**9)[0] for messages in said]
            self.marks["thinking_erased"][row] = any(thinking_erased(messages, tokenizer) for messages in said)
        except Exception as error:  # templates raise what they like about roles they do not know
            self.marks["template_refuses"][row], self.tokens[row] = True, -1
            self.told[str(error)[:200]] += 1
            return
        self.tokens[row] = max(map(len, ids))
        self.marks["template_erases"][row] = ids[0] == ids[1] and not self.marks["identical"][row]

    def compare(self, args):
        """What only shows between pairs: duplicates, contradictions, prompts on both sides. Returns the agreement."""
        prompt, chosen, rejected = self.hashes.values()
        first = np.arange(len(prompt)) < self.sizes[0]
        k = [np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)]
        same = prompt * k[0] + np.minimum(chosen, rejected) * k[1] + np.maximum(chosen, rejected) * k[2]
        _, group, judged = np.unique(same, return_inverse=True, return_counts=True)
        ahead = np.bincount(group, (chosen < rejected) & ~self.tie, len(judged))
        behind = np.bincount(group, (chosen > rejected) & ~self.tie, len(judged))
        self.marks["contradiction"] = ((ahead > 0) & (behind > 0))[group] & ~self.tie
        held_out_first = np.roll(np.arange(len(same)), self.sizes[1])
        kept = held_out_first[np.unique((same + (chosen < rejected))[held_out_first], return_index=True)[1]]
        self.marks["duplicate"][:] = True
        self.marks["duplicate"][kept] = False
        kept.sort()
        label = alike([self.prompt_sketch[kept], self.answer_sketch[kept]], args.near)
        self.marks["near_duplicate"][
            kept[np.setdiff1d(np.arange(len(kept)), np.unique(label, return_index=True)[1])]
        ] = True
        self.marks["near_duplicate"] &= ~self.marks["contradiction"]
        if len(prompt) > 1.5 * len(np.unique(prompt)):  # answers of one group are alike by design
            leader = {int(number): prompt[row] for row, number in zip(kept[::-1], label[::-1])}
            alone = np.array([leader[int(number)] != prompt[row] for row, number in zip(kept, label)])
            self.marks["near_duplicate"][kept[~alone]] = False
        self.pair_group, self.near_group = same, np.full(len(same), -1)
        self.near_group[kept] = label

        self.marks["prompt_in_both"] = ~first & np.isin(prompt, prompt[first])
        unique, at, back = np.unique(prompt, return_index=True, return_inverse=True)
        label = alike([self.prompt_sketch[at]], args.near)[back]
        both = np.isin(label, label[~first]) & np.isin(label, label[first])
        self.marks["prompt_near_both"] = ~first & both & ~self.marks["prompt_in_both"]
        without, owner = np.frombuffer(self.without, "u8"), np.repeat(np.arange(len(prompt)), self.lengths)
        known = self.words != 0
        for side in (first, ~first):  # which has the word more
            inside, other = side[owner], ~side & known
            longer = owner[inside][np.isin(without[inside], self.words[other])]
            shorter = other & np.isin(self.words, without[inside])
            self.marks["prompt_word_more"][longer], self.marks["prompt_word_more"][shorter] = True, True
        word_more = self.marks["prompt_word_more"]
        self.marks["prompt_of_eval"] = first & (both | word_more)
        self.marks["prompt_word_more"] = word_more & ~first & ~both
        self.prompt_group, self.prompts = label, len(unique)
        twice = judged > 1
        agreeing = ahead * (ahead - 1) / 2 + behind * (behind - 1) / 2
        asked_of = (ahead + behind) * (ahead + behind - 1) / 2
        asked_twice = asked_of[twice].sum()
        share = float(agreeing[twice].sum() / asked_twice) if asked_twice else None
        return {"pairs_judged_again": int(twice.sum()), "agreement": share}


# %% Judgement
def finding(name, level, count, whole, of, what, mend, sources, shown=()):
    """One finding as it stands in report.json; `shown` are rows (and their partners) to be shown as examples."""
    named = {"finding": name, "severity": level, "pairs": count, "share": count / whole, "of": f"{whole:,} {of}"}
    return named | {"what": what, "mend": mend, "by_source": sources, "examples": list(shown)}


def severity(value, medium, high):
    return "high" if value > high else "medium" if value > medium else "low"


def partner(pairs, name, row):
    """The first other row of the same group, for findings about two pairs. None for other findings."""
    groups = {"duplicate": pairs.pair_group, "contradiction": pairs.pair_group, "near_duplicate": pairs.near_group}
    group = groups.get(name, pairs.prompt_group if name.endswith("_both") else None)
    others = np.flatnonzero(group == group[row]).tolist() if group is not None else []
    return next((other for other in others if other != row), None)


def judge_pairs(pairs, args, smallest):
    """A finding for each kind of faulty pair that occurs."""
    pairs.marks["overlong"] = pairs.tokens > args.max_length
    wholes = {"pairs": len(pairs.tokens), "train pairs": pairs.sizes[0], "eval pairs": pairs.sizes[1]}
    wholes["measured pairs"], found = int((pairs.tokens != 0).sum()), []
    fits = f"max_length = {smallest} under [train]" if smallest else "a base model made for longer texts"
    fits = fits if smallest != args.max_length else "leave it"
    fits, done = (f'{fits}, or overlong = "truncate"', "drops it") if args.overlong == "drop" else (fits, "cuts it off")
    for name, (medium, high, of, what, mend) in FINDINGS.items():
        if name == "overlong" and args.overlong == "truncate":  # as the recipe wants it
            medium, high = 0.1, 1
        if len(rows := np.flatnonzero(pairs.marks[name])):
            counts = np.bincount(pairs.source[rows], minlength=len(pairs.sources)).tolist()
            sources = dict(sorted(((s, n) for s, n in zip(pairs.sources, counts) if n), key=lambda item: -item[1]))
            shown = [(row, partner(pairs, name, row)) for row in rows[:: -(-len(rows) // EXAMPLES)].tolist()]
            level = severity(len(rows) / wholes[of], medium, high)
            what, mend = what.format(args.max_length, done), mend.format(fits)
            found.append(finding(name, level, len(rows), wholes[of], of, what, mend, sources, shown))
    return found


def try_rule(pairs, values):
    """Accuracy of a rule that prefers the greater value: of all pairs, and in each of the fifty largest sources."""
    counts = np.bincount(pairs.source[~pairs.tie], minlength=len(pairs.sources))
    names = list(pairs.sources)
    masks = {names[i]: ~pairs.tie & (pairs.source == i) for i in np.argsort(-counts)[:50] if counts[i]}
    by_source = {name: accuracy(*values[mask].T.tolist()) for name, mask in masks.items()}
    return {"all": accuracy(*values[~pairs.tie].T.tolist()), "by_source": by_source}


def first_wins(counts):
    """Accuracy of the rule that the first answer is better, from how often each place won; None where nothing did."""
    wins = [1.0] * counts.get("a_wins", 0) + [0.0] * counts.get("b_wins", 0)
    return accuracy(wins, [0.5] * len(wins)) if wins else None


def agreement_of_raters(sources):
    """How often two raters of the same answers say the same, from the votes that the source held; None without any."""
    by_source = {name: (c.get("agree", 0), c["judged_twice"]) for name, c in sources.items() if c.get("judged_twice")}
    agree, twice = map(sum, zip(*by_source.values(), (0, 0)))
    shares = {name: one / of for name, (one, of) in by_source.items()}
    return {"two_judgements": twice, "agreement": agree / twice, "by_source": shares} if twice else None


def judge_rule(name, rule, table):
    """The finding (in a list) that a rule which reads nothing knows too much, or an empty list."""
    total, sources = table["all"], table["by_source"]
    off = {s: row for s, row in sources.items() if row["pairs"] >= 30 and max(row["low"], 1 - row["high"]) > 0.55}
    level = severity(max(total["low"], 1 - total["high"]), 0.55, 0.6)
    if level == "low" and 2 * sum(row["pairs"] for row in off.values()) > total["pairs"]:
        level = "medium"
    if not off and level == "low":
        return []
    what = f"{rule} is right in {total['accuracy']:.1%} [{total['low']:.1%}, {total['high']:.1%}] of all pairs"
    off = {source: row["accuracy"] for source, row in off.items()}
    if off:
        worst = sorted(off, key=lambda source: -abs(off[source] - 0.5))
        what += "; furthest from a half: " + ", ".join(f"{source} {off[source]:.0%}" for source in worst[:4])
    mend = "pairs that break the rule; the model must beat it (length_baseline in eval/metrics.json)"
    if name == "first_answer":
        mend = "judges who see the answers in random order; the model never sees the place, so such labels are noise"
    return [finding(f"shortcut_{name}", level, total["pairs"], total["pairs"], "pairs", what, mend, off)]


def judge(pairs, args):
    """The whole report (dict); the examples of its findings are row numbers still."""
    agreement = pairs.compare(args)
    measured, total = pairs.tokens[pairs.tokens > 0].tolist(), len(pairs.tokens)
    limits, smallest = token_limits(measured, total, pairs.positions)
    found = judge_pairs(pairs, args, smallest)
    rules = {"longer": try_rule(pairs, pairs.chars), "more_list_lines": try_rule(pairs, pairs.listed)}
    judged = pairs.report.get("sources", {})
    if first := first_wins(pairs.report):
        largest = sorted(judged, key=lambda source: -judged[source]["a_wins"] - judged[source]["b_wins"])[:50]
        rules["first_answer"] = {"all": first, "by_source": {s: t for s in largest if (t := first_wins(judged[s]))}}
    raters = agreement_of_raters(judged)
    for name, table in rules.items():
        found += judge_rule(name, RULES[name], table)
    held_out = pairs.sizes[1]
    if (spread := 1.96 * math.sqrt(0.21 / max(1, held_out))) > 0.05:
        what = f"with so few, an accuracy of 70 % is known to ±{100 * spread:.0f} points only"
        level, mend = severity(spread, 0.07, 0.2), "a higher eval_fraction under [format], or more data"
        found.append(finding("few_held_out", level, held_out, max(1, held_out), "eval pairs", what, mend, {}))
    found.sort(key=lambda entry: (("high", "medium", "low").index(entry["severity"]), -entry["share"]))

    lacking = {
        "tokens and chat template": "" if args.model else "no model was named: --model BASE",
        "position": "" if first else "formatted pairs do not say which answer stood first in the source",
        "annotator agreement": "no two answers were judged twice, and no votes are known: votes under [format]"
        * (agreement["agreement"] is None and raters is None),
        "contamination": "" if args.against else "no evaluation set was named: --against FILE_OR_HUB_ID",
    }
    per_side = [np.bincount(pairs.source[part], minlength=len(pairs.sources)).tolist() for part in pairs.parts]
    spoken = [collections.Counter(pairs.languages[:, column].tolist()) for column in range(3)]
    return {
        "pairs": dict(zip(SIDES, pairs.sizes)),
        "ties": int(pairs.tie.sum()),
        "prompts": pairs.prompts,
        "findings": found,
        "not_measured": {name: why for name, why in lacking.items() if why},
        "baselines": rules,
        "agreement": agreement,
        "agreement_of_raters": raters,
        "sources": {source: dict(zip(SIDES, counts)) for source, *counts in zip(pairs.sources, *per_side)},
        "languages": {
            name: dict(zip(("prompt", "chosen", "rejected"), (column[i] for column in spoken)))
            for name, i in pairs.known.items()
        },
        "tokens": {
            "measured": len(measured),
            "max_length": args.max_length,
            "model_made_for": pairs.positions,
            "limits": limits if measured else [],
            "costs_under_1_percent": smallest if measured else None,
        },
        "template_errors": dict(pairs.told.most_common(5)),
        "evaluation_sets": pairs.against.counted(pairs.evaluation_row.values()),
        "rejected": rejected_rows(args),
    }


def rejected_rows(args):
    """What format.py did not use, as a list of {reason, file, rows}, the commonest first."""
    path, counts = Path(args.data) / "rejected.jsonl", collections.Counter()
    if path.exists():
        with open(path, encoding="utf-8") as lines:
            told = map(json.loads, lines)
            counts.update((one.get("reason", "?"), Path(one.get("file", "?")).name) for one in told)
    return [{"reason": reason, "file": file, "rows": count} for (reason, file), count in counts.most_common(30)]


# %% Examples, and the pairs without the faulty
def show_examples(pairs, args, found):
    """Put the beginnings of the texts in the place of row numbers. A second pass that converts only these rows."""
    wanted = {row for entry in found for pair in entry["examples"] for row in pair if row is not None}
    texts = {}
    for side, offset in zip(SIDES, (0, pairs.sizes[0])):
        for start, batch in batches(args, side) if wanted else ():
            for row in wanted.intersection(range(offset + start, offset + start + len(batch))):
                pair = batch.slice(row - offset - start, 1).to_pylist()[0]
                said = {
                    name: pair[name][-1]["content"] if pair[name] else "" for name in ("prompt", "chosen", "rejected")
                }
                cut = {name: text if len(text) <= 160 else text[:157] + "…" for name, text in said.items()}
                texts[row] = {"row": f"{side} {row - offset}", "source": pair["source"], **cut}
    for entry in found:
        entry["examples"] = [
            texts[row]
            | ({"like": texts[other]["row"]} if other is not None else {})
            | ({"like": pairs.against.rows[pairs.evaluation_row[row]][1]} if entry["finding"][:5] == "conta" else {})
            for row, other in entry["examples"]
        ]


def write_clean(pairs, args):
    """The data folder again without the pairs that teach nothing or the wrong thing. Returns {split: pairs}."""
    out = Path(args.clean).resolve()
    beside = out.with_name(out.name + ".partial")
    drop = np.any([pairs.marks[name] for name in DROPPED], axis=0)
    left = {side: int((~drop[part]).sum()) for side, part in zip(SIDES, pairs.parts)}
    if not all(left.values()):
        refuse(f"without the faulty pairs a split is empty: {left}", "pairs on both sides", "other data; --clean ''")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with open(beside / "dropped.jsonl", "w") as dropped:
        for side, part in zip(SIDES, pairs.parts):
            with ParquetWriter(
                beside / f"{side}.parquet", ParquetFile(Path(args.data) / f"{side}.parquet").schema_arrow
            ) as file:
                for start, batch in batches(args, side):
                    file.write_batch(batch.filter(pyarrow.array(~drop[part][start : start + len(batch)])))
            for row in np.flatnonzero(drop[part]).tolist():
                why = [name for name in DROPPED if pairs.marks[name][part][row]]
                dropped.write(json.dumps({"split": side, "row": row, "reasons": why}) + "\n")
    digest = fingerprint(str(pairs.report.get("data_sha256")) + hashlib.sha256(drop.tobytes()).hexdigest())
    report = pairs.report | left | {"pairs": sum(left.values()), "data_sha256": digest, "cleaned_by": RENDERED_BY}
    (beside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    replace_folder(beside, out)
    return left


# %% The report for people
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


def draw_tokens(pairs, args):
    figure, axes = chart("Tokens of the longer conversation of each pair", "tokens", "pairs")
    measured = pairs.tokens[pairs.tokens > 0]
    axes.hist(measured, bins=np.geomspace(measured.min(), measured.max() + 1, 40), color="#2563eb")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.axvline(args.max_length, color="#b45309")
    axes.annotate(f" max_length {args.max_length:,}", (args.max_length, 0.92), xycoords=("data", "axes fraction"))
    return figure


def draw_rule(name, table):
    """Accuracy of a rule by source with its 95 % interval: all together and the sixteen largest sources."""
    shown = [("all", table["all"]), *list(table["by_source"].items())[:16]][::-1]
    figure, axes = chart(RULES[name].capitalize(), "share of the pairs in which the rule is right (95 % interval)")
    figure.set_figheight(1.2 + 0.28 * len(shown))
    share = np.array([row["accuracy"] for _, row in shown])
    reach = np.abs(np.array([[row["low"], row["high"]] for _, row in shown]).T - share)
    axes.axvline(0.5, color="#9ca3af", linestyle="--")
    axes.errorbar(share, range(len(shown)), xerr=reach, fmt="o", color="#2563eb", ecolor="#93c5fd", elinewidth=3)
    axes.set_yticks(range(len(shown)), [f"{name[:36]} ({row['pairs']:,})" for name, row in shown])
    axes.set(xlim=(0, 1), ylim=(-0.7, len(shown) - 0.3))
    axes.grid(visible=False)
    return figure


def page_of(report, pairs, args):
    """Parts of report.html, the most important first."""
    found, sides = report["findings"], report["pairs"]
    parts = [f"{sum(sides.values()):,} pairs: {sides['train']:,} to train on, {sides['eval']:,} held out; "]
    parts[0] += f"{report['prompts']:,} prompts, {len(report['sources']):,} sources, {report['ties']:,} kept ties. "
    parts[0] += report["verdict"]
    for entry in found:
        if entry["severity"] == "high":
            parts.append(f"! {told(entry)}\nMend it: {entry['mend']}")
    parts += ["# Findings", [line_of(entry) for entry in found]]
    if report["not_measured"]:
        parts += ["Not measured:", [{"measure": name, "why": why} for name, why in report["not_measured"].items()]]
    if report["agreement"]["agreement"] is not None:
        parts.append("Of two judgements of the same answers to the same prompt {agreement:.1%} agree ")
        parts[-1] = f"{parts[-1]}({{pairs_judged_again:,}} pairs were judged again).".format(**report["agreement"])
    if raters := report["agreement_of_raters"]:
        parts.append("Of two raters of the same answers {agreement:.1%} say the same".format(**raters))
        parts[-1] += f" ({raters['two_judgements']:,} times two votes in the source)."
    tokens = report["tokens"]
    if tokens["measured"]:
        sampled = (
            "" if tokens["measured"] == sum(sides.values()) else f" (a sample of {tokens['measured']:,}, projected)"
        )
        parts += ["# Tokens", f"What each max_length would cost{sampled}. The model was made for "]
        parts[-1] += f"{tokens['model_made_for'] or 'an unknown number of'} tokens."
        names = {"limit": "max_length", "over": "measured above", "pairs": "pairs it would cost"}
        parts.append(
            [{n: row[key] for key, n in names.items()} | {"share": f"{row['share']:.1%}"} for row in tokens["limits"]]
        )
        parts.append(draw_tokens(pairs, args))
    parts += [
        "# Shortcuts",
        "What a rule that reads nothing would reach. A reward model that learns the rule looks good here and ",
    ]
    parts[-1] += "fails in use. A half means that the rule knows nothing; ties of the rule count half."
    parts += [draw_rule(name, table) for name, table in report["baselines"].items()]
    parts += ["# Sources", source_table(report)]
    languages = sorted(report["languages"].items(), key=lambda item: -item[1]["prompt"])
    parts += [
        "# Languages",
        "By script and the commonest words of seven languages: an approximation. Undecided: little text, code.",
    ]
    parts.append([{"language": name, **counts} for name, counts in languages])
    if report["evaluation_sets"]:
        parts += ["# Evaluation sets", report["evaluation_sets"]]
    if report["rejected"]:
        parts += ["# Rows that were not used", report["rejected"]]
    parts.append("# Examples")
    for entry in found:
        if entry["examples"]:
            parts += [f"{entry['finding']}: {entry['what']}", entry["examples"]]
    return [*parts, "# How it was measured", *methods_of(args)]


def source_table(report):
    """A line for each of the thirty largest sources."""
    rows = sorted(report["sources"].items(), key=lambda item: -sum(item[1].values()))[:30]
    longer, lists = (report["baselines"][name]["by_source"] for name in ("longer", "more_list_lines"))
    faults = [entry for entry in report["findings"] if entry["examples"]]
    first = report["baselines"].get("first_answer", {"by_source": {}})["by_source"]
    raters = (report["agreement_of_raters"] or {"by_source": {}})["by_source"]

    def line(source, sides):
        found = [
            f"{entry['by_source'][source]:,} {entry['finding']}" for entry in faults if source in entry["by_source"]
        ]
        shares = {
            "longer wins": longer.get(source, {}).get("accuracy"),
            "more lists": lists.get(source, {}).get("accuracy"),
        }
        shares |= {"first answer wins": first.get(source, {}).get("accuracy")} if first else {}
        shares |= {"raters agree": raters.get(source)} if raters else {}
        return {"source": source, **sides, **shares, "found": ", ".join(found)}

    return [line(source, sides) for source, sides in rows]


def methods_of(args):
    """How the findings were measured, as paragraphs."""
    return [
        "Duplicates, contradictions and shared prompts: 64-bit hashes of the exact text.",
        f"Near duplicates: MinHash sketches of {BINS} values over runs of 8 bytes (lower case, single spaces, without "
        "system prompts), in "
        f"16 bands, from a Jaccard similarity of {args.near} on (standard error at most 0.06). A pair counts when its "
        "prompt and its two answers, in either order, are that similar to those of another. Links are followed. "
        "Prompts of 3 to 21 words are also compared by their words: one more or one less. No other rewording is found.",
        "Contamination: the words of the user's turns in training prompts, without case and punctuation: all of them, "
        f"or a run of {args.ngram} ({SHORT} where the evaluation prompt has fewer than {args.ngram}, all where fewer "
        f"than {SHORT}). Runs that more than five rows of a set share are its own wording and not counted.",
        "An answer says nothing when it has at most one letter or digit, or is a placeholder such as N/A, and the "
        "other has at least 20 characters. A list line begins with a bullet or a number. Agreement: of two judgements "
        "of the same answers to the same prompt, how many agree; a copied row counts as a judgement.",
    ]


def line_of(entry):
    """A finding as a line of the table."""
    many = f"{entry['pairs']:,} of {entry['of']} ({entry['share']:.1%})" if entry["examples"] else entry["of"]
    return {
        "": entry["severity"],
        "finding": entry["finding"],
        "how many": many,
        "what": entry["what"],
        "mend": entry["mend"],
    }


def told(entry):
    """A finding as a sentence."""
    counted = f"{entry['pairs']:,} of {entry['of']} ({entry['share']:.1%}): " if entry["examples"] else ""
    return f"{entry['finding']}: {counted}{entry['what']}"


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    folders = [Path(folder).resolve() for folder in (args.data, args.out, args.clean) if folder]
    if len(set(folders)) < len(folders):
        refuse("--data, --out and --clean name the same folder", "a folder for each", "--out audit")
    own_folder(args.out, "report.html")
    if args.clean:
        own_folder(args.clean, "dropped.jsonl")
    pairs = Pairs(args)
    pairs.read(args)
    if pairs.tie.all():
        refuse(f"{args.data} holds no pair but ties", "pairs with a better answer", "python run/format.py")
    report = judge(pairs, args)
    found = report["findings"]
    show_examples(pairs, args, found)
    count = collections.Counter(entry["severity"] for entry in found)
    report["verdict"] = (
        f"Fix before training: {count['high']} of {len(found)} findings, those rated high."
        if count["high"]
        else f"Nothing forbids training; look at {count['medium']} of {len(found)} findings, those rated medium."
        if count["medium"]
        else "Nothing found that matters before training."
    )
    report["cleaned"] = write_clean(pairs, args) if args.clean else None
    report |= {"rendered_by": RENDERED_BY, "parameters": vars(args)}
    out = Path(args.out).resolve()
    beside = out.with_name(out.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "report.html").write_text(
        html_report(f"Audit of {args.data}", page_of(report, pairs, args)), encoding="utf-8"
    )
    (beside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    replace_folder(beside, out)
    print(f"{sum(pairs.sizes)} pairs, {pairs.prompts} prompts, {len(pairs.sources)} sources. {report['verdict']}")
    for entry in found:
        print(f"{entry['severity']:6}  {told(entry)}\n        try: {entry['mend']}")
    if args.clean:
        print(f"without the faulty: {report['cleaned']} in {args.clean}; dropped.jsonl there says which")
    print(f"written to {args.out}/: report.html and report.json, with examples and what was not measured")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
