# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Think pairs: make preference pairs about thinking from completions that are known to be right or wrong.

A right completion is chosen over a wrong one of the same prompt (poor), its own answer without thinking (absent), its
thinking cut off (cut), one step repeated over and over (repeated), or the thinking of another question before its own
answer (unfaithful). Writes rows that format.py reads, and a report of what became of every input row.
"""

import argparse
import bisect
import collections
import csv
import functools
import gzip
import io
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

RENDERED_BY = {{rendered_by}}
KINDS = ("poor", "absent", "cut", "repeated", "unfaithful")


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


# %% Reading completions
{{shared("read_rows")}}


{{shared("messages")}}


{{shared("labelled_steps")}}


{{shared("completions")}}


{{shared("thinking")}}


{{shared("step_ends")}}


def read_completions(args, counts):
    """Every completion with thinking and a label: (prompt, thinking, answer, correct)."""
    for file, number, row, problem in read_rows(args.data, args.split):
        counts["rows"] += 1
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            found = as_completions(row, args.label)
        except (Reject, TypeError, ValueError, LookupError) as error:
            reason = error.args[0] if isinstance(error, Reject) else "wrong_type"
            print(f"{file} row {number}: {': '.join(map(str, error.args))[:200]}", file=sys.stderr)
            counts[f"row_{reason}"] += 1
            continue
        for prompt, message, correct, _ in found:
            thinking, answer = message.get("thinking", ""), message["content"]
            if not thinking:
                rule = Convention(r"(?!)", re.escape(args.close)) if args.close else None
                split = split_thinking(message["content"], bool(args.close), rule)
                thinking, answer = split.thinking, split.answer
            counts["completions"] += 1
            lacks = "no_label" if correct is None else "no_thinking" if not thinking.strip() else ""
            counts[lacks or ("right" if correct else "wrong")] += 1
            if not lacks:
                yield prompt, thinking.strip(), answer.strip(), correct


# %% From a good completion to a worse one
def written(thinking, answer):
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


def steps_of(thinking, kind):
    """The steps of a text; joined they are the text."""
    ends = step_ends(thinking, kind)
    return [thinking[a:b] for a, b in zip([0, *ends], [*ends[:-1], len(thinking)])]


def worse(kind, good, others, sizes, rng, args):
    """The text of a worse completion than `good` (prompt, thinking, answer, correct), or None where there can be none.

    `others` are all good completions, ordered by the length of their thinking, which `sizes` holds."""
    _, thinking, answer, _ = good
    steps = steps_of(thinking, args.step)
    if kind == "absent":
        return answer or None
    if kind == "cut":
        return "<think>\n" + "".join(steps[: rng.randrange(1, len(steps))]).rstrip() if len(steps) > 1 else None
    if kind == "repeated":  # as long as what it stands against, so that length tells nothing
        at = rng.randrange(max(1, len(steps) // 2))
        said, again = "".join(steps[: at + 1]).rstrip(), "\n" + steps[at].strip()
        while len(said) + len(again) / 2 < len(thinking) and len(steps) > 1:
            said += again
        return written(said, answer) if said.count(again.strip()) > 1 else None
    place = bisect.bisect_left(sizes, len(thinking))
    near = [other for other in others[max(0, place - 8) : place + 8] if other[0] != good[0] and other[1] != thinking]
    return written(rng.choice(near)[1], answer) if near else None


def match_lengths(pairs, rng):
    """As many pairs whose chosen answer is longer as pairs whose rejected one is, at every ratio of the two lengths."""
    bins = collections.defaultdict(lambda: ([], []))
    for pair in pairs:
        chosen, rejected = (len(pair[side][0]["content"]) for side in ("chosen", "rejected"))
        lower, upper = sorted((chosen, rejected))
        bins[round(8 * upper / lower) if lower < upper else 0][chosen > rejected].append(pair)
    kept = bins.pop(0, ([], []))[0]  # of one length
    for shorter, longer in bins.values():
        most = min(len(shorter), len(longer))
        kept += rng.sample(shorter, most) + rng.sample(longer, most)
    return kept


def make_pairs(completions, args, rng):
    """{kind: pairs}, each pair a row {prompt, chosen, rejected, kind}."""
    groups = collections.defaultdict(lambda: ([], []))
    for completion in completions:
        groups[json.dumps(completion[0])][completion[3]].append(completion)
    others = sorted((c for c in completions if c[3]), key=lambda c: len(c[1]))
    sizes = [len(thinking) for _, thinking, _, _ in others]
    pairs = {kind: [] for kind in args.kinds}
    for wrong, right in groups.values():
        for kind in args.kinds:
            for good in right:
                poor = [written(*bad[1:3]) for bad in rng.sample(wrong, min(len(wrong), args.each))]
                made = (
                    poor if kind == "poor" else [worse(kind, good, others, sizes, rng, args) for _ in range(args.each)]
                )
                for text in dict.fromkeys(filter(None, made)):
                    sides = {"chosen": written(*good[1:3]), "rejected": text}
                    answers = {side: [{"role": "assistant", "content": said}] for side, said in sides.items()}
                    pairs[kind] += [{"prompt": good[0], **answers, "kind": kind}]
    return pairs


# %% Run
def main(args):
    rng, counts, report = random.Random(args.seed), collections.Counter(), {}
    if not args.data:
        refuse("no completions named", "files of prompt + responses + labels, or of labelled steps", "--data FILE", 2)
    if unknown := set(args.kinds) - set(KINDS):
        refuse(f"--kinds {' '.join(unknown)}", f"some of {', '.join(KINDS)}", f"--kinds {' '.join(KINDS)}", 2)
    completions = list(read_completions(args, counts))
    told = ", ".join(f"{n} {name}" for name, n in counts.items())
    if not counts["right"]:
        mend = f"--label COLUMN (now {args.label}), or --close TEXT where the thinking has no tags"
        refuse(f"no completion that is right and has thinking: {told}", "some that are, labelled", mend)
    made, rows = make_pairs(completions, args, rng), []
    for kind, pairs in made.items():
        kept = match_lengths(pairs, rng) if args.match_length else pairs
        lengths = [[len(p[side][0]["content"]) for side in ("chosen", "rejected")] for p in kept]
        share = sum((c > r) + (c == r) / 2 for c, r in lengths) / len(kept) if kept else None
        report[kind] = {"pairs": len(kept), "dropped_for_length": len(pairs) - len(kept), "chosen_longer": share}
        rows += kept
    if not rows:
        refuse(
            f"no pair from {told}", "right and wrong completions of one prompt, or other --kinds", "--no-match-length"
        )
    rng.shuffle(rows)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".partial")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(beside, out)
    facts = {"rows": len(rows), "counts": counts, "kinds": report, "rendered_by": RENDERED_BY, "parameters": vars(args)}
    out.with_name(f"{out.name}.report").write_text(json.dumps(facts, indent=2) + "\n")
    print(told)
    for kind, found in report.items():
        share = "" if found["chosen_longer"] is None else f", chosen longer in {found['chosen_longer']:.1%}"
        print(f"{kind:11}{found['pairs']:>7} pairs, {found['dropped_for_length']} dropped for their length{share}")
    print(f"written to {out}; next: python run/format.py --data {out} --source kind")


{{shared("run")}}
