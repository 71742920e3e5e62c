"""What reaches the reward model: the real chat templates that TRL ships, as they are and amended."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import thinking_view
from conftest import SKILL, python, read_jsonl, tool, write_jsonl
from test_thinking import tokenizer_with

TRL = Path(find_spec("trl").origin).parent / "chat_templates"
IMAGES = ("idefics3", "llava_next", "smolvlm")  # their messages are lists of parts, not text
TEXT_TEMPLATES = sorted(path.stem for path in TRL.glob("*.jinja") if not path.stem.startswith(IMAGES))
shared = thinking_view.shared_functions("encode", "keep_thinking", "thinking_erased")


def with_template(name):
    tokenizer = tokenizer_with(256, ["<think>", "</think>"], (TRL / f"{name}.jinja").read_text())
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return tokenizer


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_amended_template_keeps_every_thinking_as_it_is(name):
    tokenizer = with_template(name)
    tokenizer.chat_template = shared["keep_thinking"](tokenizer.chat_template)
    for message, expected in (
        ({"content": "<think>RRR</think>AAA"}, "<think>RRR</think>AAA"),
        ({"content": "AAA", "thinking": "RRR"}, "<think>\nRRR\n</think>\n\nAAA"),
        ({"content": "RRR</think>AAA"}, "<think>\nRRR</think>AAA"),
        ({"content": "<think>RRR"}, "<think>RRR"),
        ({"content": "<think></think>AAA"}, "<think></think>AAA"),
        ({"content": "<think>RRR</think>AAA `</think>` B"}, "<think>RRR</think>AAA `</think>` B"),
        ({"content": "AAA"}, "AAA"),
        ({"content": "<|channel>thought\nRRR<channel|>AAA"}, "<|channel>thought\nRRR<channel|>AAA"),
    ):
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", **message}] * 2
        if "<|channel>" in expected and "gptoss" in name:  # it raises an error about other models' tags
            continue
        text = shared["as_text"](turns, tokenizer)
        assert text.count(expected) == 2 and text.count("think>") == 2 * expected.count("think>"), text
        assert not shared["thinking_erased"](turns, tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "erased"),
    [
        ("gemma4_v5", "<|channel>thought\nRRR<channel|>AAA", True),
        ("gemma4_v5", "<think>RRR</think>AAA", False),
        ("qwen3", "<think>RRR</think>AAA", False),
        ("qwen3", "<think>RRR</think>AAA, and </think> ends BBB.", True),  # AAA
        ("deepseek_r1_distill", "<think>RRR</think>AAA", True),
        ("deepseek_r1_distill", "<think>RRR", False),
        ("llama3", "[THINK]RRR[/THINK]<b>AAA</b>", False),
    ],
)
def test_what_a_template_deletes_is_noticed(name, content, erased):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": content}]
    assert shared["thinking_erased"](turns, with_template(name)) == erased


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "phi3", "gemma3"])
def test_amended_template_leaves_the_rest_alone(name):
    tokenizer = with_template(name)
    turns = [{"role": "user", "content": "<think>Q</think>"}, {"role": "assistant", "content": "A"}]
    before = shared["as_text"](turns, tokenizer)
    tokenizer.chat_template = shared["keep_thinking"](tokenizer.chat_template)
    assert shared["as_text"](turns, tokenizer) == before


@pytest.mark.parametrize(
    ("name", "inline", "field", "nothing", "earlier"),
    [
        ("qwen3", "kept", "kept", "empty block added", "erased"),
        ("qwen3_training", "kept", "kept", "empty block added", "kept"),
        ("glm4moe", "kept", "kept", "empty block added", "erased"),
        ("nemotron_3_nano", "kept", "kept", "empty block added", "erased"),
        ("deepseek_r1_distill", "erased", "erased", "as it is", "erased"),
        ("deepseekv3", "erased", "erased", "as it is", "erased"),
        ("lfm2_2_5", "kept", "kept", "as it is", "erased"),
        ("gptoss", "kept", "kept", "as it is", "kept"),
        ("llama3", "kept", "erased", "as it is", "kept"),
        ("qwen3_8", "kept, behind an empty block", "kept", "empty block added", "kept, behind an empty block"),
        ("gemma4_v5", "kept", "kept", "as it is", "kept"),
    ],
)
def test_view_of_real_templates(name, inline, field, nothing, earlier):
    found = thinking_view.look(with_template(name))
    rows = {(row["turn"], row["written"]): row["reaches"] for row in found["rows"]}
    written = ("<think> in the text", "field thinking", "no thinking")
    assert [rows["last", way] for way in written] == [inline, field, nothing]
    assert rows["earlier", "<think> in the text"] == earlier
    own = rows.get(("last", "<|channel>thought in the text"))
    assert own == ("erased" if name == "gemma4_v5" else None)
    assert found["erases"] == ("erased" in (inline, field, own))
    assert not thinking_view.look(with_template(name), thinking="preserve")["erases"]


def test_the_field_survives_to_the_rendered_text(tmp_path):
    """A field of any name, through the format stage, to what the scripts render."""
    rows = []
    for n, name in enumerate(["reasoning_content", "reasoning", "thinking"] * 5):
        good = [{"role": "assistant", "content": f"{n}", name: f"Count to {n}."}]
        rows.append({"prompt": f"Say {n}.", "chosen": good, "rejected": [{"role": "assistant", "content": f"{n}"}]})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    golden = SKILL.parent.parent / "tests" / "golden" / "format.py"
    python(golden, "--data", "rows.jsonl", "--eval-fraction", 0.3, cwd=tmp_path)
    from pyarrow.parquet import read_table

    tokenizer = with_template("qwen3")
    pairs = [pair for side in ("train", "eval") for pair in read_table(tmp_path / f"data/{side}.parquet").to_pylist()]
    assert len(pairs) == 15 and not read_jsonl(tmp_path / "data/rejected.jsonl")
    for pair in pairs:
        n = pair["chosen"][0]["content"]
        assert f"<think>\nCount to {n}.\n</think>\n\n{n}" in shared["as_text"](
            pair["prompt"] + pair["chosen"], tokenizer
        )


def test_inspect_and_check_show_it(base, tmp_path):
    rows = [{"prompt": f"Q{n}", "chosen": f"<think>{n}</think>A", "rejected": "<think>?</think>A"} for n in range(40)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = json.loads(tool("inspect", "rows.jsonl", "--model", base, "--json", cwd=tmp_path).stdout)["thinking_view"]
    assert found["tags"] == {"<think>": 3, "</think>": 4}
    reaches = {row["written"]: row["reaches"] for row in found["rows"] if row["turn"] == "last"}
    assert reaches["<think> in the text"] == "kept" and reaches["field reasoning"] == "erased"
    assert "kept in the text, deleted in a field" in tool("inspect", "rows.jsonl", "--model", base, cwd=tmp_path).stdout
    tool("init", "rows.jsonl", "--model", base, cwd=tmp_path)
    assert 'train.thinking = "preserve"' in tool("check", cwd=tmp_path).stdout
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('# thinking = "keep"', 'thinking = "preserve"'))
    tool("render", cwd=tmp_path)
    assert "by the chat template: kept\n" in tool("check", cwd=tmp_path).stdout
