INPUT = ("prompt", "response", "responses", "messages")
OUTPUT = ("file", "row", "score", "scaled", "best", "length", "tokens", "truncated", "error")


def score_rows(rows, model, tokenizer, reward, args):
    """Input rows -> output rows, one for one. Answers to the same prompt are scored together, wherever they stand."""
    results, groups, places = [], {}, itertools.count()
    max_length, scaling = args.max_length or reward.get("max_length", 2048), reward.get("scaling")
    for file, number, row, problem in rows:
        carried = {f"input_{k}" if k in OUTPUT else k: v for k, v in (row or {}).items() if k not in INPUT}
        result = {"file": file, "row": number, **carried}
        try:
            if problem:
                raise Reject(problem, "the row could not be read")
            found = conversations(row)
            references = against(row, found[0][0], scaling)
            encoded = [encode(prompt + answer, tokenizer, max_length) for prompt, answer in found + references]
            if not all(ids for ids, _ in encoded):
                raise Reject("empty", "a conversation of no tokens")
            for (prompt, _), (ids, _) in zip(found + references, encoded):
                groups.setdefault(fingerprint(prompt), []).append((next(places), ids))
            result["score"] = [None] * len(encoded)
            result["length"] = [sum(len(m["content"]) for m in answer) for _, answer in found]
            result["tokens"], result["truncated"] = [len(ids) for ids, _ in encoded], [cut > 0 for _, cut in encoded]
        except Exception as error:  # templates raise what they like; the row must still come out
            result |= {"score": None, "error": ": ".join(map(str, error.args))[:300]}
        results.append((result, (row or {}).get("responses") is not None))
    if groups and not hasattr(model, "checked"):
        model.checked = True
        tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
        some = [[ids for _, ids in answers[:2]] for answers in list(groups.values())[:4]]
        print(try_packing(model, some, args.packing, tolerance), file=sys.stderr)
    parts = list(passes(groups, args.batch_tokens, getattr(model, "packs", False)))
    scores = score_ids(model, [[ids for _, ids in part] for part in parts], args.batch_tokens).tolist()
    by_place = iter(s for _, s in sorted(zip((place for part in parts for place, _ in part), scores)))
    for result, several in results:
        if "error" not in result:
            finish(result, several, [next(by_place) for _ in result["score"]], scaling)
    return [result for result, _ in results]


def against(row, prompt, scaling):
    """The reference answers of a row, to be scored beside its responses, where the scaling compares with such."""
    if not row.get("references") or (scaling or {}).get("method") not in ("lsc", "par", "quantile"):
        return []
    return [(prompt, as_messages(answer, "assistant")) for answer in row["references"]]


def finish(result, several, scores, scaling):
    """Put the scores of one row into its result, with what follows from them."""
    n = len(result["length"])
    if not np.isfinite(scores).all():
        result |= {"score": None, "error": f"not_finite: the rewards are {scores}"[:300]}
        return
    if scores[n:]:
        scaling = scaling | {"references": scores[n:]}
    scaled = {"scaled": apply_scaling(scores[:n], scaling, result["length"])} if scaling else {}
    result |= {"score": scores[:n], **scaled, "tokens": result["tokens"][:n], "truncated": result["truncated"][:n]}
    if several:
        result["best"] = int(np.argmax(scaled.get("scaled", scores[:n])))
    else:
        result |= {name: result[name][0] for name in ("score", "length", "tokens", "truncated", *scaled)}
