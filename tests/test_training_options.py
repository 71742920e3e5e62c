"""What training can be told: other losses, more evaluation sets, faster forwards, several processes, where to log."""

import json
import math
import os
import subprocess
import sys
import types
from types import SimpleNamespace

import pytest
import recipe
import torch
from conftest import ENVIRONMENT, SHARED, python
from errors import ToolError
from stages import STAGES
from test_packing import ids_of, make_model, make_rows
from trainings import GOLDEN, ONE_THREAD, call, copied, golden, pairs_of, read_json, refused, weights_of

QUICK = "--batch-size 8 --batch-tokens 600 --max-steps 4 --eval-steps 2 --learning-rate 1e-3".split()


def write_pairs(folder, train, held_out, **report):
    """A folder as format.py writes it."""
    import pyarrow
    from pyarrow.parquet import write_table

    folder.mkdir()
    for split, rows in (("train", train), ("eval", held_out)):
        write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
    (folder / "report.json").write_text(json.dumps({"data_sha256": "0" * 64, **report}))
    return folder


@pytest.fixture(scope="module")
def rated(pairs, tmp_path_factory):
    """Pairs of three rated answers a prompt, the two worse ones of equal rating for every third prompt."""

    def ranked(rows):
        for number, row in enumerate(rows):
            other = [{"role": "assistant", "content": "I would rather not say."}]
            answers = [(row["chosen"], 5.0), (row["rejected"], 2.0), (other, 2.0 if number % 3 else 1.0)]
            for better, worse in ((0, 1), (0, 2), (1, 2)):
                (chosen, high), (rejected, low) = answers[better], answers[worse]
                yield row | {
                    "chosen": chosen,
                    "rejected": rejected,
                    "margin": high - low,
                    "tie": high == low,
                    "chosen_rating": high,
                    "rejected_rating": low,
                    "chosen_attributes": [high, -high / 2],
                    "rejected_attributes": [low, -low / 2],
                }

    rows = [list(ranked(pairs_of(pairs / f"{split}.parquet"))) for split in ("train", "eval")]
    return write_pairs(tmp_path_factory.mktemp("rated") / "data", *rows, attributes=["good", "short"])


@pytest.fixture(scope="module")
def train(base, rated, tmp_path_factory):
    """Train quickly inside this process; the folder of the model."""

    def train(name, *more, data=rated):
        out = tmp_path_factory.mktemp(name) / "model"
        call(name, *QUICK, "--model", base, "--data", data, "--out", out, *more)
        return out

    return train


# ---- Losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["scaled", "ties", "listwise"])
def test_loss_trains_on_rated_answers(loss, train, rated):
    model = train(f"train_{loss}")
    reward, history = read_json(model / "reward.json"), read_json(model / "history.json")
    ties = [sum(row["tie"] for row in pairs_of(rated / f"{split}.parquet")) for split in ("train", "eval")]
    assert reward["data"]["eval"]["tie"] == ties[1], "the held-out metric is pair accuracy, without ties"
    assert reward["data"]["train"].get("tie", 0) == (ties[0] if loss == "scaled" else 0)
    assert reward["metrics"]["eval_pairs"] == len(pairs_of(rated / "eval.parquet")) - ties[1]
    losses = [log["loss"] for log in history if "loss" in log]
    assert losses[-1] < losses[0] and reward["metrics"]["eval_accuracy"] > 0.6
    if loss == "listwise":  # log k! at equal rewards: of three answers, or of the best among two equals
        assert losses[0] == pytest.approx(math.log(6) / 3 + math.log(3) * 2 / 3, abs=0.25)


@pytest.mark.parametrize("words", [[], ["--attribute-weights", "good=1", "short=-0.5"]], ids=["ratings", "attributes"])
def test_attribute_heads_fold_into_one(words, train):
    from safetensors.torch import load_file

    model = train("train_regression", *words)
    found = read_json(model / "reward.json")["attributes"]
    assert found["names"] == (["good", "short"] if words else ["rating"])
    assert found["weights"] == ([1.0, -0.5] if words else [1.0])
    assert 2.0 < found["means"][0] < 4.0 and found["deviations"][0] > 1
    attributes, one = load_file(model / "attribute_head.safetensors")["weight"], weights_of(model)["score.weight"]
    scale = torch.tensor(found["weights"]) * torch.tensor(found["deviations"])
    assert attributes.shape == (len(found["names"]), 64) and one.shape == (1, 64)
    assert torch.allclose(scale @ attributes, one[0], rtol=1e-5, atol=1e-7)
    assert list(read_json(model / "config.json").get("id2label", {0: ""})) in (["0"], [0])
    metrics = read_json(model / "reward.json")["metrics"]
    assert metrics["eval_accuracy"] > 0.6
    held_out = evaluate(model, model.parent.parent)  # as every consumer loads it
    assert held_out["accuracy"] == pytest.approx(metrics["eval_accuracy"], abs=1e-6)
    assert held_out["interval"] == "bootstrap over prompts", "each prompt has three pairs"
    same_interval(metrics, "eval", held_out)


def same_interval(metrics, prefix, found):
    """What train and evaluate say of the same pairs."""
    assert [metrics[f"{prefix}_{name}"] for name in ("low", "high", "prompts")] == [
        pytest.approx(found[name], abs=1e-9) for name in ("low", "high", "prompts")
    ]


def evaluate(model, home, data=None):
    out = model.parent / "eval"
    data = data or read_json(model / "reward.json")["parameters"]["data"] + "/eval.parquet"
    rows = [row for row in pairs_of(data) if not row.get("tie")]
    strict = write_pairs(model.parent / "strict", rows[:1], rows) / "eval.parquet"
    call("evaluate", "--model", model, "--data", strict, "--out", out)
    return read_json(out / "metrics.json")


@pytest.mark.parametrize("loss, column", [("scaled", "margin"), ("listwise", "rating"), ("regression", "rating")])
def test_pairs_without_labels_are_refused(loss, column, base, pairs, tmp_path, capsys):
    words = ["--model", base, "--data", pairs, "--out", tmp_path / "out"]
    assert f"no_{column}" in refused(capsys, f"train_{loss}", *words)


@pytest.mark.parametrize(
    "values, only",
    [
        ({"loss": "listwise", "label_smoothing": 0.1}, "margin or scaled"),
        ({"loss": "regression", "center_rewards": 0.01}, "margin or scaled or ties"),
        ({"tie_probability": 0.2}, "ties"),
        ({"attribute_weights": ["good=1"]}, "regression"),
        ({"lora_r": 64}, "lora or qlora"),
    ],
)
def test_what_the_chosen_code_does_not_read_is_refused(values, only):
    (name, value), *_ = reversed(values.items())
    with pytest.raises(ToolError) as refusal:
        recipe.validate("train", values)
    assert f"{name} only with {only}" in str(refusal.value)
    recipe.validate("train", values | {name: STAGES["train"].model_fields[name].default})


# ---- Evaluation sets -------------------------------------------------------------------------------------------------


def test_named_sets_are_exact_and_pick_the_best(train, pairs, rated):
    words = ["--eval-sets", f"easy={pairs / 'eval.parquet'}", rated / "train.parquet", "--best-set", "easy"]
    model = train("train", *words, "--keep-best", "--learning-rate", "3e-2")
    metrics, history = read_json(model / "reward.json")["metrics"], read_json(model / "history.json")
    easy = [log["eval_easy_accuracy"] for log in history if "eval_easy_accuracy" in log]
    assert metrics["eval_easy_accuracy"] == easy[-1] == max(easy), "the last figure is that of the best, loaded again"
    assert metrics["eval_train_pairs"] == sum(not row["tie"] for row in pairs_of(rated / "train.parquet"))
    alone = evaluate(model, None, pairs / "eval.parquet")
    assert metrics["eval_easy_accuracy"] == alone["accuracy"] and metrics["eval_easy_pairs"] == alone["pairs"]
    assert metrics["eval_easy_loss"] == pytest.approx(alone["loss"], abs=1e-5)
    same_interval(metrics, "eval_easy", alone)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--eval-sets", "a=no.parquet"], "no.parquet"),
        (["--eval-sets", "a b=eval.parquet"], "a b=eval.parquet"),
        (["--eval-sets", "eval.parquet", "eval=other.parquet"], "eval=other.parquet"),
        (["--best-set", "hard"], "--best-set hard"),
        (["--eval-sets", "hard=eval.parquet", "--best-set", "hard"], "--keep-best"),
    ],
)
def test_wrong_sets_are_refused(words, told, base, pairs, tmp_path, capsys):
    assert told in refused(capsys, "train", "--model", base, "--data", pairs, "--out", tmp_path / "out", *words)


# ---- What it starts from ----


def not_to_be_trained(kind, base, folder):
    """A folder with the base's tokenizer and a model that is no decoder with its weights."""
    import transformers

    if kind == "two outputs":
        made = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    else:
        size = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 300}
        made = transformers.AutoModelForCausalLM.from_config(transformers.FalconMambaConfig(**size))
    made.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    if kind == "no weights":
        next(folder.glob("*.safetensors")).unlink()
    return folder


@pytest.mark.parametrize("kind", ["two outputs", "no classifier", "no weights"])
def test_other_bases_are_refused(kind, base, pairs, tmp_path, capsys):
    model = not_to_be_trained(kind, base, tmp_path / "other")
    told = refused(capsys, "train", "--model", model, "--data", pairs, "--out", tmp_path / "out")
    assert f"{model} cannot be trained" in told


def test_one_of_several_templates(base, tmp_path):
    """Some tokenizers have one for tools beside the default."""
    from transformers import AutoTokenizer

    script, tokenizer = golden("train"), AutoTokenizer.from_pretrained(base)
    copied(base, tmp_path / "base")
    template, tokenizer.chat_template = tokenizer.chat_template, {"default": tokenizer.chat_template, "tool_use": "x"}
    tokenizer.save_pretrained(tmp_path / "base")
    args = script.parameters(["--model", str(tmp_path / "base")])
    assert script.load_tokenizer(args).chat_template == template


@pytest.mark.parametrize("script", ["train", "train_steps", "rl"])
def test_one_gpu_without_torchrun(script, monkeypatch):
    """Trainer would split and enlarge every batch over all it sees."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    golden.__wrapped__(script)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


# ---- Packed and padded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["made", *["llmbar"] * SHARED.exists()])
def test_packed_and_padded_training_agree(source, train, pairs, tmp_path):
    if source == "llmbar":
        words = "--prompt input --chosen output_1 --rejected output_2 --winner label --eval-fraction 0.4".split()
        file = SHARED / "llmbar" / "Dataset__LLMBar__Natural__dataset.json"
        python(GOLDEN / "format_choice.py", "--data", file, *words, cwd=tmp_path)
        pairs = tmp_path / "data"
    words = ["--max-length", "256", "--overlong", "truncate"]
    one, other = (
        read_json(train("train", *words, *more, data=pairs) / "reward.json") for more in ([], ["--no-packing"])
    )
    assert one["forward"][0].startswith("packed") and other["forward"][0].startswith("padded batches: packing is off")
    a, b = one["metrics"], other["metrics"]
    assert a["eval_low"] <= b["eval_accuracy"] <= a["eval_high"] and a["eval_pairs"] == b["eval_pairs"]
    assert a["eval_loss"] == pytest.approx(b["eval_loss"], rel=1e-4)


# ---- Faster forwards -------------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    """(the script, a model that packs, ids of a few pairs)."""
    script, ids = golden("train_faster"), ids_of(make_rows(3))
    model = script.keep_float32(make_model("Qwen3", "lora", head_dim=16)).eval()
    assert script.try_packing(model, ids, True, 1e-4).startswith("packed")
    return script, model, ids


def wrong_rotation(model):
    """What Liger does, gone wrong: a function of the model's file and the forward of its layers are replaced."""
    modeling = sys.modules["transformers.models.qwen3.modeling_qwen3"]
    modeling.apply_rotary_pos_emb = lambda q, k, *_, **__: (q, k)
    for module in model.modules():
        if type(module).__name__ == "Qwen3RMSNorm":
            module.forward = lambda x: x


def fails(model):
    wrong_rotation(model)
    raise ImportError("no triton here")


@pytest.mark.parametrize(
    "change, told",
    [
        (wrong_rotation, "differ by"),
        (fails, "ImportError: no triton here"),
        (lambda model: None, "there is none for this architecture"),  # Liger passes over what it does not know
    ],
)
def test_a_wrong_forward_is_undone(small, change, told):
    script, model, ids = small
    before = script.score_ids(model, ids, 1000)
    said = script.speed_up("Liger kernels", change, model, ids, 1e-4)
    assert said.startswith("no Liger kernels: ") and told in said
    assert torch.equal(script.score_ids(model.eval(), ids, 1000), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_right_forward_stays(small, monkeypatch):
    """As Liger does it: told to leave the loss of a language model alone, it binds a new forward to the norms."""
    script, model, ids = small
    before = script.score_ids(model, ids, 1000)

    def apply(model, **config):
        assert config == {"fused_linear_cross_entropy": False, "cross_entropy": False}
        for norm in (module for module in model.modules() if type(module).__name__ == "Qwen3RMSNorm"):
            norm.forward = type(norm).forward.__get__(norm)

    kernels = types.SimpleNamespace(_apply_liger_kernel_to_instance=apply)
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", kernels)
    said = script.speed_up("Liger kernels", script.use_liger, model, ids, 1e-4)
    assert said == "Liger kernels, checked against the plain model"
    assert torch.equal(script.score_ids(model.eval(), ids, 1000), before)


def test_compiled_layers_give_the_same(small, monkeypatch):
    """Without code generation, which takes a minute: what is compiled and what not, packed and padded."""
    compile_it = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **o: compile_it(self, backend="eager", **o))
    script, model, ids = small
    before = script.score_ids(model, ids, 1000)
    said = script.speed_up("compiled layers", script.use_compile, model, ids, 1e-4)
    assert said == "compiled layers, checked against the plain model"
    compiled = {type(m).__name__ for m in model.modules() if m._compiled_call_impl is not None}
    assert compiled == {"Qwen3MLP", "Qwen3RMSNorm"}
    assert torch.allclose(script.score_ids(model.eval(), ids, 1000), before, rtol=1e-5, atol=1e-6)
    script.stop_packing(model)
    assert torch.allclose(script.score_ids(model, ids, 1000), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "words, package", [(["--liger"], "liger_kernel"), (["--report-to", "trackio"], "trackio")], ids=["liger", "report"]
)
def test_missing_packages_are_refused(words, package, base, pairs, tmp_path, monkeypatch, capsys):
    script = golden("train_faster")
    there = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(script, "importlib", there)
    with pytest.raises(SystemExit) as stop:
        call("train_faster", "--model", base, "--data", pairs, "--out", tmp_path / "out", *words)
    assert stop.value.code == 5 and f"pip install {package}" in capsys.readouterr().err


# ---- The head in bfloat16 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "train_lora"])
def test_head_stays_float32_in_a_bfloat16_model(name, train, pairs):
    folder = train(name, "--max-steps", "2", data=pairs)
    model = golden("evaluate").load_reward_model(folder, "bfloat16")[0]
    (saved,) = (weight for key, weight in weights_of(folder).items() if "score" in key)
    head = golden("evaluate").reward_heads(model)[-1].weight
    assert not torch.equal(saved.bfloat16().float(), saved) and torch.equal(head, saved)
    assert {p.dtype for n, p in model.named_parameters() if "layers" in n and "lora" not in n} == {torch.bfloat16}


# ---- Two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_train_as_one(base, pairs, tmp_path):
    """17 pairs in steps of 8: in every third step one process has one pair and the other none."""
    rows = [pairs_of(pairs / f"{split}.parquet")[:many] for split, many in (("train", 17), ("eval", 9))]
    data = write_pairs(tmp_path / "data", *rows)
    words = "--batch-size 8 --batch-tokens 300 --epochs 3 --eval-steps 3 --learning-rate 1e-3".split()
    words += [
        "--model",
        base,
        "--data",
        data,
        "--eval-sets",
        f"one={copied(data, tmp_path / 'more') / 'train.parquet'}",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [GOLDEN / "train.py", *words, "--out", tmp_path / "two"]
    environment = {**ENVIRONMENT, **ONE_THREAD}
    done = subprocess.run(map(str, command), capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert " x 2, float32" in done.stdout
    call("train", *words, "--out", tmp_path / "one")
    one, two = (read_json(tmp_path / out / "history.json") for out in ("one", "two"))
    assert [log["step"] for log in one] == [log["step"] for log in two]
    names = ("loss", "accuracy", "margin", "mean_reward", "eval_loss", "eval_accuracy", "eval_one_loss", "eval_pairs")
    for a, b in zip(one, two):
        for name in set(names) & set(a):
            assert b[name] == pytest.approx(a[name], abs=1e-6), (a["step"], name)
    a, b = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)
