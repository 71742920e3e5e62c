def passes(groups, batch_tokens, packs):
    """Answers by prompt, {prompt: [(place, token ids)]} -> lists of (place, token ids) that each fit one forward pass,
    the prompt counted once where the model packs."""
    for answers in groups.values():
        longest, shared = (
            max(len(ids) for _, ids in answers),
            shared_prefix([ids for _, ids in answers]) if packs else 0,
        )
        most = min((batch_tokens - shared) // (longest - shared), 8 * batch_tokens // longest)
        yield from (answers[i : i + max(1, most)] for i in range(0, len(answers), max(1, most)))
