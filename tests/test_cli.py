"""The command line as agents and people meet it: help, JSON, exit codes, and what it needs and leaves."""

import json
import os
import re
import shutil
import subprocess
import sys

import demo
import doctor
import pytest
import recipe
import reward
from conftest import ENVIRONMENT, ROOT, SKILL, python, tool, write_jsonl
from stages import PIPELINE, STAGES, VERSION

SCRIPT = SKILL / "scripts" / "reward.py"
GOLDEN = ROOT / "tests" / "golden"
HEAVY = {"torch", "transformers", "datasets", "numpy", "trl", "peft", "pyarrow"}


def write_pairs(path, count=40):
    rows = [{"prompt": f"Größe von {i} + {i}?", "chosen": f"{2 * i}", "rejected": f"{2 * i + 1}"} for i in range(count)]
    return write_jsonl(path, rows)


@pytest.fixture
def project(tmp_path):
    """A folder with preferences, a recipe and rendered scripts."""
    write_pairs(tmp_path / "good.jsonl")
    tool("init", "good.jsonl", "--model", "base", cwd=tmp_path)
    tool("render", cwd=tmp_path)
    return tmp_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, for commands that run in this process."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- Help, JSON, exit codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", reward.COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        reward.main([command, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"example: reward.py {command}" in said and "--json" in said
    assert re.search(rf"^    reward.py {command}\b", reward.__doc__, re.MULTILINE)


def test_every_command_answers_in_json(project):
    def answer(*words):
        return json.loads(tool(*words, "--json", cwd=project).stdout)

    found = answer("inspect", "good.jsonl")
    assert {"schema", "rows", "pairs", "ties", "rejected", "warnings"} <= set(found)
    assert (found["schema"], found["rows"], found["pairs"]) == ("prompt-chosen-rejected", 40, 40)
    found = answer("init", "good.jsonl", "--model", "base", "--force")
    assert (found["recipe"], found["pairs"]) == ("recipe.toml", 40)
    found = answer("params", "train")
    assert found["train"]["properties"]["learning_rate"]["maximum"] == 1
    assert set(answer("params")) == set(STAGES)
    assert set(answer("render")["scripts"]) == set(PIPELINE)
    found = answer("render", "format")
    assert (found["stage"], found["script"]) == ("format", (GOLDEN / "format.py").read_text())
    found = answer("check", "run/format.py")
    assert (found["scripts"], found["findings"], found["errors"], found["smoke"]) == (["run/format.py"], [], 0, None)
    found = answer("run", "format")
    assert [(result["stage"], result["status"]) for result in found["stages"]] == [("format", "done")]
    found = answer("run", "format")
    assert [(result["stage"], result["status"]) for result in found["stages"]] == [("format", "up to date")]


def test_demo_answers_with_one_line_of_json(here, capsys, monkeypatch):
    found = {"eval_accuracy": 0.9, "interval": [0.8, 0.95], "length_baseline": 0.5, "pairs": 9, "seconds": 1.0}
    found["artefacts"] = {"model/reward.json": "model/reward.json"}
    monkeypatch.setattr(demo, "demo", lambda folder, quiet: found)
    assert reward.main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert reward.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("0.900", "0.500", "model/reward.json", "init YOUR_DATA"))


def test_doctor_says_what_is_missing_and_how_to_get_it(here, capsys, monkeypatch):
    found = doctor.doctor()
    assert reward.main(["doctor", "--json"]) == (5 if found["missing"] else 0)
    told = json.loads(capsys.readouterr().out)
    assert {"python", "cores", "memory_gib", "free_disk_gib", "gpus", "packages", "missing", "mend"} <= set(told)
    assert told["cores"] >= 1 and told["memory_gib"] > 0 and {"torch", "trl", "ruff"} <= set(told["packages"])
    monkeypatch.setattr(doctor, "version_of", {"torch": "2.5.9+cpu", "trl": "1.12"}.get)
    assert reward.main(["doctor", "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert "torch>=2.6" in told["missing"] and "ruff" in told["missing"] and "trl>=1.12" not in told["missing"]
    assert told["mend"].startswith(f"{sys.executable} -m pip install") and "'torch>=2.6'" in told["mend"]


@pytest.mark.parametrize(
    "words, code, told",
    [
        ([], 2, ""),
        (["inspct"], 2, "reward.py inspect"),
        (["params", "trian"], 2, "reward.py params train"),
        (["render", "evalute"], 2, "reward.py render evaluate"),
        (["run", "scores"], 2, "reward.py run score"),
        (["inspect"], 2, "no data named"),
        (["init", "good.jsonl"], 2, "--model"),
        (["init", "good.jsonl", "--model", "m", "--set", "train.seed"], 2, "stage.parameter=value"),
        (["init", "good.jsonl", "--model", "m", "--recipe", "good.jsonl/recipe.toml"], 2, "can be read and written"),
        (["init", "good.jsonl", "--model", "m", "--set", "trian.seed=1"], 3, "--set train.seed=1"),
        (["render"], 3, "reward.py init DATA --model MODEL"),
        (["render", "train", "--learning_rate", "1"], 3, "try: --learning-rate"),
        (["check", "nothing.py"], 2, "no script nothing.py"),
        (["check", "broken.py"], 4, "broken.py:1: error: syntax"),
    ],
)
def test_exit_codes(here, capsys, words, code, told):
    write_pairs(here / "good.jsonl")
    (here / "broken.py").write_text("def broken(:\n")
    assert reward.main(words) == code
    said = capsys.readouterr()
    assert told in said.err + said.out
    assert {path.name for path in here.iterdir()} == {"good.jsonl", "broken.py"}
    if code != 4 and words:
        assert reward.main([*words, "--json"]) == code
        error = json.loads(capsys.readouterr().out)["error"]
        assert set(error) == {"received", "expected", "mend", "exit_code"} and error["exit_code"] == code


def test_version_and_usage(tmp_path):
    assert tool("--version", cwd=tmp_path).stdout.strip() == VERSION
    assert "reward.py inspect DATA" in tool("--help", cwd=tmp_path).stdout


# ---- Recipe, render, run ---------------------------------------------------------------------------------------------


def test_init_writes_what_load_reads(project):
    loaded = recipe.load(project / "recipe.toml")
    given = {stage: values.model_dump(exclude_unset=True) for stage, values in loaded.items()}
    assert given["format"] == {"data": ["good.jsonl"], "kind": "pairs", "eval_fraction": 0.2}
    assert given["train"] == {"model": "base", "method": "full", "batch_size": 16, "eval_steps": 1}
    assert recipe.dump(given) == (project / "recipe.toml").read_text()
    assert loaded == {stage: recipe.validate(stage, given[stage]) for stage in PIPELINE}


def test_init_never_replaces_a_recipe_unasked(project):
    (project / "recipe.toml").write_text("# mine\n")
    done = tool("init", "good.jsonl", "--model", "base", cwd=project, code=2)
    assert "recipe.toml is there already" in done.stderr and "--force" in done.stderr
    assert (project / "recipe.toml").read_text() == "# mine\n"
    tool("init", "good.jsonl", "--model", "base", "--force", "--method", "lora", cwd=project)
    assert recipe.load(project / "recipe.toml")["train"].learning_rate == 1e-4


def test_init_leaves_the_folder_data_to_the_user(tmp_path):
    (tmp_path / "data").mkdir()
    write_pairs(tmp_path / "data" / "good.jsonl")
    tool("init", "data", "--model", "base", cwd=tmp_path)
    tool("run", "format", cwd=tmp_path)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["good.jsonl"]
    loaded = recipe.load(tmp_path / "recipe.toml")
    assert (loaded["train"].data, loaded["evaluate"].data) == ("pairs", "pairs/eval.parquet")
    assert (tmp_path / "pairs" / "eval.parquet").is_file()


def test_what_a_stage_reads_follows_where_another_writes_it(tmp_path):
    """Whatever the headings that are there; what a stage sets itself stays."""
    text = '[format]\nout = "pairs"\n[train]\nout = "runs/a"\n[evaluate]\nout = "e"\n[rl]\n[scale]\nmodel = "other"\n'
    (tmp_path / "recipe.toml").write_text(text + "[verify]\n[ensemble]\n")
    loaded = recipe.load(tmp_path / "recipe.toml")
    assert (loaded["audit"].data, loaded["train"].data, loaded["rl"].data) == (
        "pairs",
        "pairs",
        ["pairs/train.parquet"],
    )
    assert (loaded["evaluate"].data, loaded["ensemble"].pairs) == ("pairs/eval.parquet",) * 2
    assert (loaded["evaluate"].model, loaded["rl"].reward_models, loaded["score"].model) == (
        "runs/a",
        ["runs/a"],
        "runs/a",
    )
    assert (loaded["scale"].model, loaded["scale"].data, loaded["verify"].export) == (
        "other",
        "e/scores.jsonl",
        "export",
    )


def test_a_stage_takes_the_recipe_and_flags_over_it(project):
    words = ["render", "--recipe", "recipe.toml", "train", "--learning-rate", "3e-5", "--no-resume"]
    said = tool(*words, cwd=project).stdout
    assert all(text in said for text in ('default="base"', "default=3e-05", "default=False", "batch_size"))
    done = tool(*words, "--output", "out/train.py", cwd=project)
    assert done.stdout == "wrote out/train.py\n" and (project / "out" / "train.py").read_text() == said


def test_run_ends_with_the_exit_code_of_a_broken_script(project):
    for theirs, ours in ((2, 2), (3, 3), (5, 5), (1, 4), (7, 4)):
        (project / "run" / "format.py").write_text(f"raise SystemExit({theirs})\n")
        done = tool("run", "format", "--json", cwd=project, code=ours)
        assert f"format stopped with exit code {theirs}" in json.loads(done.stdout)["error"]["received"]
        assert "was edited by hand" in done.stderr
    assert not (project / "data").exists()
    (project / "recipe.toml").write_text('[format]\ndata = ["good.jsonl"]\nmax_rejected = 0\n')
    (project / "good.jsonl").write_text((project / "good.jsonl").read_text() + "{}\n")
    tool("render", "--force", cwd=project)
    told = json.loads(tool("run", "format", "--json", cwd=project, code=3).stdout)["error"]
    assert "1 of 41 rows" in told["received"] and "max_rejected under [format]" in told["mend"]


def test_run_goes_again_when_something_changed(project):
    def statuses(*words):
        found = json.loads(tool("run", "format", "--json", *words, cwd=project).stdout)
        return [result["status"] for result in found["stages"]]

    assert statuses() == ["done"] and statuses() == ["up to date"] and statuses("--force") == ["done"]
    write_pairs(project / "good.jsonl", 50)
    assert statuses() == ["done"] and json.loads((project / "data" / "report.json").read_text())["pairs"] == 50
    shutil.rmtree(project / "data")
    assert statuses() == ["done"] and statuses() == ["up to date"]
    (project / "run" / "format.py").write_text((GOLDEN / "format.py").read_text() + "# edited\n")
    write_pairs(project / "preferences.jsonl")
    assert statuses() == ["done"]
    assert (project / "run" / "format.py").read_text().endswith("# edited\n")


def test_scripts_follow_the_recipe_and_edits_are_kept(project):
    script, recipe_file = project / "run" / "format.py", project / "recipe.toml"
    tool("render", cwd=project)
    recipe_file.write_text(recipe_file.read_text().replace("eval_fraction = 0.2", "eval_fraction = 0.3"))
    tool("run", "format", cwd=project)
    assert '"--eval-fraction", type=within(float, 0.001, 0.9), default=0.3' in script.read_text()
    script.write_text(script.read_text() + "# edited\n")
    assert "was edited by hand" in tool("render", cwd=project, code=2).stderr
    assert script.read_text().endswith("# edited\n")
    tool("render", "--force", cwd=project)
    assert not script.read_text().endswith("# edited\n")


# ---- Check -----------------------------------------------------------------------------------------------------------


def test_check_finds_nothing_in_the_golden_scripts(tmp_path):
    found = json.loads(tool("check", "--json", *sorted(GOLDEN.glob("*.py")), cwd=tmp_path).stdout)
    assert (found["findings"], found["errors"]) == ([], 0)


def test_check_finds_what_recipes_of_other_versions_break_on(tmp_path):
    text = (GOLDEN / "train.py").read_text()
    doctored = {
        "processing_class=tokenizer": "tokenizer=tokenizer",
        "max_length=None": "max_seq_length=None",
        'eval_strategy="steps"': 'evaluation_strategy="steps"',
        "from trl import RewardConfig": "from trl import PairwiseRewardTrainer, RewardConfig",
        "import math\n": "",
    }
    for old, new in doctored.items():
        assert old in text, old
        text = text.replace(old, new)
    (tmp_path / "train.py").write_text(text)
    done = tool("check", "train.py", "--json", cwd=tmp_path, code=4)
    said = "\n".join(finding["message"] for finding in json.loads(done.stdout)["findings"])
    for word in (
        "RewardTrainer(tokenizer=…): trl ",
        "RewardConfig(max_seq_length=…): trl ",
        "it has max_length",
        "RewardConfig(evaluation_strategy=…): trl ",
        "it has eval_strategy",
        "has no PairwiseRewardTrainer",
        "Undefined name `math`",
    ):
        assert word in said, f"no {word!r} in:\n{said}"
    for content in (b"def broken(:\n", b"x = '\xff'\n", b"x = 1\x00\n"):
        (tmp_path / "train.py").write_bytes(content)
        assert ": error: syntax: " in tool("check", "train.py", cwd=tmp_path, code=4).stdout


# ---- What it needs, and what it leaves -------------------------------------------------------------------------------


def test_nothing_heavy_is_imported(project):
    imports = {"PYTHONPROFILEIMPORTTIME": "1"}
    for words in (
        ["--help"],
        ["doctor"],
        ["params"],
        ["inspect", "good.jsonl"],
        ["init", "good.jsonl", "--model", "base", "--force"],
        ["render"],
        ["render", "train", "--method", "qlora"],
        ["check", "run/format.py", "run/train.py"],
        ["demo", "--help"],
    ):
        done = python(SCRIPT, *words, cwd=project, env=imports)
        names = {name.split(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)}
        assert "argparse" in names and not names & HEAVY, words


def test_without_jinja2_and_pydantic_it_says_so(tmp_path):
    done = subprocess.run([sys.executable, "-S", "-E", SCRIPT, "params"], capture_output=True, text=True, check=False)
    assert done.returncode == 5 and done.stdout == "" and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in ("has no jinja2", "pip install jinja2 pydantic", "uv run --script"))
    header = SCRIPT.read_text().split("# ///\n")[0]
    assert header.startswith("# /// script\n") and "jinja2" in header and "pydantic" in header


def test_the_skill_folder_alone_is_enough_and_stays_as_it_was(tmp_path):
    copy, project = tmp_path / "in a skill folder" / "reward", tmp_path / "my project" / "deep"
    shutil.copytree(SKILL, copy, ignore=shutil.ignore_patterns("__pycache__"))
    project.mkdir(parents=True)
    write_pairs(project.parent / "good.jsonl")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    script, bytecode = os.path.relpath(copy / "scripts" / "reward.py", project), {"PYTHONDONTWRITEBYTECODE": ""}
    for words in (
        ["params", "train"],
        ["inspect", "../good.jsonl"],
        ["init", "../good.jsonl", "--model", "base", "--recipe", "../recipe.toml"],
        ["render", "--recipe", "../recipe.toml"],
        ["check", "--recipe", "../recipe.toml"],
        ["run", "format", "--recipe", "../recipe.toml"],
    ):
        python(script, *words, cwd=project, env=bytecode)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert list(project.iterdir()) == []
    assert {"recipe.toml", "run", "data", "good.jsonl"} == {path.name for path in project.parent.iterdir()} - {"deep"}
    assert recipe.load(project.parent / "recipe.toml")["format"].data == ["good.jsonl"]


def test_output_is_utf8_in_every_locale(project):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    write_jsonl(project / "half.jsonl", [{"\ud83d": "a"}])
    for words in (["inspect", "good.jsonl"], ["inspect", "good.jsonl", "--json"], ["render", "train"]):
        done = subprocess.run(
            [sys.executable, SCRIPT, *words], cwd=project, capture_output=True, env=ENVIRONMENT | plain, check=True
        )
        assert "Größe" in done.stdout.decode("utf-8") or words[0] == "render"
    found = json.loads(tool("inspect", "half.jsonl", "--json", cwd=project, code=3).stdout)
    assert "\ud83d" in found["error"]["received"]


def test_a_closed_pipe_is_no_error(tmp_path):
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    for words in (["--version"], ["params", "score"], ["render", "train"]):
        command, pipe = [sys.executable, SCRIPT, *words], subprocess.PIPE
        with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, env=environment) as started:
            started.stdout.close()  # as `| head` does once it has its lines
            assert started.stderr.read() == b"" and started.wait() == 0, words
