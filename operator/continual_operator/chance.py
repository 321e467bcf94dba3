"""How surprising a count is: a holdout of a hundred samples must not convict by luck."""

from __future__ import annotations

import math


def binomial_tail(count: float, trials: float, share: float) -> float:
    """P(X ≥ count) for X ~ Binomial(trials, share), in 0..1. Counts that are sums of floats are taken to the nearest whole number.

    Source: Clopper & Pearson, Biometrika 26 (1934), the exact tail.
    """
    k, n = round(count), round(trials)
    if k <= 0 or share >= 1.0:
        return 1.0 if k <= n else 0.0
    if k > n or share <= 0.0:
        return 0.0
    hit, miss, ways = math.log(share), math.log1p(-share), math.lgamma(n + 1)
    terms = (
        math.exp(ways - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * hit + (n - i) * miss) for i in range(k, n + 1)
    )
    return min(1.0, math.fsum(terms))
