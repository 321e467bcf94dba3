"""The gate on trial: what its tests do over thousands of simulated canaries, with a look after every label.

`continual simulate gate` and `python -m continual_workers.evaluation.simulate` print the table. Each row is one claim of
the guide: a measured figure, the bound it must keep, and whether it does. Runs are vectorised: one step adds one label to
every run at once, in linear wealth (a run that is decided leaves; a wealth that shrinks to 0 stays 0).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from continual_workers.evaluation.statistics import BETS, e_lond

Floats = npt.NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], npt.NDArray[np.int8]]

HORIZON = 5000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `holds` is None where the figure is shown for comparison only."""

    name: str
    value: float
    goal: str
    holds: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stops:
    """When each run's wealth first reached the level; −1 for never."""

    at: npt.NDArray[np.int64]

    @property
    def rate(self) -> float:
        return float((self.at >= 0).mean())

    def quantile(self, share: float) -> float:
        """Labels by which this share of all runs has stopped; inf if fewer ever do."""
        ordered = np.sort(np.where(self.at < 0, np.inf, self.at.astype(float)))
        return float(ordered[min(len(ordered) - 1, int(np.ceil(share * len(ordered))) - 1)])


def pays_above(gain: Floats, bound: float) -> Floats:
    """Payoff of a bet that the mean gain is above the bound; see `statistics.log_wealth_above`."""
    return (gain - bound) / (1 + bound)


def pays_below(gain: Floats, bound: float) -> Floats:
    return (bound - gain) / (1 - bound)


def first_crossing(gains: Sampler, pays: Floats, level: float, runs: int, horizon: int, seed: int) -> Stops:
    """Add labels to all runs at once, look after each; `pays` are the payoffs of D = −1, 0, 1."""
    rng = np.random.default_rng(seed)
    factors = 1 + np.multiply.outer(pays, np.array(BETS))
    wealth = np.ones((runs, len(BETS)))
    alive = np.arange(runs)
    at = np.full(runs, -1, dtype=np.int64)
    for label in range(1, horizon + 1):
        wealth *= factors[gains(rng, len(alive)) + 1]
        crossed = wealth.sum(axis=1) >= level * len(BETS)
        if crossed.any():
            at[alive[crossed]] = label
            alive, wealth = alive[~crossed], wealth[~crossed]
            if not len(alive):
                break
    return Stops(at)


def gains_of(gain: float, loss: float) -> Sampler:
    """Draw D = 1 with probability `gain` (only the new version is right), −1 with probability `loss`, else 0."""

    def draw(rng: np.random.Generator, size: int) -> npt.NDArray[np.int8]:
        point = rng.random(size, dtype=np.float32)
        return (point < gain).astype(np.int8) - (point >= 1 - loss).astype(np.int8)

    return draw


_D = np.array([-1.0, 0.0, 1.0])


def promotions(
    gain: float, loss: float, margin: float, alpha: float, runs: int, horizon: int = HORIZON, seed: int = 0
) -> Stops:
    return first_crossing(gains_of(gain, loss), pays_above(_D, -margin), 1 / alpha, runs, horizon, seed)


def rollbacks(gain: float, loss: float, alpha: float, runs: int, horizon: int = HORIZON, seed: int = 0) -> Stops:
    return first_crossing(gains_of(gain, loss), pays_below(_D, 0.0), 1 / alpha, runs, horizon, seed)


def _false_promotions(runs: int, margin: float, alpha: float, seed: int) -> Iterable[Row]:
    for discordance in (0.03, 0.08):
        gain, loss = (discordance - margin) / 2, (discordance + margin) / 2
        rate = promotions(gain, loss, margin, alpha, runs, seed=seed).rate
        yield Row(
            f"false promotions at the margin, discordance {discordance:.0%}", rate, f"<= {alpha:g}", rate <= alpha,
            f"margin {margin:g}, {runs} runs of {HORIZON} labels, a look after every label",
        )  # fmt: skip


def _labels_to_promote(runs: int, margin: float, alpha: float, seed: int) -> Iterable[Row]:
    goals = {(0.0, 0.05): (600, 1500), (0.02, 0.05): (180, 400)}
    for level in (alpha, alpha / 2):
        for bound in dict.fromkeys((0.0, margin)):
            stops = promotions(0.03, 0.01, bound, level, runs, seed=seed + 1)
            goal = goals.get((bound, level))
            for index, share in enumerate((0.5, 0.9)):
                value = stops.quantile(share)
                name = f"labels to promote +2 %, m = {bound:g}, alpha = {level:g}, {'median' if index == 0 else 'p90'}"
                yield _bounded(name, value, goal[index] if goal else None, "1 % regress")


def _labels_to_roll_back(runs: int, seed: int) -> Iterable[Row]:
    stops = rollbacks(0.02, 0.07, 0.05, runs, seed=seed + 2)
    yield _bounded("labels to roll back -5 %, median", stops.quantile(0.5), 220, "2 % gain, 7 % regress, alpha 0.05")
    yield _bounded("labels to roll back -5 %, p90", stops.quantile(0.9), 500)
    rate = rollbacks(0.02, 0.02, 0.05, runs, seed=seed + 3).rate
    yield Row("false rollbacks of an equal version", rate, "<= 0.05", rate <= 0.05, f"{HORIZON} labels")


def _bounded(name: str, value: float, goal: float | None, detail: str = "") -> Row:
    return Row(name, value, "" if goal is None else f"<= {goal:g}", None if goal is None else value <= goal, detail)


def clustered(
    size: int, margin: float, alpha: float, runs: int, corrected: bool, labels: int = 2000, seed: int = 0
) -> float:
    """False promotions at the margin when every image comes `size` times; corrected, the copies are one observation."""
    draw = gains_of(0.02, 0.02 + margin)
    factors = 1 + np.multiply.outer(pays_above(_D, -margin), np.array(BETS))
    counted = factors if corrected else factors**size
    rng = np.random.default_rng(seed + 4)
    wealth, promoted = np.ones((runs, len(BETS))), np.zeros(runs, dtype=bool)
    for _ in range(labels // size):
        wealth *= counted[draw(rng, runs) + 1]
        promoted |= wealth.sum(axis=1) >= len(BETS) / alpha
    return float(promoted.mean())


def _clusters(runs: int, margin: float, alpha: float, seed: int) -> Iterable[Row]:
    for size in (2, 10):
        naive = clustered(size, margin, alpha, runs, corrected=False, seed=seed)
        fixed = clustered(size, margin, alpha, runs, corrected=True, seed=seed)
        yield Row(f"false promotions, every image {size}x, each copy counted", naive, "", None, "what clusters prevent")
        yield Row(f"false promotions, every image {size}x, one observation", fixed, f"<= {alpha:g}", fixed <= alpha)


def ordered(margin: float, alpha: float, runs: int, by_request: bool, requests: int = 2000, seed: int = 0) -> float:
    """False promotions at the margin when the old version's mistakes are labelled at once, all others later."""
    rng = np.random.default_rng(seed + 5)
    factors = 1 + np.multiply.outer(pays_above(_D, -margin), np.array(BETS))
    promoted = 0
    for _ in range(runs):
        gain = gains_of(0.04, 0.04 + margin)(rng, requests)
        if not by_request:
            delay = rng.exponential(np.where(gain > 0, 100.0, 400.0))
            gain = gain[np.argsort(np.arange(requests) + delay)]
        wealth = np.exp(np.cumsum(np.log(factors)[gain + 1], axis=0)).mean(axis=1)
        promoted += bool((wealth >= 1 / alpha).any())
    return promoted / runs


def _ordering(runs: int, margin: float, alpha: float, seed: int) -> Iterable[Row]:
    some = min(runs, 2000)
    naive = ordered(margin, alpha, some, by_request=False, seed=seed)
    fixed = ordered(margin, alpha, some, by_request=True, seed=seed)
    yield Row("false promotions in order of arrival, old mistakes labelled sooner", naive, "", None, f"{some} runs")
    yield Row("false promotions in order of requests", fixed, f"<= {alpha:g}", fixed <= alpha, f"{some} runs")


def false_discoveries(
    alpha: float, periods: int, candidates: int, good: float, budgeted: bool, margin: float, seed: int = 0
) -> float:
    """Mean share of worse candidates among the promoted, over periods of `candidates`, of which a share `good` is better.

    The worse ones sit at the margin, where promotions by chance are most frequent.
    """
    rng = np.random.default_rng(seed + 6)
    better = promotions(0.06, 0.01, margin, 1e-6, 200, 2000, seed + 7).rate > 0.9
    worst = _peak_wealth(0.02, 0.02 + margin, margin, 4000, 2000, seed + 8)
    shares = []
    for _ in range(periods):
        right = wrong = 0
        for candidate in range(1, candidates + 1):
            level = e_lond(alpha, candidate, right + wrong) if budgeted else alpha
            if rng.random() < good:
                right += better
            else:
                wrong += bool(rng.choice(worst) >= 1 / level)
        shares.append(wrong / max(1, right + wrong))
    return float(np.mean(shares))


def _peak_wealth(gain: float, loss: float, margin: float, runs: int, horizon: int, seed: int) -> Floats:
    """Largest wealth of each run: it promotes at any level above the peak's inverse."""
    rng = np.random.default_rng(seed)
    draw, factors = gains_of(gain, loss), 1 + np.multiply.outer(pays_above(_D, -margin), np.array(BETS))
    wealth, peak = np.ones((runs, len(BETS))), np.ones(runs)
    for _ in range(horizon):
        wealth *= factors[draw(rng, runs) + 1]
        np.maximum(peak, wealth.mean(axis=1), out=peak)
    return peak


def _budget(runs: int, margin: float, alpha: float, seed: int) -> Iterable[Row]:
    periods = max(200, runs // 10)
    fixed = false_discoveries(alpha, periods, 20, 0.1, budgeted=False, margin=margin, seed=seed)
    spent = false_discoveries(alpha, periods, 20, 0.1, budgeted=True, margin=margin, seed=seed)
    detail = f"{periods} periods of 20 candidates, 10 % good"
    yield Row("false discoveries, the same alpha for every candidate", fixed, "", None, detail)
    yield Row("false discoveries under the e-LOND budget", spent, f"<= {alpha:g}", spent <= alpha, detail)


def simulate_gate(runs: int = 10_000, margin: float = 0.02, alpha: float = 0.05, seed: int = 0) -> list[Row]:
    """The whole table. `runs` canaries per row; about a minute for 10 000 on one core."""
    return [
        *_false_promotions(runs, margin, alpha, seed),
        *(_false_promotions(runs, 0.0, alpha, seed + 100) if margin else ()),
        *_labels_to_promote(runs, margin, alpha, seed),
        *_labels_to_roll_back(runs, seed),
        *_clusters(min(runs, 4000), margin, alpha, seed),
        *_ordering(runs, margin, alpha, seed),
        *_budget(runs, margin, alpha, seed),
    ]


def format_table(rows: Iterable[Row]) -> str:
    """Plain text, one row per line."""
    marks = {True: "ok", False: "FAILS", None: ""}
    return "\n".join(
        f"{row.name:<72}{row.value:>10.4g}  {row.goal:<9}{marks[row.holds]:<6}{row.detail}" for row in rows
    )


def main(argv: list[str] | None = None) -> int:
    """Print the table, then the same as one JSON line; exit 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m continual_workers.evaluation.simulate", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rows = simulate_gate(options.runs, options.margin, options.alpha, options.seed)
    print(format_table(rows))
    print(json.dumps([asdict(row) for row in rows]))
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
