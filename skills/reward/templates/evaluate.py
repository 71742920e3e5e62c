# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Evaluate: what a reward model is worth on held-out pairs, and whether RL should follow it.

Measures accuracy with intervals and what length alone reaches, by source, length difference, turns, thinking and
language; best of n; calibration; what the reward correlates with; how often degenerate answers win; the most confident
mistakes; agreement with a second model. Writes metrics.json, scores.jsonl with both rewards of every pair, and
report.html. Every pair counts once, whatever the batch size, the order or the number of processes (torchrun
evaluate.py). With --folds it trains one model per fold with the train.py beside it and judges each pair by the model
that did not see it.
"""

import argparse
import base64
import collections
import hashlib
import html
import io
import json
import logging
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from types import MethodType

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
    from pyarrow import concat_tables
    from pyarrow.parquet import ParquetFile, read_table, write_table
    from safetensors import safe_open
    from scipy.special import expit
    from scipy.stats import norm, spearmanr
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
ROWS_AT_ONCE = 2048
SIDES = ("chosen", "rejected")
EXTRAS = ("prompt_id", "tie", "chosen_rating", "rejected_rating")
KINDS = ("source", "length of chosen", "turns", "thinking", "language")
SIZES = ("below half the length", "shorter", "same length (±10 %)", "longer", "above twice the length")
WORST = 20


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


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


{{shared("apply_scaling")}}


# %% Statistics
{{shared("wilson")}}


{{shared("accuracy")}}


{{shared("language")}}


{{shared("interval")}}


{{shared("intervals")}}


{{shared("calibration")}}


{{shared("best_of_n")}}


# %% Pairs in, numbers out, a piece at a time
def read_pairs(path):
    """Yield lists of formatted pairs, so that memory does not grow with their text."""
    try:
        with ParquetFile(path) as file:
            columns = ["prompt", "chosen", "rejected", "source"]
            columns += [name for name in EXTRAS if name in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                yield batch.to_pylist()
    except (OSError, ValueError, KeyError) as error:
        refuse(f"{path}: {str(error)[:200]}", "a parquet file written by format.py", "python run/format.py")


def key_of(value):
    """A number that stands for a value: the same for equal ones, in every process and run."""
    return int(fingerprint(value)[:15], 16)


def describe(pair):
    """What the report looks at in a pair, as numbers and short names."""
    said = {side: "\n".join(message["content"] for message in pair[side]) for side in SIDES}
    length = {side: sum(len(message["content"]) for message in pair[side]) for side in SIDES}
    size = np.searchsorted([0.5, 0.9, 1.1, 2], (length["chosen"] + 1) / (length["rejected"] + 1))
    asked = [message["content"] for message in pair["prompt"] if message["role"] == "user"] or [""]
    thought = any("</think>" in m["content"] or m.get("thinking") for side in SIDES for m in pair[side])
    found = {
        "source": sys.intern(pair["source"]),
        "length of chosen": SIZES[size],
        "turns": "several turns" if len(asked) > 1 else "one turn",
        "thinking": "with thinking" if thought else "no thinking",
        "language": sys.intern(language(f"{asked[-1][:300]}\n{said['chosen'][:300]}")),
        "prompt": key_of(pair.get("prompt_id") or pair["prompt"]),
        "labelled_tie": bool(pair.get("tie")),
    }
    for side, text in said.items():
        lists, rating = re.findall(r"(?m)^\s*(?:[-*•]|\d+[.)])\s", text), pair.get(f"{side}_rating")
        numbers = {"answer": key_of(pair[side]), "lists": len(lists), "rating": math.nan if rating is None else rating}
        found |= {f"{side}_{name}": number for name, number in {**numbers, "length": length[side]}.items()}
    return found


def score_pairs(path, data, args, file, share=(0, 1), fold=None):
    """Score every pair of `data` with the model at `path`; write a line a pair into `file`.

    Returns ({name: array with an entry a pair}, probes, facts). `share` is (this process, number of processes)."""
    model, tokenizer, reward = load_reward_model(path, args.dtype)
    max_length = args.max_length or reward.get("max_length", 2048)
    scaling = reward.get("scaling") if args.scaling else None
    facts = {"max_length": max_length, "scaling": scaling and scaling.get("method", "unnamed")}
    if scaling:
        facts["scaling"] += " + length curve" if scaling.get("length") else ""
        print(f"rewards are scaled as in reward.json: {facts['scaling']} (raw: --no-scaling)")

    def tokens(pairs):
        return [[encode(p["prompt"] + p[side], tokenizer, max_length) for side in SIDES] for p in pairs]

    columns, sample, (rank, world), count = collections.defaultdict(list), {}, share, 0
    for pairs in read_pairs(data):
        if not count:
            checked = [[ids for ids, _ in group] for group in tokens(pairs[:4])]
            print(try_packing(model, checked, args.packing, 1e-4 if model.dtype == torch.float32 else 5e-2), flush=True)
        mine, rows = pairs[rank::world], []
        encoded = tokens(mine)
        raw = score_ids(model, [[ids for ids, _ in group] for group in encoded], args.batch_tokens).view(-1, 2)
        for pair, pure, group in zip(mine, raw.tolist(), encoded):
            row = describe(pair) | {"truncated": any(lost for _, lost in group)}
            scores = apply_scaling(pure, scaling, [row[f"{side}_length"] for side in SIDES])
            rows.append(row | dict(zip(SIDES, scores)) | {f"{side}_raw": score for side, score in zip(SIDES, pure)})
        rows = gather(rows, share)
        for pair, row in zip(pairs, rows):
            line = {"pair": count, "source": row["source"], "truncated": row["truncated"]}
            for side in SIDES:  # raw, for the scale stage fits on them
                line |= {side: row[f"{side}_raw"], f"{side}_length": row[f"{side}_length"]}
            line |= {"prompt_id": pair.get("prompt_id")} | ({} if fold is None else {"fold": fold})
            line |= {"tie": True} if pair.get("tie") else {}
            file.write(json.dumps(line) + "\n")
            count += 1
            key = fingerprint(pair.get("prompt_id") or pair["prompt"])
            if not pair.get("tie") and (key not in sample or repr(pair["chosen"]) < repr(sample[key]["chosen"])):
                sample[key] = pair
        sample = {key: sample[key] for key in sorted(sample)[: args.probes]}  # by hash: whatever the order of the rows
        for name in rows[0]:
            values = [row[name] for row in rows]
            columns[name].append(np.array(values, object if isinstance(values[0], str) else None))
        print(f"{count} pairs scored", file=sys.stderr, flush=True)
    if not count:
        refuse(f"{data} holds no pairs", "at least one", "python run/format.py --eval-fraction 0.3")
    columns = {name: np.concatenate(parts) for name, parts in columns.items()}
    if lost := int((~np.isfinite(columns["chosen"] + columns["rejected"])).sum()):
        refuse(f"{lost} pairs have rewards that are no finite numbers", "finite ones", "--dtype float32")

    def rewards_of(conversations):
        ids = [[encode(messages, tokenizer, max_length)[0]] for messages in conversations]
        raw = score_ids(model, ids, args.batch_tokens).tolist()
        return apply_scaling(raw, scaling, [len(messages[-1]["content"]) for messages in conversations])

    return columns, run_probes(list(sample.values()), rewards_of) if rank == 0 else {}, facts


def gather(rows, share):
    """The rows of all processes in the order of the file: process r had every world-th row from r."""
    rank, world = share
    if world == 1:
        return rows
    parts = [None] * world
    torch.distributed.all_gather_object(parts, rows)
    whole = [None] * sum(map(len, parts))
    for start, part in enumerate(parts):
        whole[start::world] = part
    return whole


# %% Answers that must not win
{{shared("degenerate_answers")}}


def run_probes(pairs, rewards_of):
    """{kind: list of (reward of the degenerate answer, reward of the chosen one)} over a sample of pairs."""
    said = [pair["chosen"][-1]["content"] for pair in pairs]
    vocabulary, found = [word for text in said for word in text.split()][:20000], collections.defaultdict(list)
    for i, pair in enumerate(pairs):
        start = pair["prompt"] + pair["chosen"][:-1]
        made = degenerate_answers(pair["prompt"], said[i], vocabulary, said[i - 1])
        made = {kind: text for kind, text in made.items() if text.strip() != said[i].strip()}
        told = [start + [{"role": "assistant", "content": text}] for text in made.values()]
        try:
            chosen, *others = rewards_of([pair["prompt"] + pair["chosen"], *told])
        except Exception as error:  # templates raise what they like, about an empty answer for instance
            print(f"probes of one prompt left out: {str(error)[:200]}", file=sys.stderr)
            continue
        for kind, reward in zip(made, others):
            found[kind].append((reward, chosen))
    return found


# %% Cross-validation
{{shared("beginning_of")}}


def train_folds(args):
    """Yield (model, held-out pairs) of each fold: train.py, which stands beside this script, trains on all others.

    What format.py keeps on one side of its split stays in one fold. Selecting a checkpoint by the held-out pairs would
    make them training data, so that is off."""
    data, script = Path(args.data).parent, Path(__file__).with_name("train.py")
    if missing := [path for path in (script, data / "train.parquet", data / "eval.parquet") if not path.is_file()]:
        mend = f"{script}, rendered from the same recipe, and --data FOLDER/eval.parquet of format.py's folder"
        refuse(f"--folds without {missing[0]}", "train.py beside this script and the data folder of format.py", mend, 2)
    table = concat_tables([read_table(data / f"{split}.parquet") for split in ("train", "eval")])
    keys = np.array([key_of(beginning_of(prompt)) for prompt in table["prompt"].to_pylist()])
    prompts, place = np.unique(keys, return_inverse=True)
    if len(prompts) < 2 * args.folds:
        mend = f"--folds {len(prompts) // 2}" if len(prompts) > 3 else "more data"
        refuse(f"{len(prompts)} prompts for {args.folds} folds", "two prompts a fold", mend)
    run = fingerprint([script.read_text(), keys.tolist(), args.folds])
    for fold in range(args.folds):
        held_out, folder = place % args.folds == fold, Path(f"{args.out}-folds") / run / str(fold)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        write_table(table.filter(~held_out), folder / "data" / "train.parquet")
        write_table(table.filter(held_out), folder / "data" / "eval.parquet")
        (folder / "data" / "report.json").write_text(json.dumps({"data_sha256": f"{run}-{fold}"}))
        if not (folder / "model" / "reward.json").exists():  # an interrupted run goes on with the next fold
            print(f"fold {fold + 1} of {args.folds}: training on {int((~held_out).sum())} pairs", flush=True)
            start = time.monotonic()
            command = [sys.executable, script, "--data", folder / "data", "--out", folder / "model"]
            done = subprocess.run(
                [*map(str, command), "--no-keep-best", "--patience", "0", "--best-set", ""], check=False
            )
            if done.returncode:
                refuse(f"train.py stopped in fold {fold + 1}", "exit code 0", "what it says above", done.returncode)
            shutil.rmtree(folder / "model-checkpoints", ignore_errors=True)
            print(f"trained in {(time.monotonic() - start) / 60:.1f} minutes; {args.folds - fold - 1} folds to go")
        yield folder / "model", folder / "data" / "eval.parquet"


# %% Measuring
def measure(c, rows):
    """Accuracy of the model on some rows, and of length alone: the better of longer and of shorter."""
    right = compare(c["chosen"][rows], c["rejected"][rows])
    longer = float(compare(c["chosen_length"][rows], c["rejected_length"][rows]).mean())
    return {
        "accuracy": float(right.mean()),
        **interval(right, c["prompt"][rows]),
        "pairs": len(right),
        "ties": int((c["chosen"][rows] == c["rejected"][rows]).sum()),
        "longer": longer,
        "length_baseline": max(longer, 1 - longer),
        "truncated": int(c["truncated"][rows].sum()),
    }


def by_subset(c):
    """{"kind: name": measures} for every kind that splits the rows, with p values corrected for their number.

    p_beats: that accuracy above ½ and above length alone is chance. p_differs: that its distance from the rest is."""
    right, longer = compare(c["chosen"], c["rejected"]), compare(c["chosen_length"], c["rejected_length"])
    found, chances = {}, []
    for kind in KINDS:
        names, place, counts = np.unique(c[kind], return_inverse=True, return_counts=True)
        least = 30 if kind == "language" else 1  # a language guessed for a few short texts says nothing
        kept = np.flatnonzero(counts >= least)
        kept = sorted(kept, key=lambda i: SIZES.index(names[i])) if kind == "length of chosen" else kept
        for i in kept if len(kept) > 1 else []:
            inside = place == i
            part = found[f"{kind}: {names[i]}"] = measure(c, inside)
            alone = longer[inside] if part["longer"] >= 0.5 else 1 - longer[inside]
            rivals = [0.5] if kind == "length of chosen" else [0.5, alone]  # there, length decides by construction
            beats = max(chance_of_lead(right[inside] - rival, c["prompt"][inside]) for rival in rivals)
            chances += [beats, chance_of_difference(right, inside, c["prompt"])]
    corrected = iter(holm(chances))
    for part in found.values():
        part |= {"p_beats": next(corrected), "p_differs": next(corrected)}
    return found


def rank_correlation(some, others):
    """Spearman's; 0 where one of them is constant."""
    return float(spearmanr(some, others).statistic) if np.ptp(some) and np.ptp(others) else 0.0


def correlations(c):
    """Rank correlation of the reward with length and list items, over all answers and between the two of a pair, and
    the share of its variance that the language of the prompt explains (η²)."""
    rewards, difference, found = np.concatenate([c[s] for s in SIDES]), c["chosen"] - c["rejected"], {}
    for name, column in (("length", "length"), ("lists", "lists")):
        chosen, rejected = (c[f"{side}_{column}"] for side in SIDES)
        found[name] = rank_correlation(rewards, np.concatenate([chosen, rejected]))
        found[f"{name}_in_pair"] = rank_correlation(difference, chosen - rejected)
    _, place = np.unique(np.concatenate([c["language"]] * 2), return_inverse=True)
    means = np.bincount(place, rewards) / np.bincount(place)
    return found | {"language_eta2": float(np.var(means[place]) / max(1e-12, np.var(rewards)))}


def agreement(c, other, name):
    """How far a second model's rewards of the same pairs agree with the first's."""
    one, two = c["chosen"] - c["rejected"], other["chosen"] - other["rejected"]
    same, right = (np.sign(one) == np.sign(two)).astype(float), [compare(d, 0) for d in (one, two)]
    rewards = [np.concatenate([columns[side] for side in SIDES]) for columns in (c, other)]
    lead = right[0] - right[1]
    return {
        "model": name,
        "accuracy": float(right[1].mean()),
        "agree": float(same.mean()),
        **{k: v for k, v in interval(same, c["prompt"]).items() if k in ("low", "high")},
        "p_accuracy_differs": min(1.0, 2 * chance_of_lead(lead if lead.mean() > 0 else -lead, c["prompt"])),
        "rank_correlation": rank_correlation(*rewards),
        "difference_correlation": rank_correlation(one, two),
        "only_this_right": int(((right[0] == 1) & (right[1] == 0)).sum()),
        "only_other_right": int(((right[0] == 0) & (right[1] == 1)).sum()),
        "agree_by_source": {s: float(same[c["source"] == s].mean()) for s in sorted(set(c["source"]))},
    }


{{shared("verdict")}}


def judge(c, probes, facts):
    """Every figure of the report, from the columns of all pairs."""
    ties = c["labelled_tie"]
    tied, c = np.abs(c["chosen"] - c["rejected"])[ties], {name: values[~ties] for name, values in c.items()}
    if not len(c["chosen"]):
        refuse(f"all {int(ties.sum())} pairs are labelled ties", "pairs with a better answer", "another --data")
    rewards, difference = np.concatenate([c[side] for side in SIDES]), c["chosen"] - c["rejected"]
    m = facts | measure(c, slice(None))
    m["loss"] = float(np.logaddexp(0, -difference).mean())
    m |= {"margin": float(difference.mean()), "reward_mean": float(rewards.mean()), "reward_std": float(rewards.std())}
    m["labelled_ties"] = {"pairs": len(tied), "mean_distance": float(tied.mean()) if len(tied) else None}
    m["mean_distance"] = float(np.abs(difference).mean())
    m["by_source"] = {s: measure(c, c["source"] == s) for s in sorted(set(c["source"]))}
    m["subsets"] = by_subset(c)
    m["claims"] = 2 * len(m["subsets"])
    both = {n: np.concatenate([c[f"{side}_{n}"] for side in SIDES]) for n in ("answer", "rating")}
    rated = np.isfinite(both["rating"])
    prompts = np.concatenate([c["prompt"]] * 2)
    m["best_of_n"] = best_of_n(prompts[rated], both["answer"][rated], both["rating"][rated], rewards[rated])
    error, bins = calibration(*stated(difference))
    m["calibration"] = {"ece": error, "brier": float(np.mean((1 - expit(difference)) ** 2)), "bins": bins}
    m["correlation"] = correlations(c)
    m["probes"] = {}
    for kind, scored in probes.items():
        found = accuracy(*zip(*scored))
        m["probes"][kind] = {"rate": found["accuracy"], "low": found["low"], "high": found["high"]}
        m["probes"][kind] |= {"prompts": found["pairs"], "ties": found["ties"]}
    m["verdict"], m["reasons"] = verdict(m)
    return m


# %% The report
{{shared("html_report")}}


{{shared("evaluation_page")}}


def show(m):
    """The table and the verdict, on the terminal."""
    parts = {"all": m, **m["by_source"]}
    width = max(map(len, parts))
    print(f"{'source':{width}}  pairs  accuracy  95 % interval         length alone   ties  truncated")
    for name, p in parts.items():
        span = f"[{p['low']:.3f}, {p['high']:.3f}]  {p['length_baseline']:>16.3f}"
        print(f"{name:{width}}  {p['pairs']:>5}  {p['accuracy']:>8.3f}  {span}  {p['ties']:>5}  {p['truncated']:>9}")
    if m["low"] <= max(0.5, m["length_baseline"]):
        print("not shown to beat chance and the length baseline: the interval reaches down to them")
    if m["probes"]:
        print("degenerate answers that win: " + ", ".join(f"{k} {p['rate']:.0%}" for k, p in m["probes"].items()))
    if "also" in m:
        also = m["also"]
        print(f"{also['model']}: accuracy {also['accuracy']:.3f}, same preference in {also['agree']:.1%}")
    print(f"{m['verdict']}" + ":" * bool(m["reasons"]))
    for reason in m["reasons"]:
        print(f"  {'not fit' if reason['bars'] else 'reservation'}: {reason['reason']}\n      try: {reason['mend']}")


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "metrics.json")
    args.resume = args.folds > 0  # folds that are trained stay
    share = tuple(int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if args.folds == 1 or args.folds and (args.also or share[1] > 1):
        found = "--folds 1, or --folds with --also or several processes"
        refuse(found, "two folds or more, in one process", "python run/evaluate.py --folds 5 --also ''", 2)
    if share[1] > 1:
        torch.distributed.init_process_group("gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    beside = Path(f"{args.out}.partial{share[0] or ''}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        runs, parts, probes = [], [], collections.defaultdict(list)
        facts = {"model": args.model, "data": args.data, "rendered_by": RENDERED_BY}
        with open(beside / "scores.jsonl", "w") as file:
            for fold, (path, data) in enumerate(train_folds(args) if args.folds else [(args.model, args.data)]):
                found = score_pairs(path, data, args, file, share, fold if args.folds else None)
                runs.append(data)
                parts.append(found[0])
                facts |= found[2]
                for kind, scored in found[1].items():
                    probes[kind] += scored
        if args.folds:  # models differ by a constant, which no pair sees
            for part in parts:
                middle = np.mean([part[side] for side in SIDES])
                part |= {side: part[side] - middle for side in SIDES}
        other = None
        if args.also:
            with open(beside / "scores_also.jsonl", "w") as file:
                without = argparse.Namespace(**vars(args) | {"probes": 0})
                other = score_pairs(args.also, args.data, without, file, share)[0]
        if share[0] == 0:
            c = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            if args.folds:
                shares = [measure(p, ~p["labelled_tie"])["accuracy"] for p in parts]
                facts["folds"] = {"number": args.folds, "accuracy": shares}
            metrics = judge(c, probes, facts)
            if other:
                metrics["also"] = agreement(c, other, args.also)
            (beside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
            (beside / "report.html").write_text(page(metrics, c, runs, other), encoding="utf-8")
            replace_folder(beside, Path(args.out))
            shutil.rmtree(f"{args.out}-folds", ignore_errors=True)
            show(metrics)
            print(f"written to {args.out}/: metrics.json, scores.jsonl, report.html")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if share[1] > 1:
        torch.distributed.destroy_process_group()


# %% Run
{{shared("run")}}
