def conversations(row):
    """The conversations of one row, each (messages of the prompt, messages of the answer to score)."""
    row = {name: value for name, value in row.items() if value is not None}
    if len(given := [name for name in ("messages", "response", "responses") if name in row]) > 1:
        raise Reject("too_much", f"{' and '.join(given)}: one of them is to be scored, and the others would be lost")
    if "messages" in row:
        messages = as_messages(row["messages"], "user")
        found = [(messages[:-1], messages[-1:])]
    elif "prompt" in row and ("response" in row or "responses" in row):
        prompt = as_messages(row["prompt"], "user")
        answers = row["responses"] if "responses" in row else [row["response"]]
        if not isinstance(answers, list) or not answers:
            raise Reject("wrong_type", "responses must be a list of at least one answer")
        found = [(prompt, as_messages(answer, "assistant")) for answer in answers]
    else:
        raise Reject(
            "missing_column", f"no prompt + response(s) and no messages; the row has {', '.join(map(str, row))}"
        )
    for _, answer in found:
        if not answer or answer[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", "the last message must be the assistant's")
    return found
