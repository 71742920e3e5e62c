def pair_loss(chosen, rejected, margin=None, kind="margin", smoothing=0.0, center=0.0):
    """Mean loss over pairs of rewards (float32 tensors of one length), from Δ = chosen − rejected:

    margin  −log σ(Δ − m): Bradley–Terry, with the margin of Llama 2 where pairs have one (arXiv 2307.09288)
    scaled  −m · log σ(Δ): HelpSteer2-Preference (arXiv 2410.01257)

    `smoothing` ε mixes in the loss of the swapped pair; `center` adds λ · (chosen + rejected)² (arXiv 2312.09244)."""
    log_sigmoid, margin = torch.nn.functional.logsigmoid, torch.zeros_like(chosen) if margin is None else margin
    shifted = chosen - rejected - (margin if kind == "margin" else 0.0)
    loss = -(1 - smoothing) * log_sigmoid(shifted) - (smoothing * log_sigmoid(-shifted) if smoothing else 0.0)
    loss = loss * margin if kind == "scaled" else loss
    return (loss + center * (chosen + rejected) ** 2).mean()
