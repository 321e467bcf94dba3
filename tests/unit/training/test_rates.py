"""Which learning rates a training tries: from scratch both, after a parent the first."""

from __future__ import annotations

import numpy as np
import pytest
from continual_contract.artifacts import InputShape, Normalization
from continual_workers.training import models
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.experience import Past, Recipe, first_task, following_task
from continual_workers.training.learner import RATES
from continual_workers.training.samples import Samples
from continual_workers.training.strategies import STRATEGIES, strategy

SHAPE = InputShape(height=8, width=8, channels=1)
SCALE = Normalization(mean=(0.5,), std=(0.5,))


def samples() -> Samples:
    images = np.random.default_rng(1).integers(0, 255, (20, 8, 8, 1), dtype=np.uint8)
    return Samples(images, np.arange(20) % 4, tuple("abcd"))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_continues_a_parent_takes_the_first_rate_and_what_starts_anew_tries_both(name: str) -> None:
    """A short run flatters the higher rate where a network already knows something; a fresh one has nothing to lose."""
    recipe, new = Recipe(strategy(name)), samples()
    net, parent = (models.build("mlp", SHAPE, 4, seed) for seed in (0, 1))
    past = Past(parent, ReplayBuffer.empty(10, SHAPE, 4, 0))
    task = following_task(recipe, net, past, new, new.take([]), SCALE, lambda: new)
    assert task.rates == (RATES[:1] if recipe.strategy.starts_from_parent else RATES)


def test_the_first_version_tries_both_rates() -> None:
    """Whatever the strategy: a bootstrap is from scratch."""
    new, buffer = samples(), ReplayBuffer.empty(10, SHAPE, 4, 0)
    task = first_task(Recipe(strategy("der++")), models.build("mlp", SHAPE, 4, 0), new, new.take([]), buffer, SCALE)
    assert task.rates == RATES
