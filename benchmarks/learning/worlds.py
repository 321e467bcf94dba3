"""The data of the benchmark: one labelled set, divided once, and the streams of experiences made of it.

Digits: scikit-learn's 1 797 real images, stratified 1257/540 with `random_state=0`. Three streams: `class` (five times two
classes, in random order), `corr` (clean, inverted, noise, low contrast, shifted) and `rot` (0 to 144°); in the last two
every experience shows all training images. With `--data DIR` the sets a training Job reads (MNIST, Fashion-MNIST, CIFAR-10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from continual_contract.artifacts import DatasetRef, InputShape
from continual_workers.training.datasets import digits_images, load_dataset
from continual_workers.training.samples import Images, Labels, Samples
from PIL import Image

EXPERIENCES = 5
DIGITS = tuple("0123456789")


@dataclass(frozen=True, slots=True)
class World:
    """Which data, which network. `validation`: test on a fifth of the training part, for choosing hyper-parameters."""

    dataset: str = "digits"
    size: int = 8
    architecture: str = "mlp"
    folder: str = ""
    limit: int = 5000
    """Most training images of a large set (a stratified draw), and most test images: a fifth of it."""
    validation: bool = False

    @property
    def shape(self) -> InputShape:
        images = parts(self)[0].images
        return InputShape(height=images.shape[1], width=images.shape[2], channels=images.shape[3])


@dataclass(frozen=True, slots=True)
class Experience:
    """What is learned at once, and the unseen images by which it is judged."""

    train: Samples
    test: Samples


@lru_cache(maxsize=8)
def parts(world: World) -> tuple[Samples, Samples]:
    """(train, test)."""
    train, test = _digits(world.size) if world.dataset == "digits" else _named(world)
    return stratified(train, 0.2, 1) if world.validation else (train, test)


def _digits(size: int) -> tuple[Samples, Samples]:
    images, labels = digits_images(InputShape(height=size, width=size, channels=1))
    return stratified(Samples(images, labels, DIGITS), 540, 0)


def stratified(samples: Samples, test: float, seed: int) -> tuple[Samples, Samples]:
    """(train, test), every class in both by its share; `test` is a share or a number."""
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 -- seconds

    chosen = train_test_split(np.arange(len(samples)), test_size=test, stratify=samples.labels, random_state=seed)
    return samples.take(chosen[0]), samples.take(chosen[1])


def _named(world: World) -> tuple[Samples, Samples]:
    ref, root = DatasetRef(name=world.dataset), Path(world.folder)
    train, test = (load_dataset(ref, root, None, split=split) for split in ("train", "test"))
    return _at_most(train, world.limit), _at_most(test, world.limit // 5)


def _at_most(samples: Samples, limit: int) -> Samples:
    return samples if len(samples) <= limit else stratified(samples, limit, 0)[1]


def stream(world: World, kind: str, seed: int) -> list[Experience]:
    """The five experiences of a stream; the seed decides the order of classes and the noise."""
    train, test = parts(world)
    if kind == "class":
        order = np.random.default_rng([seed, 1]).permutation(len(train.classes))
        return [Experience(_of(train, c), _of(test, c)) for c in np.array_split(order, EXPERIENCES)]
    change = {"corr": _corrupted, "rot": _rotated}[kind]
    return [
        Experience(*(_changed(part, change, k, [seed, k, which]) for which, part in enumerate((train, test))))
        for k in range(EXPERIENCES)
    ]


def union(experiences: list[Experience]) -> Samples:
    """Everything of all experiences: what joint training sees."""
    first = experiences[0].train
    images = np.concatenate([e.train.images for e in experiences])
    return Samples(images, np.concatenate([e.train.labels for e in experiences]), first.classes)


def _of(samples: Samples, classes: Labels) -> Samples:
    return samples.take(np.flatnonzero(np.isin(samples.labels, classes)))


Change = Callable[[Images, int, list[int]], Images]


def _changed(samples: Samples, change: Change, k: int, seed: list[int]) -> Samples:
    return replace(samples, images=change(samples.images, k, seed))


def _rotated(images: Images, k: int, _: list[int]) -> Images:
    return turned(images, np.full(len(images), 36.0 * k))


def _corrupted(images: Images, k: int, seed: list[int]) -> Images:
    step = max(1, round(images.shape[1] / 8))
    return (
        lambda: images,
        lambda: 255 - images,
        lambda: noisy(images, 0.3, seed),
        lambda: contrast(images, 0.3),
        lambda: shifted(images, step, 0),
    )[k]()


def noisy(images: Images, sigma: float, seed: list[int]) -> Images:
    """Gaussian noise of standard deviation `sigma` on the 0..1 scale."""
    noise = np.random.default_rng(seed).normal(0, sigma * 255, images.shape)
    return as_pixels(images + noise)


def contrast(images: Images, share: float) -> Images:
    """`share` of the contrast around mid-grey."""
    return as_pixels(127.5 + (images.astype(np.float64) - 127.5) * share)


def shifted(images: Images, down: int, right: int) -> Images:
    """Moved by whole pixels; black comes in."""
    moved = np.zeros_like(images)
    height, width = images.shape[1:3]
    rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    from_rows, from_columns = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
    moved[:, rows, columns] = images[:, from_rows, from_columns]
    return moved


def turned(images: Images, degrees: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Images:
    """Each image turned by its own angle, bilinear; black comes in."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    rows = [
        np.asarray(Image.fromarray(image).rotate(float(angle), Image.Resampling.BILINEAR))
        for image, angle in zip(squeezed, degrees, strict=True)
    ]
    return np.stack(rows).reshape(images.shape)


def as_pixels(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Images:
    pixels: Images = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return pixels


def long_tailed(samples: Samples, ratio: float, seed: int) -> Samples:
    """Class sizes falling geometrically from all to 1/ratio of it (Cui et al. 2019), classes in random order."""
    rng = np.random.default_rng([seed, 2])
    largest, classes = int(samples.counts().min()), len(samples.classes)
    chosen = []
    for rank, label in enumerate(rng.permutation(classes)):
        keep = max(1, round(largest * ratio ** (-rank / (classes - 1))))
        chosen.append(rng.permutation(np.flatnonzero(samples.labels == label))[:keep])
    return samples.take(np.sort(np.concatenate(chosen)))
