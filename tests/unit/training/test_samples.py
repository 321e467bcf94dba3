"""What is held out stays held out, and splits are the same everywhere."""

from __future__ import annotations

import numpy as np
from continual_contract.artifacts import InputShape
from continual_workers.training.samples import Samples, concatenate, split_held_out, validation_split, without
from hypothesis import given
from hypothesis import strategies as st

CLASSES = ("a", "b", "c")


def random_samples(count: int, seed: int = 0, k: tuple[str, ...] = ()) -> Samples:
    rng = np.random.default_rng(seed)
    return Samples(rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8), rng.integers(0, 3, count), CLASSES, k)


def test_a_sample_is_held_out_by_its_pixels_alone() -> None:
    """Order and company do not matter: the same image falls on the same side."""
    samples = random_samples(300)
    train, held = split_held_out(samples, 10)
    shuffled_train, shuffled_held = split_held_out(samples.take(np.arange(300)[::-1]), 10)
    assert {i.tobytes() for i in held.images} == {i.tobytes() for i in shuffled_held.images}
    assert len(train) + len(held) == 300
    assert len(shuffled_train) == len(train)
    assert 10 <= len(held) <= 55


def test_samples_of_one_key_are_never_separated() -> None:
    """Frames of one video (equal `k`) are all held out, or none is."""
    samples = random_samples(200, k=tuple(f"video{i // 10}" for i in range(200)))
    train, held = split_held_out(samples, 30)
    assert set(train.k) & set(held.k) == set()
    assert len(held) % 10 == 0


def test_nothing_held_out_is_left_in_training() -> None:
    """Neither the same pixels under another key, nor the same key with other pixels."""
    held = random_samples(2, k=("x", "y"))
    same_pixels = Samples(held.images[:1], held.labels[:1], CLASSES, ("other",))
    same_key = random_samples(1, seed=5, k=("y",))
    free = random_samples(3, seed=6, k=("", "", ""))
    everything = concatenate([same_pixels, same_key, free], InputShape(height=4, width=4, channels=1), CLASSES)
    assert without(everything, held).images.tobytes() == free.images.tobytes()


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 9))
def test_a_validation_split_is_a_partition_by_class(labels: list[int], seed: int) -> None:
    """Every index on exactly one side, every class of two or more keeps a training sample."""
    array = np.array(labels, dtype=np.int64)
    train, validation = validation_split(array, 25, np.random.default_rng(seed))
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(labels)))
    assert set(array[train].tolist()) == set(labels)
