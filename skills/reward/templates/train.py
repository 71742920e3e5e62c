# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Train: train a reward model on formatted pairs, and check that the saved model is the trained one.

Adds to TRL's RewardTrainer what it leaves to its user: every dropped pair is counted, the template and the thinking are
checked, evaluation is exact, the reward head is float32, an interrupted run resumes from the newest complete
checkpoint, and the saved model must score the same when it is loaded again.
"""

import argparse
import collections
import contextlib
import gc
import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import MethodType

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
{{shared("one_gpu")}}
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import numpy as np
    import peft
    import torch
    import transformers
    import trl
    from accelerate.data_loader import prepare_data_loader
    from datasets import Dataset
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from matplotlib.figure import Figure
    from pyarrow.parquet import read_table
    from safetensors import safe_open
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
    from transformers.trainer_utils import EvalLoopOutput
    from trl import RewardConfig, RewardTrainer
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

warnings.filterwarnings("ignore", category=FutureWarning)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
SAID = [  # scored now and by every consumer; another score there means other text, weights or precision
    ("What is 2 + 2?", "2 + 2 = 4."),
    ("What is 2 + 2?", "<think>2, 3, 4.</think>It is 4."),
    ("Grüß mich! 你好", "Schön, dich zu sehen 🙂"),
    ("Name a colour.", "Blue.", "And another?", "Green,\n\nlike grass."),
]
PROBES = [[{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(said)] for said in SAID]


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


{{shared("own_folder")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


# %% The loss, and what it learns from
{{shared("loss_" + loss)}}


# % if loss in ("listwise", "regression")
{{shared("gather")}}


# % endif
# %% From messages to token ids
{{shared("encode")}}


{{shared("keep_thinking")}}


def load_tokenizer(args):
    """The base model's tokenizer with its template pinned and a padding token that ends no conversation."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        template = tokenizer.chat_template
        template = template.get("default") if isinstance(template, dict) else template  # others are for tools
        template = Path(args.chat_template).read_text(encoding="utf-8") if args.chat_template else template
        embedded = transformers.AutoConfig.from_pretrained(args.model).get_text_config().vocab_size
    except (OSError, ValueError) as error:
        refuse(f"{args.model}: {str(error)[:200]}", "a model folder or hub id, and a template file", "ls; --model")
    if not template:
        mend = "--chat-template FILE, such as the skill's assets/plain.jinja"
        refuse(f"{args.model} has no chat template", "one, to turn messages into text", mend)
    today = re.compile(r"strftime_now\([^)]*\)")  # a date in the prompt would change every score tomorrow
    tokenizer.chat_template = today.sub('"01 Jan 2025"', template)
    if args.thinking == "preserve":
        tokenizer.chat_template = keep_thinking(tokenizer.chat_template)
    try:
        last = [encode(messages, tokenizer, 10**6)[0][-1] for messages in PROBES]
    except Exception as error:  # templates raise what they like; an IndexError: there was no text
        name = args.chat_template or f"the chat template of {args.model}"
        refuse(f"{name}: {str(error)[:200]}", "text from turns of user and assistant", "--chat-template FILE")
    spare = [i for token, i in tokenizer.get_added_vocab().items() if re.search("pad|reserved|unused", token)]
    usable = [tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(spare), tokenizer.bos_token_id]
    usable = [i for i in usable if i is not None and i < embedded and i not in (tokenizer.eos_token_id, *last)]
    if not usable:
        received = f"{args.model} has no token to pad with but the end token (embeddings: {embedded})"
        refuse(received, "a spare one", "add a <pad> token and model.resize_token_embeddings(len(tokenizer))")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usable[0])
    return tokenizer


{{shared("thinking_erased")}}


def encode_pairs(name, path, tokenizer, args):
    """Formatted pairs -> (rows of ids, labels and prompt_id; counts). Evaluation drops nothing but ties."""
    try:
        pairs = read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        refuse(f"{path}: {str(error)[:200]}", "pairs in a file written by format.py", "python run/format.py")
    if lost := {"prompt", "chosen", "rejected"} - set(pairs[0] if pairs else ()):
        refuse(f"{path} has no rows, or no {', '.join(sorted(lost))}", "formatted pairs", "python run/format.py")
    rows, counts, training = [], collections.Counter(), name == "train"
    for pair in pairs:
        said = [pair["prompt"] + pair[side] for side in ("chosen", "rejected")]
        try:
            (chosen, cut), (rejected, cut_too) = (encode(messages, tokenizer, args.max_length) for messages in said)
            counts["thinking_erased"] += any(thinking_erased(messages, tokenizer) for messages in said)
        except Exception as error:  # templates raise what they like about roles they do not know
            counts["template_error"] += 1
            print(f"the chat template refuses a pair: {str(error)[:200]}", file=sys.stderr)
            continue
        labels = labels_of(pair, args) if training else "tie" if pair.get("tie") else []
        reasons = {
            "ends_in_padding": tokenizer.pad_token_id in (chosen[-1], rejected[-1]),  # read one token too early
            "identical_after_template": training and chosen == rejected,
            "overlong": training and args.overlong == "drop" and cut + cut_too > 0,
            str(labels): isinstance(labels, str),
        }
        if reason := next((name for name, holds in reasons.items() if holds), ""):
            counts[reason] += 1
            continue
        counts["truncated"] += cut + cut_too > 0
        prompt = pair.get("prompt_id") or fingerprint(pair["prompt"])
        rows.append({"ids": [chosen, rejected], "labels": labels, "prompt_id": prompt})
    dropped, counts = len(pairs) - len(rows) - counts["tie"], dict((+counts).most_common())
    happened = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none dropped or cut"
    print(f"{name}: {len(rows)} of {len(pairs)} pairs kept; {happened}")
    if "thinking_erased" in counts and args.thinking == "keep":
        lost = f"the chat template deletes the thinking in {counts['thinking_erased']} {name} pairs"
        mend = "--thinking preserve (saved with the model), --chat-template FILE, or --thinking erase"
        refuse(lost, "a template that keeps it", mend)
    if not rows or dropped > args.max_dropped * len(pairs):
        lacks = ("no_margin", "negative_margin", "no_rating", "no_attributes")
        mends = dict.fromkeys(lacks, "format.py with that, or another loss") | {
            "tie": "pairs with a winner, or the loss ties"
        }
        mends["overlong"] = f"--max-length {2 * args.max_length}, --overlong truncate"
        most = next((reason for reason in counts if reason not in ("tie", "truncated", "thinking_erased")), "tie")
        mend = mends.get(most, "--chat-template FILE, one that keeps what tells the answers apart")
        expected = f"at most {args.max_dropped:.0%}"
        refuse(f"{dropped} of {len(pairs)} {name} pairs dropped: {happened}", expected, f"{mend} or --max-dropped 1")
    return rows, counts


# %% Scoring, loading and exact accuracy
{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


{{shared("wilson")}}


{{shared("interval")}}


# %% Training
class StepCollator:
    """The groups of an optimizer step -> this process's micro-batches, of at most batch_tokens tokens each:
    (model inputs, labels, sizes of the groups, share of the step's groups).

    Shares are times the number of processes, for gradients are averaged over them. A process without a group takes part
    in the step with a share of 0."""

    def __init__(self, batch_tokens, pad_token_id, rank=0, world=1):
        self.batch_tokens, self.pad_token_id, self.packs = batch_tokens, pad_token_id, False
        self.rank, self.world = rank, world

    def __call__(self, step):
        mine = step[self.rank :: self.world]
        weight, micro = self.world / len(step) if mine else 0.0, []
        rows = mine or step[:1]
        for now in batches([row["ids"] for row in rows], self.batch_tokens, self.packs):
            some = [rows[i]["ids"] for i in now]
            inputs = pack(some) if self.packs else pad(some, self.pad_token_id)
            labels = torch.tensor([label for i in now for label in rows[i]["labels"]])
            micro.append((inputs, labels, [len(group) for group in some], weight * len(now)))
        return {"micro": micro}


class ExactTrainer(RewardTrainer):
    """TRL means accuracy over batches, counts ties as errors and gives all sets one name; here each counts once.

    `sets` maps the prefix of a set's metrics to its rows; `options` holds what the loss may be told."""

    def __init__(self, options, sets, **others):
        super().__init__(eval_dataset=sets["eval"], **others)
        self.options, self.sets, self.seen = options, sets, []
        if self.is_fsdp_enabled:  # autocast rounds to bfloat16, as without it: its own rounding takes the head along
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
            torch.set_autocast_cache_enabled(False)  # it would keep a rounded copy of every weight

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset  # it holds token ids

    def get_train_dataloader(self):
        """Every process reads all groups of a step, in one order, and its StepCollator takes every n-th of them."""
        options = {"batch_size": self.args.train_batch_size, "shuffle": True, "collate_fn": self.data_collator}
        whole = {"num_processes": 1, "process_index": 0, "use_seedable_sampler": True, "data_seed": self.args.seed}
        return prepare_data_loader(torch.utils.data.DataLoader(self.train_dataset, **options), **whole)

    def save_model(self, output_dir=None, _internal_call=False):
        """Each process looks next whether the best checkpoint is there, and split weights are written only later."""
        os.makedirs(output_dir, exist_ok=True)
        super().save_model(output_dir, _internal_call)

    def busiest(self, rounds):
        """The rounds of the process that has most: all take part in so many, for each gathers split weights."""
        if self.args.world_size == 1:
            return rounds  # without waiting for the GPU
        rounds = torch.tensor(rounds, device=self.args.device)
        torch.distributed.all_reduce(rounds, torch.distributed.ReduceOp.MAX)
        return rounds.item()

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Each micro-batch weighs by its share of the groups, so the loss is the mean over the groups of the step."""
        model.train()
        micro, total = self._prepare_inputs(inputs)["micro"], 0.0
        rounds = self.busiest(len(micro))
        for i in range(rounds):
            batch, labels, sizes, share = micro[min(i, len(micro) - 1)]
            share *= i < len(micro)
            last_round, whole = i == rounds - 1, isinstance(model, torch.nn.parallel.DistributedDataParallel)
            self.accelerator.gradient_state._set_sync_gradients(last_round)  # DeepSpeed steps where this is set
            with model.no_sync() if whole and not last_round else contextlib.nullcontext():
                with self.accelerator.autocast():
                    rewards = model(**batch, use_cache=False).logits
                    loss = group_loss(rewards, labels, sizes, self.options) * share
                self.accelerator.backward(loss)
            total += loss.detach()
            # % if loss == "ties"
            self.seen += [rewards.detach().view(-1, 2)[labels == 0]] * (share > 0)
            # % elif loss not in ("listwise", "regression")
            self.seen += [rewards.detach().view(-1, 2)] * (share > 0)
            # % endif
        return total

    # % if loss not in ("listwise", "regression")
    def log(self, logs, start_time=None):
        """Adds what the training steps since the last log saw, each pair once, over all processes."""
        if "loss" in logs:
            chosen, rejected = torch.cat([torch.zeros(0, 2, device=self.args.device), *self.seen]).unbind(1)
            parts = [(chosen > rejected).float(), chosen - rejected, (chosen + rejected) / 2, torch.ones_like(chosen)]
            sums = self.accelerator.reduce(torch.stack([part.sum() for part in parts]), "sum").tolist()
            logs |= {name: value / max(1, sums[-1]) for name, value in zip(("accuracy", "margin", "mean_reward"), sums)}
            self.seen.clear()
        super().log(logs, start_time)

    # % endif
    def evaluation_loop(self, *_, **__):
        """All sets at once, every pair once, each process scoring its share."""
        self.model.eval()
        rank, world, metrics = self.args.process_index, self.args.world_size, {}
        for prefix, rows in self.sets.items():
            mine, tokens = [row["ids"] for row in rows[rank::world]], self.data_collator.batch_tokens
            passes = len(list(batches(mine, tokens, self.data_collator.packs)))
            both = torch.zeros(len(rows), 2)
            with self.accelerator.autocast():
                both[rank::world] = score_ids(self.model, mine, tokens).view(-1, 2)
                for _ in range(self.busiest(passes) - passes):
                    score_ids(self.model, [rows[0]["ids"]], tokens)
            both = self.accelerator.reduce(both.to(self.args.device), "sum").cpu().double()
            lengths = torch.tensor([[float(len(ids)) for ids in row["ids"]] for row in rows]).double()
            correlation = torch.corrcoef(torch.stack([both.flatten(), lengths.flatten()]))[0, 1]
            chosen, rejected = both.numpy().T
            found = interval(compare(chosen, rejected), [row["prompt_id"] for row in rows]) | {
                "accuracy": compare(chosen, rejected).mean(),
                "pairs": len(rows),
                "ties": int((chosen == rejected).sum()),
                "loss": np.logaddexp(0, rejected - chosen).mean(),
                "margin": (chosen - rejected).mean(),
                "reward_mean": both.mean().item(),
                "reward_std": both.std().item(),
                "length_correlation": correlation.nan_to_num().item(),
            }
            metrics |= {f"{prefix}_{name}": value for name, value in found.items() if name != "interval"}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(self.sets["eval"]))


{{shared("curves")}}


{{shared("newest_complete")}}


{{shared("checkpoints")}}


def training_arguments(args, checkpoints, groups):
    """TRL's configuration for this machine: a GPU in bfloat16 where there is one, otherwise the CPU in float32."""
    gpu = torch.cuda.is_available()
    native = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = args.precision == "bfloat16" or args.precision == "auto" and native
    optimizer = {{"adamw_8bit" if method == "qlora" else "adamw_torch_fused"}} if gpu else "adamw_torch"
    steps = args.max_steps if args.max_steps > 0 else math.ceil(groups / args.batch_size * args.epochs)
    return RewardConfig(
        output_dir=str(checkpoints),
        max_length=None,  # encode_pairs has cut or counted already; TRL would drop in silence
        learning_rate=args.learning_rate,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,  # of all processes: StepCollator divides it, and splits by tokens
        warmup_steps=math.ceil(args.warmup * steps),
        gradient_checkpointing=args.gradient_checkpointing,
        bf16=bf16,
        use_cpu=not gpu,
        optim=optimizer if args.optimizer == "auto" else args.optimizer,
        eval_strategy="steps",
        eval_steps=args.eval_steps,
        save_steps=args.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=args.keep_best or args.patience > 0,
        metric_for_best_model=f"eval_{args.best_set}_accuracy" if args.best_set else "eval_accuracy",
        logging_steps=min(10, max(1, steps // 20)),
        logging_nan_inf_filter=False,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
        seed=args.seed,
        report_to=args.report_to,
        trackio_space_id=None,  # on this machine, and no public page
        remove_unused_columns=False,
        disable_tqdm=not sys.stderr.isatty(),
    )


def load_base(args, config):
    """(sequence classifier with a fresh head of one output, LoRA configuration or None, quantization or None)."""
    options = {"num_labels": 1, "problem_type": "regression", "output_loading_info": True}
    # % if method == "full"
    options["dtype"] = torch.float32
    adapter = quantization = None
    # % else
    options["dtype"] = torch.bfloat16 if config.bf16 else torch.float32
    kind = "SEQ_CLS"  # saves the reward head with the adapter; without it a reload scores at random
    adapter = peft.LoraConfig(task_type=kind, r=args.lora_r, lora_alpha=args.lora_alpha, target_modules="all-linear")
    # % endif
    # % if method == "lora"
    quantization = None
    # % elif method == "qlora"
    quantization = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    quantization |= {"bnb_4bit_compute_dtype": str(options["dtype"]).split(".")[1], "llm_int8_skip_modules": ["score"]}
    options |= {
        "quantization_config": transformers.BitsAndBytesConfig(**quantization),
        "device_map": {"": config.device},
    }
    # % endif
    transformers.set_seed(args.seed)  # before the model: its head starts random
    try:
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(args.model, **options)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: it has a head of other outputs
        refuse(f"{args.model} cannot be trained: {str(error)[-200:]}", "a whole decoder model", "another --model")
    if lost := set(info["missing_keys"]) - {"score.weight"}:
        refuse(f"{args.model} lacks weights: {', '.join(sorted(lost)[:3])}", "a whole decoder model", "another --model")
    return model, adapter, quantization


# % if forward == "faster"
{{shared("speed_up")}}


# % endif
def check_packages(args):
    """Refuse what the environment lacks before anything is loaded."""
    # % if method == "qlora"
    if split_by():
        refuse(f"4-bit weights split by {split_by()}", "whole ones on each GPU", "reward.py launch --kind ddp", 2)
    # % endif
    wanted = [args.report_to] * (args.report_to != "none")
    # % if forward == "faster"
    wanted += ["liger_kernel"] * args.liger
    # % endif
    for name in wanted:
        if not importlib.util.find_spec(name):
            refuse(f"{name} is not installed", "it, for the option that needs it", f"pip install {name}", 5)


{{shared("named_sets")}}


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "reward.json")
    check_packages(args)
    sets, report = named_sets(args), Path(args.data) / "report.json"
    if not report.is_file():
        refuse(f"no {report}", "a folder written by format.py", "python run/format.py")
    report, tokenizer = json.loads(report.read_text()), load_tokenizer(args)
    train, train_counts = encode_pairs("train", Path(args.data) / "train.parquet", tokenizer, args)
    encoded = {prefix: encode_pairs(prefix, path, tokenizer, args) for prefix, path in sets.items()}
    facts = {"data": {"sha256": report["data_sha256"], "train": train_counts}}
    facts["data"] |= {prefix: counts for prefix, (_, counts) in encoded.items()}
    # % if loss in ("listwise", "regression")
    train = gather(train, train_counts)
    # % endif
    # % if loss == "listwise"
    train = with_order(train, train_counts)
    # % elif loss == "regression"
    names = report["attributes"] if args.attribute_weights else ["rating"]
    facts["attributes"] = standardise(train, names, args.attribute_weights)
    # % endif
    checkpoints, resume_from = prepare_checkpoints(args, report["data_sha256"], fingerprint(tokenizer.chat_template))
    config = training_arguments(args, checkpoints, len(train))
    model, adapter, facts["quantization"] = load_base(args, config)
    # % if loss == "regression"
    predict_attributes(model, facts["attributes"])
    # % endif
    trainer = ExactTrainer(
        args,
        {prefix: rows for prefix, (rows, _) in encoded.items()},
        model=model,
        args=config,
        data_collator=StepCollator(args.batch_tokens, tokenizer.pad_token_id, config.process_index, config.world_size),
        train_dataset=Dataset.from_list(train),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[Lines(), *[transformers.EarlyStoppingCallback(args.patience)] * (args.patience > 0)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    for parameter in trainer.model.parameters():  # TRL rounds QLoRA's trained weights, head included, to bfloat16
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    keep_float32(trainer.model)
    held = "FSDP" if trainer.is_fsdp_enabled else "DEEPSPEED" if trainer.is_deepspeed_enabled else ""
    if split_by() != held:
        refuse(f"{split_by()} on {config.device}", "a GPU for each process", "torchrun, with whole weights", 5)
    facts |= {"dtype": "bfloat16" if config.bf16 else "float32", "split_by": held}

    def choose():
        model, groups = trainer.model.eval(), [row["ids"][:4] for row in train[:4]]
        with trainer.accelerator.autocast():
            facts["forward"] = [try_packing(model, groups, args.packing, 5e-2 if config.bf16 else 1e-4)]
            # % if forward == "faster"
            facts["forward"] += faster_forwards(model, groups, 5e-2 if config.bf16 else 1e-4, args)
            # % endif
        trainer.data_collator.packs = getattr(model, "packs", False)
        optimizer = getattr(config.optim, "value", config.optim)
        place = f"{config.device} x {config.world_size}{held and f' split by {held}'}, {facts['dtype']}, {optimizer}"
        print(place, *facts["forward"], sep="; ")
        start = f"going on from {resume_from}" if resume_from else "no checkpoint found: starting at step 0"
        print(start, flush=True)

    state = transformers.TrainerState.load_from_json(f"{resume_from}/trainer_state.json") if resume_from else None
    control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}) if state else {}
    over = control.get("should_training_stop", False)
    trainer.add_callback(Begin(choose, over))
    if over and config.load_best_model_at_end and state.best_global_step:
        resume_from = f"{checkpoints}/checkpoint-{state.best_global_step}"
    try:
        trainer.train(resume_from_checkpoint=resume_from)
    except StopIteration:
        trainer.state = state
    metrics = next((log for log in reversed(trainer.state.log_history) if "eval_accuracy" in log), {})
    if metrics.get("step") != trainer.state.global_step or config.load_best_model_at_end:
        metrics = trainer.evaluate()
    save(args, trainer, tokenizer, facts | {"metrics": metrics})
    if config.process_index == 0:
        for prefix in sets:
            share, low, high, pairs = (metrics[f"{prefix}_{name}"] for name in ("accuracy", "low", "high", "pairs"))
            said = "held-out" if prefix == "eval" else prefix.removeprefix("eval_")
            print(f"{said} accuracy {share:.3f} [{low:.3f}, {high:.3f}] on {pairs} pairs")
        if metrics["eval_low"] <= 0.5:
            mend = "a higher --learning-rate, more --epochs, a stronger base model or more held-out pairs"
            if metrics["eval_loss"] > 0.7:
                mend = (
                    "a loss above chance means sure and wrong: fewer --epochs if it rose, more pairs, a stronger base"
                )
            print(f"not clearly above chance (0.5); the loss is {metrics['eval_loss']:.3f}, 0.693 by chance: {mend}")
        print(f"written to {args.out}; loaded again, its {len(PROBES)} probes score the same")
    if torch.distributed.is_initialized():
        del trainer  # its DDP model must go before the group: after it, Python waits for threads that wait for Python
        gc.collect()
        torch.distributed.destroy_process_group()


# %% Saving, and the proof that what was saved is what was trained
{{shared("replace_folder")}}


def save(args, trainer, tokenizer, facts):
    """Write OUT beside, load it as every consumer will, and rename it when its probes score as in training.

    Every process takes part in scoring and in gathering the weights; the first one writes."""
    ids = [encode(messages, tokenizer, args.max_length)[0] for messages in PROBES]
    with trainer.accelerator.autocast():
        scores = score_ids(trainer.model.eval(), [[i] for i in ids], args.batch_tokens).tolist()
    if not all(map(math.isfinite, scores)):
        refuse("rewards that are no finite numbers: the training diverged", "finite ones", "a lower --learning-rate")
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    # % if loss == "regression"
    fold_attributes(weights, facts["attributes"], beside)
    # % endif
    # % if method == "full"
    trainer.model.save_pretrained(beside, state_dict=weights)
    # % else
    trainer.model.save_pretrained(beside, state_dict=weights, save_embedding_layers=False)
    # % endif
    tokenizer.save_pretrained(beside)
    named = re.compile("think|thought|inner_|channel", re.IGNORECASE)
    tags = {token: i for token, i in tokenizer.get_added_vocab().items() if named.search(token)}
    draw_curves(trainer.state.log_history, beside / "curves.png")
    (beside / "history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    reward = {
        "rendered_by": RENDERED_BY,
        "base_model": args.model,
        "max_length": args.max_length,
        "overlong": f"{args.overlong} in training; cut from the left, and marked, when scoring",
        "chat_template": fingerprint(tokenizer.chat_template),
        "pad_token": tokenizer.pad_token,
        "pooled_token": tokenizer.convert_ids_to_tokens(ids[0][-1]),
        "thinking": {"policy": args.thinking, "tags": tags},
        "scaling": None,
        **facts,
        "parameters": vars(args),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)},
        "probes": [{"messages": m, "ids": fingerprint(i), "score": s} for m, i, s in zip(PROBES, ids, scores)],
    }
    (beside / "reward.json").write_text(json.dumps(reward, indent=2))
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = weights = None  # room for the copy that is loaded next
    gc.collect()
    unset_hf_deepspeed_config()  # it would split this copy too
    load_reward_model(beside, facts["dtype"])
    # % if method != "full"
    if args.merge:
        merged = load_reward_model(beside, "float32", dequantize=True)[0].merge_and_unload()
        merged.save_pretrained(beside / "merged")
        tokenizer.save_pretrained(beside / "merged")
        reward |= {"quantization": None}
        (beside / "merged" / "reward.json").write_text(json.dumps(reward, indent=2))
        load_reward_model(beside / "merged", "float32")
    # % endif
    replace_folder(beside, Path(args.out))


# %% Run
{{shared("run")}}
