# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "torch>=2.6",
#     "transformers>=4.57.1",
#     "peft>=0.17",
#     "bitsandbytes>=0.49",
#     "python-dotenv>=1.0",
#     "fastapi>=0.115",
#     "uvicorn>=0.30",
#     "prometheus-client>=0.20",
# ]
# ///
"""Serve: rewards over HTTP. SIGTERM or Ctrl+C stops it once every accepted request is answered.

POST /score       {"messages": …}, {"prompt": …, "response(s)": …}, {"text": …}, or {"rows": [several of these]}
POST /get_reward  as OpenRLHF's remote reward model: {"query": ["prompt and answer as text", …]}
POST /classify    as vLLM: {"input": "text" or ["text", …]} or {"messages": …}; probs holds the reward
GET  /health, /metrics (for Prometheus), /docs and /openapi.json

Text is a whole conversation in the model's chat template. It gets the template's BOS once, and the end of turn if that
is cut off; any other text is refused. If REWARD_TOKEN is set (in the environment or .env), every path except /health
needs it: Authorization: Bearer TOKEN.
"""

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import logging
import math
import os
import re
import signal
import socket
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import peft
    import prometheus_client
    import torch
    import transformers
    import uvicorn
    from dotenv import find_dotenv, load_dotenv
    from fastapi import FastAPI, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from huggingface_hub import snapshot_download
    from pydantic import BaseModel, BeforeValidator, ConfigDict
    from safetensors import safe_open
    from starlette.exceptions import HTTPException
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = "reward 0.1.0: reward.py render serve"
PATHS = ("/score", "/get_reward", "/classify", "/health", "/metrics", "/docs", "/openapi.json")
GRACE = 0.5  # seconds in which a server that is told to stop still says so to those who ask


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


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    add("--model", default="model", help="Reward model: a folder or a hub id.")
    add("--host", default="127.0.0.1", help="Address to listen on; others need REWARD_TOKEN set.")
    add("--port", type=within(int, 0, 65535), default=8000, help="Port to listen on; 0 for any free one.")
    add("--max-length", type=within(int, 0, 1000000), default=0, help="Tokens a conversation may have; 0: as trained.")
    add("--batch-tokens", type=within(int, 8), default=8192, help="Tokens per forward pass.")
    add("--queue", type=within(int, 1), default=1024, help="Conversations waiting at most; more are refused (429).")
    add("--request-mib", type=within(int, 1, 1024), default=8, help="Size of a request at most (413).")
    add(
        "--timeout",
        type=within(float, 0.1, 3600),
        default=60,
        help="Seconds to receive a request (408) and to score it (504).",
    )
    add("--scaled", default=False, help="Scaled rewards from /get_reward and /classify.", **yes_or_no)
    add("--packing", default=True, help="Shared prompts once, no padding, where possible.", **yes_or_no)
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Precision; auto: bfloat16 on a GPU, else float32.",
    )
    return parser.parse_args(argv)


# %% From messages to token ids to rewards
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


def conversations(row):
    """The conversations of one row, each (messages of the prompt, messages of the answer to score)."""
    row = {name: value for name, value in row.items() if value is not None}
    if len(given := [name for name in ("messages", "response", "responses") if name in row]) > 1:
        raise Reject("too_much", f"{' and '.join(given)}: one of them is to be scored, and the others would be lost")
    if "messages" in row:
        messages = as_messages(row["messages"], "user")
        found = [(messages[:-1], messages[-1:])]
    elif "prompt" in row and ("response" in row or "responses" in row):
        prompt = as_messages(row["prompt"], "user")
        answers = row["responses"] if "responses" in row else [row["response"]]
        if not isinstance(answers, list) or not answers:
            raise Reject("wrong_type", "responses must be a list of at least one answer")
        found = [(prompt, as_messages(answer, "assistant")) for answer in answers]
    else:
        raise Reject(
            "missing_column", f"no prompt + response(s) and no messages; the row has {', '.join(map(str, row))}"
        )
    for _, answer in found:
        if not answer or answer[-1]["role"] != "assistant":
            raise Reject("last_turn_not_assistant", "the last message must be the assistant's")
    return found


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


# %% Conversations that come as text
class Template:
    """What a chat template puts around a conversation and its last answer, read off a conversation of two turns."""

    def __init__(self, tokenizer):
        question, answer = "Question 7?", "Answer 7."
        asked = [{"role": "user", "content": question}]
        thinking = [*asked, {"role": "assistant", "content": f"<think>\nThought 7.\n</think>\n\n{answer}"}]
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], tokenize=False)
        ways = [tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)]
        with contextlib.suppress(Exception):  # templates raise what they like, some about tags of other models
            ways.append(tokenizer.apply_chat_template(thinking, tokenize=False))
        self.before = whole.partition(question)[2].rpartition(answer)[0]
        self.opening = os.path.commonprefix([self.before, *(way.partition(question)[2] for way in ways)])
        self.closing = whole.rpartition(answer)[2]
        self.bos = tokenizer.bos_token if tokenizer.bos_token and whole.startswith(tokenizer.bos_token) else ""
        self.eos = tokenizer.eos_token or ""

    def read(self, text):
        """Text -> (text as in training, its prompt, its answer, whether the end of turn had to be added).

        RL libraries send what the policy wrote: BOS once, twice or not at all, an end of turn without the line break
        that many templates put behind it. The reward is read at the last token, so that has to be the template's."""
        while self.bos and text.startswith(self.bos):
            text = text[len(self.bos) :]
        incomplete = not text.endswith(self.closing)
        if incomplete:
            text = text.removesuffix(self.eos)
            there = max(n for n in range(len(self.closing)) if text.endswith(self.closing[:n]))
            text += self.closing[there:]
        body = text[: len(text) - len(self.closing)]
        marks = [
            mark for mark in (self.before, self.opening) if mark.strip()
        ]  # a template may open answers with nothing
        starts = [place + len(mark) for mark in marks if (place := body.rfind(mark)) >= 0]
        if marks and not starts:
            raise Reject("foreign_template", f"the text has no assistant turn, which begins with {self.opening!r}")
        start = max(starts, default=0)
        return self.bos + text, body[:start], body[start:], incomplete


# %% Batches
Job = namedtuple("Job", "ids prompt reward")


class Batcher:
    """Scores what waits, first come, first served. While one batch is computed, the next one gathers."""

    def __init__(self, model, batch_tokens):
        self.model, self.batch_tokens = model, batch_tokens
        self.waiting, self.arrived = [], asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "scoring")

    async def score(self, sequences, prompts):
        """Token-id lists, and what tells their prompts apart -> their rewards, in order."""
        loop = asyncio.get_running_loop()
        jobs = [Job(ids, prompt, loop.create_future()) for ids, prompt in zip(sequences, prompts)]
        self.waiting += jobs
        self.arrived.set()
        return await asyncio.gather(*(job.reward for job in jobs))

    def take(self):
        """The next batch, and its tokens: groups of jobs with the same prompt, as many as fit, or one job alone."""
        packs, groups, used, taken = getattr(self.model, "packs", False), {}, 0, 0
        for job in self.waiting:
            if not job.reward.done():  # nobody waits any more for one that is
                group = groups.setdefault(job.prompt if packs else id(job), [])
                tokens = len(job.ids) - (shared_prefix([group[0].ids, job.ids]) if group else 0)
                if used and used + tokens > self.batch_tokens:
                    break
                group.append(job)
                used += tokens
            taken += 1
        self.waiting = self.waiting[taken:]
        return [group for group in groups.values() if group], used

    async def run(self, metrics):
        """Score for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            while self.waiting:
                groups, tokens = self.take()
                jobs, ids = [job for group in groups for job in group], [[job.ids for job in group] for group in groups]
                try:
                    found = await loop.run_in_executor(self.thread, score_ids, self.model, ids, self.batch_tokens)
                    results = [x if math.isfinite(x) else RuntimeError(f"the reward is {x}") for x in found.tolist()]
                except Exception as error:  # out of memory, say: these are told, the next ones are tried
                    results = [RuntimeError(f"{type(error).__name__}: {error}")] * len(jobs)
                metrics["batches"].inc(bool(jobs))
                metrics["computed"].inc(tokens)
                for job, result in zip(jobs, results):
                    if not job.reward.done():
                        (job.reward.set_exception if isinstance(result, Exception) else job.reward.set_result)(result)


# %% What is refused, and before anything else
class Refused(Exception):
    """An answer that is no reward: status, what was received, what was expected, what to try."""

    def __init__(self, status, received, expected, mend, headers=None):
        self.status, self.headers = status, headers
        self.error = {"received": received, "expected": expected, "try": mend}

    def response(self):
        body = json.dumps({"error": self.error})  # in ASCII, for half a surrogate pair has no UTF-8
        return Response(body, self.status, self.headers, "application/json")


class Gate:
    """What each request passes first: the token, the limits of size and time, and whether the server is stopping."""

    def __init__(self, app, args, token, metrics):
        self.app, self.token, self.metrics = app, token, metrics
        self.most, self.timeout = args.request_mib * 2**20, args.timeout
        self.accepted, self.stopping, self.server = 0, False, None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, accepted = time.perf_counter(), 0, not self.stopping
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def answer(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.stopping or status in (408, 413):
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        async def body_again():
            return read.pop() if read else await receive()

        self.accepted += accepted
        try:
            self.check_token(scope, path)
            read = [{"type": "http.request", "body": await self.body(receive), "more_body": False}]
            if not accepted:
                raise Refused(503, "a request while stopping", "a running server", "another one", {"retry-after": "5"})
            await self.app(scope, body_again, answer)
        except Refused as refused:
            await refused.response()(scope, receive, answer)
        except ConnectionError:  # the client left in the middle of its request
            status = 499
        finally:
            self.accepted -= accepted
            self.metrics["requests"].labels(path, status).inc()
            self.metrics["seconds"].labels(path).observe(time.perf_counter() - start)

    def check_token(self, scope, path):
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.token and path != "/health" and not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            expected = "the header Authorization: Bearer TOKEN"
            raise Refused(401, "no token, or a wrong one", expected, "REWARD_TOKEN", {"www-authenticate": "Bearer"})

    async def body(self, receive):
        """The whole body (bytes). One that is too large is read on for a while, so that its sender hears the answer."""

        async def read():
            parts, size, more = [], 0, True
            while more and size <= 8 * self.most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                parts = [*parts, part] if size <= self.most else []
            if size > self.most:
                mib = self.most / 2**20
                raise Refused(413, "a larger request", f"at most {mib:g} MiB", "several requests, or --request-mib")
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.timeout)
        except asyncio.TimeoutError:
            expected = f"all of it within {self.timeout:g} s"
            raise Refused(408, "a part of a request", expected, "a faster line, or --timeout") from None

    def stop(self):
        """What SIGTERM and Ctrl+C do; the second time at once."""
        if self.stopping:
            self.server.should_exit = self.server.force_exit = True
        else:
            self.stopping = True
            print(f"stopping: {self.accepted} accepted requests are still to be answered", file=sys.stderr, flush=True)
            self.ending = asyncio.get_running_loop().create_task(self.end())

    async def end(self):
        await asyncio.sleep(GRACE)
        while self.accepted:
            await asyncio.sleep(0.02)
        self.server.should_exit = True


class Protocol(H11Protocol):
    """uvicorn waits for ever for a request to begin, or for the rest of its headers. This one hangs up."""

    waiting = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self.waiting = self.loop.call_later(self.config.timeout_keep_alive, transport.abort)

    def data_received(self, data):
        super().data_received(data)
        begun = str(self.conn.their_state) != "IDLE"
        if begun and self.waiting:
            self.waiting.cancel()
            self.waiting = None
        elif not begun and not self.waiting:
            self.waiting = self.loop.call_later(self.config.timeout_keep_alive, self.transport.abort)


# %% Requests and answers
def whole_unicode(value):
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(whole_unicode)]
Turns = Text | list[dict[str, Any]]
ASKED = {"prompt": "How do I clean a lamp?", "responses": ["With a dry cloth.", "No idea."]}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Row(Strict):
    """messages that end with the answer; or prompt, and response or responses; or text in the model's chat template."""

    messages: list[dict[str, Any]] | None = None
    prompt: Turns | None = None
    response: Turns | None = None
    responses: list[Turns] | None = None
    text: Text | None = None


class ScoreRequest(Row):
    """One row, or rows."""

    model_config = ConfigDict(json_schema_extra={"examples": [ASKED]})
    rows: list[Row] | None = None


class GetRewardRequest(BaseModel):
    """What OpenRLHF sends. Its prompts and labels change nothing here."""

    query: list[Text] | Text


class ClassifyRequest(Strict):
    """What clients of vLLM send. No activation is ever applied; BOS stands there once, whatever add_special_tokens."""

    input: list[Text] | Text | None = None
    messages: list[dict[str, Any]] | None = None
    model: str | None = None
    user: str | None = None
    use_activation: bool | None = None
    activation: bool | None = None
    add_special_tokens: bool | None = None


class Scored(BaseModel):
    """score is raw; scaled is null where reward.json holds no scaling. Lists where the row has responses."""

    score: float | list[float]
    scaled: float | list[float] | None
    tokens: int | list[int]
    truncated: bool | list[bool]
    completed: bool | list[bool]


class Rows(BaseModel):
    rows: list[Scored]


class Rewards(BaseModel):
    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class Class(BaseModel):
    index: int
    label: str = "reward"
    probs: list[float]
    num_classes: int = 1


class Classes(BaseModel):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Class]
    usage: dict[str, int]


def conversations_of(row):
    """The conversations of one row: (messages of the prompt, messages of the answer), or one text."""
    given = row.model_dump(exclude_none=True, include=set(Row.model_fields))
    if "text" not in given:
        return conversations(given)
    if len(given) > 1:
        raise Reject("too_much", "text stands for a whole conversation, so nothing else may stand beside it")
    return [given["text"]]


def readable(errors):
    """pydantic's findings, without what was sent."""
    found = dict.fromkeys(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in errors)
    return "; ".join(list(found)[:4])[:600]


# %% The application
def make_metrics(waiting):
    """(Prometheus registry, metrics by name); `waiting` counts the conversations that are accepted and unanswered."""
    prometheus_client.disable_created_metrics()
    registry = prometheus_client.CollectorRegistry()
    kinds = (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram, prometheus_client.Summary)
    counter, gauge, histogram, summary = (partial(kind, namespace="reward", registry=registry) for kind in kinds)
    gauge("waiting_conversations", "Conversations accepted and not yet answered.").set_function(waiting)
    return registry, {
        "requests": counter("requests", "Requests by path and status; 499: the client left.", ["path", "status"]),
        "seconds": histogram("request_seconds", "Seconds from first byte to answer.", ["path"]),
        "batches": counter("batches", "Forward batches."),
        "computed": counter("computed_tokens", "Tokens computed; shared prompts once."),
        "tokens": counter("tokens", "Tokens of the scored conversations."),
        "truncated": counter("truncated", "Conversations cut to the length limit."),
        "completed": counter("completed", "Texts whose end of turn had to be added."),
        "score": summary("score", "Raw rewards: how many, and their sum."),
    }


def make_app(model, tokenizer, reward, args, token=""):
    """The ASGI application: a Gate around FastAPI."""
    max_length = args.max_length or reward.get("max_length", 2048)
    template, scaling, name = Template(tokenizer), reward.get("scaling"), Path(args.model).name
    batcher, encoding, busy = Batcher(model, args.batch_tokens), ThreadPoolExecutor(1, "encoding"), 0
    registry, metrics = make_metrics(lambda: busy)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        loop = asyncio.get_running_loop()
        scoring = loop.create_task(batcher.run(metrics))
        if gate.server:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, gate.stop)
        yield
        scoring.cancel()

    app = FastAPI(title="reward", description=__doc__, version=RENDERED_BY.split(":")[0], lifespan=lifespan)

    def prepare(number, conversation):
        """-> (ids, tokens cut, what tells prompts apart, characters of the answer, whether it was completed)"""
        try:
            if isinstance(conversation, str):
                text, prompt, answer, completed = template.read(conversation)
                ids, cut = encode_text(text, tokenizer, max_length)
            else:
                (prompt, turns), completed = conversation, False
                ids, cut = encode(prompt + turns, tokenizer, max_length)
                prompt, answer = fingerprint(prompt), "".join(turn["content"] for turn in turns)
            if not ids:
                raise Reject("empty", "it has no tokens")
            return ids, cut, prompt, len(answer), completed
        except Exception as error:  # templates raise what they like
            reason = ": ".join(map(str, error.args))[:300] or type(error).__name__
            mend = "POST /score with messages: the server applies the template"
            raise Refused(422, f"conversation {number}: {reason}", "one that the template knows", mend) from None

    async def score(found):
        """Conversations as of conversations_of -> dict of lists: score, scaled, tokens, truncated, completed."""
        nonlocal busy
        if not 0 < len(found) <= args.queue:
            status, mend = (413, "several requests, or --queue") if found else (422, json.dumps(ASKED))
            raise Refused(status, f"{len(found)} conversations", f"1 to {args.queue}", mend)
        if busy + len(found) > args.queue:
            waiting = f"{busy} conversations wait already"
            raise Refused(429, waiting, f"at most {args.queue}", "again in a second", {"retry-after": "1"})

        async def work():
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(encoding, lambda: [prepare(*pair) for pair in enumerate(found, 1)])
            return prepared, await batcher.score([p[0] for p in prepared], [p[2] for p in prepared])

        busy += len(found)
        try:
            prepared, rewards = await asyncio.wait_for(work(), args.timeout)
        except asyncio.TimeoutError:
            late = f"no score within {args.timeout:g} s"
            raise Refused(504, late, "less to do at a time", "fewer conversations, or --timeout") from None
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise Refused(500, f"scoring failed: {str(error)[:200]}", "a score", "lower --batch-tokens") from None
        finally:
            busy -= len(found)
        ids, cut, _, lengths, completed = zip(*prepared)
        result = {
            "score": rewards,
            "scaled": apply_scaling(rewards, scaling, lengths) if scaling else [None] * len(rewards),
            "tokens": [len(i) for i in ids],
            "truncated": [n > 0 for n in cut],
            "completed": list(completed),
        }
        for key in ("tokens", "truncated", "completed"):
            metrics[key].inc(sum(result[key]))
        for value in rewards:
            metrics["score"].observe(value)
        return result

    @app.post("/score", response_model=Scored | Rows)
    async def score_rows(request: ScoreRequest):
        if request.rows is not None and request.model_fields_set != {"rows"}:
            raise Refused(422, "rows and a row beside it", "one or the other", "only rows")
        rows = [request] if request.rows is None else request.rows
        found = []
        for number, row in enumerate(rows, 1):
            try:
                found.append(conversations_of(row))
            except Reject as reject:
                expected = "messages, or prompt and response(s), or text"
                raise Refused(422, f"row {number}: {': '.join(reject.args)}", expected, json.dumps(ASKED)) from None
        result = await score([conversation for several in found for conversation in several])
        answers, start = [], 0
        for row, several in zip(rows, found):
            part = {key: values[start : start + len(several)] for key, values in result.items()}
            part["scaled"] = part["scaled"] if scaling else [None]
            one = row.responses is None
            answers.append({key: values[0] if one or values == [None] else values for key, values in part.items()})
            start += len(several)
        return JSONResponse(answers[0] if request.rows is None else {"rows": answers})

    @app.post("/get_reward", response_model=Rewards)
    async def get_reward(request: GetRewardRequest):
        result = await score([request.query] if isinstance(request.query, str) else request.query)
        rewards = result["scaled" if args.scaled else "score"]
        logs = {"raw_reward": result["score"], **{k: list(map(float, result[k])) for k in ("truncated", "completed")}}
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": logs})

    @app.post("/classify", response_model=Classes)
    async def classify(request: ClassifyRequest):
        if (request.input is None) == (request.messages is None):
            raise Refused(422, "not one of input and messages", "one of them", '{"input": "text"}')
        try:
            found = conversations_of(request) if request.messages is not None else request.input
        except Reject as reject:
            raise Refused(422, ": ".join(reject.args), "role and content", "POST /score") from None
        result = await score([found] if isinstance(found, str) else found)
        rewards, tokens = result["scaled" if args.scaled else "score"], sum(result["tokens"])
        data = [{"index": i, "label": "reward", "probs": [x], "num_classes": 1} for i, x in enumerate(rewards)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        head = {"id": f"classify-{os.urandom(8).hex()}", "object": "list", "created": int(time.time()), "model": name}
        return JSONResponse({**head, "data": data, "usage": usage})

    @app.get("/health")
    async def health():
        return {"status": "ok", "model": name, "max_length": max_length, "scaling": bool(scaling)}

    @app.get("/metrics", response_class=Response)
    async def show_metrics():
        return Response(prometheus_client.generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.exception_handler(Refused)
    async def refused(_, error):
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        typed = "json" in request.headers.get("content-type", "")
        expected = f"what /docs says of {request.url.path}" if typed else "the header Content-Type: application/json"
        return Refused(422, readable(error.errors()), expected, json.dumps(ASKED)).response()

    @app.exception_handler(HTTPException)
    async def http(request, error):
        received = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return Refused(error.status_code, received, ", ".join(PATHS), "GET /docs", error.headers).response()

    gate = Gate(app, args, token, metrics)
    return gate


# %% Starting
def open_socket(args, token):
    """A socket at the address, which is loopback where no token is set."""
    try:
        loopback = args.host == "localhost" or ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not token:
        received = f"--host {args.host} without a token: everyone there could use the model"
        refuse(received, "REWARD_TOKEN in the environment or in .env", "--host 127.0.0.1, or a token", 2)
    if token and len(token) < 16:
        mend = 'python -c "import secrets; print(secrets.token_urlsafe())"'
        refuse("a REWARD_TOKEN that can be guessed", "at least 16 characters", mend, 2)
    try:
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        return socket.create_server((args.host, args.port), family=family, backlog=2048)
    except OSError as error:
        refuse(f"--host {args.host} --port {args.port}: {error.strerror}", "a free address", "--port 0", 2)


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    token = os.environ.get("REWARD_TOKEN", "")
    listening = open_socket(args, token)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    if args.scaled and not reward.get("scaling"):
        refuse(f"--scaled, and {args.model} has no scaling", "one in its reward.json", "python run/scale.py")
    asked = [{"role": "user", "content": ASKED["prompt"]}]
    answers = [[*asked, {"role": "assistant", "content": answer}] for answer in ASKED["responses"]]
    groups = [[encode(messages, tokenizer, 512)[0] for messages in some] for some in (answers, answers[::-1])]
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    print(try_packing(model, groups, args.packing, tolerance), file=sys.stderr)
    gate = make_app(model, tokenizer, reward, args, token)
    options = {"http": Protocol, "ws": "none", "access_log": False, "server_header": False, "log_level": "warning"}
    gate.server = uvicorn.Server(uvicorn.Config(gate, lifespan="on", timeout_keep_alive=60, **options))
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"serving {args.model} on http://{host}:{listening.getsockname()[1]}; Ctrl+C stops it", flush=True)
    gate.server.run(sockets=[listening])


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
