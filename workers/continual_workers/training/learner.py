"""The training loop: epochs of SGD over new and replayed samples, guarded, averaged, resumable.

Every draw (order, replay, augmentation) comes from a generator seeded by (seed, attempt, epoch), so an epoch depends on
nothing but the state before it: a killed run continued from its last epoch ends bit-identical, and no generator state has
to be stored. On one thread the arithmetic is deterministic too.

What is served is not the last iterate but the exponential moving average of weights, d_t = (1+t)/(10+t), restarted per
training; it becomes the next parent. Gradients are clipped at 2.0: without it one seed in five diverged.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from continual_contract.artifacts import Augmentation, Normalization
from continual_contract.errors import DivergedError, UsageError
from numpy.typing import NDArray
from torch import Tensor, nn

from continual_workers.training.augment import augment, is_declared
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.importance import Anchor
from continual_workers.training.mixing import Mixing
from continual_workers.training.models import Arrays, arrays_of, load_arrays
from continual_workers.training.samples import Images, Labels, Samples, validation_split
from continual_workers.training.strategies import Step, Strategy, adjustment_of, skewed

CLIP = 2.0
RATES = (0.2, 0.4)
"""Tried from scratch. What continues a parent takes the first: a short run flatters the higher one (`docs/decisions/0225`)."""
LOWER = 0.25
"""A diverged training starts once more at this part of its rate."""
NEW_BATCH = 16
REPLAY_BATCH = 64
VALIDATION_PERCENT = 15.0
PROBE_STEPS = 60
"""Steps each rate gets before the validation samples choose between them."""
_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One epoch of the history. Accuracies are shares in 0..1; `holdout_accuracy` is only watched, never chosen by."""

    epoch: int
    loss: float
    train_accuracy: float
    holdout_accuracy: float | None
    rate: float
    attempt: int


@dataclass(frozen=True, slots=True)
class LearnState:
    """Everything a run needs to go on: what is stored after every epoch."""

    rate: float
    attempt: int
    epoch: int
    steps: int
    start_loss: float
    weights: Arrays
    ema: Arrays
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learned: a network at its start, the frozen parent, the data and the method."""

    net: nn.Module
    parent: nn.Module | None
    new: Samples
    buffer: ReplayBuffer
    holdout: Samples
    strategy: Strategy
    normalization: Normalization
    augmentation: Augmentation = field(default_factory=Augmentation)
    epochs: int = 20
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rates: tuple[float, ...] = RATES
    new_batch: int = NEW_BATCH
    replay_batch: int = REPLAY_BATCH
    tau: float | None = None
    """Strength of the logit adjustment; None: the strategy's own."""
    mixup: float | None = None
    """α of the mixing of images; None: the strategy's own."""
    importance: Arrays = field(default_factory=dict)
    """How much each parameter mattered to the past, by name; empty: nothing is held in place."""
    average_from: int = 0
    """Steps the moving average believes to have seen at its start: more make it slower to leave the parent."""


HELD_BACK = 2.0
"""What holds a network to its parent costs nothing at the start, where both are the same, and may cost as much again as the data
once it moves: an honest shift is no divergence."""
Save = Callable[[LearnState], None]
Watch = Callable[[int, Callable[[], Arrays]], None]
"""Told after every step: steps so far, and how to get the averaged weights of this moment."""


class _NotFiniteError(Exception):
    """Loss or gradient is NaN or infinite; the attempt is over."""


def set_up_torch(threads: int) -> None:
    """Deterministic kernels on `threads` threads. One thread gives the same bytes everywhere of one CPU kind.

    On a GPU the few operations without a deterministic kernel run all the same: there the first recorded digest wins.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(max(1, threads))
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def device_of(name: str) -> torch.device:
    """Raises UsageError when a GPU is wanted and none is there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is visible", field="retraining.device", value=name, remedy="use device cpu")
    return torch.device(name)


def learn(task: Task, resume: LearnState | None, save: Save, watch: Watch | None = None) -> LearnState:
    """Train to the end, from the start or from a stored state; `save` is called after every epoch.

    Raises DivergedError when the second attempt, at a quarter of the rate, diverges as well.
    """
    start = arrays_of(task.net)
    task.net.to(task.device).to(memory_format=torch.channels_last)
    if task.parent is not None:
        freeze(task.parent.to(task.device).to(memory_format=torch.channels_last))
    state = resume or _fresh(task, start, choose_rate(task, start), attempt=0)
    while state.epoch < task.epochs:
        state = _next_state(task, start, state, watch)
        save(state)
    return state


def _next_state(task: Task, start: Arrays, state: LearnState, watch: Watch | None) -> LearnState:
    try:
        following = _run_epoch(task, state, watch=watch)
    except _NotFiniteError:
        return _second_attempt(task, start, state, "the loss is not finite")
    loss = following.rows[-1].loss
    if loss > state.start_loss:
        reason = f"the mean loss of epoch {following.epoch} is {loss:.3f}, above {state.start_loss:.3f} at its start"
        return _second_attempt(task, start, state, reason)
    return following


def _second_attempt(task: Task, start: Arrays, state: LearnState, reason: str) -> LearnState:
    if state.attempt > 0:
        raise DivergedError(
            f"training diverged twice: {reason}",
            field="learning rate",
            value=state.rate,
            remedy="check the labels of the newest data, or start from an earlier version",
        )
    return _fresh(task, start, state.rate * LOWER, attempt=1)


def _fresh(task: Task, start: Arrays, rate: float, attempt: int) -> LearnState:
    load_arrays(task.net, start)
    terms = 2 if task.strategy.replays and len(task.buffer) else 1
    chance = terms * math.log(max(len(task.new.classes), 2))
    first = _loss_at_start(task)
    bar = max(first, chance) if math.isfinite(first) else chance
    if task.strategy.anchored or (task.parent is not None and task.strategy.parent_on):
        bar *= HELD_BACK
    return LearnState(rate, attempt, 0, 0, bar, start, start)


def _loss_at_start(task: Task) -> float:
    """Mean loss of the untouched network over the first batches."""
    rng, fixed = _rng(task, 0, -1), _Fixed.of(task)
    task.net.eval()
    with torch.no_grad():
        losses = [
            float(_step_loss(task, fixed, batch, rng)[0]) for batch in _batches(len(task.new), task.new_batch, rng)[:8]
        ]
    return float(np.mean(losses)) if losses else math.inf


def choose_rate(task: Task, start: Arrays) -> float:
    """The rate whose short run does best on validation samples: mean accuracy on new and on replayed ones.

    The validation part of both is left out of these short runs only; the training that follows uses everything.
    """
    if len(task.rates) == 1:
        return task.rates[0]
    rng = np.random.default_rng([task.seed, 0xFEED])
    train, validation = validation_split(task.new.labels, VALIDATION_PERCENT, rng)
    kept, replayed = validation_split(task.buffer.labels, VALIDATION_PERCENT, rng)
    if not len(validation) and not len(replayed):
        return task.rates[0]
    shortened = replace(task, new=task.new.take(train), buffer=_subset(task.buffer, kept), holdout=task.new.take([]))
    checks = [(task.new.images[validation], task.new.labels[validation])]
    if task.strategy.replays:
        checks.append((task.buffer.images[replayed], task.buffer.labels[replayed]))
    scores = [_probe(shortened, start, rate, checks) for rate in task.rates]
    return task.rates[int(np.argmax(scores))]


def _probe(task: Task, start: Arrays, rate: float, checks: list[tuple[Images, Labels]]) -> float:
    load_arrays(task.net, start)
    state = LearnState(rate, 0, 0, 0, math.inf, start, start)
    try:
        while state.steps < PROBE_STEPS:
            state = _run_epoch(task, state, limit=PROBE_STEPS - state.steps)
    except _NotFiniteError:
        return -1.0
    load_arrays(task.net, state.ema)
    accuracies = [accuracy(task, images, labels) for images, labels in checks if len(labels)]
    return float(np.mean(accuracies))


def _subset(buffer: ReplayBuffer, indices: NDArray[np.int64]) -> ReplayBuffer:
    part = replace(buffer)
    part.keep(indices)
    return part


def _run_epoch(task: Task, state: LearnState, limit: int | None = None, watch: Watch | None = None) -> LearnState:
    """One epoch from `state`; at most `limit` steps. Raises _NotFiniteError."""
    load_arrays(task.net, state.weights)
    average, fixed = _Average(task, state), _Fixed.of(task)
    rng = _rng(task, state.attempt, state.epoch)
    losses: list[float] = []
    hits = 0
    task.net.train()
    batches = _batches(len(task.new), task.new_batch, rng)[:limit]
    for batch in batches:
        loss, right = _step_loss(task, fixed, batch, rng)
        losses.append(_descend(fixed.parameters, state.rate, loss))
        hits += right
        average.update()
        if watch is not None:
            watch(average.steps, average.arrays)
    ema = average.arrays()
    holdout = _holdout_accuracy(task, ema)
    seen = sum(len(batch) for batch in batches)
    row = Row(state.epoch + 1, float(np.mean(losses)), hits / max(seen, 1), holdout, state.rate, state.attempt)
    return replace(
        state,
        epoch=state.epoch + 1,
        steps=average.steps,
        weights=average.weights(task.net),
        ema=ema,
        rows=(*state.rows, row),
    )


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What every step of an epoch looks at and none changes."""

    parameters: tuple[nn.Parameter, ...]
    mean: Tensor
    std: Tensor
    known: Tensor
    adjustment: Tensor | None
    anchor: Anchor | None
    mixup: float

    @classmethod
    def of(cls, task: Task) -> _Fixed:
        mean, std = _scale(task.normalization, task.device)
        anchored = task.strategy.anchored
        anchor = Anchor(task.net, task.parent, task.importance, task.device) if anchored else None
        return cls(tuple(task.net.parameters()), mean, std, _known(task), _adjustment(task), anchor, _mixup(task))


def _descend(parameters: tuple[nn.Parameter, ...], rate: float, loss: Tensor) -> float:
    """One step of plain SGD on the clipped gradient; the loss. Raises _NotFiniteError before anything has moved.

    The arithmetic is that of `clip_grad_norm_` and SGD, one call for all parameters: with small networks the calls were the cost.
    """
    for parameter in parameters:
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    moved: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # noqa: SLF001 -- what torch.optim uses
    value, length = float(loss.detach()), float(norm)
    if not (math.isfinite(value) and math.isfinite(length)):
        raise _NotFiniteError
    with torch.no_grad():
        if length + 1e-6 > CLIP:
            torch._foreach_mul_(gradients, CLIP / (norm + 1e-6))
        torch._foreach_add_(moved, gradients, alpha=-rate)
    return value


def _step_loss(task: Task, fixed: _Fixed, batch: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, int]:
    """Loss of one step and how many new samples were right. One forward pass over new and replayed together."""
    replay = _draw_replay(task, rng)
    images = (
        np.concatenate([task.new.images[batch], task.buffer.images[replay]]) if len(replay) else task.new.images[batch]
    )
    x = augment(pixels(images, task.device), task.augmentation, rng)
    mixing = Mixing.draw(fixed.mixup, len(x), rng, task.device) if fixed.mixup else None
    x = ((x if mixing is None else mixing.images(x)) - fixed.mean) / fixed.std
    logits = task.net(x)
    n = len(batch)
    own = torch.from_numpy(np.concatenate([task.new.labels[batch], task.buffer.labels[replay]])).to(task.device)
    labels = own if mixing is None else mixing.labels(own, logits.shape[1])
    step = Step(
        new=logits[:n],
        new_labels=labels[:n],
        replay=logits[n:] if len(replay) else None,
        replay_labels=labels[n:] if len(replay) else None,
        parent_new=_parent_logits(task, x[:n]) if task.strategy.parent_on == "new" else None,
        parent_replay=_parent_logits(task, x[n:]) if task.strategy.parent_on == "replay" and len(replay) else None,
        known=fixed.known,
        adjustment=fixed.adjustment,
        drift=None if fixed.anchor is None else fixed.anchor.drift(task.net),
    )
    right = int(np.count_nonzero(logits[:n].detach().cpu().numpy().argmax(axis=1) == task.new.labels[batch]))
    return task.strategy.loss(step), right


def _draw_replay(task: Task, rng: np.random.Generator) -> NDArray[np.int64]:
    size = len(task.buffer) if task.strategy.replays else 0
    return rng.choice(size, size=min(task.replay_batch, size), replace=False) if size else np.zeros(0, dtype=np.int64)


def _parent_logits(task: Task, x: Tensor) -> Tensor | None:
    if task.parent is None:
        return None
    with torch.no_grad():
        logits: Tensor = task.parent(x)
    return logits


def _known(task: Task) -> Tensor:
    """Positions of the classes the parent has learned: those it was ever shown."""
    return torch.from_numpy(np.flatnonzero(task.buffer.seen)).to(task.device)


def _adjustment(task: Task) -> Tensor | None:
    own = task.strategy.tau_augmented if is_declared(task.augmentation) else task.strategy.tau
    tau = own if task.tau is None else task.tau
    if not tau:
        return None
    replayed = task.buffer.class_counts() if task.strategy.replays and len(task.buffer) else None
    adjustment = adjustment_of(task.new.counts(), replayed, tau)
    return None if adjustment is None else torch.from_numpy(adjustment).to(task.device)


def _mixup(task: Task) -> float:
    if task.mixup is not None:
        return task.mixup
    if skewed(task.new.counts()) and task.strategy.mixup_skewed:
        return task.strategy.mixup_skewed
    return 0.0 if is_declared(task.augmentation) else task.strategy.mixup


def _batches(count: int, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """A permutation cut into batches; a last batch of one joins the one before it (batch norm needs two)."""
    order = rng.permutation(count)
    cuts = list(range(size, count, size))
    if cuts and count - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts) if count else []


def _rng(task: Task, attempt: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([task.seed, attempt, epoch + 1])


class _Average:
    """Exponential moving average of parameters and of floating buffers; integers are copied."""

    def __init__(self, task: Task, state: LearnState) -> None:
        self.steps = state.steps
        self._head_start = task.average_from
        self._ema = {name: torch.from_numpy(np.array(array)).to(task.device) for name, array in state.ema.items()}
        self._current = task.net.state_dict()  # the tensors themselves: steps change them in place
        floating = [name for name, tensor in self._current.items() if tensor.is_floating_point()]
        self._floats = [self._ema[name] for name in floating]
        self._followed = [self._current[name] for name in floating]
        self._counted = [name for name in self._current if name not in floating]

    def update(self) -> None:
        seen = self.steps + self._head_start
        decay = (1 + seen) / (10 + seen)
        with torch.no_grad():
            torch._foreach_lerp_(self._floats, self._followed, 1 - decay)
            for name in self._counted:
                self._ema[name].copy_(self._current[name])
        self.steps += 1

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._ema.items()}

    @staticmethod
    def weights(net: nn.Module) -> dict[str, NDArray[np.generic]]:
        return arrays_of(net)


def pixels(images: Images, device: torch.device) -> Tensor:
    """uint8 [n, H, W, C] → float32 [n, C, H, W] in 0..1, laid out channels last as it came: a third faster on CPUs."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).to(torch.float32).permute(0, 3, 1, 2) / 255


def normalized(x: Tensor, normalization: Normalization) -> Tensor:
    mean, std = _scale(normalization, x.device)
    return (x - mean) / std


def _scale(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device) for values in (normalization.mean, normalization.std))
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def freeze(net: nn.Module) -> nn.Module:
    net.requires_grad_(requires_grad=False)
    return net.eval()


def predict_logits(
    net: nn.Module, images: Images, normalization: Normalization, device: torch.device
) -> NDArray[np.float32]:
    """Logits float32 [n, classes] of a network in evaluation mode."""
    net.eval()
    with torch.no_grad():
        parts = [
            net(normalized(pixels(images[i : i + _EVALUATION_BATCH], device), normalization)).cpu().numpy()
            for i in range(0, max(len(images), 1), _EVALUATION_BATCH)
        ]
    return np.concatenate(parts)


def accuracy(task: Task, images: Images, labels: Labels) -> float:
    logits = predict_logits(task.net, images, task.normalization, task.device)
    return float((logits.argmax(axis=1) == labels).mean())


def _holdout_accuracy(task: Task, ema: Arrays) -> float | None:
    """Accuracy of the average on the holdout, for the curve only; leaves the network's weights as they were."""
    if not len(task.holdout):
        return None
    current = arrays_of(task.net)
    load_arrays(task.net, ema)
    score = accuracy(task, task.holdout.images[:1000], task.holdout.labels[:1000])
    load_arrays(task.net, current)
    return score
