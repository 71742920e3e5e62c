"""Each loss against its formula written out, its gradient against the closed form, and TRL's own where TRL has it."""

import math

import pytest
import torch
from conftest import SKILL

source = (SKILL / "templates" / "shared" / "pair_loss.py").read_text()
exec(compile(source, "pair_loss.py", "exec"))

CHOSEN = [1.2, -0.3, 4.0, 0.0, -30.0]
REJECTED = [0.7, 0.9, -2.0, 0.0, 40.0]
MARGIN = [0.5, 1.0, 2.0, 0.0, 3.0]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > -30 else x - math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


FORMULAS = {
    "bradley-terry": ({}, False, lambda c, r, m: -log_sigmoid(c - r)),
    "margin": ({}, True, lambda c, r, m: -log_sigmoid(c - r - m)),
    "scaled": ({"kind": "scaled"}, True, lambda c, r, m: -m * log_sigmoid(c - r)),
    "smoothed": ({"smoothing": 0.1}, False, lambda c, r, m: -0.9 * log_sigmoid(c - r) - 0.1 * log_sigmoid(r - c)),
    "centered": ({"center": 0.01}, False, lambda c, r, m: -log_sigmoid(c - r) + 0.01 * (c + r) ** 2),
}
SLOPES = {  # d loss / d chosen
    "bradley-terry": lambda c, r, m: sigmoid(c - r) - 1,
    "margin": lambda c, r, m: sigmoid(c - r - m) - 1,
    "scaled": lambda c, r, m: m * (sigmoid(c - r) - 1),
    "smoothed": lambda c, r, m: sigmoid(c - r) - 0.9,
    "centered": lambda c, r, m: sigmoid(c - r) - 1 + 0.02 * (c + r),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_loss_and_gradient(name):
    options, takes_margin, formula = FORMULAS[name]
    chosen, rejected = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (CHOSEN, REJECTED))
    margin = torch.tensor(MARGIN, dtype=torch.float64) if takes_margin else None
    loss = pair_loss(chosen, rejected, margin, **options)  # noqa: F821 (defined by exec)
    loss.backward()
    rows = list(zip(CHOSEN, REJECTED, MARGIN))
    assert loss.item() == pytest.approx(sum(formula(*row) for row in rows) / len(rows), rel=1e-9)
    assert chosen.grad.tolist() == pytest.approx([SLOPES[name](*row) / len(rows) for row in rows], abs=1e-9)


@pytest.mark.parametrize("margin", [False, True])
def test_trl_has_the_same(margin):
    """TRL's compute_loss on a stand-in model that returns these rewards."""
    from types import SimpleNamespace

    from trl import RewardTrainer

    logits = torch.tensor(CHOSEN + REJECTED)[:, None]
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=0.01),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": __import__("collections").defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {"margin": torch.tensor(MARGIN)} if margin else {}
    theirs = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    ours = pair_loss(*logits[:, 0].chunk(2), torch.tensor(MARGIN) if margin else None, center=0.01)  # noqa: F821
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
