def read_prompts(args, tokenizer, models):
    """Distinct prompts -> (Dataset; how many rows were left out, by reason).

    Columns: prompt, for the policy (messages, or text where it has no chat template); conversation, for the reward
    models; gold, the right answer (a row's "gold") or None."""
    rows, seen, counts = [], set(), collections.Counter()
    find_files(args.data)
    for _, _, row, problem in read_rows(args.data, args.split):
        counts["rows"] += 1
        try:
            if problem:
                raise Reject(problem)
            if not {"prompt", "messages"} & set(row):
                raise Reject("missing_column")
            messages = as_messages(row["prompt" if "prompt" in row else "messages"], "user")
            if not messages or messages[-1]["role"] == "assistant" or not messages[-1]["content"].strip():
                raise Reject("no_question_at_the_end")
            if (known := fingerprint(messages)) in seen:
                raise Reject("same_prompt_again")
            seen.add(known)
            prompt = [{name: message[name] for name in ("role", "content")} for message in messages]
            if tokenizer.chat_template:
                options = {"add_generation_prompt": True, "enable_thinking": args.policy_thinks}
                text = tokenizer.apply_chat_template(prompt, tokenize=False, **options)
            elif len(messages) > 1:
                raise Reject("several_turns_and_no_chat_template")
            else:
                prompt = text = messages[0]["content"]
            ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
            if len(ids) > args.max_prompt_length:
                raise Reject("longer_than_max_prompt_length")
            for model in models:
                encode([*messages, {"role": "assistant", "content": "a"}], model.tokenizer, model.max_length)
        except Exception as error:  # templates raise what they like about roles they do not know
            counts[error.args[0] if isinstance(error, Reject) else "template_error"] += 1
            continue
        gold = row.get("gold")
        rows.append({"prompt": prompt, "conversation": messages, "gold": None if gold is None else str(gold)})
    total = counts.pop("rows", 0)
    happened = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none left out"
    given = "messages through its chat template" if tokenizer.chat_template else "plain text: it has no chat template"
    print(f"{len(rows)} prompts of {total} rows ({happened}); the policy is given {given}", flush=True)
    if (long := counts["longer_than_max_prompt_length"]) > (len(rows) + long) / 10:
        longer = f"{long} of {len(rows) + long} prompts have more than {args.max_prompt_length} tokens"
        print(f"warning: {longer} and are left out: see --max-prompt-length", file=sys.stderr)
    if len(rows) < args.prompts_per_step:
        mend = "other --data, or a lower --prompts-per-step"
        refuse(f"{len(rows)} prompts of {total} rows: {happened}", f"{args.prompts_per_step} or more, for a step", mend)
    return Dataset.from_list(rows), dict(counts)
