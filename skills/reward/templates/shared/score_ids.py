@torch.inference_mode()
def score_ids(model, sequences, batch_tokens):
    """Rewards (float32 tensor) of lists of token ids, in their order. Similar lengths share a batch."""
    pad = model.config.get_text_config().pad_token_id
    rewards, order = torch.zeros(len(sequences)), sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    while order:
        width = len(sequences[order[0]])
        now, order = order[: max(1, batch_tokens // width)], order[max(1, batch_tokens // width) :]
        ids = torch.tensor([sequences[i] + [pad] * (width - len(sequences[i])) for i in now], device=model.device)
        mask = torch.tensor([[1] * len(sequences[i]) + [0] * (width - len(sequences[i])) for i in now])
        logits = model(input_ids=ids, attention_mask=mask.to(model.device)).logits
        rewards[now] = logits[:, 0].float().cpu()
    return rewards


def keep_float32(model):
    """Compute in float32 where rounding would show: in the reward head, for rewards rounded to bfloat16 tie, and in
    4-bit layers on a CPU, which bitsandbytes rounds to bfloat16 in evaluation alone. Returns the model."""

    def forward(self, hidden):
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), self.weight.float())

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and re.search(r"(^|\.)score(\.|$)", name):
            module.forward = MethodType(forward, module)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
