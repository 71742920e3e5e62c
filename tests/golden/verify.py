# /// script
# requires-python = ">=3.10"
# dependencies = ["python-dotenv>=1.0"]
# ///
"""Verify: does a running server return the scores that the export recorded? If not, say how they differ.

Needs neither torch nor a GPU. The end of --url decides what is sent:
  …/score          this skill's server: messages
  …/get_reward     OpenRLHF's shape: the conversation as text
  …/classify       vLLM: the conversation as text, without another BOS
  …/v1/embeddings  SGLang: the text without its BOS, which SGLang adds (its own /v1/classify makes every reward 1.0)
REWARD_TOKEN (in the environment or .env) is sent as a bearer token.
"""

import argparse
import json
import math
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

try:
    from dotenv import find_dotenv, load_dotenv
except ImportError as lacking:
    print(f"error: {lacking}\n  expected: the packages named above\n  try: uv run {__file__}", file=sys.stderr)
    raise SystemExit(5) from None

RENDERED_BY = "reward 0.1.0: reward.py render verify"
AT_ONCE = 16  # conversations a request


# %% Parameters
def refuse(received, expected, mend, code=3):
    """Stop with one readable message. Exit codes: 2 wrong use, 3 data refused, 5 the environment lacks something."""
    print(f"error: {received}\n  expected: {expected}\n  try: {mend}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def within(kind, low, high=float("inf")):
    """An argparse type: a number between low and high, both included."""

    def number(text):
        if low <= (value := kind(text)) <= high:
            return value
        raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")

    return number


def parameters(argv=None):
    """What the recipe chose; each can be set again on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--export", default="export", help="Folder written by the export stage.")
    add("--url", default="http://127.0.0.1:8000/classify", help="Ends in score, get_reward, classify or v1/embeddings.")
    add("--out", default="verify.json", help="File for the comparison, score by score.")
    add(
        "--tolerance",
        type=within(float, 0, 1),
        default=0,
        help="Relative difference to accept; 0: 1e-3, or 0.1 in bfloat16.",
    )
    add("--timeout", type=within(float, 0.1, 3600), default=60, help="Seconds to wait for an answer.")
    return parser.parse_args(argv)


# %% Asking
class NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token goes to the server that was named and to no other."""

    def redirect_request(self, *_):
        return None


def post(url, body, timeout):
    """JSON in, JSON out; refuses what is no answer."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("REWARD_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    expected = "a running server with this path"
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        refuse(f"{url} says {error.code}: {error.read(500).decode('utf-8', 'replace')}", expected, "another --url", 4)
    except (OSError, ValueError) as error:  # no server, or no JSON
        refuse(f"{url}: {error}", expected, "start the server, or another --url", 4)


SHAPES = {  # end of the URL: (conversations and BOS -> request, answer -> scores)
    "/score": (
        lambda some, bos: {"rows": [{"messages": c["messages"]} for c in some]},
        lambda answer: [row["score"] for row in answer["rows"]],
    ),
    "/get_reward": (
        lambda some, bos: {"query": [c["text"] for c in some]},
        lambda answer: answer["rewards"],
    ),
    "/classify": (
        lambda some, bos: {"input": [c["text"] for c in some], "add_special_tokens": False},
        lambda answer: [row["probs"][-1] for row in answer["data"]],
    ),
    "/v1/embeddings": (
        lambda some, bos: {"model": "default", "input": [c["text"].removeprefix(bos) for c in some]},
        lambda answer: [row["embedding"][-1] for row in answer["data"]],
    ),
}


def ask(args, verify):
    """Scores (floats) of all conversations, in order."""
    make, read = next((shape for end, shape in SHAPES.items() if args.url.endswith(end)), (None, None))
    if not make or not args.url.startswith(("http://", "https://")):
        refuse(f"--url {args.url}", "http(s)://HOST:PORT and one of " + ", ".join(SHAPES), "--url …/classify", 2)
    scores, rows = [], verify["conversations"]
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        answer = post(args.url, make(some, verify["bos"]), args.timeout)
        try:
            got = [float(x) for x in read(answer)]
        except (KeyError, IndexError, TypeError, ValueError):
            refuse(f"{args.url} answers {str(answer)[:200]}", "an answer of this path's shape", "another --url", 4)
        if len(got) != len(some):
            refuse(f"{len(got)} scores for {len(some)} conversations", "one each", "another --url", 4)
        scores += got
    return scores


# %% Comparing
def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def is_sigmoid(got, wanted):
    """Whether scores lie nearer to the sigmoid of the right ones than to these (near 0.66 the two are much alike)."""
    off, off_sigmoid = (max(abs(a - f(b)) for a, b in zip(got, wanted)) for f in (float, sigmoid))
    return off_sigmoid < 0.02 and off_sigmoid < off / 4


def differences(got, wanted):
    """|got − wanted|, relative where |wanted| is above 1."""
    return [abs(a - b) / max(1, abs(b)) if math.isfinite(a) else math.inf for a, b in zip(got, wanted)]


def diagnosis(got, wanted, tolerance):
    """Why scores differ, as far as the numbers tell: (what the server does, what to try)."""

    def agree(other):
        return max(differences(got, other)) <= tolerance

    n = len(wanted)
    mean_got, mean_wanted = sum(got) / n, sum(wanted) / n
    if max(got) - min(got) < 1e-6 and n > 1:
        one = "softmax over the one label" if abs(got[0] - 1) < 1e-6 else "the same for all"
        return f"every score is {got[0]:.4g} ({one})", "SGLang: …/v1/embeddings; vLLM: the config of the export"
    if is_sigmoid(got, wanted):
        mend = "serve the export folder (problem_type regression), or send use_activation false"
        return "the scores are a sigmoid of the right ones", mend
    if agree([x + mean_got - mean_wanted for x in wanted]):
        mend = "rankings hold; a newer SGLang has no bias in the head"
        return f"the scores are {mean_got - mean_wanted:+.4g} off, all alike", mend
    spread = sum((b - mean_wanted) ** 2 for b in wanted)
    slope = sum((a - mean_got) * (b - mean_wanted) for a, b in zip(got, wanted)) / spread if spread else 0
    if slope and agree([mean_got + slope * (b - mean_wanted) for b in wanted]):
        return f"the scores are on another scale: {slope:.4g} times the right ones", "the server without --scaled"
    if sum(d <= tolerance for d in differences(got, wanted)) * 2 > n:
        return "most scores agree, some do not", f"see {len(got)} of them in the file: length limit, unicode, thinking?"
    return "the scores have no simple relation to the right ones", "the same folder, template, and BOS exactly once?"


def main(args):
    load_dotenv(find_dotenv(usecwd=True))
    try:
        verify = json.loads((Path(args.export) / "verify.json").read_text())
    except (OSError, ValueError) as error:
        refuse(f"no verify.json in {args.export}: {error}", "a folder written by export.py", "python run/export.py")
    tolerance = args.tolerance or (1e-3 if verify["dtype"] == "float32" else 0.1)
    wanted = [c["score"] for c in verify["conversations"]]
    got = ask(args, verify)
    off = differences(got, wanted)
    rows = [
        {"messages": c["messages"], "expected": b, "got": a, "off": d}
        for c, a, b, d in zip(verify["conversations"], got, wanted, off)
    ]
    agree, worst = sum(d <= tolerance for d in off), max(off)
    result = {"url": args.url, "agree": agree, "of": len(off), "worst": worst, "tolerance": tolerance, "rows": rows}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    beside = Path(args.out + ".partial")
    beside.write_text(json.dumps(result, indent=1))
    os.replace(beside, args.out)
    told = f"{agree} of {len(off)} scores agree with the export within {tolerance:g}; the worst is {worst:.2g} off"
    if agree < len(off) or is_sigmoid(got, wanted):
        why, mend = diagnosis(got, wanted, tolerance)
        refuse(f"{args.url}: {told}: {why}", f"all within {tolerance:g} (relative above 1)", mend, 4)
    print(f"{args.url}: {told}")


# %% Run
if __name__ == "__main__":
    try:
        main(args := parameters())
    except KeyboardInterrupt:
        again = "goes on from what is saved" if getattr(args, "resume", False) else "begins anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        raise SystemExit(130) from None
