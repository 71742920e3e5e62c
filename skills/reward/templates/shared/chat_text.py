class Template:
    """What a chat template puts around a conversation and its last answer, read off a conversation of two turns."""

    def __init__(self, tokenizer):
        question, answer = "Question 7?", "Answer 7."
        asked = [{"role": "user", "content": question}]
        thinking = [*asked, {"role": "assistant", "content": f"<think>\nThought 7.\n</think>\n\n{answer}"}]
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], tokenize=False)
        ways = [tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)]
        with contextlib.suppress(Exception):  # templates raise what they like, some about tags of other models
            ways.append(tokenizer.apply_chat_template(thinking, tokenize=False))
        self.before = whole.partition(question)[2].rpartition(answer)[0]
        self.opening = os.path.commonprefix([self.before, *(way.partition(question)[2] for way in ways)])
        self.closing = whole.rpartition(answer)[2]
        self.bos = tokenizer.bos_token if tokenizer.bos_token and whole.startswith(tokenizer.bos_token) else ""
        self.eos = tokenizer.eos_token or ""

    def read(self, text):
        """Text -> (text as in training, its prompt, its answer, whether the end of turn had to be added).

        RL libraries send what the policy wrote: BOS once, twice or not at all, an end of turn without the line break
        that many templates put behind it. The reward is read at the last token, so that has to be the template's."""
        while self.bos and text.startswith(self.bos):
            text = text[len(self.bos) :]
        incomplete = not text.endswith(self.closing)
        if incomplete:
            text = text.removesuffix(self.eos)
            there = max(n for n in range(len(self.closing)) if text.endswith(self.closing[:n]))
            text += self.closing[there:]
        body = text[: len(text) - len(self.closing)]
        marks = [
            mark for mark in (self.before, self.opening) if mark.strip()
        ]  # a template may open answers with nothing
        starts = [place + len(mark) for mark in marks if (place := body.rfind(mark)) >= 0]
        if marks and not starts:
            raise Reject("foreign_template", f"the text has no assistant turn, which begins with {self.opening!r}")
        start = max(starts, default=0)
        return self.bos + text, body[:start], body[start:], incomplete
