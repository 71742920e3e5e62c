"""What preference data looks like in the wild. One entry per schema: how a row is recognised, and its mapping.

A mapping is a dict of parameters of the format stage. To add a schema, add one function with its docstring below and
one row to `tests/test_schemas.py`.
"""

SCHEMAS = {}
"""Name -> function(row) that returns the mapping, or None where the row has another shape."""


def schema(recognise):
    """Register an entry under its name, with hyphens."""
    SCHEMAS[recognise.__name__.replace("_", "-")] = recognise
    return recognise


def has(row, *columns):
    return all(row.get(column) is not None for column in columns)


def is_text(*values):
    return all(isinstance(value, str) for value in values)


def is_message(value):
    return isinstance(value, dict) and ("role" in value or "from" in value)


def is_messages(*values):
    return all(isinstance(value, list) and bool(value) and all(map(is_message, value)) for value in values)


def is_answer(*values):
    """Text, one message, or messages that begin with the assistant: no prompt inside."""
    return all(
        isinstance(value, str)
        or is_message(value)
        or (is_messages(value) and value[0].get("role", value[0].get("from")) not in ("user", "human", "system"))
        for value in values
    )


def is_transcript(*values):
    return is_text(*values) and all(value.lstrip().startswith("Human:") for value in values)


def first(row, *columns):
    """The first of these columns that the row has."""
    return next((column for column in columns if has(row, column)), None)


@schema
def transcripts(row):
    """chosen and rejected are whole dialogues, "\\n\\nHuman: …\\n\\nAssistant: …" (Anthropic/hh-rlhf)."""
    if has(row, "chosen", "rejected") and is_transcript(row["chosen"], row["rejected"]):
        return {"kind": "transcripts"}


@schema
def sharegpt_ranking(row):
    """conversations, chosen and rejected with from/value (LLaMA-Factory)."""
    if has(row, "conversations", "chosen", "rejected") and is_messages(row["conversations"]):
        system = {"system": "system"} if is_text(row.get("system")) and row["system"] else {}
        return {"kind": "pairs", "prompt": "conversations", **system}


@schema
def prompt_chosen_rejected(row):
    """A prompt beside two answers, as text or as messages (TRL, explicit prompt)."""
    prompt = first(row, "prompt", "question", "instruction", "input")
    if not prompt or not has(row, "chosen", "rejected") or has(row, "conversations"):
        return None
    answers = row["chosen"], row["rejected"]
    if is_transcript(*answers) or (is_text(row[prompt]) and is_messages(*answers) and not is_answer(*answers)):
        return None
    if prompt == "instruction" and is_text(row.get("input")):
        prompt = "instruction+input"
    system = {"system": "system"} if is_text(row.get("system")) and row["system"] else {}
    return {"kind": "pairs", "prompt": prompt, **system}


@schema
def chosen_rejected_messages(row):
    """Two whole dialogues as messages, without a prompt or with it repeated in a column (TRL, implicit prompt)."""
    answers = row.get("chosen"), row.get("rejected")
    if is_messages(*answers) and not is_answer(*answers) and not is_messages(row.get("prompt")):
        return None if has(row, "conversations") else {"kind": "pairs", "prompt": ""}


@schema
def chosen_rejected_text(row):
    """Two texts that begin alike, no prompt column (TRL, implicit prompt)."""
    if has(row, "chosen", "rejected") and not first(row, "prompt", "question", "instruction", "input", "conversations"):
        answers = row["chosen"], row["rejected"]
        if is_text(*answers) and not is_transcript(*answers):
            return {"kind": "pairs", "prompt": ""}


@schema
def output_1_output_2_label(row):
    """Two answers and a label 1 or 2 (LLMBar, OffsetBias)."""
    prompt = first(row, "instruction", "input", "prompt", "question")
    if prompt and has(row, "output_1", "output_2", "label") and str(row["label"]) in ("1", "2", "1.0", "2.0"):
        prompt = "instruction+input" if has(row, "instruction", "input") else prompt
        return {"kind": "choice", "prompt": prompt, "chosen": "output_1", "rejected": "output_2", "winner": "label"}


def detect(rows):
    """Sample rows (dicts) -> (name, mapping, share of the rows that fit) of the best entry; (None, {}, 0.0) if none.

    Two entries that fit equally well are both named, joined by " or ", with an empty mapping: the user decides."""
    votes = {}
    for row in rows:
        for name, recognise in SCHEMAS.items():
            if (mapping := recognise(row)) is not None:
                key = name, tuple(sorted(mapping.items()))
                votes[key] = votes.get(key, 0) + 1
    if not votes:
        return None, {}, 0.0
    most = max(votes.values())
    best = [key for key, count in votes.items() if count == most]
    if len(best) > 1 and len({key[1] for key in best}) > 1:
        return " or ".join(key[0] for key in best), {}, most / len(rows)
    return best[0][0], dict(best[0][1]), most / len(rows)
