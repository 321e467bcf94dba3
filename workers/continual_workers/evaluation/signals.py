"""Label-free signals: has what goes in or comes out changed its shape?

Per window of predictions of the stable version: Kolmogorov-Smirnov on the confidences and chi-square on the predicted
classes, both against the first predictions after the version became stable. They may ask for labels, widen the shadow or
pause a rollout. They never promote and never start a training by themselves: a changed class prior costs no accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from continual_contract.report import SignalState
from scipy.stats import chi2_contingency, ks_2samp

REFERENCE = 1000
WINDOW = 500
FALSE_ALARM_BUDGET = 0.001
"""Chance that one clean window is flagged; half of it for each of the two tests."""

Prediction = tuple[str, float]
"""Class name and confidence."""


@dataclass(frozen=True, slots=True)
class WindowTest:
    """`ks` is the distance of the confidences' distributions, `ks_p` and `chi2_p` are p-values."""

    ks: float
    ks_p: float
    chi2_p: float

    @property
    def flagged(self) -> bool:
        return min(self.ks_p, self.chi2_p) < FALSE_ALARM_BUDGET / 2


def compare(reference: list[Prediction], window: list[Prediction]) -> WindowTest:
    """Test one window against the reference."""
    old, new = ([confidence for _, confidence in part] for part in (reference, window))
    ks = ks_2samp(old, new, method="asymp")
    return WindowTest(float(ks.statistic), float(ks.pvalue), _classes_p(reference, window))


def _classes_p(reference: list[Prediction], window: list[Prediction]) -> float:
    """Chi-square p-value; classes seen fewer than 10 times in both together form one column, as the test needs."""
    old, new = (Counter(name for name, _ in part) for part in (reference, window))
    names = sorted(old | new)
    frequent = [name for name in names if old[name] + new[name] >= 10]
    columns = [(old[name], new[name]) for name in frequent]
    rest = [name for name in names if name not in set(frequent)]
    if rest:
        columns.append((sum(old[name] for name in rest), sum(new[name] for name in rest)))
    if len(columns) < 2:
        return 1.0
    return float(chi2_contingency(np.array(columns).T, correction=False).pvalue)


@dataclass(slots=True)
class Signals:
    """The windows of one version."""

    version: str = ""
    reference: list[Prediction] = field(default_factory=list)
    window: list[Prediction] = field(default_factory=list)
    windows: int = 0
    last: WindowTest | None = None

    def update(self, class_name: str, confidence: float) -> None:
        if len(self.reference) < REFERENCE:
            self.reference.append((class_name, confidence))
            return
        self.window.append((class_name, confidence))
        if len(self.window) >= WINDOW:
            self.last = compare(self.reference, self.window)
            self.windows += 1
            self.window = []

    def report(self) -> SignalState:
        last = self.last
        if last is None:
            return SignalState(windows=self.windows)
        return SignalState(windows=self.windows, confidence_ks=last.ks, class_chi2_p=last.chi2_p, flagged=last.flagged)

    def dump(self) -> dict[str, Any]:
        last = self.last
        return {
            "version": self.version, "window": self.window, "windows": self.windows,
            "last": [last.ks, last.ks_p, last.chi2_p] if last else None,
        }  # fmt: skip

    @classmethod
    def load(cls, state: Mapping[str, Any], reference: list[Prediction]) -> Signals:
        last = WindowTest(*state["last"]) if state["last"] else None
        window = [(name, confidence) for name, confidence in state["window"]]
        return cls(state["version"], reference, window, state["windows"], last)
