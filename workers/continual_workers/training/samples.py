"""Labelled images as plain arrays: what every part of the trainer passes around, torch or no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from continual_contract.artifacts import InputShape
from continual_contract.routing import is_held_out, separation_unit
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Samples:
    """Images uint8 [n, H, W, C]; labels int64 [n], positions in `classes`; `k` and request ids where they are known."""

    images: Images
    labels: Labels
    classes: tuple[str, ...]
    k: tuple[str, ...] = field(default=())
    request_ids: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64] | Sequence[int]) -> Samples:
        """The samples at `indices`, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        return Samples(
            self.images[index], self.labels[index], self.classes, _pick(self.k, index), _pick(self.request_ids, index)
        )

    def units(self) -> list[bytes]:
        """Separation unit of each sample: its `k`, else a hash of its pixels."""
        keys = self.k or ("",) * len(self)
        return [separation_unit(k.encode(), image.tobytes()) for k, image in zip(keys, self.images, strict=True)]

    def counts(self) -> NDArray[np.int64]:
        """Samples per class, int64 [len(classes)]."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)


def _pick(values: tuple[str, ...], index: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(values[i] for i in index) if values else ()


def empty_samples(shape: InputShape, classes: tuple[str, ...]) -> Samples:
    images = np.zeros((0, shape.height, shape.width, shape.channels), dtype=np.uint8)
    return Samples(images, np.zeros(0, dtype=np.int64), classes)


def concatenate(parts: Sequence[Samples], shape: InputShape, classes: tuple[str, ...]) -> Samples:
    """All parts one after another; missing `k` and request ids become empty strings."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return empty_samples(shape, classes)
    return Samples(
        np.concatenate([part.images for part in filled]),
        np.concatenate([part.labels for part in filled]),
        classes,
        tuple(k for part in filled for k in (part.k or ("",) * len(part))),
        tuple(r for part in filled for r in (part.request_ids or ("",) * len(part))),
    )


def split_held_out(samples: Samples, holdout_percent: float) -> tuple[Samples, Samples]:
    """(training part, held-out part): by hash of each sample's unit, the same answer for ever and everywhere."""
    held = np.array([is_held_out(unit, holdout_percent) for unit in samples.units()], dtype=bool)
    return samples.take(np.flatnonzero(~held)), samples.take(np.flatnonzero(held))


def without(samples: Samples, others: Samples) -> Samples:
    """The samples that share neither `k` nor pixels with any of `others`: what held out stays held out."""
    pixels = {separation_unit(b"", image.tobytes()) for image in others.images}
    keys = {k for k in others.k if k}
    own_keys = samples.k or ("",) * len(samples)
    keep = [
        i
        for i, (image, k) in enumerate(zip(samples.images, own_keys, strict=True))
        if separation_unit(b"", image.tobytes()) not in pixels and k not in keys
    ]
    return samples.take(keep)


def validation_split(
    labels: Labels, percent: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training indices, validation indices): `percent` of every class, rounded, classes of one sample stay in training."""
    chosen: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        take = min(round(len(members) * percent / 100), len(members) - 1)
        chosen.append(rng.permutation(members)[:take])
    validation = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(labels)), validation), validation
