# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Reinforcement learning: train a policy on prompts against reward models, and watch what it learns to exploit.

TRL samples a group of completions for each prompt; the reward models score each as a conversation, through their own
template and saved scaling. Writes the policy, policy.json, history.jsonl (every step and event) and curves.png.
"""

import argparse
import bisect
import collections
import csv
import functools
import gzip
import hashlib
import importlib.util
import io
import json
import logging
import math
import os
import re
import shutil
import sys
import unicodedata
import warnings
from pathlib import Path
from types import MethodType
from typing import NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
{{shared("one_gpu")}}
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import numpy as np
    import peft
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from matplotlib.figure import Figure
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
    from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

warnings.filterwarnings("ignore", category=FutureWarning)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# % if algorithm == "grpo"
from trl import GRPOConfig as Config
from trl import GRPOTrainer as Trainer

# % else
from trl import RLOOConfig as Config
from trl import RLOOTrainer as Trainer

# % endif
RENDERED_BY = {{rendered_by}}
UNCERTAINTY = 0.5  # λ of mean − λ · variance (Coste et al. 2023, arXiv 2310.02743)


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


def numbers(texts, count):
    """Weights as given -> as many numbers as there are reward models."""
    try:
        weights = [float(text) for text in texts] or [1.0] * count
        if len(weights) == count and all(math.isfinite(weight) for weight in weights) and sum(weights) > 0:
            return weights
    except ValueError:
        pass
    refuse(f"--weights {' '.join(texts)}", f"a number for each of {count} reward models, with a sum above 0", "0.7 0.3")


# %% From messages to token ids to rewards
{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


{{shared("apply_scaling")}}


{{shared("passes")}}


{{shared("thinking_erased")}}


class RewardModel:
    """A reward model as training, evaluate and score know it: its own template, length limit and scaling."""

    def __init__(self, path, args):
        self.name, self.batch_tokens, self.packing = Path(path).name, args.batch_tokens, ""
        self.model, self.tokenizer, self.about = load_reward_model(path, args.dtype)
        self.max_length, self.scaling = self.about.get("max_length", 2048), self.about.get("scaling")

    def read(self, messages):
        """(token ids, whether some were cut off, whether the template deleted thinking); no ids where it refuses."""
        try:
            ids, cut = encode(messages, self.tokenizer, self.max_length)
            return tuple(ids), cut > 0, thinking_erased(messages, self.tokenizer)
        except Exception:  # templates raise what they like, some about empty answers
            return (), False, False

    def score(self, groups):
        """Groups of conversations with one prompt each -> (scaled rewards, one after the other; shares to be logged).
        What cannot be scored, which is no reason to end a training, gets the lowest reward of its group."""
        found = [[self.read(messages) for messages in group] for group in groups]
        distinct = [dict.fromkeys(ids for ids, *_ in group if ids) for group in found]  # what is alike must score alike
        distinct = {n: [(ids, list(ids)) for ids in group] for n, group in enumerate(distinct) if group}
        if not self.packing and distinct:
            tolerance = 1e-4 if self.model.dtype == torch.float32 else 5e-2
            some = [[ids for _, ids in group[:2]] for group in list(distinct.values())[:4]]
            self.packing = try_packing(self.model, some, True, tolerance)
            print(f"{self.name}: {self.packing}", flush=True)
        parts = list(passes(distinct, self.batch_tokens, getattr(self.model, "packs", False)))
        scores = score_ids(self.model, [[ids for _, ids in part] for part in parts], self.batch_tokens).tolist()
        known = dict(zip((ids for part in parts for ids, _ in part), scores))
        every, cut, unseen = zip(*(one for group in found for one in group))
        raw = np.array([known.get(ids, math.nan) for ids in every])
        scored = np.isfinite(raw).reshape(len(groups), -1)
        lengths = [len(messages[-1]["content"]) for group in groups for messages in group]
        rewards = np.reshape(apply_scaling(raw, self.scaling, lengths), scored.shape)
        rewards = np.where(scored, rewards, np.inf)
        lowest = np.where(scored.any(1), rewards.min(1), 0)[:, None]
        shares = {"truncated": np.mean(cut), "thinking_unseen": np.mean(unseen), "unscored": np.mean(~scored)}
        return np.where(scored, rewards, lowest).ravel(), shares


def load_reward_models(args):
    """(reward models, their weights, the gold model or None), after asking whether they can be combined."""
    weights = numbers(args.weights, len(args.reward_models))
    models = [RewardModel(path, args) for path in args.reward_models]
    unscaled = [model.name for model in models if model.scaling is None]
    if args.combine != "mean" and unscaled and len(models) > 1:
        scales = f"{', '.join(unscaled)} without scaling: no common scale for --combine {args.combine}"
        refuse(scales, "reward models scaled on one set", "scale each of them first, or --combine mean")
    if unscaled and len(models) > 1:
        lacking = f"{', '.join(unscaled)} without scaling"
        print(f"warning: {lacking}: the model whose rewards spread most decides the mean", file=sys.stderr)
    if args.gold and args.gold in args.reward_models:
        refuse(f"{args.gold} is a reward model and the gold one", "one that the policy never sees", "--gold OTHER")
    return models, weights, RewardModel(args.gold, args) if args.gold else None


# %% Thinking
{{shared("thinking")}}


{{shared("measures")}}


{{shared("read_weights")}}


{{shared("policy_text")}}


# %% Prompts
{{shared("read_rows")}}


{{shared("messages")}}


{{shared("policy_prompts")}}


# %% Rewards
def agreement(rewards, gold):
    """Share of the pairs within groups (arrays of groups x completions) that both order alike, a tie of the rewards
    counting half; None where gold tells no pair apart."""
    ours, theirs = (np.sign(values[:, :, None] - values[:, None, :]) for values in (rewards, gold))
    alike = ((ours == theirs) + (ours == 0) / 2)[theirs != 0]
    return float(alike.mean()) if alike.size else None


class Rewards:
    """The parts of the reward as TRL's reward `functions` and their `weights`; one with weight 0 is only logged. What
    the watch needs is logged along with the first, `reward_model`."""

    def __init__(self, args, tokenizer, models, weights, gold):
        self.args, self.models, self.model_weights, self.gold = args, models, weights, gold
        self.texts = PolicyText(tokenizer, enable_thinking=args.policy_thinks)
        measures = read_weights(args.measures, [*measure(split_thinking(""), 0)], "--measures")
        limit = args.max_completion_length
        self.weights = [1.0, *measures.values(), args.weight_overlong, args.weight_repetition]
        self.functions = [
            self.reward_model,
            *(thinking_reward(name, self.texts, args.budget or limit) for name in measures),
            get_soft_overlong_punishment(limit, max(1, limit // 5)),
            get_repetition_penalty_reward(3),
        ]

    def conversations(self, conversation, said):
        """Prompts and what was said (a group one after the other) -> groups of conversations."""
        messages = [
            self.texts.message(*one) if self.args.score_thinking else {"role": "assistant", "content": one[0].answer}
            for one in said
        ]
        whole = [[*before, message] for before, message in zip(conversation, messages)]
        return [whole[i : i + self.args.num_generations] for i in range(0, len(whole), self.args.num_generations)]

    def reward_model(self, completion_ids, conversation, gold, log_metric, prompts=None, **_):
        """Rewards (list of floats) of the completions, in groups of num_generations."""
        said = self.texts.read(completion_ids, prompts)
        groups = self.conversations(conversation, said)
        scored = [model.score(groups) for model in self.models]
        parts = np.stack([rewards for rewards, _ in scored])
        for model, (part, shares) in enumerate(scored):
            log_metric(f"reward_models/{model}_{self.models[model].name}", float(part.mean()))
            for name, share in shares.items():
                log_metric(name, float(share))
        rewards = np.average(parts, axis=0, weights=self.model_weights)
        if self.args.combine == "min":
            rewards = parts.min(0)
        elif self.args.combine == "uncertainty":
            rewards = rewards - UNCERTAINTY * parts.var(0)
        grouped = rewards.reshape(len(groups), -1)
        log_metric("groups_without_spread", float((np.ptp(grouped, axis=1) < 1e-6).mean()))
        lengths = np.array([len(ids) for ids in completion_ids], float).reshape(grouped.shape)
        centred = [(values - values.mean(1, keepdims=True)).ravel() for values in (grouped, lengths)]
        if all(values.std() > 1e-6 for values in centred):
            log_metric("length_correlation", float(np.corrcoef(*centred)[0, 1]))
        if (judged := self.judge(groups, [found.answer for found, _ in said], gold)) is not None:
            judged = judged.reshape(grouped.shape)
            log_metric("gold/mean", float(judged.mean()))
            log_metric("gold/std", float(judged.std()))
            log_metric("gold/best_of_group", float(judged[range(len(groups)), grouped.argmax(1)].mean()))
            if (alike := agreement(grouped, judged)) is not None:
                log_metric("gold/agreement", alike)
        return rewards.tolist()

    def judge(self, groups, answers, gold):
        """Scores that the policy never learns from: the gold model's, or whether the answer holds the row's "gold" as a
        word. None where there is neither."""
        if self.gold:
            return self.gold.score(groups)[0]
        if None in gold:
            return None
        gold, answers = ([re.sub(r"(?<=\d),(?=\d{3}\b)", "", text) for text in texts] for texts in (gold, answers))
        rules = [rf"(?<![\w-])(?<!\d\.){re.escape(right)}(?!\w|\.\d)" for right in gold]  # 42, but not in 4.42 or 42.5
        return np.array([re.search(*both) is not None for both in zip(rules, answers)], float)


# %% Watching
{{shared("watch")}}


def as_line(entry):
    """A step or event as a line of JSON, which has no NaN: the mean of a measure that none of the completions had."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(finite) + "\n"


class Watch(transformers.TrainerCallback):
    """Writes every step and event to history.jsonl, says events in words, and stops the run where it was told to."""

    SHOWN = ("reward", "groups_without_spread", "kl", "completions/mean_length", "gold/agreement")

    def __init__(self, folder, stops):
        self.file, self.stops, self.events = folder / "history.jsonl", stops, []

    def replay(self, history, main):
        """A run that goes on finds its history in the checkpoint; what came after that is done again."""
        found = [new_events(history[: i + 1], self.stops) for i in range(len(history))]
        self.events = [event for events in found for event in events]
        if main:
            entries = [entry for step, events in zip(history, found) for entry in (step, *events)]
            self.file.write_text("".join(map(as_line, entries)))

    def on_train_begin(self, args, state, control, **_):
        self.replay(state.log_history, state.is_world_process_zero)

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in logs and "loss" not in logs:
            return
        events = new_events(state.log_history, self.stops)
        self.events += events
        if any(event["stops"] for event in events):
            control.should_training_stop = control.should_save = True
        if state.is_world_process_zero:
            with open(self.file, "a") as file:
                file.writelines(map(as_line, (state.log_history[-1], *events)))
            if args.disable_tqdm:
                shown = [f"{k.split('/')[-1]} {logs[k]:.4g}" for k in self.SHOWN if logs.get(k) is not None]
                print(f"step {state.global_step}/{state.max_steps}", *shown, sep="  ", flush=True)
            for event in events:
                stopping = "; stopping, as told" if event["stops"] else ""
                print(f"watch, step {event['step']}: {event['words']}{stopping}", file=sys.stderr, flush=True)

    def on_save(self, args, state, control, **_):
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            draw_curves(state.log_history, self.file.with_name("curves.png"))


def draw_curves(history, path):
    """Rewards by part, gold, length, KL and groups without spread over the steps, as a PNG."""
    parts = sorted({name for log in history for name in log if re.fullmatch("rewards/.*/mean|reward_models/.*", name)})
    panels = {"reward": ["reward", *parts], "gold": ["gold/mean", "gold/best_of_group"]}
    panels |= {"agreement": ["gold/agreement", "length_correlation"], "tokens": ["completions/mean_length"]}
    panels |= {"kl": ["kl"], "shares": ["groups_without_spread", "completions/clipped_ratio", "truncated"]}
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items()):
        for name in names:
            points = {log["step"]: log[name] for log in history if log.get(name) is not None}
            axes.plot(points.keys(), points.values(), label=name.removesuffix("/mean"))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=110)


# %% Training
{{shared("newest_complete")}}


def prepare_checkpoints(args, prompts, models):
    """(Folder of its own for each run, so that no two mix; the checkpoint to resume from, or None)."""
    free = "out resume report_to batch_tokens micro_batch gradient_checkpointing save_steps vllm_url stop_when".split()
    run = {k: v for k, v in vars(args).items() if k not in free}
    run |= {"prompts": prompts["conversation"][:], "probes": [model.about.get("probes") for model in models]}
    folder = Path(args.out + "-checkpoints") / fingerprint(run)
    if not args.resume and int(os.environ.get("RANK", 0)) == 0:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder, newest_complete(folder) if args.resume else None


def training_arguments(args, checkpoints, reward_weights):
    """TRL's configuration for this machine: a GPU in bfloat16 where there is one, otherwise the CPU in float32."""
    gpu, world = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", 1))
    mine = args.prompts_per_step // world * args.num_generations  # whole groups, for they are scored together
    micro = next(size for size in range(min(args.micro_batch, mine), 0, -1) if mine % size == 0)
    bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    # % if method == "full"
    dtype = torch.float32
    # % else
    dtype = torch.bfloat16 if bf16 else torch.float32
    # % endif
    return Config(
        output_dir=str(checkpoints),
        model_init_kwargs={"dtype": dtype},
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=mine // micro,
        num_generations=args.num_generations,
        max_completion_length=args.max_completion_length,
        temperature=args.temperature,
        chat_template_kwargs={"enable_thinking": args.policy_thinks},
        beta=args.beta,
        num_iterations=args.iterations,
        epsilon=args.epsilon,
        # % if algorithm == "grpo"
        scale_rewards=args.scale_rewards,
        loss_type=args.loss_type,
        # % endif
        reward_weights=reward_weights,
        mask_truncated_completions=args.mask_cut,
        use_vllm=args.vllm != "no",
        vllm_mode=args.vllm if args.vllm != "no" else "colocate",
        vllm_server_base_url=args.vllm_url,
        vllm_max_model_length=args.max_prompt_length + args.max_completion_length,
        gradient_checkpointing=args.gradient_checkpointing,
        bf16=bf16,
        use_cpu=not gpu,
        save_steps=args.save_steps,
        save_total_limit=2,
        logging_steps=1,  # the watch looks at every step
        logging_nan_inf_filter=False,
        seed=args.seed,
        report_to=args.report_to,
        disable_tqdm=not sys.stderr.isatty(),
    )


def load_tokenizer(args):
    """The policy's tokenizer; it need not be the reward model's."""
    try:
        kind = (transformers.AutoConfig.from_pretrained(args.policy).architectures or ["unknown"])[0]
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.policy, padding_side="left")
    except (OSError, ValueError) as error:
        refuse(f"no policy {args.policy!r}: {str(error)[:200]}", "a model folder or a hub id", "--policy FOLDER")
    if kind.endswith("ForSequenceClassification"):
        refuse(f"{args.policy} is a {kind}: it writes nothing", "a language model as policy", "--policy OTHER")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # token types, which some give, no policy takes
    return tokenizer


def adaptation(args, config):
    """(LoRA configuration or None, quantization or None) of the policy."""
    adapter = quantization = None
    # % if method != "full"
    linear = "all-linear"  # of the blocks; the output embedding stays as it is
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", r=args.lora_r, lora_alpha=args.lora_alpha, target_modules=linear)
    # % endif
    # % if method == "qlora"
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    compute = config.model_init_kwargs["dtype"]
    config.model_init_kwargs["device_map"] = {"": config.device}
    quantization = transformers.BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=compute)
    # % endif
    return adapter, quantization


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "policy.json")
    if not args.policy:
        refuse("no policy", "a model to train", 'policy = "FOLDER_OR_HUB_ID" under [rl], or --policy', 2)
    if args.prompts_per_step % (world := int(os.environ.get("WORLD_SIZE", 1))):
        mend = f"--prompts-per-step {world * math.ceil(args.prompts_per_step / world)}"
        refuse(f"{args.prompts_per_step} prompts a step for {world} processes", "a multiple", mend)
    if args.vllm != "no" and not importlib.util.find_spec("vllm"):
        refuse("no vllm", "it installed, in a version that TRL knows", "pip install 'trl[vllm]', or --vllm no", 5)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    stops, tokenizer = limits_to_stop(args.stop_when), load_tokenizer(args)
    models, weights, gold = load_reward_models(args)
    rewards = Rewards(args, tokenizer, models, weights, gold)
    if not args.max_prompt_length:
        least = min(model.max_length for model in models)
        args.max_prompt_length = max(least // 2, least - args.max_completion_length)
    prompts, left_out = read_prompts(args, tokenizer, [*models, *([gold] if gold else [])])
    judged = gold is not None or None not in prompts["gold"][:]
    measured = {"kl": args.beta > 0, "agreement": judged, "gold": judged}
    if blind := [signal for signal in stops if not measured.get(signal, True)]:
        mend = "--beta 0.001 for the kl; --gold MODEL, or a gold in every row, for the others"
        refuse(f"--stop-when {' '.join(blind)}: nothing measures that", "a signal that is measured", mend)
    checkpoints, resume_from = prepare_checkpoints(args, prompts, models)
    config, watch = training_arguments(args, checkpoints, rewards.weights), Watch(checkpoints, stops)
    adapter, quantization = adaptation(args, config)
    trainer = Trainer(
        model=args.policy,
        reward_funcs=rewards.functions,
        args=config,
        train_dataset=prompts,
        processing_class=tokenizer,
        quantization_config=quantization,
        peft_config=adapter,
        callbacks=[watch],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    for parameter in trainer.model.parameters():  # TRL rounds QLoRA's trained weights to bfloat16
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    size = f"{args.prompts_per_step} prompts a step, {args.num_generations} completions each"
    watched = "agreement with gold is watched" if judged else "no gold: over-optimisation goes unseen"
    print(f"{config.device} x {world}; {size}; {watched}")
    if opener := rewards.texts.opener.strip():
        print(f"prompts end with {opener}: it is put back in front of each completion for the reward models")
    print(f"going on from {resume_from}" if resume_from else "starting at step 0, without a checkpoint", flush=True)
    state = transformers.TrainerState.load_from_json(f"{resume_from}/trainer_state.json") if resume_from else None
    if state:
        watch.replay(state.log_history, trainer.is_world_process_zero())
    if state and (state.global_step >= state.max_steps or any(event["stops"] for event in watch.events)):
        trainer._load_from_checkpoint(resume_from)  # train() would take one step more
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=resume_from)
    if trainer.is_world_process_zero():
        save(args, trainer, tokenizer, watch, models, weights, left_out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


{{shared("replace_folder")}}


def save(args, trainer, tokenizer, watch, models, weights, left_out):
    """Write OUT beside, and rename it when it is whole."""
    history = [log for log in trainer.state.log_history if "reward" in log]
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    # % if method == "full"
    trainer.model.save_pretrained(beside)
    # % else
    trainer.model.save_pretrained(beside, save_embedding_layers=False)
    # % endif
    tokenizer.save_pretrained(beside)
    shutil.copy(watch.file, beside)
    shutil.copy(watch.file.with_name("curves.png"), beside)  # drawn with the last checkpoint
    stopped = next((event for event in watch.events if event["stops"]), None)
    groups = len(history) * args.prompts_per_step
    completions = groups * args.num_generations
    flat, cut = (np.mean([log[name] for log in history]) for name in ("groups_without_spread", "truncated"))
    flat, cut = round(flat * groups), round(cut * completions)
    used = [model.about | {"name": model.name, "weight": weight} for model, weight in zip(models, weights)]
    policy = {
        "rendered_by": RENDERED_BY,
        "base_model": args.policy,
        "steps": trainer.state.global_step,
        "stopped": stopped,
        "groups": {"all": groups, "without_spread": flat},
        "completions": {"all": completions, "truncated": cut},
        "events": watch.events,
        "last_step": json.loads(as_line(history[-1])),
        "reward_models": [{k: one.get(k) for k in ("name", "weight", "scaling", "probes")} for one in used],
        "prompts_left_out": left_out,
        "parameters": vars(args),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)},
    }
    (beside / "policy.json").write_text(json.dumps(policy, indent=2))
    replace_folder(beside, Path(args.out))
    some = max(1, min(WINDOW, len(history) // 2))  # of a run that is shorter than two windows, halves
    first, end = (np.mean([log["reward"] for log in part]) for part in (history[:some], history[-some:]))
    name = f"{some} steps" if some > 1 else "step"
    print(f"{len(history)} steps; reward {first:.3f} in the first {name}, {end:.3f} in the last {name}")
    print(f"the watch reported {len(watch.events)} events" + ", in policy.json and history.jsonl" * bool(watch.events))
    print(f"{flat} of {groups} groups had equal rewards for all completions, so they gave no gradient")
    print(f"{cut} of {completions} conversations were cut to what the reward models can read")
    if stopped:
        print(f"stopped at step {stopped['step']}: {stopped['words']}")
    print(f"written to {args.out}; its reward is what it was trained on: evaluate it with people, or another judge")


# %% Run
{{shared("run")}}
