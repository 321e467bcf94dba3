"""The replay buffer: what a model keeps of its past, and who may stay when it is full.

The buffer is plain numpy and knows nothing of learning; which samples stay is a *selection policy*, a pure choice over
labels and experiences. An *experience* is the data of one training. Measured on the digits (`docs/decisions/0040`):
filling it once, at the end of an experience, beats filling it while learning, and equal quotas per class beat a plain
reservoir as soon as classes are skewed: a reservoir of 100 at 20:1 keeps less than one image of the rarest class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from continual_contract.artifacts import InputShape
from continual_contract.errors import UsageError
from numpy.typing import NDArray

from continual_workers.training.samples import Images, Labels

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Offer:
    """Samples kept so far, then the samples offered: labels and experiences int64 [kept + new].

    `seen` counts per class what was ever offered before, int64 [classes].
    """

    labels: Labels
    experiences: Labels
    kept: int
    seen: Labels


class SelectionPolicy(Protocol):
    """Chooses who stays of an offer."""

    @property
    def name(self) -> str: ...

    def choose(self, offer: Offer, capacity: int, rng: np.random.Generator) -> Indices:
        """Sorted indices of at most `capacity` samples of the offer."""
        ...


@dataclass(frozen=True, slots=True)
class Reservoir:
    """Vitter's algorithm R: every sample ever offered is kept with the same probability."""

    name: str = "reservoir"

    def choose(self, offer: Offer, capacity: int, rng: np.random.Generator) -> Indices:
        slots = list(range(min(offer.kept, capacity)))
        offered_before = max(int(offer.seen.sum()), len(slots))
        for count, index in enumerate(range(offer.kept, len(offer.labels)), start=offered_before):
            if len(slots) < capacity:
                slots.append(index)
            elif capacity and (slot := int(rng.integers(count + 1))) < capacity:
                slots[slot] = index
        return np.sort(np.array(slots, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class BalancedReservoir:
    """Class-balancing reservoir (Chrysakis & Moens, ICML 2020): a full class draws lots among itself, others displace it."""

    name: str = "class-balanced-reservoir"

    def choose(self, offer: Offer, capacity: int, rng: np.random.Generator) -> Indices:
        labels = offer.labels
        slots = list(range(min(offer.kept, capacity)))
        classes = int(max(labels.max(initial=-1) + 1, len(offer.seen)))
        ever = np.pad(offer.seen.astype(np.int64), (0, classes - len(offer.seen)))
        full = np.zeros(classes, dtype=bool)
        for index in range(offer.kept, len(labels)):
            label = int(labels[index])
            ever[label] += 1
            if len(slots) < capacity:
                slots.append(index)
            elif capacity:
                self._replace(slots, labels, index, ever, full, rng)
        return np.sort(np.array(slots, dtype=np.int64))

    @staticmethod
    def _replace(
        slots: list[int], labels: Labels, index: int, ever: Labels, full: NDArray[np.bool_], rng: np.random.Generator
    ) -> None:
        label = int(labels[index])
        held = labels[slots]
        counts = np.bincount(held, minlength=len(ever))
        full |= counts == counts.max()
        if not full[label]:
            candidates = np.flatnonzero(held == counts.argmax())
        elif rng.random() <= counts[label] / ever[label]:
            candidates = np.flatnonzero(held == label)
        else:
            return
        if len(candidates):
            slots[int(rng.choice(candidates))] = index


@dataclass(frozen=True, slots=True)
class ClassQuota:
    """The default: equal quotas per class, within a class equal per experience, within both by lot."""

    name: str = "class-quota"

    def choose(self, offer: Offer, capacity: int, rng: np.random.Generator) -> Indices:
        labels, experiences = offer.labels, offer.experiences
        classes = np.unique(labels)
        quotas = fill_evenly([int((labels == c).sum()) for c in classes], capacity)
        chosen = [
            _equal_per_experience(np.flatnonzero(labels == c), experiences, quota, rng)
            for c, quota in zip(classes, quotas, strict=True)
        ]
        return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def _equal_per_experience(members: Indices, experiences: Labels, quota: int, rng: np.random.Generator) -> Indices:
    groups = [members[experiences[members] == e] for e in np.unique(experiences[members])]
    quotas = fill_evenly([len(group) for group in groups], quota)
    return np.concatenate([rng.permutation(group)[:take] for group, take in zip(groups, quotas, strict=True)])


def fill_evenly(sizes: list[int], capacity: int) -> list[int]:
    """How much of each size fits when all get the same: small ones whole, the rest shared; earlier ones get the remainder."""
    takes = [0] * len(sizes)
    left = min(capacity, sum(sizes))
    while left:
        open_ = [i for i, size in enumerate(sizes) if takes[i] < size]
        share = max(left // len(open_), 1)
        for i in open_[:left]:
            take = min(share, sizes[i] - takes[i])
            takes[i] += take
            left -= take
    return takes


POLICIES: Mapping[str, SelectionPolicy] = {p.name: p for p in (Reservoir(), BalancedReservoir(), ClassQuota())}


@dataclass(slots=True)
class ReplayBuffer:
    """Images uint8 [n, H, W, C], labels and experiences int64 [n], logits float32 [n, classes] of the model that filled it.

    `seen` counts per class everything ever offered. Never more than `capacity` samples.
    """

    capacity: int
    images: Images
    labels: Labels
    experiences: Labels
    logits: NDArray[np.float32]
    seen: Labels
    rng: np.random.Generator

    @classmethod
    def empty(cls, capacity: int, shape: InputShape, classes: int, seed: int) -> ReplayBuffer:
        if capacity < 0:
            raise UsageError("a buffer cannot hold less than nothing", field="replayCapacity", value=capacity)
        return cls(
            capacity,
            np.zeros((0, shape.height, shape.width, shape.channels), dtype=np.uint8),
            np.zeros(0, dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            np.zeros((0, classes), dtype=np.float32),
            np.zeros(classes, dtype=np.int64),
            np.random.default_rng([seed, 0xB0FFE7]),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def next_experience(self) -> int:
        return int(self.experiences.max(initial=-1)) + 1

    def class_counts(self) -> Labels:
        """Samples held per class, int64 [classes]."""
        return np.bincount(self.labels, minlength=len(self.seen)).astype(np.int64)

    def grow_classes(self, classes: int) -> None:
        """Make room for appended classes: their stored logits are 0, nothing of them was seen."""
        extra = classes - len(self.seen)
        if extra > 0:
            self.seen = np.pad(self.seen, (0, extra))
            self.logits = np.pad(self.logits, ((0, 0), (0, extra)))

    def offer(self, images: Images, labels: Labels, experience: int, policy: SelectionPolicy) -> None:
        """Offer an experience's samples; the policy decides who stays. Logits of new ones are 0 until `store_logits`."""
        self.grow_classes(int(labels.max(initial=-1)) + 1)
        all_labels = np.concatenate([self.labels, labels])
        all_experiences = np.concatenate([self.experiences, np.full(len(labels), experience, dtype=np.int64)])
        stay = policy.choose(Offer(all_labels, all_experiences, len(self), self.seen), self.capacity, self.rng)
        new_logits = np.zeros((len(labels), self.logits.shape[1]), dtype=np.float32)
        self.seen = self.seen + np.bincount(labels, minlength=len(self.seen))
        self.images = np.concatenate([self.images, images])[stay]
        self.logits = np.concatenate([self.logits, new_logits])[stay]
        self.labels, self.experiences = all_labels[stay], all_experiences[stay]

    def store_logits(self, logits: NDArray[np.float32]) -> None:
        """Logits float32 [n, classes] of the finished model, for every sample held."""
        if len(logits) != len(self):
            raise UsageError("one row of logits per held sample", field="logits", value=len(logits))
        self.logits = np.ascontiguousarray(logits, dtype=np.float32)

    def keep(self, indices: Indices) -> None:
        """Drop everything but `indices` (samples that were since held out or must be forgotten)."""
        self.images, self.labels = self.images[indices], self.labels[indices]
        self.experiences, self.logits = self.experiences[indices], self.logits[indices]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays to store, by name; `restore` reads them back with `rng_state`."""
        return {
            "buffer.images": self.images,
            "buffer.labels": self.labels,
            "buffer.experiences": self.experiences,
            "buffer.logits": self.logits,
            "buffer.seen": self.seen,
        }

    @classmethod
    def restore(cls, capacity: int, arrays: Mapping[str, NDArray[Any]], rng_state: dict[str, Any]) -> ReplayBuffer:
        """The buffer of a stored state, cut to `capacity` by class quota if that has shrunk since."""
        rng = np.random.default_rng(0)
        rng.bit_generator.state = rng_state
        images, labels, experiences, logits, seen = (
            arrays[f"buffer.{name}"] for name in ("images", "labels", "experiences", "logits", "seen")
        )
        buffer = cls(capacity, images, labels, experiences, logits, seen, rng)
        if len(buffer) > capacity:
            stay = ClassQuota().choose(
                Offer(buffer.labels, buffer.experiences, len(buffer), buffer.seen), capacity, rng
            )
            buffer.keep(stay)
        return buffer
