"""The camera of the twelve scenarios: real digits under weather that changes, dealt once into three parts that never mix.

500 digits train the first version. 757 are streamed, each request a new draw of one of them (place, tilt and contrast differ), so no
image comes twice. 540 are the *truth*: never streamed, never labelled. Whatever is called a version's accuracy here is counted
on them, drawn under the weather and the class mix of the moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from continual_cli.demo.world import Digits, Image, Weather, draw, load_digits

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CLASSES = 10
BOOTSTRAP, TRUTH = 500, 540
DRAWS = 2
"""Of each truth digit: 1 080 images, so a point of accuracy is eleven of them."""
EVEN = (1.0,) * CLASSES
CALM = Weather(jitter_pixels=1.0, jitter_degrees=6.0)
DRIFTED = Weather(contrast=0.6, veil=0.2, tilt_degrees=15.0, jitter_pixels=1.0, jitter_degrees=6.0)


@dataclass(frozen=True, slots=True)
class World:
    """What there is to be seen: the weather, and how often each class comes (weights, any sum)."""

    weather: Weather = CALM
    mix: tuple[float, ...] = EVEN


@dataclass(frozen=True, slots=True)
class Parts:
    """Indices of digits by the part they play."""

    bootstrap: Labels
    streamed: Labels
    truth: Labels


@lru_cache(maxsize=1)
def digits() -> Digits:
    return load_digits()


@lru_cache(maxsize=4)
def parts(seed: int) -> Parts:
    order = np.random.default_rng([seed, 10]).permutation(len(digits().labels)).astype(np.int64)
    return Parts(order[:BOOTSTRAP], order[BOOTSTRAP:-TRUTH], order[-TRUTH:])


def bootstrap_set(seed: int, without: tuple[int, ...] = ()) -> tuple[Images, Labels]:
    """What v1 learns from: calm images [n, 28, 28, 1] and labels, without some classes if they are to come later."""
    rng, labels = np.random.default_rng([seed, 11]), digits().labels
    chosen = [int(i) for i in parts(seed).bootstrap if int(labels[i]) not in without]
    return np.stack([draw(digits().ink[i], CALM, rng) for i in chosen]), labels[chosen]


@lru_cache(maxsize=64)
def truth(seed: int, weather: Weather) -> tuple[Images, Labels]:
    """Images [1080, 28, 28, 1] and labels under a weather; the same for every policy and version."""
    rng, chosen = np.random.default_rng([seed, 12]), np.repeat(parts(seed).truth, DRAWS)
    return np.stack([draw(digits().ink[int(i)], weather, rng) for i in chosen]), digits().labels[chosen]


def weighed_accuracy(predicted: Labels, labels: Labels, mix: tuple[float, ...]) -> float:
    """Recall of every class, weighed by how often it comes now; a class that never comes counts nothing."""
    total = sum(mix)
    shares = [(mix[c] / total, float((predicted[labels == c] == c).mean())) for c in range(CLASSES) if mix[c] > 0]
    return sum(share * recall for share, recall in shares)


class Deck:
    """Streamed digits in shuffled order, class by class, for ever; draws their images."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 13])
        self._members = {
            c: self.rng.permutation([i for i in parts(seed).streamed if digits().labels[i] == c])
            for c in range(CLASSES)
        }
        self._next = dict.fromkeys(range(CLASSES), 0)

    def draw(self, world: World) -> tuple[int, int, Image]:
        """(digit, class, image [28, 28, 1]) of a class drawn by the world's mix."""
        mix = np.array(world.mix)
        label = int(self.rng.choice(CLASSES, p=mix / mix.sum()))
        members = self._members[label]
        digit = int(members[self._next[label] % len(members)])
        self._next[label] += 1
        return digit, label, draw(digits().ink[digit], world.weather, self.rng)
