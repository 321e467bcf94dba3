"""Mean and standard deviation per channel in one pass, so that a set larger than memory is read once.

Batches are merged with the update of Chan, Golub and LeVeque (1979), Welford's for batches of one: no sum of squares
that cancels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from continual_contract.artifacts import Normalization
from numpy.typing import NDArray

from continual_workers.training.samples import Images

_SMALLEST_STD = 1e-3
"""Below this a channel is constant; dividing by less would only blow up noise."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations per channel, float64 [C]."""

    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation, float64 [C]."""
        std: NDArray[np.float64] = np.sqrt(self.m2 / max(self.count, 1))
        return std


def moments_of(images: Images) -> Moments:
    """Moments of one batch uint8 [n, H, W, C], on pixels scaled to [0, 1]."""
    channels = images.shape[-1]
    pixels = images.reshape(-1, channels).astype(np.float64) / 255.0
    if not len(pixels):
        return Moments(0, np.zeros(channels), np.zeros(channels))
    mean = pixels.mean(axis=0)
    return Moments(len(pixels), mean, ((pixels - mean) ** 2).sum(axis=0))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both together; exact up to rounding, in any order."""
    count = a.count + b.count
    if count == 0:
        return a
    delta = b.mean - a.mean
    return Moments(count, a.mean + delta * (b.count / count), a.m2 + b.m2 + delta**2 * (a.count * b.count / count))


def normalization_of(batches: Iterable[Images], channels: int) -> Normalization:
    """Normalization of all batches, each seen once; rounded to six digits, so that it prints as it is."""
    total = Moments(0, np.zeros(channels), np.zeros(channels))
    for batch in batches:
        total = merge(total, moments_of(batch))
    std = np.maximum(total.std, _SMALLEST_STD) if total.count else np.ones(channels)
    return Normalization(mean=tuple(round(float(m), 6) for m in total.mean), std=tuple(round(float(s), 6) for s in std))


def batches_of(images: Images, size: int = 1024) -> Iterable[Images]:
    return (images[start : start + size] for start in range(0, len(images), size))
