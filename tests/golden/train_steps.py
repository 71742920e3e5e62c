# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "torch>=2.6",
#     "transformers>=4.57.1",
#     "accelerate>=1.10.1",
#     "pyarrow>=21",
#     "datasets>=4.7",
#     "python-dotenv>=1.0",
# ]
# ///
"""Train steps: train a process reward model, which says of each step whether it is right, on labelled steps.

It is a token classifier with two labels, read at the mark after each step, trained with cross-entropy over the steps.
TRL had such a trainer up to 1.13. think.py scores with the result: --prm FOLDER.
"""

import argparse
import collections
import csv
import gzip
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
if "LOCAL_RANK" not in os.environ:  # one GPU, for Trainer would split every batch over all it sees; more: torchrun
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]

try:
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = "reward 0.1.0: reward.py render train_steps"
NO_LABEL = -100  # what cross-entropy leaves out


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


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", default="Qwen/Qwen3-0.6B", help="Base model: a hub id or a local folder.")
    add("--data", nargs="*", default=["steps.jsonl"], help="Files of problem, steps, label; or PRMBench's or TRL's.")
    add("--out", default="process_model", help="Folder for the process reward model.")
    add("--split", default="train", help="Split of a hub dataset.")
    add("--mark", default="\\n", help="Text behind each step, where its label stands.")
    add(
        "--max-length",
        type=within(int, 8, 1000000),
        default=4096,
        help="Tokens a solution may have; longer ones are dropped.",
    )
    add("--eval-fraction", type=within(float, 0.001, 0.9), default=0.1, help="Share of the questions held out.")
    add("--learning-rate", type=within(float, 1e-09, 1), default=1e-05, help="Peak learning rate.")
    add("--epochs", type=within(float, 0.001, 100), default=1, help="Passes over the solutions.")
    add("--max-steps", type=within(int, -1), default=-1, help="Optimizer steps; -1 for all epochs.")
    add("--batch-size", type=within(int, 1), default=8, help="Solutions per optimizer step and process.")
    add("--seed", type=within(int, 0, 4294967295), default=42, help="Seeds the head, the order and what is held out.")
    return parser.parse_args(argv)


# %% Reading labelled steps
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


def encode_steps(question, steps, tokenizer, mark, kind="separator"):
    """(token ids of a question and its steps, with `mark` behind each; places of the marks' last tokens).

    kind: separator, the question as a line and then the steps; chat, the same as turns in the chat template;
    step_token, one text with a space before each mark and a line for each step."""
    mark = mark.replace("\\n", "\n")
    if kind == "step_token":  # as one text, for its tokens are not those of its pieces
        text, places = question, []
        for place, step in enumerate(steps):
            text += ("\n" if place else " ") + f"{step} {mark}"
            places.append(len(text) - 1)
        encoded = tokenizer(text, return_offsets_mapping=True)
        last = {i: n for n, (start, end) in enumerate(encoded["offset_mapping"]) for i in range(start, end)}
        return encoded["input_ids"], [last[place] for place in places]  # of a letter in several tokens the last
    before, after = f"{question}\n", ""
    if kind == "chat":
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": "\ufdd0"}]
        before, _, after = tokenizer.apply_chat_template(said, tokenize=False).partition("\ufdd0")
    before, mark, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, mark, after))
    begins = [tokenizer.bos_token_id] if kind != "chat" and tokenizer.bos_token_id is not None else []
    ids, ends = begins + before, []
    for step in steps:
        ids = ids + tokenizer(step, add_special_tokens=False)["input_ids"] + mark
        ends.append(len(ids) - 1)
    return ids + after, ends


def read_solutions(args, tokenizer):
    """(training items, held-out items, counts). An item: ids, ends of the steps, labels, first error. Steps behind the
    first error have no label: whether a step that rests on a wrong one is right, nobody said."""
    sides, counts = ([], []), collections.Counter()
    for file, number, row, problem in read_rows(args.data, args.split):
        try:
            if problem:
                raise ValueError(problem)
            if not (solutions := labelled_steps(row)):
                raise ValueError(f"no labelled steps; the row has {', '.join(map(str, row))}")
            encoded = [encode_steps(q, steps, tokenizer, args.mark) for q, steps, _ in solutions]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            counts["not_used"] += 1
            print(f"{file} row {number}: {type(error).__name__} {error}"[:200], file=sys.stderr)
            continue
        for (question, _, first), (ids, ends) in zip(solutions, encoded):
            if len(ids) > args.max_length:
                counts["overlong"] += 1
                continue
            known = ends if first < 0 else ends[: first + 1]
            labels = [NO_LABEL] * len(ids)
            for place, end in enumerate(known):
                labels[end] = int(place != first)
            share = int(hashlib.sha256(f"{args.seed}:{question}".encode()).hexdigest()[:8], 16) / 2**32
            item = {"input_ids": ids, "labels": labels, "ends": ends, "first_error": first}
            sides[share < args.eval_fraction].append(item)
            counts["eval" if share < args.eval_fraction else "train"] += 1
    return *sides, counts


# %% Training and measuring
def first_error_f1(predicted, labelled):
    """ProcessBench (arXiv 2412.06559): harmonic mean of the accuracy on items with an error and on those without."""
    parts = [[p == e for p, e in zip(predicted, labelled) if (e < 0) == right] for right in (False, True)]
    if not all(parts):
        return None
    on_wrong, on_right = (sum(part) / len(part) for part in parts)
    f1 = 2 * on_wrong * on_right / (on_wrong + on_right) if on_wrong + on_right else 0.0
    return {"f1": f1, "with_error": on_wrong, "without_error": on_right, "items": len(labelled)}


def collate(items, pad):
    """Items -> one padded batch."""
    width = max(len(item["input_ids"]) for item in items)
    batch = {"input_ids": pad, "labels": NO_LABEL}
    rows = {k: torch.tensor([i[k] + [fill] * (width - len(i[k])) for i in items]) for k, fill in batch.items()}
    mask = [[1] * len(item["input_ids"]) + [0] * (width - len(item["input_ids"])) for item in items]
    return rows | {"attention_mask": torch.tensor(mask)}


@torch.inference_mode()
def measure(model, items):
    """Accuracy over the labelled steps of held-out solutions, and F1 of the first error."""
    predicted, right = [], []
    for item in items:
        logits = model(torch.tensor([item["input_ids"]], device=model.device)).logits[0].float().cpu()
        good = logits.argmax(-1).tolist()
        predicted.append(next((place for place, end in enumerate(item["ends"]) if not good[end]), -1))
        right += [good[end] == item["labels"][end] for end in item["ends"] if item["labels"][end] != NO_LABEL]
    process = first_error_f1(predicted, [item["first_error"] for item in items])
    return {"step_accuracy": sum(right) / max(1, len(right)), "steps": len(right), "process_bench": process}


def replace_folder(beside, out):
    """`beside` takes the place of `out` in two renames: whenever this is interrupted, no half of a folder is there."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(beside, out)
    shutil.rmtree(old, ignore_errors=True)


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "process.json")
    transformers.set_seed(args.seed)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        train, held_out, counts = read_solutions(args, tokenizer)
        options = {"num_labels": 2, "dtype": torch.float32}
        model = transformers.AutoModelForTokenClassification.from_pretrained(args.model, **options)
    except (OSError, ValueError) as error:
        refuse(f"{args.model}: {str(error)[:200]}", "a model folder or a hub id", "--model OTHER")
    told = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"
    if not train or not held_out:
        expected = "labelled steps on both sides: problem, steps, label; or prompt, completions, labels"
        refuse(f"{' '.join(args.data)} holds {told}", expected, "more rows, --eval-fraction 0.3, --max-length 4096")
    print(told)
    gpu, beside = torch.cuda.is_available(), args.out + ".partial"
    shutil.rmtree(beside, ignore_errors=True)
    config = transformers.TrainingArguments(
        output_dir=f"{beside}/run",
        learning_rate=args.learning_rate,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,
        bf16=gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        use_cpu=not gpu,
        save_strategy="no",
        logging_steps=10,
        remove_unused_columns=False,
        seed=args.seed,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = transformers.Trainer(model, config, lambda items: collate(items, pad), train_dataset=train)
    trainer.train()
    if not trainer.is_world_process_zero():
        return
    facts = measure(trainer.model.eval(), held_out) | {"counts": counts, "mark": args.mark, "base_model": args.model}
    trainer.model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    facts |= {"rendered_by": RENDERED_BY, "parameters": vars(args)}
    shutil.rmtree(f"{beside}/run", ignore_errors=True)
    Path(beside, "process.json").write_text(json.dumps(facts, indent=2) + "\n")
    replace_folder(Path(beside), Path(args.out))
    process = facts["process_bench"]
    f1 = (
        f"; F1 of the first error {process['f1']:.3f}"
        if process
        else "; no F1: held-out items are all right or all wrong"
    )
    print(f"held-out: accuracy {facts['step_accuracy']:.3f} on {facts['steps']} steps{f1}")
    print(f"written to {args.out}; next: think.py --prm {args.out}")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
