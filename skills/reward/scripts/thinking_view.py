"""What of the thinking in a conversation reaches a reward model through its tokenizer's chat template.

Renders one conversation for each way that thinking is written down, with the very functions that the scripts use.
"""

import bisect
import functools
import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import render
from errors import DATA_REFUSED, ENVIRONMENT_LACKS, ToolError

THOUGHT, ANSWER, ASKED, AGAIN = "7 and 5 make 12.", "Twelve.", "What is 7 + 5?", "Are you sure?"
WRITTEN = {
    "<think> in the text": {"content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"},
    "</think> alone in the text": {"content": f"{THOUGHT}\n</think>\n\n{ANSWER}"},
    "<think> cut off": {"content": f"<think>\n{THOUGHT}"},
    "field reasoning_content": {"content": ANSWER, "reasoning_content": THOUGHT},
    "field reasoning": {"content": ANSWER, "reasoning": THOUGHT},
    "field thinking": {"content": ANSWER, "thinking": THOUGHT},
    "no thinking": {"content": ANSWER},
}


def shared_functions(*names):
    """The shared functions of the scripts, as a dict; without the packages that whole scripts need."""
    made = {"re": re, "json": json, "hashlib": hashlib, "bisect": bisect, "functools": functools}
    made |= {"NamedTuple": NamedTuple, "__name__": "shared"}
    for name in names:
        path = render.TEMPLATES / "shared" / f"{name}.py"
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), made)
    return made


def load_tokenizer(base):
    """The tokenizer of a model folder or hub id, or a ToolError."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        mend = "pip install transformers"
        raise ToolError("no transformers", "it, to read the tokenizer", mend, ENVIRONMENT_LACKS) from None
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        found = f"{base}: {str(error).strip().splitlines()[0][:200]}"
        raise ToolError(found, "a model folder or a hub id", "--model OTHER", DATA_REFUSED) from None


def look(tokenizer, template="", thinking="keep"):
    """What reaches the model: {"tags": {tag: id}, "opened_by_prompt", "erases", "rows": one for each turn and way}.

    Args:
        template: text of another chat template; empty for the tokenizer's own.
        thinking: train.thinking; with "preserve" the template is amended as train does it.
    """
    shared = shared_functions("encode", "thinking", "keep_thinking")
    own = tokenizer.chat_template
    ways = own_tags(shared["convention_of"](tokenizer)) | WRITTEN
    found = {"tags": shared["thinking_tags"](tokenizer), "opened_by_prompt": False, "erases": False, "rows": []}
    try:
        tokenizer.chat_template = template or own
        if not tokenizer.chat_template:
            return {**found, "problem": "no chat template"}
        if thinking == "preserve":
            tokenizer.chat_template = shared["keep_thinking"](tokenizer.chat_template)
        question = [{"role": "user", "content": ASKED}]
        try:
            prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
            found["opened_by_prompt"] = shared["opening_tag"](prompt) != ""
            for turn in ("last", "earlier"):
                for way, message in ways.items():
                    found["rows"].append(one_row(tokenizer, shared["as_text"], question, turn, way, message))
        except Exception as error:  # templates raise what they like
            return {**found, "problem": f"the chat template fails: {str(error)[:200]}"}
    finally:
        tokenizer.chat_template = own
    found["erases"] = any(r["reaches"] == "erased" for r in found["rows"] if r["turn"] == "last" and r["passed"])
    return found


def own_tags(convention):
    """The way of writing with the model's own tags, as in WRITTEN, where those are not <think> and need no more."""
    if not convention or "<think>" in convention.open or "assistant" in convention.markup:
        return {}
    opening, closing = (re.sub(r"\\(.)", r"\1", rule.removesuffix(r"\n?")) for rule in convention[:2])
    return {f"{opening} in the text": {"content": f"{opening}\n{THOUGHT}\n{closing}\n\n{ANSWER}"}}


def one_row(tokenizer, as_text, question, turn, way, message):
    """One way of writing thinking down in one turn. `given_alone` is what transformers and the template make of it;
    `reaches` is what the scripts get through, which hand thinking over under every name that templates know."""
    after = [] if turn == "last" else [{"role": "user", "content": AGAIN}, {"role": "assistant", "content": "Yes."}]
    said = {"role": "assistant", **message}
    given = {k: v for k, v in said.items() if k in ("role", "content")}
    thought = next((message[k] for k in ("reasoning_content", "reasoning", "thinking") if k in message), None)
    text = as_text([*question, given | ({"thinking": thought} if thought else {}), *after], tokenizer)
    raw = tokenizer.apply_chat_template([*question, said, *after], tokenize=False)

    def turn_of(rendered):
        return rendered[rendered.index(ASKED) + len(ASKED) : rendered.index(AGAIN) if after else len(rendered)]

    def verdict(rendered):
        if way == "no thinking":
            return "empty block added" if re.search(r"<think>\s*</think>", rendered) else "as it is"
        if THOUGHT not in rendered:
            return "erased"
        behind = re.search(r"<think>\s*</think>", rendered[: rendered.index(THOUGHT)])
        return "kept, behind an empty block" if behind else "kept"

    reads, reaches = verdict(turn_of(raw)), verdict(turn_of(text))
    row = {"turn": turn, "written": way, "given_alone": reads, "reaches": reaches, "passed": way != "no thinking"}
    return row | {"given": json.dumps(message, ensure_ascii=False), "rendered": turn_of(text)}


def of_recipe(folder, train):
    """look() for the model and template that a recipe trains with, or {"problem": …} where they cannot be read."""
    local = Path(folder) / train.model
    try:
        tokenizer = load_tokenizer(str(local) if local.is_dir() else train.model)
        template = (Path(folder) / train.chat_template).read_text(encoding="utf-8") if train.chat_template else ""
        return look(tokenizer, template, train.thinking)
    except (ToolError, OSError, UnicodeError) as error:
        return {"problem": str(getattr(error, "received", error))}


def as_lines(found, short=False):
    """The findings for people: what was given and what comes out, side by side; short: one line."""
    if problem := found.get("problem"):
        return [f"thinking  not looked at: {problem}"]
    tags = ", ".join(f"{tag} = {i}" for tag, i in found["tags"].items()) or "no tags of one token"
    opened = "; the prompt ends with the opening tag" if found["opened_by_prompt"] else ""
    lost = {row["written"].split()[0] for row in found["rows"] if row["turn"] == "last" and row["reaches"] == "erased"}
    text, field = ("deleted" if names else "kept" for names in (lost - {"field"}, lost & {"field"}))
    fate = (
        f'{text} in the text, {field} in a field of its own; train.thinking = "preserve" keeps both' if lost else "kept"
    )
    lines = [f"thinking  {tags}{opened}; by the chat template: {fate}"]
    if not short:
        lines.append(
            f"          {'turn':8}{'written as':32}{'given as it is':29}{'in the scripts':29}the model then reads"
        )
        for row in found["rows"]:
            cells = f"{row['turn']:8}{row['written']:32}{row['given_alone']:29}{row['reaches']:29}"
            lines.append(f"          {cells}{row['rendered']!r}")
    return [line.replace(os.linesep, " ") for line in lines]
