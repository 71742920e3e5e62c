# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Bulk: score files of prompts and responses with a pool of Ray workers, on this machine or on a cluster.

Rows and results are those of score.py. The input is split into numbered blocks, each of which becomes one part of OUT;
`cat OUT/part-*.jsonl` restores the input's order. A worker that dies is replaced and its block is scored again; if this
script itself dies, start it again and it scores what is missing. At the end every row of the input must be in exactly
one part; manifest.json, written last, lists the parts with counts and checksums.
"""

import argparse
import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import pickle
import re
import shutil
import sys
import uuid
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
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

RENDERED_BY = {{rendered_by}}
WHERE = ("address", "workers", "gpus", "cpus", "resume")  # parameters that change no score
FILES_AT_ONCE = 4
DEATHS = 3  # of workers on one block, which shall not go round for ever


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


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


{{shared("passes")}}


{{shared("score_rows")}}


# %% What Ray runs, on any machine
def safe_open(*words):
    """safetensors' own, which Ray cannot send to a worker."""
    import safetensors

    return safetensors.safe_open(*words)


def attempt(step):
    """(what step returns, {told: what it says, code: None}); where it refuses, (None, {told, code: its exit code}).

    Were it to exit, Ray would take the worker for dead and start another, which would refuse as well."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return step(), {"told": told.getvalue(), "code": 0}
    except SystemExit as stop:
        return None, {"told": told.getvalue(), "code": stop.code}


def blocks_of(source, args, out):
    """One input file -> its blocks, in order, without the rows where the part is there; an empty one ends the file."""
    rows = ((source["file"], *row) for _, *row in read_rows([source["path"]], args.split))
    first = 1
    for number in itertools.count():
        some, said = attempt(lambda: list(itertools.islice(rows, args.block_rows)))
        part = f"part-{source['number']:05}-{number:06}.jsonl" if some else ""
        place = {**source, "part": part, "first": first, "read": len(some or ())}
        yield place | said | {"pickled": b"" if not some or (out / part).exists() else pickle.dumps(some)}
        if not some:
            return
        first += len(some)


class Scorer:
    """A worker that holds the reward model: a block of rows in, its part written and counted."""

    def __init__(self, args, gpus, out, beside):
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.args, self.out, self.beside = args, out, beside
        self.loaded, self.said = attempt(lambda: load_reward_model(args.model, args.dtype))

    def __call__(self, block):
        pickled, code = block.pop("pickled"), block["code"] or self.said["code"]
        block |= {"told": block["told"] + self.said["told"], "code": code}
        if code or not block["part"]:
            return block
        counts, said = attempt(lambda: self.write(block, pickled))
        return block | (counts or {}) | {"told": block["told"] + said["told"], "code": said["code"]}

    def write(self, block, pickled):
        """Score a block into its part, unless that is there. Returns its counts."""
        path = self.out / block["part"]
        if not path.exists():
            if len(list(self.beside.glob(f"{path.name}.*"))) >= DEATHS:
                last = block["first"] + block["read"] - 1
                died = f"{DEATHS} workers died on rows {block['first']} to {last} of {block['file']}"
                refuse(died, "memory for --batch-tokens and --block-rows", "smaller ones", 4)
            beside = self.beside / f"{path.name}.{uuid.uuid4().hex}"  # one given up for dead may still write its own
            with open(beside, "w", encoding="utf-8") as file:
                for result in score_rows(pickle.loads(pickled), *self.loaded, self.args):
                    file.write(json.dumps(result, default=str) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        return counted(path, block["first"])


def counted(path, first):
    """Counts of a part as it lies on the disk. Its rows count only where they are numbered from first on, gapless."""
    written = path.read_bytes()
    rows = [json.loads(line) for line in written.splitlines()]
    numbered = [row["row"] for row in rows] == list(range(first, first + len(rows)))
    failed, truncated = sum("error" in r for r in rows), sum("true" in json.dumps(r.get("truncated")) for r in rows)
    counts = {"rows": len(rows) if numbered else 0, "failed": failed, "truncated": truncated}
    return counts | {"sha256": hashlib.sha256(written).hexdigest()}


# %% The driver
{{shared("key_of")}}


{{shared("write_json")}}


def begin(args, out):
    """Keep the parts of an earlier run like this one, delete any other's. Returns a folder for parts being written.

    Workers of an earlier run that live on have no folder to write in any more, so they cannot add to this one's."""
    own_folder(out, "run.json")
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob("partial-*"):
        shutil.rmtree(left)
    (out / "manifest.json").unlink(missing_ok=True)
    key, parts = key_of(args, *WHERE), sorted(out.glob("part-*.jsonl"))
    same = args.resume and (out / "run.json").exists() and json.loads((out / "run.json").read_text())["key"] == key
    if parts:
        another = "starting anew: the model, the data or a parameter is another"
        print(f"going on: {len(parts)} parts are there" if same else another, file=sys.stderr)
    for part in parts if not same else ():
        part.unlink()
    write_json(out / "run.json", {"key": key})
    beside = out / f"partial-{uuid.uuid4().hex}"
    beside.mkdir()
    return beside


def connect(address):
    """Ray, on the cluster at this address, or with one of its own that only this machine can reach."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }  # the latter uploads the folder
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # binds every port to loopback; read by the import
    try:
        import ray
        import ray.data
    except ImportError as lacking:
        refuse(lacking, "Ray Data", "pip install 'ray[data]'", 5)
    cluster = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        found = f"no Ray cluster at {address or 'this machine'}: {str(error)[:200]}"
        refuse(found, "one that runs and lets you in", "ray status; for one with a token RAY_AUTH_MODE=token", 5)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


def pool(ray, args):
    """(number of workers, GPUs of each), from the parameters and what the cluster has now."""
    has = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
    gpus = args.gpus if args.gpus >= 0 else min(1, has["GPU"])
    room = int(min(has["CPU"] / args.cpus, has["GPU"] / gpus if gpus else has["CPU"]))
    workers, needs = args.workers or max(1, room), f"{args.cpus} CPUs and {gpus:g} GPUs"
    told = f"{workers} workers of {needs} each; the cluster has {has['CPU']:g} and {has['GPU']:g}, room for {room}"
    if not room and not args.address:
        refuse(told, "room for one", "--cpus 1 --gpus 0", 5)
    print(told, file=sys.stderr)
    return workers, gpus


def run(ray, sources, args, out, beside):
    """Score every file. Returns what became of each block (list of dicts), in any order."""
    workers, gpus = pool(ray, args)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # bytes: each block goes by itself, at once, to whichever worker is free
    readers = ray.data.TaskPoolStrategy(size=min(FILES_AT_ONCE, len(sources)))
    scorers = {"compute": ray.data.ActorPoolStrategy(size=workers), "num_cpus": args.cpus, "num_gpus": gpus}
    blocks = ray.data.from_items(sources, override_num_blocks=len(sources))
    blocks = blocks.flat_map(blocks_of, fn_args=(args, out), compute=readers, num_cpus=0)
    blocks = blocks.map(Scorer, fn_constructor_args=(args, gpus, out, beside), **scorers)
    found, told, rows = [], set(), 0
    try:
        for block in blocks.iter_rows():
            for line in block["told"].splitlines():
                if line not in told:
                    told.add(line)
                    print(line, file=sys.stderr)
            if block["code"]:
                raise SystemExit(block["code"])
            found.append(block)
            rows += block["read"]
            if block["part"]:
                print(f"{rows} rows", file=sys.stderr)
    except ray.exceptions.RayError as error:
        mend = "what it names (memory: a smaller --batch-tokens), then again: parts that are there stay"
        refuse(f"a worker failed: {str(error).strip().splitlines()[-1][:300]}", "none that fails", mend, 4)
    return found


def amiss(found, sources, out):
    """Files and parts in which not every row of the input stands exactly once."""
    wrong, parts = [], [block for block in found if block["part"]]
    for source in sources:
        own = sorted((b for b in found if b["number"] == source["number"]), key=lambda b: b["first"])
        ends = [block["first"] + block["read"] for block in own]
        if not own or own[-1]["read"] or [block["first"] for block in own] != [1, *ends[:-1]]:
            wrong.append(source["file"])
    wrong += [block["part"] for block in parts if block["rows"] != block["read"]]
    return wrong + sorted({path.name for path in out.glob("part-*.jsonl")} ^ {block["part"] for block in parts})


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    out, files = Path(args.out).resolve(), [str(file) for file in find_files(args.data)]
    sources = [{"number": i, "file": file, "path": absolute(file)} for i, file in enumerate(files)]
    if not Path(args.model).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", args.model):
        refuse(f"no reward model at {args.model}", "a folder written by train.py, or a hub id", "python run/train.py")
    beside = begin(args, out)
    args.model = absolute(args.model)
    ray = connect(args.address)
    try:
        found = run(ray, sources, args, out, beside)
    finally:
        ray.shutdown()  # for a notebook's next run
    shutil.rmtree(beside)
    if wrong := amiss(found, sources, out):
        expected = "every row in exactly one part, in a folder that all machines share"
        refuse(f"rows lost or doubled in {', '.join(wrong[:10])}", expected, "another --out", 4)
    parts = sorted((block for block in found if block["part"]), key=lambda block: block["part"])
    read, rows, failed, truncated = (sum(p[n] for p in parts) for n in ("read", "rows", "failed", "truncated"))
    if rows == failed:
        refuse(f"none of {rows} rows can be scored", "prompt + response(s), or messages, a row", f"head {args.data[0]}")
    kept = ("part", "file", "first", "rows", "failed", "truncated", "sha256")
    summary = {"model": args.model, "data": args.data, "rows": rows, "failed": failed, "truncated": truncated}
    summary |= {"parts": [{name: part[name] for name in kept} for part in parts], "rendered_by": RENDERED_BY}
    write_json(out / "manifest.json", summary)
    counted = f"{read} rows in = {rows - failed} scored + {failed} with an error"
    print(f"{counted}; {truncated} truncated; {len(parts)} parts in {args.out}")


def absolute(name):
    """A path that holds in the folders of the workers; hub ids stay."""
    return str(Path(name).resolve()) if Path(name).exists() else name


# %% Run
{{shared("run")}}
