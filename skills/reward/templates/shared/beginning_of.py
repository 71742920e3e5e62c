def text_of(messages):
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def beginning_of(prompt):
    """The words with which the user begins, in order of the alphabet: those of the first turn, and of the next turns
    while they are few. Whatever the case, width, order, repetition, punctuation, system prompt, answers in between and
    later turns, such prompts stay on one side. With a word more or less they may part: to join those as well, new rows
    would have to move old ones."""
    turns, words, text = [[m] for m in prompt if m["role"] == "user"] or [prompt], set(), ""
    for turn in turns:
        words |= set(re.split(r"[\W_]+", unicodedata.normalize("NFKC", text_of(turn)).casefold())) - {""}
        text = " ".join(sorted(words))
        if len(text.encode("utf-8", "replace")) >= 20:  # longer than "hello" or "can you help me"
            break
    return text
