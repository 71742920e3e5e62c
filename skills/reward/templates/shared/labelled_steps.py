def labelled_steps(row):
    """[(question, steps, place of the first wrong step, -1 for none)] of a row of ProcessBench, PRMBench or TRL's
    stepwise data; [] for other rows. Raises ValueError or KeyError where a label is none of the steps, or they are no
    texts."""
    if {"problem", "steps", "label"} <= set(row):
        found = [(row["problem"], row["steps"], int(row["label"]))]
    elif {"original_question", "original_process", "modified_process", "error_steps"} <= set(row):
        asked, first = row["original_question"], min(row["error_steps"] or [0]) - 1
        found = [(asked, row["original_process"], -1)]
        found += [(row.get("modified_question") or asked, row["modified_process"], first)]
    elif {"prompt", "completions", "labels"} <= set(row):
        known = {"true": True, "1": True, "+": True, "false": False, "0": False, "-": False}
        wrong = [place for place, good in enumerate(row["labels"]) if not known[str(good).lower()]]
        found = [(row["prompt"], row["completions"], wrong[0] if wrong else -1)]
        if len(row["labels"]) != len(row["completions"]):
            raise ValueError(f"{len(row['labels'])} labels for {len(row['completions'])} steps")
    else:
        found = []
    for question, steps, first in found:
        if not isinstance(steps, list) or not steps or not all(isinstance(text, str) for text in (question, *steps)):
            raise ValueError("question and steps must be text, and at least one step")
        if first >= len(steps):
            raise ValueError(f"an error in step {first + 1} of {len(steps)}")
    return found
