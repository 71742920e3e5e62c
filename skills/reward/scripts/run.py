"""`reward.py run`: the stages in order, skipping what is up to date. The scripts themselves resume what was cut off."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import render
from errors import CHECK_FAILED, ToolError
from stage import flag
from stages import STAGES


def script_path(folder, stage):
    return Path(folder) / "run" / f"{stage}.py"


def mark_of(file, stage):
    """What changes when a file does. The scaling in reward.json counts only behind the stage that writes it there."""
    if file.name == "reward.json" and list(STAGES).index(stage) <= list(STAGES).index("scale"):
        return {**json.loads(file.read_bytes()), "scaling": None}
    return [file.stat().st_size, file.stat().st_mtime_ns]


def trace_of(path, stage):
    """Names, sizes and times of a file or of what is in a folder: whether it changed since."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[str(f), mark_of(f, stage)] for f in files if f.exists()]


def inputs_of(folder, stage, values):
    """Local paths that a stage reads."""
    named = [getattr(values, name) for name in STAGES[stage].reads.split()]
    flat = [path for value in named for path in (value if isinstance(value, list) else [value])]
    flat += [path.partition("=")[2] for path in flat]  # an evaluation set may be name=path
    return [Path(folder) / path for path in flat if path]


def key_of(folder, stage, values):
    """Changes when the script or anything it reads changes."""
    script = script_path(folder, stage).read_text(encoding="utf-8")
    traces = [trace_of(path, stage) for path in inputs_of(folder, stage, values)]
    return hashlib.sha256(json.dumps([script, traces]).encode()).hexdigest()


def write_scripts(folder, stages, keep_edits=False, force=False):
    """Render every stage into FOLDER/run. Returns {stage: path}.

    Scripts edited by hand since they were rendered stay as they are with keep_edits; without it they are refused, or
    replaced with force."""
    memory = Path(folder) / "run" / "rendered.json"
    known, paths = json.loads(memory.read_text()) if memory.exists() else {}, {}
    for stage, values in stages.items():
        path = paths[stage] = script_path(folder, stage)
        text, there = render.render(stage, values), path.read_text(encoding="utf-8") if path.exists() else None
        if there is not None and keep_edits:
            continue
        if there not in (None, text) and known.get(stage) != digest_of(there) and not force:
            raise ToolError(f"{path} was edited by hand", "a script as it was rendered", "--force, or move it away", 2)
        render.write(path, text)
        known[stage] = digest_of(text)
    render.write(memory, json.dumps(known, indent=1))
    return paths


def as_recipe_says(folder, stage, values):
    """Renew a script that is as it was rendered but from an older recipe. False where it was edited by hand."""
    path, memory, text = (
        script_path(folder, stage),
        Path(folder) / "run" / "rendered.json",
        render.render(stage, values),
    )
    there, known = path.read_text(encoding="utf-8"), json.loads(memory.read_text()) if memory.exists() else {}
    if there != text and known.get(stage) == digest_of(there):
        render.write(path, text)
        render.write(memory, json.dumps(known | {stage: digest_of(text)}, indent=1))
        there = text
    return there == text


def digest_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def verdict_of(folder, stages):
    """What the evaluation said of the reward model in words; "" where there was none."""
    metrics = Path(folder) / stages["evaluate"].out / "metrics.json" if "evaluate" in stages else Path()
    return str(json.loads(metrics.read_text()).get("verdict", "")) if metrics.is_file() else ""


def execute(command, folder, quiet):
    """Run one script; its stdout goes to stderr when stdout is kept for JSON. Returns its exit code and the end of what
    it wrote to stderr, which is passed on as it comes."""
    told = bytearray()

    def pass_on(pipe):
        with contextlib.suppress(OSError):
            while chunk := os.read(pipe.fileno(), 65536):
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
                told.extend(chunk)
                del told[:-65536]

    options = {"cwd": folder, "stdout": sys.stderr if quiet else None, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **options, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        reader = threading.Thread(target=pass_on, args=[process.stderr], daemon=True)
        reader.start()
        process.wait()
        reader.join(5)  # what the script left running may hold the pipe open
    return process.returncode, told.decode("utf-8", "replace")


def failure(stage, code, told):
    """What a script that stopped said, as an error of this tool, with its flags as names of the recipe."""
    received, exit_code = f"{stage} stopped with exit code {code}", code if code in (2, 3, 5) else CHECK_FAILED
    said = re.findall(r"^error: (.+?)\n  expected: (.+?)\n  try: (.+?)$", told, re.MULTILINE | re.DOTALL)
    if not said:
        return ToolError(
            f"{received}; its last lines above say why", "exit code 0", "fix the cause, then: reward.py run", exit_code
        )
    why, expected, mend = said[-1]
    flags = {flag(name): name for name in STAGES[stage].model_fields}
    mend = re.sub(r"python run/(\w+)\.py(?! -)", r"reward.py run \1", mend)  # wherever the recipe lies
    named = [flags[f"--{word}"] for word in re.findall(r"--(?:no-)?([a-z-]+)", mend) if f"--{word}" in flags]
    if named:
        mend += f" (in recipe.toml: {', '.join(dict.fromkeys(named))} under [{stage}])"
    return ToolError(f"{received}: {why}", expected, f"{mend}; then: reward.py run", exit_code)


def run(folder, stages, wanted=None, force=False, quiet=False, say=print):
    """Run stages of the recipe in FOLDER. Returns a list of {stage, status, seconds, out}.

    Args:
        stages: {stage: validated parameters}, in order.
        wanted: names of the stages to run; None for all whose inputs exist.
        force: run even what is up to date.
    """
    folder, results = Path(folder), []
    write_scripts(folder, stages, keep_edits=True)
    state_file = folder / "run" / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    for stage, values in stages.items():
        if wanted and stage not in wanted:
            continue
        if stage == "serve" or (values.by_hand and not wanted):
            say(f"{stage}: left out; {values.by_hand}")
            continue
        path, result = script_path(folder, stage), {"stage": stage, "out": str(folder / values.out)}
        if not as_recipe_says(folder, stage, values):
            say(f"{stage}: {path} was edited by hand; running it as it is (the recipe's: reward.py render --force)")
        if not wanted and stage == "score" and not all((folder / p).exists() for p in values.data):
            say(f"{stage}: left out, there is no {', '.join(values.data)}")
            continue
        current = stage != "verify" and state.get(stage) == key_of(folder, stage, values)  # a server leaves no trace
        if not force and current and (folder / values.out).exists():
            say(f"{stage}: up to date ({values.out})")
            results.append({**result, "status": "up to date", "seconds": 0.0})
            continue
        say(f"{stage}: running {path}")
        if stage == "rl" and (verdict := verdict_of(folder, stages)).startswith("Not"):
            result["warning"] = f"the evaluation says: {verdict} (reasons in its report); training on it anyway"
            say(f"{stage}: {result['warning']}")
        start = time.monotonic()
        code, told = execute([sys.executable, str(path.resolve())], folder, quiet)
        if code:
            raise failure(stage, code, told)
        state[stage] = key_of(folder, stage, values)
        render.write(state_file, json.dumps(state, indent=1))
        results.append({**result, "status": "done", "seconds": round(time.monotonic() - start, 1)})
    return results
