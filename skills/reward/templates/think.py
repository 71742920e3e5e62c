# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Think: score the thinking in completions, and not only their answers.

Writes items.jsonl (every measure of every completion), metrics.json (area under the ROC curve of each measure against
the labels, if there are any) and report.html. A measure that cannot be taken is null, never 0.
"""

import argparse
import base64
import bisect
import collections
import contextlib
import csv
import functools
import gzip
import hashlib
import html
import http.client
import io
import json
import logging
import os
import re
import shutil
import statistics
import sys
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MethodType
from typing import NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import numpy as np
    import peft
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from matplotlib.figure import Figure
    from safetensors import safe_open
    from scipy.stats import rankdata
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
TEXTS = ("thinking_tokens", "answer_tokens", "steps", "repetition", "language_switches", "self_corrections", "overlong")
TEXTS += ("cut_off", "closed", "agreement")
REWARDS = ("reward", "reward_without", "difference", "largest_drop")
OTHERS = ("prm_mean", "prm_min", "prm_product", "judge")
MEASURES = (*TEXTS, *REWARDS, *OTHERS)


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


{{shared("replace_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


{{shared("read_weights")}}


# %% Reading rows
{{shared("read_rows")}}


{{shared("messages")}}


{{shared("labelled_steps")}}


{{shared("completions")}}


def read_items(args):
    """Every completion of the data as a dict; with error where it cannot be scored."""
    items = []
    for file, number, row, problem in read_rows(args.data, args.split):
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            if re.search("[\ud800-\udfff]", json.dumps(row, ensure_ascii=False, default=str)):
                raise Reject("not_unicode", "half a character, which no tokenizer takes")
            for place, (prompt, answer, correct, labelled) in enumerate(as_completions(row, args.label)):
                given, first_error = labelled or (None, None)
                item = {"file": file, "row": number, "completion": place, "correct": correct}
                item |= {"first_error": first_error, "given": given, "prompt": prompt, "message": answer}
                items.append(item)
        except (Reject, TypeError, ValueError, LookupError) as error:
            items.append({"file": file, "row": number, "error": ": ".join(map(str, error.args))[:300]})
    return items


# %% Thinking: its parts and what its text tells
{{shared("thinking")}}


def find_thinking(message, tokenizer, opened, args):
    """Thinking of an answer: from its field, else from its tags, else up to the text --close."""
    if message.get("thinking"):
        tags = tags_like("<think>")
        parts = (("thinking", message["thinking"]), ("answer", message["content"]))
        return Thinking(message["thinking"].strip(), message["content"].strip(), "closed", False, parts, tags)
    if args.close:
        return split_thinking(message["content"], True, Convention(r"(?!)", re.escape(args.close)))
    own = convention_of(tokenizer) if tokenizer else None
    if own and re.search(f"{own.open}|{own.close}", message["content"], re.DOTALL):
        return split_thinking(message["content"], False, own)
    return split_thinking(message["content"], opened)


{{shared("step_ends")}}


def cuts_of(item, kind):
    """[(text of a step, the answer's message if it had ended there)] of the thinking, or where there is none of the
    answer: the steps that came with the data, else those that the text shows."""
    found, message, at, cuts = item["found"], item["message"], 0, []
    for (part, text), (_, closing) in zip(found.parts, [*found.parts[1:], ("", "")]):
        if part == ("answer" if found.status == "absent" else "thinking"):
            end, ends = 0, [] if item["given"] else step_ends(text, kind)
            for step in item["given"] or []:
                end = text.find(step.strip(), end) + len(step.strip())
                ends.append(end)
            for start, end in zip([0, *ends], ends):
                cut = {"content": message["content"][: at + end] + closing * (part == "thinking")}
                cut = {"content": "", "thinking": text[:end]} if message.get("thinking") else cut
                cuts.append((text[start:end].strip(), {"role": "assistant", **cut}))
        at += len(text)
    return cuts


{{shared("measures")}}


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


def prefixes(item, full, tail, tokenizer, args):
    """Token ids of the conversation cut behind each step, with the template's end of turn: a list of (step, ids).

    A cut is full[:n] + tail, so all share what full holds; steps are thinned until the tails are at most half of it."""
    cuts, at = [], len(encode(item["prompt"], tokenizer, 10**9)[0]) if item["prompt"] else 0
    steps = item["cuts"]
    most = min(args.max_steps, int(len(full) / 2 / max(1, len(tail))), len(steps))
    for number in sorted({round((i + 1) * len(steps) / most) - 1 for i in range(most)}):
        cut = encode([*item["prompt"], steps[number][1]], tokenizer, 10**9)[0]
        n = next((i for i, (a, b) in enumerate(zip(full, cut)) if a != b), min(len(full), len(cut)))
        if n > at:
            cuts.append((number, full[:n] + tail))
            at = n
    return cuts


def end_of_turn(tokenizer):
    """Token ids that the chat template puts behind an answer."""
    said = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": text}] for text in ("b", "c")]
    one, other = (encode(messages, tokenizer, 10**9)[0][::-1] for messages in said)
    same = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), 0)
    return one[:same][::-1]


def score_items(items, model, tokenizer, max_length, args):
    """Adds to each item its reward, the reward without the thinking, and the rewards over its steps. Returns a summary:
    how the rows were scored, and the tokens computed for all prefixes as a share of those of the completions alone."""
    tail, groups, cuts, counts = end_of_turn(tokenizer), [], [], collections.Counter()
    for item in items:
        full, lost = encode([*item["prompt"], item["message"]], tokenizer, max_length)
        item["tokens"], item["truncated"], alone = len(full) + lost, lost > 0, None
        if item["found"].thinking and item["found"].answer:
            bare = {"role": "assistant", "content": item["found"].answer}
            alone = encode([*item["prompt"], bare], tokenizer, max_length)[0]
        counts["truncated"] += lost > 0
        counts["erased"] += full == alone
        steps = [] if lost else prefixes(item, full, tail, tokenizer, args)
        groups.append([full, *(ids for _, ids in steps), *([alone] if alone else [])])
        cuts.append((steps, alone is not None))
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    how = try_packing(model, [group[:3] for group in groups[:4]], args.packing, tolerance)
    packs = getattr(model, "packs", False)
    single = [[ids] for group in groups for ids in group]  # padded, a group of many prefixes would fill the memory
    scores = iter(score_ids(model, groups if packs else single, args.batch_tokens).tolist())
    once = with_steps = 0
    for item, group, (steps, alone) in zip(items, groups, cuts):
        full, *path = (next(scores) for _ in range(1 + len(steps)))
        without = next(scores) if alone else None
        falls = [a - b for a, b in zip(path, [*path[1:], full])]
        item |= {"reward": full, "reward_without": without, "difference": None if without is None else full - without}
        places = [number for number, _ in steps] + [len(item["cuts"])]  # the last: the answer, or the closing tag
        item |= {"path": path, "path_steps": places[:-1], "largest_drop": max(falls, default=None)}
        item["largest_drop_step"] = places[1 + int(np.argmax(falls))] if falls else None
        own = [len(ids) - skip * packs for ids, (skip, _) in zip(group, shares(group))]
        once, with_steps = once + own[0], with_steps + sum(own[: 1 + len(steps)])
    return {"batches": how, "prefix_tokens": with_steps / once, "prefixes": sum(len(c) for c, _ in cuts), **counts}


# %% Process reward model and judge
{{shared("encode_steps")}}


{{shared("process_model")}}


{{shared("first_error_f1")}}


{{shared("judge")}}


# %% Composite, figures against labels, report
{{shared("auc")}}


{{shared("html_report")}}


def figures(items, name):
    """Mean and spread of a measure, and its area under the curve against the labels; how often it is missing."""
    known = [item for item in items if item.get(name) is not None]
    values = [item[name] for item in known]
    row = {"measure": name, "items": len(values), "missing": len(items) - len(values)}
    row |= {"mean": statistics.fmean(values) if values else None, "std": statistics.pstdev(values) if values else None}
    labelled = [item for item in known if item["correct"] is not None]
    clusters = [json.dumps(item["prompt"]) for item in labelled]
    found = auc([i[name] for i in labelled], [i["correct"] for i in labelled], clusters) if labelled else None
    return row | (found or {"auc": None, "low": None, "high": None, "right": None, "wrong": None})


def draw(items, metrics):
    """The pictures of the report."""
    figure, axes = chart("Tokens of thinking", "tokens", "completions")
    sides = {"right": True, "wrong": False} if metrics["labelled"] else {"all": None}
    axes.hist(
        [[i["thinking_tokens"] for i in items if i["correct"] is side] for side in sides.values()], 30, label=[*sides]
    )
    axes.legend()
    yield figure
    areas = [row for row in metrics["measures"] if row["auc"] is not None]
    if areas:
        figure, axes = chart("Area under the curve against the labels, 95 % intervals", "0.5 is chance", "")
        figure.set_figheight(1 + 0.28 * len(areas))
        spread = [[row["auc"] - row["low"] for row in areas], [row["high"] - row["auc"] for row in areas]]
        axes.errorbar([row["auc"] for row in areas], range(len(areas)), xerr=spread, fmt="o")
        axes.axvline(0.5, color="#999")
        axes.set_yticks(range(len(areas)), [row["measure"] for row in areas])
        axes.invert_yaxis()
        yield figure
    differences = [item["difference"] for item in items if item.get("difference") is not None]
    if differences:
        figure, axes = chart("What thinking adds to the reward", "reward with thinking - reward without", "completions")
        axes.hist(differences, 30)
        axes.axvline(0, color="#999")
        yield figure


def draw_paths(items, title):
    """Reward over the steps of some items."""
    figure, axes = chart(title, "steps read", "reward")
    for item in items:
        steps = [*(n + 1 for n in item["path_steps"]), item["path_steps"][-1] + 2]
        axes.plot(
            steps, [*item["path"], item["reward"]], marker="o", label=f"row {item['row']}, {item['completion'] + 1}"
        )
    axes.legend(fontsize=8)
    return figure


def report_of(items, metrics, args):
    """The parts of report.html."""
    parts = [f"{metrics['items']} completions, {metrics['failed']} more could not be read. {metrics['about_labels']}"]
    parts += [f"! {warning}" for warning in metrics["warnings"]]
    parts += ["# How the thinking ends", [{"status": s, "completions": n} for s, n in metrics["statuses"].items()]]
    parts += ["# Measures", metrics["measures"], *draw(items, metrics)]
    ordered = sorted((item for item in items if item["composite"] is not None), key=lambda item: -item["composite"])
    for title, some in (("Best", ordered[: args.shown]), ("Worst", ordered[::-1][: args.shown])):
        parts += [f"# {title} by the composite"] * bool(some)
        paths = [item for item in some if item.get("path")]
        parts += [draw_paths(paths, f"{title}: reward as the thinking goes on")] if paths else []
        for item in some:
            found = item["found"]
            told = {True: "right", False: "wrong", None: "no label"}[item["correct"]]
            parts.append(f"Row {item['row']}, {told}, {item['status']}: composite {item['composite']:.3f}")
            asked = item["prompt"][-1]["content"] if item["prompt"] else ""
            texts = {"question": asked[-500:], "thinking": found.thinking[:700], "answer": found.answer[:300]}
            parts.append([{"part": part, "text": text} for part, text in texts.items()])
    return parts


# %% Run
def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "metrics.json")
    rubric = rubric_of(args) if args.judge else ""
    weights, everything = read_weights(args.weights, MEASURES, "--weights"), read_items(args)
    items = [item for item in everything if "error" not in item]
    if not items:
        example = f", such as: {everything[0]['error']}" if everything else ""
        refuse(
            f"no completion in {len(everything)} rows{example}",
            "prompt + response(s), messages or steps",
            "another file",
        )
    model = tokenizer = None
    if args.model:
        model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    generation = [{"role": "user", "content": "a"}]
    options = {"tokenize": False, "add_generation_prompt": True}
    opened = args.opened and tokenizer and opening_tag(tokenizer.apply_chat_template(generation, **options)) != ""

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer else len(text.split())

    for item in items:
        found = item["found"] = find_thinking(item["message"], tokenizer, bool(opened), args)
        item |= {"status": found.status, "opened": found.opened, "answer_tokens": count(found.answer)}
        item["cuts"] = cuts_of(item, args.step)
        item["steps"] = len(item["cuts"]) if found.thinking else 0
        item |= measure(found, count(found.thinking), args.budget)
    facts = {}
    if model:
        facts = score_items(items, model, tokenizer, args.max_length or reward.get("max_length", 2048), args)
        print(
            f"{facts['batches']}; prefixes cost {facts['prefix_tokens']:.2f} times the tokens of the completions alone"
        )
    if args.prm:
        process = load_process_model(args)
        for item in items:
            asked, steps = item["prompt"][-1]["content"] if item["prompt"] else "", [step for step, _ in item["cuts"]]
            scores = step_scores(asked, steps, process, args) if steps else []
            facts["prm_unread"] = facts.get("prm_unread", 0) + (scores is None)
            scores = scores or []
            item |= {"prm_steps": scores, "prm_mean": statistics.fmean(scores) if scores else None}
            item |= {"prm_min": min(scores, default=None), "prm_product": float(np.prod(scores)) if scores else None}
            item["prm_first_error"] = next((i for i, score in enumerate(scores) if score < 0.5), -1) if scores else None
        labelled = [i for i in items if i["first_error"] is not None and i["prm_first_error"] is not None]
        predicted = [item["prm_first_error"] for item in labelled]
        facts["process_bench"] = first_error_f1(predicted, [item["first_error"] for item in labelled])
    if args.judge:
        asked = [item["prompt"][-1]["content"] if item["prompt"] else "" for item in items]
        for item, (score, problem) in zip(items, judge_all(asked, [item["found"] for item in items], rubric, args)):
            item |= {"judge": score, "judge_problem": problem}
        problems = collections.Counter(item["judge_problem"] for item in items if item["judge_problem"])
        facts["judge_problems"] = dict(problems.most_common(5))
    for item in items:
        values = [item.get(name) for name in weights]
        item["composite"] = None if None in values else sum(w * v for w, v in zip(weights.values(), values))

    taken = [name for name in (*MEASURES, "composite") if any(name in item for item in items)]
    labelled, missing = sum(i["correct"] is not None for i in items), sum(i["composite"] is None for i in items)
    metrics = {"items": len(items), "failed": len(everything) - len(items), "labelled": labelled, "warnings": []}
    metrics["about_labels"] = (
        f"{labelled} have a label of correctness." if labelled else "None has a label of correctness."
    )
    lacking = [name for name in weights if any(item.get(name) is None for item in items)]
    happened = facts | {"guessed": sum(i["opened"] and i["status"] == "unclosed" for i in items), "missing": missing}
    warnings = {
        "guessed": f"have no {repr(args.close) if args.close else 'closing tag'} and count as cut off"
        + "; the model's prompt opens the block: --no-opened where theirs did not" * (not args.close),
        "erased": "reach the model without their thinking: its template deletes it",
        "truncated": "were cut from the left: no rewards over their steps",
        "prm_unread": "are longer than the process reward model can read",
        "missing": f"have no composite, for they have no {', '.join(lacking)}",
    }
    metrics["warnings"] = [
        f"{happened[name]} completions {text}" for name, text in warnings.items() if happened.get(name)
    ]
    if facts.get("judge_problems"):
        metrics["warnings"].append(f"the judge gave no verdict: {facts['judge_problems']}")
    metrics["statuses"] = dict(collections.Counter(item["status"] for item in items).most_common())
    metrics["measures"] = [figures(items, name) for name in taken]
    metrics |= {"weights": weights, **facts, "rendered_by": RENDERED_BY, "parameters": vars(args)}

    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "report.html").write_text(html_report("Thinking", report_of(items, metrics, args)), encoding="utf-8")
    (beside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    with open(beside / "items.jsonl", "w") as file:
        for item in everything:
            kept = {k: v for k, v in item.items() if k not in ("prompt", "message", "found", "given", "cuts")}
            file.write(json.dumps(kept) + "\n")
    replace_folder(beside, Path(args.out))
    print(
        f"{len(items)} completions, {metrics['failed']} not read; "
        + ", ".join(f"{n} {s}" for s, n in metrics["statuses"].items())
    )
    for row in metrics["measures"]:
        area = "" if row["auc"] is None else f"  AUC {row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        mean = "" if row["mean"] is None else f"{row['mean']:>10.3f}"
        print(f"{row['measure']:18}{mean}  missing {row['missing']}{area}")
    print("\n".join([*(f"warning: {text}" for text in metrics["warnings"]), f"written to {args.out}/"]))


{{shared("run")}}
