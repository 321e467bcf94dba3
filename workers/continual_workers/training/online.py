"""Learning from every batch as it arrives, once, with no idea of where one experience ends and the next begins.

Each batch gets a few steps of the same loop a Job runs, beside replayed samples; then it is offered to the buffer and gone.
The served weights are the moving average, which here is never restarted, and which is also the teacher whose logits are
held on replayed images (Arani et al. 2022, arXiv 2201.12604): no frozen parent exists between two batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from continual_contract.artifacts import Normalization
from torch import nn

from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.experience import Past, Recipe, first_task, following_task
from continual_workers.training.learner import LearnState, Task, learn
from continual_workers.training.models import Arrays, arrays_of, load_arrays
from continual_workers.training.samples import Samples

BATCH = 8
"""Samples that arrive together."""
PASSES = 3
"""Steps a batch gets."""
RATE = 0.4
POLICY = "class-balanced-reservoir"
"""By quota alone, offered eight at a time, a class would remember little but its newest samples."""
HEAD_START = 50
"""The average begins as if it had seen so many steps: it follows slowly from the first batch on."""


@dataclass(slots=True)
class OnlineLearner:
    """A network that is taught batch by batch. `net` and `teacher` are two networks of one architecture.

    The recipe's epochs are the passes over each batch, its first rate is the rate; there is nothing to choose it by.
    """

    recipe: Recipe
    net: nn.Module
    teacher: nn.Module
    buffer: ReplayBuffer
    normalization: Normalization
    state: LearnState
    batches: int = 0

    @classmethod
    def fresh(
        cls, recipe: Recipe, net: nn.Module, teacher: nn.Module, buffer: ReplayBuffer, normalization: Normalization
    ) -> OnlineLearner:
        start = arrays_of(net)
        state = LearnState(recipe.rates[0], 0, 0, 0, math.inf, start, start)
        return cls(recipe, net, teacher, buffer, normalization, state)

    @property
    def served(self) -> Arrays:
        """The averaged weights: what answers now."""
        return self.state.ema

    def observe(self, batch: Samples) -> None:
        """Learn from a batch and remember of it what the policy keeps. Raises DivergedError when a loss is not finite."""
        task = replace(self._task(batch), average_from=HEAD_START, rates=self.recipe.rates[:1])
        before = replace(self.state, rate=self.recipe.rates[0], attempt=0, epoch=0, start_loss=math.inf, rows=())
        self.state = learn(task, before, lambda _: None)
        self.buffer.offer(batch.images, batch.labels, 0, self.recipe.policy)
        self.batches += 1

    def _task(self, batch: Samples) -> Task:
        seed = int(np.random.default_rng([self.recipe.seed, self.batches]).integers(2**31))
        recipe = replace(self.recipe, seed=seed, mixup=0.0 if self.recipe.mixup is None else self.recipe.mixup)
        if not len(self.buffer):
            return first_task(recipe, self.net, batch, batch.take([]), self.buffer, self.normalization)
        load_arrays(self.teacher, self.state.ema)
        past = Past(self.teacher, self.buffer)
        return following_task(recipe, self.net, past, batch, batch.take([]), self.normalization, lambda: batch)
