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
    "missing_column": "name the columns: --prompt, --chosen, --rejected",
    "unknown_role": "use the roles system, user, assistant, tool (or human, gpt)",
    "unknown_label": "say what the label means: --winner, --a-wins, --b-wins, --ties",
    "doubled_prompt": "--prompt '' where chosen and rejected include the prompt",
    "diverging_context": "the two dialogues may differ in the last answer only",
}


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
            yield side, pair | ({"margin": float(look_up(row, args.margin))} if args.margin else {})
            report[side] += 1
            longer = [sum(len(m["content"]) for m in answer) for answer in (chosen, rejected)]
            report["chosen_longer"] += (longer[0] > longer[1]) + (longer[0] == longer[1]) / 2
        except (Reject, TypeError, ValueError) as error:
            reason, detail = error.args if isinstance(error, Reject) else ("wrong_type", str(error)[:200])
            report["ties"] += reason == "tie"
            report["rejected"][reason] += reason != "tie"
            mend = MENDS.get(reason, "mend or leave out the row")
            unused.write(
                json.dumps({"file": file, "row": number, "reason": reason, "detail": detail, "mend": mend}) + "\n"
            )
        report["rows"] = count
        if count == args.limit:
            break


def new_report():
    return {"rows": 0, "train": 0, "eval": 0, "ties": 0, "chosen_longer": 0, "rejected": collections.Counter()}


def judge(report, args):
    """Complete the report, or refuse data from which nothing good can come, with the flag that mends it."""
    reasons = (+report["rejected"]).most_common()
    pairs, lost = report["train"] + report["eval"], sum(count for _, count in reasons)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    mend = MENDS.get(reasons[0][0] if reasons else "", "read rejected.jsonl")
    if not report["rows"]:
        refuse(f"{' '.join(args.data)} holds no rows", "at least one preference pair", "another file")
    if not pairs:
        refuse(f"none of {report['rows']} rows is a pair; ties: {report['ties']}, rejected: {counted}", "pairs", mend)
    if lost > args.max_rejected * report["rows"]:
        refuse(
            f"{lost} of {report['rows']} rows rejected: {counted}",
            f"{args.max_rejected:.0%}",
            f"{mend}; --max-rejected 1",
        )
    if not report["train"] or not report["eval"]:
        refuse(f"a split is empty: {report}", "pairs on both sides", "--eval-fraction 0.3, or another --seed")
    report["chosen_longer"] /= pairs
    return report | {"pairs": pairs, "rejected": dict(reasons)}, counted


def main(args):
    import pyarrow
    import pyarrow.parquet

    text, message = pyarrow.string(), pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    columns = [(name, pyarrow.list_(message)) for name in ("prompt", "chosen", "rejected")]
    columns += [("source", text), ("prompt_id", text)] + [("margin", pyarrow.float64())] * bool(args.margin)
    schema, report, digest = pyarrow.schema(columns), new_report(), hashlib.sha256()
    beside = Path(args.out.rstrip("/") + ".partial")  # written beside, then renamed: never half a data set
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    waiting = {"train": [], "eval": []}
    writers = {side: pyarrow.parquet.ParquetWriter(beside / f"{side}.parquet", schema) for side in waiting}
    with open(beside / "rejected.jsonl", "w") as unused:
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
    (beside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(args.out, ignore_errors=True)
    os.replace(beside, args.out)
    print(f"{report['rows']} rows: {report['pairs']} pairs, {report['ties']} ties; rejected: {counted}")
    print(
        f"{report['train']} train + {report['eval']} eval pairs in {args.out}; see report.json and rejected.jsonl there"
    )
    print(f"preferring the longer answer is right in {report['chosen_longer']:.1%}: a model must beat that")


# %% Run
if __name__ == "__main__":
    main(parameters())
