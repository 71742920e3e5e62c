def convert(row, args):
    """A row with a chosen and a rejected answer -> (prompt, chosen, rejected), each a list of messages."""
    chosen, rejected = (look_up(row, path) for path in (args.chosen, args.rejected))
    system = as_messages(look_up(row, args.system) or [], "system") if args.system else []
    if args.prompt:
        prompt = as_messages(look_up(row, args.prompt), "user")
        return system + prompt, as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    if isinstance(chosen, str) and isinstance(rejected, str):  # TRL's implicit prompt: the text both begin with
        shared = os.path.commonprefix([chosen, rejected])
        shared = shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1]
        prompt, answers = as_messages(shared.strip(), "user"), (chosen[len(shared) :], rejected[len(shared) :])
        return system + prompt, *(as_messages(answer, "assistant") for answer in answers)
    prompt, chosen, rejected = split_context(as_messages(chosen, "assistant"), as_messages(rejected, "assistant"))
    return system + prompt, chosen, rejected
