EQUAL = "Adding one constant to all rewards and multiplying them change nothing"
CENTRED = "Adding a constant, even a different one for each prompt, changes nothing; multiplying scales every advantage"
ADAM = "Adam takes a common factor out again, up to the clipping of gradients, so that the learning rate stays"
WEIGHS = f"so a scale weighs the reward against the KL term. {ADAM}; set beta for the scale, or method standard, with "
WEIGHS += "which a beta found once holds for the next reward model"
ADVICE = {
    "grpo": f"{EQUAL}, nor does another constant for each prompt: each group is divided by its own spread (+ 1e-4). "
    "Keep the scale as it is (method none, or temperature where the chances are of use), beta and learning rate too.",
    "grpo-batch": f"{EQUAL}. Constants that differ between prompts widen the spread of the batch, by which all is "
    "divided: they shrink every advantage by one factor. Keep the scale as it is; groups that spread wider weigh more, "
    "where they should not, set scale_rewards to group.",
    "grpo-none": f"{CENTRED}, {WEIGHS}.",
    "dr-grpo": f"{CENTRED}, {WEIGHS}. As for GRPO without scaling: the two differ in how tokens are averaged.",
    "rloo": f"{CENTRED}, {WEIGHS}. The KL term is part of the reward, and advantages are k / (k - 1) times those of "
    "Dr. GRPO.",
    "reinforce++": f"{EQUAL}, but constants that differ between prompts stay in the advantages: an easy prompt gets "
    "high ones whatever the answer. Where the KL term is part of the reward, a scale decides how much it weighs: set "
    "method standard, then beta.",
    "ppo": "With a critic that has learned the rewards, adding a constant and multiplying change nothing, for "
    "advantages are whitened. With one that starts at zero, as here, a constant changes them until it is learned: "
    "set method standard, which centres the rewards. A scale decides how much the KL term in the reward weighs: set "
    "beta after it.",
}
SEVERAL = {
    "summed": "Several rewards are summed before they are normalised: the spread of each is its weight, so multiplying "
    "one changes the advantages. Set method standard (robust with outliers) for each of them, then the weights.",
    "normalized": "Several rewards are normalised in their groups before they are summed: adding to one of them or "
    "multiplying it changes nothing. Set the weights alone.",
}
OTHER = "Clipping, sigmoids, ranks and debiasing are neither adding nor multiplying: they change what a policy learns."


def what_to_set(compared, args):
    """Sentences that name a parameter to set, from the figures of this calibration set."""
    rows, told = {key: row for key, (row, _) in compared.items()}, []
    before, after = (rows["temperature", args.debias].get(f"calibration error {when}") for when in ("before", "after"))
    if after is not None and before > after + 0.01:
        told += [
            f"σ(difference) is off by {before:.3f}, with method temperature by {after:.3f}: set it where thresholds, "
            "chances or sums with other rewards use the numbers."
        ]
    for debias in ("lowess", "window"):
        row = rows["none", debias]
        before, after = (row.get(f"length correlation {when}") for when in ("before", "after"))
        if after is not None and abs(before) > 0.2 and abs(after) < abs(before) / 2:
            right = [rows["none", "none"]["pair accuracy"], row["pair accuracy"]]
            cost = f", pair accuracy goes from {right[0]:.3f} to {right[1]:.3f}" if None not in right else ""
            told += [f"Reward and length correlate by {before:+.2f}; debias {debias} leaves {after:+.2f}{cost}."]
            break
    return told


def advantages(rewards, algorithm, normalized=False):
    """Advantages (flat array) of rewards (rewards per answer, prompts, answers), without a KL term.

    grpo, rloo and normalized as in TRL 1.16, reinforce++ as in arXiv 2501.03262; ppo: generalised advantages (λ = 0.95,
    answers of 16 tokens) under a critic that is zero, whitened over the batch's tokens."""

    def normal(r, axis=None):
        return (r - r.mean(axis, keepdims=True)) / (r.std(axis, ddof=1, keepdims=True) + 1e-4)

    if normalized:
        return normal(sum(normal(reward, 1) for reward in rewards)).ravel()
    rewards = np.sum(rewards, 0)
    centred, k = rewards - rewards.mean(1, keepdims=True), rewards.shape[1]
    if algorithm == "grpo":
        return normal(rewards, 1).ravel()
    if algorithm == "grpo-batch":
        return (centred / (rewards.std(ddof=1) + 1e-4)).ravel()
    if algorithm == "reinforce++":
        return normal(rewards).ravel()
    if algorithm == "ppo":
        return normal(rewards[..., None] * 0.95 ** np.arange(15, -1, -1)).ravel()
    return centred.ravel() * (k / (k - 1) if algorithm == "rloo" else 1)


def advantage_change(items, values, algorithm, several):
    """(factor, residue): advantages after ≈ factor · advantages before; residue is the share of their norm beyond that.

    Groups are the answers to one prompt where the set has three or more of them, else eight answers at random; 1,000 at
    most. A second reward, where there are several, is drawn from a standard normal distribution."""
    rng, sizes = np.random.default_rng(0), np.bincount(items.prompt)
    k = int(np.argmax(np.bincount(sizes)[3:], axis=0)) + 3 if sizes.max() > 2 else 8
    if sizes.max() > 2:
        chosen = np.flatnonzero(sizes[items.prompt] == k)[: 1000 * k]
    else:
        k = min(k, len(values))
        chosen = rng.permutation(len(values))[: min(1000, len(values) // k) * k]
    before, after = (np.asarray(v)[chosen].reshape(1, -1, k) for v in (items.score, values))
    if several != "one":
        second = rng.normal(size=before.shape)
        before, after = np.concatenate([before, second]), np.concatenate([after, second])
    old, new = (advantages(r, algorithm, several == "normalized") for r in (before, after))
    factor = float(old @ new / max(old @ old, 1e-30))
    return factor, float(np.linalg.norm(new - factor * old) / max(np.linalg.norm(new), 1e-30))
