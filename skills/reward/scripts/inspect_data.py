"""`reward.py inspect`: what a preference file holds, before anything is written.

It runs the very format script that would be rendered, so that its counts are the counts of the run.
"""

import bisect
import collections
import itertools
import json
import re
import shlex

import proposal
import recipe
import render
import schemas
import tokens
from errors import WRONG_USE, ToolError
from stage import flag

SAMPLE = 200
KEPT = 3


class Findings:
    """A file for rejected rows that only remembers the first few of them."""

    def __init__(self):
        self.first = []

    def write(self, line):
        if len(self.first) < KEPT:
            self.first.append(json.loads(line))


def format_module(values):
    """The rendered format script as a module whose refusals are ToolErrors."""

    def refuse(received, expected, mend, code=3):
        raise ToolError(received, expected, mend, code)

    module = render.as_module("format", recipe.validate("format", values))
    module.refuse = refuse
    return module


def sample_rows(reader, sources, split):
    """Some readable rows of each file, SAMPLE in all."""
    files = reader.find_files(sources)
    each = max(1, SAMPLE // max(1, len(files)))
    found = (itertools.islice(reader.read_rows([str(file)], split), each) for file in files[:SAMPLE])
    return [row for rows in found for _, _, row, problem in rows if not problem]


def as_flags(mapping):
    """A mapping as the flags that set it; a value that begins with - would be taken for a flag without the =."""

    def words(value):
        if value is True or value == []:
            return ""
        if isinstance(value, list):
            return f" {' '.join(map(shlex.quote, value))}"
        return ("=" if value.startswith("-") else " ") + shlex.quote(value)

    return " ".join(flag(key) + words(value) for key, value in mapping.items() if value is not False)


def undecided(what, readings):
    """The error for rows that can be read in several ways: it names each with the flags that choose it."""
    every = [mapping for _, mapping in readings]
    shared = {key for key in every[0] if all(mapping.get(key) == every[0][key] for mapping in every)}
    flags = [as_flags({key: value for key, value in mapping.items() if key not in shared}) for mapping in every]
    told = " or ".join(f"{choice} ({name})" for (name, _), choice in zip(readings, flags))
    return ToolError(what, "rows that can be read in one way only", told)


def mapping_of(sample, overrides):
    """(name of the schema, mapping, share of the rows that fit, whether it is only a proposal) of sample rows."""
    name, mapping, share, readings = schemas.detect(sample, overrides)
    columns = ", ".join(map(str, dict.fromkeys(itertools.chain(*sample[:20]))))[:300]
    if readings:
        raise undecided(f"the columns {columns} read as {name}", readings)
    by_hand = {"chosen", "rejected", "responses"} & set(overrides)
    if mapping.get("refuse"):
        if not by_hand:
            expected = "rows that say which of two answers is better"
            raise ToolError(f"{name}: {mapping['refuse'].split(': ')[0]}", expected, mapping["refuse"].split(": ")[1])
        return None, {}, 0.0, False
    if mapping or not sample or by_hand:
        return name, mapping, share, False
    proposals = proposal.propose(sample)
    if len({str({**mapping, **overrides}) for _, mapping in proposals}) > 1:
        raise undecided(f"the columns {columns} fit no known schema, and can be read in several ways", proposals)
    if proposals:
        return f"none; proposed: {proposals[0][0]}", proposals[0][1], 1.0, True
    raise ToolError(
        f"the columns {columns} fit no known schema",
        "a prompt, answers, and which is better; known: " + ", ".join([*schemas.ENTRIES, *schemas.SHAPES]),
        "name the columns: --prompt COLUMN --chosen COLUMN --rejected COLUMN (or --kind choice --winner COLUMN)",
    )


def unused_columns(sample, args):
    """Columns of the sample rows that no parameter of the format stage names."""
    named = [v for name, v in vars(args).items() if name not in ("data", "out", "split")]
    words = re.findall(r"[^.+|&=<>!]+", " . ".join(str(x) for v in named for x in (v if isinstance(v, list) else [v])))
    used = {word.strip() for word in words} | {str(v) for v in named}
    return [str(column) for column in dict.fromkeys(itertools.chain(*sample[:50])) if str(column) not in used]


def inspect(sources, overrides=None, model="", max_length=2048, chat_template=""):
    """Report (JSON-ready dict) on preference data.

    Args:
        sources: files, folders or hub dataset ids.
        overrides: parameters of the format stage that the user set; they win over what is detected.
        model: base model whose tokenizer measures a sample against max_length; empty: none.

    Raises:
        ToolError: with exit code 3 where no usable pair can be read, naming the flag that mends it.
    """
    if not sources:
        raise ToolError("no data named", "a file, a folder or a hub dataset id", "reward.py inspect FILE", WRONG_USE)
    overrides = dict(overrides or {})
    reader = format_module({"data": sources, **overrides})
    sample = sample_rows(reader, sources, overrides.get("split", "train"))
    name, mapping, share, proposed = mapping_of(sample, overrides)
    values = {"data": sources, **mapping, **overrides}
    module = format_module(values)
    args = module.parameters([])
    report, unused, seen = module.new_report(), Findings(), new_statistics()
    samples, prompts, kept = [], set(), tokens.Sample()
    for _, pair in module.read_pairs(args, report, unused):
        if len(samples) < KEPT and int(pair["prompt_id"], 16) not in prompts:
            samples.append(pair)
        prompts.add(int(pair["prompt_id"], 16))
        note(seen, pair)
        kept.add(pair)
    generous = type(args)(**{**vars(args), "max_rejected": 1.0})
    warnings = []
    try:
        report, _ = module.judge(report, generous)
    except ToolError as error:
        if report["train"] + report["eval"] == report["ties_kept"]:
            error.report = {**report, "rejected": dict(+report["rejected"]), "examples": unused.first}
            raise
        warnings.append(f"{error.received}; {error.mend}")
        pairs = report["train"] + report["eval"]
        report = {**report, "pairs": pairs, "chosen_longer": report["chosen_longer"] / (pairs - report["ties_kept"])}
        report |= {key: dict(+report[key]) for key in ("rejected", "comparisons")}
    lost = sum(count for reason, count in report["rejected"].items() if reason not in module.BY_CHOICE)
    if lost > args.max_rejected * report["rows"]:
        warnings.append(f"{lost} of {report['rows']} rows cannot be used; the format stage will refuse: --max-rejected")
    if proposed:
        warnings.append(f"a proposal, so look at the rows below; to use it: {as_flags(mapping)}")
    elif mapping and share < 0.95:
        others = {other for row in sample for other, _ in schemas.readings(row)} - {name}
        warnings.append(f"only {share:.0%} of the first rows are {name}; others: {', '.join(others) or 'unknown'}")
    for column in dict.fromkeys(c for row in sample for c, text in row.items() if str(text).startswith("[{'")):
        if any(isinstance(row.get(column), str) for row in sample):
            written = "messages as Python writes them, which are read as plain text"
            warnings.append(f"{column} holds {written}: write jsonl or parquet, or JSON in the cells")
    for benchmark in schemas.benchmarks_in(sample):
        mend = "keep it for `run benchmark` and as [audit] against"
        warnings.append(f"rows of {benchmark}: a model trained on a benchmark can no longer be judged by it; {mend}")
    held_out = report["eval"] / report["pairs"]
    if report["pairs"] >= 500 and not 0.5 < held_out / args.eval_fraction < 2:
        few = "few prompts have most pairs, or many begin alike; --split-by COLUMN, or --pairs-per-prompt"
        warnings.append(f"{held_out:.1%} of the pairs are held out, not {args.eval_fraction:.0%}: {few}")
    if abs(report["chosen_longer"] - 0.5) > 0.15:
        warnings.append(f"chosen is the longer answer in {report['chosen_longer']:.0%}: length alone tells much")
    if len(prompts) < report["pairs"] / 2:
        warnings.append(
            f"{report['pairs']} pairs share {len(prompts)} prompts; the split keeps each prompt on one side"
        )
    if report["prompt_part_empty"]:
        lacking = f"{report['prompt_part_empty']} rows have nothing in a part of --prompt {args.prompt}"
        warnings.append(f"{lacking}: their prompts lack it")
    measured = tokens.measure(kept, model, max_length, chat_template) if model else None
    warnings += tokens.warnings(measured) if measured else []
    return {
        "schema": name or "mapped by hand",
        "mapping": {key: value for key, value in values.items() if key != "data"},
        "proposed": as_flags(mapping) if proposed else "",
        "not_used": unused_columns(sample, args),
        "data": list(sources),
        **{key: report[key] for key in ("rows", "used", "pairs", "ties", "rejected", "train", "eval", "chosen_longer")},
        **{key: report[key] for key in ("comparisons", "ties_kept")},
        "prompts": len(prompts),
        **summary(seen),
        "tokens": measured,
        "warnings": warnings,
        "rejected_examples": unused.first,
        "samples": samples,
    }


def new_statistics():
    lengths = {side: collections.Counter() for side in ("prompt", "chosen", "rejected")}
    return {**lengths, "multi_turn": 0, "system": 0, "thinking": 0}


def note(seen, pair):
    """Add one pair to the running statistics. Lengths from 10,000 on are rounded to 100, so that memory is bounded."""
    for side in ("prompt", "chosen", "rejected"):
        length = sum(len(message["content"]) for message in pair[side])
        seen[side][length if length < 10_000 else round(length, -2)] += 1
    seen["multi_turn"] += sum(message["role"] == "user" for message in pair["prompt"]) > 1
    seen["system"] += pair["prompt"][0]["role"] == "system"
    answers = pair["chosen"][-1], pair["rejected"][-1]
    seen["thinking"] += any("thinking" in answer or "</think>" in answer["content"] for answer in answers)


def summary(seen):
    """Running statistics -> medians and 95th percentiles of the characters, and counts."""

    def spread(counts):
        lengths, total = sorted(counts), sum(counts.values())
        ends = list(itertools.accumulate(counts[length] for length in lengths))
        places = {"p50": total // 2, "p95": int(0.95 * (total - 1))}
        return {name: lengths[bisect.bisect_right(ends, place)] for name, place in places.items()}

    characters = {side: spread(seen[side]) for side in ("prompt", "chosen", "rejected")}
    return {"characters": characters, **{key: seen[key] for key in ("multi_turn", "system", "thinking")}}


def as_text(found):
    """The report for people."""
    rejected = ", ".join(f"{count} {reason}" for reason, count in found["rejected"].items()) or "none"
    mapping = " ".join(f"{key}={value!r}" for key, value in found["mapping"].items())
    used, ties = f"{found['pairs']} pairs", "ties"
    if found["used"] != found["pairs"]:
        used, ties = f"{found['used']} used for {used}", "of ties alone"
    compared = ", ".join(f"{count} {what}" for what, count in sorted(found["comparisons"].items()))
    lines = [
        f"schema    {found['schema']}  ({mapping})",
        f"rows      {found['rows']} = {used} + {found['ties']} {ties} + rejected: {rejected}",
        *[f"compared  {sum(found['comparisons'].values())} = {compared}"] * (found["used"] != found["pairs"]),
        f"prompts   {found['prompts']}; {found['multi_turn']} multi-turn, {found['system']} with a system prompt, "
        f"{found['thinking']} with thinking",
        f"length    chosen is longer in {found['chosen_longer']:.1%}; characters (median, 95 %): "
        + ", ".join(f"{side} {c['p50']}, {c['p95']}" for side, c in found["characters"].items()),
        f"split     {found['train']} train + {found['eval']} eval",
    ]
    lines += [f"not used  {', '.join(found['not_used'])}"[:160]] if found["not_used"] else []
    lines += tokens.as_lines(found["tokens"]) if found["tokens"] else []
    lines += [f"warning   {warning}" for warning in found["warnings"]]
    for example in found["rejected_examples"]:
        label = "tie" if example["reason"] == "tie" else "rejected"
        lines.append(f"{label:9} {example['file']} row {example['row']}: {example['reason']}, {example['detail']}")
    for pair in found["samples"]:
        for side in ("prompt", "chosen", "rejected"):
            text = " ".join(f"[{m['role']}] {m['content']}" for m in pair[side]).replace("\n", " ")
            lines.append(f"{side:9} {text if len(text) <= 160 else text[:157] + '...'}")
    return "\n".join(lines)
