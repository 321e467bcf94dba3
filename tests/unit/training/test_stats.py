"""One-pass statistics agree with the two-pass ones, however the data are cut."""

from __future__ import annotations

import numpy as np
import pytest
from continual_workers.training.stats import batches_of, merge, moments_of, normalization_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3])))


@given(IMAGES, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_one_pass_equals_two_passes(images: np.ndarray, size: int) -> None:
    """Merging batches of any size gives numpy's mean and std per channel, to six digits."""
    channels = images.shape[-1]
    pixels = images.reshape(-1, channels) / 255
    normalization = normalization_of(batches_of(images, size), channels)
    assert normalization.mean == pytest.approx(pixels.mean(axis=0), abs=2e-6)
    assert normalization.std == pytest.approx(np.maximum(pixels.std(axis=0), 1e-3), abs=2e-6)


@given(IMAGES)
@settings(max_examples=30, deadline=None)
def test_merging_is_symmetric(images: np.ndarray) -> None:
    """Order does not matter: a then b has the moments of b then a."""
    a, b = moments_of(images[: len(images) // 2]), moments_of(images[len(images) // 2 :])
    assert merge(a, b).mean == pytest.approx(merge(b, a).mean)
    assert merge(a, b).m2 == pytest.approx(merge(b, a).m2)


def test_no_images_normalise_by_nothing() -> None:
    """Without data: mean 0, std 1."""
    normalization = normalization_of([], 3)
    assert (normalization.mean, normalization.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_a_large_offset_does_not_cancel() -> None:
    """Welford's point: nearly constant bright pixels keep their tiny variance."""
    images = np.full((1000, 4, 4, 1), 254, dtype=np.uint8)
    images[::2] = 255
    assert normalization_of(batches_of(images, 7), 1).std[0] == pytest.approx(0.5 / 255, rel=1e-3)
