# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Format: preference data in, clean pairs out, every row accounted for.

Writes train.parquet and eval.parquet (prompt, chosen and rejected as messages; source, prompt_id, margin),
rejected.jsonl with each row that was not used and why, and report.json. rows = pairs + ties + rejected, always.
"""

import argparse
import collections
import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

RENDERED_BY = {{rendered_by}}


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    {{flags}}
    return parser.parse_args([] if "ipykernel" in sys.modules else argv)


# %% Reading rows
{{shared("read_rows")}}


# %% From a row to a pair
{{shared("messages")}}


{{shared("convert_" + kind)}}


def check(prompt, chosen, rejected):
    """Reject what would train wrong without any error: TRL itself accepts all of these."""
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", f"{name} ends with {answer[-1]['role'] if answer else 'nothing'}")
        if not answer[-1]["content"].strip():
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


def split_of(prompt, seed, eval_fraction):
    """("train" or "eval", prompt id), by a hash of the prompt: no prompt is on both sides, new rows move no old ones.
    Prompts that differ only in case, spaces or punctuation stay together."""
    text = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    near = f"{seed}:" + re.sub(r"[\W_]+", " ", text.lower())
    share = int(hashlib.sha256(near.encode("utf-8", "replace")).hexdigest()[:8], 16) / 2**32
    prompt_id = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return "eval" if share < eval_fraction else "train", prompt_id


# %% Every row to its place
MENDS = {
    "not_json": "mend the line",
    "not_utf8": "iconv -f latin1 -t utf-8 FILE > NEW",
    "not_utf8_or_ragged": "iconv -f latin1 -t utf-8 FILE > NEW, or put the fields in quotes",
    "missing_column": "name the columns: --prompt, --chosen, --rejected",
    "unknown_role": "use the roles system, user, assistant, tool (or human, gpt)",
    "unknown_label": "say what the label means: --winner, --a-wins, --b-wins, --ties",
    "unsupported_field": "write it into the content, as in <think>…</think>",
    "doubled_prompt": "--prompt '' where chosen and rejected include the prompt",
    "last_turn_not_assistant": "end both answers with a turn of the assistant",
    "diverging_context": "the two dialogues may differ in the last answer only",
}
MEND = "mend these rows or leave them out"


def finite(value):
    """A margin as a number; NaN and infinity would spoil every weight in one step."""
    if not math.isfinite(number := float(value)):
        raise ValueError(f"margin {number} is not finite")
    return number


def read_pairs(args, report, unused):
    """Yield (split, pair); count every row in `report`, write those not used to the file `unused`."""
    for count, (file, number, row, problem) in enumerate(read_rows(args.data, args.split), 1):
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            prompt, chosen, rejected = convert(row, args)
            check(prompt, chosen, rejected)
            side, prompt_id = split_of(prompt, args.seed, args.eval_fraction)
            source = str(look_up(row, args.source)) if args.source else Path(file).name.split(".")[0]
            pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": source, "prompt_id": prompt_id}
            pair |= {"margin": finite(look_up(row, args.margin))} if args.margin else {}
            json.dumps(pair, ensure_ascii=False).encode()  # a lone surrogate is no text and raises here
            yield side, pair
            report[side] += 1
            longer = [sum(len(m["content"]) for m in answer) for answer in (chosen, rejected)]
            report["chosen_longer"] += (longer[0] > longer[1]) + (longer[0] == longer[1]) / 2
        except (Reject, TypeError, ValueError, OverflowError, RecursionError) as error:
            kind = "not_unicode" if isinstance(error, UnicodeError) else "wrong_type"
            reason, detail = error.args if isinstance(error, Reject) else (kind, str(error)[:200])
            report["ties"] += reason == "tie"
            report["rejected"][reason] += reason != "tie"
            report["examples"].setdefault(reason, f"{file} row {number}: {detail}")
            told = {"file": file, "row": number, "reason": reason, "detail": detail, "mend": MENDS.get(reason, MEND)}
            unused.write(json.dumps(told) + "\n")
        report["rows"] = count
        if count == args.limit:
            break


def new_report():
    counts = {"rows": 0, "train": 0, "eval": 0, "ties": 0, "chosen_longer": 0}
    return counts | {"rejected": collections.Counter(), "examples": {}}


def judge(report, args):
    """Complete the report, or refuse data from which nothing good can come, with the flag that mends it."""
    reasons = (+report["rejected"]).most_common()
    pairs, lost = report["train"] + report["eval"], sum(count for _, count in reasons)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    worst = reasons[0][0] if reasons else ""
    mend, example = MENDS.get(worst, MEND), report["examples"].get(worst)
    such_as = f", such as {example}" if example else ""
    if not report["rows"]:
        refuse(f"{' '.join(args.data)} holds no rows", "at least one preference pair", "another file")
    if not pairs:
        found = f"none of {report['rows']} rows is a pair; ties: {report['ties']}, rejected: {counted}{such_as}"
        refuse(found, "rows with a prompt, a better and a worse answer", mend)
    if lost > args.max_rejected * report["rows"]:
        found = f"{lost} of {report['rows']} rows rejected: {counted}{such_as}"
        refuse(found, f"at most {args.max_rejected:.0%}", f"{mend}; or --max-rejected 1")
    if not report["train"] or not report["eval"]:
        found = f"a split is empty: {report['train']} train and {report['eval']} eval pairs"
        refuse(found, "pairs on both sides", "more prompts, --eval-fraction 0.3, or another --seed")
    report["chosen_longer"] /= pairs
    return report | {"pairs": pairs, "rejected": dict(reasons)}, counted


def write_pairs(args, folder):
    """Write the data set into an empty folder, or refuse. Returns its report and the rejected rows as text."""
    import pyarrow
    import pyarrow.parquet

    text, message = pyarrow.string(), pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    columns = [(name, pyarrow.list_(message)) for name in ("prompt", "chosen", "rejected")]
    columns += [("source", text), ("prompt_id", text)] + [("margin", pyarrow.float64())] * bool(args.margin)
    schema, report, digest = pyarrow.schema(columns), new_report(), hashlib.sha256()
    waiting = {"train": [], "eval": []}
    writers = {side: pyarrow.parquet.ParquetWriter(folder / f"{side}.parquet", schema) for side in waiting}
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
    report |= {"data_sha256": digest.hexdigest(), "rendered_by": RENDERED_BY, "parameters": vars(args)}
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report, counted


def main(args):
    out, written = Path(args.out), {"train.parquet", "eval.parquet", "rejected.jsonl", "report.json"}
    if others := sorted({p.name for p in out.iterdir()} - written) if out.is_dir() else [out.name] * out.exists():
        refuse(f"{out} holds {', '.join(others[:5])}, which would be deleted", "a folder of its own", "--out OTHER")
    beside = out.with_name(out.name + ".partial")  # written beside, then renamed: never half a data set
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        report, counted = write_pairs(args, beside)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{report['rows']} rows: {report['pairs']} pairs, {report['ties']} ties; rejected: {counted}")
    there = f"in {args.out}; see report.json and rejected.jsonl there"
    print(f"{report['train']} train + {report['eval']} eval pairs {there}")
    longer = report["chosen_longer"]
    print(f"length alone is right in {max(longer, 1 - longer):.1%}: a model must beat that")


# %% Run
if __name__ == "__main__":
    main(parameters())
