def load_reward_model(path, dtype="auto", dequantize=False):
    """Returns (model, tokenizer, contents of reward.json), ready to score.

    Refuses what would score silently wrong: a causal LM, a head that is in no file, probes that come out otherwise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    expected = "a folder written by train.py, or a sequence classifier with one label"
    try:
        folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path))
        names = ("adapter_config.json", "reward.json")
        adapter, reward = (json.loads((folder / n).read_text()) if (folder / n).exists() else {} for n in names)
        base = adapter.get("base_model_name_or_path", str(folder))
        kind = (AutoConfig.from_pretrained(base).architectures or ["unknown"])[0]
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        refuse(f"no reward model at {path}: {str(error)[:200]}", expected, "python run/train.py")
    if not adapter and not kind.endswith("ForSequenceClassification"):
        refuse(f"{path} is a {kind}: it would score with a random head", expected, "python run/train.py")
    if adapter:  # before PEFT, which fails on it with a KeyError
        with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
            if not any("score" in name for name in saved.keys()):
                refuse(f"{path} holds no score.weight: its scores would be random", expected, "train again")
    options = {"num_labels": 1, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if quantized := reward.get("quantization"):
        options["quantization_config"] = BitsAndBytesConfig(**quantized)
    model, info = AutoModelForSequenceClassification.from_pretrained(base, **options)
    if adapter:
        model = peft.PeftModel.from_pretrained(model.dequantize() if quantized and dequantize else model, folder)
    if lost := info["missing_keys"] - ({"score.weight"} if adapter else set()):
        refuse(f"{path} holds no {', '.join(sorted(lost)[:3])}: its scores would be random", expected, "train again")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model = keep_float32(model.eval() if quantized else model.eval().to(device))

    probes = reward.get("probes", [])
    ids = [encode(probe["messages"], tokenizer, reward["max_length"])[0] for probe in probes]
    if [fingerprint(i) for i in ids] != [probe["ids"] for probe in probes]:
        refuse(
            f"{path} turns its probes into other tokens than in training", "the tokenizer saved with it", "train again"
        )
    off = [
        abs(s - p["score"]) / max(1, abs(p["score"]))
        for s, p in zip(score_ids(model, [[i] for i in ids], 16384).tolist(), probes)
    ]
    if not max(off, default=0) <= (1e-3 if dtype == reward.get("dtype") == "float32" else 0.1):
        refuse(
            f"{path} scores its probes {max(off):.2g} off", "the scores in reward.json", "compare files and versions"
        )
    if not reward:
        print(f"warning: {path} has no reward.json: template, length limit and scores are unchecked", file=sys.stderr)
    return model, tokenizer, reward
