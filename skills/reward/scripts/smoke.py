"""`reward.py check --smoke`: the very scripts, end to end, on a shrunken model of the same architecture.

The user's own tokenizer, template and first rows; random weights. A broken run costs a minute here and not a GPU night.
"""

import contextlib
import graphlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import recipe
import render
import run
from errors import CHECK_FAILED, DATA_REFUSED, ENVIRONMENT_LACKS, ToolError
from stages import STAGES

ROWS = 64
WITHOUT_TOKEN = {**os.environ, "REWARD_TOKEN": ""}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "hidden_size_per_layer_input": 16,
}
"""Most that each size of a config may be."""

SUMS = [(n, f"What is {n} + {n}?") for n in range(12)]
FILES = {
    "answers.jsonl": [
        {"prompt": "What is 2 + 2?", "response": "4"},
        {"prompt": "Hello!", "responses": ["Hi.", "Go away."]},
    ],
    "items.jsonl": [
        {"prompt": "Hello!", "chosen": "Hi.", "rejected": "Go away.", "subset": "alpacaeval-easy", "id": 1},
    ],
    "thoughts.jsonl": [
        {
            "prompt": ask,
            "responses": [f"<think>{n} twice.\n\nThat is {2 * n}.</think>{2 * n}", f"<think>Hm.</think>{n}"],
        }
        | {"correct": [True, False]}
        for n, ask in SUMS[2:5]
    ],
    "steps.jsonl": [
        {"problem": ask, "steps": [f"It is twice {n}.", f"That is {2 * n}."], "label": -(n % 2)} for n, ask in SUMS
    ],
}
"""What stages read that are not given pairs."""


ENSEMBLE = {
    "scores": "--data @eval/scores.jsonl @eval/scores.jsonl",
    "weights": "--models @model @model --pairs @data/eval.parquet",
}
"""More words of an ensemble, by what it combines."""


def in_folder(text, there):
    """Words of a text, with @ for the folder `there`."""
    return [str(there / word[1:]) if word.startswith("@") else word for word in shlex.split(text)]


def words(stage, there):
    """The words that follow a stage's script in a rehearsal in the folder `there`."""
    return in_folder(STAGES[stage].toy, there)


def shrink(config):
    """Make a transformers config tiny, in place, keeping what makes the architecture what it is. Returns it."""
    text = config.get_text_config()
    heads, shared = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    for name, most in SMALL.items():
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(getattr(text, name), most))
    if isinstance(shared, int):
        text.num_key_value_heads = text.num_attention_heads if shared == heads else min(2, shared)
    if isinstance(getattr(text, "layer_types", None), list):
        kinds = list(dict.fromkeys(text.layer_types))
        text.num_hidden_layers = max(2, len(kinds))
        text.layer_types = (kinds * 2)[: text.num_hidden_layers]
    return config


def make_small_model(base, folder):
    """A model with the architecture of `base`, random weights and the tokenizer of `base`, saved in `folder`."""
    try:
        import torch
        import transformers
    except ImportError as error:
        mend = "the command that `reward.py doctor` prints"
        raise ToolError(f"no {error.name}", "the packages of the scripts", mend, ENVIRONMENT_LACKS) from None
    try:
        config = transformers.AutoConfig.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        mend = 'model = "FOLDER_OR_HUB_ID" under [train] in the recipe'
        raise ToolError(f"base model {base}: {str(error)[:300]}", "a model folder or a hub id", mend) from None
    kind = getattr(
        transformers, (config.architectures or ["AutoModelForCausalLM"])[0], transformers.AutoModelForCausalLM
    )
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    kind(shrink(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prepare(folder, there, stages):
    """Write what the rehearsal reads into `there`: shrunken models and files."""
    models = {"base": stages["train"].model}
    if "rl" in stages:
        models["policy-base"] = stages["rl"].policy or stages["train"].model
    for name, base in models.items():
        make_small_model(str(folder / base) if (folder / base).is_dir() else base, there / name)
    for name, rows in FILES.items():
        (there / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def in_order(after, go):
    """Call go(name) for every name of {name: names that come before it}, two at a time; the first error ends it."""
    order, running = graphlib.TopologicalSorter(after), {}
    order.prepare()
    with ThreadPoolExecutor(2) as two:
        try:
            while order.is_active():
                running |= {two.submit(go, name): name for name in order.get_ready()}
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    order.done(running.pop(future))
        except BaseException:
            two.shutdown(cancel_futures=True)
            raise


def smoke(folder, stages, quiet=False):
    """Run the stages of the recipe in FOLDER at toy size, two at a time. Returns {stage: seconds}."""
    folder, seconds = Path(folder).resolve(), {}
    with tempfile.TemporaryDirectory(prefix="reward-smoke-") as temporary:
        there = Path(temporary)
        prepare(folder, there, stages)
        apart = stages["format"].kind in ("rated_rows", "steps")  # rows that meet may stand far apart
        more = {"format": ["--limit", str(ROWS * 32 if apart else ROWS)]}
        if getattr(stages.get("scale"), "source", "") == "pairs":
            more["scale"] = in_folder("--data @data/eval.parquet", there)
        if "ensemble" in stages:
            more["ensemble"] = in_folder(ENSEMBLE[stages["ensemble"].of], there)

        def command(stage, *others):
            """Its script as the recipe has it, or where it has none, one with the defaults."""
            path = run.script_path(folder, stage) if stage in stages else there / f"{stage}.py"
            if stage not in stages:
                render.write(path, render.render(stage, recipe.validate(stage, {})))
            return [sys.executable, str(path), *words(stage, there), *more.get(stage, []), *others]

        def go(stage, *others):
            """Run a stage; an error where it fails."""
            start, options = time.monotonic(), {"cwd": folder, "env": WITHOUT_TOKEN, "check": False}
            ran(stage, start, subprocess.run(command(stage, *others), capture_output=True, text=True, **options))

        def ran(stage, start, done):
            seconds[stage] = round(time.monotonic() - start, 1)
            if not quiet:
                how = "FAILED" if done.returncode else "ok"
                print(f"smoke {stage}: {how} in {seconds[stage]} s", file=sys.stderr)
            if done.returncode:
                tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
                code = done.returncode if done.returncode in (DATA_REFUSED, ENVIRONMENT_LACKS) else CHECK_FAILED
                mend = f"mend it, then: reward.py check --smoke (script: run/{stage}.py)"
                received = f"{stage} failed on {ROWS} rows and a shrunken model:\n{tail}"
                raise ToolError(received, "exit code 0", mend, code)

        served = {"serve", "verify"} & set(stages)  # each checks the other, and both need an export
        wanted = [s for s in STAGES if s not in ("serve", "verify") and (s in stages or s == "export" and served)]
        in_order({stage: [s for s in STAGES[stage].after.split() if s in wanted] for stage in wanted}, go)
        if served:
            start = time.monotonic()
            with serving(command("serve"), folder) as (url, server):
                for path in ("score", "get_reward", "classify") if url else ():
                    go("verify", "--url", f"{url}/{path}")
            ran("serve", start, server)
        scored = [json.loads(line) for line in (there / "scores.jsonl").read_text().splitlines()]
        if len(scored) != len(FILES["answers.jsonl"]) or any("error" in row for row in scored):
            received = f"score lost or failed rows: {scored}"
            raise ToolError(received, f"{len(FILES['answers.jsonl'])} scored rows", "report this", CHECK_FAILED)
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}


@contextlib.contextmanager
def serving(command, folder):
    """Start a server, yield (its URL, what becomes of it), stop it."""
    with tempfile.TemporaryFile("w+") as told:
        options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": told, "text": True, "env": WITHOUT_TOKEN}
        with subprocess.Popen(command, **options) as process:
            served = subprocess.CompletedProcess(command, None)
            try:
                said = process.stdout.readline()  # where it listens; nothing, where it ended
                yield next((word.rstrip(";") for word in said.split() if word.startswith("http://")), ""), served
            finally:
                process.terminate()
                served.returncode = process.wait(60)
                told.seek(0)
                served.stderr = told.read()
