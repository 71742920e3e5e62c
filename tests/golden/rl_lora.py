# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "torch>=2.6",
#     "transformers>=4.57.1",
#     "trl>=1.12",
#     "peft>=0.17",
#     "bitsandbytes>=0.49",
#     "matplotlib>=3.8",
#     "python-dotenv>=1.0",
# ]
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
if "LOCAL_RANK" not in os.environ:  # one GPU, for Trainer would split every batch over all it sees; more: torchrun
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
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
from trl import GRPOConfig as Config
from trl import GRPOTrainer as Trainer

RENDERED_BY = "reward 0.1.0: reward.py render rl --algorithm grpo --method lora"
UNCERTAINTY = 0.5  # λ of mean − λ · variance (Coste et al. 2023, arXiv 2310.02743)


# %% Parameters
def refuse(received, expected, mend, code=3):
    """Stop with one readable message. Exit codes: 2 wrong use, 3 data refused, 5 the environment lacks something."""
    print(f"error: {received}\n  expected: {expected}\n  try: {mend}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def within(kind, low, high=float("inf")):
    """An argparse type: a number between low and high, both included."""

    def number(text):
        if low <= (value := kind(text)) <= high:
            return value
        raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")

    return number


def own_folder(out, marker):
    """The folder to write, behind a link where it is one. Refused where this script did not write what is there: it
    holds things, but no `marker`."""
    out = Path(out)
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        refuse(f"{out} holds other things, which would be deleted", "a folder of its own", "--out OTHER")
    return str(out.resolve() if out.is_symlink() else out)


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    add("--policy", default="", help="Model to train: a folder or a hub id.")
    add("--reward-models", nargs="*", default=["model"], help="Reward models: folders or hub ids.")
    add("--weights", nargs="*", default=[], help="A number for each reward model; empty: all alike.")
    add(
        "--combine",
        choices=["mean", "min", "uncertainty"],
        default="mean",
        help="Several models: mean, worst, or mean less the variance.",
    )
    add("--data", nargs="*", default=["data/train.parquet"], help="Formatted pairs, or files of prompts.")
    add("--split", default="train", help="Split of a hub dataset.")
    add("--gold", default="", help="Second reward model, never trained on: only watched.")
    add("--out", default="policy", help="Folder for the trained policy.")
    add(
        "--num-generations",
        type=within(int, 2, 1024),
        default=8,
        help="Completions per prompt: the group that is compared.",
    )
    add("--prompts-per-step", type=within(int, 1), default=8, help="Prompts per optimizer step, over all processes.")
    add("--micro-batch", type=within(int, 1), default=8, help="Completions per policy pass; memory, not result.")
    add(
        "--batch-tokens",
        type=within(int, 8),
        default=8192,
        help="Tokens per pass of a reward model; memory, not result.",
    )
    add(
        "--max-prompt-length",
        type=within(int, 0),
        default=0,
        help="Tokens a prompt may have; 0: what reward models read, less a completion, or half.",
    )
    add(
        "--max-completion-length",
        type=within(int, 1),
        default=512,
        help="Tokens a completion may have before it is cut.",
    )
    add(
        "--temperature", type=within(float, 0.01, 10), default=1.0, help="Of sampling; below 1 the group becomes alike."
    )
    add(
        "--learning-rate",
        type=within(float, 1e-09, 1),
        default=1e-05,
        help="Constant rate; 1e-6 for full, 1e-5 for LoRA.",
    )
    add("--epochs", type=within(float, 0.001, 1000), default=1, help="Passes over the prompts.")
    add("--max-steps", type=within(int, -1), default=-1, help="Optimizer steps; -1 for all epochs.")
    add(
        "--beta",
        type=within(float, 0, 10),
        default=0.04,
        help="KL pull to the start; 0.04 GRPO, 0.05 RLOO, 0: unwatched.",
    )
    add("--iterations", type=within(int, 1, 64), default=1, help="Optimizer steps that reuse the same completions.")
    add(
        "--epsilon", type=within(float, 0, 1), default=0.2, help="Clip of the ratio; acts from the second iteration on."
    )
    add(
        "--scale-rewards",
        choices=["group", "batch", "none"],
        default="group",
        help="Divide by the spread of the group, the batch, nothing.",
    )
    add(
        "--loss-type",
        choices=["dapo", "dr_grpo", "bnpo", "grpo"],
        default="dapo",
        help="Mean over tokens; grpo favours short right answers.",
    )
    add("--mask-cut", default=False, help="Learn nothing from completions cut at the limit.", **yes_or_no)
    add("--policy-thinks", default=True, help="enable_thinking of the policy's chat template.", **yes_or_no)
    add("--score-thinking", default=True, help="Show reward models the thinking, not the answer alone.", **yes_or_no)
    add(
        "--measures", nargs="*", default=["closed=0"], help="Measures of the thinking to add, as in think: NAME=WEIGHT."
    )
    add("--budget", type=within(int, 0), default=0, help="Tokens for the measure overlong; 0: max_completion_length.")
    add(
        "--weight-overlong",
        type=within(float, -100, 100),
        default=0.0,
        help="Of 0 to -1 in the last fifth of the limit (DAPO).",
    )
    add(
        "--weight-repetition",
        type=within(float, -100, 100),
        default=0.0,
        help="Of minus the share of repeated token trigrams.",
    )
    add("--stop-when", nargs="*", default=[], help="Signals that stop the run: kl, kl=0.2, agreement …")
    add("--lora-r", type=within(int, 1, 1024), default=16, help="Rank of the adapter (lora, qlora).")
    add("--lora-alpha", type=within(int, 1, 4096), default=32, help="Scale of the adapter (lora, qlora).")
    add("--gradient-checkpointing", default=False, help="Less memory for a third more computation.", **yes_or_no)
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Of the reward models; auto: bfloat16 on a GPU.",
    )
    add(
        "--vllm",
        choices=["no", "colocate", "server"],
        default="no",
        help="Generate with vLLM: on the same GPU, or on a server.",
    )
    add("--vllm-url", default="http://localhost:8000", help="Address of the vLLM server (vllm server).")
    add("--save-steps", type=within(int, 1), default=50, help="Optimizer steps between checkpoints.")
    add("--seed", type=within(int, 0, 4294967295), default=42, help="Seeds sampling and the order of the prompts.")
    add("--report-to", default="none", help="none, trackio, tensorboard or wandb.")
    add("--resume", default=True, help="Go on from the newest complete checkpoint.", **yes_or_no)
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
def as_text(messages, tokenizer):
    """Messages -> the text that the chat template makes of them. Thinking in a field of its own goes in under each name
    that templates know; they read one and ignore the others."""
    given = []
    for message in messages:
        thought = message.get("thinking")
        names = dict.fromkeys(("reasoning_content", "reasoning", "thinking") if thought else (), thought)
        given.append({"role": message["role"], "content": message["content"], **names})
    return tokenizer.apply_chat_template(given, tokenize=False)


def encode(messages, tokenizer, max_length):
    """Messages -> (token ids, number of tokens cut off). The only place where text is built, for every stage."""
    return encode_text(as_text(messages, tokenizer), tokenizer, max_length)


def encode_text(text, tokenizer, max_length):
    """Text in the chat template -> (token ids, number of tokens cut off).

    Cuts from the left, for the reward is read at the end; a leading BOS stays."""
    ids = tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False)["input_ids"]
    cut = max(0, len(ids) - max_length)
    bos = ids[:1] if cut and ids[0] == tokenizer.bos_token_id else []
    return bos + ids[cut + len(bos) :], cut


def fingerprint(value):
    """Short hash of text, or of anything that JSON can hold."""
    return hashlib.sha256((value if isinstance(value, str) else json.dumps(value)).encode()).hexdigest()[:16]


def shared_prefix(group):
    """Length of the longest common prefix of token-id lists that leaves each a token of its own; 0 for one alone."""
    shared = min(map(len, group)) - 1 if len(group) > 1 else 0
    for other in group[1:]:
        shared = next((i for i in range(shared) if group[0][i] != other[i]), shared)
    return shared


def shares(group):
    """For each sequence of a group: (tokens that the first or the one before begins with too, its place)."""
    return [(0, 0)] + [max((shared_prefix([group[j], group[i]]), j) for j in {0, i - 1}) for i in range(1, len(group))]


def pack(groups, device="cpu"):
    """Groups of token-id lists (a pair, k answers to one prompt, growing parts of an answer) -> model inputs of one row
    without padding.

    A group lies there as [the first | rest of the second | …], the rest being what neither the first nor the one before
    begins with, so a prompt is computed once. Positions go on from the shared part; `keys` gathers for each segment
    the keys that its queries may see; `last` is where each sequence ends."""
    ids, positions, keys, last, q_ends, k_ends = [], [], [], [], [0], [0]
    for group in groups:
        places = []  # of the keys of each sequence
        for sequence, (skip, other) in zip(group, shares(group)):
            places.append((places[other][:skip] if skip else []) + [*range(len(ids), len(ids) + len(sequence) - skip)])
            keys += places[-1]
            positions += range(skip, len(sequence))
            ids += sequence[skip:]
            last.append(len(ids) - 1)
            q_ends.append(len(ids))
            k_ends.append(len(keys))
    ends = torch.tensor([q_ends, k_ends], dtype=torch.int32, device=device)
    packed = {"keys": torch.tensor(keys, device=device), "ends": ends, "q_ends": q_ends, "k_ends": k_ends}
    ids, positions = torch.tensor([[ids], [positions]], device=device)
    row = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids), "packed": packed}
    return row | {"last": torch.tensor(last, device=device)}


def segment_mask(queries, keys, window, like):
    """(queries, keys) in like's dtype: 0 where the last of so many tokens see a key, -inf where they do not."""
    back = torch.arange(keys - queries, keys, device=like.device)[:, None] - torch.arange(keys, device=like.device)
    seen = (back >= 0) & (back < (window or keys))
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, float("-inf"))


def packed_attention(module, query, key, value, mask, scaling=None, sliding_window=None, packed=None, **other):
    """transformers' attention interface for packed rows: (1, heads, tokens, dim) in, (1, tokens, heads, dim) out.

    On a GPU in 16 bit one variable-length flash kernel; elsewhere one scaled_dot_product_attention a segment."""
    if packed is None or mask is not None or other.get("softcap") or other.get("s_aux") is not None:
        raise NotImplementedError("packed attention has no masks, soft-capping or sinks")
    if torch.is_autocast_enabled(query.device.type):  # q_norm and k_norm with float32 weights leave float32 behind
        query, key, value = (t.to(torch.get_autocast_dtype(query.device.type)) for t in (query, key, value))
    window, q, k = sliding_window or getattr(module, "sliding_window", None) or 0, packed["q_ends"], packed["k_ends"]
    key, value = (t[0].index_select(1, packed["keys"]) for t in (key, value))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = [max(b - a for a, b in zip(ends, ends[1:])) for ends in (q, k)]
        query, key, value = query[0].transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        options = {"scale": scaling, "window_size": (window - 1 if window else -1, 0), "enable_gqa": True}
        return varlen_attn(query, key, value, *packed["ends"], *longest, **options)[None], None
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[0], 0)[None] for t in (key, value))
    attend = torch.nn.functional.scaled_dot_product_attention
    masks = packed.setdefault((window, query.dtype), [])  # the same in every layer
    out = []
    for i, (q0, q1, k0, k1) in enumerate(zip(q, q[1:], k, k[1:])):
        segment, m, n = (query[:, :, q0:q1], key[:, :, k0:k1], value[:, :, k0:k1]), q1 - q0, k1 - k0
        if i == len(masks):
            masks.append(segment_mask(m, n, window, query) if m < n or 0 < window < n else None)
        out.append(attend(*segment, masks[i], is_causal=masks[i] is None, scale=scaling))
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def packed_forward(self, input_ids=None, position_ids=None, last=None, packed=None, **_):
    """Forward of a sequence classifier for packed rows: one reward a sequence, (sequences, 1)."""
    body = getattr(self, self.base_model_prefix)
    hidden = body(input_ids=input_ids, position_ids=position_ids, use_cache=False, packed=packed).last_hidden_state
    return SequenceClassifierOutputWithPast(logits=self.score(hidden[0, last]))


def why_not_packable(model):
    """A reason (str) when the architecture cannot be packed, else ''."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"{', '.join(sorted(kinds))} layers carry state from one sequence to the next"
    if not isinstance(model, GenericForSequenceClassification) or not model._supports_attention_backend:
        return "it does not pool and attend the generic way"
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        return "it attends in both directions"
    if getattr(config, "attention_dropout", 0):
        return "it drops attention weights at random"
    return "it caps its attention logits" if getattr(config, "attn_logit_softcapping", None) else ""


def try_packing(model, groups, wanted, tolerance):
    """Turn packing on where the architecture allows it and it gives the padded rewards. Returns a line that says so.

    The second test is the sharper one: when the first answer of a group changes, the others must not move at all."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if reason := why_not_packable(base) if wanted else "packing is off":
        return f"padded batches: {reason}"
    padded, vocabulary = score_ids(model, groups, 8192), model.config.get_text_config().vocab_size
    transformers.AttentionInterface.register("packed_groups", packed_attention)
    base.padded_attention = base.config._attn_implementation
    base.set_attn_implementation("packed_groups")
    base.forward, base.packs = MethodType(packed_forward, base), True
    changed = [[[*group[0][:-1], (group[0][-1] + 1) % vocabulary], *group[1:]] for group in groups]
    others = [place > 0 for group in groups for place in range(len(group))]
    try:
        packed = score_ids(model, groups, 8192)
        leak = (score_ids(model, changed, 8192) - packed)[others].abs().sum() / padded.abs().max()
        reason = f"rewards differ by {(packed - padded).abs().max() / padded.abs().max():.1e}, leak {leak:.1e}"
        if leak <= 1e-5 and (packed - padded).abs().max() <= tolerance * padded.abs().max():
            return "packed batches, shared prompts computed once; checked against padded ones"
    except Exception as error:  # no kernel in this torch, or none for these shapes; padding always works
        reason = str(error)[:200]
    stop_packing(model)
    return f"padded batches: {reason}"


def stop_packing(model):
    """Back to padded rows."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation(base.padded_attention)
    del base.forward, base.packs


def pad(groups, pad_token_id, device="cpu"):
    """Groups of token-id lists -> model inputs, one padded row a sequence."""
    sequences = [sequence for group in groups for sequence in group]
    width = max(map(len, sequences))
    ids = [sequence + [pad_token_id] * (width - len(sequence)) for sequence in sequences]
    mask = [[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def batches(groups, batch_tokens, packs):
    """Yield lists of indices into groups, each a forward pass of at most batch_tokens tokens, or of one group alone.

    Packed rows keep the order; padded ones go from long to short, so that little of them is padding."""
    batch, used, width = [], 0, 0
    longest = [max(map(len, group)) for group in groups]
    for i in range(len(groups)) if packs else sorted(range(len(groups)), key=lambda i: -longest[i]):
        group = groups[i]
        packed = sum(map(len, group)) - sum(skip for skip, _ in shares(group)) if packs else 0
        if batch and used + (packed or width * len(group)) > batch_tokens:
            yield batch
            batch, used = [], 0
        width = width if batch else longest[i]
        used += packed or width * len(group)
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()  # not inference_mode: FSDP2 goes on training with what it gathers here
def score_ids(model, groups, batch_tokens):
    """Rewards (float32 tensor) of every token-id list in groups of them, in order; packed where the model packs."""
    packs, rewards = getattr(model, "packs", False), [torch.zeros(0)] * len(groups)
    for batch in batches(groups, batch_tokens, packs):
        some = [groups[i] for i in batch]
        padding = model.config.get_text_config().pad_token_id
        inputs = pack(some, model.device) if packs else pad(some, padding, model.device)
        scores = model(**inputs, use_cache=False).logits[:, 0].float().cpu()
        for i, part in zip(batch, scores.split([len(group) for group in some])):
            rewards[i] = part
    return torch.cat([torch.zeros(0), *rewards])


def reward_heads(model):
    """The linear layers that make rewards; with LoRA the base's, and last the trained one."""
    named = model.named_modules()
    return [m for name, m in named if isinstance(m, torch.nn.Linear) and re.search(r"(^|\.)score(\.|$)", name)]


def keep_float32(model):
    """Compute in float32 where rounding would show: in the reward head, for rewards rounded to bfloat16 tie, and in
    4-bit layers on a CPU, which bitsandbytes rounds to bfloat16 in evaluation alone. Returns the model."""

    def forward(self, hidden):
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), self.weight.float())

    for head in reward_heads(model):
        head.forward = MethodType(forward, head)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_reward_model(path, dtype="auto", dequantize=False):
    """Returns (model, tokenizer, contents of reward.json), ready to score.

    Refuses what would score silently wrong: a causal LM, a head that is in no file, probes that come out otherwise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if native else "float32"
    expected = "a folder written by train.py, or a sequence classifier with one label"
    try:
        folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path))
        names = ("adapter_config.json", "reward.json")
        adapter, reward = (json.loads((folder / n).read_bytes()) if (folder / n).exists() else {} for n in names)
        base = adapter.get("base_model_name_or_path", str(folder))
        base = next((str(p) for p in (Path(base), folder.parent / base) if p.is_dir()), base)
        kind = (transformers.AutoConfig.from_pretrained(base).architectures or ["unknown"])[0]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        refuse(f"no reward model at {path}: {str(error)[:200]}", expected, "python run/train.py")
    if not adapter and not kind.endswith("ForSequenceClassification"):
        refuse(f"{path} is a {kind}: it would score with a random head", expected, "python run/train.py")
    if not tokenizer.chat_template:
        mend = "put chat_template.jinja beside its tokenizer"
        refuse(f"{path} has no chat template", "the one it was trained with", mend)
    head = None
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as saved:
            names = [name for name in saved.keys() if re.search(r"(^|\.)score\.weight$", name)]
            head = saved.get_tensor(names[0]).float() if names else head
    lost = {"score.weight"} if adapter and head is None else set()  # before PEFT, which fails with a KeyError
    options = {"num_labels": 1, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if quantized := reward.get("quantization"):
        options["quantization_config"] = transformers.BitsAndBytesConfig(**quantized)
    try:
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(base, **options)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a head with more than one label
        refuse(f"{path} cannot be loaded: {str(error)[-200:]}", expected, "another --model")
    if lost := lost | (set(info["missing_keys"]) - ({"score.weight"} if adapter else set())):
        refuse(f"{path} holds no {', '.join(sorted(lost)[:3])}: its scores would be random", expected, "train again")
    if adapter:
        model = peft.PeftModel.from_pretrained(model.dequantize() if quantized and dequantize else model, folder)
    if head is not None:
        weight = reward_heads(model)[-1].weight
        weight.data = head.to(weight.device)  # as it was trained, not rounded to bfloat16
    config = model.config.get_text_config()
    config.pad_token_id = config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if config.pad_token_id is None:
        refuse(f"{path} names no token to pad with", "the one it was trained with", "pad_token_id in its config.json")
    model = keep_float32(model.eval() if quantized else model.eval().to(device))

    probes = reward.get("probes", [])
    ids = [encode(probe["messages"], tokenizer, reward["max_length"])[0] for probe in probes]
    if [fingerprint(i) for i in ids] != [probe["ids"] for probe in probes]:
        refuse(f"{path} gives other tokens for its probes", "the tokenizer it was saved with", "train again")
    scores = score_ids(model, [[i] for i in ids], 16384).tolist()
    off = [abs(score - probe["score"]) / max(1, abs(probe["score"])) for score, probe in zip(scores, probes)]
    tolerance = 1e-3 if dtype == reward.get("dtype") == "float32" else 0.1
    if not all(x <= tolerance for x in off):
        refuse(f"{path} scores its probes {off} off", f"at most {tolerance}", "the files and versions of reward.json")
    if not reward:
        print(f"warning: {path} has no reward.json: template, length limit and scores are unchecked", file=sys.stderr)
    return model, tokenizer, reward


def apply_scaling(rewards, scaling, lengths):
    """Raw rewards -> the scale that `scaling` (reward.json's entry, written by scale.py) stands for; None leaves them.

    First the reward that an answer of its length has anyway is taken off (`lengths` counts the characters of each
    scored answer). Then z = (reward − reference) / scale goes through `shape`, averaged over the references: the mean
    for a z-score, 0 for a temperature, reference answers for par and quantile. To compare with answers to the very same
    prompt, call it with scaling | {"references": their raw rewards}. Depends on no other reward of the call. Returns a
    list of floats."""
    import numpy as np

    values = np.asarray(rewards, float)
    if scaling is None:
        return values.tolist()
    if scaling.get("length"):
        values = values - np.interp(lengths, *scaling["length"])
    if scaling["shape"] == "curve":
        values = np.interp(values, *scaling["points"])
    elif scaling["shape"] == "quantile":  # share of the references below; one as high counts half
        below, up_to = (np.searchsorted(np.sort(scaling["references"]), values, side) for side in ("left", "right"))
        values = (below + up_to) / 2 / len(scaling["references"])
    else:
        log_sigmoid = {"linear": None, "sigmoid": np.exp, "log_sigmoid": np.positive}[scaling["shape"]]
        each = ((values - reference) / scaling["scale"] for reference in scaling["references"])
        values = sum(log_sigmoid(-np.logaddexp(0, -z)) if log_sigmoid else z for z in each) / len(scaling["references"])
    return np.clip(values, *scaling.get("clip") or (-np.inf, np.inf)).tolist()


def passes(groups, batch_tokens, packs):
    """Answers by prompt, {prompt: [(place, token ids)]} -> lists of (place, token ids) that each fit one forward pass,
    the prompt counted once where the model packs."""
    for answers in groups.values():
        longest, shared = (
            max(len(ids) for _, ids in answers),
            shared_prefix([ids for _, ids in answers]) if packs else 0,
        )
        most = min((batch_tokens - shared) // (longest - shared), 8 * batch_tokens // longest)
        yield from (answers[i : i + max(1, most)] for i in range(0, len(answers), max(1, most)))


def thinking_erased(messages, tokenizer):
    """Whether the template deletes thinking of the answer, or another part between tags like <think>, [/THINK] or
    <channel|>: a pair that differs there would teach nothing."""
    said, text = messages[-1], as_text(messages, tokenizer)
    whole = said["content"].strip() in text
    parts = [] if whole else re.split(r"<[^<>\s]*>|\[/?THINK\]|◁/?think▷", said["content"])
    return not all(part.strip() in text for part in (said.get("thinking") or "", *parts * (len(parts) > 1)))


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
class Convention(NamedTuple):
    """How a model marks its thinking, in regular expressions. `markup` is the rest of the format, around the answer;
    `lone`: a closing tag with no opening one before it tells that the prompt opened the block."""

    open: str
    close: str
    markup: str = ""
    lone: bool = True


CONVENTIONS = {  # only what cannot be derived, as </think> is from <think>, [/THINK] from [THINK]
    "harmony": Convention(
        r"<\|channel\|>analysis[^<]*<\|message\|>",
        r"<\|end\|>",
        r"<\|start\|>assistant[^<]*|<\|channel\|>(?!analysis)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
        r"|<\|return\|>|<\|call\|>",
        lone=False,
    ),
    "harmony_decoded": Convention(r"\Aanalysis(?=.*assistantfinal)", "assistantfinal", lone=False),  # no special tokens
    "cohere": Convention(
        r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", r"<\|(?:START|END)_(?:RESPONSE|TEXT)\|>|<\|END_OF_TURN_TOKEN\|>"
    ),
    "gemma": Convention(r"<\|channel>thought\n?", r"<channel\|>", r"<turn\|>"),
    "kimi_k3": Convention(
        r"<\|open\|>think<\|sep\|>",
        r"<\|close\|>think<\|sep\|>",
        r"<\|(?:open|close)\|>(?:response|message)<\|sep\|>|<\|end_of_msg\|>",
    ),
    "muse": Convention(r" to=self<\|message\|>", r"<\|eom\|>", r"<\|start\|>assistant| to=user<\|message\|>|<\|eot\|>"),
    "apertus": Convention(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    "granite": Convention(r"Here(?: is|'s) my thought process:", r"Here(?: is|'s) my response:", lone=False),
}
TAG = r"([<\[◁])/?((?:\w+:)?(?i:think|thinking|thought|reasoning)(?::\w+)?[>\]▷])"
QUOTES = ("``", '""', "''", "“”", "‘’", "«»")


class Thinking(NamedTuple):
    """A completion in its parts. `thinking` and `answer` are stripped text; `parts` is everything, (kind, text) in
    order with kind thinking, answer or tag (from token ids: kind and ids). Joined, the parts are the completion.

    status, the first that holds:
    absent    no block            unclosed  it never ends: cut off       empty   closed, and nothing in it
    nested    a block in a block  several   more than one block          quoted  the answer speaks of the tags
    opened    closed; its opening tag is the end of the prompt           closed  one block, then the answer"""

    thinking: str
    answer: str
    status: str
    opened: bool
    parts: tuple
    convention: Convention


def tags_like(tag):
    """The convention of an opening tag such as <think> or [THINK]."""
    return Convention(re.escape(tag), re.escape(f"{tag[0]}/{tag[1:]}"))


def conventions_in(text):
    """Every convention that text could follow: those of the table, and one for each tag it holds."""
    tags = dict.fromkeys(left + name for left, name in re.findall(TAG, text))
    return [*CONVENTIONS.values(), *map(tags_like, tags)]


def find_tags(text, convention):
    """(start, end, kind) of every tag in text: open, close, markup, or quoted. Quoted is a tag between quotation marks,
    and an opening one in the middle of a sentence or in a code block behind the thinking."""
    rules = zip(("open", "close", "markup"), convention)
    tags, closed = [], 0
    for tag in re.finditer("|".join(f"(?P<{kind}>{rule})" for kind, rule in rules if rule), text, re.DOTALL):
        kind, (start, end) = tag.lastgroup, tag.span()
        around = text[max(0, start - 1) : start] + text[end : end + 1]
        within = re.search(r"[^\s.!?:>] $", text[max(0, start - 2) : start]) or text.count("```", closed, start) % 2
        if not convention.markup and (around in QUOTES or kind == "open" and within):
            kind = "quoted"
        closed = end if kind == "close" else closed
        tags.append((start, end, kind))
    return tags


def recognise(text, opened):
    """The convention that text follows: that of its first opening tag, else of its first tag, else <think>."""
    first = {}
    for convention in conventions_in(text):
        for start, _, kind in find_tags(text, convention):
            if kind in ("open", "markup") or kind == "close" and (convention.lone or opened):
                first.setdefault((kind != "open", start), convention)
    return first[min(first)] if first else tags_like("<think>")


def split_spans(tags, size, opened, markup):
    """Tags in something of `size` -> ([(kind, start, end)], blocks, whether one is nested, whether one never ends)."""
    spans, depth, blocks, nested, last, at = [], int(opened), int(opened), False, None, 0

    def put(kind, start, end):
        nonlocal at, last
        spans.extend([(kind, at, start), ("tag", start, end)])
        at, last = end, None

    for start, end, kind in tags:
        if depth == 0 and kind == "open":
            put("answer", start, end)
            depth, blocks = 1, blocks + 1
        elif depth == 0 and markup and kind != "quoted":
            put("answer", start, end)
        elif depth and kind == "open":
            depth, nested = depth + 1, True
        elif depth and kind in ("close", "markup"):
            depth, last = depth - 1 if kind == "close" else 0, (start, end)
            if depth == 0:
                put("thinking", start, end)
    if last:  # more blocks begin than end: the last closing tag ends them all
        put("thinking", *last)
        depth = 0
    spans.append(("thinking" if depth else "answer", at, size))
    return [span for span in spans if span[1] < span[2]], blocks, nested, depth > 0


def assemble(parts, texts, blocks, nested, unclosed, opened, convention):
    """Parts and the text of each -> Thinking."""
    thinking, answer = (
        between.join(text for (part, _), text in zip(parts, texts) if part == kind).strip()
        for kind, between in (("thinking", "\n"), ("answer", ""))
    )
    statuses = {
        "absent": not blocks,
        "unclosed": unclosed,
        "empty": not thinking,
        "nested": nested,
        "several": blocks > 1,
        "quoted": re.search(f"{convention.open}|{convention.close}", answer, re.DOTALL),
        "opened": opened,
    }
    status = next((name for name, holds in statuses.items() if holds), "closed")
    return Thinking(thinking, answer, status, opened, tuple(parts), convention)


def split_thinking(text, opened=False, convention=None):
    """A completion -> Thinking.

    opened: whether the prompt ends with the opening tag (see opening_tag); a lone closing tag says so by itself.
    convention: of the model (see convention_of), a name in CONVENTIONS or an opening tag; None looks at the text."""
    if isinstance(convention, str):
        convention = CONVENTIONS.get(convention) or tags_like(convention)
    convention = convention or recognise(text, opened)
    tags = find_tags(text, convention)
    opened = is_opened(tags, text[: tags[0][0]] if tags else "", opened, convention)
    spans, *found = split_spans(tags, len(text), opened, convention.markup)
    parts = [(kind, text[start:end]) for kind, start, end in spans]
    return assemble(parts, [text for _, text in parts], *found, opened, convention)


def is_opened(tags, before, opened, convention):
    """Whether a completion begins inside a block: its first tag closes one, or the prompt opened it and the completion
    does not do so again. `before` is the text before its first tag."""
    first = tags[0][2] if tags else ""
    return bool(convention.lone and first == "close" or opened and not (first == "open" and not before.strip()))


def opening_tag(prompt):
    """The opening tag that a rendered prompt ends with, or "": the completion then begins inside the block."""
    endings = [re.search(rf"(?:{convention.open})\s*\Z", prompt) for convention in conventions_in(prompt)]
    return next((ending.group() for ending in endings if ending), "")


def convention_of(tokenizer):
    """The convention that the chat template or the added tokens of a tokenizer name, or None."""
    named = f"{tokenizer.chat_template or ''} {' '.join(tokenizer.get_added_vocab())}"
    known = [c for c in conventions_in(named) if re.search(f"{c.open}|{c.close}", named)]
    return min(known, key=lambda c: re.search(f"{c.open}|{c.close}", named).start(), default=None)


def thinking_tags(tokenizer):
    """{tag: id} of the tokens that are an opening or closing tag, by name."""
    rules = convention_of(tokenizer)
    vocabulary = tokenizer.get_added_vocab() if rules else {}
    return {token: i for token, i in vocabulary.items() if re.fullmatch(f"{rules.open}|{rules.close}", token)}


def split_thinking_ids(ids, tokenizer, opened=False):
    """Token ids of a completion -> Thinking whose parts hold ids. Where tags are one token each, only that token is a
    tag: the same letters in other tokens are text. Elsewhere a token across a border goes with what it begins in."""
    convention, ids = convention_of(tokenizer), list(ids)
    decode = functools.partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    if len(thinking_tags(tokenizer)) < 2:
        whole = split_thinking(decode(ids), opened, convention)
        decoded = functools.cache(lambda i: len(decode(ids[:i]).rstrip("\ufffd")))  # no half characters
        at, size, parts = 0, 0, []
        for kind, text in whole.parts:
            size, start = size + len(text), at
            at = bisect.bisect_left(range(len(ids)), size, start, key=decoded)
            parts += [(kind, ids[start:at])] * (at > start)
        parts[-1:] = [(kind, part + ids[at:]) for kind, part in parts[-1:] or [("answer", [])] if ids]
        return whole._replace(parts=tuple(parts))
    rules, tags = list(zip(("open", "close", "markup"), convention)), []
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        kind = next((kind for kind, rule in rules if rule and re.fullmatch(rule, token)), "")
        tags += [(place, place + 1, kind)] * bool(kind)
    opened = is_opened(tags, decode(ids[: tags[0][0]]) if tags else "", opened, convention)
    spans, *found = split_spans(tags, len(ids), opened, convention.markup)
    parts = [(kind, ids[start:end]) for kind, start, end in spans]
    return assemble(parts, [decode(part) for _, part in parts], *found, opened, convention)


CORRECTIONS = re.compile(
    r"\b(?:wait|actually|hmm+|hold on|on second thought|let me (?:re\w*|double|check)|"
    r"that(?:'s| is) (?:wrong|not right)|i made a mistake|scratch that|correction)\b|等等|等一下|不对|重新",
    re.IGNORECASE,
)
JAPANESE = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "CJK")  # written in one sentence
BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"


def repetition(text, n=4):
    """1 - distinct n-grams / n-grams of the words, or of the letters where words are not spaced. 0: nothing twice."""
    words = text.split() if len(text.split()) * 12 >= len(text) else list(text)
    grams = list(zip(*(words[i:] for i in range(n))))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def language_switches(text):
    r"""How often the script of the letters changes. What may be mathematics does not count: Greek, \commands, and Latin
    letters that stand alone."""
    text, scripts = unicodedata.normalize("NFKC", re.sub(r"\\[a-zA-Z]+", " ", text)).lower(), []
    for run in re.findall(r"[a-zà-öø-ɏ]{2,}|[^\W\d_a-zà-öø-ɏ]", text):
        name = unicodedata.name(run[0], "?").split()[0]
        scripts += ["CJK"] if name in JAPANESE else [name] * (name not in ("GREEK", "MODIFIER", "?"))
    return sum(a != b for a, b in zip(scripts, scripts[1:]))


def conclusion(text):
    r"""What a text concludes: the last \boxed{…}, else its last number; None where there is neither."""
    found = re.findall(r"\\boxed" + BRACED, text) or re.findall(r"(?<!\d)-?\d[\d,]*\.?\d*(?:/\d+)?", text)
    if not found:
        return None
    besides = r"\\(?:text|mathrm|mbox)\{[^{}]*\}|\\[!,;: ]|\\?[$%]|\s|(?<=\d),(?=\d{3})|\.$"  # units, separators
    bare = re.sub(besides, "", found[-1])
    bare = re.sub(r"\\[dt]frac", r"\\frac", bare) or found[-1].strip()
    return f"{float(bare):.15g}" if re.fullmatch(r"-?\d+\.?\d*", bare) else bare


def overlong(tokens, budget, cache=0.25):
    """0 up to the last quarter of a budget of tokens, then down to -1 at its end (DAPO, arXiv 2503.14476)."""
    return max(-1.0, min(0.0, ((1 - cache) * budget - tokens) / (cache * budget))) if budget else 0.0


def measure(found, tokens, budget=0):
    """What the text of one completion tells without any model; None where there is nothing to tell it from.

    Args:
        found: Thinking.
        tokens: of the thinking.
        budget: see overlong.
    """
    concluded = (conclusion(found.thinking), conclusion(found.answer))
    return {
        "thinking_tokens": tokens,
        "repetition": repetition(found.thinking) if found.thinking else None,
        "language_switches": language_switches(found.thinking) if found.thinking else None,
        "self_corrections": len(CORRECTIONS.findall(found.thinking)) if found.thinking else None,
        "overlong": overlong(tokens, budget),
        "cut_off": float(found.status == "unclosed"),
        "closed": float(found.status in ("closed", "opened", "quoted") and found.answer != ""),
        "agreement": None if None in concluded else float(concluded[0] == concluded[1]),
    }


def read_weights(pairs, names, option):
    """["closed=1", "repetition=-0.5"] -> {"closed": 1.0, "repetition": -0.5}, each of `names`."""
    weights = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            name = None
        if name not in names:
            refuse(f"{option} {pair}", f"NAME=NUMBER with a name of {', '.join(names)}", f"{option} {names[0]}=1", 2)
    return weights


class PolicyText:
    """Token ids of a policy -> what it said: with the marks of its thinking that decoding would drop, for some are
    special tokens, and inside the thinking where the prompt has opened it."""

    def __init__(self, tokenizer, **template):
        self.tokenizer, self.opener, self.convention = tokenizer, "", convention_of(tokenizer)
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        names, rules = tokenizer.convert_ids_to_tokens, "".join((self.convention or ())[:3])
        self.dropped = {i for i in special | set(tokenizer.all_special_ids) if re.escape(names(i)) not in rules}
        if tokenizer.chat_template:
            asked, options = [{"role": "user", "content": "a"}], {"tokenize": False, "add_generation_prompt": True}
            self.opener = opening_tag(tokenizer.apply_chat_template(asked, **options, **template))
        self.split = functools.lru_cache(8192)(self.split)  # several measures ask for the same

    def split(self, ids, opened):
        return split_thinking_ids([i for i in ids if i not in self.dropped], self.tokenizer, opened)

    def read(self, completion_ids, prompts=None):
        """[(Thinking, the tag that the prompt opened or "")], one for each completion. A prompt that is text tells for
        itself whether it ends with one; messages go through the chat template."""
        prompts = prompts or [None] * len(completion_ids)
        openers = [opening_tag(prompt) if isinstance(prompt, str) else self.opener for prompt in prompts]
        return [(self.split(tuple(ids), opener != ""), opener) for ids, opener in zip(completion_ids, openers)]

    def message(self, found, opener):
        """The assistant's message: as it was written, or with the thinking in a field of its own where the model marks
        it with channels, which are no text."""
        if self.convention and self.convention.markup:
            return {"role": "assistant", "content": found.answer, "thinking": found.thinking}
        ids, options = [i for _, part in found.parts for i in part], {"clean_up_tokenization_spaces": False}
        return {"role": "assistant", "content": opener + self.tokenizer.decode(ids, **options)}


def thinking_reward(name, texts, budget=0):
    """A measure of the stage think (see measure) as a reward function of TRL's trainers, for messages and plain text.

    texts: PolicyText(tokenizer) of the policy, with the chat_template_kwargs of the trainer."""

    def reward(completion_ids, prompts=None, **_):
        values = []
        for found, _ in texts.read(completion_ids, prompts):
            tokens = sum(len(part) for kind, part in found.parts if kind == "thinking")
            values.append(measure(found, tokens, budget)[name])
        return values

    reward.__name__ = name
    return reward


# %% Prompts
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # beside data, and none


def find_files(sources):
    """Data files behind files and folders, and hub ids (owner/name, or owner/name/configuration), in order."""
    found = []
    for source in sources:
        path = Path(source)
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [p for p in inside if p.is_file() and p.name.removesuffix(".gz").endswith(SUFFIXES)]
        files = [p for p in files if p.name not in ABOUT or p == path]
        if re.fullmatch(r"[\w.-]+(/[\w.-]+){1,2}", source) and not (path.exists() or path.parent.exists()):
            files = [source]
        elif not files:
            refuse(f"no data in {source!r}", f"a file or folder of {', '.join(SUFFIXES)} (.gz), or a hub id", "ls")
        found += files
    return found


def read_file(path, opened=lambda file: None):
    """Yield (row, problem) for one file; problem names why a row is not one, else None. `opened` is told the file."""
    name = path.name.removesuffix(".gz")
    with open(path, "rb") as raw:
        opened(raw)
        packed = raw.peek(2)[:2] == b"\x1f\x8b"  # whatever its name says
        file = gzip.open(raw) if packed else raw
        if name.endswith(SUFFIXES[:4]) and file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):  # Windows writes UTF-16
            file = io.BytesIO(file.read().decode("utf-16").encode())
        if name.endswith(".parquet"):
            from pyarrow.parquet import ParquetFile

            batches = ParquetFile(io.BytesIO(file.read()) if packed else file).iter_batches(1000)
            yield from ((row, None) for batch in batches for row in batch.to_pylist())
        elif name.endswith(".arrow"):
            import pyarrow

            yield from ((row, None) for batch in pyarrow.ipc.open_stream(file) for row in batch.to_pylist())
        elif name.endswith((".csv", ".tsv")):
            csv.field_size_limit(2**31 - 1)
            text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
            header = text.readline()
            text.seek(0)
            between = "\t" if name.endswith(".tsv") else next((mark for mark in ",;\t" if mark in header), ",")
            rows = csv.DictReader(text, delimiter=between)
            if twice := [name for name in rows.fieldnames or () if name and rows.fieldnames.count(name) > 1]:
                raise ValueError(f"two columns are named {twice[0]!r}")
            for row in rows:
                broken = None in row or None in row.values() or re.search("[\udc80-\udcff]", "".join(row.values()))
                yield row, "not_utf8_or_ragged" if broken else None
        elif name.endswith(".json"):
            yield from json_rows(file)
        else:
            yield from (parse(line) for line in file if line.strip())


def parse(text):
    """JSON bytes -> (value, None) or (None, problem)."""
    try:
        return json.loads(text.decode("utf-8-sig")), None
    except (ValueError, RecursionError) as error:
        return None, "not_utf8" if isinstance(error, UnicodeDecodeError) else "not_json"


def json_rows(file):
    """(row, problem) of a .json file that is a list, an object around a list, one object, or JSON lines."""
    start = file.read(100).decode("utf-8-sig", "replace").lstrip()[:1]
    file.seek(0)
    if start == "[":
        yield from list_elements(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape"))
        return
    lines = (line for line in file if line.strip())
    first, second = next(lines, None), next(lines, None)
    if first and second and not parse(first)[1]:  # each line is a row of its own
        yield parse(first)
        yield parse(second)
        yield from map(parse, lines)
        return
    file.seek(0)
    value, problem = parse(file.read())
    if problem:
        file.seek(0)
        yield from (parse(line) for line in file if line.strip())
    elif isinstance(value, dict):
        yield from ((row, None) for row in rows_in(value))
    else:
        yield value, None


def rows_in(value):
    """Rows of a JSON object: of a list of objects in it, of a table as pandas writes it ({column: {"0": value, …}},
    {"0": row, …}) or by columns ({column: [value, …]}); else the object is the one row."""
    inside = list(value.values())
    lists = [v for v in inside if isinstance(v, list) and v and isinstance(v[0], dict)]
    if lists:
        return next((rows for rows in lists if not {"role", "from"} & set(rows[0])), [value])  # those are messages
    if all(isinstance(v, dict) for v in inside) and all(map(str.isdigit, value)):
        return inside or [value]
    if all(isinstance(v, dict) and v.keys() == inside[0].keys() and all(map(str.isdigit, v)) for v in inside):
        inside = [list(v.values()) for v in inside]
    if len(inside) > 1 and all(isinstance(v, list) and len(v) == len(inside[0]) > 1 for v in inside):
        return [dict(zip(value, row)) for row in zip(*inside)]
    return [value]


def list_elements(file):
    """(element, problem) of a JSON list, read piece by piece, for it may be larger than memory."""
    decoder, between, text, place, size = json.JSONDecoder(), re.compile(r"[\s,]*"), file.read(2**20), 0, 2**20
    place = text.index("[") + 1
    while True:
        place = between.match(text, place).end()
        if text[place : place + 1] == "]":
            break
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = len(text)
        if end < len(text):  # else it may go on in the next piece
            broken = re.search("[\udc80-\udcff]", text[place:end])
            yield (None, "not_utf8") if broken else (value, None)
            place, size = end, 2**20
        elif more := file.read(size):
            text, place, size = text[place:] + more, 0, size * 2
        else:
            yield None, "not_json"
            return
    if text[place + 1 :].strip() or file.read(2**20).strip():
        yield None, "not_json"


def hub_rows(source, split):
    """Rows of a hub dataset; what stands behind owner/name is a configuration of it, else a folder in it."""
    from datasets import get_dataset_config_names, load_dataset

    name, part = re.fullmatch("([^/]+/[^/]+)/?(.*)", source).groups()
    chosen = {"name" if part in get_dataset_config_names(name) else "data_dir": part} if part else {}
    return load_dataset(name, **chosen, split=split, streaming=True)


def read_rows(sources, split, opened=lambda file: None):
    """Yield (source, row number from 1, row, problem) over all sources, in order; `opened` is told each file."""
    for source in find_files(sources):
        try:
            local = isinstance(source, Path)
            rows = read_file(source, opened) if local else ((row, None) for row in hub_rows(source, split))
            for number, (row, problem) in enumerate(rows, 1):
                problem = problem or (None if isinstance(row, dict) else "not_an_object")
                yield str(source), number, None if problem else row, problem
        except ImportError as error:
            refuse(f"{source} needs a package: {error}", "it installed", f"pip install {error.name}", 5)
        except Exception as error:  # pyarrow, zlib and the hub client share no base class
            mend = "open it by hand" if local else "--split NAME, OWNER/NAME/CONFIGURATION, or a folder it lies in"
            refuse(f"{source}: {str(error)[:300]}", "a readable file or a reachable hub dataset", mend)


ROLES = {"human": "user", "prompter": "user", "observation": "tool", "function_call": "assistant"}
ROLES |= dict.fromkeys(("gpt", "ai", "bot", "model", "chatgpt"), "assistant")


class Reject(Exception):
    """Why a row is not used: a reason to count and a detail to read."""


def as_messages(value, role):
    """Text, one message or a list of messages (role/content or from/value) -> list of {role, content}, and thinking
    where a turn has it in a field of its own; <think> in the content stays there."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    messages = []
    for message in value if isinstance(value, list) else [value]:
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"expected text or messages, got {type(message).__name__}")
        who, said = message.get("role", message.get("from")), message.get("content", message.get("value"))
        who = str(who).lower()
        who = ROLES.get(who, who)
        if who not in ("system", "developer", "user", "assistant", "tool"):
            raise Reject("unknown_role", f"role {who[:40]!r}")
        if message.get("tool_calls"):
            raise Reject("unsupported_field", f"a {who} turn has tool_calls, which would be lost")
        thoughts = {t for k in ("reasoning_content", "reasoning", "thinking") if (t := message.get(k))}
        if len(thoughts) > 1 or not all(isinstance(thought, str) for thought in thoughts):
            raise Reject("two_thinkings", f"a {who} turn has thinking in several fields that differ, or none of text")
        said = text_of_parts(said) if isinstance(said, list) and said else said
        said = "" if said is None and thoughts else said
        if not isinstance(said, str):
            raise Reject("wrong_type", f"content of a {who} turn is {type(said).__name__}, not text")
        messages.append({"role": who, "content": said} | dict.fromkeys(["thinking"] * bool(thoughts), *thoughts))
    return messages


def text_of_parts(parts):
    """Content as a list of {type: text, text: …} -> text. An image or sound is no text and rejects the row."""
    if other := [p for p in parts if not isinstance(p, dict) or not isinstance(p.get("text"), str)]:
        kind = other[0].get("type") if isinstance(other[0], dict) else type(other[0]).__name__
        raise Reject("not_text", f"a part of the content is {str(kind)[:40]}, not text")
    return "".join(part["text"] for part in parts)


def read_prompts(args, tokenizer, models):
    """Distinct prompts -> (Dataset; how many rows were left out, by reason).

    Columns: prompt, for the policy (messages, or text where it has no chat template); conversation, for the reward
    models; gold, the right answer (a row's "gold") or None."""
    rows, seen, counts = [], set(), collections.Counter()
    find_files(args.data)
    for _, _, row, problem in read_rows(args.data, args.split):
        counts["rows"] += 1
        try:
            if problem:
                raise Reject(problem)
            if not {"prompt", "messages"} & set(row):
                raise Reject("missing_column")
            messages = as_messages(row["prompt" if "prompt" in row else "messages"], "user")
            if not messages or messages[-1]["role"] == "assistant" or not messages[-1]["content"].strip():
                raise Reject("no_question_at_the_end")
            if (known := fingerprint(messages)) in seen:
                raise Reject("same_prompt_again")
            seen.add(known)
            prompt = [{name: message[name] for name in ("role", "content")} for message in messages]
            if tokenizer.chat_template:
                options = {"add_generation_prompt": True, "enable_thinking": args.policy_thinks}
                text = tokenizer.apply_chat_template(prompt, tokenize=False, **options)
            elif len(messages) > 1:
                raise Reject("several_turns_and_no_chat_template")
            else:
                prompt = text = messages[0]["content"]
            ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
            if len(ids) > args.max_prompt_length:
                raise Reject("longer_than_max_prompt_length")
            for model in models:
                encode([*messages, {"role": "assistant", "content": "a"}], model.tokenizer, model.max_length)
        except Exception as error:  # templates raise what they like about roles they do not know
            counts[error.args[0] if isinstance(error, Reject) else "template_error"] += 1
            continue
        gold = row.get("gold")
        rows.append({"prompt": prompt, "conversation": messages, "gold": None if gold is None else str(gold)})
    total = counts.pop("rows", 0)
    happened = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none left out"
    given = "messages through its chat template" if tokenizer.chat_template else "plain text: it has no chat template"
    print(f"{len(rows)} prompts of {total} rows ({happened}); the policy is given {given}", flush=True)
    if (long := counts["longer_than_max_prompt_length"]) > (len(rows) + long) / 10:
        longer = f"{long} of {len(rows) + long} prompts have more than {args.max_prompt_length} tokens"
        print(f"warning: {longer} and are left out: see --max-prompt-length", file=sys.stderr)
    if len(rows) < args.prompts_per_step:
        mend = "other --data, or a lower --prompts-per-step"
        refuse(f"{len(rows)} prompts of {total} rows: {happened}", f"{args.prompts_per_step} or more, for a step", mend)
    return Dataset.from_list(rows), dict(counts)


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
WINDOW = 5  # steps averaged: "now" is the last so many, "the start" the first
WATCHED = {  # signal: (limit, what it means, what to do)
    "length": (2.0, "completions are so many times longer, or shorter, than at the start", "--weight-overlong, --beta"),
    "spread": (0.5, "this share of the groups got one reward for all, and teaches nothing", "--temperature, prompts"),
    "kl": (0.3, "the policy is this far from its start, in nats a token", "--beta, --learning-rate"),
    "repetition": (0.3, "this share of the token trigrams repeats within its completion", "--weight-repetition 1"),
    "unfinished": (0.5, "this share of the completions is cut at the limit", "--max-completion-length, --mask-cut"),
    "truncated": (0.1, "this share is cut to what the reward model can read", "a reward model that reads more"),
    "unseen": (0.0, "this share holds thinking that the reward model's template deletes", "--no-score-thinking"),
    "unscored": (0.0, "this share cannot be scored, and gets the lowest reward of its group", "another reward model"),
    "agreement": (0.1, "gold orders so many fewer pairs in a group alike than at the start, or than 60 %", "--beta"),
    "gold": (0.5, "the reward rises while gold falls, by so many of its standard deviations", "an earlier checkpoint"),
}


def limits_to_stop(texts):
    """What --stop-when holds, such as kl or kl=0.2 -> {signal: limit}."""
    stops = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            stops[name] = float(number) if number else WATCHED[name][0]
        except (KeyError, ValueError):
            refuse(f"--stop-when {text}", f"one of {', '.join(WATCHED)}, or kl=0.2", "--stop-when kl=0.2 agreement")
    return stops


def signals(history):
    """Logged steps -> {signal of WATCHED: its value now}, as far as there are enough steps to tell."""
    history = [step for step in history if "reward" in step]  # others reuse completions
    start, now = history[:WINDOW], history[-WINDOW:]

    def mean(name, steps):
        values = [step[name] for step in steps if step.get(name) is not None]
        return sum(values) / len(values) if values else None

    names = {"spread": "groups_without_spread", "kl": "kl", "unfinished": "completions/clipped_ratio"}
    names |= {"truncated": "truncated", "unseen": "thinking_unseen", "unscored": "unscored"}
    names |= {"repetition": "rewards/repetition_penalty_reward/mean"}
    found = {signal: mean(name, now) for signal, name in names.items()} if len(history) >= WINDOW else {}
    if found.get("repetition") is not None:
        found["repetition"] *= -1
    if len(history) >= 2 * WINDOW:
        drifting = ["completions/mean_length", "gold/agreement", "gold/mean", "reward"]
        was, came = ([mean(name, steps) for name in drifting] for steps in (start, now))
        longer = max(came[0], 1) / max(was[0], 1)
        found["length"] = max(longer, 1 / longer)
        if None not in (was[1], came[1]):
            found["agreement"] = max(was[1], 0.6) - came[1]
        if None not in (was[2], came[2]) and came[3] > was[3]:
            found["gold"] = (was[2] - came[2]) / max(mean("gold/std", start), 1e-6)
    return {signal: value for signal, value in found.items() if value is not None}


def new_events(history, stops):
    """Events (list of dicts) of the last step: what has crossed its limit that had not a step before."""
    before, now, events = signals(history[:-1]), signals(history), []
    for signal, (limit, meaning, remedy) in WATCHED.items():
        limit = stops.get(signal, limit)
        if now.get(signal, -math.inf) > limit >= before.get(signal, -math.inf):
            event = {"step": history[-1]["step"], "event": signal, "value": now[signal], "limit": limit}
            words = f"{signal} {now[signal]:.3g} is above {limit:g}: {meaning}; consider {remedy}"
            events.append({**event, "stops": signal in stops, "words": words})
    return events


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
def mark_complete(folder):
    """List a checkpoint's files with their sizes in complete.json, once all of them are written."""
    files = [path for path in folder.rglob("*") if path.is_file()]  # split weights lie in folders of parts
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    (folder / "complete.partial").write_text(json.dumps(sizes))
    os.replace(folder / "complete.partial", folder / "complete.json")  # there as a whole or not at all


def newest_complete(checkpoints):
    """The newest checkpoint whose files all have the size they were written with, or None."""
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            sizes = json.loads((folder / "complete.json").read_text())
            if all((folder / name).stat().st_size == size for name, size in sizes.items()):
                return str(folder)
        except (OSError, ValueError):
            pass
        print(f"skipping {folder}: it was cut off while it was written")
    return None


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
    dtype = torch.bfloat16 if bf16 else torch.float32
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
        scale_rewards=args.scale_rewards,
        loss_type=args.loss_type,
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
    linear = "all-linear"  # of the blocks; the output embedding stays as it is
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", r=args.lora_r, lora_alpha=args.lora_alpha, target_modules=linear)
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


def replace_folder(beside, out):
    """`beside` takes the place of `out` in two renames: whenever this is interrupted, no half of a folder is there."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(beside, out)
    shutil.rmtree(old, ignore_errors=True)


def save(args, trainer, tokenizer, watch, models, weights, left_out):
    """Write OUT beside, and rename it when it is whole."""
    history = [log for log in trainer.state.log_history if "reward" in log]
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    trainer.model.save_pretrained(beside, save_embedding_layers=False)
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
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
