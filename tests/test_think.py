"""Scoring thinking: rewards over its steps, measures, judge, process models, pairs made of it and learned from it."""

import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import assert_self_contained
from conftest import SHARED, read_jsonl, write_jsonl
from trainings import call, golden, read_json, refused

STRIPPING = (  # deletes everything up to </think>, as the templates of DeepSeek-R1's distillations do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def scorer(base, tmp_path_factory):
    """Folder of a sequence classifier with random weights; large enough for its rewards to differ."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("scorer") / "model"
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def completions(count, seed=0):
    """Right completions with varied thinking, wrong ones that say their steps again and again; lengths are alike."""
    import demo

    rng = random.Random(seed)
    for row in demo.preferences(count, seed):
        said = [
            f"{rng.choice(demo.STEPS)} {rng.choice(demo.MIDDLES)}".format(task="clean", thing=t) for t in demo.THINGS
        ]
        varied, again = rng.sample(said, 5), [rng.choice(said)] * 5
        texts = ["<think>\n" + "\n\n".join(steps) + "\n</think>\n\nDone." for steps in (varied, again)]
        yield {"prompt": row["prompt"], "responses": texts, "correct": [True, False]}


@pytest.fixture(scope="module")
def thought(scorer, tmp_path_factory):
    """Folder of the think stage's results on 40 such rows and a few odd ones."""
    folder = tmp_path_factory.mktemp("think")
    odd = [
        {"prompt": "Q", "response": "<think>\nIt never\n\nends", "correct": False},
        {"prompt": "Q", "response": "Only an answer."},
        {"prompt": "Q", "messages": [{"role": "assistant", "content": "4", "reasoning": "2 and 2.\n\nSo 4."}]},
        {"nothing": "of use"},
    ]
    write_jsonl(folder / "rows.jsonl", [*completions(40), *odd])
    words = ["--model", scorer, "--data", folder / "rows.jsonl", "--weights", "repetition=-1", "reward=0.1"]
    call("think", *words, "--out", folder / "packed")
    call("think", *words, "--out", folder / "padded", "--no-packing")
    return folder


def test_every_completion_is_there_and_missing_is_null(thought):
    items, metrics = read_jsonl(thought / "packed/items.jsonl"), read_json(thought / "packed/metrics.json")
    assert (len(items), metrics["items"], metrics["failed"]) == (84, 83, 1)
    unclosed, absent, field, failed = items[-4:]
    assert "error" in failed and [i["status"] for i in (unclosed, absent, field)] == ["unclosed", "absent", "closed"]
    assert (unclosed["cut_off"], unclosed["reward_without"], unclosed["correct"]) == (1.0, None, False)
    assert (absent["difference"], absent["steps"], absent["agreement"]) == (None, 0, None)
    assert (absent["repetition"], absent["composite"]) == (None, None), "nothing to repeat is not the best repetition"
    assert metrics["warnings"][1:] == ["1 completions have no composite, for they have no repetition"]
    assert (field["steps"], field["agreement"]) == (2, 1.0)
    assert metrics["statuses"] == {"closed": 81, "unclosed": 1, "absent": 1}


def test_steps_cost_one_pass_and_score_the_same(thought):
    packed, padded = (read_jsonl(thought / f"{how}/items.jsonl")[:-1] for how in ("packed", "padded"))
    assert read_json(thought / "packed/metrics.json")["prefix_tokens"] <= 1.5
    assert sum(len(item["path"]) for item in packed) > 300
    for a, b in zip(packed, padded):
        assert a["path_steps"] == b["path_steps"]
        assert a["path"] == pytest.approx(b["path"], abs=1e-4) and a["reward"] == pytest.approx(b["reward"], abs=1e-4)
        assert a["difference"] == pytest.approx(b["difference"], abs=1e-4)


def test_a_point_of_the_path_is_the_reward_of_the_text_so_far(thought, scorer):
    """Scored again by hand: the conversation's tokens up to the step, and the end of the turn."""
    script = golden("think")
    model, tokenizer, _ = script.load_reward_model(scorer)
    row, item = read_jsonl(thought / "rows.jsonl")[0], read_jsonl(thought / "packed/items.jsonl")[0]
    upto = row["responses"][0].index("\n\n")  # the end of the first step
    text = f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n{row['responses'][0][:upto]}"
    ids = tokenizer(text + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
    assert item["path_steps"] == [0, 1, 2, 3, 4]
    assert item["path"][0] == pytest.approx(script.score_ids(model, [[ids]], 4096).item(), abs=1e-4)
    falls = [a - b for a, b in zip(item["path"], [*item["path"][1:], item["reward"]])]
    assert item["largest_drop"] == pytest.approx(max(falls))
    assert item["largest_drop_step"] == 1 + falls.index(max(falls)), (
        "the step behind which the reward is lower; 5: the answer"
    )


def test_planted_signal_is_found(thought):
    measures = {row["measure"]: row for row in read_json(thought / "packed/metrics.json")["measures"]}
    assert measures["repetition"]["auc"] < 0.05 and measures["repetition"]["high"] < 0.2
    assert measures["composite"]["auc"] > 0.9 and measures["composite"]["low"] > 0.8
    assert measures["language_switches"]["low"] <= 0.5 <= measures["language_switches"]["high"]


def test_report_is_seen(thought):
    seen = assert_self_contained(thought / "packed/report.html", pictures=5)
    assert "Best by the composite" in seen["text"] and "never" in (thought / "rows.jsonl").read_text()


def test_auc_of_clusters():
    script, rng = golden("think"), random.Random(3)
    labels = [rng.random() < 0.4 for _ in range(200)]
    scores = [round(rng.gauss(0.8 * label, 1), 1) for label in labels]
    good, bad = ([s for s, label in zip(scores, labels) if label is side] for side in (True, False))
    exact = sum((g > b) + (g == b) / 2 for g in good for b in bad) / len(good) / len(bad)
    alone = script.auc(scores, labels, range(200))
    assert alone["auc"] == pytest.approx(exact)
    twice = script.auc(scores * 2, labels * 2, [*range(200)] * 2)  # the same items again say nothing new
    assert (twice["auc"], twice["low"]) == (pytest.approx(exact), pytest.approx(alone["low"], abs=1e-9))
    assert script.auc([1.0], [True], [0]) is None


# ---- Measures --------------------------------------------------------------------------------------------------------


def test_measures():
    script = golden("think")
    assert script.step_ends("a b.\n\nc d.\n\ne") == [4, 10, 13] and script.step_ends("One. Two!") == [4, 9]
    assert script.step_ends("") == [] and script.step_ends("a\nb", "paragraph") == [3]
    assert script.repetition("one two three four five") == 0 and script.repetition("a b " * 50) > 0.9
    assert script.repetition("你好吗我很好" * 10) > 0.8
    switches = {"one two 三 four α β x": 2, "我们用Python写代码": 2, "日本語のデーターを使う。々": 0, "Hello мир": 1}
    switches |= {"设x为3，则 x+y=5": 0, r"ℝ, 5 µm, \frac{a}{b}": 0, r"\frac{a}{b} 等于 \sqrt{2}": 0, "Grüße à l’été": 0}
    assert {text: script.language_switches(text) for text in switches} == switches
    concluded = {r"3 so \boxed{4}": "4", "it is 1,200.": "1200", "none": None, "7.50": "7.5", "50%": "50", "3-5": "5"}
    concluded |= {r"\boxed{\dfrac{1}{2}}": r"\frac{1}{2}", "so 1/2.": "1/2", r"\boxed{\$12.0\text{ each}}": "12"}
    concluded |= {"1,234,567": "1234567", "0.12345678": "0.12345678"}
    concluded |= {"答案是-3": "-3", r"\boxed{\text{yes}}": r"\text{yes}", r"\boxed{(1, 2)}": "(1,2)"}
    assert {text: script.conclusion(text) for text in concluded} == concluded
    assert [script.overlong(n, 100) for n in (10, 75, 87.5, 100, 200)] == [0, 0, -0.5, -1, -1]
    assert len(script.CORRECTIONS.findall("Wait, that is wrong. Let me recheck. 等一下")) == 4


# ---- Judge -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def judge():
    """A judge's endpoint: (address, what it was asked). Says nonsense to "vague", fails once on each of the others."""
    asked, failed, now = [], set(), Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            material = body["messages"][1]["content"]
            now["asked"] += 1
            now["most"] = max(now["most"], now["asked"])
            time.sleep(0.02)
            now["asked"] -= 1
            asked.append((body, dict(self.headers)))
            verdict = (
                "I like it, 9 of 10"
                if "vague" in material
                else "Sound.\nScore: 7"
                if "good" in material
                else "Score: 1"
            )
            if material not in failed:  # the first time it is busy, cut off, or no HTTP at all
                failed.add(material)
                busy, cut = b"HTTP/1.1 503 Busy\r\n", b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"
                kinds = {"good": busy + cut, "bad": b"HTTP/1.1 200 OK\r\n" + cut, "vague": b"nonsense\r\n\r\n"}
                self.wfile.write(next(said for kind, said in kinds.items() if kind in material))
                return
            answer = json.dumps({"choices": [{"message": {"content": verdict}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked, now
    server.shutdown()


def test_judge(judge, tmp_path, monkeypatch, capsys):
    address, asked, now = judge
    monkeypatch.setenv("MY_KEY", "sk-secret")
    rows = [
        {"prompt": f"Q{n}", "response": f"<think>{word} {n}</think>A"}
        for n, word in enumerate(["good", "bad", "vague"] * 3)
    ]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, {"prompt": "Q", "response": "No thinking."}])
    words = ["--model", "", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out", "--weights", "judge=1"]
    words += ["--judge", address, "--judge-model", "m", "--judge-key", "MY_KEY", "--judge-parallel", 2]
    call("think", *words)
    items, metrics = read_jsonl(tmp_path / "out/items.jsonl"), read_json(tmp_path / "out/metrics.json")
    assert [item["judge"] for item in items] == [pytest.approx(2 / 3), 0.0, None] * 3 + [None]
    assert [item["composite"] is None for item in items] == [False, False, True] * 3 + [True]
    assert metrics["judge_problems"] == {"unparsable": 3} and len(asked) == 18 and now["most"] <= 2
    assert {headers["Authorization"] for _, headers in asked} == {"Bearer sk-secret"}
    assert "sk-secret" not in capsys.readouterr().out + "".join(p.read_text() for p in (tmp_path / "out").iterdir())
    told = "Score: 4\nignore the rubric\n> Score: 9"
    assert (
        golden("think").read_verdict(told) == pytest.approx(8 / 9) and golden("think").read_verdict("Score: 11") is None
    )
    for wrong in (["--judge", "http://example.com/v1"], ["--judge", "http://[::1"], ["--judge-rubric", "none.txt"]):
        with pytest.raises(SystemExit, match="2"):
            call("think", *words, *wrong)
    call("think", *words, "--judge", "http://127.0.0.1:9/v1", "--judge-retries", 0)
    assert {item["judge"] for item in read_jsonl(tmp_path / "out/items.jsonl")} == {None}


# ---- Process reward models -------------------------------------------------------------------------------------------


def test_process_models(base, tmp_path):
    """Each kind, and each head that is published, against the model called as its authors do."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(2)
    body, tokenizer = AutoModel.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    size, steps = body.config.hidden_size, ["One.\n\nStill.", "Two.", "Three."]
    two = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 2))
    heads = {"qwen": ("score", two), "trl": ("score", two[2]), "skywork": ("v_head.summary", torch.nn.Linear(size, 1))}
    for name, (prefix, head) in heads.items():
        AutoConfig.from_pretrained(base).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        weights = {f"model.{key}": value for key, value in body.state_dict().items()}
        weights |= {f"{prefix}.{key}": value.clone() for key, value in head.state_dict().items()}
        save_file(weights, tmp_path / name / "model.safetensors", {"format": "pt"})

    def at(ids, places, head):
        with torch.inference_mode():
            found = head(body(torch.tensor([ids])).last_hidden_state[0, places])
        return (found.softmax(-1)[:, 1] if found.shape[1] == 2 else found.sigmoid()[:, 0]).tolist()

    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>".join([*steps, ""])}]
    chat = tokenizer(tokenizer.apply_chat_template(said, tokenize=False))["input_ids"]
    lines, places = tokenizer("Q\n")["input_ids"], []
    for step in steps:
        lines += tokenizer(step)["input_ids"] + tokenizer("\n")["input_ids"]
        places.append(len(lines) - 1)
    mark = tokenizer.convert_tokens_to_ids("<think>")
    with torch.inference_mode():
        text = f"Q {steps[0]} к\n{steps[1]} к\n{steps[2]} к"
        logits = AutoModelForCausalLM.from_pretrained(base)(**tokenizer(text, return_tensors="pt")).logits[0]
    ends = [len(tokenizer(text[: i + 1])["input_ids"]) - 1 for i, letter in enumerate(text) if letter == "к"]
    pair = logits[ends][:, [tokenizer.encode("-")[-1], tokenizer.encode("+")[-1]]]
    expected = {
        ("qwen", "chat", "<think>"): at(chat, [i for i, token in enumerate(chat) if token == mark], two),
        ("trl", "separator", "\\n"): at(lines, places, two[2]),
        ("skywork", "separator", "\\n"): at(lines, places, heads["skywork"][1]),
        (base, "step_token", "к"): pair.softmax(-1)[:, 1].tolist(),
    }
    rows = [{"problem": "Q", "steps": steps, "label": n, "final_answer_correct": n < 0} for n in (-1, 1, 3)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    words = ["--model", "", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out", "--prm"]
    for (name, kind, mark), scores in expected.items():
        call("think", *words, tmp_path / name, "--prm-kind", kind, "--prm-mark", mark)
        *items, failed = read_jsonl(tmp_path / "out/items.jsonl")
        assert failed["error"] == "an error in step 4 of 3" and [item["correct"] for item in items] == [True, False]
        for item in items:  # three steps, though one has a blank line in it
            assert item["prm_steps"] == pytest.approx(scores, abs=1e-5) and item["steps"] == 3
        assert items[0]["prm_mean"] == pytest.approx(sum(scores) / 3) and items[0]["prm_min"] == pytest.approx(
            min(scores)
        )
        assert read_json(tmp_path / "out/metrics.json")["process_bench"]["items"] == 2
    config = read_json(tmp_path / "trl/config.json") | {"max_position_embeddings": 8}
    (tmp_path / "trl/config.json").write_text(json.dumps(config))
    call("think", *words, tmp_path / "trl")
    metrics = read_json(tmp_path / "out/metrics.json")
    assert "2 completions are longer than the process reward model can read" in metrics["warnings"]
    assert metrics["process_bench"] is None
    f1 = golden("think").first_error_f1
    assert f1([1, 2, -1, -1], [1, 1, -1, -1])["f1"] == pytest.approx(2 * 0.5 / 1.5) and f1([1], [1]) is None
    with pytest.raises(SystemExit):  # its head would be random
        call("think", *words, base, "--prm-kind", "separator")


def test_process_model_is_trained_and_used(base, tmp_path, capsys):
    """Steps that say "is 7 off" are wrong: learned, the first of them found, and found again by the stage think."""
    rng, rows = random.Random(0), []
    for n in range(160):
        steps, label = [f"Take {rng.randrange(90)} and go on." for _ in range(4)], rng.choice([-1, 0, 1, 2, 3])
        if label >= 0:
            steps[label] = f"Take {rng.randrange(90)}, it is 7 off."
        rows.append({"problem": f"Task {n}", "steps": steps, "label": label, "final_answer_correct": label < 0})
    data = write_jsonl(tmp_path / "steps.jsonl", [*rows, {"problem": "Q", "steps": [], "label": 0}])
    words = [
        "--data",
        data,
        "--out",
        tmp_path / "process",
        "--eval-fraction",
        0.3,
        "--learning-rate",
        3e-3,
        "--mark",
        ";",
    ]
    call("train_steps", "--model", base, *words, "--max-steps", 80)
    made = read_json(tmp_path / "process/process.json")
    assert made["counts"]["not_used"] == 1 and made["counts"]["train"] + made["counts"]["eval"] == 160
    assert made["step_accuracy"] >= 0.95 and made["process_bench"]["f1"] >= 0.9, made
    write_jsonl(data, rows)
    call("think", "--model", "", "--data", data, "--out", tmp_path / "out", "--prm", tmp_path / "process")
    metrics = read_json(tmp_path / "out/metrics.json")
    assert metrics["process_bench"]["f1"] >= 0.9
    areas = {row["measure"]: row["auc"] for row in metrics["measures"]}
    assert areas["prm_min"] > 0.95 and areas["prm_product"] > 0.95
    assert "holds" in refused(capsys, "train_steps", "--model", base, "--data", write_jsonl(data, [{"prompt": "Q"}]))


# ---- Pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_that_differ_only_in_thinking_are_learned(base, tmp_path, capsys):
    """Careful thinking against poor thinking before the same answer: learned where the template shows it."""
    import demo

    rows = [row for row in demo.preferences(400) if row["kind"] != "off topic"]
    told = [
        {"prompt": r["prompt"], "responses": [f"<think>{r[s]}</think>Done." for s in ("chosen", "rejected")]}
        for r in rows
    ]
    write_jsonl(tmp_path / "rows.jsonl", [{**row, "correct": [1, 0]} for row in told])
    call("think_pairs", "--data", tmp_path / "rows.jsonl", "--kinds", "poor", "--out", tmp_path / "pairs.jsonl")
    call("format", "--data", tmp_path / "pairs.jsonl", "--out", tmp_path / "data", "--eval-fraction", 0.25)
    (tmp_path / "erasing.jinja").write_text(STRIPPING)
    words = ["--model", base, "--data", tmp_path / "data", "--out", tmp_path / "model", "--batch-size", 8]
    words += [
        "--chat-template",
        tmp_path / "erasing.jinja",
        "--learning-rate",
        3e-3,
        "--max-steps",
        60,
        "--eval-steps",
        60,
    ]
    refusal = refused(capsys, "train", *words)
    assert "the chat template deletes the thinking" in refusal and "--thinking preserve" in refusal
    call("train", *words, "--thinking", "preserve")
    assert read_json(tmp_path / "model/reward.json")["metrics"]["eval_accuracy"] >= 0.9
    call(
        "evaluate", "--model", tmp_path / "model", "--data", tmp_path / "data/eval.parquet", "--out", tmp_path / "eval"
    )
    assert read_json(tmp_path / "eval/metrics.json")["accuracy"] >= 0.9, "the amended template travels with the model"


def test_kinds_of_pairs(tmp_path):
    steps = [f"Step {n} of the work on thing {n}." for n in range(8)]
    right = [f"<think>{' '.join(steps[q % 5 :])} {q}</think>A{q}" for q in range(30)]
    asked = [{"prompt": f"Q{q}", "responses": [text, f"<think>no</think>B{q}"]} for q, text in enumerate(right)]
    data = write_jsonl(tmp_path / "rows.jsonl", [row | {"correct": [True, False]} for row in asked])
    call("think_pairs", "--data", data, "--out", tmp_path / "pairs.jsonl")
    pairs, report = read_jsonl(tmp_path / "pairs.jsonl"), read_json(tmp_path / "pairs.jsonl.report")
    assert {kind: found["pairs"] for kind, found in report["kinds"].items()} == dict.fromkeys(
        golden("think_pairs").KINDS, 30
    )
    split = golden("think_pairs").split_thinking
    for pair in pairs:
        good, bad = (split(pair[side][0]["content"]) for side in ("chosen", "rejected"))
        assert good.status == "closed" and good.answer == "A" + pair["prompt"][0]["content"][1:]
        expected = {"absent": "absent", "cut": "unclosed"}.get(pair["kind"], "closed")
        assert (bad.status, bad.answer != good.answer) == (expected, pair["kind"] in ("poor", "cut"))
        if pair["kind"] == "cut":
            assert good.thinking.startswith(bad.thinking) and len(bad.thinking) < len(good.thinking)
        if pair["kind"] == "repeated":
            assert (
                golden("think").repetition(bad.thinking) > 0.3 and abs(len(bad.thinking) / len(good.thinking) - 1) < 0.4
            )
    call("think_pairs", "--data", data, "--out", tmp_path / "matched.jsonl", "--match-length")
    report = read_json(tmp_path / "matched.jsonl.report")["kinds"]
    assert report["absent"]["pairs"] == 0 and report["absent"]["dropped_for_length"] == 30
    assert report["unfaithful"]["pairs"] > 10
    assert all(found["chosen_longer"] == pytest.approx(0.5) for found in report.values() if found["pairs"])


def test_unlabelled_completions_are_refused(tmp_path, capsys):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Q", "response": "<think>R</think>A"}])
    assert "1 no_label" in refused(capsys, "think_pairs", "--data", data, "--out", tmp_path / "pairs.jsonl")


def test_stepwise_data(tmp_path):
    """The shapes of ProcessBench, PRMBench, TRL and the GSM8K solutions."""
    right, wrong = ["1. Add.", "2. It is 4."], ["1. Add.", "2. It is 5."]
    processes = {"original_process": right, "modified_process": wrong, "error_steps": [2]}
    solved = [{"is_correct": True, "solution": "2 + 2\nA: 4"}, {"is_correct": False, "solution": "2\nA: 2"}]
    rows = [
        {"problem": "Q1", "steps": right, "label": -1, "final_answer_correct": True},
        {"problem": "Q1", "steps": wrong, "label": 1, "final_answer_correct": False},
        {"original_question": "Q2", "modified_question": "Q2", **processes},
        {"prompt": "Q3", "completions": wrong, "labels": [True, False]},
        {"prompt": "Q3", "completions": wrong, "labels": ["+", "-"]},
        {"prompt": "Q3", "completions": wrong, "labels": ["good", "bad"]},
        {"problem": "Q1", "steps": "one text", "label": 1},
        {"problem": "Q1", "steps": ["half a character \ud83d"], "label": 0},
        {"question": "Q4", "ground_truth": "x", "a": solved[0], "b": solved[1]},
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    call("think", "--model", "", "--data", data, "--out", tmp_path / "out", "--close", "\nA:")
    items = read_jsonl(tmp_path / "out/items.jsonl")
    assert [item.get("row") for item in items if "error" in item] == [6, 7, 8]
    items = [item for item in items if "error" not in item]
    assert [item["correct"] for item in items] == [True, False, True, False, False, False, True, False]
    assert [item["first_error"] for item in items] == [-1, 1, -1, 1, 1, 1, None, None]
    call("think_pairs", "--data", data, "--kinds", "poor", "--out", tmp_path / "pairs.jsonl")
    assert sorted(pair["prompt"][0]["content"] for pair in read_jsonl(tmp_path / "pairs.jsonl")) == ["Q1", "Q2"]


def test_real_step_data(tmp_path):
    """As many pairs as independent counts found in the GSM8K solutions and PRMBench, less those of questions that
    PRMBench has changed along with the solution, where these lie beside the checkout; test_stepwise_data has the same
    shapes in small. The measures are reported with their areas under the curve."""
    sets = {"gsm8k_model_solutions": ("*.jsonl", 100, "\nA:"), "prmbench_steps": ("mr_eval*.jsonl", 1, "")}
    for name, (pattern, each, close) in sets.items():
        files = sorted((SHARED / name).glob(pattern))
        if files:
            words = ["--data", *files, "--kinds", "poor", "--each", each, "--close", close]
            call("think_pairs", *words, "--out", tmp_path / f"{name}.jsonl")
            expected = read_json(SHARED / "expected.json")["sets"][name]["strict_pairs"]
            if name == "prmbench_steps":
                rows = [row for file in files for row in read_jsonl(file)]
                rows = [row for row in rows if row["error_steps"][0] <= len(row["modified_process"])]
                asked = {row["modified_question"] for row in rows}
                expected = sum(row["original_question"] in asked for row in rows)
            assert len(read_jsonl(tmp_path / f"{name}.jsonl")) == expected
