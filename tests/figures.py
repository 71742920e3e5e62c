"""The README's tables of speed, from benchmarks/results/*.json: `make generate` writes them, so they cannot differ."""

import json
import re
from inspect import getclosurevars
from pathlib import Path

from schemas import ENTRIES
from shapes import SHAPES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- speed: written by make generate from benchmarks/results -->\n", "<!-- end of speed -->\n"
SETS = {
    "ultrafeedback": "UltraFeedback-shaped, at most 1024 tokens",
    "long": "long shared context, at most 2048 tokens",
}


def table(head, rows):
    return "\n".join(["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)])


def training(found):
    """Pairs per second of the train script against TRL."""
    rows = []
    for name, speed in found["pairs_per_second"].items():
        each = [f"{speed[v]:.2f}" for v in ("trl default", "trl, by length", "packed")]
        shared = f"{speed['packed and shared']:.2f} (**{found['speedup'][name]:.1f}×**)"
        rows.append([SETS[name], *each, shared, f"{found['relative_loss_difference'][name]:.0e}".replace("e-0", "e-")])
    head = [
        "training, pairs/s",
        "TRL default",
        "TRL, sorted by length",
        "packed",
        "packed, prompts shared",
        "relative loss difference",
    ]
    return table(head, rows)


def scoring(found):
    """Answers per second of the score script against the plain padded loop."""
    rows = []
    for name, speed in found["answers_per_second"].items():
        each = [f"{speed[v]:.2f}" for v in ("plain", "sorted")]
        shared = f"{speed['score']:.2f} (**{found['speedup'][name]['score']:.1f}×**)"
        rows.append([SETS[name], *each, shared, f"{found['largest_difference'][name]:.0e}".replace("e-0", "e-")])
    head = [
        f"scoring, answers/s, {found['k']} to a prompt",
        "padded, input order",
        "padded, sorted by length",
        "`score`",
        "largest difference",
    ]
    return table(head, rows)


def serving(found):
    """Requests per second of the server under load."""
    rows = []
    for name, variant in (("one a forward", "one request per forward pass"), ("batched", "batched")):
        told, speed = found[name], sorted(found[name]["per_second"])
        middle = (speed[(len(speed) - 1) // 2] + speed[len(speed) // 2]) / 2
        rows.append(
            [variant, f"{middle:.0f}", f"{told['p50']:.2f} s", f"{told['p95']:.2f} s", told["wrong"], told["lost"]]
        )
    rows[1][1] += f" (**{found['ratio']:.1f}×**)"
    head = [f"server, {found['clients']} clients", "requests/s", "median latency", "95 % latency", "wrong", "lost"]
    return table(head, rows)


KINDS = {"train_speed": training, "score_speed": scoring, "serve_load": serving, "gpu": training}


def speed():
    """The tables, each with its command, machine and date."""
    parts = []
    for kind, write in KINDS.items():
        for path in sorted(RESULTS.glob(f"{kind}*.json")):
            found = json.loads(path.read_text())
            size = f", {found['parameters'] / 1e6:.1f}M parameters" if "parameters" in found else ""
            command = found.get("command", f"python benchmarks/{kind}.py")
            told = f"`{command}` ([result](benchmarks/results/{path.name}): {found['machine']}{size},"
            parts.append(f"{write(found)}\n\n{told} {found['date']})\n")
    return "\n".join(parts)


def readme():
    """The README with the tables in their place and the number of schemas that are converted."""
    refused = sum("refuse" in getclosurevars(entry).nonlocals["mapping"] for entry in ENTRIES.values())
    known = len(ENTRIES) - refused + len(SHAPES)
    text = re.sub(r"\d+(?= public schemas)", str(known), (ROOT / "README.md").read_text())
    before, rest = text.split(START)
    return before + START + speed() + END + rest.split(END)[1]
