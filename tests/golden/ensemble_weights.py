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
# ]
# ///
"""Ensemble: the average of the weights of several reward models (WARM, arXiv 2401.12187), at the price of one.

It may be done where the models are fine-tunes of one base with one head, so this checks: the same architecture, base,
tokenizer and chat template, heads that point the same way, and that the average is no worse than its members on
held-out pairs. Writes a model like train.py's, with probes of its own; its rewards have no scaling yet.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

try:
    import numpy as np
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

import logging
import re
from types import MethodType

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import peft
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from pyarrow.parquet import ParquetFile
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = "reward 0.1.0: reward.py render ensemble --of weights"


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
    add = parser.add_argument
    add("--models", nargs="*", default=["model", "model-2"], help="Reward models: folders or hub ids (weights).")
    add("--pairs", default="data/eval.parquet", help="Held-out pairs to check with; empty: none (weights).")
    add("--limit", type=within(int, 1), default=2000, help="Pairs to check with (weights).")
    add(
        "--least-cosine",
        type=within(float, -1, 1),
        default=0.5,
        help="Between the heads; below, refuse to average (weights).",
    )
    add("--batch-tokens", type=within(int, 8), default=8192, help="Tokens per forward pass (weights).")
    add("--out", default="ensemble", help="Folder for scores.jsonl and summary.json; or the model.")
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


# %% Whether it may be done
def differences(first, other):
    """What keeps two models (model, tokenizer, reward) from being averaged: [(what, a, b)]."""
    (model, tokenizer, reward), (model_2, tokenizer_2, reward_2) = first, other
    shapes = [{name: tuple(t.shape) for name, t in m.state_dict().items()} for m in (model, model_2)]
    pairs = {
        "architecture": (type(model).__name__, type(model_2).__name__),
        "shapes of the weights": shapes,
        "base model": (reward.get("base_model"), reward_2.get("base_model")),
        "vocabulary": (tokenizer.get_vocab(), tokenizer_2.get_vocab()),
        "chat template": (tokenizer.chat_template, tokenizer_2.chat_template),
    }
    return [what for what, (a, b) in pairs.items() if a != b]


def share_right(model, tokenizer, max_length, pairs, batch_tokens):
    """Array with 1 for each pair in the right order, ½ for a tie."""
    sides = ("chosen", "rejected")
    ids = [[encode(pair["prompt"] + pair[side], tokenizer, max_length)[0] for side in sides] for pair in pairs]
    scores = score_ids(model, ids, batch_tokens).view(-1, 2).numpy()
    return (np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2


def read_pairs(path, limit):
    """The first pairs of a parquet file, without labelled ties."""
    try:
        batches = ParquetFile(path).iter_batches(limit)
        return [pair for pair in next(batches).to_pylist() if not pair.get("tie")]
    except (OSError, ValueError, StopIteration) as error:
        refuse(f"{path}: {str(error)[:200]}", "a parquet file written by format.py", "python run/format.py")


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "reward.json")
    if len(args.models) < 2:
        refuse(f"--models {' '.join(args.models)}", "two models or more", "--models model model-2", 2)
    if Path(args.out).resolve() in [Path(path).resolve() for path in args.models]:
        refuse(f"--out {args.out}, one of the models", "a folder of its own", "--out OTHER")
    pairs = read_pairs(args.pairs, args.limit) if args.pairs else []
    first, mean, heads, right, limits = None, {}, [], [], []
    for path in args.models:
        model, tokenizer, reward = load_reward_model(path, "float32", dequantize=True)
        model = keep_float32(model.merge_and_unload() if isinstance(model, peft.PeftModel) else model)
        if first and (different := differences(first, (model, tokenizer, reward))):
            told = f"{path} and {args.models[0]} differ in {', '.join(different)}"
            refuse(told, "fine-tunes of one base", "average those alone; scores of others: reward.py render ensemble")
        first = first or (model, tokenizer, reward)
        heads.append(reward_heads(model)[-1].weight.detach().float().flatten().cpu())
        if (alike := float(torch.nn.functional.cosine_similarity(heads[0], heads[-1], dim=0))) < args.least_cosine:
            told = f"the heads of {args.models[0]} and {path} point elsewhere (cosine {alike:.2f})"
            refuse(told, f"{args.least_cosine} or more, as from one train.seed", "train with the same train.seed")
        limits.append(reward.get("max_length", 2048))
        if pairs:
            right.append(share_right(model, tokenizer, limits[-1], pairs, args.batch_tokens))
        for name, tensor in model.state_dict().items():
            part = tensor.float() / len(args.models) if tensor.is_floating_point() else tensor
            mean[name] = mean[name] + part if name in mean and tensor.is_floating_point() else part.clone()
    _, tokenizer, reward = first
    model.load_state_dict(mean)
    if (limit := min(limits)) < max(limits):
        print(f"the members read {', '.join(map(str, limits))} tokens; the average reads {limit}")
    facts = {"averaged": args.models, "pairs": len(pairs)}
    if pairs:
        ours = share_right(model, tokenizer, limit, pairs, args.batch_tokens)
        lead = ours - np.mean(right, axis=0)
        facts |= {"accuracy": float(ours.mean()), "members": [float(r.mean()) for r in right]}
        each = ", ".join(f"{share:.3f}" for share in facts["members"])
        told = f"accuracy {facts['accuracy']:.3f} on {len(pairs)} pairs, the members' {each}"
        if lead.mean() < -2 * lead.std() / len(lead) ** 0.5:
            refuse(f"the average is worse than its members: {told}", "at least their mean", "use one of them alone", 4)
        print(told)
    beside = Path(args.out + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    dtype = reward.get("dtype", "float32")
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    asked = [probe["messages"] for probe in reward.get("probes", [])]
    ids = [encode(messages, tokenizer, limit)[0] for messages in asked]
    scores = score_ids(model.float(), [[i] for i in ids], args.batch_tokens).tolist()
    probes = [{"messages": m, "ids": fingerprint(i), "score": s} for m, i, s in zip(asked, ids, scores)]
    reward = reward | {"rendered_by": RENDERED_BY, "scaling": None, "quantization": None, "ensemble": facts}
    reward |= {"max_length": limit, "probes": probes, "dtype": dtype}
    (beside / "reward.json").write_text(json.dumps(reward, indent=2))
    load_reward_model(beside, dtype)
    replace_folder(beside, Path(args.out))
    print(f"written to {args.out}: the average of {len(args.models)} models; its rewards have no scaling yet")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
