"""`plan`: what it predicts against what a training takes, and what it says when it cannot."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, SKILL, python, tool, write_jsonl


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a 15M-parameter base and formatted pairs of about 420 tokens, where memory is activations."""
    import demo
    import transformers

    folder, rng = tmp_path_factory.mktemp("plan"), random.Random(0)
    rows = demo.preferences(100)
    demo.make_base(folder / "small", rows)
    words = sorted({word for row in rows for word in row["prompt"].split()})

    def text(count):
        return " ".join(rng.choice(words) for _ in range(count))

    long = [{"prompt": f"{i} {text(40)}", "chosen": text(90), "rejected": text(90)} for i in range(60)]
    write_jsonl(folder / "long.jsonl", long)
    config = transformers.AutoConfig.from_pretrained(folder / "small")
    for name, value in {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 8, "head_dim": 64}.items():
        setattr(config, name, value)
    config.num_attention_heads, config.num_key_value_heads, config.layer_types = 6, 3, ["full_attention"] * 8
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    transformers.AutoTokenizer.from_pretrained(folder / "small").save_pretrained(folder / "base")
    tool("init", "long.jsonl", "--model", "base", "--set", "train.batch_tokens=4096", cwd=folder)
    python(ROOT / "tests" / "golden" / "format.py", "--data", "long.jsonl", "--eval-fraction", "0.2", cwd=folder)
    return folder


def peak_mib(folder, *words, code=0):
    """Most address space that one run ever had, in MiB. Freed memory goes back at once, so it is what tensors hold;
    resident memory would say less on a machine that puts idle pages aside."""
    command = [sys.executable, str(ROOT / "tests" / "golden" / words[0]), *map(str, words[1:])]
    settings = {**ENVIRONMENT, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process, peak = subprocess.Popen(command, cwd=folder, env=settings, **silent), 0
    while process.poll() is None:
        found = re.search(r"VmPeak:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.02)
    assert process.returncode == code
    return peak / 1024


PREDICT = f"""
import json, sys
sys.path.insert(0, {str(SKILL / "scripts")!r})
import plan, recipe
stages = recipe.load("recipe.toml")
rehearsal = plan.Rehearsal(stages["train"], plan.modules()[1].AutoConfig.from_pretrained("base"), 0.2, False)
print(json.dumps([rehearsal.peak(*case, 2048) / 2**20 for case in json.loads(sys.argv[1])]))
"""


def test_predicted_peaks_are_within_15_percent_of_measured_ones(place):
    cases = [("full", False), ("full", True), ("lora", False)]
    command = [sys.executable, "-c", PREDICT, json.dumps(cases)]
    said = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    refused = ["--model", "base", "--max-length", "8", "--out", "none"]  # ends before a model is loaded
    nothing = peak_mib(place, "train.py", *refused, code=3)
    for (method, checkpointing), predicted in zip(cases, json.loads(said)):
        flag = "--gradient-checkpointing" if checkpointing else "--no-gradient-checkpointing"
        words = ["--model", "base", "--max-steps", "2", "--batch-size", "10", "--batch-tokens", "2048", flag]
        script = "train.py" if method == "full" else f"train_{method}.py"
        measured = peak_mib(place, script, *words, "--out", f"{method}-{checkpointing}") - nothing
        assert abs(predicted / measured - 1) <= 0.15, (method, checkpointing, predicted, measured)


def test_plan_compares_settings_and_init_writes_them(place):
    found = json.loads(tool("plan", "--gpu", "l4", "--json", cwd=place).stdout)
    assert found["device"]["name"] == "L4" and found["precision"] == "bfloat16"
    assert found["pairs"] == json.loads((place / "data" / "report.json").read_text())["train"]
    options = {(o["method"], o["gradient_checkpointing"]): o for o in found["options"]}
    assert len(options) == 6 and all(option["fits"] for option in options.values())
    assert options["full", True]["peak_gib"] < options["full", False]["peak_gib"]
    assert options["qlora", False]["peak_gib"] < options["lora", False]["peak_gib"]
    assert options["full", True]["hours"] >= options["full", False]["hours"]
    assert found["recommended"] == {"method": "full", "gradient_checkpointing": False, "batch_tokens": 4096}
    words = ["init", "long.jsonl", "--model", "base", "--gpu", "L4", "--recipe", "planned.toml"]
    assert "planned for L4: method = full" in tool(*words, cwd=place).stdout
    assert "\nbatch_tokens = 4096" in (place / "planned.toml").read_text()


def test_thinking_that_is_preserved_is_measured(place, tmp_path, monkeypatch):
    import plan
    import recipe
    from pyarrow import Table, parquet

    shutil.copytree(place / "small", tmp_path / "base")
    deletes = "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}"
    (tmp_path / "base" / "chat_template.jinja").write_text(deletes)
    answers = [[{"role": "assistant", "content": f"<think>{'lamp ' * 90}</think>{said}"}] for said in "ab"]
    row = {"prompt": [{"role": "user", "content": "Why?"}], "chosen": answers[0], "rejected": answers[1]}
    (tmp_path / "data").mkdir()
    parquet.write_table(Table.from_pylist([row]), tmp_path / "data" / "train.parquet")
    measure, found = plan.measure, []
    monkeypatch.setattr(plan, "measure", lambda *words: found.append(measure(*words)["longest_pair"]) or 1 / 0)
    for thinking in ("preserve", "erase"):
        values = recipe.validate("train", {"model": "base", "thinking": thinking})
        with pytest.raises(ZeroDivisionError):  # memory is another matter
            plan.plan(tmp_path, {"train": values}, gpu="L4")
    assert found[0] > found[1] + 90


def test_plan_says_what_it_cannot(place):
    assert "try: --gpu L4" in tool("plan", "--gpu", "L5", cwd=place, code=2).stderr
    assert "pairs measured are longer" in tool("plan", "--set", "train.max_length=100", cwd=place, code=3).stderr
    assert "no recipe" in tool("plan", "--recipe", "other.toml", cwd=place, code=3).stderr
