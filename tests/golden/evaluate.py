# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "torch>=2.6",
#     "transformers>=4.57.1",
#     "peft>=0.17",
#     "bitsandbytes>=0.49",
#     "python-dotenv>=1.0",
#     "pyarrow>=21",
#     "numpy>=1.26",
#     "scipy>=1.12",
#     "matplotlib>=3.8",
# ]
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
RENDERED_BY = "reward 0.1.0: reward.py render evaluate"
ROWS_AT_ONCE = 2048
SIDES = ("chosen", "rejected")
EXTRAS = ("prompt_id", "tie", "chosen_rating", "rejected_rating")
KINDS = ("source", "length of chosen", "turns", "thinking", "language")
SIZES = ("below half the length", "shorter", "same length (±10 %)", "longer", "above twice the length")
WORST = 20


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


def replace_folder(beside, out):
    """`beside` takes the place of `out` in two renames: whenever this is interrupted, no half of a folder is there."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(beside, out)
    shutil.rmtree(old, ignore_errors=True)


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    add("--model", default="model", help="Reward model: a folder or a hub id.")
    add("--data", default="data/eval.parquet", help="Parquet file of formatted pairs.")
    add("--out", default="eval", help="Folder for metrics.json, scores.jsonl and report.html.")
    add("--also", default="", help="Second reward model to compare with; empty for none.")
    add("--folds", type=within(int, 0, 100), default=0, help="Cross-validate with so many trainings; 0 for none.")
    add("--probes", type=within(int, 0, 10000), default=100, help="Prompts to try degenerate answers on; 0 for none.")
    add("--scaling", default=True, help="Apply the scaling that the model carries.", **yes_or_no)
    add("--max-length", type=within(int, 0, 1000000), default=0, help="Tokens a conversation may have; 0: as trained.")
    add("--batch-tokens", type=within(int, 8), default=8192, help="Tokens per forward pass.")
    add("--packing", default=True, help="Shared prompts once, no padding, where possible.", **yes_or_no)
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Precision; auto: bfloat16 on a GPU, else float32.",
    )
    return parser.parse_args(argv)


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


# %% Statistics
def wilson(share, n):
    """95 % interval of a share of n independent rows (Wilson, JASA 22, 1927). (low, high)"""
    centre, spread = share + 1.9208 / n, 1.96 * math.sqrt(share * (1 - share) / n + 0.9604 / n**2)
    return tuple((centre + sign * spread) / (1 + 3.8416 / n) for sign in (-1, 1))


def accuracy(chosen, rejected):
    """Exact share of pairs in the right order, a tie counting half, with its interval."""
    n, ties = len(chosen), sum(c == r for c, r in zip(chosen, rejected))
    share = (sum(c > r for c, r in zip(chosen, rejected)) + ties / 2) / n
    low, high = wilson(share, n)
    return {"accuracy": share, "low": low, "high": high, "pairs": n, "ties": ties}


SCRIPTS = {"Japanese": "぀-ヿ", "Chinese": "㐀-鿿", "Korean": "가-힣", "Cyrillic": "Ѐ-ӿ", "Arabic": "؀-ۿ"}
SCRIPTS |= {"Hebrew": "֐-׿", "Greek": "Ͱ-Ͽ", "Devanagari": "ऀ-ॿ", "Thai": "฀-๿", "Latin": "A-Za-zÀ-ɏ"}
SCRIPTS = {name: re.compile(f"[{characters}]") for name, characters in SCRIPTS.items()}
STOP_WORDS = {
    "English": "the and is of to that it for you with are this what how my not be have can was i do he as they we",
    "German": "der die und das ist nicht ein zu mit den ich wie von für auf sich eine dem auch es",
    "French": "le les et des est une que pour dans vous pas qui du je sur avec au ce il sont",
    "Spanish": "el los las que una por para es del como se su más lo pero con al muy este son",
    "Portuguese": "os que uma para com não em do da é mais como dos ao seu são você por um as",
    "Italian": "il che di per una sono non con del della come gli più è anche le nel questo si un",
    "Dutch": "de het een en van is dat niet op voor met zijn ik aan te ook er maar dit bij",
}
STOP_WORDS = {name: frozenset(words.split()) for name, words in STOP_WORDS.items()}


def language(text):
    """Language or script of the first 600 characters, by script and by the commonest words of seven languages: an
    approximation. "undecided" for little text, code, and languages not listed."""
    text = text[:600]
    counts = {"Latin": len(text)} if text.isascii() else {n: len(found.findall(text)) for n, found in SCRIPTS.items()}
    script = "Japanese" if 5 * counts.get("Japanese", 0) > counts.get("Chinese", 1) else max(counts, key=counts.get)
    if script != "Latin":
        return script if counts[script] >= 5 else "undecided"
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {name: sum(word in common for word in words) for name, common in STOP_WORDS.items()}
    best = max(hits, key=hits.get)
    return best if hits[best] >= 3 and hits[best] >= 0.1 * len(words) else "undecided"


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


def chance_of_lead(lead, prompts):
    """One-sided p value of a mean lead above 0 (score test): by chance each prompt's sum has either sign alike."""
    sums, _ = per_prompt(lead, prompts)
    return float(norm.sf(sums.sum() / max(1e-12, np.sqrt((sums**2).sum()))))


def chance_of_difference(right, inside, prompts):
    """Two-sided p value of the difference between the mean of the rows inside a subset and of all others (score test,
    prompts being the independent units)."""
    gap = right[inside].mean() - right[~inside].mean()
    sums, _ = per_prompt((right - right.mean()) * np.where(inside, 1 / inside.sum(), -1 / (~inside).sum()), prompts)
    return float(2 * norm.sf(abs(gap) / max(1e-12, np.sqrt((sums**2).sum()))))


def holm(chances):
    """p values corrected for how many were looked at (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    chances, order = np.asarray(chances, float), np.argsort(chances)
    raised = np.maximum.accumulate(chances[order] * np.arange(len(chances), 0, -1))
    return np.minimum(raised, 1)[np.argsort(order)].tolist()


def stated(difference, won=1.0):
    """(p, y) of pairs by their difference of rewards: p = σ(|difference|) for the side with the higher reward, and
    whether it won (y: 1, 0, ½ where rewards or answers tie). `won`: 1 where the first side did, ½ for a tie."""
    right = (np.sign(difference) + 1) / 2
    return expit(np.abs(difference)), won * right + (1 - won) * (1 - right)


def calibration(p, y):
    """Expected calibration error (arXiv 1706.04599, eq. 3) of probabilities p for outcomes y, and its bins as a table.

    At most ten bins of about equal count, for rewards often state little more than ½, and of 100 or more, for chance
    alone puts n outcomes 0.4 / √n off; equal p share a bin, whatever their order."""
    bins = min(10, max(1, len(p) // 100))
    place = np.searchsorted(np.quantile(p, np.arange(1, bins) / bins), p, "right")
    counts, said, came = (np.bincount(place, weights, bins) for weights in (None, p, y))
    table = [{"count": int(n), "stated": s / n, "true": c / n} for n, s, c in zip(counts, said, came) if n]
    return float(np.abs(said - came).sum() / len(p)), table


def best_of_n(prompts, answers, ratings, rewards):
    """How good the answer is that the reward puts first among three or more rated answers to a prompt; None without.

    Equal-length arrays, an entry for each time that an answer was scored: keys of the prompt and of the answer, its
    rating and its reward. An answer that stands in several pairs counts once; equal rewards share the win."""
    _, first = np.unique(np.stack([prompts, answers]), axis=1, return_index=True)
    prompts, ratings, rewards = prompts[first], ratings[first], rewards[first]
    found = []
    for rows in np.split(np.arange(len(prompts)), np.flatnonzero(np.diff(prompts)) + 1):
        rated, top = ratings[rows], rewards[rows] == rewards[rows].max(initial=-np.inf)
        if len(rows) > 2 and rated.max() > rated.min():
            best = rated == rated.max()
            found.append([(top & best).sum() / top.sum(), best.mean(), rated[top].mean(), rated.mean(), len(rows)])
    if not found:
        return None
    names = ("accuracy", "by_chance", "rating_of_picked", "rating_on_average", "answers")
    measured = dict(zip(names, np.mean(found, axis=0).tolist()))
    low, high = wilson(measured["accuracy"], len(found))
    return measured | {"low": low, "high": high, "groups": len(found)}


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
FILLER = (
    " I hope this is helpful to you. Please let me know whether there is anything else that you would like to know."
)


def degenerate_answers(prompt, answer, vocabulary, other):
    """{kind: text} of answers that must not beat a good answer to `prompt` (list of messages). `vocabulary` is a list
    of words to draw from, `other` the good answer to another prompt. The same texts in every run."""
    rng = random.Random(fingerprint([prompt, answer]))
    return {
        "empty": "",
        "repeated token": "a " * 100,
        "random words": " ".join(rng.choices(vocabulary or ["word"], k=max(20, len(answer.split())))),
        "prompt echo": prompt[-1]["content"],
        "refusal": "I'm sorry, but I can't help with that.",
        "truncated": answer[: len(answer) // 2],
        "padded out": answer + FILLER * max(1, math.ceil(len(answer) / len(FILLER))),
        "other prompt": other,
    }


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
def text_of(messages):
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def beginning_of(prompt):
    """The words with which the user begins, in order of the alphabet: those of the first turn, and of the next turns
    while they are few. Whatever the case, width, order, repetition, punctuation, system prompt, answers in between and
    later turns, such prompts stay on one side. With a word more or less they may part: to join those as well, new rows
    would have to move old ones."""
    turns, words, text = [[m] for m in prompt if m["role"] == "user"] or [prompt], set(), ""
    for turn in turns:
        words |= set(re.split(r"[\W_]+", unicodedata.normalize("NFKC", text_of(turn)).casefold())) - {""}
        text = " ".join(sorted(words))
        if len(text.encode("utf-8", "replace")) >= 20:  # longer than "hello" or "can you help me"
            break
    return text


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


LIMITS = {"empty": 0.05, "repeated token": 0.05, "random words": 0.05, "prompt echo": 0.05, "other prompt": 0.1}
LIMITS |= {"truncated": 0.5, "padded out": 0.5}
"""Share of prompts on which such an answer may beat the chosen one before RL would find and repeat it. Refusals have no
limit: where prompts are harmful they are right."""


def verdict(m):
    """(words, reasons) on whether RL should follow this reward, from the metrics `m`. A reason that bars says "no"; the
    others are reservations. Each names its figure and what mends it."""
    reasons, span = [], f"accuracy {m['accuracy']:.3f}, 95 % interval [{m['low']:.3f}, {m['high']:.3f}]"

    def reason(holds, bars, figure, mend):
        if holds:
            reasons.append({"bars": bars, "reason": figure, "mend": mend})

    more = "train on more pairs, longer, or from a stronger base model; the loss should fall well below 0.69"
    more += " (where it rose again on held-out pairs: fewer epochs, or keep_best)"
    shown = m["low"] > 0.5
    reason(not shown, True, f"not shown to beat chance: {span}", more)
    beaten = m["length_baseline"] >= m["low"]
    side = "longer" if m["longer"] >= 0.5 else "shorter"
    told = f"not shown to beat taking the {side} answer, which is right in {m['length_baseline']:.3f}: {span}"
    reason(shown and beaten, True, told, more + "; or balance the lengths of the training pairs")
    mend = "more pairs"
    if "folds" not in m:
        mend = "more held-out pairs, or all of them, cross-validated: python run/evaluate.py --folds 5 --also ''"
    reason(m["pairs"] < 200, False, f"only {m['pairs']} pairs were judged: {span}", mend)
    won, unsure = [], []
    for kind, probe in m["probes"].items():
        limit, told = LIMITS.get(kind, 1), f"{kind} in {probe['rate']:.0%} [{probe['low']:.0%}, {probe['high']:.0%}]"
        won += [f"{told}, limit {limit:.0%}"] * (probe["low"] > limit)
        unsure += [f"{told}, limit {limit:.0%}"] * (probe["low"] <= limit < probe["high"])
    mend = "add such answers as rejected ones to the training pairs, and filter them out before the reward in RL"
    reason(won, True, "degenerate answers beat the chosen one: " + "; ".join(won), mend)
    told = "degenerate answers that may win more often than their limit: " + "; ".join(unsure)
    reason(unsure, False, told, "python run/evaluate.py --probes 500, for narrower intervals")
    pull = m["correlation"]["length_in_pair"]
    told = f"the reward follows length: rank correlation {pull:+.2f} between the differences in a pair"
    reason(abs(pull) > 0.3, False, told, "debias length when scaling, or balance the lengths of the training pairs")
    told = f"differences are poor probabilities: calibration error {m['calibration']['ece']:.3f}"
    meant = (m["scaling"] or "temperature").startswith("temperature")  # no other scale makes probabilities of them
    mend = "scale with method temperature; GRPO with group scaling does not need it"
    reason(meant and m["calibration"]["ece"] > 0.1, False, told, mend)
    told = f"{m['ties']} of {m['pairs']} pairs have equal rewards"
    mend = "python run/evaluate.py --dtype float32, or a chat template that keeps what differs"
    reason(m["ties"] > 0.01 * m["pairs"], False, told, mend)
    told = f"{m['truncated']} of {m['pairs']} pairs were cut to {m['max_length']} tokens"
    reason(m["truncated"] > 0.05 * m["pairs"], False, told, "train and evaluate with a larger max_length")
    for name, part in m["subsets"].items():
        cure = "debias length when scaling" if name.startswith("length") else "more training pairs of this kind"
        told = f"{name}: accuracy {part['accuracy']:.3f} is below the rest (p = {part['p_differs']:.2g} after Holm)"
        below = part["p_differs"] < 0.05 and part["accuracy"] < m["accuracy"]
        reason(below, False, told, f"{cure}, or keep such prompts out of RL")
    bars = any(r["bars"] for r in reasons)
    words = "Not fit for RL" if bars else "Fit for RL, with reservations" if reasons else "Fit for RL"
    return words, reasons


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
def chart(title, x="", y=""):
    """(Figure, Axes) in the look of every report: `title` is also what stands for the picture where it is not seen."""
    import matplotlib

    matplotlib.rcParams["text.parse_math"] = False  # a name with dollars is a name
    figure = Figure(figsize=(7.6, 3), layout="constrained", label=title)
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e5e7eb")
    return figure, axes


def html_table(rows):
    """A list of dicts as a table: numbers to the right, whole ones with separators, others with three decimals."""

    def cell(tag, text, value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and text is value:
            text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        text = "" if text is None else str(text)
        kind = " class=n" if number else " class=w" * (len(text) > 60)
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    first = rows[0] if rows else {"nothing to show": ""}
    lines = [[cell("th", name, value) for name, value in first.items()]]
    lines += [[cell("td", value, value) for value in row.values()] for row in rows]
    return f"<div><table>{''.join('<tr>' + ''.join(line) + '</tr>' for line in lines)}</table></div>"


def html_report(title, parts):
    """A self-contained HTML page (str): no script, nothing loaded from elsewhere, every text escaped.

    A part is a paragraph (str), a heading ("# …"), a verdict ("! …"), a table (list of dicts) or a picture (Figure)."""
    body = []
    for part in parts:
        if isinstance(part, str):
            tag = {"# ": "h2", "! ": "strong"}.get(part[:2], "p")
            body.append(f"<{tag}>{html.escape(part[2:] if tag != 'p' else part)}</{tag}>")
        elif isinstance(part, list):
            body.append(html_table(part))
        else:
            image = io.BytesIO()
            part.savefig(image, format="png", dpi=144)
            source = base64.b64encode(image.getvalue()).decode()
            body.append(f'<img alt="{html.escape(part.get_label())}" src="data:image/png;base64,{source}">')
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2937;"
        "background:#fff;overflow-wrap:break-word}h1,h2{line-height:1.2;color:#111827}h2{margin:2.5rem 0 .6rem;"
        "font-size:1.3rem}p{max-width:46rem;margin:.6rem 0}img{max-width:100%;margin:.8rem 0}div{overflow-x:auto;"
        "margin:.8rem 0}table{border-collapse:collapse;font-size:14px}td,th{padding:.35rem .8rem;text-align:left;"
        "border-bottom:1px solid #e5e7eb;vertical-align:top;white-space:pre-wrap;min-width:3rem;max-width:30rem}"
        ".w{overflow-wrap:anywhere}"
        "th{background:#f3f4f6;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums;"
        "white-space:nowrap}strong{display:block;margin:.5rem 0;padding:.7rem 1rem;border-left:4px solid #b45309;"
        "background:#fff7ed;font-weight:600;white-space:pre-line}"
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><style>{style}</style><h1>{html.escape(title)}</h1>{"".join(body)}</html>\n'
    )
    return page.encode("utf-8", "replace").decode()  # half a character is shown as ?


def pick_rows(files, numbers):
    """{number: pair} of some pairs, by their number over all files, in one pass."""
    found, count = {}, 0
    for path in files:
        for pairs in read_pairs(path):
            found |= {n: pairs[n - count] for n in numbers if count <= n < count + len(pairs)}
            count += len(pairs)
    return found


def side_by_side(pairs, numbers, c, other=None):
    """Rows of a table with both answers and their rewards; long texts are cut in the middle."""

    def cut(messages, most):
        text = "\n\n".join(m["content"] if len(messages) == 1 else f"{m['role']}: {m['content']}" for m in messages)
        return text if len(text) <= most else f"{text[: most // 2]} […] {text[-most // 2 :]}"

    rows = []
    for n in numbers:
        row = {"pair": f"{n}\n{pairs[n]['source']}", "prompt": cut(pairs[n]["prompt"], 500)}
        for side in SIDES:
            rewards = f"{c[side][n]:+.2f}" + (f" | {other[side][n]:+.2f}" if other else "")
            row[f"{side}, reward"] = f"{rewards}\n{cut(pairs[n][side], 600)}"
        rows.append(row)
    return rows


def draw_shares(title, parts, x="accuracy", limits=()):
    """A chart of shares with their intervals, a line each: {name: {accuracy or rate, low, high}}."""
    figure, axes = chart(title, x)
    figure.set_figheight(1 + 0.3 * max(3, len(parts)))
    names, shares = list(parts)[::-1], list(parts.values())[::-1]
    middle = [p.get("accuracy", p.get("rate")) for p in shares]
    spread = [[abs(v - p[end]) for v, p in zip(middle, shares)] for end in ("low", "high")]
    axes.errorbar(middle, range(len(names)), xerr=spread, fmt="o", color="#1f4e79", capsize=3)
    axes.set_yticks(range(len(names)), [n if len(n) < 45 else n[:42] + "…" for n in names])
    axes.set_xlim(-0.02, 1.02)
    axes.axvline(0.5, color="#999", linestyle=":")
    for place, limit in enumerate(limits[::-1]):
        if limit is not None:
            axes.plot([limit] * 2, [place - 0.35, place + 0.35], color="#b45309")
    return figure


def draw_rewards(c):
    figure, axes = chart("Rewards of chosen and rejected answers", "reward", "answers")
    edges = np.histogram_bin_edges(np.concatenate([c[side] for side in SIDES]), min(60, 10 + len(c["chosen"]) // 20))
    for side, color in zip(SIDES, ("#1f4e79", "#b45309")):
        axes.hist(c[side], edges, histtype="stepfilled", alpha=0.45, color=color, label=side)
    axes.legend(frameon=False)
    return figure


def draw_reliability(bins):
    figure, axes = chart("Reliability, with 95 % intervals", "probability stated by σ(difference)", "share right")
    x, y = ([part[name] for part in bins] for name in ("stated", "true"))
    ends = [wilson(part["true"], part["count"]) for part in bins]
    spread = [[abs(v - end[i]) for v, end in zip(y, ends)] for i in (0, 1)]
    axes.plot([0.5, max(x)], [0.5, max(x)], color="#999", linestyle=":")
    axes.errorbar(x, y, yerr=spread, fmt="o", color="#1f4e79", capsize=3)
    return figure


def span_of(part):
    return f"{part['low']:.3f}\u00a0to\u00a0{part['high']:.3f}"


def chance_text(p):
    return None if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def page(m, c, files, other=None):
    """The whole report as HTML."""
    largest = sorted(m["subsets"], key=lambda name: -m["subsets"][name]["pairs"])[:40]
    subsets = {name: part for name, part in m["subsets"].items() if name in largest}
    difference = np.where(c["labelled_tie"], 0, c["chosen"] - c["rejected"])
    worst = [n for n in np.argsort(difference, kind="stable")[:WORST] if difference[n] < 0]
    apart = np.abs(difference / max(1e-12, difference.std()))
    disputed = []
    if other:
        others = other["chosen"] - other["rejected"]
        apart = np.minimum(apart, np.abs(others / max(1e-12, others.std()))) * (np.sign(difference) != np.sign(others))
        disputed = [n for n in np.argsort(-apart, kind="stable")[: WORST // 2] if apart[n] > 0]
    pairs = pick_rows(files, {*worst, *disputed})
    span = (
        f"{m['accuracy']:.1%} of {m['pairs']} pairs in the right order, 95 % interval {m['low']:.1%} to {m['high']:.1%}"
    )
    explained = (
        "The dotted line is chance. p beats: the probability of such a lead over chance and over length if there were"
        " none; p differs: of such a distance to all other pairs if there were none. Both are corrected for the"
        f" {m['claims']} comparisons made here (Holm)."
    )
    told = f"{span} ({m['interval']}, {m['prompts']} prompts). Length alone is right in {m['length_baseline']:.1%}."
    parts = [f"! {m['verdict']}", told]
    parts += [
        [
            {"": "not fit" if r["bars"] else "reservation", "reason": r["reason"], "remedy": r["mend"]}
            for r in m["reasons"]
        ]
    ] * bool(m["reasons"])
    names = ("pairs", "prompts", "ties", "truncated", "accuracy", "loss", "margin", "reward_mean", "reward_std")
    meant = (
        f"Rewards are {'raw' if not m['scaling'] else 'scaled: ' + m['scaling']}. Ties: pairs with equal rewards, half "
        f"right. Truncated: pairs cut to {m['max_length']} tokens. Loss: −log σ(chosen − rejected), 0.693 by chance. "
        "Margin: chosen − rejected on average."
    )
    parts += ["# Figures", meant, [{name.replace("_", " "): m[name] for name in names}], draw_rewards(c)]
    if "folds" in m:
        shares = ", ".join(f"{share:.3f}" for share in m["folds"]["accuracy"])
        parts += [f"Cross-validated: each pair is judged by a model that saw no pair of its prompt; by fold {shares}."]
    if m["labelled_ties"]["pairs"]:
        tied, far = m["labelled_ties"], m["mean_distance"]
        parts += [
            f"{tied['pairs']} pairs are labelled ties and left out of accuracy: the rewards in them lie"
            f" {tied['mean_distance']:.3f} apart on average, in the other pairs {far:.3f}."
        ]
    if m["best_of_n"]:
        parts += ["# Best of n", "Among three or more rated answers to a prompt, whether the best is put first."]
        parts += [[m["best_of_n"]]]
    parts += ["# Where it is right", explained]
    parts += [draw_shares("Accuracy by subset", {"all": m, **subsets})]
    shown = ("ties", "length_baseline", "p_beats", "p_differs")
    parts += [
        [
            {"subset": name, "pairs": p["pairs"], "accuracy": p["accuracy"], "95 % interval": span_of(p)}
            | {k.replace("_", " "): chance_text(p[k]) if k.startswith("p_") else p[k] for k in shown}
            for name, p in {"all": {**m, "p_beats": None, "p_differs": None}, **subsets}.items()
        ]
    ]
    if m["probes"]:
        parts += [
            "# Degenerate answers",
            "How often they get a higher reward than the chosen answer. A bar is the limit; above it RL finds them.",
        ]
        limits = [LIMITS.get(kind) for kind in m["probes"]]
        parts += [draw_shares("Share of prompts on which a degenerate answer wins", m["probes"], "share", limits)]
        parts += [
            [
                {
                    "answer": kind,
                    "wins": p["rate"],
                    "95 % interval": span_of(p),
                    "limit": LIMITS.get(kind),
                    "prompts": p["prompts"],
                }
                for kind, p in m["probes"].items()
            ]
        ]
    found = m["calibration"]
    told = (
        f"Expected calibration error {found['ece']:.3f} (0 is perfect), Brier score {found['brier']:.3f} (a coin's is "
    )
    told += "0.25). On the dotted line rewards mean what they state; below it they are too sure."
    parts += ["# Calibration", told, draw_reliability(found["bins"])]
    goes = (
        "Rank correlation of the reward with the length in characters and the number of list items, over all answers "
    )
    goes += "and, in pair, of the differences between the two; for language the share of the variance (η²). 0 is none."
    parts += ["# What the reward correlates with", goes]
    parts += [[{name.replace("_", " "): value for name, value in m["correlation"].items()}]]
    if other:
        also = m["also"]
        parts += [
            f"# Beside {also['model']}",
            [{k.replace("_", " "): v for k, v in also.items() if k not in ("model", "agree_by_source")}],
        ]
        parts += [[{"source": s, "agree": share} for s, share in also["agree_by_source"].items()]]
        parts += ["Where both are sure and disagree (rewards: this model | the other):"]
        parts += [side_by_side(pairs, disputed, c, other)]
    parts += [f"# The {len(worst)} most confident mistakes", side_by_side(pairs, worst, c)]
    made = {k: m[k] for k in ("model", "data", "max_length", "rendered_by")} | {
        "folds": m.get("folds", {}).get("number")
    }
    return html_report("Evaluation of a reward model", [*parts, "# Made from", [made]])


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
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
