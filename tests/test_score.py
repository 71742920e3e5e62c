"""score: the prompt computed once, resume after a kill, best of n, the saved scaling, memory that does not grow."""

import gzip
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time

import demo
import pytest
from conftest import ENVIRONMENT, ROOT, python, read_jsonl, write_jsonl
from trainings import ONE_THREAD, copied, golden, make_classifier, read_json, refused

SCORE = ROOT / "tests" / "golden" / "score.py"
SCALING = {"method": "standard", "shape": "linear", "references": [0.5], "scale": 2.0, "length": None, "clip": None}


@pytest.fixture(scope="module")
def model(base, tmp_path_factory):
    """Folder of a sequence classifier with random weights."""
    return make_classifier(base, tmp_path_factory.mktemp("scoring") / "model")


def answers(prompts, k):
    """Rows {prompt, responses} with k answers each."""
    said = [row[side] for row in demo.preferences(300) for side in ("chosen", "rejected")]
    asked = [row["prompt"] for row in demo.preferences(prompts)]
    return [{"id": i, "prompt": p, "responses": said[i * 3 : i * 3 + k]} for i, p in enumerate(asked)]


def score(rows, model, folder, *words, scaling=None):
    """(output rows, summary) of score.py run in this process."""
    write_jsonl(folder / "in.jsonl", rows)
    (model / "reward.json").write_text(json.dumps({"max_length": 256, "scaling": scaling}))
    module = golden("score")
    named = ["--model", model, "--data", folder / "in.jsonl", "--out", folder / "out.jsonl", *words]
    module.main(module.parameters([str(word) for word in named]))
    return read_jsonl(folder / "out.jsonl"), read_json(folder / "out.jsonl.summary.json")


def close(a, b):
    return a == pytest.approx(b, abs=2e-5)


# ---- The prompt is computed once -------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """Tokens that went through the model."""
    module, tokens = golden("score"), []
    pack = module.pack

    def counting(groups, device="cpu"):
        inputs = pack(groups, device)
        tokens.append(inputs["input_ids"].numel())
        return inputs

    monkeypatch.setattr(module, "pack", counting)
    return tokens


def test_separate_rows_of_one_prompt_share_it(model, tmp_path, counted):
    lists = answers(6, 4)
    apart = [{"id": r["id"], "prompt": r["prompt"], "response": a} for r in lists for a in r["responses"]]
    shuffled = [apart[i] for i in (i * 7 % len(apart) for i in range(len(apart)))]
    once, found = [], {}
    for name, rows in (("lists", lists), ("apart", apart), ("shuffled", shuffled)):
        counted.clear()
        found[name] = score(rows, model, tmp_path)[0]
        once.append(sum(counted[2:]))  # the first two check the packing
    tokens = sum(row["tokens"] for row in found["apart"])
    assert max(once) <= 1.01 * min(once)  # which answers begin alike hangs a little on their order
    assert once[0] < 0.8 * tokens
    together = [value for row in found["lists"] for value in row["score"]]
    assert close([row["score"] for row in found["apart"]], together)
    assert close([row["score"] for row in found["shuffled"]], [together[i * 7 % len(apart)] for i in range(len(apart))])
    assert [row["length"] for row in found["apart"]] == [len(row["response"]) for row in apart]


def test_a_pass_holds_the_budget_with_the_prompt_counted_once(model, tmp_path, counted):
    rows = [{"prompt": "word " * 120, "responses": [f"answer {i}" for i in range(40)]}]
    whole = score(rows, model, tmp_path)[0][0]
    counted.clear()
    budget = 400
    split = score(rows, model, tmp_path, "--batch-tokens", budget)[0][0]
    tokens = whole["tokens"][0]
    assert max(counted[-3:]) <= budget and sum(whole["tokens"]) > 10 * budget
    passes = [size for size in counted if size > tokens * 1.2]
    assert len(passes) < 0.7 * 40 / (budget // tokens)
    assert close(split["score"], whole["score"])


def test_rows_that_cannot_be_scored_or_say_two_things_are_errors(model, tmp_path, monkeypatch):
    module, real, encode = golden("score"), golden("score").score_ids, golden("score").encode
    last = module.torch.tensor([0.0, 0.0, float("nan")])
    monkeypatch.setattr(module, "score_ids", lambda *words: (found := real(*words)) + last[: len(found)])
    monkeypatch.setattr(module, "encode", lambda m, *words: encode(m, *words) if m[-1]["content"] else ([], 0))
    rows = [{"prompt": "Why?", "response": "So."}, {"prompt": "Why?", "response": ""}]
    rows += [{"prompt": "Who?", "responses": ["Me.", "You."]}]
    rows += [{"prompt": "Who?", "response": "Me.", "responses": ["You."]}]
    found, summary = score(rows, model, tmp_path, "--no-packing")
    assert [row.get("error", "")[:5] for row in found] == ["", "empty", "not_f", "too_m"] and "best" not in found[2]
    assert (found[2]["score"], summary["failed"], summary["best_of_n"]) == (None, 3, [])


@pytest.mark.parametrize("known", [True, False])
def test_a_model_whose_tokenizer_names_no_padding(known, model, tmp_path, capsys):
    """The model's own config does; where that is silent too, no score could be trusted."""
    rows, plain = answers(2, 3), copied(model, tmp_path / "plain")
    before = score(rows, model, tmp_path)[0]
    settings = read_json(plain / "tokenizer_config.json")
    (plain / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "pad_token"}))
    if known:
        for row, other in zip(score(rows, plain, tmp_path)[0], before):
            assert close(row["score"], other["score"])
        return
    config = read_json(plain / "config.json")
    (plain / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    told = refused(capsys, "score", "--model", plain, "--data", tmp_path / "in.jsonl", "--out", tmp_path / "no")
    assert "names no token to pad with" in told


# ---- Best of n -------------------------------------------------------------------------------------------------------


def by_hand(scores, values, n):
    """Mean value of the highest of every choice of n; equal scores share their mean."""
    shared = [statistics.fmean(v for s, v in zip(scores, values) if s == own) for own in scores]
    picks = itertools.combinations(range(len(scores)), n)
    return statistics.fmean(shared[max(pick, key=lambda i: scores[i])] for pick in picks)


@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 1.0, 0.0, 2.0, 2.0], [7.0]])
def test_expected_best_is_the_mean_over_every_choice(scores):
    values = [0.3, 1.0, -2.0, 0.5, 0.0][: len(scores)]
    found = golden("score").expected_best(scores, golden("score").np.array(values))
    assert found == pytest.approx([by_hand(scores, values, n) for n in range(1, len(scores) + 1)], abs=1e-12)


def test_expected_best_of_very_many():
    np, many = golden("score").np, list(range(2000))
    found = golden("score").expected_best(many, np.array(many, float))
    expected = [n * 2001 / (n + 1) - 1 for n in range(1, 2001)]  # the highest of n out of 0 … k - 1
    assert found == pytest.approx(expected, rel=1e-9)


def test_best_and_the_curve(model, tmp_path, capsys):
    rows = answers(5, 4)
    for i, row in enumerate(rows):
        row["truth"] = [(i + j) % 3 for j in range(4)]
    rows += [
        {**answers(1, 4)[0], "responses": ["One.", "Two."], "truth": [1, 0]},
        {**rows[0], "truth": [0, 1, 2, math.nan]},
    ]
    found, summary = score(rows, model, tmp_path, "--gold", "truth")
    for row in found:
        assert row["score"][row["best"]] == max(row["score"])
    two, four = summary["best_of_n"]
    assert (two["k"], four["k"], summary["without_gold"]) == (2, 4, 1)
    assert (four["reward"]["rows"], four["gold"]["rows"]) == (6, 5)
    for n in four["n"]:
        reward = [by_hand(row["score"], row["score"], n) for row in found if len(row["score"]) == 4]
        truth = [by_hand(row["score"], row["truth"], n) for row in found[:5]]
        most = [by_hand(row["truth"], row["truth"], n) for row in found[:5]]
        assert four["reward"]["mean"][n - 1] == pytest.approx(statistics.fmean(reward), abs=1e-9)
        assert four["gold"]["mean"][n - 1] == pytest.approx(statistics.fmean(truth), abs=1e-9)
        assert four["gold_at_most"]["mean"][n - 1] == pytest.approx(statistics.fmean(most), abs=1e-9)
        error = statistics.stdev(truth) / 5**0.5
        assert four["gold"]["standard_error"][n - 1] == pytest.approx(error, abs=1e-9)
    assert four["kl"][0] == 0 and four["kl"][3] == pytest.approx(0.6363, abs=1e-4)
    assert "expected gold of the best of n, 5 rows with 4" in capsys.readouterr().out


# ---- The saved scaling -----------------------------------------------------------------------------------------------


def test_scaled_stands_beside_the_raw_score(model, tmp_path):
    rows = [*answers(2, 3), {"prompt": "Hello?", "response": "Hello."}]
    plain = score(rows, model, tmp_path)[0]
    found = score(rows, model, tmp_path, scaling=SCALING)[0]
    assert all("scaled" not in row for row in plain)
    assert [row["score"] for row in found] == [row["score"] for row in plain]
    for row in found[:2]:
        assert row["scaled"] == pytest.approx([(value - 0.5) / 2 for value in row["score"]])
    assert found[2]["scaled"] == pytest.approx((found[2]["score"] - 0.5) / 2)


def test_best_follows_the_scaling(model, tmp_path):
    rows = [{"prompt": "Hello?", "responses": ["Hi.", "Hello, how are you today?"]}]
    for slope in (1000.0, -1000.0):
        scaling = SCALING | {"length": [[0, 100], [0, 100 * slope]]}
        row = score(rows, model, tmp_path, scaling=scaling)[0][0]
        assert row["best"] == (0 if slope > 0 else 1) == row["scaled"].index(max(row["scaled"]))


def test_references_of_the_row_take_the_place_of_the_saved(model, tmp_path):
    rows = answers(2, 4)
    whole = score(rows, model, tmp_path)[0]
    with_references = [{**row, "responses": row["responses"][:2], "references": row["responses"][2:]} for row in rows]
    scaling = SCALING | {"method": "par", "shape": "sigmoid", "references": [100.0], "scale": 1.0}
    found = score(with_references, model, tmp_path, scaling=scaling)[0]
    for row, full in zip(found, whole):
        assert close(row["score"], full["score"][:2]) and len(row["tokens"]) == 2
        sigmoid = [[1 / (1 + 2.718281828 ** (r - s)) for r in full["score"][2:]] for s in full["score"][:2]]
        assert row["scaled"] == pytest.approx([statistics.fmean(part) for part in sigmoid], abs=1e-5)
    apart = score(rows, model, tmp_path, scaling=scaling)[0]
    assert max(apart[0]["scaled"]) < 1e-9


# ---- Killed and started again ----------------------------------------------------------------------------------------


def test_killed_and_started_again_gives_the_same_file(model, tmp_path, monkeypatch, capsys):
    """Killed, with half a line behind what was counted: every row exactly once, byte for byte as without."""
    (model / "reward.json").write_text(json.dumps({"max_length": 256, "scaling": SCALING}))
    rows = [{"id": i, "prompt": f"Question {i // 3}?", "responses": [f"a{i}", f"b{i}"]} for i in range(1600)]
    rows[700] = {"id": 700}
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    monkeypatch.chdir(tmp_path)

    def words(out):
        return ["--model", str(model), "--data", "in.jsonl.gz", "--out", out, "--gold", "id"]

    capsys.readouterr()
    golden("score").main(golden("score").parameters(words("whole.jsonl")))
    whole = capsys.readouterr().out
    partial, progress = tmp_path / "cut.jsonl.partial", tmp_path / "cut.jsonl.progress.json"
    command = [sys.executable, str(SCORE), *words("cut.jsonl")]
    process = subprocess.Popen(command, env={**ENVIRONMENT, **ONE_THREAD}, stderr=subprocess.DEVNULL)
    while not progress.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut.jsonl").exists() and read_json(progress)["rows"] < 1600
    with open(partial, "ab") as file:
        file.write(b'{"file": "cut o')
    done = python(SCORE, *words("cut.jsonl"), cwd=tmp_path, env=ONE_THREAD)
    assert "going on after" in done.stderr
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    summaries = [read_json(tmp_path / f"{name}.jsonl.summary.json") for name in ("cut", "whole")]
    assert summaries[0] == summaries[1] and (summaries[0]["rows"], summaries[0]["failed"]) == (1600, 1)
    assert done.stdout.replace("cut.jsonl", "") == whole.replace("whole.jsonl", "")
    assert not partial.exists() and not progress.exists()
    assert [row["id"] for row in read_jsonl(tmp_path / "cut.jsonl")] == list(range(1600))


@pytest.mark.parametrize("change", ["data", "flag", "nothing", "no-resume"])
def test_a_run_goes_on_only_from_one_like_it(change, model, tmp_path, monkeypatch, capsys):
    module, rows = golden("score"), answers(20, 2)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    score_ids, calls = module.score_ids, []

    def failing(*words):
        calls.append(words)
        if len(calls) > 3 + 2:  # two of them check the packing
            raise KeyboardInterrupt
        return score_ids(*words)

    monkeypatch.setattr(module, "score_ids", failing)
    with pytest.raises(KeyboardInterrupt):
        score(rows, model, tmp_path)
    done = read_json(tmp_path / "out.jsonl.progress.json")["rows"]
    assert done and done % 8 == 0
    monkeypatch.setattr(module, "score_ids", score_ids)
    capsys.readouterr()
    marks = os.stat(tmp_path / "in.jsonl"), os.stat(model / "reward.json")
    rows = rows[:-1] if change == "data" else rows
    more = {"flag": ["--max-length", "200"], "no-resume": ["--no-resume"]}.get(change, [])
    write_jsonl(tmp_path / "in.jsonl", rows)
    if change != "data":
        os.utime(tmp_path / "in.jsonl", ns=(marks[0].st_atime_ns, marks[0].st_mtime_ns))
    words = ["--model", model, "--data", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", *more]
    module.main(module.parameters([str(word) for word in words]))
    told = capsys.readouterr().err
    assert (f"going on after {done} rows" in told) == (change == "nothing")
    assert ("starting anew" in told) == (change in ("data", "flag"))
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [row["id"] for row in rows]


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """12,000 rows take no more than 2,000: nothing of a part stays. The model is replaced by one that costs nothing."""
    stub = (
        "import importlib.util, json, resource, sys\n"
        f"spec = importlib.util.spec_from_file_location('score', {str(SCORE)!r})\n"
        "score = importlib.util.module_from_spec(spec); spec.loader.exec_module(score)\n"
        "score.load_reward_model = lambda *_: (type('M', (), {'checked': True})(), None, {})\n"
        "score.encode = lambda messages, *_: (list(range(len(messages[-1]['content']))), 0)\n"
        "score.score_ids = lambda model, groups, *_: score.torch.tensor([float(len(i)) for g in groups for i in g])\n"
        "for name in sys.argv[1:]:\n"
        "    score.main(score.parameters(['--model', 'none', '--data', name, '--out', name + '.out']))\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    (tmp_path / "stub.py").write_text(stub)
    for name, count in (("small.jsonl", 2000), ("large.jsonl", 12_000)):
        line = json.dumps({"prompt": "What is this?", "responses": ["one", "another"], "note": "x" * 1500})
        (tmp_path / name).write_text((line + "\n") * count)
    done = python(tmp_path / "stub.py", "small.jsonl", "large.jsonl", cwd=tmp_path)
    small, large = (float(line) for line in done.stdout.splitlines() if line.replace(".", "").isdigit())
    assert large - small < 8, (small, large)  # MiB; the larger input alone is 19 MiB
    assert sum(1 for _ in open(tmp_path / "large.jsonl.out")) == 12_000
