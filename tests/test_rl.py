"""Reinforcement learning: the reward is the score of the same conversation, policies learn, and hacking is noticed."""

import json
import re
import runpy
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import read_jsonl, tool, write_jsonl
from trainings import assert_same_weights, call, copied, golden, read_json, refused, same

TINY = "--num-generations 4 --prompts-per-step 2 --max-completion-length 12 --max-steps 2".split()


@pytest.fixture(scope="module")
def model(words_of, home):
    """A reward model, trained for four steps, that reads 96 tokens."""
    call("train", *words_of(home / "model", "--max-steps", 4, "--max-length", 96, "--overlong", "truncate"))
    return home / "model"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A language model whose tokenizer knows other words than the reward model's."""
    import demo

    folder = tmp_path_factory.mktemp("other") / "other"
    said = "Quick brown foxes, jumping over lazy dogs; Größe, 你好, twelve sphinxes of black quartz judging vows."
    demo.make_base(folder, [{"text": said}] * 40)
    return folder


def without_template(folder, new):
    (copied(folder, new) / "chat_template.jinja").unlink()
    return new


# ---- Two steps of every shape ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, plain",
    [("rl", False), ("rl", True), ("rl_rloo", False), ("rl_rloo", True)] + [("rl_lora", False), ("rl_qlora", False)],
)
def test_two_steps(script, plain, base, pairs, model, home, capsys):
    policy = without_template(base, home / f"plain-{script}") if plain else base
    out = home / f"policy-{script}-{plain}"
    data = pairs / "train.parquet"
    more = ["--measures", "closed=0.5", "cut_off=-2", "repetition=0"]
    call(script, "--policy", policy, "--reward-models", model, "--data", data, "--out", out, *TINY, *more)
    told, about, steps = capsys.readouterr().out, read_json(out / "policy.json"), read_jsonl(out / "history.jsonl")
    assert ("plain text" in told) == plain
    assert [step["step"] for step in steps if "reward" in step] == [1, 2] and about["steps"] == 2
    for step in steps[:2]:
        parts = {name.split("/")[1]: value for name, value in step.items() if re.fullmatch("rewards/.*/mean", name)}
        assert len(parts) == 6 and step["kl"] is not None and 0 <= step["groups_without_spread"] <= 1
        total = parts["reward_model"] + 0.5 * parts["closed"] - 2 * parts["cut_off"]
        assert step["reward"] == pytest.approx(total, abs=1e-5)
    assert about["groups"]["all"] == 4 and about["reward_models"][0]["probes"]
    assert about["completions"] == {"all": 16, "truncated": 0}
    assert (out / "curves.png").stat().st_size > 1000
    weights = "adapter_model.safetensors" if "lora" in script else "model.safetensors"
    assert (out / weights).exists() and (out / "tokenizer.json").exists()


def test_a_killed_run_goes_on_from_its_checkpoint(base, pairs, model, home, capsys):
    words = ["--policy", base, "--reward-models", model, "--data", pairs / "train.parquet", *TINY, "--save-steps", 1]
    words += ["--max-steps", 3, "--learning-rate", "1e-3"]
    call("rl", *words, "--out", home / "whole")
    (checkpoints,) = (home / "whole-checkpoints").iterdir()
    (checkpoints / "checkpoint-3" / "model.safetensors").write_bytes(b"cut off")
    first = copied(home / "whole", home / "first")
    capsys.readouterr()
    call("rl", *words, "--out", home / "whole")
    told = capsys.readouterr().out
    assert "skipping" in told and "going on from" in told and "checkpoint-2" in told and "step 1/3" not in told
    assert_same_weights(first, home / "whole")
    steps = [[log["step"] for log in read_jsonl(folder / "history.jsonl")] for folder in (first, home / "whole")]
    assert steps[0] == steps[1]


# ---- The reward is the score -----------------------------------------------------------------------------------------

ASK = [{"role": "user", "content": "How do I clean a lamp?"}]
TURNS = [{"role": "system", "content": "Be kind."}, *ASK, {"role": "assistant", "content": "Which lamp?"}]
CASES = [  # a prompt, and the answers of its group
    (ASK, ["With a dry cloth.", "<think>Water? No.</think>\n\nWith a dry cloth."]),
    ([*TURNS, {"role": "user", "content": "The old one.\n"}], ["Carefully.", ""]),
    (ASK, ["word " * 300, " leading and trailing "]),
    ([{"role": "user", "content": "Grüß mich! 你好"}], ["Schön 🙂\u200b\n\ttab", "<think>cut o"]),
    (ASK, ["Same.", "Same."]),
]


def reward_of(other, model, *words):
    """Rewards for a policy of another tokenizer, and a function: cases -> (rewards, what was logged)."""
    module = golden("rl")
    flags = ["--policy", str(other), "--reward-models", *map(str, model if isinstance(model, list) else [model])]
    args = module.parameters([*flags, "--num-generations", "2", *map(str, words)])
    tokenizer = module.load_tokenizer(args)
    rewards = module.Rewards(args, tokenizer, *module.load_reward_models(args))

    def run(cases):
        logged, said = [], [(prompt, text) for prompt, texts in cases for text in texts]
        ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for _, text in said]
        options = {"conversation": [prompt for prompt, _ in said], "gold": [None] * len(said)}
        values = rewards.reward_model(ids, **options, log_metric=lambda *pair: logged.append(pair))
        return values, dict(logged)

    return rewards, run


@pytest.fixture(scope="module")
def scores(model, home):
    """What score.py gives for CASES."""
    rows = [{"messages": [*prompt, {"role": "assistant", "content": t}]} for prompt, texts in CASES for t in texts]
    call("score", "--model", model, "--data", write_jsonl(home / "cases.jsonl", rows), "--out", home / "scores.jsonl")
    return read_jsonl(home / "scores.jsonl")


def test_rewards_are_the_scores_of_the_same_conversations(model, other, scores):
    _, run = reward_of(other, model)
    rewards, logged = run(CASES)
    same(rewards, [row["score"] for row in scores])
    assert logged["truncated"] == np.mean([row["truncated"] for row in scores]) == 0.1
    assert len({round(reward, 4) for reward in rewards}) == 9, "only the two alike score alike"
    assert logged["groups_without_spread"] == 0.2


STRICT = "{% if messages[-1].content == '' %}{{ raise_exception('an empty answer') }}{% endif %}"
ERASING = "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}"


def test_what_a_template_refuses_or_deletes_is_told_and_ends_no_training(model, other, home):
    strict = copied(model, home / "strict")
    (strict / "reward.json").write_text(json.dumps({"max_length": 96}))
    (strict / "chat_template.jinja").write_text(STRICT + ERASING)
    _, run = reward_of(other, strict)
    rewards, logged = run(CASES)
    assert rewards[3] == rewards[2], "an answer that cannot be scored is the worst of its group"
    assert np.isfinite(rewards).all() and logged["unscored"] == 0.1 and logged["thinking_unseen"] == 0.1
    whole, logged = run([(ASK, ["", ""])])
    assert whole == [0, 0] and logged["unscored"] == logged["groups_without_spread"] == 1, (
        "of such a group nothing is learnt"
    )


def test_saved_scaling_and_ensembles(model, other, scores, home):
    raw = [row["score"] for row in scores]
    models = []
    for name, reference, scale in (("one", 0.5, 2.0), ("two", 1.5, 0.5)):
        scaling = {"method": "zscore", "shape": "linear", "references": [reference], "scale": scale}
        models.append(copied(model, home / name))
        about = read_json(model / "reward.json") | {"scaling": scaling}
        (home / name / "reward.json").write_text(json.dumps(about))
    parts = np.array([(np.array(raw) - 0.5) / 2, (np.array(raw) - 1.5) / 0.5])
    combined = {
        ("--weights", "3", "1"): (3 * parts[0] + parts[1]) / 4,
        ("--combine", "min"): parts.min(0),
        ("--combine", "uncertainty"): parts.mean(0) - 0.5 * parts.var(0),
    }
    for words, expected in combined.items():
        rewards, logged = reward_of(other, models, *words)[1](CASES)
        assert rewards == pytest.approx(expected.tolist(), abs=1e-4)
        assert logged["reward_models/0_one"] == pytest.approx(parts[0].mean(), abs=1e-4)
        assert logged["reward_models/1_two"] == pytest.approx(parts[1].mean(), abs=1e-4)


def test_thinking_reaches_the_reward_model_as_told(model, other):
    rewards, run = reward_of(other, model, "--no-score-thinking")
    thought = [(ASK, ["<think>Water? No.</think>With a dry cloth.", "<think>Or not.</think>\nWith a dry cloth."])]
    values, _ = run(thought)
    assert values[0] == values[1] == pytest.approx(run([(ASK, ["With a dry cloth."] * 2)])[0][0], abs=1e-5)
    tokenizer = rewards.texts.tokenizer
    texts = ["<think>a</think>b", "<think>a", "b", "<think></think>b", "<think>a</think>"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "ab", "TRL's own text would lose the tags"
    assert [rewards.texts.message(*one)["content"] for one in rewards.texts.read(ids)] == texts
    assert rewards.functions[1].__name__ == "closed" and rewards.functions[1](ids) == [1, 0, 0, 0, 0]
    given = {"completions": texts, "trainer_state": None, "prompts": ["Q <think>\n"] * 5}  # the last says so for itself
    assert rewards.functions[1](completion_ids=[tokenizer("a</think>b")["input_ids"]] * 5, **given) == [1] * 5


# ---- Learning, and hacking -------------------------------------------------------------------------------------------


def make_taste(folder, base, gain):
    """A reward model made by hand: `gain` times the share of tokens with an "e" in them, among all up to the last."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(base)
    sizes = {
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 4,
    }
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_hidden_layers=1, pad_token_id=tokenizer.pad_token_id, num_labels=1, **sizes
    )
    model = Qwen3ForSequenceClassification(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        liked = ["e" in tokenizer.decode([i]) for i in range(len(tokenizer))]
        model.model.embed_tokens.weight[:, 0] = torch.tensor([2.0 if like else 0.0 for like in liked])
        model.model.embed_tokens.weight[:, 1] = 1.0
        layer = model.model.layers[0].self_attn  # queries of 0: the mean over all tokens
        layer.v_proj.weight[0, 0] = layer.o_proj.weight[2, 0] = 1.0
        model.score.weight[0, 2] = gain
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tastes(base, home):
    return make_taste(home / "likes", base, 4.0), make_taste(home / "dislikes", base, -4.0)


@pytest.fixture(scope="module")
def learned(base, pairs, tastes, home):
    """A policy trained for seconds to say "e", with a gold model that dislikes it and stops the run; its words."""
    likes, dislikes = tastes
    words = ["--policy", base, "--reward-models", likes, "--gold", dislikes, "--data", pairs / "train.parquet"]
    words += "--num-generations 8 --prompts-per-step 4 --micro-batch 32 --max-completion-length 12".split()
    words += "--learning-rate 1e-2 --beta 0.001 --max-steps 40 --stop-when gold=3".split()
    call("rl", *words, "--out", home / "learned")
    return home / "learned", words


def test_training_raises_the_held_out_reward(base, pairs, tastes, learned, home):
    learned, _ = learned
    import torch
    from pyarrow.parquet import read_table
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def rewards(policy):
        torch.manual_seed(0)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
        rows = []
        for row in read_table(pairs / "eval.parquet").to_pylist()[:12]:
            prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            ids = tokenizer(prompt, return_tensors="pt")
            options = {"do_sample": True, "max_new_tokens": 12, "num_return_sequences": 4}
            said = model.generate(**ids, **options)[:, ids["input_ids"].shape[1] :]
            rows.append({"prompt": row["prompt"], "responses": tokenizer.batch_decode(said, skip_special_tokens=True)})
        data = write_jsonl(home / "held-out.jsonl", rows)
        call("score", "--model", tastes[0], "--data", data, "--out", home / "held-out-scores.jsonl")
        return np.array([row["score"] for row in read_jsonl(home / "held-out-scores.jsonl")])

    before, after = rewards(base), rewards(learned)
    assert after.mean() - before.mean() > 2 * before.std(), (before.mean(), after.mean(), before.std())
    assert (after.mean(1) > before.mean(1)).all(), "on every held-out prompt"


def test_hacking_is_said_and_stops_the_run(learned, capsys):
    learned, words = learned
    about, history = read_json(learned / "policy.json"), read_jsonl(learned / "history.jsonl")
    stopped = about["stopped"]
    assert stopped["event"] == "gold" and stopped["value"] > 3 and about["steps"] == stopped["step"] < 40
    assert stopped in history and "gold falls" in stopped["words"]
    assert {"agreement", "kl"} <= {event["event"] for event in about["events"]}
    steps = [log for log in history if "reward" in log]
    assert steps[-1]["reward"] > steps[0]["reward"] and steps[-1]["gold/mean"] < steps[0]["gold/mean"]
    assert steps[0]["gold/agreement"] < 0.5 and steps[0]["gold/best_of_group"] < steps[0]["gold/mean"]
    call("rl", *words, "--out", learned)
    assert read_json(learned / "policy.json")["stopped"] == stopped, "stopped is stopped, when it is run again"
    call("rl", *words, "--stop-when", "gold=3.3", "--out", learned)
    assert "going on from" in capsys.readouterr().out
    assert read_json(learned / "policy.json")["steps"] > about["steps"], "another limit, and it goes on"


QUIET = {"reward": 1.0, "completions/mean_length": 50, "kl": 0.01, "groups_without_spread": 0.1, "truncated": 0.0}
QUIET |= {"completions/clipped_ratio": 0.1, "rewards/repetition_penalty_reward/mean": -0.05}
QUIET |= {"gold/agreement": 0.8, "gold/mean": 0.0, "gold/std": 1.0}


@pytest.mark.parametrize(
    "signal, later",
    [
        ("length", {"completions/mean_length": 120}),
        ("length", {"completions/mean_length": 20}),
        ("spread", {"groups_without_spread": 0.8}),
        ("kl", {"kl": 0.9}),
        ("repetition", {"rewards/repetition_penalty_reward/mean": -0.6}),
        ("unfinished", {"completions/clipped_ratio": 0.9}),
        ("truncated", {"truncated": 0.5}),
        ("unseen", {"thinking_unseen": 0.2}),
        ("unscored", {"unscored": 0.1}),
        ("agreement", {"gold/agreement": 0.55}),
        ("gold", {"reward": 2.0, "gold/mean": -1.0}),
    ],
)
def test_each_signal_is_an_event_once_and_only_where_it_should(signal, later, tmp_path):
    module = golden("rl")
    history = [{"step": n + 1, **QUIET, **(later if n >= 12 else {})} for n in range(24)]
    events = [event for n in range(24) for event in module.new_events(history[: n + 1], {})]
    assert [event["event"] for event in events] == [signal], events
    assert 13 <= events[0]["step"] <= 17 and events[0]["value"] > events[0]["limit"]
    assert module.signals(history[:4]) == {}, "too early to tell"
    stops = module.limits_to_stop([f"{signal}=1000"])
    assert not [event for n in range(24) for event in module.new_events(history[: n + 1], stops)]


def test_agreement_counts_pairs_within_groups():
    agreement = golden("rl").agreement
    rewards, gold = np.array([[1, 2, 3], [3, 3, 1]]), np.array([[1, 2, 3], [1, 2, 2]])
    assert agreement(rewards, gold) == pytest.approx((3 + 0.5 + 0) / 5)  # of the second group, one pair is gold's tie
    assert agreement(rewards, np.zeros((2, 3))) is None


def test_right_answers_in_the_rows_serve_as_gold(model, other):
    rewards, _ = reward_of(other, model)
    answers = {
        "It is 42.": 1,
        "It is 41.": 0,
        "420": 0,
        "42": 1,
        "42.5": 0,
        "3.42": 0,
        "-42": 0,
        "**42**": 1,
        "1,042": 0,
    }
    assert rewards.judge([], [*answers], ["42"] * len(answers)).tolist() == [*answers.values()]
    assert rewards.judge([], ["$1,042", "Yes, Bob Ray."], ["1042", "Bob Ray"]).tolist() == [1, 1]
    assert rewards.judge([], ["42", "42"], ["42", None]) is None


# ---- Prompts and refusals --------------------------------------------------------------------------------------------


def test_prompts_are_distinct_and_every_row_is_accounted_for(base, model, home, capsys):
    module = golden("rl")
    rows = [{"prompt": "One?"}, {"prompt": ASK}, {"messages": ASK}, {"prompt": "One?", "gold": 1}, {"prompt": " "}]
    rows += [
        {"prompt": [*ASK, TURNS[-1]]},
        {"question": "?"},
        {"prompt": "long " * 900},
        {"prompt": [{"role": "x"}]},
        7,
    ]
    rows.append(rows[7])
    data = write_jsonl(home / "prompts.jsonl", rows)
    words = ["--policy", base, "--data", data, "--prompts-per-step", 2, "--max-prompt-length", 100]
    args = module.parameters([*map(str, words)])
    prompts, left_out = module.read_prompts(args, module.load_tokenizer(args), [])
    assert "1 of 3 prompts have more than 100 tokens" in capsys.readouterr().err
    assert prompts["conversation"][:] == prompts["prompt"][:] == [[{"role": "user", "content": "One?"}], ASK]
    assert left_out == {
        "same_prompt_again": 3,
        "no_question_at_the_end": 2,
        "missing_column": 1,
        "longer_than_max_prompt_length": 1,
        "unknown_role": 1,
        "not_an_object": 1,
    }


@pytest.mark.parametrize(
    "words, told",
    [
        (["--policy", "{model}"], "it writes nothing"),
        (["--policy", "nowhere/at-all"], "no policy"),
        (["--reward-models", "{base}"], "random head"),
        (["--reward-models", "{model}", "{model}", "--combine", "min"], "no common scale"),
        (["--weights", "1", "2"], "for each of 1 reward models"),
        (["--stop-when", "kl=soon"], "or kl=0.2"),
        (["--gold", "{model}"], "the gold one"),
        (["--stop-when", "length", "hubris"], "one of length"),
        (["--stop-when", "agreement"], "nothing measures that"),
        (["--stop-when", "kl", "--beta", "0"], "--beta 0.001"),
        (["--prompts-per-step", "5000"], "5000 or more"),
        (["--data", "{home}/nothing.jsonl"], "no data in"),
    ],
)
def test_refusals_teach(words, told, base, pairs, model, home, capsys):
    words = [word.format(base=base, model=model, home=home) for word in words]
    usual = ["--policy", base, "--reward-models", model, "--data", pairs / "train.parquet", "--out", home / "refused"]
    assert told in refused(capsys, "rl", *usual, *TINY, *words)
    assert not (home / "refused").exists()


def test_the_stage_comes_with_its_table_and_check_smokes_it(base, pairs, tmp_path, monkeypatch, capsys):
    import recipe
    import reward
    from stages import PIPELINE

    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "good.jsonl", [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(60)])
    tables = {"format": {"data": ["good.jsonl"]}, "train": {"model": str(base), "eval_steps": 1}}
    (tmp_path / "recipe.toml").write_text(recipe.dump(tables))
    assert reward.main(["render"]) == 0 and not (tmp_path / "run" / "rl.py").exists()
    assert "no policy" in tool("run", "rl", cwd=tmp_path, code=2).stderr
    (tmp_path / "run" / "rl.py").unlink()
    (tmp_path / "recipe.toml").write_text(recipe.dump(tables | {"rl": {"policy": str(base), "algorithm": "rloo"}}))
    ran = []

    def in_this_process(command, **_):
        if command[1:3] == ["-m", "ruff"]:
            return whole(command, **_)
        with alone:  # smoke runs two at a time, and here they share one sys.argv
            monkeypatch.setattr(sys, "argv", command[1:])
            ran.append(command[1])
            runpy.run_path(command[1], run_name="__main__")
        return subprocess.CompletedProcess(command, 0, "", "")

    whole, alone = subprocess.run, threading.Lock()
    monkeypatch.setattr(subprocess, "run", in_this_process)
    assert reward.main(["check", "--smoke", "--json"]) == 0
    assert sorted(path.rsplit("/", 1)[1] for path in ran) == sorted(f"{stage}.py" for stage in (*PIPELINE, "rl"))
    assert "RLOOTrainer" in (tmp_path / "run" / "rl.py").read_text()
