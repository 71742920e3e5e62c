"""What training promises: one score wherever it is computed, exact accuracy, resume to the last bit, nothing silent.

Whole trainings run as users run them, in processes of their own. Everything after them (evaluating, scoring, resuming
a copy, refusals) runs the same golden scripts inside this process, which is a fresh one to the models it loads.
"""

import functools
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, python, read_jsonl, write_jsonl

GOLDEN = ROOT / "tests" / "golden"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
os.environ.update(ENVIRONMENT | ONE_THREAD)  # before anything here imports torch
SCRIPTS = {"full": "train", "lora": "train_lora", "qlora": "train_qlora"}
METHODS = list(SCRIPTS)
CLOSE = 1e-5
WORDS = "--batch-size 8 --batch-tokens 300 --max-steps 30 --eval-steps 5 --learning-rate 1e-3".split()
STRIPPING = (  # deletes everything up to </think>, as the templates of DeepSeek-R1's distillations do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
)


@functools.cache
def golden(name):
    """A golden script as a module."""
    spec = importlib.util.spec_from_file_location(f"golden_{name}", GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import torch

    torch.set_num_threads(1)
    return module


def call(name, *words):
    """Run a golden script inside this process."""
    module = golden(name)
    module.main(module.parameters([str(word) for word in words]))


def refused(capsys, name, *words):
    """Run a golden script that must stop with exit code 3; its message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(name, *words)
    told = capsys.readouterr().err
    assert stop.value.code == 3, told
    assert "expected:" in told and "try:" in told, told
    return told


def read_json(path):
    return json.loads(Path(path).read_text())


def pairs_of(path):
    from pyarrow.parquet import read_table

    return read_table(path).to_pylist()


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(next(Path(folder).glob("*model.safetensors")))


def assert_same_weights(folder, other):
    import torch

    a, b = weights_of(folder), weights_of(other)
    assert a.keys() == b.keys()
    differing = {name: (a[name] - b[name]).abs().max().item() for name in a if not torch.equal(a[name], b[name])}
    assert not differing


def same(some, others):
    assert len(some) == len(others)
    assert max(abs(a - b) for a, b in zip(some, others)) < CLOSE


def copied(folder, new):
    return Path(shutil.copytree(folder, new))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def words_of(base, pairs, home):
    """The words of one training, with its model at home/OUT."""

    def words(out, *more):
        return [*WORDS, "--model", base, "--data", pairs, "--out", home / out, *more]

    return words


@pytest.fixture(scope="module")
def killed(words_of, home):
    """method -> checkpoints of a training that was killed with SIGKILL once it had two of them."""

    def kill(method):
        command = [sys.executable, GOLDEN / f"{SCRIPTS[method]}.py", *words_of(f"{method}-killed")]
        with open(home / f"{method}.log", "w") as log:
            process = subprocess.Popen(map(str, command), stdout=log, stderr=log, env={**ENVIRONMENT, **ONE_THREAD})
        checkpoints = home / f"{method}-killed-checkpoints"
        while process.poll() is None and not [*checkpoints.glob("*/checkpoint-10/complete.json")]:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (home / f"{method}.log").read_text()
        assert not (home / f"{method}-killed").exists() and not [*checkpoints.glob("*/checkpoint-30")]
        return copied(checkpoints, home / f"{method}-as-killed")

    return kill


@pytest.fixture(scope="module")
def trained(words_of, killed, home):
    """home, after uninterrupted trainings to full, lora and qlora, and killed and resumed ones to full-killed and
    lora-killed. Two at a time."""

    def train(method, out):
        merge = [] if method == "full" else ["--merge"]
        return python(GOLDEN / f"{SCRIPTS[method]}.py", *words_of(out, *merge), cwd=home, env=ONE_THREAD)

    def kill_and_resume(method):
        killed(method)
        told = train(method, f"{method}-killed").stdout
        assert int(re.search(r"step (\d+)/30", told)[1]) > 10, told

    with ThreadPoolExecutor(2) as two:
        jobs = [two.submit(kill_and_resume, method) for method in ("full", "lora")]
        jobs += [two.submit(train, method, method) for method in METHODS]
        for job in jobs:
            job.result()
    return home


@pytest.fixture(scope="module")
def evaluated(trained, pairs):
    """method -> (metrics, scores of the chosen answers and then of the rejected ones), by evaluate.py."""

    @functools.cache
    def evaluate(method, *more):
        out = trained / "-".join(["eval", method, *more])
        call("evaluate", "--model", trained / method, "--data", pairs / "eval.parquet", "--out", out, *more)
        rows = read_jsonl(out / "scores.jsonl")
        return read_json(out / "metrics.json"), [row[side] for side in ("chosen", "rejected") for row in rows]

    return evaluate


@pytest.fixture(scope="module")
def conversations(pairs):
    """Every held-out conversation: with the chosen answers, then with the rejected ones."""
    return [pair["prompt"] + pair[side] for side in ("chosen", "rejected") for pair in pairs_of(pairs / "eval.parquet")]


def score(model, conversations):
    """Scores by score.py of conversations written as prompt/response rows."""
    rows = [{"prompt": said[:-1], "response": said[-1]["content"]} for said in conversations]
    data = write_jsonl(model / "responses.jsonl", rows)
    call("score", "--model", model, "--data", data, "--out", model / "scores.jsonl")
    return [row["score"] for row in read_jsonl(model / "scores.jsonl")]


# ---- One score everywhere --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_evaluate_and_score_agree(method, trained, evaluated, conversations):
    reward = read_json(trained / method / "reward.json")
    metrics, scores = evaluated(method)
    assert max(scores) - min(scores) > 1
    same(score(trained / method, conversations), scores)
    probes = reward["probes"]
    same(score(trained / method, [probe["messages"] for probe in probes]), [probe["score"] for probe in probes])
    assert reward["metrics"]["eval_accuracy"] == metrics["accuracy"]
    same([reward["metrics"][f"eval_{name}"] for name in ("loss", "margin")], [metrics["loss"], metrics["margin"]])


@pytest.mark.parametrize("method", METHODS)
def test_plain_transformers_and_peft_agree(method, base, trained, evaluated, conversations):
    """The files alone carry the model: no code of ours, one conversation at a time, no padding."""
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

    folder, reward = trained / method, read_json(trained / method / "reward.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"num_labels": 1, "dtype": torch.float32}
    if reward["quantization"]:
        options["quantization_config"] = BitsAndBytesConfig(**reward["quantization"])
    source = folder if method == "full" else base
    model = AutoModelForSequenceClassification.from_pretrained(source, **options)
    if method == "qlora":
        model = model.dequantize()
    if method != "full":
        model = peft.PeftModel.from_pretrained(model, folder)
    model.eval()
    with torch.inference_mode():
        texts = [tokenizer.apply_chat_template(said, tokenize=False) for said in conversations]
        batches = [tokenizer(text, add_special_tokens=False, return_tensors="pt") for text in texts]
        scores = [model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits.item() for b in batches]
    same(scores, evaluated(method)[1])


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_merged_model_agrees(method, trained, evaluated, conversations):
    merged = trained / method / "merged"
    assert read_json(merged / "config.json")["architectures"] == ["Qwen3ForSequenceClassification"]
    assert not list(merged.glob("adapter*"))
    same(score(merged, conversations), evaluated(method)[1])


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapter_holds_the_trained_head(method, trained):
    heads = {name: weight for name, weight in weights_of(trained / method).items() if "score" in name}
    (head,) = heads.values()
    merged = weights_of(trained / method / "merged")["score.weight"]
    assert head.shape == (1, 64) and (head == merged).all()
    assert read_json(trained / method / "adapter_config.json")["task_type"] == "SEQ_CLS"


# ---- Nothing scores with a head that was not trained -----------------------------------------------------------------


def drop_head(folder, new):
    """A copy of a model whose files lack the head."""
    from safetensors.torch import save_file

    file = next(copied(folder, new).glob("*model.safetensors"))
    save_file({k: v for k, v in weights_of(new).items() if "score" not in k}, file, {"format": "pt"})
    return new


@pytest.mark.parametrize("name", ["evaluate", "score"])
def test_causal_language_model_is_refused(name, base, pairs, tmp_path, capsys):
    told = refused(capsys, name, "--model", base, "--data", pairs / "eval.parquet", "--out", tmp_path / "out")
    assert "Qwen3ForCausalLM" in told and "random head" in told


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("with_reward_json", [True, False])
def test_lost_head_is_refused(method, with_reward_json, trained, pairs, tmp_path, capsys):
    model = drop_head(trained / method, tmp_path / "model")
    if not with_reward_json:
        (model / "reward.json").unlink()
    told = refused(capsys, "evaluate", "--model", model, "--data", pairs / "eval.parquet", "--out", tmp_path / "out")
    assert "score.weight" in told


def test_missing_reward_model_is_refused(pairs, tmp_path, capsys):
    told = refused(capsys, "evaluate", "--model", tmp_path / "no", "--data", pairs / "eval.parquet")
    assert str(tmp_path / "no") in told


# ---- The probes replay -----------------------------------------------------------------------------------------------


def test_changed_weight_is_refused(trained, pairs, tmp_path, capsys):
    from safetensors.torch import save_file

    model = copied(trained / "full", tmp_path / "model")
    weights = weights_of(model)
    weights["model.norm.weight"][0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "probes" in refused(capsys, "evaluate", "--model", model, "--data", pairs / "eval.parquet")


@pytest.mark.parametrize("method", METHODS)
def test_changed_template_is_refused(method, trained, pairs, tmp_path, capsys):
    model = copied(trained / method, tmp_path / "model")
    file = model / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_end|>\n", "<|im_end|>"))
    assert "probes" in refused(capsys, "evaluate", "--model", model, "--data", pairs / "eval.parquet")


def test_model_without_reward_json_only_warns(trained, evaluated, pairs, tmp_path, capsys):
    model = copied(trained / "full", tmp_path / "model")
    (model / "reward.json").unlink()
    call("evaluate", "--model", model, "--data", pairs / "eval.parquet", "--out", tmp_path / "out")
    assert re.search("warning: .*no reward.json.*unchecked", capsys.readouterr().err)
    assert read_json(tmp_path / "out" / "metrics.json")["accuracy"] == evaluated("full")[0]["accuracy"]


# ---- Killed and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_training_ends_with_the_same_weights(method, trained):
    assert_same_weights(trained / method, trained / f"{method}-killed")
    results = [read_json(trained / name / "reward.json") for name in (method, f"{method}-killed")]
    assert results[0]["probes"] == results[1]["probes"]
    assert results[0]["metrics"]["eval_loss"] == results[1]["metrics"]["eval_loss"]


@pytest.mark.parametrize(
    "method, name", [("full", "model.safetensors"), ("full", "complete.json"), ("lora", "optimizer.pt")]
)
def test_truncated_newest_checkpoint_is_skipped(method, name, trained, words_of, capsys):
    out = f"{method}-{name}"
    checkpoints = copied(trained / f"{method}-as-killed", trained / f"{out}-checkpoints")
    whole = [folder for folder in checkpoints.glob("*/checkpoint-*") if (folder / "complete.json").exists()]
    newest = max(whole, key=lambda folder: int(folder.name.split("-")[1]))
    os.truncate(newest / name, (newest / name).stat().st_size // 2)
    call(SCRIPTS[method], *words_of(out))
    assert f"skipping {newest}" in capsys.readouterr().out
    assert_same_weights(trained / method, trained / out)


@pytest.mark.parametrize("method", METHODS)
def test_killed_after_the_last_checkpoint(method, trained, words_of, capsys):
    """The model was not written yet, all steps were taken: nothing is trained again, the same model comes out."""
    out = f"{method}-last"
    copied(trained / f"{method}-checkpoints", trained / f"{out}-checkpoints")
    call(SCRIPTS[method], *words_of(out))
    assert "step " not in capsys.readouterr().out
    assert_same_weights(trained / method, trained / out)
    results = [read_json(trained / name / "reward.json") for name in (method, out)]
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.mark.parametrize("option", [["--keep-best"], ["--patience", "1"]], ids=" ".join)
def test_best_model_comes_out_again(option, trained, words_of, capsys):
    """Killed after the last checkpoint, a run that keeps its best model still writes that one, not the last."""
    words = [*option, "--learning-rate", "3e-2"]
    call("train", *words_of(f"best{option[0]}", *words))
    history = read_json(trained / f"best{option[0]}" / "history.json")
    accuracies = [log["eval_accuracy"] for log in history if "eval_accuracy" in log]
    assert accuracies[-1] == max(accuracies) > accuracies[-2], "the last figure is that of the best model, loaded again"
    again = f"best{option[0]}-again"
    copied(trained / f"best{option[0]}-checkpoints", trained / f"{again}-checkpoints")
    call("train", *words_of(again, *words))
    assert_same_weights(trained / f"best{option[0]}", trained / again)
    assert read_json(trained / again / "history.json")[-1]["step"] == history[-1]["step"], "it trained on"


def test_another_run_does_not_go_on_from_these_checkpoints(trained, words_of, pairs, tmp_path, capsys):
    """Other parameters or other data: a folder of its own, from step 1. Memory settings alone: the same run."""
    words = ["--max-steps", "2", "--eval-steps", "1"]
    call("train", *words_of("other", *words))
    data = copied(pairs, tmp_path / "data")
    report = read_json(data / "report.json")
    (data / "report.json").write_text(json.dumps(report | {"data_sha256": "0" * 64}))
    for more in (["--seed", "7"], ["--data", data]):
        capsys.readouterr()
        call("train", *words_of("other", *words, *more))
        assert "step 1/2" in capsys.readouterr().out
    assert len([*(trained / "other-checkpoints").glob("*/checkpoint-2")]) == 3
    for more in (["--batch-tokens", "64"], ["--no-packing"], ["--gradient-checkpointing"]):
        capsys.readouterr()
        call("train", *words_of("other", *words, *more))
        assert "step 1/2" not in capsys.readouterr().out


def test_no_resume_starts_anew(trained, words_of, capsys):
    words = words_of("anew", "--max-steps", "2", "--eval-steps", "1")
    call("train", *words)
    capsys.readouterr()
    call("train", *words, "--no-resume")
    assert "step 1/2" in capsys.readouterr().out


# ---- Exact accuracy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "right, wrong, ties, share, low, high",
    [  # Wilson's interval for z = 1.96, by hand: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
        (3, 1, 0, 0.75, 0.30064, 0.95441),
        (81, 19, 0, 0.81, 0.72220, 0.87485),
        (0, 0, 5, 0.5, 0.17042, 0.82958),
        (6, 3, 1, 0.65, 0.35367, 0.86307),
        (10, 0, 0, 1.0, 0.72246, 1.0),
        (0, 10, 0, 0.0, 0.0, 0.27754),
    ],
)
def test_accuracy_and_wilson_interval(right, wrong, ties, share, low, high):
    module = {"math": math}
    exec((ROOT / "skills/reward/templates/shared/accuracy.py").read_text(), module)
    found = module["accuracy"]([1.0] * right + [-1.0] * wrong + [0.0] * ties, [0.0] * (right + wrong + ties))
    assert (found["pairs"], found["ties"]) == (right + wrong + ties, ties)
    assert found["accuracy"] == pytest.approx(share)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-5)
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_accuracy_is_a_plain_count(method, trained, evaluated, pairs, capsys):
    capsys.readouterr()
    call("evaluate", "--model", trained / method, "--data", pairs / "eval.parquet", "--out", trained / "counted")
    table = capsys.readouterr().out
    rows, metrics = read_jsonl(trained / "counted" / "scores.jsonl"), read_json(trained / "counted" / "metrics.json")
    right, eval_pairs = sum(row["chosen"] > row["rejected"] for row in rows), pairs_of(pairs / "eval.parquet")
    assert len(rows) == metrics["pairs"] == len(eval_pairs)
    assert metrics["accuracy"] == right / len(rows) and metrics["ties"] == 0
    assert re.search(rf"^all +{len(rows)} +{right / len(rows):.3f} ", table, re.MULTILINE), table
    assert read_json(trained / method / "reward.json")["metrics"]["eval_accuracy"] == right / len(rows)
    for source, found in metrics["by_source"].items():
        of_source = [row for row in rows if row["source"] == source]
        assert found["accuracy"] == sum(row["chosen"] > row["rejected"] for row in of_source) / len(of_source)
    assert [row["source"] for row in rows] == [pair["source"] for pair in eval_pairs]
    longer = [len(pair["chosen"][-1]["content"]) - len(pair["rejected"][-1]["content"]) for pair in eval_pairs]
    baseline = sum((n > 0) + (n == 0) / 2 for n in longer) / len(longer)
    assert metrics["length_baseline"] == pytest.approx(max(baseline, 1 - baseline))


@pytest.mark.parametrize("method", METHODS)
def test_batch_size_changes_nothing(method, evaluated):
    (one, alone), (other, together) = (evaluated(method, "--batch-tokens", tokens) for tokens in ("64", "100000"))
    assert one["accuracy"] == other["accuracy"]
    same(alone, together)


def test_equal_scores_are_ties(trained, pairs, tmp_path):
    """A head of zeros gives every answer the same reward."""
    from safetensors.torch import save_file

    model = copied(trained / "full", tmp_path / "model")
    weights = weights_of(model)
    save_file(weights | {"score.weight": weights["score.weight"] * 0}, model / "model.safetensors", {"format": "pt"})
    (model / "reward.json").unlink()
    call("evaluate", "--model", model, "--data", pairs / "eval.parquet", "--out", tmp_path / "out")
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert metrics["ties"] == metrics["pairs"] == sum(m["ties"] for m in metrics["by_source"].values())
    assert metrics["accuracy"] == 0.5 and metrics["loss"] == pytest.approx(math.log(2))


# ---- Overlong pairs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lengths(base, pairs):
    """split -> tokens of the longer side of each pair."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)

    def longer(pair):
        texts = [tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=False) for side in SIDES]
        return max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)

    return {split: [longer(pair) for pair in pairs_of(pairs / f"{split}.parquet")] for split in ("train", "eval")}


SIDES = ("chosen", "rejected")
FEW = ["--max-steps", "2", "--eval-steps", "2"]


@pytest.mark.parametrize("overlong, counted", [("drop", "overlong"), ("truncate", "truncated")])
def test_overlong_pairs_are_counted(overlong, counted, lengths, words_of, home, pairs, capsys):
    limit = sorted(lengths["train"])[len(lengths["train"]) // 2]
    above = {split: sum(n > limit for n in lengths[split]) for split in lengths}
    assert min(above.values()) > 0
    out = home / f"overlong-{overlong}"
    call("train", *words_of(out, *FEW, "--max-length", limit, "--overlong", overlong, "--max-dropped", 1))
    told, reward = capsys.readouterr().out, read_json(out / "reward.json")
    assert reward["data"]["train"] == {counted: above["train"]}
    assert reward["data"]["eval"] == {"truncated": above["eval"]}, "held-out pairs are cut, never dropped"
    assert reward["metrics"]["eval_pairs"] == len(lengths["eval"])
    kept = len(lengths["train"]) - (above["train"] if overlong == "drop" else 0)
    assert f"train: {kept} of {len(lengths['train'])} pairs kept" in told and f"{above['train']}" in told
    call("evaluate", "--model", out, "--data", pairs / "eval.parquet", "--out", out / "eval")
    metrics = read_json(out / "eval" / "metrics.json")
    assert (metrics["truncated"], metrics["max_length"]) == (above["eval"], limit)
    same([metrics["loss"]], [reward["metrics"]["eval_loss"]])


def test_too_many_overlong_pairs_are_refused(lengths, words_of, capsys):
    limit = sorted(lengths["train"])[len(lengths["train"]) // 2]
    told = refused(capsys, "train", *words_of("refused", *FEW, "--max-length", limit))
    above = sum(n > limit for n in lengths["train"])
    assert f"{above} of {len(lengths['train'])} train pairs dropped" in told and "--max-length" in told


# ---- Thinking --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["<think>", ""], ids=["opening tag", "opening tag in the prompt"])
def thoughts(request, home):
    """Formatted pairs whose answers differ only in their thinking."""
    rows = [
        {"prompt": f"What is {n} + {n}?", "chosen": f"{n} twice.</think>{2 * n}", "rejected": f"Hm.</think>{2 * n}"}
        for n in range(60)
    ]
    opened = [row | {side: request.param + row[side] for side in SIDES} for row in rows]
    folder = home / f"thoughts{request.param.strip('<>')}"
    data = write_jsonl(home / f"{folder.name}.jsonl", opened)
    call("format", "--data", data, "--out", folder, "--eval-fraction", 0.3)
    return folder


def test_template_that_deletes_the_thinking_is_refused(thoughts, words_of, home, capsys):
    (home / "stripping.jinja").write_text(STRIPPING)
    words = words_of("stripped", *FEW, "--data", thoughts, "--chat-template", home / "stripping.jinja")
    told = refused(capsys, "train", *words)
    assert "thinking" in told and "--chat-template" in told, told
    told = refused(capsys, "train", *words, "--thinking", "erase")
    assert "identical_after_template" in told, told


def test_template_that_keeps_the_thinking_trains(thoughts, words_of, home):
    out = home / f"kept-{thoughts.name}"
    call("train", *words_of(out, *FEW, "--data", thoughts))
    reward = read_json(out / "reward.json")
    assert reward["data"]["train"] == reward["data"]["eval"] == {}
    call("evaluate", "--model", out, "--data", thoughts / "eval.parquet", "--out", out / "eval")
    assert all(row["chosen"] != row["rejected"] for row in read_jsonl(out / "eval" / "scores.jsonl"))


# ---- Template and tokens ---------------------------------------------------------------------------------------------


def base_with(base, folder, template=None, spare=(), embedded=True, **tokens):
    """A copy of the base model with other special tokens, more of them, and another template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copied(base, folder))
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.add_special_tokens({"additional_special_tokens": list(spare)})
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    if spare and embedded:
        model = AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(folder)
    return folder


ENDS_IN_EOS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ eos_token }}"


@pytest.mark.parametrize(
    "template, tokens, pad",
    [
        (None, {"pad_token": None, "unk_token": "<|endoftext|>"}, "<|endoftext|>"),
        (None, {"pad_token": None, "bos_token": "<|endoftext|>"}, "<|endoftext|>"),
        (None, {"pad_token": "<|im_end|>", "spare": ["<|spare_pad|>"]}, "<|spare_pad|>"),
        (ENDS_IN_EOS, {"pad_token": "<|im_end|>", "spare": ["<|reserved_0|>"]}, "<|reserved_0|>"),
        (ENDS_IN_EOS, {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<think>"}, "<think>"),
    ],
)
def test_padding_is_neither_the_end_nor_the_pooled_token(template, tokens, pad, base, tmp_path):
    module = golden("train")
    model = base_with(base, tmp_path / "base", template, **tokens)
    tokenizer = module.load_tokenizer(module.parameters(["--model", str(model)]))
    ids, _ = module.encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], tokenizer, 100)
    assert tokenizer.pad_token == pad
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, ids[-1], None)


def test_no_token_to_pad_with_is_refused(base, tmp_path, words_of, capsys):
    model = base_with(base, tmp_path / "base", pad_token="<|im_end|>")
    assert "pad" in refused(capsys, "train", *words_of("refused", "--model", model))


def test_padding_without_an_embedding_is_refused(base, tmp_path, words_of, capsys):
    """A token added to the tokenizer alone: its id lies beyond the model's embeddings."""
    model = base_with(base, tmp_path / "base", pad_token=None, spare=["<|spare_pad|>"], embedded=False)
    assert "pad" in refused(capsys, "train", *words_of(tmp_path / "model", *FEW, "--model", model))


def test_no_template_is_refused(base, tmp_path, words_of, capsys):
    model = copied(base, tmp_path / "base")
    (model / "chat_template.jinja").unlink()
    assert "--chat-template" in refused(capsys, "train", *words_of("refused", "--model", model))


def test_dated_template_is_pinned_and_padding_found(base, pairs, tmp_path, words_of):
    dated = "{% if strftime_now is defined %}Today: {{ strftime_now('%d %b %Y') }}\n{% endif %}" + ENDS_IN_EOS
    model = base_with(base, tmp_path / "base", dated, pad_token=None, unk_token="<|endoftext|>")
    out = tmp_path / "model"
    call("train", *words_of(out, *FEW, "--model", model))
    written = (out / "chat_template.jinja").read_text()
    assert "strftime_now(" not in written and "01 Jan 2025" in written
    reward = read_json(out / "reward.json")
    assert (reward["pad_token"], reward["pooled_token"]) == ("<|endoftext|>", "<|im_end|>")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out)
    assert read_json(out / "config.json")["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    call("evaluate", "--model", out, "--data", pairs / "eval.parquet", "--out", out / "eval")
    same([read_json(out / "eval" / "metrics.json")["loss"]], [reward["metrics"]["eval_loss"]])


# ---- Two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_train_the_same_model(trained, words_of):
    import torch

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [GOLDEN / "train.py", *words_of("two")]
    environment = {**ENVIRONMENT, **ONE_THREAD}
    done = subprocess.run(map(str, command), capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:6000]
    assert " x 2, float32" in done.stdout
    one, two = (read_json(trained / name / "reward.json")["metrics"] for name in ("full", "two"))
    assert one["eval_pairs"] == two["eval_pairs"]
    assert one["eval_accuracy"] == two["eval_accuracy"]
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], abs=1e-4)
    a, b = weights_of(trained / "full"), weights_of(trained / "two")
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
