"""The server inside the process: the same scores in every shape, limits, refusals, and 10,000 malformed requests."""

import asyncio
import json
import random
import string

import pytest
from conftest import read_jsonl, write_jsonl
from serving import LIMIT, arguments, ask, forty, golden, make_model, padded_scores, requests_for, running, turns
from test_thinking_templates import TEXT_TEMPLATES, with_template
from trainings import call

TOKEN = "a-token-of-more-than-16-characters"
SCALING = {"method": "z", "mean": 0.5, "std": 2.0, "shape": "linear", "references": [0.5], "scale": 2.0}


@pytest.fixture(scope="module")
def model(base, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("serving"), base)


@pytest.fixture(scope="module")
def loaded(model):
    return golden("serve").load_reward_model(str(model), "float32")


@pytest.fixture(scope="module")
def packed(model):
    """A model of its own that packs, as main() prepares it."""
    serve = golden("serve")
    found, tokenizer, reward = serve.load_reward_model(str(model), "float32")
    groups = [
        [serve.encode(m, tokenizer, LIMIT)[0] for m in forty()[:3]],
        [serve.encode(forty()[20], tokenizer, 99)[0]],
    ]
    assert serve.try_packing(found, groups, True, 1e-4).startswith("packed")
    return found, tokenizer, reward


def asked(found, *requests, scaling=None, token="", **parameters):
    """Answers of a server made of a loaded model, all requests at a time: (path, body[, more of ask()])."""
    model, tokenizer, reward = found
    args = arguments("a/folder/model", **parameters)
    gate = golden("serve").make_app(model, tokenizer, {**reward, "scaling": scaling}, args, token)

    async def go():
        async with running(gate):
            return await asyncio.gather(*(ask(gate, *r[:2], **(r[2] if len(r) > 2 else {})) for r in requests))

    return asyncio.run(go())


def refusal(answer, status):
    """The reason of a refusal, after asserting that it is a whole one."""
    assert answer.status == status, (answer.status, answer.body)
    assert set(answer.json["error"]) == {"received", "expected", "try"} and all(answer.json["error"].values())
    return answer.json["error"]["received"]


# ---- The same score everywhere ---------------------------------------------------------------------------------------


def test_all_shapes_give_the_scores_of_the_score_stage(model, loaded, packed, tmp_path):
    conversations = forty()
    assert len(conversations) == 40
    write_jsonl(tmp_path / "forty.jsonl", [{"messages": messages} for messages in conversations])
    call("score", "--model", model, "--data", tmp_path / "forty.jsonl", "--out", tmp_path / "scores.jsonl")
    rows = read_jsonl(tmp_path / "scores.jsonl")
    alone = padded_scores(*loaded[:2], conversations)
    assert [row["score"] for row in rows] == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 0.5
    texts = [loaded[1].apply_chat_template(messages, tokenize=False) for messages in conversations]
    many = [
        ("/score", {"rows": [{"messages": messages} for messages in conversations]}),
        ("/score", {"rows": [{"text": text} for text in texts]}),
        ("/get_reward", {"query": texts, "prompts": texts, "labels": [None] * 40}),
        ("/classify", {"input": texts, "model": "x", "use_activation": False}),
    ]
    one = [request for triple in zip(texts, conversations, alone) for request in requests_for(*triple)]
    for found, tokens in ((packed, 16384), (packed, 300), (loaded, 16384)):
        score, text, openrlhf, vllm, *single = asked(found, *many, *(r[:2] for r in one), batch_tokens=tokens)
        assert [row["score"] for row in score.json["rows"]] == pytest.approx(alone, abs=1e-5)
        for key in ("tokens", "truncated"):
            assert [row[key] for row in score.json["rows"]] == [row[key] for row in rows]
        assert [row["score"] for row in text.json["rows"]] == pytest.approx(alone, abs=1e-5)
        assert openrlhf.json["rewards"] == openrlhf.json["scores"] == pytest.approx(alone, abs=1e-5)
        assert [row["probs"] for row in vllm.json["data"]] == [pytest.approx([score], abs=1e-5) for score in alone]
        assert vllm.json["usage"]["prompt_tokens"] == sum(row["tokens"] for row in rows)
        for answer, (_, body, right) in zip(single, one):
            assert answer.status == 200 and right(answer.json), body


def test_prompt_and_responses_share_the_prompt(packed):
    prompt, answers = "question " * 100, ["One.", "Two, three.", "Four."]
    wanted = padded_scores(*packed[:2], [turns(prompt, answer) for answer in answers])  # its own model still packs
    requests = [("/score", {"prompt": prompt, "response": answer}) for answer in answers]
    whole, *single, metrics = asked(
        packed, ("/score", {"prompt": prompt, "responses": answers}), *requests, ("/metrics", b"", {"method": "GET"})
    )
    assert whole.json["score"] == pytest.approx(wanted, abs=1e-5)
    assert [answer.json["score"] for answer in single] == pytest.approx(wanted, abs=1e-5)
    serve, groups = golden("serve"), []

    class Packs:
        packs = True

    async def taken():
        batcher = serve.Batcher(Packs(), 50)
        for ids, key in (([1] * 40 + [2, 3], "a"), ([4] * 9, "b"), ([1] * 40 + [5, 6, 7], "a"), ([8], "c")):
            batcher.waiting.append(serve.Job(ids, key, asyncio.get_running_loop().create_future()))
        batcher.waiting[1].reward.cancel()  # its client is gone
        groups.extend((batcher.take(), batcher.take()))

    asyncio.run(taken())
    first, used = groups[0]
    assert [[len(job.ids) for job in group] for group in first] == [[42, 43], [1]] and used == 42 + 3 + 1
    assert groups[1] == ([], 0)


@pytest.mark.parametrize("template", ["chatml", "llama", "plain", "thinking"])
def test_text_from_rl_libraries_is_read_as_in_training(template, loaded):
    """BOS once, twice or not at all; the end of turn whole, in part or cut off; the policy's end token."""
    model, tokenizer, reward = loaded
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    chat = (
        "{% for m in messages %}"
        + turn
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = {
        "chatml": chat,
        "llama": "{{ bos_token }}" + chat,
        "plain": "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content | trim + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% else %}{{ eos_token }}{% endif %}",
        "thinking": chat.replace(
            "{{ m.content }}",
            "{% if m.role == 'assistant' and '<think>' not in m.content %}"
            "<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
        ),
    }[template]
    conversation = turns("Hello?", "Hello.", "How do I clean a lamp?", "With a dry cloth.")
    (wanted,) = padded_scores(model, tokenizer, [conversation])
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    bare = whole.removeprefix("<|endoftext|>")
    cut = bare[: bare.rindex("cloth.") + len("cloth.")]
    texts = [whole, bare, "<|endoftext|>" * 2 + bare, bare.rstrip(), cut, cut + tokenizer.eos_token]
    texts = texts if template == "llama" else [t for t in texts if not t.startswith("<|endoftext|>" * 2)]
    (answer,) = asked((model, tokenizer, reward), ("/score", {"rows": [{"text": text} for text in texts]}))
    rows = answer.json["rows"]
    assert [row["score"] for row in rows] == pytest.approx([wanted] * len(texts), abs=1e-5)
    assert [row["completed"] for row in rows] == [not text.endswith(bare[len(cut) :]) for text in texts]
    lengths = golden("serve").Template(tokenizer)
    assert {lengths.read(text)[2] for text in texts} == {"With a dry cloth."}
    foreign = asked((model, tokenizer, reward), ("/get_reward", {"query": ["How do I clean a lamp? With a cloth."]}))
    assert "no assistant turn" in refusal(foreign[0], 422)


@pytest.mark.parametrize("answer", ["So.", "<think>\nR\n</think>\n\nSo.", " So. \n"])
@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_text_in_a_real_template_is_read_as_it_was_written(name, answer):
    tokenizer, serve = with_template(name), golden("serve")
    text = serve.as_text(turns("Why?", "b", "c", answer), tokenizer)
    read, _, said, completed = serve.Template(tokenizer).read(text)
    assert (read, completed) == (text, False) and said.split("</think>")[-1].strip() == "So."


def test_scaled_rewards(loaded):
    conversation = turns("Why?", "So.")
    (raw,) = padded_scores(*loaded[:2], [conversation])
    text, scaled = loaded[1].apply_chat_template(conversation, tokenize=False), (raw - 0.5) / 2
    requests = [("/score", {"messages": conversation}), ("/score", {"text": text}), ("/get_reward", {"query": text})]
    requests += [("/score", {"prompt": "Why?", "responses": ["So."]}), ("/classify", {"messages": conversation})]
    for chosen, expected in ((False, raw), (True, scaled)):
        one, other, openrlhf, several, vllm = asked(loaded, *requests, scaling=SCALING, scaled=chosen)
        assert one.json == {**other.json, "completed": False}
        assert (one.json["score"], one.json["scaled"]) == pytest.approx((raw, scaled), abs=1e-5)
        assert several.json["scaled"] == pytest.approx([scaled], abs=1e-5)
        assert openrlhf.json["rewards"] == pytest.approx([expected], abs=1e-5)
        assert openrlhf.json["extra_logs"]["raw_reward"] == pytest.approx([raw], abs=1e-5)
        assert vllm.json["data"][0]["probs"] == pytest.approx([expected], abs=1e-5)
    assert asked(loaded, *requests)[0].json["scaled"] is None
    said = [{"role": "assistant", "content": "Hm."}, *turns("And?", "So.")]  # an answer of several turns: 10 characters
    by_length = SCALING | {"references": [0.0], "scale": 1.0, "length": [[0, 100], [0, 100]]}
    (one,) = asked(loaded, ("/score", {"prompt": "Why?", "responses": [said]}), scaling=by_length)
    assert one.json["score"][0] - one.json["scaled"][0] == pytest.approx(10, abs=1e-5)


# ---- Limits, token, metrics ------------------------------------------------------------------------------------------

ROW = {"prompt": "Why?", "response": "So."}


def test_limits_of_queue_size_and_time(loaded, monkeypatch):
    serve, several = golden("serve"), {"prompt": "Why?", "responses": ["a", "b", "c"]}
    empty = ("/get_reward", {"query": []})
    *answers, none = asked(loaded, *[("/score", several)] * 3, ("/score", {"rows": [several] * 3}), empty, queue=7)
    assert sorted(answer.status for answer in answers) == [200, 200, 413, 429]
    assert "0 conversations" in refusal(none, 422)
    full = next(answer for answer in answers if answer.status == 429)
    assert "wait already" in refusal(full, 429) and full.headers["retry-after"] == "1"
    refusal(answers[-1], 413)
    large = {**ROW, "response": "x" * 2**20}
    parts = [{"type": "http.request", "body": b"[" * 2**19, "more_body": True}] * 40
    answers = asked(loaded, ("/score", large), ("/score", b"", {"chunks": parts}), ("/score", ROW), request_mib=1)
    assert [answer.status for answer in answers] == [413, 413, 200]
    assert "a larger request" in refusal(answers[0], 413) and answers[0].headers["connection"] == "close"
    slow = [{"type": "http.request", "body": b"{", "more_body": True}]
    left = [*slow, {"type": "http.disconnect"}]
    slow, left, right = asked(
        loaded, ("/score", b"", {"chunks": slow}), ("/score", b"", {"chunks": left}), ("/score", ROW), timeout=0.5
    )
    assert "a part of a request" in refusal(slow, 408)
    assert left.status is None and right.status == 200
    real = serve.score_ids
    monkeypatch.setattr(serve, "score_ids", lambda *a: (serve.time.sleep(0.4), real(*a))[1])
    late, health = asked(loaded, ("/score", ROW), ("/health", b"", {"method": "GET"}), timeout=0.1)
    assert "no score within" in refusal(late, 504) and health.status == 200


def test_a_failure_in_scoring_is_told_and_the_next_request_is_scored(loaded, monkeypatch, capsys):
    serve, real = golden("serve"), golden("serve").score_ids
    results = [RuntimeError("out of memory"), float("nan"), None]

    def failing(model, groups, batch_tokens):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return real(model, groups, batch_tokens) * (result or 1)

    monkeypatch.setattr(serve, "score_ids", failing)
    answers = asked(loaded, *[("/score", ROW)] * 3, batch_tokens=8)
    assert [answer.status for answer in answers] == [500, 500, 200]
    assert "out of memory" in refusal(answers[0], 500) and "nan" in refusal(answers[1], 500)


def test_token(loaded):
    def given(value):
        return {"headers": {b"authorization": value}}

    right, wrong = (
        given(f"Bearer {TOKEN}".encode()),
        [{}, given(b"Bearer "), given(TOKEN.encode()), given(b"Bearer \xff")],
    )
    reading = [(path, b"", {"method": "GET"}) for path in ("/metrics", "/docs", "/openapi.json")]
    answers = asked(loaded, ("/score", ROW, right), *[("/score", ROW, w) for w in wrong], *reading, token=TOKEN)
    assert [answer.status for answer in answers] == [200] + [401] * 7
    assert all(TOKEN not in str(answer.body) for answer in answers)
    assert answers[1].headers["www-authenticate"] == "Bearer" and "no token" in refusal(answers[1], 401)
    assert asked(loaded, ("/health", b"", {"method": "GET"}), token=TOKEN)[0].json["status"] == "ok"


def test_metrics_and_documentation(loaded):
    model, tokenizer, reward = loaded
    gate = golden("serve").make_app(model, tokenizer, reward, arguments("model"))

    async def go():
        async with running(gate):
            await ask(gate, "/score", {"rows": [ROW, {"prompt": "Why?", "responses": ["So " * 400, "No."]}]})
            await ask(gate, "/score", {"nothing": 1})
            await ask(gate, "/no/such/path")
            gets = [await ask(gate, path, method="GET") for path in ("/metrics", "/openapi.json", "/docs", "/health")]
            return gets

    metrics, described, page, health = asyncio.run(go())
    counted = dict(line.rsplit(" ", 1) for line in metrics.body.decode().splitlines() if not line.startswith("#"))
    assert counted['reward_requests_total{path="/score",status="200"}'] == "1.0"
    assert counted['reward_requests_total{path="/score",status="422"}'] == "1.0"
    assert counted['reward_requests_total{path="other",status="404"}'] == "1.0"
    assert (counted["reward_score_count"], counted["reward_truncated_total"]) == ("3.0", "1.0")
    assert counted["reward_waiting_conversations"] == "0.0" and float(counted["reward_tokens_total"]) > LIMIT
    assert metrics.headers["content-type"].startswith("text/plain")
    assert set(described.json["paths"]) == {"/score", "/get_reward", "/classify", "/health", "/metrics"}
    assert {"Scored", "Classes", "Rewards", "Row"} <= set(described.json["components"]["schemas"])
    assert page.status == 200 and health.json == {
        "status": "ok",
        "model": "model",
        "max_length": LIMIT,
        "scaling": False,
    }


# ---- Malformed requests ----------------------------------------------------------------------------------------------

TEXT = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
VALID = [
    ("/score", {"messages": turns("Why?", "So.")}),
    ("/score", {"prompt": "Why?", "responses": ["So.", "No."]}),
    ("/score", {"rows": [{"prompt": "Why?", "response": "So."}]}),
    ("/get_reward", {"query": [TEXT]}),
    ("/classify", {"input": TEXT}),
    ("/classify", {"messages": turns("Why?", "So.")}),
]
NOT_TEXT = [
    7,
    -0.5,
    True,
    {"a": 1},
    {},
    [[]],
    [None],
    [7],
    [[["x"]]],
    [{"role": "user"}],
    [{"role": 1, "content": "x"}],
]
NOT_TURNS = [
    *NOT_TEXT[:9],
    [{"role": "robot", "content": "x"}],
    [{"role": "assistant", "content": None}],
    [{"role": "assistant", "content": ["x"]}],
    [{"role": "assistant", "content": "x", "tool_calls": [1]}],
    turns("Why?", "So.", "And?"),
]


def malformed(rng):
    """(path, body, more of ask()) of a request that must be refused, of a kind chosen at random."""
    path, valid = rng.choice(VALID)
    text = json.dumps(valid).encode()
    name = rng.choice([name for name in valid])
    noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 60)))
    word = "".join(rng.choices(string.printable, k=rng.randint(1, 12)))
    wrong = rng.choice(NOT_TURNS if name == "messages" else NOT_TEXT[:9])
    kind = rng.randrange(12)
    bodies = [
        (path, text[: rng.randint(0, len(text) - 1)]),
        (path, b"\x00" + noise),
        (path, b'{"' + name.encode() + b'": "\xff' + noise.replace(b'"', b"") + b'"}'),
        (path, {**valid, name: wrong}),
        (path, {**valid, f"un known {word}": word} if path != "/get_reward" else {word: word}),
        (path, {k: v for k, v in valid.items() if k != name and k != "prompt"}),
        (path, rng.choice([b"[" * 100_000, b"1" * 9999, b"NaN", b"null", b"[]", b'"x"', b"{}", b"true", text * 2])),
        (
            path,
            text,
            {"headers": {b"content-type": rng.choice([b"text/plain", b"", b"application/x-www-form-urlencoded"])}},
        ),
        (path, text, {"method": rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD"])}),
        ("/" + rng.choice(["scores", "v1/", "..", "%2e%2e/"]) + word, text),
        ("/score", {"rows": [{"messages": turns("Why?", "So.")}, {"messages": rng.choice(NOT_TURNS)}]}),
        ("/get_reward", {"query": [word]}),
    ]
    return bodies[kind], kind


def test_ten_thousand_malformed_requests_get_a_4xx_with_a_reason(loaded):
    rng, statuses, kinds = random.Random(7), {}, {}
    model, tokenizer, reward = loaded
    gate = golden("serve").make_app(model, tokenizer, reward, arguments("model"))

    async def go():
        async with running(gate):
            for _ in range(10_000):
                request, kind = malformed(rng)
                answer = await ask(gate, *request[:2], **(request[2] if len(request) > 2 else {}))
                assert 400 <= answer.status < 500, (answer.status, request, answer.body)
                refusal(answer, answer.status)
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                kinds[kind] = kinds.get(kind, 0) + 1
            for path, body in VALID:
                assert (await ask(gate, path, body)).status == 200, body

    asyncio.run(go())
    assert sum(statuses.values()) == 10_000 and len(kinds) == 12 and min(kinds.values()) > 500
    assert {400, 404, 405, 422} <= set(statuses)
