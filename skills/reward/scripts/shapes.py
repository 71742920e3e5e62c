"""Shapes of rows that many public sets share: what recognises one by its columns and their content.

Asked by schemas.py where no entry of its table fits. To add one, add a function under `@shape` and a row to
`tests/schema_rows_more.py`.
"""

import re

SHAPES = {}
"""Name -> function(row) that returns the mapping, a list of readings, or None where the row has another shape."""


def shape(recognise):
    """Register a shape under its name, with hyphens."""
    SHAPES[recognise.__name__.replace("_", "-")] = recognise
    return recognise


def has(row, *columns):
    return all(row.get(column) is not None for column in columns)


def is_text(*values):
    return all(isinstance(value, str) for value in values)


def is_number(*values):
    """Numbers, also as text, as the cells of a table hold them."""
    number = re.compile(r"\s*[+-]?\d+(\.\d*)?\s*")
    return all(isinstance(v, (int, float)) or is_text(v) and number.fullmatch(v) for v in values) and not any(
        isinstance(v, bool) for v in values
    )


def is_message(value):
    return isinstance(value, dict) and ("role" in value or "from" in value)


def is_messages(*values):
    return all(isinstance(value, list) and bool(value) and all(map(is_message, value)) for value in values)


ASKING = ("user", "human", "prompter", "system", "developer")


def is_answer(*values):
    """Text, one message, or messages that begin with the assistant: no prompt inside."""
    return all(
        isinstance(value, str)
        or is_message(value)
        or (is_messages(value) and str(value[0].get("role", value[0].get("from"))).lower() not in ASKING)
        for value in values
    )


def is_transcript(*values):
    return is_text(*values) and all(value.lstrip().startswith("Human:") for value in values)


def first(row, *columns):
    """The first of these columns that the row has."""
    return next((column for column in columns if has(row, column)), None)


SCORES = ("score_{}", "{}_score", "rating_{}", "{}_rating", "{}-rating", "{}-score", "score-{}")


def beside(row):
    """Parameters for columns that may stand beside chosen and rejected: their scores and a system prompt."""
    pairs = [[name.format(side) for side in ("chosen", "rejected")] for name in SCORES]
    scored = next((pair for pair in pairs if is_number(*(row.get(column) for column in pair))), None)
    return ({"ratings": scored} if scored else {}) | ({"system": "system"} if is_text(row.get("system")) else {})


@shape
def transcripts(row):
    """chosen and rejected are whole dialogues, "\\n\\nHuman: …\\n\\nAssistant: …" (Anthropic/hh-rlhf)."""
    if has(row, "chosen", "rejected") and is_transcript(row["chosen"], row["rejected"]):
        return {"kind": "transcripts"}


@shape
def sharegpt_ranking(row):
    """conversations, chosen and rejected with from/value (LLaMA-Factory)."""
    if has(row, "conversations", "chosen", "rejected") and is_messages(row["conversations"]):
        return {"kind": "pairs", "prompt": "conversations", **beside(row)}


@shape
def prompt_chosen_rejected(row):
    """A prompt beside two answers, as text or as messages (TRL, explicit prompt)."""
    prompt = first(row, "prompt", "question", "instruction", "input")
    if not prompt or not has(row, "chosen", "rejected") or has(row, "conversations"):
        return None
    answers = row["chosen"], row["rejected"]
    if is_transcript(*answers) or (is_text(row[prompt]) and is_messages(*answers) and not is_answer(*answers)):
        return None
    if any(isinstance(answer, list) and not is_messages(answer) for answer in answers):
        return None
    style = {"prompt_style": "transcript"} if is_transcript(row[prompt]) else {}
    if prompt == "instruction" and is_text(row.get("input")):
        prompt = "instruction+input"
    return {"kind": "pairs", "prompt": prompt, **style, **beside(row)}


@shape
def chosen_rejected_lists(row):
    """A prompt with several better and several worse answers (RewardBench 2, RM-Bench)."""
    prompt = first(row, "prompt", "question", "instruction", "input")
    if prompt and has(row, "chosen", "rejected") and not has(row, "conversations"):
        several = {side: isinstance(row[side], list) and not is_messages(row[side]) for side in ("chosen", "rejected")}
        named = first(row, "subset", "domain")
        source = {"source": named} if named else {}
        if any(several.values()):
            return {"kind": "pairs", "prompt": prompt, **{s: f"{s}.*" for s, more in several.items() if more}, **source}


@shape
def chosen_rejected_messages(row):
    """Two whole dialogues as messages, without a prompt or with it repeated in a column (TRL, implicit prompt)."""
    answers = row.get("chosen"), row.get("rejected")
    if is_messages(*answers) and not is_answer(*answers) and not is_messages(row.get("prompt")):
        source = {"source": "source"} if is_text(row.get("source")) else {}
        return None if has(row, "conversations") else {"kind": "pairs", "prompt": "", **beside(row), **source}


@shape
def chosen_rejected_text(row):
    """Two texts that begin alike, no prompt column (TRL, implicit prompt)."""
    if has(row, "chosen", "rejected") and not first(row, "prompt", "question", "instruction", "input", "conversations"):
        answers = row["chosen"], row["rejected"]
        if is_text(*answers) and not is_transcript(*answers):
            return {"kind": "pairs", "prompt": "", **beside(row)}


@shape
def output_1_output_2_label(row):
    """Two answers and a label 1 or 2 (LLMBar, OffsetBias)."""
    prompt = first(row, "instruction", "input", "prompt", "question")
    if prompt and has(row, "output_1", "output_2", "label") and str(row["label"]) in ("1", "2", "1.0", "2.0"):
        prompt = "instruction+input" if has(row, "instruction", "input") else prompt
        return {"kind": "choice", "prompt": prompt, "chosen": "output_1", "rejected": "output_2", "winner": "label"}


@shape
def numbered_responses_scores(row):
    """response_1, response_2, … and a list of their scores (PPE best-of-K)."""
    names = sorted((name for name in row if re.fullmatch(r"response_\d+", name)), key=lambda n: int(n.split("_")[1]))
    if has(row, "prompt", "scores") and isinstance(row["scores"], list) and len(names) == len(row["scores"]) > 1:
        return {"kind": "ratings", "responses": names, "ratings": ["scores.*"]}


@shape
def rated_list(row):
    """A prompt, a list of answers, and a list of their scores, ratings or ranks."""
    prompt = first(row, "prompt", "question", "instruction", "input")
    answers = first(row, "responses", "completions", "answers", "outputs", "candidates", "generations")
    found = []
    for name in ("scores", "ratings", "rewards", "ranks", "ranking"):
        listed = row.get(name)
        if prompt and answers and isinstance(listed, list) and isinstance(row[answers], list):
            if len(listed) == len(row[answers]) > 1 and is_number(*listed):
                best = {"best": "lowest"} if name.startswith("rank") else {}
                paths = {"responses": [f"{answers}.*"], "ratings": [f"{name}.*"]}
                found.append({"kind": "ratings", "prompt": prompt, **paths, **best})
    return found


@shape
def preference_list(row):
    """Numbered predictions and a list of preferences, one for each two: 0 none, 1 and 2 (QA-Feedback)."""
    names = sorted(name for name in row if re.fullmatch(r"prediction \d", name))
    if has(row, "question", "preference") and len(names) > 1 and isinstance(row["preference"], list):
        return {
            "kind": "choice",
            "prompt": "question",
            "responses": names,
            "winner": "preference",
            "a_wins": "1",
            "b_wins": "2",
            "ties": ["0"],
        }


@shape
def checked_solutions(row):
    """A question, and columns that each hold a solution and whether it is correct (GSM8K model solutions)."""
    names = [
        n for n, v in row.items() if isinstance(v, dict) and "solution" in v and "is_correct" in v and "." not in n
    ]
    if has(row, "question") and len(names) > 1:
        answers, ratings = ([f"{name}.{key}" for name in names] for key in ("solution", "is_correct"))
        return {"kind": "ratings", "prompt": "question", "responses": answers, "ratings": ratings}


@shape
def just_eval(row):
    """input, output_cand and a judge's scores in parsed_result (just-eval-instruct)."""
    if has(row, "input", "output_cand") and isinstance(row.get("parsed_result"), dict):
        shared = {"kind": "rated_rows", "prompt": "input", "responses": ["output_cand"]}
        return [{**shared, "ratings": [f"parsed_result.{aspect}.score"]} for aspect in row["parsed_result"]]
