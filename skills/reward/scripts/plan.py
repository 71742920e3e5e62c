"""`reward.py plan`: whether a training fits, what it costs and which settings to choose, before anything is loaded.

Memory is rehearsed, not guessed: the rendered script's own packed forward, loss and backward run on fake tensors, which
have shapes and no contents, at two small depths and batches; what is saved for the backward grows linearly with both.
"""

import json
import logging
import os
import statistics
import weakref
from pathlib import Path
from types import MethodType

import render
from errors import DATA_REFUSED, ENVIRONMENT_LACKS, WRONG_USE, ToolError, nearest

GIB = 2**30
DEVICES = {  # GiB that nvidia-smi shows, dense bfloat16 TFLOP/s with float32 sums (NVIDIA's data sheets)
    "A10": (22.5, 125),
    "A100-40GB": (40, 312),
    "A100-80GB": (80, 312),
    "B200": (179, 2250),
    "H100": (79.6, 989),
    "H200": (140, 989),
    "L4": (22.5, 121),
    "L40S": (45, 362),
    "RTX3090": (24, 71),
    "RTX4090": (24, 165),
    "RTX5090": (31.8, 209),
}
UTILISATION = 0.4  # of the peak FLOP/s; packed training has no padding to waste it on
RESERVE = 1.0  # GiB that a GPU's context and libraries take
HEADROOM = 0.92  # of the rest; allocators leave gaps
BUDGETS = (65536, 49152, 32768, 24576, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1024, 512)
CPU_BUDGET = 8192  # larger passes leave a CPU's cache: up to 1.5 times slower on two cores
SAMPLE = 2000  # pairs that are measured
REHEARSED = (4096, 12288)  # tokens: enough that what they take outweighs the weights' own temporaries
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "adafactor": 0}  # a trained weight; others: Adam's 8
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits, an 8-bit scale for 64 weights, a float32 one for 256 scales


def modules():
    """(torch, transformers), or the command that installs them."""
    try:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import peft  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise ToolError(
            f"no {error.name}", "the packages of the scripts", "reward.py doctor", ENVIRONMENT_LACKS
        ) from None
    return torch, transformers


def device_named(name):
    """(name, GiB, TFLOP/s or None) of a GPU from the table, of "cpu", or of what this machine has ("")."""
    torch, _ = modules()
    if name and name.lower() != "cpu":
        known = {key.lower().replace("-", ""): key for key in DEVICES}
        key = known.get(name.lower().replace("-", "").replace(" ", ""))
        if not key:
            near = nearest(name.upper(), DEVICES)
            raise ToolError(f"no figures for {name}", ", ".join(DEVICES), f"--gpu {near or 'H100'}", WRONG_USE)
        return (key, *DEVICES[key])
    if not name and torch.cuda.is_available():
        found = torch.cuda.get_device_name().replace(" ", "").replace("-", "").upper()
        key = next((k for k in sorted(DEVICES, key=len, reverse=True) if k.replace("-", "").upper() in found), None)
        return (
            torch.cuda.get_device_name(),
            torch.cuda.mem_get_info()[1] / GIB,
            DEVICES[key][1] if key else None,
        )
    return "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, None


def sampled_pairs(folder, stages):
    """(pairs to measure, pairs to train on): the formatted ones, or those of the format stage's first rows."""
    train = Path(folder) / stages["train"].data / "train.parquet"
    if train.is_file():
        from pyarrow.parquet import ParquetFile

        file, pairs = ParquetFile(train), []
        for batch in file.iter_batches(SAMPLE, columns=["prompt", "chosen", "rejected"]):
            pairs += batch.to_pylist()
            if len(pairs) >= SAMPLE:
                break
        return pairs[:SAMPLE], file.metadata.num_rows
    import inspect_data

    values = stages["format"].model_dump()
    values["data"] = [str(Path(folder) / name) if (Path(folder) / name).exists() else name for name in values["data"]]
    module = inspect_data.format_module(values)
    report, pairs, total = module.new_report(), [], 0
    for side, pair in module.read_pairs(module.parameters([]), report, inspect_data.Findings()):
        total += side == "train"
        pairs += [pair] * (len(pairs) < SAMPLE)
    return pairs, total


def measure(pairs, script, tokenizer, max_length):
    """Token statistics of a list of pairs: means, the longest pair, and how many a limit of max_length drops."""
    groups, over = [], 0
    for pair in pairs:
        group = [script.encode(pair["prompt"] + pair[side], tokenizer, 10**9)[0] for side in ("chosen", "rejected")]
        long = max(map(len, group)) > max_length
        over += long
        groups += [] if long else [group]
    if not groups:
        found = f"all {over} pairs measured are longer than max_length {max_length}"
        raise ToolError(found, "pairs that fit", f"--set train.max_length={2 * max_length}")
    prefixes = [script.shared_prefix(group) for group in groups]
    distinct = [sum(map(len, group)) - prefix for group, prefix in zip(groups, prefixes)]
    attended = [(sum(len(ids) ** 2 for ids in group) - prefix**2) / 2 for group, prefix in zip(groups, prefixes)]
    return {
        "measured": len(pairs),
        "overlong": over / len(pairs),
        "per_pair": statistics.fmean(distinct),
        "longest_pair": max(distinct),
        "prefix": statistics.fmean(prefixes),
        "attended": statistics.fmean(attended),
        "saved_by_sharing": sum(prefixes) / sum(sum(map(len, group)) for group in groups),
    }


def peak_of(function, torch):
    """Bytes that a function adds to what was there before, at its peak, counted by the storages it makes."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Peak(TorchDispatchMode):
        alive, now, most = set(), 0, 0

        def free(self, key, size):
            self.alive.discard(key)
            self.now -= size

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            there = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            for tensor in tree_leaves(result):
                storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
                if storage is not None and storage._cdata not in self.alive | there:
                    self.alive.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
            self.most = max(self.most, self.now)
            return result

    with Peak() as seen:
        function()
    return seen.most


def one_kernel(module, query, key, value, mask, packed=None, **_):
    """The script's packed_attention on a GPU in 16 bit. The kernel's shapes need none."""
    from torch.nn.attention.varlen import varlen_attn

    key, value = (t[0].bfloat16().index_select(1, packed["keys"]).transpose(0, 1) for t in (key, value))
    query, options = query[0].bfloat16().transpose(0, 1), {"window_size": (-1, 0), "enable_gqa": True}
    return varlen_attn(query, key, value, *packed["ends"], 1, 1, **options)[None], None


class Rehearsal:
    """Memory of the rendered train script's forward, loss and backward, by shapes alone.

    Args:
        values: validated parameters of the train stage.
        config: the base model's transformers config.
        shared: share of a pair's distinct tokens that both of its sequences begin with.
        bf16: whether the forward runs in bfloat16, as on a GPU.
        gpu: whether attention is the kernel of a GPU, where the forward runs in bfloat16.
    """

    def __init__(self, values, config, shared, bf16, gpu=False):
        self.torch, self.transformers = modules()
        self.values, self.config, self.bf16, self.gpu = values, config, bf16, gpu
        config.num_labels = 1
        self.shared, self.seen = shared, {}
        self.script = render.as_module("train", values)
        whole = self.build(config, "full")
        self.unpackable = self.script.why_not_packable(whole)
        head = {id(p) for name, p in whole.named_parameters() if "score" in name}
        linear = {
            id(m.weight): m.weight.numel()
            for name, m in whole.named_modules()
            if isinstance(m, self.torch.nn.Linear) and "score" not in name
        }
        self.parameters = sum(p.numel() for p in whole.parameters() if id(p) not in head)
        self.linear, self.largest_linear = sum(linear.values()), max(linear.values())
        self.largest = max(p.numel() for p in whole.parameters())
        embeddings = sum(m.weight.numel() for m in whole.modules() if isinstance(m, self.torch.nn.Embedding))
        self.computing = self.parameters - embeddings
        text = config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.attention = 12 * text.num_hidden_layers * text.num_attention_heads * width

    def build(self, config, method):
        """The sequence classifier that train.py would make, without memory."""
        dtype = self.torch.bfloat16 if self.bf16 and method != "full" else self.torch.float32
        with self.torch.device("meta"):
            model = self.transformers.AutoModelForSequenceClassification.from_config(config, dtype=dtype)
        if method != "full":
            import peft

            options = {"r": self.values.lora_r, "lora_alpha": self.values.lora_alpha, "target_modules": "all-linear"}
            adapter = peft.LoraConfig(task_type="SEQ_CLS", **options)
            model = peft.get_peft_model(model, adapter, low_cpu_mem_usage=True)
        return model

    def fill(self, model):
        """Give every weight of a model without memory a fake tensor, and trained ones, float32 as in train.py, a
        gradient, as there is in every micro-batch but the first."""
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    dtype = self.torch.float32 if weight.requires_grad else weight.dtype
                    empty = self.torch.empty(weight.shape, dtype=dtype)
                    module._parameters[name] = self.torch.nn.Parameter(empty, weight.requires_grad)
                    module._parameters[name].grad = self.torch.empty_like(empty) if weight.requires_grad else None
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.torch.empty(buffer.shape, dtype=buffer.dtype)

    def with_layers(self, count):
        """The config with fewer layers of the same kinds."""
        config = type(self.config).from_dict(self.config.to_dict())
        text = config.get_text_config()
        text.num_hidden_layers, text.vocab_size, text.pad_token_id = count, 8, 0  # `peak` knows the embeddings' part
        if isinstance(getattr(text, "layer_types", None), list):
            text.layer_types = text.layer_types[:count]
        return config

    def observe(self, method, checkpointing, layers, tokens):
        """(bytes above weights and gradients at the peak of a second micro-batch, trained weights)."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        torch, script = self.torch, self.script
        model = self.build(self.with_layers(layers), method).train()
        with FakeTensorMode():
            self.fill(model)
            base = model.get_base_model() if method != "full" else model
            trained = [p for p in model.parameters() if p.requires_grad]
            script.keep_float32(model)
            attention = one_kernel if self.gpu and self.bf16 else script.packed_attention
            self.transformers.AttentionInterface.register("packed_groups", attention)
            base.set_attn_implementation("packed_groups")
            base.forward = MethodType(script.packed_forward, base)
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.enable_input_require_grads()
            prompt, answer = [1] * round(self.shared * 512), round((1 - self.shared) / 2 * 512)
            row = script.pack([[prompt + [1] * answer, prompt + [2] * answer]] * (tokens // 512))

            def step():
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    rewards = model(**row).logits[:, 0]
                (rewards[0::2] - rewards[1::2]).float().sigmoid().log().neg().mean().backward()

            peak = peak_of(step, torch)
        return peak, sum(p.numel() for p in trained)

    def linear_in_depth(self, method, checkpointing, tokens):
        """`observe` at the model's depth, from two smaller ones with whole periods of its kinds of layers."""
        text = self.config.get_text_config()
        depth, kinds = text.num_hidden_layers, getattr(text, "layer_types", None) or [""]
        period = next((n for n in range(1, len(kinds)) if kinds == (kinds[:n] * len(kinds))[: len(kinds)]), len(kinds))
        shallow = min(depth, period * max(1, 2 // period))
        deep = min(depth, 2 * shallow)
        low = self.observe(method, checkpointing, shallow, tokens)
        high = self.observe(method, checkpointing, deep, tokens)
        steps = (depth - shallow) / (deep - shallow) if deep > shallow else 0
        return [a + (b - a) * steps for a, b in zip(low, high)]

    def peak(self, method, checkpointing, tokens):
        """Predicted peak in bytes of a training step whose forward passes hold `tokens` tokens."""
        kind = "full" if method == "full" else "lora"
        few, many = REHEARSED
        if (kind, checkpointing) not in self.seen:
            self.seen[kind, checkpointing] = [self.linear_in_depth(kind, checkpointing, count) for count in REHEARSED]
        (low, trained), (high, _) = self.seen[kind, checkpointing]
        saved = low + (high - low) * (tokens - few) / (many - few)
        size = 2 if self.bf16 and method != "full" else 4
        weights = self.parameters * size
        trained = self.parameters if method == "full" else trained  # the rehearsal had few embeddings
        if method == "qlora":
            weights = self.linear * NF4_BYTES + (self.parameters - self.linear) * size
            saved += self.largest_linear * size  # a 4-bit layer is unfolded while it computes
        optimizer = self.values.optimizer if self.values.optimizer != "auto" else "adamw_8bit" * (method == "qlora")
        state = trained * (4 + OPTIMIZER_BYTES.get(optimizer, 8))
        embedding = 4 * self.largest * (method == "full")  # the gradient of one micro-batch, before it is added up
        return weights + state + max(saved, embedding * (1 if self.bf16 else 2))  # Adam without fusing needs two such

    def flops(self, method, checkpointing, tokens):
        """FLOPs per pair. A weight costs 2 a token forward, 2 for the gradient of its input, 2 for its own."""
        passes = (6 if method == "full" else 4) + (2 if checkpointing else 0)
        scores = self.attention * tokens["attended"] * (passes / 6 if method == "full" else (passes + 2) / 6)
        return passes * self.computing * tokens["per_pair"] + scores


def plan(folder, stages, gpu="", methods=None):
    """What a training would take and what to set. Returns a JSON-ready dict.

    Args:
        folder: folder of the recipe.
        stages: validated parameters of at least format and train.
        gpu: a name from DEVICES, "cpu", or "" for this machine.
        methods: the methods to compare; None: the recipe's and every cheaper one.
    """
    values = stages["train"]
    _, transformers = modules()
    local = Path(folder) / values.model
    base = str(local) if local.is_dir() else values.model
    try:
        config = transformers.AutoConfig.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        found = f"base model {values.model}: {str(error)[:300]}"
        raise ToolError(found, "a model folder or a hub id", "--set train.model=FOLDER_OR_HUB_ID") from None
    script, template = render.as_module("train", values), tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template  # others are for tools
    if values.chat_template:
        template = (Path(folder) / values.chat_template).read_text(encoding="utf-8")
    if not template:
        raise ToolError(
            f"{values.model} has no chat template", "one", "--set train.chat_template=FILE (assets/plain.jinja)"
        )
    name, gib, tflops = device_named(gpu)
    pairs, total = sampled_pairs(folder, stages)
    tokenizer.chat_template = script.keep_thinking(template) if values.thinking == "preserve" else template
    tokens = measure(pairs, script, tokenizer, values.max_length)
    bf16 = name != "cpu" if values.precision == "auto" else values.precision == "bfloat16"
    rehearsal = Rehearsal(values, config, tokens["prefix"] / tokens["per_pair"], bf16, name != "cpu")
    if rehearsal.unpackable:
        found = f"{values.model} trains in padded batches ({rehearsal.unpackable}), which are not rehearsed"
        raise ToolError(found, "an architecture that packs", "reward.py check --smoke, and a small train.batch_tokens")
    room = (gib - (RESERVE if name != "cpu" else 0)) * HEADROOM * GIB
    order = ["full", "lora", "qlora"]
    steps = values.max_steps if values.max_steps > 0 else total * values.epochs / values.batch_size
    most = CPU_BUDGET if name == "cpu" else max(BUDGETS)
    step_tokens, options = tokens["per_pair"] * values.batch_size, []
    for method in methods or order[order.index(values.method) :]:
        for checkpointing in (False, True):
            budgets = [b for b in BUDGETS if tokens["longest_pair"] <= b <= most] or [tokens["longest_pair"]]
            useful = [b for b in budgets if b < step_tokens] or budgets[-1:]
            try:
                peaks = [(b, rehearsal.peak(method, checkpointing, b)) for b in useful]
            except Exception as error:  # layers whose shapes hang on the data, such as routed experts
                found = f"{values.model} cannot be rehearsed: {str(error)[:200]}"
                raise ToolError(found, "a dense decoder", "reward.py check --smoke", DATA_REFUSED) from None
            budget, peak = next(((b, p) for b, p in peaks if p <= room), peaks[-1])
            seconds = (
                rehearsal.flops(method, checkpointing, tokens) * steps * values.batch_size / (tflops * 1e12)
                if tflops
                else None
            )
            options.append(
                {
                    "method": method,
                    "gradient_checkpointing": checkpointing,
                    "batch_tokens": int(budget),
                    "peak_gib": round(peak / GIB, 2),
                    "fits": bool(peak <= room),
                    "hours": seconds and round(seconds / UTILISATION / 3600, 2),
                }
            )
    chosen = next((option for option in options if option["fits"]), None)
    return {
        "model": values.model,
        "parameters": rehearsal.parameters,
        "device": {"name": name, "gib": round(gib, 1), "bf16_tflops": tflops, "utilisation": UTILISATION},
        "precision": "bfloat16" if bf16 else "float32",
        "pairs": total,
        "steps": round(steps),
        "tokens": {key: round(value, 4) for key, value in tokens.items()},
        "options": options,
        "recommended": chosen and {k: chosen[k] for k in ("method", "gradient_checkpointing", "batch_tokens")},
    }


def as_text(found):
    """The plan for people."""
    device, tokens = found["device"], found["tokens"]
    speed = f", {device['bf16_tflops']} TFLOP/s" if device["bf16_tflops"] else ""
    lines = [
        f"model    {found['model']}: {found['parameters'] / 1e6:,.0f}M parameters",
        f"device   {device['name']}: {device['gib']} GiB{speed}; {found['precision']}",
        f"data     {found['pairs']} pairs, {found['steps']} steps; tokens a pair: {tokens['per_pair']:.0f} on average, "
        f"{tokens['longest_pair']:.0f} at most; {tokens['saved_by_sharing']:.0%} saved by sharing prompts; "
        f"{tokens['overlong']:.1%} of the pairs are longer than max_length",
        f"{'method':8} checkpointing  batch_tokens  peak GiB  fits  hours",
    ]
    for option in found["options"]:
        hours = f"{option['hours']:.2f}" if option["hours"] is not None else "not estimated"
        checkpointing, fits = ("yes" if option[key] else "no" for key in ("gradient_checkpointing", "fits"))
        counted = f"{option['batch_tokens']:>12}  {option['peak_gib']:>8.2f}"
        lines.append(f"{option['method']:8} {checkpointing:13}  {counted}  {fits:4}  {hours}")
    if device["bf16_tflops"]:
        lines.append(f"hours are at {device['utilisation']:.0%} of the peak TFLOP/s")
    settings = [f"train.{key}={json.dumps(value)}" for key, value in (found["recommended"] or {}).items()]
    advice = " ".join(f"--set {setting}" for setting in settings).replace('"', "")
    lines.append(f"choose   {advice or 'nothing fits: a larger GPU, a smaller model or a smaller max_length'}")
    return "\n".join(lines)
