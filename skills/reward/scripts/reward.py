# /// script
# requires-python = ">=3.10"
# dependencies = ["jinja2>=3.1", "pydantic>=2.7", "tomli>=2; python_version < '3.11'"]
# ///
"""From preference data to a checked reward model: inspect, init, render, check, run.

usage: reward.py COMMAND [...]

    reward.py doctor                                   what this machine has and lacks
    reward.py inspect DATA                             schema, counts, warnings, three converted rows
    reward.py init DATA --model BASE                   write recipe.toml, the one file to edit
    reward.py plan --gpu H100                          memory, time and settings for that GPU, from shapes alone
    reward.py render [STAGE]                           write run/*.py, or print one script
    reward.py check --smoke                            find what would break, in a minute
    reward.py run                                      format, train, evaluate, score; skips what is up to date
    reward.py launch --kind fsdp2 --on slurm           write what trains on several GPUs or machines
    reward.py params [STAGE]                           every parameter, its default and range
    reward.py demo                                     all of it on data made on the spot, offline

Each command has --help. Exit codes: 0 done, 2 wrong use, 3 data or parameters refused, 4 check failed, 5 something is
not installed. DATA is a file, several, a folder or a hub dataset id.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True  # an installed skill folder stays as it was installed

try:
    import jinja2  # noqa: F401
    import pydantic  # noqa: F401

    if sys.version_info < (3, 11):
        import tomli  # noqa: F401
    from errors import CHECK_FAILED, DATA_REFUSED, ENVIRONMENT_LACKS, WRONG_USE, ToolError, nearest
except ImportError as lacking:
    print(
        f"error: Python at {sys.executable} has no {lacking.name}\n  expected: jinja2 and pydantic\n"
        f"  try: {sys.executable} -m pip install jinja2 pydantic tomli (or: uv run --script {__file__})",
        file=sys.stderr,
    )
    raise SystemExit(5) from None


class Parser(argparse.ArgumentParser):
    """argparse whose errors name the nearest right flag; an unknown parameter is refused (3), other misuse is 2."""

    def error(self, message):
        wrong = next((word.split("=")[0] for word in message.split() if word.startswith("--")), "")
        near = nearest(wrong, [option for option in self._option_string_actions if option != wrong]) if wrong else None
        if "are required" in message:
            near = self.epilog.removeprefix("example: ")
        code = DATA_REFUSED if message.startswith("unrecognized arguments: --") else WRONG_USE
        raise ToolError(message, "what --help lists", near or f"{self.prog} --help", code)


def parser_for(command, description, example):
    parser = Parser(
        prog=f"reward.py {command}",
        description=description,
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="Answer in JSON on stdout.")
    return parser


def add_stage_flags(parser, stage, leave_out=()):
    """One flag per parameter of a stage; only those given come back."""
    from stage import flag
    from stages import STAGES

    group = parser.add_argument_group(f"parameters of {stage}")
    for name, field in STAGES[stage].model_fields.items():
        if name in leave_out:
            continue
        options = {"dest": f"param_{name}", "default": argparse.SUPPRESS, "help": field.description.replace("%", "%%")}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif field.annotation == list[str]:
            options["nargs"] = "*"
        group.add_argument(flag(name), **options)


def stage_values(args):
    return {name.removeprefix("param_"): value for name, value in vars(args).items() if name.startswith("param_")}


def answer(args, found, text):
    """Print the answer of a command: JSON for agents, text for people."""
    print(json.dumps(found, ensure_ascii=False, default=str) if args.json else text)


def as_typed(text, recipe=None):
    """The commands of this tool in a text as they are to be typed here: with its path and the recipe that was named."""
    if recipe and recipe != "recipe.toml":
        named = f" --recipe {shlex.quote(recipe)}"
        text = re.sub(r"reward\.py (init|render|check|run|plan|launch)\b", lambda found: found[0] + named, text)
    return re.sub(r"(?<![\w/.])reward\.py(?= )", lambda _: started_as(), text)


def started_as():
    """The words that started this tool, for a shell in this folder."""
    if Path(sys.argv[0]).name != "reward.py":
        return "reward.py"
    python = Path(sys.executable)
    on_path = python.parent == Path(shutil.which("python") or "").parent
    inside = python.is_relative_to(Path.cwd())
    return shlex.join(["python" if on_path else os.path.relpath(python) if inside else str(python), sys.argv[0]])


def load_recipe(args, wanted=()):
    """(folder of the recipe, {stage: validated parameters})."""
    import recipe

    path = Path(args.recipe)
    stages = recipe.load(path, wanted)
    return path.resolve().parent, stages


# Commands. Each takes the words after its name and returns an exit code.


def doctor(words):
    parser = parser_for("doctor", "What this machine has, and what the scripts still need.", "reward.py doctor --json")
    args = parser.parse_args(words)
    import doctor as verb

    found = verb.doctor()
    answer(args, found, verb.as_text(found))
    return ENVIRONMENT_LACKS if found["missing"] else 0


def inspect(words):
    parser = parser_for(
        "inspect", "What a preference file holds; writes nothing.", "reward.py inspect pairs.jsonl --json"
    )
    parser.add_argument("data", nargs="*", help="Files, a folder or a hub dataset id.")
    parser.add_argument("--model", default="", help="Base model: counts tokens, and shows what becomes of thinking.")
    add_stage_flags(parser, "format", leave_out=("data", "out"))
    args = parser.parse_args(words)
    import inspect_data

    found = inspect_data.inspect(args.data, stage_values(args), args.model)
    text = inspect_data.as_text(found)
    if args.model:
        import thinking_view

        found["thinking_view"] = thinking_view.look(thinking_view.load_tokenizer(args.model))
        text += "\n" + "\n".join(thinking_view.as_lines(found["thinking_view"], short=not found["thinking"]))
    words = [shlex.join(args.data), "--model", args.model or "BASE", found["proposed"]]
    words.append(inspect_data.as_flags(stage_values(args)))  # behind what is proposed, for they win
    answer(args, found, f"{text}\nnext      {as_typed('reward.py init')} {' '.join(filter(None, words))}")
    return 0


CHOSEN = (("format", "eval_fraction"), ("train", "batch_size"), ("train", "eval_steps"), ("train", "max_length"))


def init(words):
    example = "reward.py init pairs.jsonl --model Qwen/Qwen3-0.6B --method lora"
    parser = parser_for("init", "Inspect the data and write recipe.toml, the one file to edit.", example)
    parser.add_argument("data", nargs="+", help="Files, a folder or a hub dataset id.")
    parser.add_argument("--model", required=True, help="Base model: a hub id or a local folder.")
    parser.add_argument("--method", default="full", help="full, lora or qlora.")
    parser.add_argument("--recipe", default="recipe.toml", help="File to write.")
    parser.add_argument("--gpu", default="", help="Plan for this GPU and write the settings it allows.")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.NAME=VALUE", help="Set any parameter.")
    parser.add_argument("--force", action="store_true", help="Replace a recipe that is there.")
    add_stage_flags(parser, "format", leave_out=("data", "out"))
    args = parser.parse_args(words)
    import inspect_data
    import recipe
    import render
    import tokens

    path = Path(args.recipe)
    if path.exists() and not args.force:
        raise ToolError(
            f"{path} is there already", "a new file", "--force to replace it, or --recipe OTHER.toml", WRONG_USE
        )
    local = Path(args.model).is_dir()
    if not local and (args.model.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", args.model)):
        raise ToolError(f"no folder {args.model}", "a model folder that exists, or a hub id", "--model OTHER")
    tables = recipe.assign({"format": {}, "train": {"model": args.model, "method": args.method}}, args.set)
    asked = recipe.validate("train", tables["train"])
    overrides = {**tables["format"], **stage_values(args)}
    found = inspect_data.inspect(args.data, overrides, args.model, asked.max_length, asked.chat_template)
    if found["proposed"]:
        mend = f"reward.py inspect {shlex.join(args.data)}, and if its rows are right: {found['proposed']}"
        raise ToolError(
            "no known schema fits; the proposed mapping is a guess", "a mapping that you have checked", mend
        )
    home = path.resolve().parent

    def seen_from_recipe(name):
        return os.path.relpath(name, home) if Path(name).exists() and not Path(name).is_absolute() else name

    defaults = recipe.validate("format", {}).model_dump()
    mapping = {key: value for key, value in found["mapping"].items() if value != defaults.get(key) or key == "kind"}
    tables["format"] = {"data": [seen_from_recipe(name) for name in args.data], **mapping}
    tables["train"]["model"] = seen_from_recipe(tables["train"]["model"])
    if (home / "data").is_dir() and not (home / "data" / "report.json").exists():  # it holds the user's own files
        tables["format"].setdefault("out", "pairs")
    if found["pairs"] < 1000:
        tables["format"].setdefault("eval_fraction", 0.2)
        tables["train"].setdefault("batch_size", 16)
    steps = found["pairs"] // recipe.validate("train", tables["train"]).batch_size
    tables["train"].setdefault("eval_steps", min(100, max(1, steps // 4)))
    counted = found["tokens"]
    if counted["measured"] and counted["share"] >= 0.01 and "max_length" not in tables["train"]:
        within = counted["costs_under_1_percent"] or counted["model_made_for"] or 0
        if within > counted["max_length"]:
            tables["train"]["max_length"] = within
    planned = plan_for(args.gpu, home, tables) if args.gpu else ""
    render.write(path, recipe.dump(tables))
    facts = {key: found[key] for key in ("schema", "rows", "pairs", "ties", "rejected", "tokens", "warnings")}
    text = f"{found['pairs']} pairs ({found['schema']}); wrote {path}"
    chosen = {f"{s}.{k}": v for s, k in CHOSEN if (v := tables[s].get(k)) is not None}
    text += "\nchosen for this data: " + ", ".join(f"{key} = {value}" for key, value in chosen.items())
    text += "".join(f"\n{line}" for line in tokens.as_lines(counted))
    text += planned and f"\n{planned}"
    text += "".join(f"\nwarning: {warning}" for warning in found["warnings"])
    text += as_typed("\nnext: reward.py check --smoke, then reward.py run", args.recipe)
    answer(args, {"recipe": str(path), **facts}, text)
    return 0


def plan_for(gpu, folder, tables):
    """Put what `plan` recommends for a GPU into the recipe's tables where nothing is set. Returns a line about it."""
    import plan as verb
    import recipe

    found = verb.plan(
        folder, {stage: recipe.validate(stage, tables.get(stage, {})) for stage in ("format", "train")}, gpu
    )
    if not found["recommended"]:
        raise ToolError(verb.as_text(found), "a training that fits", "a larger --gpu, or a smaller --model")
    tables["train"] = {**found["recommended"], **tables["train"], "method": found["recommended"]["method"]}
    chosen = ", ".join(f"{key} = {tables['train'][key]}" for key in found["recommended"])
    return f"planned for {found['device']['name']}: {chosen} (reward.py plan shows why)"


def plan(words):
    example = "reward.py plan --gpu L40S"
    parser = parser_for("plan", "Memory, time and settings of the training, before anything is started.", example)
    parser.add_argument("--recipe", default="recipe.toml", help="Recipe to plan for.")
    parser.add_argument("--gpu", default="", help="A GPU by name, or cpu; this machine where left out.")
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.NAME=VALUE", help="Plan with this instead."
    )
    args = parser.parse_args(words)
    import plan as verb
    import recipe

    folder, stages = load_recipe(args)
    given = {stage: values.model_dump(exclude_unset=True) for stage, values in stages.items()}
    stages = {stage: recipe.validate(stage, values) for stage, values in recipe.assign(given, args.set).items()}
    found = verb.plan(folder, stages, args.gpu)
    answer(args, found, verb.as_text(found))
    return 0 if found["recommended"] else CHECK_FAILED


def params(words):
    parser = parser_for("params", "Every parameter: default, range, meaning.", "reward.py params train")
    parser.add_argument("stage", nargs="?", help="A stage; all where left out.")
    args = parser.parse_args(words)
    import parameters
    import render
    from stages import STAGES

    if args.stage:
        render.stage_named(args.stage, "params")
    wanted = [args.stage] if args.stage else list(STAGES)
    answer(args, parameters.as_schema(wanted), parameters.as_text(wanted))
    return 0


def render(words):
    example = "reward.py render train --method lora > train.py"
    parser = parser_for("render", "Write run/*.py from the recipe, or print the script of one stage.", example)
    parser.add_argument("stage", nargs="?", help="format, train, evaluate or score; all into run/ where left out.")
    parser.add_argument("--recipe", help="Recipe to take values from; for all stages recipe.toml is the default.")
    parser.add_argument("--output", metavar="FILE", help="Write the script of one stage here instead of to stdout.")
    parser.add_argument("--notebook", action="store_true", help="Jupyter notebooks (.ipynb), beside the recipe.")
    parser.add_argument("--force", action="store_true", help="Replace scripts or notebooks that were edited by hand.")
    import notebook
    import recipe
    import render as verb
    import run as runner
    from stages import STAGES

    if stage := next((word for word in words if word in STAGES), None):
        add_stage_flags(parser, stage)
    args = parser.parse_args(words)
    if args.stage:
        verb.stage_named(args.stage)
        given = recipe.load(args.recipe, [args.stage])[args.stage].model_dump(exclude_unset=True) if args.recipe else {}
        make = notebook.as_notebook if args.notebook else verb.render
        text = make(args.stage, recipe.validate(args.stage, {**given, **stage_values(args)}))
        if args.output:
            verb.write(args.output, text)
        answer(
            args,
            {"stage": args.stage, "script": args.output or text},
            f"wrote {args.output}" if args.output else text.rstrip("\n"),
        )
        return 0
    args.recipe = args.recipe or "recipe.toml"
    folder, stages = load_recipe(args)
    write = notebook.write_notebooks if args.notebook else runner.write_scripts
    paths = {stage: str(path) for stage, path in write(folder, stages, force=args.force).items()}
    after = "open them in Jupyter" if args.notebook else "reward.py check --smoke"
    lines = [f"wrote {path}" for path in paths.values()]
    lines += [
        f"{stage}: left out, for a notebook would never end; run its script" for stage in stages if stage not in paths
    ]
    answer(args, {"scripts": paths}, "\n".join([*lines, as_typed(f"next: {after}", args.recipe)]))
    return 0


def check(words):
    parser = parser_for("check", "Find what would break before it costs a GPU hour.", "reward.py check --smoke")
    parser.add_argument("scripts", nargs="*", help="Scripts to check; those of the recipe where left out.")
    parser.add_argument("--recipe", default="recipe.toml", help="Recipe whose scripts to check.")
    parser.add_argument("--smoke", action="store_true", help="Also run the scripts on a shrunken model and a few rows.")
    args = parser.parse_args(words)
    import check as verb
    import run as runner

    paths, folder, stages = [Path(script) for script in args.scripts], None, None
    if not paths or args.smoke:
        folder, stages = load_recipe(args)
        scripts = runner.write_scripts(folder, stages, keep_edits=True)
        paths = paths or list(scripts.values())
    for path in paths:
        if not path.is_file():
            raise ToolError(f"no script {path}", "a rendered script", "reward.py render", WRONG_USE)
    found = [finding for path in paths for finding in verb.check_script(path)]
    errors = [finding for finding in found if finding["level"] == "error"]
    result = {"scripts": [str(path) for path in paths], "findings": found, "errors": len(errors), "smoke": None}
    lines = [f"{f['script']}:{f['line']}: {f['level']}: {f['check']}: {f['message']}" for f in found]
    if errors:
        answer(args, result, "\n".join([*lines, f"{len(errors)} errors"]))
        return CHECK_FAILED
    lines.append(f"{len(paths)} scripts: syntax, lint and arguments are in order")
    if stages:
        import thinking_view

        result["thinking_view"] = thinking_view.of_recipe(folder, stages["train"])
        lines += thinking_view.as_lines(result["thinking_view"], short=True)
    if args.smoke:
        import smoke

        start = time.monotonic()
        result["smoke"] = smoke.smoke(folder, stages, quiet=args.json)
        each = ", ".join(f"{stage} {seconds} s" for stage, seconds in result["smoke"].items())
        lines.append(f"smoke: {each}; {time.monotonic() - start:.0f} s in all, two at a time")
    after = as_typed("next: reward.py run" if args.smoke else "next: reward.py check --smoke", args.recipe)
    answer(args, result, "\n".join([*lines, after]))
    return 0


def run(words):
    parser = parser_for(
        "run", "Run the stages in order; skip what is up to date, resume what was cut off.", "reward.py run"
    )
    parser.add_argument("stages", nargs="*", help="Stages to run; all where left out.")
    parser.add_argument("--recipe", default="recipe.toml", help="Recipe to run.")
    parser.add_argument("--force", action="store_true", help="Run what is up to date again.")
    args = parser.parse_args(words)
    import render as rendering
    import run as verb

    for stage in args.stages:
        rendering.stage_named(stage, "run")
    folder, stages = load_recipe(args, args.stages)

    def say(text):
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    results = verb.run(folder, stages, args.stages, args.force, quiet=args.json, say=say)
    text = "\n".join(f"{r['stage']:9} {r['status']:10} {r['seconds']:>7.1f} s  {r['out']}" for r in results)
    text += "".join(f"\nwarning: {r['stage']}: {r['warning']}" for r in results if "warning" in r)
    answer(args, {"stages": results}, text)
    return 0


def launch(words):
    example = "reward.py launch --kind fsdp2 --on slurm --nodes 2 --gpus 8 --partition gpu"
    parser = parser_for("launch", "Write what starts the training on several GPUs or machines.", example)
    import launch as verb

    add = parser.add_argument
    add("--recipe", default="recipe.toml", help="Recipe whose training to start.")
    add("--kind", choices=[*verb.KINDS], default="ddp", help="Weights whole on each GPU (ddp), or split over all.")
    add("--on", choices=verb.PLACES, default="here", help="This machine, a Slurm cluster or Hugging Face Jobs.")
    add("--nodes", type=int, choices=range(1, 1025), metavar="N", default=1, help="Machines (slurm).")
    add("--gpus", type=int, choices=range(1, 65), metavar="N", default=8, help="GPUs of a machine.")
    add("--hours", type=float, default=24.0, help="Time limit (slurm, hf-jobs).")
    add("--partition", default="", help="Partition (slurm).")
    add("--account", default="", help="Account (slurm).")
    add("--flavor", default="", help="Hardware (hf-jobs), as hf jobs hardware lists it.")
    add("--bucket", default="", help="USER/NAME of the bucket to write to (hf-jobs).")
    args = parser.parse_args(words)
    if not 0.1 <= args.hours <= 10_000:
        raise ToolError(f"--hours {args.hours}", "0.1 to 10000", "--hours 24", WRONG_USE)
    import run as runner

    folder, stages = load_recipe(args)
    if not runner.script_path(folder, "train").exists():
        runner.write_scripts(folder, stages, keep_edits=True)
    options = {key: value for key, value in vars(args).items() if key not in ("recipe", "json")}
    found = verb.launch(folder, stages["train"], **options)
    lines = [f"wrote {name}" for name in found["files"]] + [f"note: {note}" for note in found["notes"]]
    answer(args, found, "\n".join([*lines, f"start it in {found['folder']} with:", f"  {found['command']}"]))
    return 0


def demo(words):
    parser = parser_for(
        "demo", "The whole pipeline on data and a model made on the spot, offline.", "reward.py demo --out demo"
    )
    parser.add_argument("--out", default="reward-demo", help="Folder to work in.")
    args = parser.parse_args(words)
    import demo as verb

    found = verb.demo(Path(args.out), quiet=args.json)
    answer(args, found, verb.as_text(found, started_as()))
    return 0


COMMANDS = {f.__name__: f for f in (doctor, inspect, init, plan, params, render, check, run, launch, demo)}


def command(words):
    """Run what the words ask for; returns the exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else WRONG_USE
    if words[0] == "--version":
        from stages import VERSION

        print(VERSION)
        return 0
    if words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        mend = f"reward.py {near or '--help'}"
        raise ToolError(f"unknown command {words[0]!r}", ", ".join(COMMANDS), mend, WRONG_USE)
    return COMMANDS[words[0]](words[1:])


def main(words):
    """Run one command, whatever happens; returns the exit code."""
    try:
        code = command(words)
        sys.stdout.flush()  # here, where a closed pipe is no error
        return code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ToolError, OSError) as error:
        if isinstance(error, OSError):
            error = ToolError(str(error), "files and folders that can be read and written", "another path", WRONG_USE)
        named = re.search(r"--recipe[= ](\S+)", shlex.join(words))
        error.mend = as_typed(error.mend, named and shlex.split(named[1])[0])
        print(error, file=sys.stderr)
        if "--json" in words:
            print(json.dumps({**error.as_dict(), **getattr(error, "report", {})}, ensure_ascii=False, default=str))
        return error.code


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # scripts and JSON are UTF-8 in every locale
    sys.exit(main(sys.argv[1:]))
