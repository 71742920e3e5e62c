"""recipe.toml: the one file a person edits. Reading, validating and writing it."""

import json
import sys
from pathlib import Path

from errors import ToolError, nearest
from pydantic import ValidationError
from stage import limits
from stages import PIPELINE, STAGES, VERSION

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def explain(stage, error):
    """The first finding of a pydantic ValidationError as a ToolError that names the nearest right parameter."""
    finding = error.errors()[0]
    name = str(finding["loc"][0]) if finding["loc"] else "?"
    fields = STAGES[stage].model_fields
    if finding["type"] == "extra_forbidden":
        near = nearest(name, fields)
        mend = f"{near}, if that is what you meant" if near else f"reward.py params {stage}"
        return ToolError(f"{stage} has no parameter {name!r}", f"one of {', '.join(fields)}", mend)
    low, high = limits(fields[name])
    span = f" between {low} and {high if high is not None else 'any higher number'}" if low is not None else ""
    received = f"{stage}.{name} = {finding['input']!r}"
    return ToolError(received, f"{finding['msg']}{span}", f"reward.py params {stage}")


def validate(stage, values):
    """Values (a dict) -> the stage's validated parameters."""
    try:
        return STAGES[stage](**values)
    except ValidationError as error:
        raise explain(stage, error) from None


AS_IN_TRAIN = ("model", "chat_template", "max_length", "overlong")
"""What [audit] takes from [train] where it says nothing itself: it counts what train will read."""


def followed(tables):
    """{stage: dict} with what a stage takes over from others where it says nothing itself: what it reads follows the
    `out` of the stage that writes it, and audit looks at the data as train will."""
    outs = {}
    for stage, kind in STAGES.items():
        if "out" in kind.model_fields:
            default = kind.model_fields["out"].default
            outs[default] = tables.get(stage, {}).get("out", default)

    def moved(path):
        first, slash, rest = path.partition("/")
        return outs.get(first, first) + slash + rest

    found = {stage: {} for stage in STAGES}
    for stage, kind in STAGES.items():
        for name in kind.reads.split():
            default = kind.model_fields[name].default
            now = moved(default) if isinstance(default, str) else [*map(moved, default)]
            if now != default:
                found[stage][name] = now
    found["audit"] |= {name: tables["train"][name] for name in AS_IN_TRAIN if name in tables.get("train", {})}
    return {stage: {**found[stage], **tables.get(stage, {})} for stage in STAGES}


def load(path, wanted=()):
    """Recipe file -> {stage: validated parameters}, in order, of the pipeline, of the recipe's own tables and of the
    stages wanted; defaults filled in."""
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ToolError(f"no recipe at {path}", "a recipe.toml", "reward.py init DATA --model MODEL") from None
    except (ValueError, OSError, RecursionError) as error:  # tomllib has errors of its own and int()'s
        raise ToolError(
            f"{path} is not valid TOML: {error}", "key = value lines under [stage] headings", "mend it"
        ) from None
    for name in tables:
        if name not in STAGES or not isinstance(tables[name], dict):
            near = nearest(name, STAGES)
            raise ToolError(f"{path} has [{name}]", f"the stages {', '.join(STAGES)}", f"[{near or 'train'}]")
    given = followed(tables)
    return {s: validate(s, given[s]) for s in STAGES if s in {*PIPELINE, *tables, *wanted}}


def parse_value(stage, name, text):
    """The text of a flag or of --set -> a value of the parameter's type; pydantic judges the rest."""
    fields = STAGES[stage].model_fields
    if name not in fields or fields[name].annotation != list[str]:
        return text
    try:
        return json.loads(text) if text.startswith("[") else text.split(",")
    except ValueError as error:
        mend = f'--set \'{stage}.{name}=["one", "two"]\''
        raise ToolError(f"{stage}.{name} = {text}: {error}", "a JSON list, or words with commas", mend) from None


def assign(tables, assignments):
    """Apply `stage.name=value` texts to {stage: dict}."""
    for text in assignments:
        name, equals, value = text.partition("=")
        stage, dot, key = name.partition(".")
        if not equals or not dot:
            raise ToolError(f"--set {text}", "stage.parameter=value", "--set train.learning_rate=2e-5", code=2)
        if stage not in STAGES:
            near = nearest(stage, STAGES)
            raise ToolError(
                f"unknown stage {stage!r} in --set", ", ".join(STAGES), f"--set {near or 'train'}.{key}={value}"
            )
        tables.setdefault(stage, {})[key] = parse_value(stage, key, value)
    return tables


def toml_value(value):
    """Python value -> TOML. JSON's strings, numbers and lists are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def dump(tables):
    """{stage: {name: value}} -> recipe text. What is set stands there; what is not is a comment with its default.
    Stages outside the pipeline that nothing is set of are named in one line."""
    lines = [
        f"# Written by reward {VERSION}. The one file to edit: then `reward.py render`, `check --smoke` and `run`.",
        "# A line that begins with # shows a default; take the # away to change it. Paths are relative to this file.",
    ]
    shown = [stage for stage in STAGES if stage in PIPELINE or stage in tables]
    full = followed(tables)
    for stage in shown:
        kind, checked = STAGES[stage], validate(stage, full[stage])
        taken = {name for name in AS_IN_TRAIN if stage == "audit" and name in tables.get("train", {})}
        given = {n: v for n, v in tables.get(stage, {}).items() if n not in taken or v != tables["train"][n]}
        lines += ["", f"[{stage}]", f"# {kind.__doc__.strip().splitlines()[0]}"]
        for name, field in kind.model_fields.items():
            mark = "" if name in given else "# "
            lines.append(f"{mark}{name} = {toml_value(getattr(checked, name))}  # {field.description}")
    if others := [f"[{stage}]" for stage in STAGES if stage not in shown]:
        lines += ["", f"# A heading adds a stage: {' '.join(others)}; `reward.py params STAGE` lists what it takes."]
    text = "\n".join(lines) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{text[max(0, error.start - 40) : error.end]!r} holds bytes that are no UTF-8"
        raise ToolError(found, "names in UTF-8, for TOML knows no other", "rename the file") from None
    return text
