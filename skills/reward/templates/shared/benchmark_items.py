def one_item(row, subset, prompt, answers, **more):
    """What every benchmark becomes: a prompt and its answers, the right ones first, as messages."""
    turns = [as_messages(answer, "assistant") for answer in answers]
    return {"id": row.get("id"), "subset": str(subset), "prompt": as_messages(prompt, "user"), "answers": turns, **more}


def read_reward_bench(row, origin):
    return one_item(row, look_up(row, "subset"), look_up(row, "prompt"), [look_up(row, side) for side in SIDES])


def read_reward_bench_2(row, origin):
    chosen, rejected = (look_up(row, side) for side in SIDES)
    answers, right = [*chosen, *rejected], int(row.get("num_correct") or len(chosen))
    return one_item(row, look_up(row, "subset"), look_up(row, "prompt"), answers, right=right)


def read_rm_bench(row, origin):
    """Three chosen and three rejected answers, each concise, detailed, and detailed with markdown."""
    answers = [*look_up(row, "chosen"), *look_up(row, "rejected")]
    if len(answers) != 6:
        raise Reject("wrong_type", f"{len(answers)} answers where RM-Bench has six")
    return one_item(row, look_up(row, "domain"), look_up(row, "prompt"), answers)


def read_judgebench(row, origin):
    label, answers = look_up(row, "label"), [look_up(row, "response_A"), look_up(row, "response_B")]
    if label not in ("A>B", "B>A"):
        raise Reject("unknown_label", f"label {label!r}")
    families = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
    subset = next((name for name in families if look_up(row, "source").startswith(name)), row["source"])
    answers = answers if label == "A>B" else answers[::-1]
    return one_item(row | {"id": row.get("pair_id")}, subset, look_up(row, "question"), answers)


def read_llmbar(row, origin):
    """The subset stands in the path alone: Natural, Neighbor, GPTInst, GPTOut, Manual, or a processed set."""
    names = re.findall(r"Natural|Neighbor|GPTInst|GPTOut|Manual|FairEval|LLMEval\^2|MT-Bench", origin)
    label, answers = str(look_up(row, "label")), [look_up(row, "output_1"), look_up(row, "output_2")]
    if label not in ("1", "2"):
        raise Reject("unknown_label", f"label {label!r}")
    return one_item(row, (names or ["unknown"])[-1], look_up(row, "input"), answers if label == "1" else answers[::-1])


def read_ppe_human(row, origin):
    winner, answers = look_up(row, "winner"), [look_up(row, "response_1"), look_up(row, "response_2")]
    if winner not in ("model_a", "model_b"):
        raise Reject("tie", f"winner {winner!r}")
    answers = answers if winner == "model_a" else answers[::-1]
    row = row | {"id": row.get("question_id")}
    return one_item(row, row.get("language") or "unknown", look_up(row, "prompt"), answers)


def read_ppe_correctness(row, origin):
    """Many sampled answers, each right or wrong, and the pairs of them that were drawn for the accuracy."""
    names = sorted((name for name in row if re.fullmatch(r"response_\d+", name)), key=lambda name: int(name[9:]))
    truth, pairs = [bool(s) for s in look_up(row, "scores")], look_up(row, "sampled_conflict_pairs")
    if len(truth) != len(names) or any(truth[i] == truth[j] for i, j in pairs):
        raise Reject("wrong_type", f"{len(truth)} scores for {len(names)} responses, or a pair without a difference")
    subset = (re.findall(r"MMLU-Pro|MATH|GPQA|IFEval|MBPP-Plus", origin) or ["unknown"])[-1]
    pairs = [(i, j) if truth[i] else (j, i) for i, j in pairs]
    row = row | {"id": row.get("question_id")}
    return one_item(row, subset, look_up(row, "prompt"), [row[name] for name in names], truth=truth, pairs=pairs)


def read_processbench(row, origin):
    """The solution up to each of its steps is an answer; `label` is the first wrong step from 0, −1 for none."""
    steps, label = look_up(row, "steps"), int(look_up(row, "label"))
    if not steps or not -1 <= label < len(steps):
        raise Reject("unknown_label", f"label {label} for {len(steps)} steps")
    answers = ["\n\n".join(steps[: n + 1]) for n in range(len(steps))]
    subset = (re.findall(r"gsm8k|math|olympiadbench|omnimath", f"{origin} {row.get('id')}") or ["unknown"])[-1]
    return one_item(row, subset, look_up(row, "problem"), answers, label=label)
