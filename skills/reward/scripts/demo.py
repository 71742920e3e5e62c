"""`reward.py demo`: the whole pipeline on data and a model made on the spot, offline, in minutes on two cores."""

import itertools
import json
import random
import sys
import time

import recipe
import render
import run
from errors import ToolError

TASKS = "clean repair store choose paint measure move sell test protect lift label".split()
THINGS = "kettle bicycle lamp piano tent carpet camera mirror ladder window guitar stove".split()
THINGS += "clock drill canoe helmet shelf radio mattress scooter easel blender gate drum".split()
ASKS = [
    "How do I {task} a {thing}?",
    "What is the best way to {task} my {thing}?",
    "Please help me {task} this {thing}.",
]
STEPS = [
    "Begin by looking at the {thing} closely.",
    "First put the {thing} on a firm table.",
    "Start with a dry {thing}.",
]
MIDDLES = [
    "Then {task} the {thing} slowly, one part at a time.",
    "Next {task} it with care and check the {thing} often.",
]
ENDS = [
    "Let the {thing} rest for an hour.",
    "Ask a friend to look it over.",
    "Write down what worked.",
    "Keep the tools near.",
]
POOR = {
    "evasive": ["I cannot say much about that.", "It depends on many factors.", "Opinions differ, so who knows."],
    "rude": ["That is a silly thing to ask.", "Only a fool would need help with this.", "Stop wasting my time."],
    "vague": ["Just do it somehow.", "Try some stuff until it is fine.", "Do whatever you like with it."],
}


def preferences(count, seed=0):
    """Rows {prompt, chosen, rejected, kind}: a careful answer to the question against a poor one, or a careful answer
    about another thing. Both answers have the same spread of lengths, so their length tells nothing."""
    rng = random.Random(seed)
    asks = list(itertools.product(TASKS, THINGS, ASKS))
    rng.shuffle(asks)
    rows = []
    for task, thing, ask in asks[:count]:
        kind = rng.choice([*POOR, "off topic"])
        other = rng.choice([t for t in THINGS if t != thing]) if kind == "off topic" else thing

        def careful(about, task=task):
            said = [rng.choice(STEPS), rng.choice(MIDDLES), *rng.sample(ENDS, rng.randint(0, 2))]
            return " ".join(said).format(task=task, thing=about)

        poor = " ".join(rng.sample(POOR.get(kind, STEPS), 3) + rng.sample(ENDS, rng.randint(0, 2)))
        rejected = careful(other) if kind == "off topic" else poor.format(thing=thing)
        rows.append(
            {"prompt": ask.format(task=task, thing=thing), "chosen": careful(thing), "rejected": rejected, "kind": kind}
        )
    return rows


def make_base(folder, rows):
    """A Qwen3-shaped language model of about 0.2M random weights, with its own tokenizer and a ChatML template."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((text for row in rows for text in row.values()), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


ROWS = 864
SETTINGS = {"epochs": 4, "batch_size": 16, "learning_rate": 2e-3, "eval_steps": 60}


def demo(folder, quiet=False):
    """Make data and a base model in FOLDER, then inspect, render and run. Returns the figures and where all lies."""
    import inspect_data

    start = time.monotonic()
    try:
        import torch  # noqa: F401
    except ImportError:
        mend = "the command that `reward.py doctor` prints"
        raise ToolError("the demo trains a model: no torch here", "the packages of the scripts", mend, 5) from None
    folder.mkdir(parents=True, exist_ok=True)
    out = sys.stderr if quiet else sys.stdout

    def say(text):
        print(text, file=out, flush=True)

    rows = preferences(ROWS)
    spoiled = [{**rows[0], "rejected": rows[0]["chosen"]}, {**rows[1], "chosen": " "}]  # two rows that must be caught
    text = "".join(json.dumps(row) + "\n" for row in rows + spoiled)
    render.write(folder / "preferences.jsonl", text)
    if not (folder / "base").exists():
        make_base(folder / "base", rows)
    answers = [{"prompt": r["prompt"], "responses": [r["chosen"], r["rejected"]]} for r in preferences(ROWS)[:5]]
    render.write(folder / "responses.jsonl", "".join(json.dumps(row) + "\n" for row in answers))
    found = inspect_data.inspect([str(folder / "preferences.jsonl")], {"source": "kind"})
    say(inspect_data.as_text(found) + "\n")
    tables = {
        "format": {"data": ["preferences.jsonl"], "kind": "pairs", "source": "kind", "eval_fraction": 0.2},
        "train": {"model": "base", **SETTINGS},
        "evaluate": {},
        "score": {"data": ["responses.jsonl"]},
    }
    render.write(folder / "recipe.toml", recipe.dump(tables))
    run.write_scripts(folder, recipe.load(folder / "recipe.toml"), force=True)
    run.run(folder, recipe.load(folder / "recipe.toml"), quiet=quiet, say=say)
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    names = ["recipe.toml", "run/format.py", "run/train.py", "run/evaluate.py", "run/score.py", "data/report.json"]
    names += ["data/rejected.jsonl", "model/reward.json", "eval/metrics.json", "scores.jsonl"]
    return {
        "eval_accuracy": metrics["accuracy"],
        "interval": [metrics["low"], metrics["high"]],
        "length_baseline": metrics["length_baseline"],
        "pairs": metrics["pairs"],
        "seconds": round(time.monotonic() - start, 1),
        "artefacts": {name: str((folder / name).resolve()) for name in names},
    }


def as_text(found, command):
    """The end of the demo for people: figures, files, what to type next."""
    low, high = found["interval"]
    lines = [
        "",
        f"held-out accuracy  {found['eval_accuracy']:.3f}  [{low:.3f}, {high:.3f}] on {found['pairs']} pairs",
        f"length alone       {found['length_baseline']:.3f}",
        f"seconds            {found['seconds']}",
        "",
        *(f"{name:20} {path}" for name, path in found["artefacts"].items()),
        "",
        "Now with your own data:",
        f"  {command} init YOUR_DATA --model Qwen/Qwen3-0.6B",
        f"  {command} render && {command} check --smoke && {command} run",
    ]
    return "\n".join(lines)
