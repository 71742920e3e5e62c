# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Format: turn preference data into clean pairs, with every row accounted for.

Writes train.parquet and eval.parquet (prompt, chosen and rejected as messages; source and prompt_id; margin, tie,
ratings and attributes if the data has them), rejected.jsonl with every row that was not used and why, and report.json.
rows = used + ties + rejected, always.
"""

import argparse
import collections
import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import time
import unicodedata
from pathlib import Path

RENDERED_BY = {{rendered_by}}


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


# %% Reading rows
{{shared("progress")}}


{{shared("read_rows")}}


# %% From a row to comparisons
{{shared("messages")}}


{{shared("look_up")}}


{{shared("transcript")}}


# % if kind != "transcripts"
{{shared("dialogue")}}


# % endif
# % if kind in ("pairs", "choice", "ratings", "rated_rows")
{{shared("candidate")}}


# % endif
# % if kind in ("pairs", "choice")
{{shared("add_ratings")}}


# % endif
# % if kind not in ("transcripts", "choice")
{{shared("choose_pairs")}}


# % endif
# % if kind in ("ratings", "rated_rows")
{{shared("rated")}}


# % endif
# % if kind in ("ratings", "rated_rows", "steps", "next_steps")
{{shared("compare")}}


# % endif
{{shared("convert_" + kind)}}


# %% From a comparison to a pair
def check(prompt, chosen, rejected):
    """Reject what would train wrong without any error: TRL itself accepts all of these."""
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", f"{name} ends with {answer[-1]['role'] if answer else 'nothing'}")
        if not (answer[-1]["content"].strip() or answer[-1].get("thinking", "").strip()):
            raise Reject(f"empty_{name}", f"{name} has no text")
    if not any(message["content"].strip() for message in prompt):
        raise Reject("empty_prompt", "no prompt text")
    if chosen == rejected:
        raise Reject("identical", "chosen and rejected are the same")
    asked = prompt[-1]["content"]
    if all(
        a[0]["role"] == "user" or len(asked) >= 20 and a[0]["content"].startswith(asked) for a in (chosen, rejected)
    ):
        raise Reject("doubled_prompt", "both answers begin with the prompt, which would then stand there twice")


{{shared("beginning_of")}}


def digest_of(text):
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def split_of(together, seed, eval_fraction):
    """The side, "train" or "eval", of all with this text, by a hash of it: new rows move no old ones."""
    return "eval" if int(digest_of(f"{seed}:{together}")[:8], 16) / 2**32 < eval_fraction else "train"


def as_pair(comparison, source, args):
    """A comparison as a row to write, or a Reject that says why it is none."""
    if isinstance(comparison, Reject):
        raise comparison
    better, worse, tie = comparison["better"], comparison["worse"], comparison.get("tie")
    if better["prompt"] != worse["prompt"]:
        raise Reject("diverging_context", "the dialogues differ before the last answer")
    if tie and not args.keep_ties:
        raise Reject("tie", tie if isinstance(tie, str) else "both answers are rated alike")
    if comparison.get("contradicted"):
        raise Reject("contradicts_rating", f"chosen is rated {better['rating']}, rejected {worse['rating']}")
    check(better["prompt"], better["answer"], worse["answer"])
    pair = {"prompt": better["prompt"], "chosen": better["answer"], "rejected": worse["answer"], "source": source}
    pair |= {"prompt_id": digest_of(text_of(better["prompt"]))[:16]}
    pair |= {"tie": bool(tie)} if args.keep_ties else {}
    gap = comparison.get("margin", better["rating"] - worse["rating"] if "rating" in better else None)
    if "margin" in comparison or args.margin_scale:
        if gap is None:
            raise Reject("no_rating", "--margin-scale divides a margin or the gap of two ratings, and there is none")
        pair["margin"] = gap / (args.margin_scale or 1)
        if pair["margin"] < 0:  # a loss that multiplies by it would learn the opposite
            raise Reject("contradicts_rating", f"the margin by which chosen is better is {gap}")
    for name in ("rating", "attributes"):
        if name in better:
            pair |= {f"chosen_{name}": better[name], f"rejected_{name}": worse[name]}
    turns = itertools.chain(better["prompt"], better["answer"], worse["answer"])
    "".join([source, *itertools.chain(*map(dict.values, turns))]).encode()  # a lone surrogate is no text, and raises
    return pair


# %% Every row to its place
MENDS = {
    "not_json": "mend the line: one object on each, no comma after it (jq -c . FILE > NEW)",
    "not_utf8": "iconv -f latin1 -t utf-8 FILE > NEW",
    "not_utf8_or_ragged": "iconv -f latin1 -t utf-8 FILE > NEW, or put fields that hold separators in quotes",
    "missing_column": "name the columns: --prompt, --chosen, --rejected, --responses, --ratings",
    "unknown_role": "use the roles system, user, assistant, tool (or human, gpt, ai, bot, model, prompter)",
    "unknown_label": "say what the label means: --winner, --a-wins, --b-wins, --ties",
    "unsupported_field": "write the call into the content, or leave these rows out",
    "two_thinkings": "keep one of reasoning_content, reasoning and thinking, as text",
    "doubled_prompt": "--prompt '' where chosen and rejected include the prompt",
    "last_turn_not_assistant": "end both answers with a turn of the assistant",
    "diverging_context": "the two dialogues may differ in the last answer only",
    "not_text": "use data without images or sound: the reward model reads text",
    "no_rating": "mend these rows or leave them out; or name another column: --ratings, --margin",
    "no_partner": "add other answers to the same prompt; labels of single answers are for KTO, not for a reward model",
    "over_cap": "raise --pairs-per-prompt",
    "duplicate_answer": "nothing: the same answer to the same prompt is there already",
    "contradicts_rating": "--ratings with nothing after it and --margin '', to trust chosen and rejected",
    "wrong_type": "mend these rows or leave them out; the text of all that is in a list is PATH.~, line by line",
    "tie": "nothing, or --keep-ties for a loss that can use them",
    "left_out": "nothing: --where leaves it out",
}
MEND = "mend these rows or leave them out"
BY_CHOICE = ("left_out", "over_cap")  # what the parameters ask for is no fault of the data
BAD_ROW = (Reject, TypeError, ValueError, OverflowError, RecursionError, LookupError, AttributeError)


def reason_of(error):
    """(reason to count, detail to read) of one of BAD_ROW."""
    if isinstance(error, Reject):
        return error.args
    return "not_unicode" if isinstance(error, UnicodeError) else "wrong_type", f"{error}"[:200]


def wanted(row, conditions):
    """Reject a row that fails one of the conditions of --where."""
    for condition in conditions:
        parts = re.fullmatch(r"(.+?)\s*(>=|<=|!=|==?|>|<)\s*(.*)", condition)
        if not parts:
            refuse(f"--where {condition!r}", "a path, one of = != < <= > >=, a value", "--where 'score>=2'", 2)
        path, sign, bound = parts.groups()
        value = look_up(row, path)
        if sign in ("=", "==", "!="):
            both = number_or_none(value), number_or_none(bound)
            same = str(value) == bound or None not in both and both[0] == both[1]
            met = same == (sign != "!=")
        else:
            gap = number(value, path) - number(bound, "--where")
            met = gap > 0 if sign[0] == ">" else gap < 0
            met = met or "=" in sign and gap == 0
        if not met:
            raise Reject("left_out", f"not {condition}")


# % if kind != "transcripts"
def lacks_a_part(row, path):
    """Whether a text joined from several (`a+b`) has nothing in one of them."""
    joined = "+" in path and "|" not in path and path not in row
    return joined and not all(look_up(row, part) for part in path.split("+"))


# % endif
def name_of(file):
    """What a file is called without its folder and the suffixes of data."""
    name = os.path.basename(file).removesuffix(".gz")
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def converted_rows(args, report):
    """Yield ((file, row number), origin, what convert makes of the row, why it cannot be used or None). The origin is
    the source and what the split goes by, where that is not the prompt."""
    files = [file for file in find_files(args.data) if isinstance(file, Path)]
    progress = Progress(sum(file.stat().st_size for file in files))
    rows = itertools.islice(read_rows(args.data, args.split, progress.opened), args.limit or None)
    try:
        for file, place, row, problem in rows:
            report["rows"] += 1
            progress.show(report["rows"])
            try:
                if problem:
                    raise Reject(problem, "the row could not be read")
                wanted(row, args.where)
                source = str(look_up(row, args.source)) if args.source else name_of(file)
                together = look_up(row, args.split_by) if args.split_by else None
                found = convert(row, args)
                # % if kind != "transcripts"
                report["prompt_part_empty"] += lacks_a_part(row, args.prompt)
                # % endif
            except BAD_ROW as error:
                yield (file, place), None, None, reason_of(error)
            else:
                yield (file, place), (source, None if together is None else str(together)), found, None
    finally:
        progress.end()


# % if kind in ("rated_rows", "steps")
def groups(args, report):
    """Yield ({row: why it is not used, if no pair is made of it}, origin, comparisons, counts of those not made).

    Rows with the same prompt may stand anywhere, so all wait in a temporary file of SQLite's, not in memory."""
    import sqlite3

    try:
        waiting = sqlite3.connect("")
        waiting.execute("CREATE TABLE answers (prompt TEXT, answer TEXT)")
        for row, origin, answer, why in converted_rows(args, report):
            if why:
                yield {row: why}, origin, [], {}
                continue
            stored = digest_of(text_of(answer["prompt"])), json.dumps({**answer, "row": row, "origin": origin})
            waiting.execute("INSERT INTO answers VALUES (?, ?)", stored)
        waiting.execute("CREATE INDEX by_prompt ON answers (prompt)")
        stored = waiting.execute("SELECT prompt, answer FROM answers ORDER BY prompt, rowid")
        for _, group in itertools.groupby(stored, key=lambda found: found[0]):
            members, distinct = {}, {}
            for answer in (json.loads(text) for _, text in group):
                members[tuple(answer["row"])] = "duplicate_answer", "stands above with the same rating"
                distinct.setdefault(json.dumps([answer["answer"], answer["rating"]]), answer)
            made, missed = compare(list(distinct.values()), args)
            why = ("tie", "all answers are rated alike") if len(distinct) > 1 else ("no_partner", "the only answer")
            why = ("over_cap", "the prompt has enough pairs without it") if missed["over_cap"] else why
            members |= {tuple(answer["row"]): why for answer in distinct.values()}
            yield members, None, made, missed
    except sqlite3.Error as error:
        mend = "TMPDIR=FOLDER, in front of the command, names one on a larger disk"
        refuse(f"the answers that wait for their partners: {error}", "a temporary folder with room for all", mend)


# % else
def groups(args, report):
    """Yield ({row: why it is not used, if no pair is made of it}, origin, comparisons, counts of those not made)."""
    for row, origin, found, why in converted_rows(args, report):
        made, missed = found or ([], {})
        alone = ("tie", "all answers are rated alike") if missed.get("tie") else ("no_partner", "nothing to compare")
        yield {row: why or alone}, origin, made, missed


# % endif
# % if kind == "choice"
def count_judgements(report, source, comparison):
    """Count of each source how many judgements of the raters, taken two by two, say the same of two answers."""
    votes = collections.Counter(comparison["votes"]) if isinstance(comparison, dict) else {}
    counts = report["sources"].setdefault(source, dict.fromkeys(("a_wins", "b_wins", "judged_twice", "agree"), 0))
    counts["judged_twice"] += math.comb(sum(votes.values()), 2)
    counts["agree"] += sum(math.comb(count, 2) for count in votes.values())


# % endif
def read_pairs(args, report, unused):
    """Yield (split, pair); count every row in `report`, write those not used to the file `unused`."""
    for members, origin, comparisons, missed in groups(args, report):
        report["comparisons"].update(missed)
        used, lost = set(), {}
        for comparison in comparisons:
            rows = members
            # % if kind == "choice"
            count_judgements(report, origin[0], comparison)
            # % endif
            try:
                # % if kind in ("rated_rows", "steps")
                rows = [tuple(comparison[side]["row"]) for side in ("better", "worse")]
                origin = comparison["better"]["origin"]
                # % endif
                pair = as_pair(comparison, origin[0], args)
            except BAD_ROW as error:
                why = reason_of(error)
                report["comparisons"][why[0]] += 1
                lost |= dict.fromkeys(rows, why)
                continue
            together = beginning_of(pair["prompt"]) if origin[1] is None else origin[1]
            side = split_of(together, args.seed, args.eval_fraction)
            yield side, pair
            used.update(rows)
            report[side] += 1
            report["comparisons"]["pair"] += 1
            report["ties_kept"] += (tied := pair.get("tie", False))
            # % if kind == "choice"
            report[comparison["place"]] += not tied
            report["sources"][origin[0]][comparison["place"]] += not tied
            # % endif
            longer = [sum(len(m["content"]) for m in pair[answer]) for answer in ("chosen", "rejected")]
            report["chosen_longer"] += not tied and (longer[0] > longer[1]) + (longer[0] == longer[1]) / 2
        for (file, place), (reason, detail) in (members | lost).items():
            told = {"file": file, "row": place, "reason": reason, "detail": detail, "mend": MENDS.get(reason, MEND)}
            if (file, place) not in used:
                report["ties"] += reason == "tie"
                report["rejected"][reason] += reason != "tie"
                report["examples"].setdefault(reason, f"{file} row {place}: {detail}")
                unused.write(json.dumps(told) + "\n")
                continue
            report["used"] += 1
            if (file, place) in lost and reason != "tie":
                unused.write(json.dumps({**told, "used": "with its other answers"}) + "\n")


def new_report():
    names = ["rows", "used", "ties", "train", "eval", "ties_kept", "chosen_longer", "prompt_part_empty"]
    # % if kind == "choice"
    names += ["a_wins", "b_wins"]  # whether the place of an answer tells which is better
    # % endif
    counts = dict.fromkeys(names, 0)
    # % if kind == "choice"
    counts["sources"] = {}
    # % endif
    return counts | {"rejected": collections.Counter(), "comparisons": collections.Counter(), "examples": {}}


def judge(report, args):
    """Complete the report, or refuse data from which nothing good can come, with the flag that mends it."""
    reasons = (+report["rejected"]).most_common()
    pairs, lost = report["train"] + report["eval"], sum(n for reason, n in reasons if reason not in BY_CHOICE)
    strict = pairs - report["ties_kept"]
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    worst = reasons[0][0] if reasons else ""
    mend, example = MENDS.get(worst, MEND), report["examples"].get(worst)
    such_as = f", such as {example}" if example else ""
    if not report["rows"]:
        refuse(f"{' '.join(args.data)} holds no rows", "at least one preference pair", "another file")
    if not strict:
        found = f"none of {report['rows']} rows is a pair; ties: {report['ties']}, rejected: {counted}{such_as}"
        refuse(found, "rows with a prompt, a better and a worse answer", mend)
    if lost > args.max_rejected * report["rows"]:
        found = f"{lost} of {report['rows']} rows rejected: {counted}{such_as}"
        refuse(found, f"at most {args.max_rejected:.0%}", f"{mend}; or --max-rejected 1")
    if not report["train"] or not report["eval"]:
        found = f"a split is empty: {report['train']} train and {report['eval']} eval pairs"
        refuse(found, "pairs on both sides", "more prompts, --eval-fraction 0.3, --split-by COLUMN, or another --seed")
    report["chosen_longer"] /= strict
    return report | {"pairs": pairs, "rejected": dict(reasons), "comparisons": dict(+report["comparisons"])}, counted


def columns(args):
    """Schema of the files to write; the optional columns stand there where the parameters make them."""
    import pyarrow

    text, real = pyarrow.string(), pyarrow.float64()
    messages = pyarrow.list_(pyarrow.struct([(name, text) for name in ("role", "content", "thinking")]))
    names = [(name, messages) for name in ("prompt", "chosen", "rejected")] + [("source", text), ("prompt_id", text)]
    given = {name for name, value in vars(args).items() if value}  # not every kind has each parameter
    names += [("margin", real)] * bool(given & {"margin", "margin_scale"}) + [("tie", pyarrow.bool_())] * args.keep_ties
    for name, kind in (("rating", real), ("attributes", pyarrow.list_(real))):
        if given & {f"{name}s", name}:
            names += [(f"chosen_{name}", kind), (f"rejected_{name}", kind)]
    return pyarrow.schema(names)


def write_pairs(args, folder):
    """Write the data set into an empty folder, or refuse. Returns its report and the rejected rows as text."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema, report, digest = columns(args), new_report(), hashlib.sha256()
    waiting = {"train": [], "eval": []}
    writers = {side: ParquetWriter(folder / f"{side}.parquet", schema) for side in waiting}
    with open(folder / "rejected.jsonl", "w") as unused:
        for side, pair in read_pairs(args, report, unused):
            digest.update(json.dumps(pair).encode())
            waiting[side].append(pair)
            if len(waiting[side]) == 1000:
                writers[side].write_table(pyarrow.Table.from_pylist(waiting[side], schema))
                waiting[side].clear()
    for side, writer in writers.items():
        writer.write_table(pyarrow.Table.from_pylist(waiting[side], schema))
        writer.close()
    report, counted = judge(report, args)
    # % if kind in ("ratings", "rated_rows")
    report |= {"attributes": args.attributes}
    # % endif
    report |= {"data_sha256": digest.hexdigest(), "rendered_by": RENDERED_BY, "parameters": vars(args)}
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report, counted


{{shared("replace_folder")}}


def main(args):
    out, written = Path(args.out).resolve(), {"train.parquet", "eval.parquet", "rejected.jsonl", "report.json"}
    if others := sorted({p.name for p in out.iterdir()} - written) if out.is_dir() else [out.name] * out.exists():
        found = f"{args.out} holds {', '.join(others[:5])}, which would be deleted"
        refuse(found, "a folder of its own", "--out OTHER")
    beside = out.with_name(out.name + ".partial")  # written beside, then renamed: never half a data set
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        report, counted = write_pairs(args, beside)
        replace_folder(beside, out)
    except OSError as error:
        refuse(f"{args.out}: {error}", "a folder that can be written, on a disk with room", "--out OTHER")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    used = f"{report['used']} used for " if report["used"] != report["pairs"] else ""
    print(f"{report['rows']} rows: {used}{report['pairs']} pairs, {report['ties']} ties; rejected: {counted}")
    if report["used"] != report["pairs"]:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(report["comparisons"].items()))
        print(f"{sum(report['comparisons'].values())} comparisons within them: {counts}")
    # % if kind != "transcripts"
    if report["prompt_part_empty"]:
        print(f"{report['prompt_part_empty']} rows have nothing in a part of {args.prompt}: their prompts lack it")
    # % endif
    there = f"in {args.out}; see report.json and rejected.jsonl there"
    print(f"{report['train']} train + {report['eval']} eval pairs {there}")
    longer = report["chosen_longer"]
    print(f"length alone is right in {max(longer, 1 - longer):.1%}: a model must beat that")


# %% Run
{{shared("run")}}
