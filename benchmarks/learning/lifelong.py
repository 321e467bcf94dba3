"""Streams learned with the product's own trainer: one Job per experience, or batch by batch.

Nothing here learns: tasks, loop, buffer and averages are those of `continual_workers.training`. A test holds one
experience learned here equal, weight for weight, to the same experience as a Job with its store and its manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from continual_contract.artifacts import Augmentation, Normalization
from continual_workers.training import models
from continual_workers.training.buffer import POLICIES, ReplayBuffer
from continual_workers.training.experience import (
    Past,
    Recipe,
    bootstrap_epochs,
    first_task,
    following_task,
    importance_after,
    let_go,
    remember,
)
from continual_workers.training.learner import NEW_BATCH, RATES, Task, learn, predict_logits, set_up_torch
from continual_workers.training.models import Arrays, load_arrays
from continual_workers.training.online import BATCH, PASSES, RATE, OnlineLearner
from continual_workers.training.online import POLICY as ONLINE_POLICY
from continual_workers.training.samples import Images, Labels, Samples
from continual_workers.training.stats import batches_of, normalization_of
from continual_workers.training.strategies import strategy
from torch import nn

from benchmarks.learning.measures import lifelong, worst_case_accuracy
from benchmarks.learning.worlds import Experience, World, long_tailed, parts, stream, union

AUGMENTATION = Augmentation(shift_pixels=0.4, rotate_degrees=5, scale_percent=5)
"""For 8x8; shifts grow with the image."""
CPU = torch.device("cpu")
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """A finished experience: what is served, its buffer, what mattered to it; `restarts` counts divergences."""

    weights: Arrays
    buffer: ReplayBuffer
    normalization: Normalization
    importance: Arrays
    restarts: int = 0


def augmentation(world: World, augment: bool) -> Augmentation:
    if not augment:
        return Augmentation()
    return AUGMENTATION.model_copy(update={"shift_pixels": 0.4 * world.shape.height / 8})


def network(world: World, seed: int, weights: Arrays | None = None) -> nn.Module:
    net = models.build(world.architecture, world.shape, len(parts(world)[0].classes), seed)
    if weights is not None:
        load_arrays(net, weights)
    return net


def recipe(world: World, seed: int, options: Mapping[str, Any]) -> Recipe:
    """A recipe from a unit's options; what is not given is the product's default."""
    return Recipe(
        strategy(options.get("strategy", "der++")),
        epochs=options.get("epochs", 20),
        augmentation=augmentation(world, options.get("augment", True)),
        seed=seed,
        policy=POLICIES[options.get("policy", "class-quota")],
        rates=tuple(options.get("rates", RATES)),
        new_batch=options.get("new_batch", NEW_BATCH),
        tau=options.get("tau"),
        mixup=options.get("mixup"),
    )


def bootstrap(world: World, how: Recipe, new: Samples, capacity: int, *, longer: bool = False) -> Version:
    """The first experience, from scratch; `longer`: with a Job's least number of steps, else the declared epochs only."""
    normalization = normalization_of(batches_of(new.images), new.images.shape[-1])
    buffer = ReplayBuffer.empty(capacity, world.shape, len(new.classes), how.seed)
    net = network(world, how.seed)
    task = first_task(how, net, new, new.take([]), buffer, normalization)
    if longer:
        task = replace(task, epochs=bootstrap_epochs(how.epochs, len(new), task.new_batch))
    return _finished(task, how, buffer, new, 0)


def next_version(world: World, how: Recipe, before: Version, fresh: Samples, past: list[Samples]) -> Version:
    """A later experience, as a Job puts it together; `past` are the experiences before, which only `joint` may see."""
    how = let_go(how, before.buffer)
    parent = network(world, how.seed, before.weights)
    net = network(world, how.seed, before.weights if how.strategy.starts_from_parent else None)
    task = following_task(
        how, net, Past(parent, before.buffer, before.importance), fresh, fresh.take([]), before.normalization,
        lambda: together([*past, fresh]),
    )  # fmt: skip
    if not how.strategy.starts_from_parent:
        task = replace(task, epochs=bootstrap_epochs(how.epochs, len(task.new), task.new_batch))
    return _finished(task, how, before.buffer, fresh, before.buffer.next_experience)


def _finished(task: Task, how: Recipe, buffer: ReplayBuffer, fresh: Samples, experience: int) -> Version:
    state = learn(task, None, lambda _: None)
    load_arrays(task.net, state.ema)

    def logits_of(images: Images) -> Any:
        return predict_logits(task.net, images, task.normalization, CPU)

    after = remember(buffer, fresh, experience, logits_of, how.policy)
    importance = importance_after(task, task.net, how)
    return Version(state.ema, after, task.normalization, importance, state.attempt)


def together(samples: list[Samples]) -> Samples:
    images, labels = np.concatenate([s.images for s in samples]), np.concatenate([s.labels for s in samples])
    return Samples(images, labels, samples[0].classes)


def predictions(world: World, weights: Arrays, normalization: Normalization, images: Images) -> Labels:
    predicted: Labels = predict_logits(network(world, 0, weights), images, normalization, CPU).argmax(axis=1)
    return predicted


def scorer(world: World, normalization: Normalization) -> Callable[[Arrays, list[Experience]], list[float]]:
    """Accuracies on the tests of some experiences; one network serves all calls."""
    net = network(world, 0)

    def score(weights: Arrays, experiences: list[Experience]) -> list[float]:
        load_arrays(net, weights)
        chosen = [predict_logits(net, e.test.images, normalization, CPU).argmax(axis=1) for e in experiences]
        return [float((c == e.test.labels).mean()) for c, e in zip(chosen, experiences, strict=True)]

    return score


def job(world: World, seed: int, *, kind: str, capacity: int = 200, **options: Any) -> Result:
    """One Job per experience; accuracies after each."""
    set_up_torch(1)
    experiences = stream(world, kind, seed)
    version, after, restarts, past = None, [], 0, []
    for number, experience in enumerate(experiences):
        how = recipe(world, seed * 100 + number, options)
        version = (
            bootstrap(world, how, experience.train, capacity)
            if version is None
            else next_version(world, how, version, experience.train, past)
        )
        past.append(experience.train)
        restarts += version.restarts
        after.append(scorer(world, version.normalization)(version.weights, experiences))
    return {**summary(after, world), "after": after, "restarts": restarts}


def summary(after: list[list[float]], world: World) -> Result:
    figures = lifelong(after, 1 / len(parts(world)[0].classes))
    return {name: getattr(figures, name) for name in figures.__slots__}


def joint(world: World, seed: int, *, kind: str, **options: Any) -> Result:
    """Everything at once from scratch: the ceiling of a stream."""
    set_up_torch(1)
    experiences = stream(world, kind, seed)
    version = bootstrap(world, recipe(world, seed * 100, options), union(experiences), 0)
    after = scorer(world, version.normalization)(version.weights, experiences)
    return {"acc": float(np.mean(after)), "after": [after], "restarts": version.restarts}


def online(world: World, seed: int, *, kind: str, capacity: int = 200, **options: Any) -> Result:
    """Every batch arrives once and gets `PASSES` steps; the served average is scored after every `every`th batch."""
    set_up_torch(1)
    experiences = stream(world, kind, seed)
    size = options.get("batch", BATCH)
    given = {"epochs": PASSES, "rates": (RATE,), "new_batch": size, "tau": 0.0, "policy": ONLINE_POLICY, **options}
    how = recipe(world, seed, given)
    normalization = Normalization(mean=(0.5,) * world.shape.channels, std=(0.5,) * world.shape.channels)
    buffer = ReplayBuffer.empty(capacity, world.shape, len(parts(world)[0].classes), seed)
    learner = OnlineLearner.fresh(how, network(world, seed), network(world, seed), buffer, normalization)
    score, trace = scorer(world, normalization), []
    after = []
    for number, experience in enumerate(experiences):
        order = np.random.default_rng([seed, 3, number]).permutation(len(experience.train))
        for start in range(0, len(order), size):
            learner.observe(experience.train.take(order[start : start + size]))
            if learner.batches % options.get("every", 1) == 0:
                trace.append((number, score(learner.served, experiences[: number + 1])))
        after.append(score(learner.served, experiences))
    lowest = worst_case_accuracy(trace, len(experiences))
    return {**summary(after, world), "after": after, "wc_acc": lowest, "first": [t[1][0] for t in trace]}


def imbalance(world: World, seed: int, *, ratio: float, capacity: int = 0, **options: Any) -> Result:
    """Recall per class of a long-tailed set: learned at once, or (with a buffer) as a stream of five experiences."""
    set_up_torch(1)
    train, test = parts(world)
    tailed = long_tailed(train, ratio, seed)
    if capacity:
        version = _tailed_stream(world, seed, tailed, capacity, options)
    else:
        version = bootstrap(world, recipe(world, seed * 100, options), tailed, 0, longer=True)
    chosen = predictions(world, version.weights, version.normalization, test.images)
    recalls = [float((chosen[test.labels == c] == c).mean()) for c in range(len(test.classes))]
    order = np.argsort(-tailed.counts(), kind="stable")
    return {
        "worst": min(recalls), "balanced": float(np.mean(recalls)), "samples": len(tailed),
        "by_frequency": [recalls[c] for c in order], "rarest": int(tailed.counts().min()),
    }  # fmt: skip


def _tailed_stream(world: World, seed: int, tailed: Samples, capacity: int, options: Mapping[str, Any]) -> Version:
    """The tailed set in five experiences of two classes each."""
    order = np.random.default_rng([seed, 1]).permutation(len(tailed.classes))
    version: Version | None = None
    for number, classes in enumerate(np.array_split(order, 5)):
        fresh = tailed.take(np.flatnonzero(np.isin(tailed.labels, classes)))
        how = recipe(world, seed * 100 + number, options)
        version = (
            bootstrap(world, how, fresh, capacity) if version is None else next_version(world, how, version, fresh, [])
        )
    assert version is not None
    return version
