"""From pairs to token ids: what is cut, dropped or refused, thinking that templates delete, padding, pinned dates."""

import pytest
from conftest import read_jsonl, write_jsonl
from trainings import call, copied, golden, pairs_of, read_json, refused, same

STRIPPING = (  # deletes everything up to </think>, as the templates of DeepSeek-R1's distillations do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
)


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


@pytest.mark.parametrize(
    "template, told",
    [
        ("{% for m in messages %}{{ m.content }", "unexpected '}'"),
        (
            "{{ messages[0].content }}{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}",
            "one turn",
        ),
        ("{# nothing #}", "template.jinja"),
    ],
)
def test_a_template_that_fails_is_refused_before_training(template, told, tmp_path, words_of, capsys):
    """The probes show it, with several turns, thinking and more languages than one."""
    file = tmp_path / "template.jinja"
    file.write_text(template)
    assert told in refused(capsys, "train", *words_of("refused", "--chat-template", file))


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
