def convert(row, args):
    """A row with two answers and a label -> (prompt, chosen, rejected), each a list of messages."""
    label = look_up(row, args.winner)
    label = str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
    first, second = (as_messages(look_up(row, path), "assistant") for path in (args.chosen, args.rejected))
    if label in args.ties and label not in (args.a_wins, args.b_wins):
        raise Reject("tie", f"label {label!r}")
    if label not in (args.a_wins, args.b_wins):
        raise Reject("unknown_label", f"label {label[:40]!r} is neither {args.a_wins!r} nor {args.b_wins!r}")
    chosen, rejected = (first, second) if label == args.a_wins else (second, first)
    system = as_messages(look_up(row, args.system) or [], "system") if args.system else []
    return system + as_messages(look_up(row, args.prompt), "user"), chosen, rejected
