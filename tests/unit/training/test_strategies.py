"""Losses and priors of the strategies, on numbers small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from continual_contract.errors import UsageError
from continual_workers.training.strategies import STRATEGIES, Step, adjustment_of, logit_gap, strategy
from torch.nn import functional


def step(replay: bool = True, parent: torch.Tensor | None = None) -> Step:
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(4, 3, generator=generator), torch.randn(6, 3, generator=generator)
    return Step(
        new=new,
        new_labels=torch.tensor([0, 1, 0, 1]),
        replay=old if replay else None,
        replay_labels=torch.tensor([2, 2, 1, 0, 2, 1]) if replay else None,
        parent_new=parent,
        parent_replay=parent,
        known=torch.tensor([0, 1]),
        adjustment=None,
    )


def test_the_prior_is_the_mean_of_both_batches_priors() -> None:
    """New data of class 1 only beside a balanced buffer of 0 and 1: prior 1/4 and 3/4."""
    adjustment = adjustment_of(np.array([0, 10]), np.array([5, 5]))
    assert adjustment is not None
    assert np.exp(adjustment) == pytest.approx([0.25, 0.75])


def test_tau_scales_the_adjustment() -> None:
    """τ = 2 doubles the logarithms."""
    once, twice = (adjustment_of(np.array([1, 9]), None, tau) for tau in (1.0, 2.0))
    assert once is not None
    assert twice == pytest.approx(2 * once)


def test_balanced_classes_are_not_adjusted() -> None:
    """Below a ratio of two nothing is changed."""
    assert adjustment_of(np.array([10, 12, 9]), np.array([7, 7, 7])) is None
    assert adjustment_of(np.array([0, 0]), None) is None


def test_a_class_without_samples_keeps_a_finite_logit() -> None:
    """An absent class gets half a sample's share, so its logit is not pushed to minus infinity."""
    adjustment = adjustment_of(np.array([10, 10, 0]), None)
    assert adjustment is not None
    assert np.isfinite(adjustment).all()
    assert adjustment[2] < adjustment[0]


def test_der_is_replay_plus_the_weighted_logit_gap() -> None:
    """loss(der++) − loss(er) = 0.3 · mean squared gap over the known classes; 0 when nothing has moved."""
    parent = torch.zeros(6, 3)
    gap = strategy("der++").loss(step(parent=parent)) - strategy("er").loss(step())
    moved = step()
    assert moved.replay is not None
    assert gap == pytest.approx(0.3 * float((moved.replay[:, :2] ** 2).mean()), rel=1e-5)
    assert logit_gap(parent, parent, torch.tensor([0, 1])) == 0


def test_er_ace_keeps_new_data_among_their_own_classes() -> None:
    """The new batch holds classes 0 and 1: the logit of class 2 gets no gradient from it."""
    base = step()
    new = base.new.clone().requires_grad_()
    asymmetric = Step(new, base.new_labels, base.replay, base.replay_labels, None, None, base.known, None)
    strategy("er-ace").loss(asymmetric).backward()
    assert new.grad is not None
    assert new.grad[:, 2].abs().max() == 0
    assert new.grad[:, 0].abs().max() > 0


def test_without_a_past_every_strategy_is_plain_cross_entropy() -> None:
    """An empty buffer and no parent leave cross-entropy on the new data."""
    alone = step(replay=False)
    plain = float(functional.cross_entropy(alone.new, alone.new_labels))
    assert all(float(s.loss(alone)) == pytest.approx(plain) for s in STRATEGIES.values())


@pytest.mark.parametrize(("name", "why"), [("sgd", "unknown")])
def test_a_missing_strategy_is_said_so(name: str, why: str) -> None:
    """Field, value and the list of those that are there."""
    with pytest.raises(UsageError, match=rf"retraining\.strategy.*{why}.*{name}.*der\+\+"):
        strategy(name)
