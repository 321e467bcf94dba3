"""The always-valid tests: their tables, and the properties that make them honest."""

from __future__ import annotations

import json
import math
import random
import time

import numpy as np
import pytest
from continual_workers.evaluation.statistics import (
    BETS,
    EDetector,
    PairedTest,
    confidence_sequence,
    e_lond,
    log_wealth_above,
    log_wealth_below,
    mean_gain,
    wilson,
)
from hypothesis import given
from hypothesis import strategies as st

gains = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), max_size=60)
LEVEL = math.log(20)


def histogram(values: list[float]) -> dict[float, int]:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


@pytest.mark.parametrize(("margin", "labels"), [(0.01, 467), (0.02, 232), (0.03, 154), (0.05, 92)])
def test_without_discordance_a_promotion_needs_the_documented_labels(margin: float, labels: int) -> None:
    """Rule 6: at alpha .05, 467/232/154/92 concordant pairs at m = .01/.02/.03/.05, not one fewer."""
    assert log_wealth_above({0.0: labels}, -margin) >= LEVEL > log_wealth_above({0.0: labels - 1}, -margin)


def test_the_first_candidates_half_level_needs_278_labels() -> None:
    """Rule 6: at alpha/2 and m = .02."""
    assert log_wealth_above({0.0: 278}, -0.02) >= math.log(40) > log_wealth_above({0.0: 277}, -0.02)


@given(gains, st.floats(0.0, 0.2))
def test_the_wealths_are_those_of_the_formulas(values: list[float], margin: float) -> None:
    """E and R from histograms equal the products of the paper's bets, taken one by one."""
    products = [math.prod(1 + f / (1 - margin) * (d + margin) for d in values) for f in BETS]
    assert log_wealth_above(histogram(values), -margin) == pytest.approx(math.log(sum(products) / len(BETS)), abs=1e-9)
    products = [math.prod(1 - f * d for d in values) for f in BETS]
    assert log_wealth_below(histogram(values), 0.0) == pytest.approx(math.log(sum(products) / len(BETS)), abs=1e-9)


@given(gains, st.randoms(use_true_random=False))
def test_the_order_of_observations_changes_no_bit(values: list[float], shuffler: random.Random) -> None:
    """Permutation: the same observations in another order give identical numbers."""
    tests = []
    for _ in range(2):
        test = PairedTest(0.02, 0.05)
        for value in values:
            test.add(value, "a")
        tests.append((test.log_not_inferior, test.log_worse, test.log_class_veto(10), confidence_sequence(test.gains)))
        shuffler.shuffle(values)
    assert tests[0] == tests[1]


@given(gains)
def test_the_confidence_sequence_holds_the_mean_and_shrinks_onto_it(values: list[float]) -> None:
    """Bounds lie in [-1, 1] around the observed mean; what they exclude is exactly what the wealths reject."""
    counts = histogram(values)
    lower, upper = confidence_sequence(counts)
    assert -1 <= lower <= mean_gain(counts) <= upper <= 1
    if lower > -0.999:
        assert log_wealth_above(counts, lower - 1e-4) >= math.log(40) - 1e-6
    if upper < 0.999:
        assert log_wealth_below(counts, upper + 1e-4) >= math.log(40) - 1e-6


def test_the_confidence_sequence_misses_rarely_however_often_one_looks() -> None:
    """Over 400 runs of 600 pairs with a look every 10, the true mean is rejected in at most 5 %."""
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(400):
        draws = rng.choice([-1.0, 0.0, 1.0], size=600, p=[0.03, 0.92, 0.05])
        looks = [histogram(draws[:n].tolist()) for n in range(10, 601, 10)]
        worst = max(max(log_wealth_above(counts, 0.02), log_wealth_below(counts, 0.02)) for counts in looks)
        misses += worst >= math.log(40)
    assert misses <= 0.05 * 400


@given(st.dictionaries(st.sampled_from("abcd"), gains, max_size=4))
def test_the_class_veto_is_the_mean_over_all_classes(by_class: dict[str, list[float]]) -> None:
    """Classes without an observation hold the wealth they began with."""
    test = PairedTest(0.02, 0.05)
    for name, values in by_class.items():
        for value in values:
            test.add(value, name)
    each = [math.prod(1 + f / 1.05 * (-d - 0.05) for d in by_class.get(name, [])) for name in "abcd" for f in BETS]
    assert test.log_class_veto(4) == pytest.approx(math.log(sum(each) / len(each)), abs=1e-9)


def test_a_gain_outside_its_range_is_refused() -> None:
    """An impossible observation is an error, not evidence."""
    with pytest.raises(ValueError, match=r"gain: must lie in \[-1, 1\]"):
        PairedTest(0.02, 0.05).add(1.5, "a")


@pytest.mark.parametrize(
    ("successes", "trials", "lower", "upper"), [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (90, 100, 0.8256, 0.9448)]
)
def test_wilson_intervals(successes: int, trials: int, lower: float, upper: float) -> None:
    """Known values of the score interval."""
    assert wilson(successes, trials) == pytest.approx((lower, upper), abs=1e-4)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_holds_the_share(successes: int, trials: int) -> None:
    """Lower ≤ share ≤ upper, inside [0, 1]."""
    successes = min(successes, trials)
    lower, upper = wilson(successes, trials)
    assert 0 <= lower <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= upper <= 1


def test_e_lond_spends_less_than_alpha_without_discoveries() -> None:
    """Levels of a period sum to at most alpha while nothing is promoted; the first candidate gets a half."""
    assert e_lond(0.05, 1, 0) == 0.025
    assert sum(e_lond(0.05, j, 0) for j in range(1, 10_000)) <= 0.05


# -- drift --


def errors(rng: np.random.Generator, rate: float, count: int) -> list[bool]:
    drawn: list[bool] = (rng.random(count) < rate).tolist()
    return drawn


def test_the_detector_is_armed_after_300_labels_and_frozen_after_1000() -> None:
    """The baseline is the one-sided 90 % Wilson bound of the first labels, computed at 300 and at 1000, then never again."""
    detector = EDetector(10_000)
    rng = np.random.default_rng(3)
    seen = []
    for index, error in enumerate(errors(rng, 0.05, 1500), 1):
        detector.update(error)
        if index in (299, 300, 999, 1000, 1500):
            seen.append(detector.baseline)
    assert seen[0] is None
    assert seen[1] == seen[2] is not None
    assert seen[3] == seen[4] == wilson(detector.errors, 1000, 1.2816)[1]


def test_drift_from_10_to_20_percent_is_found_within_180_labels() -> None:
    """The goal of the bar: median delay at most 180 labels, with a baseline of 1000 labels."""
    rng = np.random.default_rng(5)
    delays = []
    for _ in range(200):
        detector = EDetector(10_000)
        for error in errors(rng, 0.10, 1000):
            detector.update(error)
        delay = next((n for n, error in enumerate(errors(rng, 0.20, 3000), 1) if detector.update(error)), 3000)
        delays.append(delay)
    assert np.median(delays) <= 180
    assert max(delays) < 3000


@pytest.mark.parametrize("rate", [0.02, 0.08])
def test_false_alarms_within_1000_labels_are_rare(rate: float) -> None:
    """At most 5 % of stationary runs raise an alarm within their first 1000 labels."""
    rng = np.random.default_rng(7)
    alarmed = 0
    for _ in range(400):
        detector = EDetector(10_000)
        alarmed += sum(map(detector.update, errors(rng, rate, 1000))) > 0
    assert alarmed <= 0.05 * 400


def test_mutation_with_the_plain_estimate_false_alarms_are_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Wilson bound about 15 % of runs raise a false alarm: the bound is what the test above pins."""
    monkeypatch.setattr("continual_workers.evaluation.statistics.ONE_SIDED_90", 0.0)
    rng = np.random.default_rng(7)
    alarmed = 0
    for _ in range(400):
        detector = EDetector(10_000)
        alarmed += sum(map(detector.update, errors(rng, 0.08, 1000))) > 0
    assert alarmed > 0.08 * 400


def test_a_label_costs_the_detector_less_than_five_microseconds() -> None:
    """O(1) per label; the best of five rounds, so that a busy machine does not decide."""
    marks = errors(np.random.default_rng(0), 0.1, 20_000)
    rounds = []
    for _ in range(5):
        detector = EDetector(10_000)
        begun = time.perf_counter()
        for mark in marks:
            detector.update(mark)
        rounds.append((time.perf_counter() - begun) / len(marks))
    assert min(rounds) < 5e-6


@given(st.integers(0, 2500), st.integers(0, 2**32 - 1))
def test_a_stored_detector_goes_on_as_if_never_stored(cut: int, seed: int) -> None:
    """Through JSON and back at any label, every later number is the same."""
    marks = errors(np.random.default_rng(seed), 0.08, 2600)
    whole = EDetector(10_000)
    for mark in marks:
        whole.update(mark)
    first = EDetector(10_000)
    for mark in marks[:cut]:
        first.update(mark)
    second = EDetector.load(json.loads(json.dumps(first.dump())))
    for mark in marks[cut:]:
        second.update(mark)
    assert second.dump() == whole.dump()
