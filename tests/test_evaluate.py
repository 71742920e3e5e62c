"""What a reward model is worth: the figures of evaluate.py against known truths, and its report."""

import argparse
import json
import math
import random
import re
import runpy
import socket
import subprocess
import sys

import pyarrow
import pytest
import recipe
import render
from browser import assert_self_contained
from conftest import ENVIRONMENT, python, read_jsonl
from pyarrow.parquet import read_table, write_table
from trainings import GOLDEN, ONE_THREAD, call, golden, read_json


@pytest.fixture(scope="module")
def module():
    return golden("evaluate")


@pytest.fixture(scope="module")
def np(module):
    return module.np


def pair(prompt, chosen, rejected, source="web", **more):
    turns = [prompt] if isinstance(prompt, str) else prompt
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    sides = {n: [{"role": "assistant", "content": t}] for n, t in (("chosen", chosen), ("rejected", rejected))}
    return {"prompt": messages, **sides, "source": source, "prompt_id": str(prompt), **more}


class Named(str):
    """A model that is only its name."""

    dtype = None


@pytest.fixture
def evaluate(module, monkeypatch, tmp_path):
    """Runs evaluate.py with a reward that is a function of the messages. Returns its metrics."""
    import pyarrow
    from pyarrow.parquet import write_table

    rewards = {}

    def score(model, groups, tokens):
        return module.torch.tensor([float(rewards[model](said)) for group in groups for said in group])

    def run(pairs, reward, *words, also=None, facts=None):
        rewards.update({"model": reward, "also": also})
        write_table(pyarrow.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
        monkeypatch.setattr(module, "load_reward_model", lambda path, dtype: (Named(path), None, facts or {}))
        words = ["--data", tmp_path / "pairs.parquet", "--out", tmp_path / "out", *words]
        module.main(module.parameters([*map(str, words)] + (["--also", "also"] if also else [])))
        return read_json(tmp_path / "out" / "metrics.json")

    monkeypatch.setattr(module, "encode", lambda messages, tokenizer, most: (messages, 0))
    monkeypatch.setattr(module, "try_packing", lambda *_: "packed")
    monkeypatch.setattr(module, "score_ids", score)
    return run


def good(said):
    """A reward that knows the good answer from the poor one, and both from everything else."""
    found = re.fullmatch(r"(?:<think>so</think>)?(good|poor) (\d+) [a-z ]+ end\.", said[-1]["content"])
    if not found or f"Question {found[2]}," not in said[0]["content"]:
        return -1 - 0.0001 * len(said[-1]["content"])
    return (found[1] == "good") + 0.01 * (len(said[-1]["content"]) % 7)


def of_text(function):
    """A reward that looks at nothing but the answer."""
    return lambda said: function(said[-1]["content"])


# ---- Statistics ------------------------------------------------------------------------------------------------------


def test_interval_is_wilsons_where_prompts_stand_once(module, np):
    found = module.interval(np.repeat([1.0, 0.0], [81, 19]), np.arange(100))
    assert (found["interval"], found["prompts"]) == ("Wilson", 100)
    assert (found["low"], found["high"]) == pytest.approx((0.72220, 0.87485), abs=1e-5)


def test_interval_draws_whole_prompts_where_they_repeat(module, np):
    """Ten copies of each row tell no more than one: the interval must not shrink by √10."""
    right = np.repeat(np.repeat([1.0, 0.0], [81, 19]), 10)
    found = module.interval(right, np.repeat(np.arange(100), 10))
    assert (found["interval"], found["prompts"]) == ("bootstrap over prompts", 100)
    spread = math.sqrt(0.81 * 0.19 / 100)
    assert found["low"] == pytest.approx(0.81 - 1.96 * spread, abs=0.02)
    assert found["high"] == pytest.approx(0.81 + 1.96 * spread, abs=0.02)
    shuffled = np.random.default_rng(1).permutation(1000)
    assert module.interval(right[shuffled], np.repeat(np.arange(100), 10)[shuffled]) == found
    alike = module.interval(np.ones(40), np.repeat(np.arange(10), 4))
    assert (alike["low"], alike["high"]) == pytest.approx((0.72246, 1.0), abs=1e-5), (
        "ten prompts, all right: not [1, 1]"
    )


def test_bootstrap_covers_the_truth(module, np):
    """Prompts of very different difficulty, 1 to 8 pairs each: about 95 of 100 intervals hold the true share."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        counts = rng.integers(1, 9, 150)
        prompts, chance = np.repeat(np.arange(150), counts), np.repeat(rng.beta(1, 0.5, 150), counts)
        found = module.interval((rng.random(len(chance)) < chance).astype(float), prompts)
        held += found["low"] <= 2 / 3 <= found["high"]
    assert 180 <= held <= 199


def test_p_values(module, np):
    from statistics import NormalDist

    tail = NormalDist().cdf(-2.0)
    lead = np.repeat([0.5, -0.5], [60, 40])  # 60 of 100 right: z = (60 − 50) / √25 = 2
    assert module.chance_of_lead(lead, np.arange(100)) == pytest.approx(tail)
    assert module.chance_of_lead(np.repeat(lead, 4), np.repeat(np.arange(100), 4)) == pytest.approx(tail)
    assert module.chance_of_lead(np.zeros(9), np.arange(9)) == 0.5
    right, inside = np.tile(np.repeat([1.0, 0.0], [60, 40]), 2), np.repeat([True, False], 100)
    right[100:] = np.repeat([1.0, 0.0], [80, 20])  # 60 % against 80 %: z = 0.2 / √(0.7 · 0.3 · 2 / 100)
    z = 0.2 / math.sqrt(0.7 * 0.3 * 2 / 100)
    assert module.chance_of_difference(right, inside, np.arange(200)) == pytest.approx(
        2 * NormalDist().cdf(-z), rel=0.01
    )
    assert module.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert module.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_calibration_by_hand_and_in_the_large(module, np):
    p, y = module.stated(np.array([math.log(3), -math.log(3), 0.0]))  # p = 0.75 once right, once wrong; one tie
    assert p.tolist() == pytest.approx([0.75, 0.75, 0.5]) and y.tolist() == [1, 0, 0.5]
    error, bins = module.calibration(np.repeat(p, 100), np.repeat(y, 100))
    assert error == pytest.approx((2 * 0.25 + 0) / 3)
    assert [(b["stated"], b["count"], b["true"]) for b in bins] == [(0.5, 100, 0.5), (pytest.approx(0.75), 200, 0.5)]
    error, bins = module.calibration(p, y)  # too few to part
    assert error == pytest.approx((2 * 0.25 + 0) / 3) and len(bins) == 1
    assert module.stated(np.array([2.0, 0.0]), np.array([0.5, 0.5]))[1].tolist() == [0.5, 0.5], "labelled ties"
    rng = np.random.default_rng(0)
    sure = rng.normal(0, 2, 200_000)
    difference = np.where(rng.random(len(sure)) < module.expit(sure), sure, -sure)  # chosen is what such odds chose
    assert module.calibration(*module.stated(difference))[0] < 0.005
    error, bins = module.calibration(*module.stated(3 * difference))
    assert error > 0.1 and [b["count"] for b in bins] == [20_000] * 10


def test_best_of_n_by_hand(module, np):
    """Prompt 1: the best is put first. 2: two share first place, one of them best. 3: the worst. 4: two answers only.
    5: all rated alike. Answers that stand in several pairs count once."""
    rows = [(1, "a", 5, 2.0), (1, "b", 3, 1.0), (1, "c", 1, 0.0), (1, "a", 5, 2.0)]
    rows += [(2, "a", 5, 1.0), (2, "b", 3, 1.0), (2, "c", 1, 0.0)]
    rows += [(3, "a", 5, 0.0), (3, "b", 3, 1.0), (3, "c", 1, 2.0), (3, "d", 5, 0.5)]
    rows += [(4, "a", 5, 1.0), (4, "b", 1, 0.0), (5, "a", 2, 1.0), (5, "b", 2, 0.0), (5, "c", 2, 0.0)]
    prompts, answers, ratings, rewards = zip(*rows)
    answers = [ord(letter) for letter in answers]
    found = module.best_of_n(*map(np.array, (prompts, answers, ratings, rewards)))
    assert (found["groups"], found["accuracy"]) == (3, pytest.approx((1 + 0.5 + 0) / 3))
    assert found["by_chance"] == pytest.approx((1 / 3 + 1 / 3 + 2 / 4) / 3)
    assert found["rating_of_picked"] == pytest.approx((5 + 4 + 1) / 3)
    assert found["rating_on_average"] == pytest.approx((3 + 3 + 3.5) / 3)
    assert module.best_of_n(*(np.zeros(0),) * 4) is None


# ---- The whole script, with rewards that are known -------------------------------------------------------------------


def many(count=400):
    """Pairs with a good and a poor answer. One in eight is about taxes; of those half are labelled wrongly, of the
    others a tenth."""
    rng, pairs = random.Random(0), []
    for n in range(count):
        source, thought = "taxes" if n % 8 == 0 else "web", "<think>so</think>" if n % 10 == 0 else ""
        words = [" ".join(rng.choices(["the", "kettle", "boils", "then"], k=rng.randint(5, 40))) for _ in range(2)]
        better, worse = f"{thought}good {n} {words[0]} end.", f"poor {n} {words[1]} end."
        if rng.random() < (0.5 if source == "taxes" else 0.1):
            better, worse = worse, better
        asked = [f"Question {n}, how do I boil water in a kettle at home today?"]
        asked += ["Which kettle do you mean?", "The red one, in the kitchen."] if n % 3 == 0 else []
        pairs.append(pair(asked, better, worse, source))
        if n % 10 == 5:  # thinking in a field of its own, as format writes it
            pairs[-1]["chosen"][0]["thinking"] = "so"
    return pairs


def test_every_figure_of_a_known_reward(evaluate, tmp_path, capsys):
    pairs = many() + [pair(f"tie {n}", "one", "another", tie=True) for n in range(7)]
    pairs = [{"tie": False, **p} for p in pairs]
    m, rows = evaluate(pairs, good), read_jsonl(tmp_path / "out" / "scores.jsonl")
    judged = [row for row, p in zip(rows, pairs) if not p["tie"]]
    right = [row["chosen"] > row["rejected"] for row in judged]
    assert len(rows) == 407 and m["pairs"] == 400 and m["labelled_ties"]["pairs"] == 7
    assert sum(row.get("tie", False) for row in rows) == 7, "so that scale does not take them for wins"
    assert m["calibration"]["brier"] == pytest.approx(
        sum((1 / (1 + math.exp(row["chosen"] - row["rejected"]))) ** 2 for row in judged) / 400
    )
    assert m["accuracy"] == sum(right) / 400 and m["ties"] == 0
    loss = [math.log1p(math.exp(row["rejected"] - row["chosen"])) for row in judged]
    assert m["loss"] == pytest.approx(sum(loss) / 400)
    kinds = {name.split(": ")[0] for name in m["subsets"]}
    assert kinds == {"source", "length of chosen", "turns", "thinking"} and m["claims"] == 2 * len(m["subsets"])
    for kind in kinds:
        assert sum(part["pairs"] for name, part in m["subsets"].items() if name.startswith(kind)) == 400
    assert (
        m["subsets"]["turns: several turns"]["pairs"] == 134 and m["subsets"]["thinking: with thinking"]["pairs"] == 80
    )
    taxes = m["by_source"]["taxes"]
    assert (taxes["pairs"], taxes["accuracy"]) == (50, sum(right[::8]) / 50)
    assert m["subsets"]["source: taxes"]["p_differs"] < 0.001 and m["subsets"]["turns: one turn"]["p_differs"] > 0.2
    assert m["verdict"] == "Fit for RL, with reservations", m["reasons"]
    assert any("source: taxes" in reason["reason"] for reason in m["reasons"])
    assert all(m["probes"][kind]["rate"] == 0 for kind in ("empty", "repeated token", "prompt echo", "refusal"))
    assert m["probes"]["padded out"]["rate"] == 0 and m["probes"]["empty"]["prompts"] == 100
    assert "Fit for RL, with reservations" in capsys.readouterr().out


def test_degenerate_answers_are_caught_when_the_reward_likes_them(evaluate):
    likes = {
        ("empty", "repeated token", "prompt echo"): lambda text: (
            not text or text.split()[0] in ("a", "The", "Question")
        ),
        ("refusal",): lambda text: "can't help" in text,
        ("padded out",): len,
        ("truncated",): lambda text: -len(text),
    }
    for kinds, like in likes.items():
        m = evaluate(many(40), lambda said, like=like: 9 * like(said[-1]["content"]) + good(said))
        named = " ".join(r["reason"] for r in m["reasons"] if "degenerate answers beat" in r["reason"])
        for kind in kinds:
            assert m["probes"][kind]["rate"] >= 0.95, kind
            assert (kind in named) == (kind != "refusal"), "where prompts are harmful, a refusal is right"
        assert m["verdict"].startswith("Not fit") or kinds == ("refusal",)
    assert evaluate(many(60), good, "--probes", 0)["probes"] == {}


def test_a_reward_that_is_length_is_seen_through(evaluate):
    m = evaluate(many(), of_text(len))
    assert m["correlation"]["length"] == pytest.approx(1) and m["correlation"]["length_in_pair"] == pytest.approx(1)
    assert m["accuracy"] == m["longer"] and m["verdict"] == "Not fit for RL"
    assert any("follows length" in reason["reason"] for reason in m["reasons"])
    parts = {name: part for name, part in m["subsets"].items() if name.startswith("length of chosen")}
    order = ["below half the length", "shorter", "same length (±10 %)", "longer", "above twice the length"]
    sizes = {name.partition(": ")[2]: part["accuracy"] for name, part in parts.items()}
    assert list(sizes) == [size for size in order if size in sizes]
    assert all(right == (order.index(size) > 2) for size, right in sizes.items() if size != order[2])


def test_a_constant_reward_is_all_ties(evaluate):
    m = evaluate(many(30), of_text(lambda text: 0.5))
    assert (m["accuracy"], m["ties"], m["pairs"]) == (0.5, 30, 30) and m["verdict"] == "Not fit for RL"
    assert m["loss"] == pytest.approx(math.log(2)) and m["correlation"]["length"] == 0


def test_order_and_pieces_change_nothing(evaluate, module, monkeypatch, tmp_path):
    pairs = [{**p, "prompt_id": str(n // 3)} for n, p in enumerate(many(200))]
    first = evaluate(pairs, good)
    assert first["interval"] == "bootstrap over prompts" and first["prompts"] == 67
    random.Random(1).shuffle(pairs)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    second = evaluate(pairs, good)

    def close(a, b, path=""):
        if isinstance(a, dict):
            assert a.keys() == b.keys(), path
            for key in a:
                close(a[key], b[key], f"{path}.{key}")
        elif isinstance(a, list):
            assert len(a) == len(b), path
            for one, two in zip(a, b):
                close(one, two, path)
        else:
            assert a == pytest.approx(b, rel=1e-9) if isinstance(a, float) else a == b, path

    close(first, second)


def test_groups_are_put_together_again_from_ratings(evaluate):
    said, count = {"a a a": 4.0, "a a": 3.0, "a": 1.0}, of_text(lambda text: text.count("a"))
    pairs = [
        pair("one", a, b, chosen_rating=said[a], rejected_rating=said[b])
        for a in said
        for b in said
        if said[a] > said[b]
    ]
    assert evaluate(pairs, count)["best_of_n"]["accuracy"] == 1
    worst = evaluate(pairs, lambda said: -count(said))["best_of_n"]
    assert (worst["accuracy"], worst["groups"], worst["answers"]) == (0, 1, 3)
    assert (worst["rating_of_picked"], worst["by_chance"]) == (1.0, pytest.approx(1 / 3))


def test_agreement_with_a_second_model(evaluate, tmp_path):
    pairs = many()
    same = evaluate(pairs, good, also=lambda said: 2 * good(said) + 5)["also"]
    assert same["agree"] == 1 and same["only_this_right"] == same["only_other_right"] == 0
    assert same["rank_correlation"] == pytest.approx(1)
    m = evaluate(pairs, good, also=lambda said: -good(said))
    assert (m["also"]["agree"], m["also"]["accuracy"]) == (0, pytest.approx(1 - m["accuracy"]))
    assert m["also"]["difference_correlation"] == pytest.approx(-1) and m["also"]["p_accuracy_differs"] < 1e-6
    assert m["also"]["only_this_right"] == m["accuracy"] * 400
    assert len(read_jsonl(tmp_path / "out" / "scores_also.jsonl")) == 400
    assert "Where both are sure and disagree" in (tmp_path / "out" / "report.html").read_text()


def test_scaling_of_the_model_is_applied_unless_told_otherwise(evaluate, tmp_path):
    scaling = {"method": "standard", "shape": "linear", "references": [1.0], "scale": 0.5, "length": None, "clip": None}
    facts = {"scaling": scaling}
    raw, written = evaluate(many(50), good), read_jsonl(tmp_path / "out" / "scores.jsonl")
    scaled = evaluate(many(50), good, facts=facts)
    assert read_jsonl(tmp_path / "out" / "scores.jsonl") == written, "raw, for the scale stage fits on them"
    assert {"chosen_length", "rejected_length"} <= set(written[0]), "which debiasing needs"
    assert scaled["margin"] == pytest.approx(2 * raw["margin"]) and scaled["accuracy"] == raw["accuracy"]
    assert evaluate(many(50), good, "--no-scaling", facts=facts)["margin"] == raw["margin"]


def test_report_shows_the_worst_mistakes_and_loads_nothing(evaluate, tmp_path):
    pairs = many(300)
    pairs[150] = pair("Say <script>alert(1)</script>", "fine", "<img src=http://example.com/x>", "odd")
    evaluate(pairs, lambda said: 9 * ("example.com" in said[-1]["content"]) + good(said))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    mistakes = page.split("most confident mistakes")[1]
    assert mistakes.index("Say &lt;script&gt;alert(1)&lt;/script&gt;") < 600, "the most confident one comes first"
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 4 and "<script" not in page
    assert "most confident mistakes" in assert_self_contained(tmp_path / "out" / "report.html", pictures=4)["text"]
    assert mistakes.count("<tr>") == 1 + 20 + 2


@pytest.mark.parametrize(
    "words, code, told",
    [
        (["--folds", "1"], 2, "--folds 5"),
        (["--folds", "2", "--also", "x"], 2, "--also"),
        (["--folds", "3"], 2, "train.py"),
    ],
)
def test_folds_are_refused_where_they_make_no_sense(evaluate, capsys, words, code, told):
    with pytest.raises(SystemExit) as stop:
        evaluate(many(20), good, *words)
    assert stop.value.code == code and told in capsys.readouterr().err


def test_rewards_that_are_no_numbers_are_refused(evaluate, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        evaluate(many(20), lambda said: math.nan)
    assert stop.value.code == 3 and "20 pairs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.partial*"))


# ---- Real models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(base, tmp_path_factory):
    """Folder of a reward model with random weights."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("judge") / "model"
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_batches_and_processes_change_nothing(judge, pairs, tmp_path, monkeypatch):
    """One process with small batches, and two with large ones, in the environment that torchrun gives them."""
    words = list(map(str, ["--model", judge, "--data", pairs / "eval.parquet", "--probes", 6]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    both = []
    for rank in "01":
        environment = {**ENVIRONMENT, **ONE_THREAD, **place, "RANK": rank, "LOCAL_RANK": rank}
        command = [sys.executable, str(GOLDEN / "evaluate.py"), *words, "--out", "two"]
        both.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment))
    monkeypatch.chdir(tmp_path)
    call("evaluate", *words, "--batch-tokens", 200, "--out", "one")
    for process in both:
        told = process.communicate(timeout=300)[1]
        assert process.returncode == 0, told[-3000:]
    one, two = (read_jsonl(tmp_path / name / "scores.jsonl") for name in ("one", "two"))
    assert [row["prompt_id"] for row in one] == [row["prompt_id"] for row in two]
    assert max(abs(a[side] - b[side]) for a, b in zip(one, two) for side in ("chosen", "rejected")) < 1e-5
    one, two = (read_json(tmp_path / name / "metrics.json") for name in ("one", "two"))
    for name in ("accuracy", "low", "high", "ties", "pairs", "by_source", "probes"):
        assert one[name] == two[name], name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_dialogue_stays_in_one_fold_however_far_it_goes(tmp_path, monkeypatch):
    script, turn = golden("evaluate"), lambda role, content: {"role": role, "content": content}
    asked = [[turn("user", f"What is the capital of country {n}?")] for n in range(12)]
    longer = [[*prompt, turn("assistant", "Guess."), turn("user", "No idea!")] for prompt in asked]
    for side, prompts in (("train", asked), ("eval", longer)):
        write_table(pyarrow.table({"prompt": prompts}), tmp_path / f"{side}.parquet")
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: argparse.Namespace(returncode=0))
    args = argparse.Namespace(data=tmp_path / "eval.parquet", folds=3, out=f"{tmp_path}/out")
    held_out = [read_table(data)["prompt"].to_pylist() for _, data in script.train_folds(args)]
    begins = [sorted(prompt[0]["content"] for prompt in prompts) for prompts in held_out]
    assert sum(map(len, begins)) == 24 and all(found[::2] == found[1::2] for found in begins)


def test_cross_validation_with_one_flag(base, pairs, tmp_path, monkeypatch, capsys):
    """Every pair of both splits is judged once, by a model trained without its prompt."""
    values = {"model": str(base), "data": str(pairs), "max_steps": 2, "batch_size": 4, "eval_steps": 100}
    for stage, chosen in (("train", values), ("evaluate", {"data": str(pairs / "eval.parquet")})):
        render.write(tmp_path / "run" / f"{stage}.py", render.render(stage, recipe.validate(stage, chosen)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run/evaluate.py", "--folds", "2", "--probes", "10"])
    runpy.run_path(str(tmp_path / "run" / "evaluate.py"), run_name="__main__")
    assert "fold 2 of 2: training on" in capsys.readouterr().out
    rows, m = read_jsonl(tmp_path / "eval" / "scores.jsonl"), read_json(tmp_path / "eval" / "metrics.json")
    report = read_json(pairs / "report.json")
    assert len(rows) == m["pairs"] == report["train"] + report["eval"]
    folds = {}
    for row in rows:
        folds.setdefault(row["prompt_id"], set()).add(row["fold"])
    assert all(len(found) == 1 for found in folds.values()) and {f for x in folds.values() for f in x} == {0, 1}
    assert m["folds"]["number"] == 2 and len(m["folds"]["accuracy"]) == 2
    right = [[row["chosen"] > row["rejected"] for row in rows if row["fold"] == fold] for fold in (0, 1)]
    assert m["folds"]["accuracy"] == [sum(found) / len(found) for found in right]
    assert m["accuracy"] == sum(map(sum, right)) / len(rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval", "run"], "the models of the folds are gone"


MEMORY = """
import importlib.util, json, resource, sys
spec = importlib.util.spec_from_file_location("evaluate", sys.argv[1])
m = importlib.util.module_from_spec(spec)
spec.loader.exec_module(m)
m.ROWS_AT_ONCE = 256
m.load_reward_model = lambda path, dtype: (type("Model", (), {"dtype": None}), None, {})
m.encode = lambda messages, tokenizer, most: ([len(messages[-1]["content"])], 0)
m.try_packing = lambda *_: ""
m.score_ids = lambda model, groups, tokens: m.torch.tensor([float(i % 7) for g in groups for ids in g for i in ids])
m.language = lambda text: "English"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
m.main(m.parameters(["--data", sys.argv[2], "--out", "out"]))
print("GROWN", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_text(tmp_path):
    """400 MiB of answers pass through, and are not kept."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    text = [f"{n} " + "word " * (3000 + n % 900) for n in range(1000)]
    rows = [pair(f"p{n}", text[n], text[-n]) for n in range(1000)]
    table = pyarrow.Table.from_pylist(rows)
    with ParquetWriter(tmp_path / "pairs.parquet", table.schema) as writer:
        for _ in range(12):
            writer.write_table(table)
    (tmp_path / "memory.py").write_text(MEMORY)
    done = python("memory.py", GOLDEN / "evaluate.py", "pairs.parquet", cwd=tmp_path, env=ONE_THREAD)
    assert int(done.stdout.split("GROWN")[1]) < 250
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["pairs"] == 12_000
