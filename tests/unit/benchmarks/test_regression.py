"""What CI calls a regression of serving: a fifth of a ratio lost, of one network is enough."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks" / "serving"))

from regression import REFERENCE, ratio_of, regressions


@pytest.mark.parametrize(
    ("lenet5", "cnn3", "lost"),
    [(10.0, 5.0, []), (8.1, 4.1, []), (7.9, 5.0, ["lenet5"]), (30.0, 3.9, ["cnn3"]), (7.0, 3.0, ["lenet5", "cnn3"])],
)
def test_a_fifth_of_a_ratio_lost_is_a_regression(lenet5: float, cnn3: float, lost: list[str]) -> None:
    """A gain of one network makes up for nothing."""
    assert regressions({"lenet5": lenet5, "cnn3": cnn3}, {"lenet5": 10.0, "cnn3": 5.0}) == lost


def test_a_reference_is_on_record() -> None:
    """Without it nothing would be compared."""
    assert set(regressions({"lenet5": 0.0, "cnn3": 0.0}, {"lenet5": 1.0, "cnn3": 1.0})) == {"lenet5", "cnn3"}
    assert REFERENCE.is_file()


def test_a_ratio_that_looks_lost_is_measured_again() -> None:
    """One dear round of ours, and of the seeds' loop, passes by; the cheapest of each side count."""
    rounds = iter([(500.0, 150.0), (480.0, 140.0), (490.0, 100.0), (470.0, 90.0)])
    assert ratio_of(lambda: next(rounds), 4.5, 2, 10) == 4.8
    assert next(rounds) == (470.0, 90.0), "a ratio that holds is measured no more"


def test_what_became_dear_stays_lost() -> None:
    """Mutation check of the further rounds: they are no way out."""
    taken = []
    assert ratio_of(lambda: (taken.append(1), (500.0, 150.0))[1], 4.0, 3, 12) == 3.33
    assert len(taken) == 12
