if "LOCAL_RANK" not in os.environ:  # one GPU, for Trainer would split every batch over all it sees; more: torchrun
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
