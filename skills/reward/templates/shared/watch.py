WINDOW = 5  # steps averaged: "now" is the last so many, "the start" the first
WATCHED = {  # signal: (limit, what it means, what to do)
    "length": (2.0, "completions are so many times longer, or shorter, than at the start", "--weight-overlong, --beta"),
    "spread": (0.5, "this share of the groups got one reward for all, and teaches nothing", "--temperature, prompts"),
    "kl": (0.3, "the policy is this far from its start, in nats a token", "--beta, --learning-rate"),
    "repetition": (0.3, "this share of the token trigrams repeats within its completion", "--weight-repetition 1"),
    "unfinished": (0.5, "this share of the completions is cut at the limit", "--max-completion-length, --mask-cut"),
    "truncated": (0.1, "this share is cut to what the reward model can read", "a reward model that reads more"),
    "unseen": (0.0, "this share holds thinking that the reward model's template deletes", "--no-score-thinking"),
    "unscored": (0.0, "this share cannot be scored, and gets the lowest reward of its group", "another reward model"),
    "agreement": (0.1, "gold orders so many fewer pairs in a group alike than at the start, or than 60 %", "--beta"),
    "gold": (0.5, "the reward rises while gold falls, by so many of its standard deviations", "an earlier checkpoint"),
}


def limits_to_stop(texts):
    """What --stop-when holds, such as kl or kl=0.2 -> {signal: limit}."""
    stops = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            stops[name] = float(number) if number else WATCHED[name][0]
        except (KeyError, ValueError):
            refuse(f"--stop-when {text}", f"one of {', '.join(WATCHED)}, or kl=0.2", "--stop-when kl=0.2 agreement")
    return stops


def signals(history):
    """Logged steps -> {signal of WATCHED: its value now}, as far as there are enough steps to tell."""
    history = [step for step in history if "reward" in step]  # others reuse completions
    start, now = history[:WINDOW], history[-WINDOW:]

    def mean(name, steps):
        values = [step[name] for step in steps if step.get(name) is not None]
        return sum(values) / len(values) if values else None

    names = {"spread": "groups_without_spread", "kl": "kl", "unfinished": "completions/clipped_ratio"}
    names |= {"truncated": "truncated", "unseen": "thinking_unseen", "unscored": "unscored"}
    names |= {"repetition": "rewards/repetition_penalty_reward/mean"}
    found = {signal: mean(name, now) for signal, name in names.items()} if len(history) >= WINDOW else {}
    if found.get("repetition") is not None:
        found["repetition"] *= -1
    if len(history) >= 2 * WINDOW:
        drifting = ["completions/mean_length", "gold/agreement", "gold/mean", "reward"]
        was, came = ([mean(name, steps) for name in drifting] for steps in (start, now))
        longer = max(came[0], 1) / max(was[0], 1)
        found["length"] = max(longer, 1 / longer)
        if None not in (was[1], came[1]):
            found["agreement"] = max(was[1], 0.6) - came[1]
        if None not in (was[2], came[2]) and came[3] > was[3]:
            found["gold"] = (was[2] - came[2]) / max(mean("gold/std", start), 1e-6)
    return {signal: value for signal, value in found.items() if value is not None}


def new_events(history, stops):
    """Events (list of dicts) of the last step: what has crossed its limit that had not a step before."""
    before, now, events = signals(history[:-1]), signals(history), []
    for signal, (limit, meaning, remedy) in WATCHED.items():
        limit = stops.get(signal, limit)
        if now.get(signal, -math.inf) > limit >= before.get(signal, -math.inf):
            event = {"step": history[-1]["step"], "event": signal, "value": now[signal], "limit": limit}
            words = f"{signal} {now[signal]:.3g} is above {limit:g}: {meaning}; consider {remedy}"
            events.append({**event, "stops": signal in stops, "words": words})
    return events
