"""Every golden script runs as it stands, on the packages that are installed here.

`make test` runs this on the pinned versions, `make test-versions` on the oldest that stages.py names and the newest.
"""

import ast
import importlib.metadata
import json
import re
import shutil
import sys

import demo
import doctor
import pytest
import smoke
from conftest import write_jsonl
from in_process import run_script
from stages import LOWEST, REQUIRES, STAGES
from trainings import GOLDEN

ASKS = [f"What is {n} + {n}?" for n in range(40)]
STEP = {"completions": [{"text": "Twice.", "rating": 1}, {"text": "Hm.", "rating": -1}], "chosen_completion": 0}
TALK = "\n\nHuman: {}\n\nAssistant: {}"
# A golden script that formats -> rows of its kind, and the flags that name their columns.
DATA = {
    "format": (demo.preferences(80), ""),
    "format_choice": ([{"prompt": q, "chosen": "Yes.", "rejected": "No.", "label": "1"} for q in ASKS], ""),
    "format_transcripts": ([{"chosen": TALK.format(q, "4"), "rejected": TALK.format(q, "5")} for q in ASKS], ""),
    "format_ratings": (
        [{"prompt": q, "said": ["Four.", "Five, no?", "Six?"], "stars": [5, 1 + n % 2, 1]} for n, q in enumerate(ASKS)],
        "--responses said.* --ratings stars.* --margin-scale 2 --keep-ties",
    ),
    "format_rated_rows": (
        [{"prompt": q, "said": f"{q} {k}", "stars": k} for q in ASKS for k in (1, 2)],
        "--responses said --ratings stars",
    ),
    "format_steps": (
        [{"prompt": q, "steps": ["Twice.", f"{k}."], "label": -(k % 2)} for q in ASKS for k in (1, 2)],
        "--responses steps --ratings label",
    ),
    "format_next_steps": ([{"prompt": q, "steps": [STEP, STEP]} for q in ASKS], "--responses steps.*"),
}
RATED = ("train_scaled", "train_ties", "train_listwise", "train_regression")
OPTIONAL = {"liger_kernel"}  # asked for by a flag, and refused with the command that installs it
APART = ("bulk", "serve", "verify")  # processes of their own: smoke_apart.py, test_bulk.py, test_serving_load.py


def go(name, words, folder):
    """Run a golden script; an error where it fails."""
    done = run_script(GOLDEN / f"{name}.py", words, folder)
    assert done.returncode == 0, f"{name} {words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def stage_of(name):
    return max((stage for stage in STAGES if f"{name}_".startswith(f"{stage}_")), key=len)


@pytest.fixture(scope="module")
def there(base, tmp_path_factory):
    """A folder with models and data for every stage: what smoke writes, pairs, rated pairs, a trained reward model."""
    folder = tmp_path_factory.mktemp("smoke")
    for name in ("base", "policy-base"):
        shutil.copytree(base, folder / name)
    for name, rows in smoke.FILES.items():
        write_jsonl(folder / name, rows)
    for name in ("format", "format_ratings"):
        rows, flags = DATA[name]
        words = ["--data", str(write_jsonl(folder / f"{name}.jsonl", rows)), *flags.split()]
        go(name, [*smoke.words("format", folder), *words], folder)
        (folder / "data").rename(folder / name)
    (folder / "format").rename(folder / "data")
    for stage in ("train", "evaluate", "export"):
        go(stage, smoke.words(stage, folder), folder)
    return folder


def words_for(name, there, out):
    """The words that run a golden script on what lies in `there`, writing to `out`, whose folder holds its rows."""
    stage = stage_of(name)
    words = smoke.words(stage, there)
    words[words.index("--out") + 1] = str(out)
    if stage == "format":
        rows, flags = DATA[name]
        words += ["--data", str(write_jsonl(out.with_name("rows.jsonl"), rows)), *flags.split()]
    elif stage == "ensemble":
        words += smoke.in_folder(smoke.ENSEMBLE["weights" if name.endswith("weights") else "scores"], there)
    elif name in RATED:
        words += ["--data", str(there / "format_ratings")]
    elif name == "scale_pairs":
        words += ["--data", str(there / "data" / "eval.parquet")]
    return words


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.py") if path.stem not in APART))
def test_runs_as_it_stands(name, there, tmp_path):
    go(name, words_for(name, there, tmp_path / "out"), there)
    assert (tmp_path / "out").exists()
    if stage_of(name) == "format":
        assert json.loads((tmp_path / "out" / "report.json").read_text())["pairs"] >= len(ASKS)


def brought(requirements):
    """Names of the distributions that are required, and of all that installing them brings."""
    found, left = set(), list(requirements)
    while left:
        name = re.match(r"[\w.-]+", left.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            left += [need for need in importlib.metadata.requires(name) or [] if ";" not in need]
    return found


def test_headers_name_what_scripts_import():
    """So a script runs in an environment made from its header; what a package brings need not be named."""
    owners = importlib.metadata.packages_distributions()
    for path in GOLDEN.glob("*.py"):
        tree = ast.parse(path.read_text())
        named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        named |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        asked = {name.split(".")[0] for name in named} - {*sys.stdlib_module_names, *OPTIONAL}
        there = brought(REQUIRES[stage_of(path.stem)])
        lacking = [
            name
            for name in asked
            if not {owner.lower().replace("_", "-") for owner in owners.get(name, [name])} & there
        ]
        assert asked and lacking == [], path.name


def test_packages_are_what_the_scripts_need():
    assert doctor.doctor()["missing"] == []
    pinned = dict(re.findall(r"(?m)^(\S+)==(\S+)", (GOLDEN.parent.parent / "constraints.txt").read_text()))
    assert not [n for n, v in LOWEST.items() if doctor.older(pinned[n.partition("[")[0]], v)]
