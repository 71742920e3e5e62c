def parse_transcript(text):
    """hh-rlhf text, "\\n\\nHuman: …\\n\\nAssistant: …" -> messages. Text before the first speaker is an error."""
    if not isinstance(text, str):
        raise Reject("wrong_type", f"a transcript is text, not {type(text).__name__}")
    head, *turns = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if head.strip() or not turns:
        raise Reject("wrong_type", "no 'Human:' and 'Assistant:' turns, or text before the first")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(turns[::2], turns[1::2])]


def convert(row, args):
    """A row with two whole transcripts -> (prompt, chosen, rejected), each a list of messages."""
    prompt, chosen, rejected = split_context(*(parse_transcript(look_up(row, p)) for p in (args.chosen, args.rejected)))
    system = as_messages(look_up(row, args.system) or [], "system") if args.system else []
    return system + prompt, chosen, rejected
