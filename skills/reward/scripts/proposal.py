"""The most likely mapping of rows that fit no known schema, by the names of the columns and what they hold."""

import re

from shapes import is_messages, is_number, is_text

PROMPT = "prompt question instruction query input context history problem request task post dialogue conversation title"
BETTER = "chosen better preferred winner winning accepted positive good best"
WORSE = "rejected worse dispreferred loser losing negative bad worst"
LABEL = "label winner preference preferred choice vote verdict better judgement judgment annotation selected"
RATING = "rating score rank grade stars reward quality helpfulness votes upvotes"
ANSWER = "answer response completion output reply text solution generation candidate summary message"
TWINS = [("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"), ("first", "second"), ("one", "two")]
NEITHER = ("tie", "both", "equal", "same", "draw", "neither", "none", "unsure")


def flatten(value, path="", depth=0):
    """{path: value} of all that a row holds, down to three keys; lists of objects as `list.*.key`."""
    if isinstance(value, dict) and depth < 3 and not is_messages([value]):
        parts = (flatten(inner, f"{path}.{key}" if path else str(key), depth + 1) for key, inner in value.items())
        return {key: inner for part in parts for key, inner in part.items()}
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value) and not is_messages(value):
        return {f"{path}.*.{key}": [v.get(key) for v in value] for key in value[0]}
    return {path: value}


def words_of(path):
    return re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1 \2", path).lower())


def named(paths, names):
    """The paths with one of these words in their name, in the order of the words."""
    return sorted(
        (path for path in paths if set(words_of(path)) & set(names.split())),
        key=lambda path: min(names.split().index(w) for w in words_of(path) if w in names.split()),
    )


def twins(paths):
    """(first path, second path, the word that tells each apart) of two paths that differ in one word."""
    for one in paths:
        for other in paths:
            a, b = words_of(one), words_of(other)
            apart = [pair for pair in zip(a, b) if pair[0] != pair[1]]
            if len(a) == len(b) and len(apart) == 1 and apart[0] in TWINS:
                return one, other, apart[0]
    return None


def as_label(value):
    """As the format stage reads a label: 1, 1.0 and "1.0" are one."""
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", str(value).strip())


def meanings(values, words):
    """Readings of the labels: a list of (a_wins, b_wins, ties), none where they cannot be told."""
    ties = sorted(v for v in values if any(word in v.lower() for word in NEITHER))
    sides = [sorted(v for v in values - set(ties) if words_of(v)[-1:] == [word]) for word in words]
    if all(len(side) == 1 for side in sides) and values == {*sides[0], *sides[1], *ties}:
        return [(sides[0][0], sides[1][0], ties)]
    plain = values - set(ties)
    if plain == {"1", "2"}:
        return [("1", "2", ties)]
    if plain in ({"0", "1"}, {"True", "False"}):
        one, other = sorted(plain)
        return [(one, other, ties), (other, one, ties)]
    if all(re.fullmatch(r"-?\d+(\.\d+)?", v) for v in values) and min(map(float, values)) < 0 < max(map(float, values)):
        return [("<0", ">0", ["0"]), (">0", "<0", ["0"])]
    return []


def propose(rows):
    """Sample rows (dicts) -> readings (what it is, mapping): none, the likely one, or several to decide on."""
    flat = [flatten(row) for row in rows]
    paths = list(dict.fromkeys(path for row in flat for path in row))

    def holds(path, test):
        return sum(test(row.get(path)) for row in flat) >= 0.8 * len(flat)

    several = [p for p in paths if holds(p, lambda v: isinstance(v, list) and len(v) > 1 and is_text(*v))]
    lists = [p for p in paths if holds(p, lambda v: isinstance(v, list) and len(v) > 1 and is_number(*v))]
    numbers = [p for p in paths if holds(p, is_number)]
    values = {path: {as_label(row[path]) for row in flat if row.get(path) is not None} for path in paths}
    few = [p for p in paths if holds(p, lambda v: isinstance(v, (str, int, float))) and len(values[p]) <= 7]
    texts = [p for p in paths if holds(p, lambda v: is_text(v) or is_messages(v))]
    texts = [p for p in texts if p not in named(few, LABEL) or len(values[p]) == len(rows) < 3]
    texts = [p for p in texts if p not in named(numbers, RATING)]
    prompt = next(iter(named(texts, PROMPT)), "")
    answers = [path for path in texts if path != prompt]
    shared = {"prompt": prompt}
    better = [p for p in named(answers, BETTER) if p not in named(answers, WORSE)]
    if better and (worse := named(answers, WORSE)):
        return [("a better and a worse answer", {"kind": "pairs", **shared, "chosen": better[0], "rejected": worse[0]})]
    if pair := twins(answers):
        two = {**shared, "chosen": pair[0], "rejected": pair[1]}
        for label in [path for path in named(few, LABEL) if path not in pair]:
            found = meanings(values[label], pair[2])
            keys = ("a_wins", "b_wins", "ties")
            if found:
                told = [dict(zip(keys, reading)) for reading in found]
                return [
                    (f"{t['a_wins']} prefers {pair[0]}", {"kind": "choice", **two, "winner": label, **t}) for t in told
                ]
        if rated := twins(named(numbers, RATING)):
            return [
                ("two rated answers", {"kind": "ratings", **shared, "responses": [*pair[:2]], "ratings": [*rated[:2]]})
            ]
    rank = {"best": "lowest"}
    for rated, kind in ((named(lists, RATING), "ratings"), (named(numbers, RATING), "rated_rows")):
        found = several if kind == "ratings" else [path for path in answers if "*" not in path]
        found = named(found, ANSWER) or found
        if rated and found and (prompt or kind == "ratings" and is_messages(flat[0].get(found[0]))):
            paths = [path if "*" in path or kind == "rated_rows" else f"{path}.*" for path in (found[0], rated[0])]
            mapping = {"kind": kind, **shared, "responses": paths[:1], "ratings": paths[1:]}
            mapping |= rank if "rank" in words_of(rated[0]) else {}
            return [("rated answers", mapping)]
    return []
