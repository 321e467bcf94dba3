"""How a model learns new data without losing the old: one small class per method, one interface.

A strategy says where it starts (the parent's weights or nothing), what it trains on (the new data, all stored data, or
the buffer), what it looks at beside it (replayed samples, the frozen parent), and how one step's loss is made of these.
Adding one is adding a class to `STRATEGIES`.

    der++       Buzzega et al. 2020, arXiv 2004.07211, with the logits of the frozen parent on the same augmented image
    er          Chaudhry et al. 2019, arXiv 1902.10486
    er-ace      Caccia et al. 2022, arXiv 2104.05025: new data compete only among the classes of their batch
    ewc         online EWC, Schwarz et al. 2018, arXiv 1805.06370 after Kirkpatrick et al. 2017: what mattered may not move
    lwf         Li & Hoiem 2016, arXiv 1606.09282: distils the parent on the new data, no replay
    gdumb       Prabhu et al. 2020: from scratch on the buffer
    fine-tune   new data only: the baseline that forgets
    joint       all stored data from scratch: the upper bound
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from continual_contract.errors import UsageError
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SKEW = 2.0
"""Classes count as skewed when the most frequent is this much more frequent than the rarest."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step's view: logits [n, classes] and labels [n] of the new and the replayed batch, and the parent's logits.

    Labels are positions int64 [n], or shares float32 [n, classes] where images are mixed (`mixing.py`).
    `adjustment` [classes] is τ·log prior, added to logits before cross-entropy (Menon et al. 2020); None when classes
    are balanced. `known` are the positions of classes the parent had learned.
    """

    new: Tensor
    new_labels: Tensor
    replay: Tensor | None
    replay_labels: Tensor | None
    parent_new: Tensor | None
    parent_replay: Tensor | None
    known: Tensor
    adjustment: Tensor | None
    drift: Tensor | None = None
    """½·Σ F·(θ − θ_parent)², F the importance of each parameter; only for strategies that are `anchored`."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        adjusted = logits if self.adjustment is None else logits + self.adjustment
        return functional.cross_entropy(adjusted, labels)

    def cross_entropy_among_own(self) -> Tensor:
        """Cross-entropy of the new batch among the classes it holds: it pushes no absent class down."""
        absent = torch.ones(self.new.shape[1], dtype=torch.bool, device=self.new.device)
        absent[self.new_labels] = False
        return functional.cross_entropy(self.new.masked_fill(absent, float("-inf")), self.new_labels)


class Strategy(Protocol):
    """What a training asks of a method."""

    @property
    def name(self) -> str: ...
    @property
    def starts_from_parent(self) -> bool: ...
    @property
    def data(self) -> Literal["new", "all", "buffer"]: ...
    @property
    def replays(self) -> bool: ...
    @property
    def replays_new(self) -> bool: ...
    @property
    def parent_on(self) -> Literal["", "new", "replay"]: ...
    @property
    def tau(self) -> float: ...
    @property
    def tau_augmented(self) -> float: ...
    @property
    def mixup(self) -> float: ...
    @property
    def mixup_skewed(self) -> float: ...
    @property
    def anchored(self) -> bool: ...
    @property
    def decay(self) -> float: ...

    def loss(self, step: Step) -> Tensor:
        """Scalar loss of one step."""
        ...


@dataclass(frozen=True, slots=True)
class FineTune:
    """Cross-entropy on the new data: how the systems this replaces learn, and why they forget."""

    name: str = "fine-tune"
    starts_from_parent: bool = True
    data: Literal["new", "all", "buffer"] = "new"
    replays: bool = False
    replays_new: bool = False
    """Whether the new data are offered to the buffer before learning, not only after it."""
    parent_on: Literal["", "new", "replay"] = ""
    tau: float = 0.0
    """Strength of the logit adjustment where classes are skewed and nothing is augmented; 0 adjusts nothing."""
    tau_augmented: float = 0.0
    """The same with declared augmentation."""
    mixup: float = 0.0
    """How strongly images are mixed where no augmentation is declared: α of Beta(α, α); 0 mixes nothing."""
    mixup_skewed: float = 0.0
    """The same where new classes are skewed, with augmentation or without."""
    anchored: bool = False
    """Whether the loss looks at how far important parameters have moved (`Step.drift`)."""
    decay: float = 0.0
    """Anchored only: how much of the earlier importance a new experience leaves."""

    def loss(self, step: Step) -> Tensor:
        return step.cross_entropy(step.new, step.new_labels)


@dataclass(frozen=True, slots=True)
class Joint(FineTune):
    """All stored data from scratch."""

    name: str = "joint"
    starts_from_parent: bool = False
    data: Literal["new", "all", "buffer"] = "all"
    tau: float = 1.5
    tau_augmented: float = 1.5
    mixup_skewed: float = 0.3


@dataclass(frozen=True, slots=True)
class Gdumb(FineTune):
    """From scratch on the buffer, after the new data have been offered to it."""

    name: str = "gdumb"
    starts_from_parent: bool = False
    data: Literal["new", "all", "buffer"] = "buffer"
    tau: float = 1.5
    tau_augmented: float = 1.5
    mixup_skewed: float = 0.3


@dataclass(frozen=True, slots=True)
class Replay(FineTune):
    """Experience replay: new and replayed batch weigh the same."""

    name: str = "er"
    replays: bool = True
    tau: float = 1.0
    tau_augmented: float = 1.0
    mixup: float = 0.3

    def loss(self, step: Step) -> Tensor:
        loss = step.cross_entropy(step.new, step.new_labels)
        if step.replay is not None and step.replay_labels is not None:
            loss = loss + step.cross_entropy(step.replay, step.replay_labels)
        return loss


@dataclass(frozen=True, slots=True)
class DerPlusPlus(Replay):
    """Replay plus the mean squared gap to the frozen parent's logits, over the classes it knew."""

    name: str = "der++"
    parent_on: Literal["", "new", "replay"] = "replay"
    distillation: float = 0.3

    def loss(self, step: Step) -> Tensor:
        loss = Replay.loss(self, step)
        if step.replay is None or step.parent_replay is None or not len(step.known):
            return loss
        return loss + self.distillation * logit_gap(step.replay, step.parent_replay, step.known)


@dataclass(frozen=True, slots=True)
class ErAce(Replay):
    """Asymmetric cross-entropy: the new batch's softmax runs over its own classes only.

    New and old classes meet only in the replayed batch, so the buffer must hold the new ones already.
    """

    name: str = "er-ace"
    replays_new: bool = True
    tau: float = 0.0
    tau_augmented: float = 0.0
    mixup: float = 0.0

    def loss(self, step: Step) -> Tensor:
        if step.replay is None or step.replay_labels is None:
            return step.cross_entropy(step.new, step.new_labels)
        return step.cross_entropy_among_own() + step.cross_entropy(step.replay, step.replay_labels)


@dataclass(frozen=True, slots=True)
class Lwf(FineTune):
    """Learning without forgetting: the parent's softened answers on the new data are kept (T = 2).

    As in the paper the new labels compete only among themselves; in one head for all classes, what this leaves untouched
    doubles what is kept (`docs/decisions/0181`).
    """

    name: str = "lwf"
    parent_on: Literal["", "new", "replay"] = "new"
    distillation: float = 1.0
    temperature: float = 2.0

    def loss(self, step: Step) -> Tensor:
        if step.parent_new is None or not len(step.known):
            return step.cross_entropy(step.new, step.new_labels)
        log_p = functional.log_softmax(step.new[:, step.known] / self.temperature, dim=1)
        target = functional.softmax(step.parent_new[:, step.known] / self.temperature, dim=1)
        kept = functional.kl_div(log_p, target, reduction="batchmean") * self.temperature**2
        return step.cross_entropy_among_own() + self.distillation * kept


@dataclass(frozen=True, slots=True)
class Ewc(FineTune):
    """Online elastic weight consolidation: a quadratic pull to the parent, weighted by what mattered to the past.

    New labels compete only among themselves, as for `lwf`: no importance keeps the head from unlearning absent classes.
    """

    name: str = "ewc"
    anchored: bool = True
    decay: float = 0.9
    strength: float = 100.0

    def loss(self, step: Step) -> Tensor:
        if step.drift is None:
            return step.cross_entropy(step.new, step.new_labels)
        return step.cross_entropy_among_own() + self.strength * step.drift


STRATEGIES: Mapping[str, Strategy] = {
    s.name: s for s in (DerPlusPlus(), Replay(), ErAce(), Gdumb(), Ewc(), Lwf(), FineTune(), Joint())
}


def strategy(name: str) -> Strategy:
    """Raises UsageError for a strategy that is not there."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    raise UsageError(
        "this strategy is unknown",
        field="retraining.strategy",
        value=name,
        remedy=f"use one of {', '.join(STRATEGIES)}",
    )


def logit_gap(logits: Tensor, parent: Tensor, known: Tensor) -> Tensor:
    """Mean squared gap between logits [n, classes] and the parent's [n, fewer or equal], over the known classes."""
    return functional.mse_loss(logits[:, known], parent[:, known])


def skewed(counts: NDArray[np.int64]) -> bool:
    """Whether one of the classes that are there is `SKEW` times as frequent as another."""
    present = counts[counts > 0]
    return bool(len(present) and present.max() >= SKEW * present.min())


def adjustment_of(
    new_counts: NDArray[np.int64], replay_counts: NDArray[np.int64] | None, tau: float = 1.0
) -> NDArray[np.float32] | None:
    """τ·log prior [classes], the prior being the mean of both batches' priors; None when classes are not skewed.

    A class without any sample gets half a sample's share: nothing then pushes its logit down.
    """
    priors = [counts / counts.sum() for counts in (new_counts, replay_counts) if counts is not None and counts.sum()]
    if not priors:
        return None
    prior = np.mean(priors, axis=0)
    total = float(new_counts.sum() + (0 if replay_counts is None else replay_counts.sum()))
    floored = np.maximum(prior, 0.5 / total)
    if floored.max() < SKEW * floored.min():
        return None
    adjustment: NDArray[np.float32] = (tau * np.log(floored / floored.sum())).astype(np.float32)
    return adjustment
