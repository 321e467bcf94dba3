"""The watch over one version, and the label-free signals."""

from __future__ import annotations

import json

import numpy as np
from continual_contract.config import DriftWatch
from continual_workers.evaluation.drift import Watch
from continual_workers.evaluation.signals import REFERENCE, WINDOW, Prediction, Signals, compare

ORDER = DriftWatch(version="v1", since="0-0", false_alarm_every=10_000.0)


def watched(marks: list[bool]) -> Watch:
    watch = Watch(ORDER)
    for number, mark in enumerate(marks):
        watch.update(f"{number}-0", mark)
    return watch


def drawn(rate: float, count: int, seed: int) -> list[bool]:
    marks: list[bool] = (np.random.default_rng(seed).random(count) < rate).tolist()
    return marks


def test_a_rise_raises_an_alarm_and_adwin_agrees() -> None:
    """From 5 to 40 % errors: the alarm names the request and how many labels had counted."""
    watch = watched(drawn(0.05, 1000, 1) + drawn(0.40, 400, 2))
    report = watch.report()
    assert report.alarms >= 1
    assert report.last_alarm_labels is not None
    assert report.last_alarm_labels > 1000
    assert report.last_alarm_request is not None
    assert report.second_opinion


def test_a_fall_of_errors_is_no_drift() -> None:
    """ADWIN fires in both directions; only a rise is an opinion."""
    report = watched(drawn(0.40, 1000, 1) + drawn(0.02, 1000, 2)).report()
    assert (report.alarms, report.second_opinion) == (0, False)


def test_a_stored_watch_goes_on_as_if_never_stored() -> None:
    """ADWIN is rebuilt from the marks it has seen."""
    marks = drawn(0.05, 900, 3) + drawn(0.30, 300, 4)
    whole, first = watched(marks), watched(marks[:950])
    second = Watch.load(json.loads(json.dumps(first.dump())), first.marks.decode())
    for number, mark in enumerate(marks[950:], 950):
        second.update(f"{number}-0", mark)
    assert second.dump() == whole.dump()
    assert second.marks == whole.marks


def predictions(
    rng: np.random.Generator, count: int, sharp: float = 8.0, prior: list[float] | None = None
) -> list[Prediction]:
    names = rng.choice(10, size=count, p=prior)
    confidences = rng.beta(sharp, 1.0, size=count).round(4)
    return [(str(name), float(confidence)) for name, confidence in zip(names, confidences, strict=True)]


def test_the_false_alarm_budget_holds_on_a_thousand_clean_windows() -> None:
    """At most 0.1 % of clean windows are meant to be flagged: of 1000, at most 5 (p < .001 under the budget)."""
    rng = np.random.default_rng(11)
    flagged = sum(compare(predictions(rng, REFERENCE), predictions(rng, WINDOW)).flagged for _ in range(1000))
    assert flagged <= 5


def test_shifts_of_confidence_and_of_classes_are_flagged() -> None:
    """Eight shifts: four of the confidences, four of the classes."""
    rng = np.random.default_rng(12)
    shifted = [predictions(rng, WINDOW, sharp=sharp) for sharp in (2.0, 4.0, 12.0, 20.0)]
    for rare in (0, 3, 5, 9):
        prior = [0.02 if name == rare else 0.98 / 9 for name in range(10)]
        shifted.append(predictions(rng, WINDOW, prior=prior))
    reference = predictions(rng, REFERENCE)
    assert all(compare(reference, window).flagged for window in shifted)


def test_signals_compare_windows_with_the_first_predictions() -> None:
    """A reference of 1000 predictions, then windows of 500; the report shows the last one."""
    rng = np.random.default_rng(13)
    signals = Signals("v1")
    for name, confidence in predictions(rng, REFERENCE + WINDOW):
        signals.update(name, confidence)
    assert (signals.report().windows, signals.report().flagged) == (1, False)
    for name, confidence in predictions(rng, WINDOW, sharp=1.5):
        signals.update(name, confidence)
    report = signals.report()
    assert (report.windows, report.flagged) == (2, True)
    again = Signals.load(json.loads(json.dumps(signals.dump())), signals.reference)
    assert again.report() == report
