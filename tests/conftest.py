"""What the tests share: the tool and rendered scripts as users run them, in subprocesses, on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKILL = ROOT / "skills" / "reward"
SHARED = ROOT.parent / "shared" / "data"  # real preference sets, where the checkout has them beside it
sys.path.insert(0, str(SKILL / "scripts"))
sys.dont_write_bytecode = True

ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def python(script, *words, cwd, code=0, env=None):
    """Run a Python script; assert its exit code and that nothing ended in a traceback. Returns the finished process."""
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**ENVIRONMENT, **(env or {})}, timeout=600, check=False
    )
    told = f"{' '.join(command)}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == code, told
    assert "Traceback (most recent call last)" not in done.stderr, told
    return done


def tool(*words, cwd, code=0):
    """Run reward.py."""
    return python(SKILL / "scripts" / "reward.py", *words, cwd=cwd, code=code)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a Qwen3-shaped causal language model with 0.2M random weights, a tokenizer and a ChatML template."""
    import demo

    folder = tmp_path_factory.mktemp("base") / "model"
    demo.make_base(folder, demo.preferences(200))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Folder of formatted pairs (240 rows of the demo's preferences), with its train, eval and report."""
    import demo

    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "preferences.jsonl", demo.preferences(240))
    words = ["--data", "preferences.jsonl", "--source", "kind", "--eval-fraction", "0.25"]
    python(ROOT / "tests" / "golden" / "format.py", *words, cwd=folder)
    return folder / "data"


SMALL_TRAINING = "--batch-size 8 --batch-tokens 300 --max-steps 30 --eval-steps 5 --learning-rate 1e-3".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def words_of(base, pairs, home):
    """The words of one training, with its model at home/OUT."""

    def words(out, *more):
        return [*SMALL_TRAINING, "--model", base, "--data", pairs, "--out", home / out, *more]

    return words
