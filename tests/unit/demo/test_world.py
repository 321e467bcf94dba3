"""The demo's images and its parts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from continual_cli.demo import world


@pytest.fixture(scope="module")
def digits() -> world.Digits:
    return world.load_digits()


def test_every_digit_has_exactly_one_part(digits: world.Digits) -> None:
    """No digit that trains is ever score-only, and none judges twice: the parts are disjoint and complete."""
    cast = world.deal(len(digits.labels), seed=3)
    parts = [cast.bootstrap, cast.score_only, *cast.pools.values()]
    everyone = [digit for part in parts for digit in part]
    assert sorted(everyone) == list(range(1797))
    assert (len(cast.bootstrap), cast.streamed, len(cast.score_only)) == (600, 1197, 399)


def test_every_verdict_has_enough_digits_of_its_own() -> None:
    """A gate of 100 labels needs a pool of more than 100 digits: repeated digits are one observation."""
    pools = world.deal(1797, seed=0).pools
    assert {name: len(pool) > 100 for name, pool in pools.items()} == dict.fromkeys(world.POOL_WEIGHTS, True)


def test_an_upright_digit_keeps_its_ink(digits: world.Digits) -> None:
    """Drawing in calm weather scales the 8x8 digit by three: its total darkness stays."""
    still = world.Weather(jitter_pixels=0, jitter_degrees=0, jitter_contrast=0)
    image = world.draw(digits.ink[0], still, np.random.default_rng(0))
    assert image.shape == (28, 28, 1)
    assert image.dtype == np.uint8
    assert image.sum() / 255 == pytest.approx(digits.ink[0].sum() * 9, rel=0.1)


def test_the_same_seed_draws_the_same_images(digits: world.Digits) -> None:
    """A run can be repeated: jitter comes from the generator handed in, from nowhere else."""
    first, second = (world.draw(digits.ink[5], world.DRIFTED, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, world.draw(digits.ink[5], world.CALM, np.random.default_rng(7)))


def test_the_bootstrap_set_holds_600_images_and_no_objects(digits: world.Digits) -> None:
    """The first training set is plain arrays, readable without pickle."""
    cast = world.deal(len(digits.labels), seed=0)
    with np.load(io.BytesIO(world.bootstrap_npz(digits, cast, seed=0)), allow_pickle=False) as arrays:
        assert arrays["image"].shape == (600, 28, 28, 1)
        assert arrays["label"].tolist() == [int(digits.labels[i]) for i in cast.bootstrap]
