"""The table: every row of the learning goals, how its figure is measured, and the figure it must reach.

A row asks for *units*, each one measurement of one seed, which are kept in a cache and shared between rows; then it reads
its lines off their results. Goals belong to the digits and the MLP; on other data the same lines are printed without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from continual_workers.training.strategies import STRATEGIES

from benchmarks.learning import lifelong, verdicts
from benchmarks.learning.lifelong import Result
from benchmarks.learning.worlds import World

MEASURES: Mapping[str, Callable[..., Result]] = {
    "job": lifelong.job,
    "joint": lifelong.joint,
    "online": lifelong.online,
    "imbalance": lifelong.imbalance,
    "correction": verdicts.correction,
    "drift": verdicts.drift,
    "signals": verdicts.signals,
    "gate": verdicts.gate,
    "resume": verdicts.resume,
}
STREAMS = ("class", "corr", "rot")


@dataclass(frozen=True, slots=True)
class Unit:
    """One measurement: which measure, of which world, with which seed and options."""

    measure: str
    world: World
    seed: int
    options: tuple[tuple[str, Any], ...] = ()

    def key(self) -> str:
        return json.dumps([self.measure, asdict(self.world), self.seed, dict(self.options)], sort_keys=True)

    def run(self) -> Result:
        return MEASURES[self.measure](self.world, self.seed, **dict(self.options))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `holds` is None where nothing is promised."""

    row: str
    what: str
    mean: float
    sd: float
    worst: float
    seeds: int
    goal: str = ""
    holds: bool | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the benchmark is this time."""

    world: World = field(default_factory=World)
    seeds: int = 10
    divergence_seeds: int = 100
    gate_runs: int = 10_000
    drift_runs: int = 1000
    epochs: int = 20
    """Per experience; fewer in `--quick`."""
    beside: bool = True
    """Whether lenet5 is reported beside the MLP."""

    @property
    def judged(self) -> bool:
        """Goals are those of the digits and the MLP, at full length."""
        return self.world.dataset == "digits" and self.world.architecture == "mlp" and self.epochs == 20


Results = Callable[[Unit], Result]


@dataclass(frozen=True, slots=True)
class Row:
    """A name for `--only`, the units it needs, and how its lines are read off their results."""

    name: str
    units: Callable[[Plan], list[Unit]]
    lines: Callable[[Plan, Results], list[Line]]


def over_seeds(plan: Plan, measure: str, world: World | None = None, **options: Any) -> list[Unit]:
    given = tuple(sorted(options.items()))
    return [Unit(measure, world or plan.world, seed, given) for seed in range(plan.seeds)]


def line(row: str, what: str, values: Sequence[float], goal: str = "", holds: bool | None = None, **more: Any) -> Line:
    """Mean, sd and the worst (smallest) of one value per seed."""
    array = np.array(values, dtype=np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    passed = None if holds is None else bool(holds)
    return Line(row, what, float(array.mean()), sd, float(array.min()), len(array), goal, passed, **more)


def percents(results: Results, units: Sequence[Unit], name: str = "acc") -> list[float]:
    return [100 * results(unit)[name] for unit in units]


def epochs_of(plan: Plan) -> dict[str, Any]:
    """Options that differ from the product's defaults; none at full length, so that units are shared."""
    return {} if plan.epochs == 20 else {"epochs": plan.epochs}


def job_units(plan: Plan, kind: str, capacity: int, **options: Any) -> list[Unit]:
    return over_seeds(plan, "job", kind=kind, capacity=capacity, **epochs_of(plan), **options)


# Ceiling and floor --------------------------------------------------------------------------------------------------------


def joint_units(plan: Plan, kind: str) -> list[Unit]:
    return [
        u for augment in (True, False) for u in over_seeds(plan, "joint", kind=kind, augment=augment, **epochs_of(plan))
    ]


def ceiling(plan: Plan, results: Results, kind: str) -> list[float]:
    """The better of augmented and plain joint training, by their means."""
    plain, augmented = (
        percents(results, over_seeds(plan, "joint", kind=kind, augment=augment, **epochs_of(plan)))
        for augment in (False, True)
    )
    return max(plain, augmented, key=lambda values: float(np.mean(values)))


def _joint_lines(plan: Plan, results: Results) -> list[Line]:
    return [
        line("joint", f"joint from scratch, {kind}", ceiling(plan, results, kind), detail="the ceiling")
        for kind in STREAMS
    ]


def _fine_tune_units(plan: Plan) -> list[Unit]:
    return [u for kind in STREAMS for u in job_units(plan, kind, 200, strategy="fine-tune", augment=False)]


def _fine_tune_lines(plan: Plan, results: Results) -> list[Line]:
    return [
        line(
            "fine-tune",
            f"fine-tune, {kind}",
            percents(results, job_units(plan, kind, 200, strategy="fine-tune", augment=False)),
            detail="how the systems this replaces learn",
        )
        for kind in STREAMS
    ]


# One Job per experience ---------------------------------------------------------------------------------------------------


def _class_row(name: str, augment: bool, goals: dict[int, float], worst: float | None) -> Row:
    def units(plan: Plan) -> list[Unit]:
        return [u for capacity in goals for u in job_units(plan, "class", capacity, augment=augment)]

    def lines(plan: Plan, results: Results) -> list[Line]:
        made = []
        for capacity, goal in goals.items():
            mine = job_units(plan, "class", capacity, augment=augment)
            values = percents(results, mine)
            holds = float(np.mean(values)) >= goal and (worst is None or min(values) >= worst)
            text = f">= {goal:g}" + ("" if worst is None else f", worst >= {worst:g}")
            forgotten = float(np.mean(percents(results, mine, "forgetting")))
            what = f"Job, class, M={capacity}, {'augmented' if augment else 'plain'}"
            made.append(line(name, what, values, text, holds, detail=f"forgetting {forgotten:.1f}"))
        return made

    return Row(name, units, lines)


def _corr_units(plan: Plan) -> list[Unit]:
    return [*joint_units(plan, "corr"), *job_units(plan, "corr", 100), *job_units(plan, "corr", 200)]


def _corr_lines(plan: Plan, results: Results) -> list[Line]:
    top = float(np.mean(ceiling(plan, results, "corr")))
    made = []
    for capacity, goal in ((100, 1.0), (200, 0.5)):
        values = percents(results, job_units(plan, "corr", capacity))
        gap = top - float(np.mean(values))
        detail = f"{gap:.2f} below joint ({top:.1f})"
        made.append(
            line("job-corr", f"Job, corr, M={capacity}", values, f"joint - {goal:g}", gap <= goal, detail=detail)
        )
    return made


def _rot_lines(plan: Plan, results: Results) -> list[Line]:
    values = percents(results, job_units(plan, "rot", 200))
    return [line("job-rot", "Job, rot, M=200", values, ">= 96", float(np.mean(values)) >= 96)]


# Batch by batch -----------------------------------------------------------------------------------------------------------

ONLINE = {"class": (93.0, 82.0), "corr": (92.0, 88.0), "rot": (90.0, 86.0)}


def online_units(plan: Plan, kind: str) -> list[Unit]:
    return over_seeds(plan, "online", kind=kind, capacity=200, every=8)


def _online_lines(plan: Plan, results: Results) -> list[Line]:
    made = []
    for kind, (acc, lowest) in ONLINE.items():
        for name, label, goal in (("acc", "ACC", acc), ("wc_acc", "WC-ACC", lowest)):
            values = percents(results, online_units(plan, kind), name)
            what = f"online, {kind}, M=200, {label}"
            made.append(line("online", what, values, f">= {goal:g}", float(np.mean(values)) >= goal))
    return made


# Robustness ---------------------------------------------------------------------------------------------------------------


def _divergence_units(plan: Plan) -> list[Unit]:
    options = tuple(sorted({"kind": "class", "capacity": 200, "augment": True, **epochs_of(plan)}.items()))
    return [Unit("job", plan.world, seed, options) for seed in range(plan.divergence_seeds)]


def _divergence_lines(plan: Plan, results: Results) -> list[Line]:
    restarts = [float(results(unit)["restarts"]) for unit in _divergence_units(plan)]
    total = sum(restarts)
    detail = f"{int(total)} restarts in {5 * len(restarts)} trainings of {len(restarts)} seeds"
    return [line("divergence", "divergences", restarts, "0", total == 0, detail=detail)]


def _resume_units(plan: Plan) -> list[Unit]:
    return [Unit("resume", plan.world, 0, (("method", name),)) for name in sorted(STRATEGIES)]


def _resume_lines(plan: Plan, results: Results) -> list[Line]:
    same = [100 * results(unit)["identical"] for unit in _resume_units(plan)]
    detail = f"{', '.join(sorted(STRATEGIES))}; stopped after each of 3 epochs"
    return [line("resume", "resumed runs that end bit-identical, %", same, "100", min(same) == 100, detail=detail)]


IMBALANCE: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("imbalance 20:1, all data", {"ratio": 20.0}, 84.0),
    ("imbalance 100:1, all data", {"ratio": 100.0}, 60.0),
    ("imbalance 20:1, stream, M=100", {"ratio": 20.0, "capacity": 100}, 80.0),
)


def _imbalance_units(plan: Plan) -> list[Unit]:
    return [u for _, options, _ in IMBALANCE for u in over_seeds(plan, "imbalance", **options)]


def _imbalance_lines(plan: Plan, results: Results) -> list[Line]:
    made = []
    for what, options, goal in IMBALANCE:
        units = over_seeds(plan, "imbalance", **options)
        values = percents(results, units, "worst")
        balanced = float(np.mean(percents(results, units, "balanced")))
        holds = float(np.mean(values)) >= goal
        detail = f"worst-class recall; balanced accuracy {balanced:.1f}"
        made.append(line("imbalance", what, values, f">= {goal:g}", holds, detail=detail))
    return made


# Corrections, drift, the gate ---------------------------------------------------------------------------------------------


def _correction_lines(plan: Plan, results: Results) -> list[Line]:
    found = [results(unit) for unit in over_seeds(plan, "correction")]
    changes = np.concatenate([r["changes"] for r in found])
    passed = np.concatenate([r["passed"] for r in found])
    fixed, mean, p5 = (100 * r["fixed"] for r in found), float(changes.mean()), float(np.percentile(changes, 5))
    each, shares = [float(np.mean(r["changes"])) for r in found], list(fixed)
    count = f"{len(changes)} corrections"
    gate = f"the offline gate passes {100 * passed.mean():.1f} %; of those the lowest change is {changes[passed].min():+.2f}"
    return [
        line("correction", "corrections fixed, %", shares, "100", min(shares) == 100, detail=count),
        line("correction", "change of clean accuracy, mean", each, ">= -0.1", mean >= -0.1, detail=gate),
        Line(
            "correction",
            "change of clean accuracy, p5",
            p5,
            0.0,
            float(changes.min()),
            len(found),
            ">= -0.6",
            p5 >= -0.6,
        ),
    ]


def _drift_units(plan: Plan) -> list[Unit]:
    return over_seeds(plan, "drift", runs=plan.drift_runs)


def _drift_lines(plan: Plan, results: Results) -> list[Line]:
    found = [results(unit) for unit in _drift_units(plan)]
    delays = [float(np.mean(r["delays"])) for r in found]
    alarms, cost = [100 * r["false_alarms"] for r in found], [r["us"] for r in found]
    missed = 100 * (1 - float(np.mean([r["found"] for r in found])))
    runs = (
        f"{plan.drift_runs} runs per seed, one false alarm per 10 000 labels; {missed:.1f} % unseen after 3 000 labels"
    )
    return [
        line("drift", "labels from 10 to 20 % error until the alarm", delays, "<= 180", bool(np.mean(delays) <= 180), detail=runs),
        line("drift", "false alarm within 1 000 labels, %", alarms, "<= 5", bool(np.mean(alarms) <= 5)),
        line("drift", "microseconds per label", cost, "< 5", float(np.mean(cost)) < 5, detail="process time"),
    ]  # fmt: skip


def _signal_units(plan: Plan) -> list[Unit]:
    return over_seeds(plan, "signals", windows=200)


def _signal_lines(plan: Plan, results: Results) -> list[Line]:
    from scipy.stats import binom  # noqa: PLC0415 -- a second, for one number

    found = [results(unit) for unit in _signal_units(plan)]
    flagged = [float(sum(r["flagged"].values())) for r in found]
    missed = sorted({name for r in found for name, seen in r["flagged"].items() if not seen})
    windows, false = sum(r["clean_windows"] for r in found), sum(r["clean_flagged"] for r in found)
    allowed = int(binom.ppf(0.95, windows, 0.001))
    budget = f"{false} of {windows} clean windows at a budget of 1 in 1 000"
    return [
        line(
            "signals", "shifts flagged without labels, of 8", flagged, "8", min(flagged) == 8, detail=", ".join(missed)
        ),
        Line(
            "signals", "clean windows flagged", false, 0.0, false, len(found), f"<= {allowed}", false <= allowed, budget
        ),
    ]


def _gate_units(plan: Plan) -> list[Unit]:
    return [Unit("gate", World(), 0, (("runs", plan.gate_runs),))]


def _gate_lines(plan: Plan, results: Results) -> list[Line]:
    (unit,) = _gate_units(plan)
    return [
        Line("gate", name, value, 0.0, value, 1, goal, holds, detail)
        for name, value, goal, holds, detail in results(unit)["rows"]
    ]


# Beside the goals ---------------------------------------------------------------------------------------------------------

COMPARED = ("der++", "er", "er-ace", "gdumb", "ewc", "lwf", "fine-tune", "joint")


def compared_units(plan: Plan, kind: str, name: str) -> list[Unit]:
    """Half the seeds: differences between methods are points, not tenths."""
    units = job_units(plan, kind, 200, strategy=name, augment=True)
    return units[: max(1, plan.seeds // 2)]


def _compared_lines(plan: Plan, results: Results) -> list[Line]:
    made = []
    for kind in ("class", "rot"):
        for name in COMPARED:
            units = compared_units(plan, kind, name)
            forgotten = float(np.mean(percents(results, units, "forgetting")))
            detail = f"forgetting {forgotten:.1f}"
            made.append(line("strategies", f"{name}, {kind}, M=200", percents(results, units), detail=detail))
    return made


LARGE = {"class": 377, "rot": 1885}
"""Buffers of 30 % of all images of a stream."""


def large_units(plan: Plan, kind: str, name: str) -> list[Unit]:
    """Turning images five seeds, classes all."""
    units = job_units(plan, kind, LARGE[kind], strategy=name, augment=True)
    return units if kind == "class" else units[: max(1, plan.seeds // 2)]


def _large_units(plan: Plan) -> list[Unit]:
    return [u for kind in LARGE for name in ("der++", "er") for u in large_units(plan, kind, name)]


def _large_lines(plan: Plan, results: Results) -> list[Line]:
    """Beside each figure of `er` its distance to der++, seed by seed."""
    made = []
    for kind, capacity in LARGE.items():
        held, plain = (percents(results, large_units(plan, kind, name)) for name in ("der++", "er"))
        gap = np.array(plain) - np.array(held)
        error = float(gap.std(ddof=1) / len(gap) ** 0.5) if len(gap) > 1 else 0.0
        detail = f"{gap.mean():+.2f} against der++ (standard error {error:.2f})"
        made.append(line("large-buffer", f"der++, {kind}, M={capacity}", held, detail="30 % of all images kept"))
        made.append(line("large-buffer", f"er, {kind}, M={capacity}", plain, detail=detail))
    return made


def lenet(plan: Plan) -> World:
    return World(size=28, architecture="lenet5", validation=plan.world.validation)


def _lenet_units(plan: Plan) -> list[Unit]:
    if not (plan.beside and plan.world.dataset == "digits"):
        return []
    return over_seeds(plan, "job", lenet(plan), kind="class", capacity=200, **epochs_of(plan))


def _lenet_lines(plan: Plan, results: Results) -> list[Line]:
    units = _lenet_units(plan)
    if not units:
        return []
    return [line("lenet5", "lenet5 at 28x28: Job, class, M=200", percents(results, units), detail="reported beside")]


def _of_streams(units: Callable[[Plan, str], list[Unit]]) -> Callable[[Plan], list[Unit]]:
    return lambda plan: [u for kind in STREAMS for u in units(plan, kind)]


ROWS: tuple[Row, ...] = (
    _class_row("job-class", True, {100: 96.5, 200: 97.5}, 94.0),
    _class_row("job-class-plain", False, {100: 96.0, 200: 97.0}, None),
    Row("online", _of_streams(online_units), _online_lines),
    Row("imbalance", _imbalance_units, _imbalance_lines),
    Row("drift", _drift_units, _drift_lines),
    Row("signals", _signal_units, _signal_lines),
    Row("correction", lambda plan: over_seeds(plan, "correction"), _correction_lines),
    Row("resume", _resume_units, _resume_lines),
    Row("gate", _gate_units, _gate_lines),
    Row("job-rot", lambda plan: job_units(plan, "rot", 200), _rot_lines),
    Row("job-corr", _corr_units, _corr_lines),
    Row("joint", _of_streams(joint_units), _joint_lines),
    Row("fine-tune", _fine_tune_units, _fine_tune_lines),
    Row("divergence", _divergence_units, _divergence_lines),
    Row("strategies", lambda p: [u for k in ("class", "rot") for n in COMPARED for u in compared_units(p, k, n)], _compared_lines),
    Row("large-buffer", _large_units, _large_lines),
    Row("lenet5", _lenet_units, _lenet_lines),
)  # fmt: skip
