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
if "LOCAL_RANK" not in os.environ:  # one GPU, for Trainer would split every batch over all it sees; more: torchrun
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
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
RENDERED_BY = "reward 0.1.0: reward.py render train --method full --loss ties --forward plain"
SAID = [  # scored now and by every consumer; another score there means other text, weights or precision
    ("What is 2 + 2?", "2 + 2 = 4."),
    ("What is 2 + 2?", "<think>2, 3, 4.</think>It is 4."),
    ("Grüß mich! 你好", "Schön, dich zu sehen 🙂"),
    ("Name a colour.", "Blue.", "And another?", "Green,\n\nlike grass."),
]
PROBES = [[{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(said)] for said in SAID]


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
    add("--model", default="Qwen/Qwen3-0.6B", help="Base model: a hub id or a local folder.")
    add("--data", default="data", help="Folder written by the format stage.")
    add("--out", default="model", help="Folder for the reward model.")
    add("--max-length", type=within(int, 8, 1000000), default=2048, help="Tokens a conversation may have.")
    add("--overlong", choices=["drop", "truncate"], default="drop", help="What to do with longer training pairs.")
    add("--max-dropped", type=within(float, 0, 1), default=0.1, help="Refuse when more of the pairs are dropped.")
    add("--chat-template", default="", help="File of a chat template; empty: the tokenizer's own.")
    add(
        "--thinking",
        choices=["keep", "preserve", "erase"],
        default="keep",
        help="Where the template deletes thinking: keep refuses, preserve amends it, erase allows it.",
    )
    add("--learning-rate", type=within(float, 1e-09, 1), default=1e-05, help="Peak; 1e-5 for full, 1e-4 for LoRA.")
    add("--epochs", type=within(float, 0.001, 100), default=1, help="Passes over the training pairs.")
    add("--max-steps", type=within(int, -1), default=-1, help="Optimizer steps; -1 for all epochs.")
    add("--batch-size", type=within(int, 1), default=32, help="Pairs (listwise, regression: prompts) per step, in all.")
    add("--batch-tokens", type=within(int, 8), default=8192, help="Tokens per forward pass; memory, not result.")
    add("--packing", default=True, help="Shared prompts once, no padding, where possible.", **yes_or_no)
    add("--warmup", type=within(float, 0, 1), default=0.05, help="Share of the steps in which the rate rises.")
    add("--center-rewards", type=within(float, 0, 10), default=0.0, help="Pull to mean 0; 0.01 is usual.")
    add(
        "--tie-probability",
        type=within(float, 0.001, 0.999),
        default=0.33,
        help="That equally good answers are called a tie (ties).",
    )
    add("--gradient-checkpointing", default=False, help="Less memory for a third more computation.", **yes_or_no)
    add(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Of the forward; the head's is float32.",
    )
    add(
        "--optimizer",
        choices=["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"],
        default="auto",
        help="auto: fused AdamW on a GPU, 8-bit for qlora.",
    )
    add("--eval-steps", type=within(int, 1), default=100, help="Optimizer steps between evaluations and checkpoints.")
    add("--eval-sets", nargs="*", default=[], help="More parquet files of pairs: path, or name=path.")
    add("--best-set", default="", help="Set that picks the best; empty: the held-out pairs.")
    add("--keep-best", default=False, help="Keep the best checkpoint, not the last.", **yes_or_no)
    add("--patience", type=within(int, 0), default=0, help="Stop after so many evaluations with no better one.")
    add("--seed", type=within(int, 0, 4294967295), default=42, help="Seeds the reward head and the order of the data.")
    add(
        "--report-to",
        choices=["none", "trackio", "tensorboard", "wandb"],
        default="none",
        help="Logs, besides curves.png.",
    )
    add("--resume", default=True, help="Go on from the newest complete checkpoint.", **yes_or_no)
    return parser.parse_args(argv)


# %% The loss, and what it learns from
def labels_of(pair, args):
    """What the loss compares the rewards of a formatted pair with, or the reason (str) why it has nothing to go by."""
    return [float(bool(pair.get("tie")))]


def group_loss(rewards, labels, sizes, args):
    """Mean over pairs of −log P in the model of Rao and Kupper (JASA 62, 1967), Δ = chosen − rejected:

    P(chosen wins) = σ(Δ − η),  P(tie) = 1 − σ(Δ − η) − σ(−Δ − η) = (exp 2η − 1) · σ(Δ − η) · σ(−Δ − η)

    At Δ = 0 a tie has the probability p = `tie_probability`, so η = log((1 + p) / (1 − p)).
    rewards: (2 · pairs, 1), the chosen one first; labels: (pairs,), 1 for ties. `center_rewards` λ adds
    λ · (chosen + rejected)² (arXiv 2312.09244)."""
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    difference, threshold = chosen - rejected, math.log((1 + args.tie_probability) / (1 - args.tie_probability))
    wins, loses = (torch.nn.functional.logsigmoid(sign * difference - threshold) for sign in (1, -1))
    loss = -torch.where(labels > 0, math.log(math.expm1(2 * threshold)) + wins + loses, wins)
    return (loss + args.center_rewards * (chosen + rejected) ** 2).mean()


# %% From messages to token ids
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


SHOW_THINKING = r"""{#- Keeps the thinking of every turn: hides its tags from the template below, shows them behind. -#}
{%- set all = namespace(messages=[]) -%}
{%- for m in messages -%}
    {%- if m.role == "assistant" and (m.content is string or not m.content) -%}
        {%- set thought, said = m.reasoning_content or m.reasoning or m.thinking, m.content or "" -%}
        {%- if thought -%}
            {%- set said = "<think>\n" ~ thought ~ "\n</think>\n\n" ~ said -%}
        {%- elif "</think>" in said and "<think>" not in said.split("</think>")[0] -%}
            {%- set said = "<think>\n" ~ said -%}
        {%- endif -%}
        {%- set said = "\ufdd0" ~ said | replace("<think>", "\ufdd1") | replace("</think>", "\ufdd2")
                | replace("<|channel>", "\ufdd3") | replace("<channel|>", "\ufdd4") -%}
        {%- set all.messages = all.messages + [dict(role=m.role, content=said)] -%}
    {%- else -%}
        {%- set all.messages = all.messages + [m] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = all.messages -%}
{% filter replace("<think>\n\n</think>\n\n\ufdd0", "") | replace("<think></think>\n\ufdd0", "")
| replace("<think></think>\ufdd0", "") | replace("\ufdd0", "")
| replace("\ufdd1", "<think>") | replace("\ufdd2", "</think>")
| replace("\ufdd3", "<|channel>") | replace("\ufdd4", "<channel|>") %}
"""


def keep_thinking(template):
    """A chat template -> the same one, but thinking (in <think>, Gemma's <|channel> or a field) is in every turn of its
    output, closed or cut off as it came; empty blocks that the template adds are left out."""
    return SHOW_THINKING + template.removesuffix("\n") + "{% endfilter %}"


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


def thinking_erased(messages, tokenizer):
    """Whether the template deletes thinking of the answer, or another part between tags like <think>, [/THINK] or
    <channel|>: a pair that differs there would teach nothing."""
    said, text = messages[-1], as_text(messages, tokenizer)
    whole = said["content"].strip() in text
    parts = [] if whole else re.split(r"<[^<>\s]*>|\[/?THINK\]|◁/?think▷", said["content"])
    return not all(part.strip() in text for part in (said.get("thinking") or "", *parts * (len(parts) > 1)))


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


def wilson(share, n):
    """95 % interval of a share of n independent rows (Wilson, JASA 22, 1927). (low, high)"""
    centre, spread = share + 1.9208 / n, 1.96 * math.sqrt(share * (1 - share) / n + 0.9604 / n**2)
    return tuple((centre + sign * spread) / (1 + 3.8416 / n) for sign in (-1, 1))


def compare(chosen, rejected):
    """1 where chosen is above rejected, 0 where below, ½ where they are equal."""
    return (chosen > rejected) + (chosen == rejected) / 2


def per_prompt(values, prompts):
    """(sum of the values of each prompt, number of its rows)."""
    _, place = np.unique(prompts, return_inverse=True)
    return np.bincount(place, values), np.bincount(place)


def interval(right, prompts, draws=2000):
    """95 % interval of the mean of `right` (each 0 to 1) as {low, high, interval, prompts}.

    Where every prompt stands once: Wilson's, for rows are independent and their number is what matters. Where prompts
    repeat: whole prompts are drawn again (bootstrap, percentiles). Prompts that came out alike are one kind, so that a
    draw is a multinomial over the kinds: exact, and no slower for a million pairs."""
    sums, counts = per_prompt(right, prompts)
    kinds, alike = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    method, bounds = "Wilson", wilson(float(np.mean(right)), len(sums))  # also where every draw would give the same
    if len(sums) < len(right) and len(np.unique(kinds[0] / kinds[1])) > 1:
        method, random = "bootstrap over prompts", np.random.default_rng(0)
        drawn = random.multinomial(len(sums), alike / len(sums), draws)
        bounds = np.percentile(drawn @ kinds[0] / (drawn @ kinds[1]), [2.5, 97.5]).tolist()
    return {"low": bounds[0], "high": bounds[1], "interval": method, "prompts": len(sums)}


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
            self.seen += [rewards.detach().view(-1, 2)[labels == 0]] * (share > 0)
        return total

    def log(self, logs, start_time=None):
        """Adds what the training steps since the last log saw, each pair once, over all processes."""
        if "loss" in logs:
            chosen, rejected = torch.cat([torch.zeros(0, 2, device=self.args.device), *self.seen]).unbind(1)
            parts = [(chosen > rejected).float(), chosen - rejected, (chosen + rejected) / 2, torch.ones_like(chosen)]
            sums = self.accelerator.reduce(torch.stack([part.sum() for part in parts]), "sum").tolist()
            logs |= {name: value / max(1, sums[-1]) for name, value in zip(("accuracy", "margin", "mean_reward"), sums)}
            self.seen.clear()
        super().log(logs, start_time)

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


def draw_curves(history, path):
    """Loss, accuracy, margin, rewards and correlation with length over the steps, as a PNG."""
    panels = ["loss eval_loss", "accuracy eval_accuracy", "margin eval_margin"]
    panels += ["eval_reward_mean eval_reward_std", "eval_length_correlation"]
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axes, names in zip(figure.subplots(1, len(panels)), panels):
        for name in names.split():
            points = {log["step"]: log[name] for log in history if name in log}
            axes.plot(points.keys(), points.values(), marker="o" if name.startswith("eval") else "", label=name)
        axes.set_xlabel("step")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


class Lines(transformers.TrainerCallback):
    """Plain progress lines where there is no terminal, curves as it goes, and a list of file sizes in each checkpoint
    that marks it as complete."""

    SHOWN = ("loss", "accuracy", "margin", "mean_reward", "learning_rate", "eval_accuracy", "eval_loss", "eval_margin")

    def on_log(self, args, state, control, logs=None, **_):
        if args.disable_tqdm and state.is_world_process_zero and "train_loss" not in logs:
            shown = [f"{k} {logs[k]:.4g}" for k in self.SHOWN if k in logs]
            print(f"step {state.global_step}/{state.max_steps}", *shown, sep="  ", flush=True)

    def on_evaluate(self, args, state, control, **_):
        if state.is_world_process_zero:
            draw_curves(state.log_history, Path(args.output_dir) / "curves.png")

    def on_save(self, args, state, control, **_):
        if args.world_size > 1:  # each has written its part
            torch.distributed.barrier()
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


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


class Begin(transformers.TrainerCallback):
    """Calls `choose` when the weights lie where they are trained, and ends a training that was over already: after its
    last step or an early stop, train() would take one step more."""

    def __init__(self, choose, over):
        self.choose, self.over = choose, over

    def on_train_begin(self, *_, **__):
        self.choose()
        if self.over:
            raise StopIteration


def prepare_checkpoints(args, data_sha256, template):
    """(Folder of its own for each run, so that no two mix; the checkpoint to resume from, or None)."""
    free = ("out", "resume", "report_to", "merge", "batch_tokens", "gradient_checkpointing", "packing", "max_dropped")
    free += ("liger", "compile")
    run = {k: v for k, v in vars(args).items() if k not in free} | {"data": data_sha256, "template": template}
    run |= {"split": split_by()} if split_by() else {}  # its checkpoints are in parts, which no other run can read
    folder = Path(args.out + "-checkpoints") / fingerprint(run)
    if not args.resume and int(os.environ.get("RANK", 0)) == 0:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder, newest_complete(folder) if args.resume else None


def split_by():
    """What accelerate launch was told to split the weights with: "FSDP", "DEEPSPEED" or "" for whole weights."""
    return next((k for k in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{k}", "").lower() == "true"), "")


def training_arguments(args, checkpoints, groups):
    """TRL's configuration for this machine: a GPU in bfloat16 where there is one, otherwise the CPU in float32."""
    gpu = torch.cuda.is_available()
    native = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = args.precision == "bfloat16" or args.precision == "auto" and native
    optimizer = "adamw_torch_fused" if gpu else "adamw_torch"
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
    options["dtype"] = torch.float32
    adapter = quantization = None
    transformers.set_seed(args.seed)  # before the model: its head starts random
    try:
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(args.model, **options)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: it has a head of other outputs
        refuse(f"{args.model} cannot be trained: {str(error)[-200:]}", "a whole decoder model", "another --model")
    if lost := set(info["missing_keys"]) - {"score.weight"}:
        refuse(f"{args.model} lacks weights: {', '.join(sorted(lost)[:3])}", "a whole decoder model", "another --model")
    return model, adapter, quantization


def check_packages(args):
    """Refuse what the environment lacks before anything is loaded."""
    wanted = [args.report_to] * (args.report_to != "none")
    for name in wanted:
        if not importlib.util.find_spec(name):
            refuse(f"{name} is not installed", "it, for the option that needs it", f"pip install {name}", 5)


def named_sets(args):
    """{prefix of the metrics: file} of the held-out pairs and of --eval-sets."""
    sets = {"eval": Path(args.data) / "eval.parquet"}
    for text in args.eval_sets:
        name, _, path = text.rpartition("=")
        name = name or Path(path).stem
        if not re.fullmatch(r"[\w-]+", name) or f"eval_{name}" in sets:
            refuse(f"--eval-sets {text}", "a name of its own in letters, digits, _ or -", "--eval-sets NAME=FILE")
        sets[f"eval_{name}"] = path
    if args.best_set and f"eval_{args.best_set}" not in sets:
        refuse(f"--best-set {args.best_set}", "a name in --eval-sets", f"--eval-sets {args.best_set}=FILE")
    if args.best_set and not (args.keep_best or args.patience):
        refuse(f"--best-set {args.best_set}", "with it what it is to decide", "--keep-best, or --patience 3")
    return sets


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
    checkpoints, resume_from = prepare_checkpoints(args, report["data_sha256"], fingerprint(tokenizer.chat_template))
    config = training_arguments(args, checkpoints, len(train))
    model, adapter, facts["quantization"] = load_base(args, config)
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
def replace_folder(beside, out):
    """`beside` takes the place of `out` in two renames: whenever this is interrupted, no half of a folder is there."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(beside, out)
    shutil.rmtree(old, ignore_errors=True)


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
    trainer.model.save_pretrained(beside, state_dict=weights)
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
    replace_folder(beside, Path(args.out))


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
