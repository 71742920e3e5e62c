"""Errors that teach: each is provoked, the advice behind `try:` is taken from what it says, and taking it helps."""

import json
import re
import shlex

import demo
import pytest
import reward
from conftest import write_jsonl

ROWS = demo.preferences(40)
FILES = {
    "pairs.jsonl": ROWS,
    "odd.jsonl": [{"a": row["prompt"], "b": row["chosen"], "c": row["rejected"], "d": n} for n, row in enumerate(ROWS)],
    "likely.jsonl": [{"question": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in ROWS],
    "doubled.jsonl": [row | {s: f"{row['prompt']} {row[s]}" for s in ("chosen", "rejected")} for row in ROWS],
    "votes.jsonl": [
        {"prompt": row["prompt"], "response_0": row["chosen"], "response_1": row["rejected"]}
        | {"better_response_id": n % 2, "safer_response_id": 0}
        for n, row in enumerate(ROWS)
    ],
}
JOBS = "--on hf-jobs --flavor h200 --bucket USER/NAME"
INIT = "init pairs.jsonl --model base"
STANDS_FOR = {"FILE": "pairs.jsonl", "DATA": "pairs.jsonl", "MODEL": "base", "OTHER": "base", "Qwen/Qwen3-0.6B": "base"}

# What goes wrong -> commands before it, the wrong command, what part of the advice is taken (groups), what it makes.
COMMAND = r"^reward\.py (.*)$"
ERRORS = {
    "unknown command": ("", "inspct pairs.jsonl", COMMAND, "{} pairs.jsonl"),
    "unknown stage to explain": ("", "params trian", COMMAND, "{}"),
    "unknown stage to render": ("", "render evalute", COMMAND, "{}"),
    "unknown stage to run": (INIT, "run fromat", COMMAND, "{}"),
    "no data named": ("", "inspect", COMMAND, "{}"),
    "no model named": ("", "init pairs.jsonl", COMMAND, "{}"),
    "no such model folder": ("", "init pairs.jsonl --model ./none", r"^(--model OTHER)$", "init pairs.jsonl {}"),
    "no such tokenizer": ("", "inspect pairs.jsonl --model ./none", r"^(--model OTHER)$", "inspect pairs.jsonl {}"),
    "unknown flag": ("", "render train --learning_rate 1e-5", r"^(--.*)$", "render train {} 1e-5"),
    "unknown flag like no other": ("", "doctor --zzz", COMMAND, "{}"),
    "no value in --set": ("", f"{INIT} --set train.seed", r"^(--set .*)$", INIT + " {}"),
    "unknown stage in --set": ("", f"{INIT} --set trian.seed=1", r"^(--set .*)$", INIT + " {}"),
    "unknown parameter": ("", f"{INIT} --set train.learning_rat=1e-5", r"^(\w+),", INIT + " --set train.{}=1e-5"),
    "parameter out of range": ("", f"{INIT} --set train.learning_rate=7", COMMAND, "{}"),
    "no list": ("", f"{INIT} --set format.ties=[a", r"^(--set .*)$", INIT + " {}"),
    "no recipe": ("", "render", COMMAND, "{}; render"),
    "no recipe elsewhere": ("", "run format --recipe a/b.toml", COMMAND, "{}; run format --recipe a/b.toml"),
    "a recipe is there": (INIT, INIT, r"^(--force) ", INIT + " {}"),
    "a recipe is there, another": (INIT, INIT, r"(--recipe \S+)$", INIT + " {}"),
    "unknown heading": ("[trian]\nseed = 1", "render", r"^(\[train\])$", "recipe {}\nseed = 1; render"),
    "no script": (INIT, "check run/train.py", COMMAND, "{}; check run/train.py"),
    "a script was edited": (f"{INIT}; render; edit run/score.py", "render", r"^(--force),", "render {}"),
    "unknown columns": ("", "inspect odd.jsonl", r"(--prompt .*) \(", "inspect odd.jsonl {}"),
    "likely columns": ("", "init likely.jsonl --model base", r"reward\.py (.*), and", "{}"),
    "likely columns, accepted": (
        "",
        "init likely.jsonl --model base",
        r"right: (.*)$",
        "init likely.jsonl --model base {}",
    ),
    "two readings": ("", "inspect votes.jsonl", r"^(--winner \S+) \(", "inspect votes.jsonl {}"),
    "two readings, the other": ("", "inspect votes.jsonl", r"or (--winner \S+) \(", "inspect votes.jsonl {}"),
    "4-bit weights to split": (
        f"{INIT} --method qlora",
        "launch --kind fsdp2 --on slurm",
        r"^(--kind ddp),",
        "launch {} --on slurm",
    ),
    "two machines without Slurm": (INIT, "launch --nodes 2", r"^(--on slurm),", "launch --nodes 2 {}"),
    "no hours": (INIT, "launch --hours 0", r"^(--hours 24)$", "launch {}"),
    "no name": (INIT, "launch --on slurm --partition=-x", r"^(--partition NAME)$", "launch --on slurm {}"),
    "no hardware, no bucket": (
        f"{INIT}; run format",
        "launch --on hf-jobs",
        r"(--flavor \S+ --bucket \S+)$",
        "launch --on hf-jobs {}",
    ),
    "no pairs to send": (INIT, f"launch {JOBS}", COMMAND, "{}; " + f"launch {JOBS}"),
    "doubled prompt": ("", "inspect doubled.jsonl", r"^(--prompt '')", "inspect doubled.jsonl {}"),
}


@pytest.fixture
def here(tmp_path, base, monkeypatch):
    """A folder with data and a base model."""
    for name, rows in FILES.items():
        write_jsonl(tmp_path / name, rows)
    (tmp_path / "base").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def do(commands, folder):
    """Run commands, `;` between them. Returns the exit code of the last."""
    code = 0
    for command in commands.split("; "):
        words = shlex.split(command)
        if command.startswith(("[", "recipe ")):
            (folder / "recipe.toml").write_text(command.removeprefix("recipe "))
        elif command.startswith("edit "):
            with open(folder / words[1], "a") as script:
                script.write("# mine\n")
        elif words:
            try:
                code = reward.main(words)
            except SystemExit as stop:  # --help
                code = stop.code
    return code


def advice(said):
    """The text behind `try:`, with the test's own files for what the reader must fill in."""
    found = re.search(r"^  try: (.*)$", said, re.MULTILINE)[1]
    columns = iter("abc")
    found = re.sub(r"\bCOLUMN\b", lambda _: next(columns, "d"), found)
    return re.sub(
        "|".join(rf"(?<!\S){re.escape(name)}(?!\S)" for name in STANDS_FOR), lambda m: STANDS_FOR[m[0]], found
    )


@pytest.mark.parametrize("what", ERRORS)
def test_following_the_advice_helps(what, here, capsys):
    before, wrong, part, then = ERRORS[what]
    assert do(before, here) == 0
    capsys.readouterr()
    assert do(wrong, here) in (2, 3)
    told = advice(capsys.readouterr().err)
    for name, mine in STANDS_FOR.items():
        part = part.replace(name, mine)
    taken = re.search(part, told)
    assert taken, told
    assert do(then.format(taken[1]), here) == 0, f"{told}\n{capsys.readouterr().err}"


def test_the_advice_is_in_the_json_as_well(here, capsys):
    assert reward.main(["render", "--json"]) == 3
    said = capsys.readouterr()
    assert f"  try: {json.loads(said.out)['error']['mend']}\n" in said.err
