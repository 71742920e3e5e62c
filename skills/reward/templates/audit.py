# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Audit: find what in the formatted pairs would train a worse model without any error, before it costs GPU hours.

Writes report.html for people, and report.json with every finding, its sources and example rows. The pairs are read in
batches and only hashes, sketches and counts are kept: less than 0.5 kB a pair, whatever its length.
"""

import argparse
import base64
import collections
import csv
import functools
import gzip
import hashlib
import html
import io
import json
import math
import os
import re
import shutil
import sys
import time
import zlib
from array import array
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import numpy as np
    import pyarrow
    from dotenv import find_dotenv, load_dotenv
    from matplotlib.figure import Figure
    from pyarrow.parquet import ParquetFile, ParquetWriter
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

RENDERED_BY = {{rendered_by}}
SIDES, EXAMPLES = ("train", "eval"), 3
CLEAN = 'clean = "data-clean" under [audit], then data = "data-clean" under [train]'
TEMPLATE = "chat_template = FILE under [train], one that keeps what tells the answers apart"
LOOK = "look at the examples and their source; leave it out of data under [format] if it is no good"
FINDINGS = {  # name: (share from which it is medium, and high; share of what; what it is; what mends it)
    "template_refuses": (0, 0.01, "measured pairs", "the chat template refuses the roles", "another " + TEMPLATE),
    "template_erases": (0, 0.01, "measured pairs", "the chat template gives both answers the same tokens", TEMPLATE),
    "thinking_erased": (0, 0, "measured pairs", "the chat template deletes the thinking of an answer", TEMPLATE),
    "overlong": (0.01, 0.1, "measured pairs", "longer than max_length {} tokens: train {}", "{}"),
    "contaminated_exact": (0, 0, "train pairs", "the prompt is one of an evaluation set", CLEAN),
    "contaminated_ngram": (0, 0.01, "train pairs", "the prompt shares a run of words with an evaluation set", CLEAN),
    "prompt_in_both": (0, 0.01, "eval pairs", "the held-out prompt also stands in train", CLEAN),
    "prompt_near_both": (0.01, 0.05, "eval pairs", "the held-out prompt stands in train almost as it is", CLEAN),
    "prompt_word_more": (0.05, 1, "eval pairs", "the held-out prompt has a word more or less than one in train", CLEAN),
    "contradiction": (0.01, 0.05, "pairs", "the same answers are preferred the other way round as well", CLEAN),
    "identical": (0.001, 0.02, "pairs", "both answers are the same", CLEAN),
    "white_space_only": (0.001, 0.02, "pairs", "the answers differ in white space only", CLEAN),
    "one_sided_empty": (0.005, 0.05, "pairs", "one answer says nothing, the other does", LOOK),
    "duplicate": (0.01, 0.1, "pairs", "the same pair stands there before", CLEAN),
    "near_duplicate": (0.05, 0.2, "pairs", "prompt and answers are almost those of another pair", LOOK),
    "two_languages": (0.01, 0.05, "pairs", "the two answers are in different languages", LOOK),
}
RULES = {
    "longer": "preferring the longer answer",
    "more_list_lines": "preferring the answer with more list lines",
    "first_answer": "preferring the answer that stood first",
}
DROPPED = ("identical", "white_space_only", "template_erases", "duplicate", "contradiction")
DROPPED += ("contaminated_exact", "contaminated_ngram", "prompt_of_eval")


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


{{shared("replace_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    {{flags}}
    return parser.parse_args(argv)


# %% Near duplicates and languages
{{shared("sketch")}}


{{shared("language")}}


# %% Evaluation sets that must not leak in
{{shared("read_rows")}}


{{shared("evaluation_sets")}}


# %% Tokens
{{shared("encode")}}


{{shared("thinking_erased")}}


{{shared("token_limits")}}


def load_tokenizer(args):
    """(tokenizer as train.py has it, tokens the model was made for), or None without a model."""
    if not args.model:
        return None, None
    try:
        import transformers
    except ImportError as lacking:
        mend = f"uv run {__file__}, or --model '' to go without token checks"
        refuse(f"{lacking}", "the packages named above", mend, 5)
    transformers.utils.logging.set_verbosity_error()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        if args.chat_template:
            tokenizer.chat_template = Path(args.chat_template).read_text(encoding="utf-8")
        config = transformers.AutoConfig.from_pretrained(args.model).get_text_config()
    except (OSError, ValueError) as error:
        mend = "another --model, or --model '' to go without token checks"
        refuse(f"{args.model}: {str(error)[:200]}", "a model folder or hub id, and a template file", mend)
    if not tokenizer.chat_template:
        mend = "--chat-template FILE, such as the skill's assets/plain.jinja"
        refuse(f"{args.model} has no chat template", "one, to turn messages into text", mend)
    return tokenizer, getattr(config, "max_position_embeddings", None)


# %% One pass over the pairs
{{shared("progress")}}


{{shared("wilson")}}


{{shared("accuracy")}}


LISTED = re.compile(r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
SAYS_NOTHING = re.compile(r"[\W_]*(?:\w?|n/?a|null|none|nan|deleted|removed)[\W_]*", re.IGNORECASE)


def hash_of(text):
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def batches(args, side):
    """Yield (row number of the first, record batch) over one split."""
    start = 0
    for batch in ParquetFile(Path(args.data) / f"{side}.parquet").iter_batches(1024):
        yield start, batch
        start += len(batch)


class Pairs:
    """What is kept of the pairs: one entry of each array per pair, train first."""

    def __init__(self, args):
        try:
            files = [ParquetFile(Path(args.data) / f"{side}.parquet") for side in SIDES]
            self.report = json.loads((Path(args.data) / "report.json").read_text())
        except (OSError, ValueError) as error:
            refuse(f"{args.data}: {str(error)[:200]}", "a folder written by format.py", "python run/format.py")
        if lost := {"prompt", "chosen", "rejected", "source"} - set(files[0].schema_arrow.names):
            refuse(
                f"{args.data} has no columns {', '.join(sorted(lost))}", "what format.py writes", "python run/format.py"
            )
        self.sizes = [file.metadata.num_rows for file in files]
        total = sum(self.sizes)
        self.parts = (slice(0, self.sizes[0]), slice(self.sizes[0], total))
        self.hashes = {name: np.zeros(total, "u8") for name in ("prompt", "chosen", "rejected")}
        self.marks = {name: np.zeros(total, bool) for name in FINDINGS}
        self.prompt_sketch, self.answer_sketch = (np.zeros((total, BINS), "u2") for _ in range(2))
        self.source, self.tie = np.zeros(total, "i4"), np.zeros(total, bool)
        self.chars, self.listed = np.zeros((total, 2), "i4"), np.zeros((total, 2), "i4")
        self.languages, self.tokens = np.zeros((total, 3), "u1"), np.zeros(total, "i4")
        self.sources, self.known = {}, {}
        # of short prompts, which a sketch says too little of: a hash of all words, and of all but each one
        self.words, self.without, self.lengths = np.zeros(total, "u8"), array("Q"), np.zeros(total, "u1")
        self.evaluation_row, self.told = {}, collections.Counter()

    def read(self, args):
        """Fill the arrays. Tokens are counted in a sample, everything else in every pair."""
        tokenizer, self.positions = load_tokenizer(args)
        self.against = EvaluationSets(args)
        total = sum(self.sizes)
        step, progress = total / min(total, args.token_sample or total), Progress(total)
        for side, offset in zip(SIDES, (0, self.sizes[0])):
            for start, batch in batches(args, side):
                for row, pair in enumerate(batch.to_pylist(), offset + start):
                    self.note(row, pair)
                    if side == "train" and (found := self.against.look(asked(pair["prompt"]))):
                        self.marks[found[0]][row], self.evaluation_row[row] = True, found[1]
                    if tokenizer and int((row + 1) / step) > int(row / step):
                        self.count_tokens(row, pair, tokenizer)
                progress.show(offset + start + len(batch), offset + start + len(batch))
        progress.end()

    def note(self, row, pair):
        """Everything about one pair that needs no other."""
        prompt = "\n".join(f"{message['role']}: {message['content']}" for message in pair["prompt"])
        both = [
            [m[k] for m in pair[side] for k in ("thinking", "content") if m.get(k)] for side in ("chosen", "rejected")
        ]
        answers = ["\n".join(texts) for texts in both]
        for name, text in zip(("prompt", "chosen", "rejected"), (prompt, *answers)):
            self.hashes[name][row] = hash_of(text)
        # without a long system prompt, which would make all prompts alike
        said = [m["content"] for m in pair["prompt"] if m["role"] not in ("system", "developer")]
        self.prompt_sketch[row], self.answer_sketch[row] = sketch("\n".join(said) or prompt), sketch(*answers)
        words = word_hashes("\n".join(said) or prompt)
        if 3 <= len(words) <= 21:
            words = words * words * np.uint64(0x9E3779B97F4A7C15)  # not linear, for they are summed
            self.words[row], self.lengths[row] = words.sum(), len(words)
            self.without.extend((words.sum() - words).tolist())
        self.source[row] = self.sources.setdefault(pair["source"], len(self.sources))
        self.tie[row] = bool(pair.get("tie"))
        self.chars[row] = [len(text) for text in answers]
        self.listed[row] = [len(LISTED.findall(text)) for text in answers]
        spoken = [language(text) for text in (asked(pair["prompt"][-1:]), *answers)]
        self.languages[row] = [self.known.setdefault(name, len(self.known)) for name in spoken]
        bare = [bool(SAYS_NOTHING.fullmatch(text)) for text in answers]
        self.marks["identical"][row] = answers[0] == answers[1]
        self.marks["white_space_only"][row] = answers[0] != answers[1] and answers[0].split() == answers[1].split()
        self.marks["one_sided_empty"][row] = bare[0] != bare[1] and max(self.chars[row]) >= 20
        self.marks["two_languages"][row] = "undecided" not in spoken[1:] and spoken[1] != spoken[2]

    def count_tokens(self, row, pair, tokenizer):
        said = [pair["prompt"] + pair[side] for side in ("chosen", "rejected")]
        try:
            ids = [encode(messages, tokenizer, 10**9)[0] for messages in said]
            self.marks["thinking_erased"][row] = any(thinking_erased(messages, tokenizer) for messages in said)
        except Exception as error:  # templates raise what they like about roles they do not know
            self.marks["template_refuses"][row], self.tokens[row] = True, -1
            self.told[str(error)[:200]] += 1
            return
        self.tokens[row] = max(map(len, ids))
        self.marks["template_erases"][row] = ids[0] == ids[1] and not self.marks["identical"][row]

    def compare(self, args):
        """What only shows between pairs: duplicates, contradictions, prompts on both sides. Returns the agreement."""
        prompt, chosen, rejected = self.hashes.values()
        first = np.arange(len(prompt)) < self.sizes[0]
        k = [np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)]
        same = prompt * k[0] + np.minimum(chosen, rejected) * k[1] + np.maximum(chosen, rejected) * k[2]
        _, group, judged = np.unique(same, return_inverse=True, return_counts=True)
        ahead = np.bincount(group, (chosen < rejected) & ~self.tie, len(judged))
        behind = np.bincount(group, (chosen > rejected) & ~self.tie, len(judged))
        self.marks["contradiction"] = ((ahead > 0) & (behind > 0))[group] & ~self.tie
        held_out_first = np.roll(np.arange(len(same)), self.sizes[1])
        kept = held_out_first[np.unique((same + (chosen < rejected))[held_out_first], return_index=True)[1]]
        self.marks["duplicate"][:] = True
        self.marks["duplicate"][kept] = False
        kept.sort()
        label = alike([self.prompt_sketch[kept], self.answer_sketch[kept]], args.near)
        self.marks["near_duplicate"][
            kept[np.setdiff1d(np.arange(len(kept)), np.unique(label, return_index=True)[1])]
        ] = True
        self.marks["near_duplicate"] &= ~self.marks["contradiction"]
        if len(prompt) > 1.5 * len(np.unique(prompt)):  # answers of one group are alike by design
            leader = {int(number): prompt[row] for row, number in zip(kept[::-1], label[::-1])}
            alone = np.array([leader[int(number)] != prompt[row] for row, number in zip(kept, label)])
            self.marks["near_duplicate"][kept[~alone]] = False
        self.pair_group, self.near_group = same, np.full(len(same), -1)
        self.near_group[kept] = label

        self.marks["prompt_in_both"] = ~first & np.isin(prompt, prompt[first])
        unique, at, back = np.unique(prompt, return_index=True, return_inverse=True)
        label = alike([self.prompt_sketch[at]], args.near)[back]
        both = np.isin(label, label[~first]) & np.isin(label, label[first])
        self.marks["prompt_near_both"] = ~first & both & ~self.marks["prompt_in_both"]
        without, owner = np.frombuffer(self.without, "u8"), np.repeat(np.arange(len(prompt)), self.lengths)
        known = self.words != 0
        for side in (first, ~first):  # which has the word more
            inside, other = side[owner], ~side & known
            longer = owner[inside][np.isin(without[inside], self.words[other])]
            shorter = other & np.isin(self.words, without[inside])
            self.marks["prompt_word_more"][longer], self.marks["prompt_word_more"][shorter] = True, True
        word_more = self.marks["prompt_word_more"]
        self.marks["prompt_of_eval"] = first & (both | word_more)
        self.marks["prompt_word_more"] = word_more & ~first & ~both
        self.prompt_group, self.prompts = label, len(unique)
        twice = judged > 1
        agreeing = ahead * (ahead - 1) / 2 + behind * (behind - 1) / 2
        asked_of = (ahead + behind) * (ahead + behind - 1) / 2
        asked_twice = asked_of[twice].sum()
        share = float(agreeing[twice].sum() / asked_twice) if asked_twice else None
        return {"pairs_judged_again": int(twice.sum()), "agreement": share}


# %% Judgement
def finding(name, level, count, whole, of, what, mend, sources, shown=()):
    """One finding as it stands in report.json; `shown` are rows (and their partners) to be shown as examples."""
    named = {"finding": name, "severity": level, "pairs": count, "share": count / whole, "of": f"{whole:,} {of}"}
    return named | {"what": what, "mend": mend, "by_source": sources, "examples": list(shown)}


def severity(value, medium, high):
    return "high" if value > high else "medium" if value > medium else "low"


def partner(pairs, name, row):
    """The first other row of the same group, for findings about two pairs. None for other findings."""
    groups = {"duplicate": pairs.pair_group, "contradiction": pairs.pair_group, "near_duplicate": pairs.near_group}
    group = groups.get(name, pairs.prompt_group if name.endswith("_both") else None)
    others = np.flatnonzero(group == group[row]).tolist() if group is not None else []
    return next((other for other in others if other != row), None)


def judge_pairs(pairs, args, smallest):
    """A finding for each kind of faulty pair that occurs."""
    pairs.marks["overlong"] = pairs.tokens > args.max_length
    wholes = {"pairs": len(pairs.tokens), "train pairs": pairs.sizes[0], "eval pairs": pairs.sizes[1]}
    wholes["measured pairs"], found = int((pairs.tokens != 0).sum()), []
    fits = f"max_length = {smallest} under [train]" if smallest else "a base model made for longer texts"
    fits = fits if smallest != args.max_length else "leave it"
    fits, done = (f'{fits}, or overlong = "truncate"', "drops it") if args.overlong == "drop" else (fits, "cuts it off")
    for name, (medium, high, of, what, mend) in FINDINGS.items():
        if name == "overlong" and args.overlong == "truncate":  # as the recipe wants it
            medium, high = 0.1, 1
        if len(rows := np.flatnonzero(pairs.marks[name])):
            counts = np.bincount(pairs.source[rows], minlength=len(pairs.sources)).tolist()
            sources = dict(sorted(((s, n) for s, n in zip(pairs.sources, counts) if n), key=lambda item: -item[1]))
            shown = [(row, partner(pairs, name, row)) for row in rows[:: -(-len(rows) // EXAMPLES)].tolist()]
            level = severity(len(rows) / wholes[of], medium, high)
            what, mend = what.format(args.max_length, done), mend.format(fits)
            found.append(finding(name, level, len(rows), wholes[of], of, what, mend, sources, shown))
    return found


def try_rule(pairs, values):
    """Accuracy of a rule that prefers the greater value: of all pairs, and in each of the fifty largest sources."""
    counts = np.bincount(pairs.source[~pairs.tie], minlength=len(pairs.sources))
    names = list(pairs.sources)
    masks = {names[i]: ~pairs.tie & (pairs.source == i) for i in np.argsort(-counts)[:50] if counts[i]}
    by_source = {name: accuracy(*values[mask].T.tolist()) for name, mask in masks.items()}
    return {"all": accuracy(*values[~pairs.tie].T.tolist()), "by_source": by_source}


def first_wins(counts):
    """Accuracy of the rule that the first answer is better, from how often each place won; None where nothing did."""
    wins = [1.0] * counts.get("a_wins", 0) + [0.0] * counts.get("b_wins", 0)
    return accuracy(wins, [0.5] * len(wins)) if wins else None


def agreement_of_raters(sources):
    """How often two raters of the same answers say the same, from the votes that the source held; None without any."""
    by_source = {name: (c.get("agree", 0), c["judged_twice"]) for name, c in sources.items() if c.get("judged_twice")}
    agree, twice = map(sum, zip(*by_source.values(), (0, 0)))
    shares = {name: one / of for name, (one, of) in by_source.items()}
    return {"two_judgements": twice, "agreement": agree / twice, "by_source": shares} if twice else None


def judge_rule(name, rule, table):
    """The finding (in a list) that a rule which reads nothing knows too much, or an empty list."""
    total, sources = table["all"], table["by_source"]
    off = {s: row for s, row in sources.items() if row["pairs"] >= 30 and max(row["low"], 1 - row["high"]) > 0.55}
    level = severity(max(total["low"], 1 - total["high"]), 0.55, 0.6)
    if level == "low" and 2 * sum(row["pairs"] for row in off.values()) > total["pairs"]:
        level = "medium"
    if not off and level == "low":
        return []
    what = f"{rule} is right in {total['accuracy']:.1%} [{total['low']:.1%}, {total['high']:.1%}] of all pairs"
    off = {source: row["accuracy"] for source, row in off.items()}
    if off:
        worst = sorted(off, key=lambda source: -abs(off[source] - 0.5))
        what += "; furthest from a half: " + ", ".join(f"{source} {off[source]:.0%}" for source in worst[:4])
    mend = "pairs that break the rule; the model must beat it (length_baseline in eval/metrics.json)"
    if name == "first_answer":
        mend = "judges who see the answers in random order; the model never sees the place, so such labels are noise"
    return [finding(f"shortcut_{name}", level, total["pairs"], total["pairs"], "pairs", what, mend, off)]


def judge(pairs, args):
    """The whole report (dict); the examples of its findings are row numbers still."""
    agreement = pairs.compare(args)
    measured, total = pairs.tokens[pairs.tokens > 0].tolist(), len(pairs.tokens)
    limits, smallest = token_limits(measured, total, pairs.positions)
    found = judge_pairs(pairs, args, smallest)
    rules = {"longer": try_rule(pairs, pairs.chars), "more_list_lines": try_rule(pairs, pairs.listed)}
    judged = pairs.report.get("sources", {})
    if first := first_wins(pairs.report):
        largest = sorted(judged, key=lambda source: -judged[source]["a_wins"] - judged[source]["b_wins"])[:50]
        rules["first_answer"] = {"all": first, "by_source": {s: t for s in largest if (t := first_wins(judged[s]))}}
    raters = agreement_of_raters(judged)
    for name, table in rules.items():
        found += judge_rule(name, RULES[name], table)
    held_out = pairs.sizes[1]
    if (spread := 1.96 * math.sqrt(0.21 / max(1, held_out))) > 0.05:
        what = f"with so few, an accuracy of 70 % is known to ±{100 * spread:.0f} points only"
        level, mend = severity(spread, 0.07, 0.2), "a higher eval_fraction under [format], or more data"
        found.append(finding("few_held_out", level, held_out, max(1, held_out), "eval pairs", what, mend, {}))
    found.sort(key=lambda entry: (("high", "medium", "low").index(entry["severity"]), -entry["share"]))

    lacking = {
        "tokens and chat template": "" if args.model else "no model was named: --model BASE",
        "position": "" if first else "formatted pairs do not say which answer stood first in the source",
        "annotator agreement": "no two answers were judged twice, and no votes are known: votes under [format]"
        * (agreement["agreement"] is None and raters is None),
        "contamination": "" if args.against else "no evaluation set was named: --against FILE_OR_HUB_ID",
    }
    per_side = [np.bincount(pairs.source[part], minlength=len(pairs.sources)).tolist() for part in pairs.parts]
    spoken = [collections.Counter(pairs.languages[:, column].tolist()) for column in range(3)]
    return {
        "pairs": dict(zip(SIDES, pairs.sizes)),
        "ties": int(pairs.tie.sum()),
        "prompts": pairs.prompts,
        "findings": found,
        "not_measured": {name: why for name, why in lacking.items() if why},
        "baselines": rules,
        "agreement": agreement,
        "agreement_of_raters": raters,
        "sources": {source: dict(zip(SIDES, counts)) for source, *counts in zip(pairs.sources, *per_side)},
        "languages": {
            name: dict(zip(("prompt", "chosen", "rejected"), (column[i] for column in spoken)))
            for name, i in pairs.known.items()
        },
        "tokens": {
            "measured": len(measured),
            "max_length": args.max_length,
            "model_made_for": pairs.positions,
            "limits": limits if measured else [],
            "costs_under_1_percent": smallest if measured else None,
        },
        "template_errors": dict(pairs.told.most_common(5)),
        "evaluation_sets": pairs.against.counted(pairs.evaluation_row.values()),
        "rejected": rejected_rows(args),
    }


def rejected_rows(args):
    """What format.py did not use, as a list of {reason, file, rows}, the commonest first."""
    path, counts = Path(args.data) / "rejected.jsonl", collections.Counter()
    if path.exists():
        with open(path, encoding="utf-8") as lines:
            told = map(json.loads, lines)
            counts.update((one.get("reason", "?"), Path(one.get("file", "?")).name) for one in told)
    return [{"reason": reason, "file": file, "rows": count} for (reason, file), count in counts.most_common(30)]


# %% Examples, and the pairs without the faulty
def show_examples(pairs, args, found):
    """Put the beginnings of the texts in the place of row numbers. A second pass that converts only these rows."""
    wanted = {row for entry in found for pair in entry["examples"] for row in pair if row is not None}
    texts = {}
    for side, offset in zip(SIDES, (0, pairs.sizes[0])):
        for start, batch in batches(args, side) if wanted else ():
            for row in wanted.intersection(range(offset + start, offset + start + len(batch))):
                pair = batch.slice(row - offset - start, 1).to_pylist()[0]
                said = {
                    name: pair[name][-1]["content"] if pair[name] else "" for name in ("prompt", "chosen", "rejected")
                }
                cut = {name: text if len(text) <= 160 else text[:157] + "…" for name, text in said.items()}
                texts[row] = {"row": f"{side} {row - offset}", "source": pair["source"], **cut}
    for entry in found:
        entry["examples"] = [
            texts[row]
            | ({"like": texts[other]["row"]} if other is not None else {})
            | ({"like": pairs.against.rows[pairs.evaluation_row[row]][1]} if entry["finding"][:5] == "conta" else {})
            for row, other in entry["examples"]
        ]


def write_clean(pairs, args):
    """The data folder again without the pairs that teach nothing or the wrong thing. Returns {split: pairs}."""
    out = Path(args.clean).resolve()
    beside = out.with_name(out.name + ".partial")
    drop = np.any([pairs.marks[name] for name in DROPPED], axis=0)
    left = {side: int((~drop[part]).sum()) for side, part in zip(SIDES, pairs.parts)}
    if not all(left.values()):
        refuse(f"without the faulty pairs a split is empty: {left}", "pairs on both sides", "other data; --clean ''")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with open(beside / "dropped.jsonl", "w") as dropped:
        for side, part in zip(SIDES, pairs.parts):
            with ParquetWriter(
                beside / f"{side}.parquet", ParquetFile(Path(args.data) / f"{side}.parquet").schema_arrow
            ) as file:
                for start, batch in batches(args, side):
                    file.write_batch(batch.filter(pyarrow.array(~drop[part][start : start + len(batch)])))
            for row in np.flatnonzero(drop[part]).tolist():
                why = [name for name in DROPPED if pairs.marks[name][part][row]]
                dropped.write(json.dumps({"split": side, "row": row, "reasons": why}) + "\n")
    digest = fingerprint(str(pairs.report.get("data_sha256")) + hashlib.sha256(drop.tobytes()).hexdigest())
    report = pairs.report | left | {"pairs": sum(left.values()), "data_sha256": digest, "cleaned_by": RENDERED_BY}
    (beside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    replace_folder(beside, out)
    return left


# %% The report for people
{{shared("html_report")}}


{{shared("audit_page")}}


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    folders = [Path(folder).resolve() for folder in (args.data, args.out, args.clean) if folder]
    if len(set(folders)) < len(folders):
        refuse("--data, --out and --clean name the same folder", "a folder for each", "--out audit")
    own_folder(args.out, "report.html")
    if args.clean:
        own_folder(args.clean, "dropped.jsonl")
    pairs = Pairs(args)
    pairs.read(args)
    if pairs.tie.all():
        refuse(f"{args.data} holds no pair but ties", "pairs with a better answer", "python run/format.py")
    report = judge(pairs, args)
    found = report["findings"]
    show_examples(pairs, args, found)
    count = collections.Counter(entry["severity"] for entry in found)
    report["verdict"] = (
        f"Fix before training: {count['high']} of {len(found)} findings, those rated high."
        if count["high"]
        else f"Nothing forbids training; look at {count['medium']} of {len(found)} findings, those rated medium."
        if count["medium"]
        else "Nothing found that matters before training."
    )
    report["cleaned"] = write_clean(pairs, args) if args.clean else None
    report |= {"rendered_by": RENDERED_BY, "parameters": vars(args)}
    out = Path(args.out).resolve()
    beside = out.with_name(out.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "report.html").write_text(
        html_report(f"Audit of {args.data}", page_of(report, pairs, args)), encoding="utf-8"
    )
    (beside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    replace_folder(beside, out)
    print(f"{sum(pairs.sizes)} pairs, {pairs.prompts} prompts, {len(pairs.sources)} sources. {report['verdict']}")
    for entry in found:
        print(f"{entry['severity']:6}  {told(entry)}\n        try: {entry['mend']}")
    if args.clean:
        print(f"without the faulty: {report['cleaned']} in {args.clean}; dropped.jsonl there says which")
    print(f"written to {args.out}/: report.html and report.json, with examples and what was not measured")


# %% Run
{{shared("run")}}
