CORRECTIONS = re.compile(
    r"\b(?:wait|actually|hmm+|hold on|on second thought|let me (?:re\w*|double|check)|"
    r"that(?:'s| is) (?:wrong|not right)|i made a mistake|scratch that|correction)\b|等等|等一下|不对|重新",
    re.IGNORECASE,
)
JAPANESE = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "CJK")  # written in one sentence
BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"


def repetition(text, n=4):
    """1 - distinct n-grams / n-grams of the words, or of the letters where words are not spaced. 0: nothing twice."""
    words = text.split() if len(text.split()) * 12 >= len(text) else list(text)
    grams = list(zip(*(words[i:] for i in range(n))))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def language_switches(text):
    r"""How often the script of the letters changes. What may be mathematics does not count: Greek, \commands, and Latin
    letters that stand alone."""
    text, scripts = unicodedata.normalize("NFKC", re.sub(r"\\[a-zA-Z]+", " ", text)).lower(), []
    for run in re.findall(r"[a-zà-öø-ɏ]{2,}|[^\W\d_a-zà-öø-ɏ]", text):
        name = unicodedata.name(run[0], "?").split()[0]
        scripts += ["CJK"] if name in JAPANESE else [name] * (name not in ("GREEK", "MODIFIER", "?"))
    return sum(a != b for a, b in zip(scripts, scripts[1:]))


def conclusion(text):
    r"""What a text concludes: the last \boxed{…}, else its last number; None where there is neither."""
    found = re.findall(r"\\boxed" + BRACED, text) or re.findall(r"(?<!\d)-?\d[\d,]*\.?\d*(?:/\d+)?", text)
    if not found:
        return None
    besides = r"\\(?:text|mathrm|mbox)\{[^{}]*\}|\\[!,;: ]|\\?[$%]|\s|(?<=\d),(?=\d{3})|\.$"  # units, separators
    bare = re.sub(besides, "", found[-1])
    bare = re.sub(r"\\[dt]frac", r"\\frac", bare) or found[-1].strip()
    return f"{float(bare):.15g}" if re.fullmatch(r"-?\d+\.?\d*", bare) else bare


def overlong(tokens, budget, cache=0.25):
    """0 up to the last quarter of a budget of tokens, then down to -1 at its end (DAPO, arXiv 2503.14476)."""
    return max(-1.0, min(0.0, ((1 - cache) * budget - tokens) / (cache * budget))) if budget else 0.0


def measure(found, tokens, budget=0):
    """What the text of one completion tells without any model; None where there is nothing to tell it from.

    Args:
        found: Thinking.
        tokens: of the thinking.
        budget: see overlong.
    """
    concluded = (conclusion(found.thinking), conclusion(found.answer))
    return {
        "thinking_tokens": tokens,
        "repetition": repetition(found.thinking) if found.thinking else None,
        "language_switches": language_switches(found.thinking) if found.thinking else None,
        "self_corrections": len(CORRECTIONS.findall(found.thinking)) if found.thinking else None,
        "overlong": overlong(tokens, budget),
        "cut_off": float(found.status == "unclosed"),
        "closed": float(found.status in ("closed", "opened", "quoted") and found.answer != ""),
        "agreement": None if None in concluded else float(concluded[0] == concluded[1]),
    }
