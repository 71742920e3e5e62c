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
