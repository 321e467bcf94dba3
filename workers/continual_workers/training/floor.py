"""What a model must not fall below: the first accepted version, on the first data set.

Labels that are wrong all in one way move everything that is made of labels: the stream's holdout, the live gate, the parent. They never
reach the data set that the owner gave first. So some of it is kept, with what the first accepted version answers to it, and handed
down the lineage as an artifact: the first version itself may be long gone from the store. Two parts, because each sees what the other
misses: what was held out is honest and few; what was learned from is ten times as many, and partly known by heart.

A version that carries no such file is itself the first. A later one (its lineage began before there were floors) brings its own answers to what
was held out, and nothing that it learned from: labels of the stream are among that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from continual_clients.shards import decode_shard, encode_shard, make_shard
from continual_contract.artifacts import FirstScores

from continual_workers.training.datasets import from_shard
from continual_workers.training.samples import Images, Labels, Samples
from continual_workers.training.scoring import score

FIRST = "first.npz"
"""Artifact: a shard whose `source` is the part, and whose `metadata` is the class that the first version answers."""
SAMPLES = 1000
"""Of each part, at most: shared by the classes."""
BYTES = 32 << 20
"""Of the images of each part, at most: 222 photographs of 224 x 224 pixels in colour."""
HELD, LEARNED = "held", "learned"
Ask = Callable[[Images], Labels]


@dataclass(frozen=True, slots=True)
class Part:
    """Samples, and what the first version answers to them: positions int64 [n]."""

    samples: Samples
    answers: Labels

    def __len__(self) -> int:
        return len(self.samples)

    def keep(self, chosen: Callable[[Samples], list[int]]) -> Part:
        kept = chosen(self.samples)
        return Part(self.samples.take(kept), self.answers[kept])


@dataclass(frozen=True, slots=True)
class Floor:
    """The two parts of the first data set that are kept."""

    held: Part
    learned: Part

    def __len__(self) -> int:
        return len(self.held) + len(self.learned)


def lay(held: Samples, learned: Samples, first: Ask) -> Floor:
    """A floor of what was held out and of what was learned from, on the answers of the first version."""
    held, learned = _some_of_each(held), _some_of_each(learned)
    return Floor(Part(held, first(held.images)), Part(learned, first(learned.images)))


def _some_of_each(samples: Samples) -> Samples:
    image_bytes = samples.images.nbytes // max(1, len(samples))
    quota = max(1, min(SAMPLES, BYTES // max(1, image_bytes)) // len(samples.classes))
    chosen = [np.flatnonzero(samples.labels == label)[:quota] for label in np.unique(samples.labels)]
    return samples.take(np.sort(np.concatenate(chosen))) if chosen else samples


def encode_floor(floor: Floor) -> bytes:
    classes, parts = floor.held.samples.classes, (floor.held, floor.learned)
    images, labels = (np.concatenate([getattr(p.samples, name) for p in parts]) for name in ("images", "labels"))
    answers = [classes[int(position)] for part in parts for position in part.answers]
    sources = [HELD] * len(floor.held) + [LEARNED] * len(floor.learned)
    return encode_shard(make_shard(images, labels, source=sources, metadata=answers))


def decode_floor(data: bytes, classes: tuple[str, ...]) -> Floor:
    """Raises IntegrityError for what is no shard, ValueError for an answer that is no class."""
    shard = decode_shard(data)
    samples = from_shard(shard, classes)
    answers = np.array([classes.index(str(name)) for name in shard.metadata], dtype=np.int64)
    chosen = [np.flatnonzero(shard.source == name) for name in (HELD, LEARNED)]
    return Floor(*(Part(samples.take(index), answers[index]) for index in chosen))


def score_from_first(floor: Floor, candidate: Ask) -> FirstScores:
    """The candidate on both parts, the first version in its parent's place."""
    held, learned = (score(candidate(p.samples.images), p.answers, p.samples) for p in (floor.held, floor.learned))
    return FirstScores(held=held, learned=learned)
