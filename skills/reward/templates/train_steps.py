# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Train steps: train a process reward model, which says of each step whether it is right, on labelled steps.

It is a token classifier with two labels, read at the mark after each step, trained with cross-entropy over the steps.
TRL had such a trainer up to 1.13. think.py scores with the result: --prm FOLDER.
"""

import argparse
import collections
import csv
import gzip
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
{{shared("one_gpu")}}

try:
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
NO_LABEL = -100  # what cross-entropy leaves out


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    {{flags}}
    return parser.parse_args(argv)


# %% Reading labelled steps
{{shared("read_rows")}}


{{shared("labelled_steps")}}


{{shared("encode_steps")}}


def read_solutions(args, tokenizer):
    """(training items, held-out items, counts). An item: ids, ends of the steps, labels, first error. Steps behind the
    first error have no label: whether a step that rests on a wrong one is right, nobody said."""
    sides, counts = ([], []), collections.Counter()
    for file, number, row, problem in read_rows(args.data, args.split):
        try:
            if problem:
                raise ValueError(problem)
            if not (solutions := labelled_steps(row)):
                raise ValueError(f"no labelled steps; the row has {', '.join(map(str, row))}")
            encoded = [encode_steps(q, steps, tokenizer, args.mark) for q, steps, _ in solutions]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            counts["not_used"] += 1
            print(f"{file} row {number}: {type(error).__name__} {error}"[:200], file=sys.stderr)
            continue
        for (question, _, first), (ids, ends) in zip(solutions, encoded):
            if len(ids) > args.max_length:
                counts["overlong"] += 1
                continue
            known = ends if first < 0 else ends[: first + 1]
            labels = [NO_LABEL] * len(ids)
            for place, end in enumerate(known):
                labels[end] = int(place != first)
            share = int(hashlib.sha256(f"{args.seed}:{question}".encode()).hexdigest()[:8], 16) / 2**32
            item = {"input_ids": ids, "labels": labels, "ends": ends, "first_error": first}
            sides[share < args.eval_fraction].append(item)
            counts["eval" if share < args.eval_fraction else "train"] += 1
    return *sides, counts


# %% Training and measuring
{{shared("first_error_f1")}}


def collate(items, pad):
    """Items -> one padded batch."""
    width = max(len(item["input_ids"]) for item in items)
    batch = {"input_ids": pad, "labels": NO_LABEL}
    rows = {k: torch.tensor([i[k] + [fill] * (width - len(i[k])) for i in items]) for k, fill in batch.items()}
    mask = [[1] * len(item["input_ids"]) + [0] * (width - len(item["input_ids"])) for item in items]
    return rows | {"attention_mask": torch.tensor(mask)}


@torch.inference_mode()
def measure(model, items):
    """Accuracy over the labelled steps of held-out solutions, and F1 of the first error."""
    predicted, right = [], []
    for item in items:
        logits = model(torch.tensor([item["input_ids"]], device=model.device)).logits[0].float().cpu()
        good = logits.argmax(-1).tolist()
        predicted.append(next((place for place, end in enumerate(item["ends"]) if not good[end]), -1))
        right += [good[end] == item["labels"][end] for end in item["ends"] if item["labels"][end] != NO_LABEL]
    process = first_error_f1(predicted, [item["first_error"] for item in items])
    return {"step_accuracy": sum(right) / max(1, len(right)), "steps": len(right), "process_bench": process}


{{shared("replace_folder")}}


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "process.json")
    transformers.set_seed(args.seed)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        train, held_out, counts = read_solutions(args, tokenizer)
        options = {"num_labels": 2, "dtype": torch.float32}
        model = transformers.AutoModelForTokenClassification.from_pretrained(args.model, **options)
    except (OSError, ValueError) as error:
        refuse(f"{args.model}: {str(error)[:200]}", "a model folder or a hub id", "--model OTHER")
    told = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"
    if not train or not held_out:
        expected = "labelled steps on both sides: problem, steps, label; or prompt, completions, labels"
        refuse(f"{' '.join(args.data)} holds {told}", expected, "more rows, --eval-fraction 0.3, --max-length 4096")
    print(told)
    gpu, beside = torch.cuda.is_available(), args.out + ".partial"
    shutil.rmtree(beside, ignore_errors=True)
    config = transformers.TrainingArguments(
        output_dir=f"{beside}/run",
        learning_rate=args.learning_rate,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,
        bf16=gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        use_cpu=not gpu,
        save_strategy="no",
        logging_steps=10,
        remove_unused_columns=False,
        seed=args.seed,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = transformers.Trainer(model, config, lambda items: collate(items, pad), train_dataset=train)
    trainer.train()
    if not trainer.is_world_process_zero():
        return
    facts = measure(trainer.model.eval(), held_out) | {"counts": counts, "mark": args.mark, "base_model": args.model}
    trainer.model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    facts |= {"rendered_by": RENDERED_BY, "parameters": vars(args)}
    shutil.rmtree(f"{beside}/run", ignore_errors=True)
    Path(beside, "process.json").write_text(json.dumps(facts, indent=2) + "\n")
    replace_folder(Path(beside), Path(args.out))
    process = facts["process_bench"]
    f1 = (
        f"; F1 of the first error {process['f1']:.3f}"
        if process
        else "; no F1: held-out items are all right or all wrong"
    )
    print(f"held-out: accuracy {facts['step_accuracy']:.3f} on {facts['steps']} steps{f1}")
    print(f"written to {args.out}; next: think.py --prm {args.out}")


# %% Run
{{shared("run")}}
