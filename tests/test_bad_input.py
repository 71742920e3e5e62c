"""Bad input gets a clear sentence and exit 3, never a traceback, and leaves nothing half-written behind."""

import gzip
import io
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
import recipe
import render
import reward
from conftest import ROOT, python, read_jsonl, tool, write_jsonl
from stage import flag
from stages import STAGES

GOLDEN = ROOT / "tests" / "golden"
QUESTION = "Which of these two is the larger number?"


def pair(**changed):
    return {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"} | changed


def say(role, content):
    return {"role": role, "content": content}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def assert_refused(told, *words):
    """The three parts of a refusal, and the words that tell what is wrong and what to do."""
    for word in ("error: ", "\n  expected: ", "\n  try: ", *words):
        assert word in told, f"no {word!r} in:\n{told}"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuses(here, capsys):
    """Runs reward.py in this process, which ends a test with any exception; gives what it says on stderr, stdout."""

    def run(*words, code=3):
        assert reward.main(list(map(str, words))) == code, words
        said = capsys.readouterr()
        return said.err, said.out

    return run


@pytest.fixture
def refused_everywhere(here, refuses):
    """Asserts that the golden script, inspect and init all refuse a file with these words and write nothing."""

    def run(name, kind, words, *told):
        before = names(here)
        script = GOLDEN / ("format.py" if kind == "pairs" else f"format_{kind}.py")
        assert_refused(python(script, "--data", name, *words, cwd=here, code=3).stderr, *told)
        words = words if kind == "pairs" else ["--kind", kind, *words]
        said, found = refuses("inspect", name, "--json", *words)
        assert_refused(said, *told)
        assert json.loads(found)["error"]["exit_code"] == 3
        assert_refused(refuses("init", name, "--model", "base", *words)[0], *told)
        assert names(here) == before

    return run


# ---- Rows ------------------------------------------------------------------------------------------------------------

ASKED, ANSWERED = say("user", QUESTION), say("assistant", "7")
LEAVE_OUT = "leave them out"
HALF = json.dumps(pair(chosen="\ud83d")).encode()

# what -> kind, content of the file, flags, a word that tells the reason, a word of the advice
ROWS = {
    "empty file": ("pairs", b"", [], "holds no rows", "another file"),
    "blank lines": ("pairs", b"\n  \n\n", [], "holds no rows", "another file"),
    "broken JSON": ("pairs", b'{"prompt": "a", \n{"chosen"\nnothing\n', [], "3 not_json", "mend the line"),
    "no objects": ("pairs", b'[1, 2]\n"text"\nnull\n7\n', [], "4 not_an_object", LEAVE_OUT),
    "other columns": ("pairs", lines({"question": "a", "best": "b"}), [], "question, best", "--prompt"),
    "one column missing": ("pairs", lines({"prompt": "a", "chosen": "b"}), [], "prompt, chosen", "--rejected"),
    "identical answers": ("pairs", lines(pair(rejected="4")), [], "1 identical", LEAVE_OUT),
    "empty answer": ("pairs", lines(pair(chosen="")), [], "1 empty_chosen", LEAVE_OUT),
    "blank worse answer": ("pairs", lines(pair(rejected=" \n")), [], "1 empty_rejected", LEAVE_OUT),
    "empty prompt": ("pairs", lines(pair(prompt=" ")), [], "1 empty_prompt", LEAVE_OUT),
    "doubled prompt": (
        "pairs",
        lines({"prompt": QUESTION, "chosen": f"{QUESTION} 7", "rejected": f"{QUESTION} 5"}),
        [],
        "1 doubled_prompt",
        "--prompt ''",
    ),
    "doubled prompt in messages": (
        "pairs",
        lines({"prompt": QUESTION, "chosen": [ASKED, ANSWERED], "rejected": [ASKED, say("assistant", "5")]}),
        ["--prompt", "prompt"],
        "1 doubled_prompt",
        "--prompt ''",
    ),
    "unknown role": ("pairs", lines(pair(prompt=[say("wizard", "Hi")])), [], "'wizard'", "system, user, assistant"),
    "last turn by the user": (
        "pairs",
        lines({"chosen": [ASKED, ANSWERED, ASKED], "rejected": [ASKED, ANSWERED, say("user", "Why?")]}),
        ["--prompt", ""],
        "chosen ends with user",
        "a turn of the assistant",
    ),
    "null for an answer": ("pairs", lines(pair(chosen=None)), ["--chosen", "chosen"], "1 wrong_type", LEAVE_OUT),
    "a number for an answer": ("pairs", lines(pair(chosen=4)), ["--chosen", "chosen"], "1 wrong_type", LEAVE_OUT),
    "half a character": ("pairs", HALF, [], "1 not_unicode", LEAVE_OUT),
    "no UTF-8": ("pairs", '{"prompt": "größer"}'.encode("latin1"), [], "1 not_utf8", "iconv"),
    "too large a margin": ("pairs", lines(pair(margin=10**400)), ["--margin", "margin"], "too large", LEAVE_OUT),
    "margin NaN": ("pairs", lines(pair(margin=float("nan"))), ["--margin", "margin"], "margin nan", LEAVE_OUT),
    "unknown label": ("choice", lines(pair(label="A")), [], "'A'", "--a-wins"),
    "no label": ("choice", lines(pair()), [], "no 'label'", "name the columns"),
    "ties only": ("choice", lines(pair(label="tie")), [], "ties: 1", LEAVE_OUT),
    "no transcript": ("transcripts", lines(pair()), [], "no 'Human:'", LEAVE_OUT),
    "two different dialogues": (
        "transcripts",
        lines({side: f"\n\nHuman: {side}?\n\nAssistant: No." for side in ("chosen", "rejected")}),
        [],
        "1 diverging_context",
        "in the last answer only",
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_bad_rows(here, refused_everywhere, what):
    kind, content, words, reason, advice = ROWS[what]
    (here / "bad.jsonl").write_bytes(content)
    refused_everywhere("bad.jsonl", kind, words, reason, advice)


# ---- Files -----------------------------------------------------------------------------------------------------------

FILES = {
    "latin1.csv": ("prompt,chosen,rejected\ngrößer?,ja,nein\n".encode("latin1"), "1 not_utf8_or_ragged", "iconv"),
    "ragged.csv": (b"prompt,chosen,rejected\na,b\na,b,c,d\n", "2 not_utf8_or_ragged", "quotes"),
    "cut.parquet": (b"PAR1 and no more", "cut.parquet: ", "open it by hand"),
    "cut.jsonl.gz": (gzip.compress(lines(pair()) * 99)[:-9], "cut.jsonl.gz: ", "open it by hand"),
    "twice.csv": (b"prompt,chosen,chosen\na,b,c\n", "two columns are named 'chosen'", "open it by hand"),
    "notes.txt": (b"no data", "no data in 'notes.txt'", "a file or folder of .jsonl"),
    "empty.json": (b"", "holds no rows", "another file"),
    "list.json": (b"[]", "holds no rows", "another file"),
    "header.csv": (b"prompt,chosen,rejected\n", "holds no rows", "another file"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files(here, refused_everywhere, name):
    content, *told = FILES[name]
    (here / name).write_bytes(content)
    refused_everywhere(name, "pairs", [], *told)


def test_no_files(here, refused_everywhere):
    (here / "folder").mkdir()
    refused_everywhere("folder", "pairs", [], "no data in 'folder'")
    refused_everywhere("nothing.jsonl", "pairs", [], "no data in 'nothing.jsonl'")
    assert_refused(tool("inspect", "no/such", cwd=here, code=3).stderr, "no/such: ", "a reachable hub dataset")


# ---- Data sets -------------------------------------------------------------------------------------------------------


def test_a_split_that_ends_up_empty(tmp_path):
    write_jsonl(tmp_path / "few.jsonl", [pair(), pair(chosen="four")])  # one prompt: all of it falls on one side
    done = python(GOLDEN / "format.py", "--data", "few.jsonl", cwd=tmp_path, code=3)
    assert_refused(done.stderr, "a split is empty: 2 train and 0 eval pairs", "--eval-fraction 0.3")
    assert names(tmp_path) == ["few.jsonl"]
    found = json.loads(tool("inspect", "few.jsonl", "--json", cwd=tmp_path).stdout)
    assert (found["pairs"], found["eval"]) == (2, 0)
    assert any("a split is empty" in warning for warning in found["warnings"])


def test_too_many_bad_rows_name_one_of_them_and_the_flag(tmp_path):
    rows = [pair(prompt=f"What is {i} + {i}?") for i in range(30)] + [pair(chosen="")] * 15
    write_jsonl(tmp_path / "some.jsonl", rows)
    done = python(GOLDEN / "format.py", "--data", "some.jsonl", cwd=tmp_path, code=3)
    assert_refused(
        done.stderr, "15 of 45 rows rejected: 15 empty_chosen, such as some.jsonl row 31", "--max-rejected 1"
    )
    assert names(tmp_path) == ["some.jsonl"]
    found = json.loads(tool("inspect", "some.jsonl", "--json", cwd=tmp_path).stdout)
    assert found["rejected"] == {"empty_chosen": 15} and any("--max-rejected" in w for w in found["warnings"])
    python(GOLDEN / "format.py", "--data", "some.jsonl", "--max-rejected", "1", cwd=tmp_path)
    unused = read_jsonl(tmp_path / "data" / "rejected.jsonl")
    assert [row["row"] for row in unused] == list(range(31, 46))
    assert {row["reason"] for row in unused} == {"empty_chosen"} and names(tmp_path) == ["data", "some.jsonl"]


def test_a_refusal_keeps_the_data_set_of_an_earlier_run(tmp_path, pairs):
    shutil.copytree(pairs, tmp_path / "data")
    (tmp_path / "bad.jsonl").write_bytes(b"")
    before = (tmp_path / "data" / "train.parquet").read_bytes()
    python(GOLDEN / "format.py", "--data", "bad.jsonl", cwd=tmp_path, code=3)
    assert (tmp_path / "data" / "train.parquet").read_bytes() == before and names(tmp_path) == ["bad.jsonl", "data"]


@pytest.mark.parametrize("mark, before", [(signal.SIGKILL, True), (signal.SIGINT, False)])
def test_an_interrupted_run_leaves_nothing_half_written(tmp_path, pairs, mark, before):
    """Whether there was a data set or none: as before, and the next run is as if nothing had been."""
    rows = [pair(prompt=f"What is {i} + {i}?") for i in range(60_000)]
    write_jsonl(tmp_path / "many.jsonl", rows)
    if before:
        shutil.copytree(pairs, tmp_path / "data")
    was = {path.name: path.read_bytes() for path in (tmp_path / "data").glob("*")}
    command = [sys.executable, GOLDEN / "format.py", "--data", "many.jsonl", "--limit"]
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background jobs ignore it
    process = subprocess.Popen([*command, "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    while not (tmp_path / "data.partial" / "rejected.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(mark)
    told = process.communicate()[1]
    assert process.returncode == (130 if mark == signal.SIGINT else -mark)
    assert told == ("\nstopped; the same command begins anew\n" if mark == signal.SIGINT else "")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").glob("*")} == was
    assert ("data.partial" in names(tmp_path)) == (mark == signal.SIGKILL)  # which leaves no time to clean up
    subprocess.run([*command, "40"], cwd=tmp_path, check=True)
    assert names(tmp_path) == ["data", "many.jsonl"]
    assert json.loads((tmp_path / "data" / "report.json").read_text())["rows"] == 40


@pytest.mark.parametrize("stage", STAGES)
def test_every_script_says_what_ctrl_c_leaves(stage, capsys):
    def main(args):
        raise KeyboardInterrupt

    given = types.SimpleNamespace(**({"resume": True} if "resume" in STAGES[stage].model_fields else {}))
    script = (GOLDEN / f"{stage}.py").read_text()
    run = script[script.index('\nif __name__ == "__main__":') :]
    with pytest.raises(SystemExit) as stop:
        exec(run, {"__name__": "__main__", "main": main, "parameters": lambda: given, "sys": sys})
    goes_on = "goes on" in capsys.readouterr().err
    assert stop.value.code == 130 and goes_on == (stage in ("train", "score", "bulk", "rl"))


def test_out_may_be_a_link_to_a_larger_disk(tmp_path, pairs):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    write_jsonl(tmp_path / "few.jsonl", [pair(prompt=f"What is {i} + {i}?") for i in range(30)])
    for _ in range(2):
        python(GOLDEN / "format.py", "--data", "few.jsonl", cwd=tmp_path)
        assert names(tmp_path) == ["data", "disk", "few.jsonl"] and (tmp_path / "data").is_symlink()
        assert "train.parquet" in names(tmp_path / "disk")


def test_a_terminal_sees_how_far_it_is(tmp_path, monkeypatch):
    """A bar by the bytes read, in compressed files too; nothing where stderr is no terminal."""
    shown, module = io.StringIO(), render.as_module("format", recipe.validate("format", {}))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*[pair()] * 40)))
    write_jsonl(tmp_path / "b.jsonl", [pair()] * 120)
    args = module.parameters(["--data", str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl")])
    monkeypatch.setattr(sys, "stderr", shown)
    list(module.read_pairs(args, module.new_report(), io.StringIO()))
    assert not shown.getvalue()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: float(next(ticks))))
    list(module.read_pairs(args, module.new_report(), io.StringIO()))
    bars = [line for line in shown.getvalue().split("\r") if " rows, " in line]
    assert len(bars) == 160 and "100% [########################] 160 rows, 1 a second, 0 s left" in bars[-1]
    assert shown.getvalue().endswith("\r\033[K") and int(bars[0][:4].strip(" %")) < 20


def test_out_never_replaces_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "data").mkdir()
    rows = [pair(prompt=f"What is {i} + {i}?") for i in range(30)]
    write_jsonl(tmp_path / "data" / "mine.jsonl", rows)
    done = python(GOLDEN / "format.py", "--data", "data", cwd=tmp_path, code=3)
    assert_refused(done.stderr, "data holds mine.jsonl, which would be deleted", "--out OTHER")
    done = python(GOLDEN / "format.py", "--data", "data", "--out", "data/mine.jsonl", cwd=tmp_path, code=3)
    assert_refused(done.stderr, "--out OTHER")
    module = render.as_module("format", recipe.validate("format", {}))
    with pytest.raises(SystemExit) as ended:
        module.main(
            module.parameters(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "data/mine.jsonl/new")])
        )
    assert ended.value.code == 3
    assert names(tmp_path) == ["data"] and read_jsonl(tmp_path / "data" / "mine.jsonl") == rows


# ---- Models ----------------------------------------------------------------------------------------------------------


def test_base_model_without_a_chat_template(tmp_path, base, pairs):
    shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("chat_template*"))
    done = python(GOLDEN / "train.py", "--model", "base", "--data", pairs, cwd=tmp_path, code=3)
    assert_refused(done.stderr, "base has no chat template", "--chat-template FILE")
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("stage, out", [("evaluate", "eval"), ("score", "scores.jsonl")])
def test_what_is_no_reward_model(tmp_path, base, pairs, stage, out):
    answers = write_jsonl(tmp_path / "answers.jsonl", [{"prompt": "2 + 2?", "response": "4"}])
    words = ["--data", pairs / "eval.parquet" if stage == "evaluate" else answers, "--out", out, "--model"]
    done = python(GOLDEN / f"{stage}.py", *words, base, cwd=tmp_path, code=3)
    assert_refused(done.stderr, "Qwen3ForCausalLM: it would score with a random head", "python run/train.py")
    done = python(GOLDEN / f"{stage}.py", *words, "missing", cwd=tmp_path, code=3)
    assert_refused(done.stderr, "no reward model at missing", "a folder written by train.py")
    assert names(tmp_path) == ["answers.jsonl"]


# ---- Parameters ------------------------------------------------------------------------------------------------------

# stage, parameter, value, what is told: the right name, or the range
PARAMETERS = [
    ("train", "learning_rat", "1e-5", "learning_rate"),
    ("format", "evalfraction", "0.2", "eval_fraction"),
    ("score", "batch_token", "100", "batch_tokens"),
    ("train", "learning_rate", "7", "between 1e-09 and 1"),
    ("format", "eval_fraction", "0.0", "between 0.001 and 0.9"),
    ("train", "max_length", "many", "valid integer"),
    ("train", "epochs", "nan", "finite number"),
    ("train", "method", "lara", "'lora'"),
    ("evaluate", "dtype", "float16", "'bfloat16'"),
]


@pytest.mark.parametrize("stage, name, value, told", PARAMETERS)
def test_wrong_parameters(here, refuses, stage, name, value, told):
    text = value if value in ("7", "nan") else json.dumps(value)
    (here / "recipe.toml").write_text(f"[{stage}]\n{name} = {text}\n")
    for words in (["render"], ["check"], ["run"], ["render", stage, "--recipe", "recipe.toml"]):
        assert_refused(refuses(*words)[0], name, told)
    write_jsonl(here / "good.jsonl", [pair(prompt=f"What is {i} + {i}?") for i in range(30)])
    words = ["init", "good.jsonl", "--model", "base", "--recipe", "new.toml", "--set", f"{stage}.{name}={value}"]
    assert_refused(refuses(*words)[0], name, told)
    said, _ = refuses("render", stage, flag(name), value)
    unknown = name not in STAGES[stage].model_fields
    assert_refused(said, *([flag(name), flag(told)] if unknown else [name, told]))
    assert names(here) == ["good.jsonl", "recipe.toml"]


@pytest.mark.parametrize(
    "text, told",
    [
        (b"[trian]\nseed = 1", "[train]"),
        (b"train = 3", "[train]"),
        (b"[train\n", "recipe.toml is not valid TOML"),
        (b"[train]\nseed = " + b"1" * 5000, "recipe.toml is not valid TOML"),
        (b"[train]\nmodel = '\xff'", "recipe.toml is not valid TOML"),
        (b"[format]\ndata = 'one.jsonl'", "format.data = 'one.jsonl'"),
        (b"[format]\ndata = [1]", "format.data = 1"),
    ],
)
def test_wrong_recipes(here, refuses, text, told):
    (here / "recipe.toml").write_bytes(text)
    assert_refused(refuses("render")[0], told)
    assert names(here) == ["recipe.toml"]


def test_wrong_list_in_set(here, refuses):
    write_jsonl(here / "good.jsonl", [pair(prompt=f"What is {i} + {i}?") for i in range(30)])
    assert_refused(refuses("init", "good.jsonl", "--model", "base", "--set", "format.ties=[a")[0], "format.ties = [a")
    assert names(here) == ["good.jsonl"]
