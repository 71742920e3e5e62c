# /// script
# requires-python = ">=3.10"
# dependencies = {{ dependencies }}
# ///
"""Serve: rewards over HTTP. SIGTERM or Ctrl+C stops it once every accepted request is answered.

POST /score       {"messages": …}, {"prompt": …, "response(s)": …}, {"text": …}, or {"rows": [several of these]}
POST /get_reward  as OpenRLHF's remote reward model: {"query": ["prompt and answer as text", …]}
POST /classify    as vLLM: {"input": "text" or ["text", …]} or {"messages": …}; probs holds the reward
GET  /health, /metrics (for Prometheus), /docs and /openapi.json

Text is a whole conversation in the model's chat template. It gets the template's BOS once, and the end of turn if that
is cut off; any other text is refused. If REWARD_TOKEN is set (in the environment or .env), every path except /health
needs it: Authorization: Bearer TOKEN.
"""

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import logging
import math
import os
import re
import signal
import socket
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

try:
    import peft
    import prometheus_client
    import torch
    import transformers
    import uvicorn
    from dotenv import find_dotenv, load_dotenv
    from fastapi import FastAPI, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from huggingface_hub import snapshot_download
    from pydantic import BaseModel, BeforeValidator, ConfigDict
    from safetensors import safe_open
    from starlette.exceptions import HTTPException
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENDERED_BY = {{rendered_by}}
PATHS = ("/score", "/get_reward", "/classify", "/health", "/metrics", "/docs", "/openapi.json")
GRACE = 0.5  # seconds in which a server that is told to stop still says so to those who ask


# %% Parameters
{{shared("refuse")}}


{{shared("within")}}


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, yes_or_no = parser.add_argument, {"action": argparse.BooleanOptionalAction}
    {{flags}}
    return parser.parse_args(argv)


# %% From messages to token ids to rewards
{{shared("messages")}}


{{shared("conversations")}}


{{shared("encode")}}


{{shared("packing")}}


{{shared("score_ids")}}


{{shared("load_reward_model")}}


{{shared("apply_scaling")}}


# %% Conversations that come as text
{{shared("chat_text")}}


# %% Batches
Job = namedtuple("Job", "ids prompt reward")


class Batcher:
    """Scores what waits, first come, first served. While one batch is computed, the next one gathers."""

    def __init__(self, model, batch_tokens):
        self.model, self.batch_tokens = model, batch_tokens
        self.waiting, self.arrived = [], asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "scoring")

    async def score(self, sequences, prompts):
        """Token-id lists, and what tells their prompts apart -> their rewards, in order."""
        loop = asyncio.get_running_loop()
        jobs = [Job(ids, prompt, loop.create_future()) for ids, prompt in zip(sequences, prompts)]
        self.waiting += jobs
        self.arrived.set()
        return await asyncio.gather(*(job.reward for job in jobs))

    def take(self):
        """The next batch, and its tokens: groups of jobs with the same prompt, as many as fit, or one job alone."""
        packs, groups, used, taken = getattr(self.model, "packs", False), {}, 0, 0
        for job in self.waiting:
            if not job.reward.done():  # nobody waits any more for one that is
                group = groups.setdefault(job.prompt if packs else id(job), [])
                tokens = len(job.ids) - (shared_prefix([group[0].ids, job.ids]) if group else 0)
                if used and used + tokens > self.batch_tokens:
                    break
                group.append(job)
                used += tokens
            taken += 1
        self.waiting = self.waiting[taken:]
        return [group for group in groups.values() if group], used

    async def run(self, metrics):
        """Score for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            while self.waiting:
                groups, tokens = self.take()
                jobs, ids = [job for group in groups for job in group], [[job.ids for job in group] for group in groups]
                try:
                    found = await loop.run_in_executor(self.thread, score_ids, self.model, ids, self.batch_tokens)
                    results = [x if math.isfinite(x) else RuntimeError(f"the reward is {x}") for x in found.tolist()]
                except Exception as error:  # out of memory, say: these are told, the next ones are tried
                    results = [RuntimeError(f"{type(error).__name__}: {error}")] * len(jobs)
                metrics["batches"].inc(bool(jobs))
                metrics["computed"].inc(tokens)
                for job, result in zip(jobs, results):
                    if not job.reward.done():
                        (job.reward.set_exception if isinstance(result, Exception) else job.reward.set_result)(result)


# %% What is refused, and before anything else
class Refused(Exception):
    """An answer that is no reward: status, what was received, what was expected, what to try."""

    def __init__(self, status, received, expected, mend, headers=None):
        self.status, self.headers = status, headers
        self.error = {"received": received, "expected": expected, "try": mend}

    def response(self):
        body = json.dumps({"error": self.error})  # in ASCII, for half a surrogate pair has no UTF-8
        return Response(body, self.status, self.headers, "application/json")


class Gate:
    """What each request passes first: the token, the limits of size and time, and whether the server is stopping."""

    def __init__(self, app, args, token, metrics):
        self.app, self.token, self.metrics = app, token, metrics
        self.most, self.timeout = args.request_mib * 2**20, args.timeout
        self.accepted, self.stopping, self.server = 0, False, None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, accepted = time.perf_counter(), 0, not self.stopping
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def answer(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.stopping or status in (408, 413):
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        async def body_again():
            return read.pop() if read else await receive()

        self.accepted += accepted
        try:
            self.check_token(scope, path)
            read = [{"type": "http.request", "body": await self.body(receive), "more_body": False}]
            if not accepted:
                raise Refused(503, "a request while stopping", "a running server", "another one", {"retry-after": "5"})
            await self.app(scope, body_again, answer)
        except Refused as refused:
            await refused.response()(scope, receive, answer)
        except ConnectionError:  # the client left in the middle of its request
            status = 499
        finally:
            self.accepted -= accepted
            self.metrics["requests"].labels(path, status).inc()
            self.metrics["seconds"].labels(path).observe(time.perf_counter() - start)

    def check_token(self, scope, path):
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.token and path != "/health" and not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            expected = "the header Authorization: Bearer TOKEN"
            raise Refused(401, "no token, or a wrong one", expected, "REWARD_TOKEN", {"www-authenticate": "Bearer"})

    async def body(self, receive):
        """The whole body (bytes). One that is too large is read on for a while, so that its sender hears the answer."""

        async def read():
            parts, size, more = [], 0, True
            while more and size <= 8 * self.most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                parts = [*parts, part] if size <= self.most else []
            if size > self.most:
                mib = self.most / 2**20
                raise Refused(413, "a larger request", f"at most {mib:g} MiB", "several requests, or --request-mib")
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.timeout)
        except asyncio.TimeoutError:
            expected = f"all of it within {self.timeout:g} s"
            raise Refused(408, "a part of a request", expected, "a faster line, or --timeout") from None

    def stop(self):
        """What SIGTERM and Ctrl+C do; the second time at once."""
        if self.stopping:
            self.server.should_exit = self.server.force_exit = True
        else:
            self.stopping = True
            print(f"stopping: {self.accepted} accepted requests are still to be answered", file=sys.stderr, flush=True)
            self.ending = asyncio.get_running_loop().create_task(self.end())

    async def end(self):
        await asyncio.sleep(GRACE)
        while self.accepted:
            await asyncio.sleep(0.02)
        self.server.should_exit = True


class Protocol(H11Protocol):
    """uvicorn waits for ever for a request to begin, or for the rest of its headers. This one hangs up."""

    waiting = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self.waiting = self.loop.call_later(self.config.timeout_keep_alive, transport.abort)

    def data_received(self, data):
        super().data_received(data)
        begun = str(self.conn.their_state) != "IDLE"
        if begun and self.waiting:
            self.waiting.cancel()
            self.waiting = None
        elif not begun and not self.waiting:
            self.waiting = self.loop.call_later(self.config.timeout_keep_alive, self.transport.abort)


# %% Requests and answers
def whole_unicode(value):
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(whole_unicode)]
Turns = Text | list[dict[str, Any]]
ASKED = {"prompt": "How do I clean a lamp?", "responses": ["With a dry cloth.", "No idea."]}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Row(Strict):
    """messages that end with the answer; or prompt, and response or responses; or text in the model's chat template."""

    messages: list[dict[str, Any]] | None = None
    prompt: Turns | None = None
    response: Turns | None = None
    responses: list[Turns] | None = None
    text: Text | None = None


class ScoreRequest(Row):
    """One row, or rows."""

    model_config = ConfigDict(json_schema_extra={"examples": [ASKED]})
    rows: list[Row] | None = None


class GetRewardRequest(BaseModel):
    """What OpenRLHF sends. Its prompts and labels change nothing here."""

    query: list[Text] | Text


class ClassifyRequest(Strict):
    """What clients of vLLM send. No activation is ever applied; BOS stands there once, whatever add_special_tokens."""

    input: list[Text] | Text | None = None
    messages: list[dict[str, Any]] | None = None
    model: str | None = None
    user: str | None = None
    use_activation: bool | None = None
    activation: bool | None = None
    add_special_tokens: bool | None = None


class Scored(BaseModel):
    """score is raw; scaled is null where reward.json holds no scaling. Lists where the row has responses."""

    score: float | list[float]
    scaled: float | list[float] | None
    tokens: int | list[int]
    truncated: bool | list[bool]
    completed: bool | list[bool]


class Rows(BaseModel):
    rows: list[Scored]


class Rewards(BaseModel):
    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class Class(BaseModel):
    index: int
    label: str = "reward"
    probs: list[float]
    num_classes: int = 1


class Classes(BaseModel):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Class]
    usage: dict[str, int]


def conversations_of(row):
    """The conversations of one row: (messages of the prompt, messages of the answer), or one text."""
    given = row.model_dump(exclude_none=True, include=set(Row.model_fields))
    if "text" not in given:
        return conversations(given)
    if len(given) > 1:
        raise Reject("too_much", "text stands for a whole conversation, so nothing else may stand beside it")
    return [given["text"]]


def readable(errors):
    """pydantic's findings, without what was sent."""
    found = dict.fromkeys(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in errors)
    return "; ".join(list(found)[:4])[:600]


# %% The application
def make_metrics(waiting):
    """(Prometheus registry, metrics by name); `waiting` counts the conversations that are accepted and unanswered."""
    prometheus_client.disable_created_metrics()
    registry = prometheus_client.CollectorRegistry()
    kinds = (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram, prometheus_client.Summary)
    counter, gauge, histogram, summary = (partial(kind, namespace="reward", registry=registry) for kind in kinds)
    gauge("waiting_conversations", "Conversations accepted and not yet answered.").set_function(waiting)
    return registry, {
        "requests": counter("requests", "Requests by path and status; 499: the client left.", ["path", "status"]),
        "seconds": histogram("request_seconds", "Seconds from first byte to answer.", ["path"]),
        "batches": counter("batches", "Forward batches."),
        "computed": counter("computed_tokens", "Tokens computed; shared prompts once."),
        "tokens": counter("tokens", "Tokens of the scored conversations."),
        "truncated": counter("truncated", "Conversations cut to the length limit."),
        "completed": counter("completed", "Texts whose end of turn had to be added."),
        "score": summary("score", "Raw rewards: how many, and their sum."),
    }


def make_app(model, tokenizer, reward, args, token=""):
    """The ASGI application: a Gate around FastAPI."""
    max_length = args.max_length or reward.get("max_length", 2048)
    template, scaling, name = Template(tokenizer), reward.get("scaling"), Path(args.model).name
    batcher, encoding, busy = Batcher(model, args.batch_tokens), ThreadPoolExecutor(1, "encoding"), 0
    registry, metrics = make_metrics(lambda: busy)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        loop = asyncio.get_running_loop()
        scoring = loop.create_task(batcher.run(metrics))
        if gate.server:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, gate.stop)
        yield
        scoring.cancel()

    app = FastAPI(title="reward", description=__doc__, version=RENDERED_BY.split(":")[0], lifespan=lifespan)

    def prepare(number, conversation):
        """-> (ids, tokens cut, what tells prompts apart, characters of the answer, whether it was completed)"""
        try:
            if isinstance(conversation, str):
                text, prompt, answer, completed = template.read(conversation)
                ids, cut = encode_text(text, tokenizer, max_length)
            else:
                (prompt, turns), completed = conversation, False
                ids, cut = encode(prompt + turns, tokenizer, max_length)
                prompt, answer = fingerprint(prompt), "".join(turn["content"] for turn in turns)
            if not ids:
                raise Reject("empty", "it has no tokens")
            return ids, cut, prompt, len(answer), completed
        except Exception as error:  # templates raise what they like
            reason = ": ".join(map(str, error.args))[:300] or type(error).__name__
            mend = "POST /score with messages: the server applies the template"
            raise Refused(422, f"conversation {number}: {reason}", "one that the template knows", mend) from None

    async def score(found):
        """Conversations as of conversations_of -> dict of lists: score, scaled, tokens, truncated, completed."""
        nonlocal busy
        if not 0 < len(found) <= args.queue:
            status, mend = (413, "several requests, or --queue") if found else (422, json.dumps(ASKED))
            raise Refused(status, f"{len(found)} conversations", f"1 to {args.queue}", mend)
        if busy + len(found) > args.queue:
            waiting = f"{busy} conversations wait already"
            raise Refused(429, waiting, f"at most {args.queue}", "again in a second", {"retry-after": "1"})

        async def work():
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(encoding, lambda: [prepare(*pair) for pair in enumerate(found, 1)])
            return prepared, await batcher.score([p[0] for p in prepared], [p[2] for p in prepared])

        busy += len(found)
        try:
            prepared, rewards = await asyncio.wait_for(work(), args.timeout)
        except asyncio.TimeoutError:
            late = f"no score within {args.timeout:g} s"
            raise Refused(504, late, "less to do at a time", "fewer conversations, or --timeout") from None
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise Refused(500, f"scoring failed: {str(error)[:200]}", "a score", "lower --batch-tokens") from None
        finally:
            busy -= len(found)
        ids, cut, _, lengths, completed = zip(*prepared)
        result = {
            "score": rewards,
            "scaled": apply_scaling(rewards, scaling, lengths) if scaling else [None] * len(rewards),
            "tokens": [len(i) for i in ids],
            "truncated": [n > 0 for n in cut],
            "completed": list(completed),
        }
        for key in ("tokens", "truncated", "completed"):
            metrics[key].inc(sum(result[key]))
        for value in rewards:
            metrics["score"].observe(value)
        return result

    @app.post("/score", response_model=Scored | Rows)
    async def score_rows(request: ScoreRequest):
        if request.rows is not None and request.model_fields_set != {"rows"}:
            raise Refused(422, "rows and a row beside it", "one or the other", "only rows")
        rows = [request] if request.rows is None else request.rows
        found = []
        for number, row in enumerate(rows, 1):
            try:
                found.append(conversations_of(row))
            except Reject as reject:
                expected = "messages, or prompt and response(s), or text"
                raise Refused(422, f"row {number}: {': '.join(reject.args)}", expected, json.dumps(ASKED)) from None
        result = await score([conversation for several in found for conversation in several])
        answers, start = [], 0
        for row, several in zip(rows, found):
            part = {key: values[start : start + len(several)] for key, values in result.items()}
            part["scaled"] = part["scaled"] if scaling else [None]
            one = row.responses is None
            answers.append({key: values[0] if one or values == [None] else values for key, values in part.items()})
            start += len(several)
        return JSONResponse(answers[0] if request.rows is None else {"rows": answers})

    @app.post("/get_reward", response_model=Rewards)
    async def get_reward(request: GetRewardRequest):
        result = await score([request.query] if isinstance(request.query, str) else request.query)
        rewards = result["scaled" if args.scaled else "score"]
        logs = {"raw_reward": result["score"], **{k: list(map(float, result[k])) for k in ("truncated", "completed")}}
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": logs})

    @app.post("/classify", response_model=Classes)
    async def classify(request: ClassifyRequest):
        if (request.input is None) == (request.messages is None):
            raise Refused(422, "not one of input and messages", "one of them", '{"input": "text"}')
        try:
            found = conversations_of(request) if request.messages is not None else request.input
        except Reject as reject:
            raise Refused(422, ": ".join(reject.args), "role and content", "POST /score") from None
        result = await score([found] if isinstance(found, str) else found)
        rewards, tokens = result["scaled" if args.scaled else "score"], sum(result["tokens"])
        data = [{"index": i, "label": "reward", "probs": [x], "num_classes": 1} for i, x in enumerate(rewards)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        head = {"id": f"classify-{os.urandom(8).hex()}", "object": "list", "created": int(time.time()), "model": name}
        return JSONResponse({**head, "data": data, "usage": usage})

    @app.get("/health")
    async def health():
        return {"status": "ok", "model": name, "max_length": max_length, "scaling": bool(scaling)}

    @app.get("/metrics", response_class=Response)
    async def show_metrics():
        return Response(prometheus_client.generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.exception_handler(Refused)
    async def refused(_, error):
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        typed = "json" in request.headers.get("content-type", "")
        expected = f"what /docs says of {request.url.path}" if typed else "the header Content-Type: application/json"
        return Refused(422, readable(error.errors()), expected, json.dumps(ASKED)).response()

    @app.exception_handler(HTTPException)
    async def http(request, error):
        received = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return Refused(error.status_code, received, ", ".join(PATHS), "GET /docs", error.headers).response()

    gate = Gate(app, args, token, metrics)
    return gate


# %% Starting
def open_socket(args, token):
    """A socket at the address, which is loopback where no token is set."""
    try:
        loopback = args.host == "localhost" or ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not token:
        received = f"--host {args.host} without a token: everyone there could use the model"
        refuse(received, "REWARD_TOKEN in the environment or in .env", "--host 127.0.0.1, or a token", 2)
    if token and len(token) < 16:
        mend = 'python -c "import secrets; print(secrets.token_urlsafe())"'
        refuse("a REWARD_TOKEN that can be guessed", "at least 16 characters", mend, 2)
    try:
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        return socket.create_server((args.host, args.port), family=family, backlog=2048)
    except OSError as error:
        refuse(f"--host {args.host} --port {args.port}: {error.strerror}", "a free address", "--port 0", 2)


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    token = os.environ.get("REWARD_TOKEN", "")
    listening = open_socket(args, token)
    model, tokenizer, reward = load_reward_model(args.model, args.dtype)
    if args.scaled and not reward.get("scaling"):
        refuse(f"--scaled, and {args.model} has no scaling", "one in its reward.json", "python run/scale.py")
    asked = [{"role": "user", "content": ASKED["prompt"]}]
    answers = [[*asked, {"role": "assistant", "content": answer}] for answer in ASKED["responses"]]
    groups = [[encode(messages, tokenizer, 512)[0] for messages in some] for some in (answers, answers[::-1])]
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    print(try_packing(model, groups, args.packing, tolerance), file=sys.stderr)
    gate = make_app(model, tokenizer, reward, args, token)
    options = {"http": Protocol, "ws": "none", "access_log": False, "server_header": False, "log_level": "warning"}
    gate.server = uvicorn.Server(uvicorn.Config(gate, lifespan="on", timeout_keep_alive=60, **options))
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"serving {args.model} on http://{host}:{listening.getsockname()[1]}; Ctrl+C stops it", flush=True)
    gate.server.run(sockets=[listening])


# %% Run
{{shared("run")}}
