"""Tests that stay honest while one looks at them after every label.

A fixed-sample test that is read after every label promotes a worse model sooner or later. The tests here are bets: a
player who may only lose money when the hypothesis holds multiplies it against the hypothesis, and a wealth of 1/α is
evidence at level α at whatever moment one looks (Ville's inequality; Waudby-Smith & Ramdas, arXiv 2010.09686; Howard et
al., arXiv 1810.08240). The bets are fixed fractions, mixed with equal weight, so a wealth depends only on how often each
gain occurred: a `Gains` histogram is the whole state of a test. That makes it cheap, independent of the order of its
observations, and repeatable bit for bit.

The drift detector is the e-detector of Shin, Ramdas & Rinaldo (arXiv 2203.03532) in its Shiryaev-Roberts form.
What is counted, and in which order, is decided in `state` and `evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Fractions of the wealth that are bet, mixed with equal weight."""

Gains = Mapping[float, int]
"""How often each gain D = correct(new) − correct(old) in [−1, 1] occurred; a cluster counts once, with its mean."""


def logsumexp(values: Iterable[float]) -> float:
    """Log Σ exp(v), without overflow; −inf for no values."""
    terms = list(values)
    top = max(terms, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(v - top) for v in terms))


def log_mean_exp(values: Iterable[float]) -> float:
    terms = list(values)
    return logsumexp(terms) - math.log(len(terms)) if terms else -math.inf


def log_wealth_above(gains: Gains, bound: float) -> float:
    """Evidence that the mean gain is above `bound`: log mean_f Π(1 + f·(D − bound)/(1 + bound)).

    With bound = −m this is E, the promotion test: it rejects "new ≤ old − m" (a sequential McNemar test at m = 0).
    """
    return _log_wealth(gains, lambda gain: (gain - bound) / (1 + bound))


def log_wealth_below(gains: Gains, bound: float) -> float:
    """Evidence that the mean gain is below `bound`: log mean_f Π(1 − f·(D − bound)/(1 − bound)).

    With bound 0 this is R, the rollback test; with bound = −w over the pairs of one class, the class veto.
    """
    return _log_wealth(gains, lambda gain: (bound - gain) / (1 - bound))


def _log_wealth(gains: Gains, payoff: Callable[[float], float]) -> float:
    pays = [(payoff(gain), gains[gain]) for gain in sorted(gains) if gains[gain]]
    return log_mean_exp(math.fsum(n * math.log1p(f * pay) for pay, n in pays) for f in BETS)


def mean_gain(gains: Gains) -> float:
    """Mean of the gains; 0 without observations."""
    total = sum(gains.values())
    return math.fsum(gain * gains[gain] for gain in sorted(gains)) / total if total else 0.0


def confidence_sequence(gains: Gains, alpha: float = 0.05) -> tuple[float, float]:
    """Bounds that hold the true mean gain at all times together with probability 1 − α.

    The bounds are where the two one-sided wealths reach 2/α: those means are rejected. Both wealths are monotone in the
    mean, so bisection finds them.
    """
    if not any(gains.values()):
        return -1.0, 1.0
    limit = math.log(2 / alpha)
    lower = _last_rejected(lambda mean: log_wealth_above(gains, mean) >= limit, -1.0, 1.0)
    upper = _last_rejected(lambda mean: log_wealth_below(gains, mean) >= limit, 1.0, -1.0)
    return lower, upper


def _last_rejected(rejected: Callable[[float], bool], start: float, end: float, steps: int = 24) -> float:
    """Bisect from `start` (the far side, rejected if anything is) towards `end`; precise to 2·2^-steps."""
    low, high = start, end
    for _ in range(steps):
        middle = (low + high) / 2
        if rejected(middle):
            low = middle
        else:
            high = middle
    return low


@dataclass(slots=True)
class PairedTest:
    """The three tests of a candidate against its baseline, over one histogram per class."""

    margin: float
    worst_class_margin: float
    gains: dict[float, int] = field(default_factory=dict)
    classes: dict[str, dict[float, int]] = field(default_factory=dict)

    def add(self, gain: float, class_name: str) -> None:
        """Count one observation. O(1).

        Raises:
            ValueError: the gain is outside [−1, 1].
        """
        if not -1 <= gain <= 1:
            raise ValueError(f"gain: must lie in [-1, 1] (got {gain!r}); it is a difference of two accuracies")
        self.gains[gain] = self.gains.get(gain, 0) + 1
        by_class = self.classes.setdefault(class_name, {})
        by_class[gain] = by_class.get(gain, 0) + 1

    @property
    def observations(self) -> int:
        return sum(self.gains.values())

    @property
    def log_not_inferior(self) -> float:
        """Log E."""
        return log_wealth_above(self.gains, -self.margin)

    @property
    def log_worse(self) -> float:
        """Log R."""
        return log_wealth_below(self.gains, 0.0)

    def log_class_loss(self, class_name: str) -> float:
        """Evidence that this class lost more than the worst-class margin; 0 for a class without observations."""
        return log_wealth_below(self.classes.get(class_name, {}), -self.worst_class_margin)

    def log_class_veto(self, class_count: int) -> float:
        """Log G: the mean over all classes of the model; a class without observations holds the wealth 1 it began with."""
        seen = [self.log_class_loss(name) for name in sorted(self.classes)]
        return log_mean_exp(seen + [0.0] * max(0, class_count - len(seen))) if class_count or seen else 0.0


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) without trials. z = 1.959964: 95 % two-sided; 1.2816: 90 % one-sided."""
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, z * z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


ONE_SIDED_90 = 1.2816
RATIOS = (1.5, 2.0, 3.0, 5.0)
"""Odds ratios of the error rates the drift detector bets on."""
BASELINE_FLOOR = 0.005
ARM_AT = 300
RECOMPUTE_AT = 1000


@dataclass(slots=True)
class EDetector:
    """Watch the error rate of one version for a lasting rise; expected labels between false alarms = `false_alarm_every`.

    The baseline p0 is the one-sided 90 % Wilson upper bound of the first 300 labels' error: with the plain estimate 15 %
    of runs raise a false alarm within 1 000 labels, with the bound 3 %. It is recomputed once at 1 000 labels, then frozen.
    """

    false_alarm_every: float
    labels: int = 0
    errors: int = 0
    baseline: float | None = None
    statistics: list[float] = field(default_factory=lambda: [0.0] * len(RATIOS))
    alarms: int = 0
    _factors: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def update(self, error: bool) -> bool:
        """Count one label, in O(1); True when it raises an alarm (the statistic then starts anew)."""
        self.labels += 1
        alarm = False
        if self.baseline is not None:
            sums = self.statistics
            total = 0.0
            for index, factor in enumerate(self._factors[error]):
                sums[index] = value = (sums[index] + 1.0) * factor
                total += value
            alarm = total >= self.false_alarm_every * len(RATIOS)
        if self.labels <= RECOMPUTE_AT:
            self.errors += error
            if self.labels in (ARM_AT, RECOMPUTE_AT):
                self._set_baseline(wilson(self.errors, self.labels, ONE_SIDED_90)[1])
        if alarm:
            self.alarms += 1
            self.statistics = [0.0] * len(RATIOS)
        return alarm

    def _set_baseline(self, upper: float) -> None:
        self.baseline = p0 = min(max(upper, BASELINE_FLOOR), 1 - BASELINE_FLOOR)
        alternatives = [ratio * p0 / (1 - p0 + ratio * p0) for ratio in RATIOS]
        # 1 + L(x − p0) with L = (p1 − p0)/(p0(1 − p0)) is the likelihood ratio: (1−p1)/(1−p0) for x = 0, p1/p0 for x = 1.
        self._factors = (tuple((1 - p1) / (1 - p0) for p1 in alternatives), tuple(p1 / p0 for p1 in alternatives))

    @property
    def armed(self) -> bool:
        return self.baseline is not None

    @property
    def log_statistic(self) -> float:
        """Log of the mean of the statistics; 0 at the start, so that it always is a number."""
        return math.log(max(1.0, sum(self.statistics) / len(RATIOS)))

    @property
    def log_threshold(self) -> float:
        return math.log(self.false_alarm_every)

    def dump(self) -> dict[str, Any]:
        """State as JSON values; floats survive JSON exactly."""
        return {
            "every": self.false_alarm_every, "labels": self.labels, "errors": self.errors,
            "baseline": self.baseline, "statistics": self.statistics, "alarms": self.alarms,
        }  # fmt: skip

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> EDetector:
        detector = cls(state["every"], state["labels"], state["errors"])
        detector.alarms = state["alarms"]
        if state["baseline"] is not None:
            detector._set_baseline(state["baseline"])
        detector.statistics = list(state["statistics"])
        return detector


def e_lond(alpha: float, candidate: int, promotions: int) -> float:
    """Level of the j-th candidate of a period (j from 1): α·(promotions so far + 1)/(j(j + 1)); the first gets α/2.

    Keeps the expected share of false promotions below α over the period (Xu & Ramdas, e-LOND).
    """
    return alpha * (promotions + 1) / (candidate * (candidate + 1))
