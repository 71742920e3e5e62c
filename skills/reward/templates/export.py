# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Export: one plain folder for vLLM and SGLang to serve the same raw scores from, and verify.json to check them.

An adapter is merged into its base. The config says num_labels 1 and problem_type regression, without which vLLM would
return a sigmoid of the score. verify.json holds conversations with their scores, computed here in float32 from the
trained model before it is merged or rounded.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import re
import shutil
import sys
from pathlib import Path
from types import MethodType

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import peft
    import torch
    import transformers
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download
    from safetensors import safe_open
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


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


{{shared("own_folder")}}


# %% Conversations to verify with
WORDS = (
    "how why when who is are the a of in to lamp bread tax river code proof café naïve 東京 Привет 🙂 42 3.14".split()
)


def made_up(count, seed, words):
    """Conversations (lists of messages) of one to four turns of a few words, some with a system prompt or thinking."""
    rng, found = random.Random(seed), []

    def said(most):
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    for _ in range(count):
        messages = [{"role": "system", "content": said(words)}] * (rng.random() < 0.25)
        for _ in range(rng.randint(1, 4)):
            messages += [{"role": "user", "content": said(words)}, {"role": "assistant", "content": said(words)}]
        if rng.random() < 0.25:
            messages[-1]["content"] = f"<think>\n{said(words)}\n</think>\n\n{messages[-1]['content']}"
        found.append(messages)
    return found


def conversations_to_verify(tokenizer, reward, args):
    """[{messages, text, ids}] of the probes and of what is made up, without what the template or the limit refuses."""
    found, limit = [], reward.get("max_length", 2048)
    words = max(2, min(80, limit // 50))  # short enough for most to stay within the limit
    for messages in [p["messages"] for p in reward.get("probes", [])] + made_up(args.conversations, args.seed, words):
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception:  # templates raise what they like; many know no system turn
            continue
        ids, cut = encode(messages, tokenizer, limit)
        if not cut:
            found.append({"messages": messages, "text": text, "ids": ids})
    return found


# %% Writing
{{shared("replace_folder")}}


def fold(model, reward, scores):
    """Divide the head by the temperature, so that any server returns scaled rewards. Returns (the new contents of
    reward.json, the scores then)."""
    scaling = reward.get("scaling") or {"method": "none"}
    if [scaling.get(name) for name in ("shape", "references", "length", "clip")] != ["linear", [0.0], None, None]:
        told = f"--fold with scaling {scaling['method']}" + " and a length curve" * bool(scaling.get("length"))
        wanted = "method temperature, without debias and clip: a head can multiply and do nothing else"
        refuse(told, wanted, "python run/scale.py --method temperature --debias none --clip 0, or --no-fold")
    head, temperature = reward_heads(model)[-1], scaling["scale"]
    head.weight.data /= temperature
    probes = [probe | {"score": probe["score"] / temperature} for probe in reward.get("probes", [])]
    print(f"folded into the head: rewards are divided by the temperature {temperature:.4g}")
    return reward | {"scaling": None, "folded": scaling, "probes": probes}, [s / temperature for s in scores]


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    args.out = own_folder(args.out, "verify.json")
    model, tokenizer, reward = load_reward_model(args.model, "float32", dequantize=True)
    found = conversations_to_verify(tokenizer, reward, args)
    if not found:
        refuse("no conversation to verify with", "probes, or made-up ones within the limit", "--conversations 32")
    scores = score_ids(model, [[c.pop("ids")] for c in found], 16384).tolist()
    model = model.merge_and_unload() if isinstance(model, peft.PeftModel) else model
    if args.fold:
        reward, scores = fold(model, reward, scores)
    dtype = reward.get("dtype", "bfloat16") if args.dtype == "auto" else args.dtype
    model = model.to(getattr(torch, dtype))
    model.config.problem_type = "regression"  # vLLM and SGLang: the logit as it is
    model.config.id2label, model.config.label2id = {0: "reward"}, {"reward": 0}
    limit = reward.get("max_length", 2048)
    tokenizer.model_max_length = limit

    beside = Path(args.out + ".partial")  # written beside, then renamed: never half a folder
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    (beside / "reward.json").write_text(json.dumps(reward | {"quantization": None, "dtype": dtype}, indent=2))
    verify = {
        "rendered_by": RENDERED_BY,
        "dtype": dtype,
        "max_length": limit,
        "bos": tokenizer.bos_token or "",
        "conversations": [c | {"score": score} for c, score in zip(found, scores)],
    }
    (beside / "verify.json").write_text(json.dumps(verify, indent=1))
    del model
    again, tokenizer, _ = load_reward_model(beside, "float32")
    ids = [[encode(c["messages"], tokenizer, limit)[0]] for c in found]
    off = max(abs(a - b) for a, b in zip(score_ids(again, ids, 16384).tolist(), scores))
    if off > (1e-3 if dtype == "float32" else 0.1) * max(1, *map(abs, scores)):
        refuse(f"the exported model scores up to {off:.2g} off", "the scores of the model", "--dtype float32", 4)
    replace_folder(beside, Path(args.out))
    print(
        f"written to {args.out}: {dtype}, {len(found)} conversations to verify with, loaded again at most {off:.1g} off"
    )
    print(commands(Path(args.out), dtype, limit))


def commands(out, dtype, limit):
    """How to serve the folder and check the server, as text."""
    return f"""
vLLM:
  vllm serve {out} --runner pooling --convert classify --dtype {dtype} --max-model-len {limit} --host 127.0.0.1
  python run/verify.py --export {out} --url http://127.0.0.1:8000/classify
SGLang:
  python -m sglang.launch_server --model-path {out} --is-embedding --dtype {dtype} --context-length {limit} --port 30000
  python run/verify.py --export {out} --url http://127.0.0.1:30000/v1/embeddings"""


# %% Run
{{shared("run")}}
