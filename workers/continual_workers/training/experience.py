"""One experience: what is learned from, what is replayed, and what is remembered when it ends.

A Job, a run folder, the online learner and the benchmark all put their trainings together here, so a figure of the
benchmark is a figure of the product. Nothing is read or written: the callers bring samples, networks and buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from continual_contract.artifacts import Augmentation, Normalization
from numpy.typing import NDArray
from torch import nn

from continual_workers.training.buffer import POLICIES, ReplayBuffer, SelectionPolicy
from continual_workers.training.importance import SAMPLES, Importance, accumulated, fisher
from continual_workers.training.learner import NEW_BATCH, RATES, Task, normalized, pixels
from continual_workers.training.models import Arrays
from continual_workers.training.samples import Images, Samples
from continual_workers.training.strategies import Strategy, strategy

POLICY = POLICIES["class-quota"]
BOOTSTRAP_STEPS = 1500
"""A bootstrap takes at least this many steps: twenty epochs of a few hundred images are too few from scratch."""


WHOLE = 0.9
"""Share of all samples ever seen from which on a buffer counts as holding them all; what people had forgotten is missing in it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to learn, apart from the data: everything a resource declares or the trainer defaults to."""

    strategy: Strategy
    epochs: int = 20
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    policy: SelectionPolicy = POLICY
    rates: tuple[float, ...] = RATES
    new_batch: int = NEW_BATCH
    tau: float | None = None
    mixup: float | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What a parent hands to its child: its frozen network, its buffer, and what mattered to it."""

    parent: nn.Module
    buffer: ReplayBuffer
    importance: Arrays = field(default_factory=dict)


def first_task(
    recipe: Recipe, net: nn.Module, new: Samples, holdout: Samples, buffer: ReplayBuffer, normalization: Normalization
) -> Task:
    """The first experience: from scratch on all there is, whatever the strategy."""
    return _task(replace(recipe, strategy=strategy("joint")), net, new, holdout, buffer, normalization)


def let_go(recipe: Recipe, buffer: ReplayBuffer) -> Recipe:
    """The recipe for this past: der++ learns as er while the buffer holds all that was ever seen.

    There is nothing to forget then, and answers of a parent that knew less only hold back (`docs/decisions/0219`).
    """
    held = len(buffer) >= WHOLE * max(1, int(buffer.seen.sum()))
    return replace(recipe, strategy=strategy("er")) if held and recipe.strategy.name == "der++" else recipe


def following_task(
    recipe: Recipe,
    net: nn.Module,
    past: Past,
    fresh: Samples,
    holdout: Samples,
    normalization: Normalization,
    everything: Callable[[], Samples],
) -> Task:
    """A later experience. `net` is at its start already; `everything` gives all stored data, for who asks for it."""
    method, buffer = recipe.strategy, past.buffer
    new = fresh
    if method.data == "all":
        new = everything()
    elif method.data == "buffer":
        trial = with_fresh(buffer, fresh, recipe.policy)
        new = Samples(trial.images, trial.labels, fresh.classes)
    replayed = with_fresh(buffer, fresh, recipe.policy) if method.replays_new else buffer
    task = _task(recipe, net, new, holdout, replayed, normalization)
    rates = recipe.rates[:1] if method.starts_from_parent else recipe.rates
    return replace(task, parent=past.parent, importance=importance_of(past, normalization, recipe), rates=rates)


def _task(
    recipe: Recipe, net: nn.Module, new: Samples, holdout: Samples, buffer: ReplayBuffer, normalization: Normalization
) -> Task:
    return Task(
        net=net,
        parent=None,
        new=new,
        buffer=buffer,
        holdout=holdout,
        strategy=recipe.strategy,
        normalization=normalization,
        augmentation=recipe.augmentation,
        epochs=recipe.epochs,
        seed=recipe.seed,
        device=recipe.device,
        rates=recipe.rates,
        new_batch=recipe.new_batch,
        tau=recipe.tau,
        mixup=recipe.mixup,
    )


def importance_of(past: Past, normalization: Normalization, recipe: Recipe) -> Arrays:
    """What the parent recorded; where it recorded nothing (another strategy before), an estimate on its buffer."""
    if not recipe.strategy.anchored or past.importance or not len(past.buffer):
        return past.importance if recipe.strategy.anchored else {}
    return _fisher(past.parent, past.buffer.images, normalization, recipe)


def importance_after(task: Task, net: nn.Module, recipe: Recipe) -> Importance:
    """What the finished network's child must hold: the past's importance, faded, plus this experience's."""
    if not recipe.strategy.anchored:
        return {}
    now = _fisher(net, task.new.images, task.normalization, replace(recipe, device=torch.device("cpu")))
    return accumulated(task.importance, now, recipe.strategy.decay)


def _fisher(net: nn.Module, images: Images, normalization: Normalization, recipe: Recipe) -> Importance:
    rng = np.random.default_rng([recipe.seed, 0xF1])
    chosen = np.sort(rng.permutation(len(images))[:SAMPLES])
    net.requires_grad_(requires_grad=True)
    return fisher(net.to(recipe.device), normalized(pixels(images[chosen], recipe.device), normalization), recipe.seed)


def bootstrap_epochs(epochs: int, samples: int, batch: int) -> int:
    """The declared epochs, or as many as give a small set `BOOTSTRAP_STEPS` steps (at most three times as many)."""
    steps = max(-(-samples // batch), 1)
    return min(max(epochs, -(-BOOTSTRAP_STEPS // steps)), 3 * epochs)


def with_fresh(buffer: ReplayBuffer, fresh: Samples, policy: SelectionPolicy = POLICY) -> ReplayBuffer:
    """A copy of the buffer as it will be after this training; the original is left as it is, its generator too."""
    trial = replace(buffer, rng=np.random.default_rng(0))
    trial.rng.bit_generator.state = buffer.rng.bit_generator.state
    trial.offer(fresh.images, fresh.labels, buffer.next_experience, policy)
    return trial


def remember(
    buffer: ReplayBuffer,
    fresh: Samples,
    experience: int,
    logits_of: Callable[[Images], NDArray[np.float32]],
    policy: SelectionPolicy = POLICY,
) -> ReplayBuffer:
    """The buffer after an experience, with the finished model's logits [n, classes] for everything in it."""
    after = replace(buffer)
    after.offer(fresh.images, fresh.labels, experience, policy)
    logits = logits_of(after.images)
    after.grow_classes(logits.shape[1])
    after.store_logits(logits)
    return after
