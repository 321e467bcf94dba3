"""The world the demo's camera looks at: real handwritten digits, under light and tilt that change.

scikit-learn's 1 797 digits (8x8, 16 grey levels) are drawn at 28x28 through one affine map, so that scaling, rotation and jitter
cost one interpolation. 600 of them train the first version; the other 1 197 are streamed. A third of those are *score-only*: no
label of them ever enters the system, so an accuracy counted on them is untouched by training, gate and probation alike. The rest is
dealt into pools, one per purpose, because a digit that trained may not judge later.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SIZE = 28
INK_BOX = 24
"""Pixels a digit's 8x8 grid is stretched over; the rest is margin, so that a tilted digit stays inside."""
BOOTSTRAP_DIGITS = 600
SCORE_ONLY_EVERY = 3
POOL_WEIGHTS = {"calm": 130, "learn": 280, "gate": 150, "probation": 130, "bad": 108}
"""How the labelled digits are dealt: shown before the drift, learnt from under it, and one pool per verdict."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How the world looks now: ink contrast, grey veil over the paper, tilt in degrees; how much single images differ; how large digits are."""

    contrast: float = 1.0
    veil: float = 0.0
    tilt_degrees: float = 0.0
    jitter_pixels: float = 1.5
    jitter_degrees: float = 8.0
    jitter_contrast: float = 0.2
    ink_box: int = INK_BOX


CALM = Weather()
DRIFTED = Weather(contrast=0.6, veil=0.2, tilt_degrees=15.0)


@dataclass(frozen=True, slots=True)
class Digits:
    """`ink` float64 [n, 8, 8] in 0..1, `labels` int64 [n]."""

    ink: Floats
    labels: Ints


@dataclass(frozen=True, slots=True)
class Cast:
    """Which digit (by index) plays which part; the parts are disjoint and together are all digits."""

    bootstrap: tuple[int, ...]
    score_only: tuple[int, ...]
    pools: dict[str, tuple[int, ...]]

    @property
    def streamed(self) -> int:
        return len(self.score_only) + sum(len(pool) for pool in self.pools.values())


def load_digits() -> Digits:
    """The 1 797 real digits that come with scikit-learn: no download."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    return Digits(np.asarray(bunch.images, np.float64) / 16.0, np.asarray(bunch.target, np.int64))


def deal(count: int, seed: int) -> Cast:
    """Give each of `count` digits its part, by a permutation of `seed`."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(count)]
    bootstrap, streamed = order[:BOOTSTRAP_DIGITS], order[BOOTSTRAP_DIGITS:]
    labelled = [digit for place, digit in enumerate(streamed) if place % SCORE_ONLY_EVERY]
    return Cast(tuple(bootstrap), tuple(streamed[::SCORE_ONLY_EVERY]), _pools(labelled))


def _pools(labelled: list[int]) -> dict[str, tuple[int, ...]]:
    total = sum(POOL_WEIGHTS.values())
    pools, start, weight = {}, 0, 0
    for name, share in POOL_WEIGHTS.items():
        weight += share
        end = round(len(labelled) * weight / total)
        pools[name] = tuple(labelled[start:end])
        start = end
    return pools


def draw(ink: Floats, weather: Weather, rng: np.random.Generator) -> Image:
    """One digit as the camera sees it: uint8 [28, 28, 1]. Every call draws a new jitter from `rng`."""
    from scipy import ndimage

    angle = math.radians(weather.tilt_degrees + rng.uniform(-1, 1) * weather.jitter_degrees)
    shift = rng.uniform(-1, 1, 2) * weather.jitter_pixels
    contrast = weather.contrast * (1 + rng.uniform(-1, 1) * weather.jitter_contrast)
    scale = ink.shape[0] / weather.ink_box
    matrix = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centre = (np.array(ink.shape) - 1) / 2
    offset = centre - matrix @ ((SIZE - 1) / 2 + shift)
    drawn: Floats = ndimage.affine_transform(ink, matrix, offset=offset, output_shape=(SIZE, SIZE), order=1)
    grey: Image = np.clip((weather.veil + contrast * drawn) * 255, 0, 255).astype(np.uint8)
    return grey[:, :, None]


def bootstrap_npz(digits: Digits, cast: Cast, seed: int) -> bytes:
    """The first training set as `.npz` with `image` uint8 [600, 28, 28, 1] and `label` int64 [600]."""
    rng = np.random.default_rng([seed, 1])
    images = np.stack([draw(digits.ink[i], CALM, rng) for i in cast.bootstrap])
    buffer = io.BytesIO()
    np.savez(buffer, image=images, label=digits.labels[list(cast.bootstrap)])
    return buffer.getvalue()
