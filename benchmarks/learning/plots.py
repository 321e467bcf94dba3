"""Pictures of what was measured, for the guide; each is drawn when all its measurements are in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.learning.cache import Cache
from benchmarks.learning.rows import (
    COMPARED,
    STREAMS,
    Plan,
    Unit,
    compared_units,
    job_units,
    large_units,
    online_units,
    over_seeds,
)

COLORS = ("#2b6cb0", "#dd6b20", "#718096", "#2f855a", "#b83280", "#b7791f", "#4a5568", "#319795")
Draw = Callable[[Plan, Cache], Figure | None]


def draw(plan: Plan, cache: Cache, folder: Path) -> list[Path]:
    """Write every picture whose measurements are there; the files written."""
    written = []
    for name, make in PICTURES.items():
        figure = make(plan, cache)
        if figure is not None:
            FigureCanvasAgg(figure)
            path = folder / f"{name}.png"
            figure.savefig(path, format="png", dpi=80, metadata={"Software": None})
            written.append(path)
    return written


def _there(cache: Cache, units: Sequence[Unit]) -> bool:
    return bool(units) and all(unit in cache for unit in units)


def _seen(cache: Cache, units: Sequence[Unit]) -> list[list[float]]:
    """Mean accuracy, in %, over the experiences seen so far, per seed and experience."""
    return [[100 * float(np.mean(row[: e + 1])) for e, row in enumerate(cache.get(unit)["after"])] for unit in units]


def forgetting(plan: Plan, cache: Cache) -> Figure | None:
    """Accuracy on everything seen so far, experience by experience: fine-tuning against replay."""
    shown = [
        ("der++, 200 images kept", job_units(plan, "class", 200, augment=True)),
        ("der++, 100 images kept", job_units(plan, "class", 100, augment=True)),
        ("fine-tune", job_units(plan, "class", 200, strategy="fine-tune", augment=False)),
    ]
    if not all(_there(cache, units) for _, units in shown):
        return None
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for (name, units), color in zip(shown, COLORS, strict=False):
        curves = np.array(_seen(cache, units))
        places = np.arange(1, curves.shape[1] + 1)
        axes.plot(places, curves.mean(axis=0), "o-", color=color, label=name)
        axes.fill_between(places, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2)
    axes.set(xlabel="experience (two new digits each)", ylabel="accuracy on all digits so far, %", ylim=(0, 102))
    axes.set_xticks(places)
    axes.legend(loc="lower left", fontsize=8)
    return figure


def strategies(plan: Plan, cache: Cache) -> Figure | None:
    """Final accuracy by method, for new classes and for a turning world."""
    kinds = ("class", "rot")
    if not all(_there(cache, compared_units(plan, kind, name)) for kind in kinds for name in COMPARED):
        return None
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for offset, (kind, label) in enumerate(zip(kinds, ("new classes", "turning world"), strict=True)):
        heights = [np.mean([100 * cache.get(u)["acc"] for u in compared_units(plan, kind, n)]) for n in COMPARED]
        bars = axes.bar(np.arange(len(COMPARED)) + 0.4 * offset - 0.2, heights, 0.38, color=COLORS[offset], label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set(ylabel="final accuracy, %", ylim=(0, 118))
    axes.set_xticks(range(len(COMPARED)), COMPARED)
    axes.legend(loc="upper right", fontsize=8, ncols=2)
    return figure


def buffer(plan: Plan, cache: Cache) -> Figure | None:
    """Final accuracy by how much is kept, with and without declared augmentation."""
    shown = [
        ("der++, augmented", [job_units(plan, "class", m, augment=True) for m in (100, 200)]),
        ("der++, plain", [job_units(plan, "class", m, augment=False) for m in (100, 200)]),
        ("der++, augmented, 30 % kept", [large_units(plan, "class", "der++")]),
        ("er, augmented, 30 % kept", [large_units(plan, "class", "er")]),
    ]
    if not all(_there(cache, units) for _, groups in shown for units in groups):
        return None
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, groups) in enumerate(shown):
        kept = [dict(units[0].options)["capacity"] for units in groups]
        figures = [np.array([100 * cache.get(unit)["acc"] for unit in units]) for units in groups]
        places = np.array(kept) + 4.0 * number - 6
        means = np.array([f.mean() for f in figures])
        spread = [means - [f.min() for f in figures], np.array([f.max() for f in figures]) - means]
        axes.errorbar(places, means, yerr=spread, fmt="o-", capsize=3, color=COLORS[number], label=name)
    axes.set(xlabel="images kept, of 1 257", ylabel="accuracy on all digits in the end, %", ylim=(92, 100))
    axes.legend(loc="lower right", fontsize=8)
    return figure


def online(plan: Plan, cache: Cache) -> Figure | None:
    """The first experience's accuracy while later ones stream by: what a stability gap would look like."""
    if not all(_there(cache, online_units(plan, kind)) for kind in STREAMS):
        return None
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for kind, color in zip(STREAMS, COLORS, strict=False):
        share = np.linspace(0, 100, 200)
        traces = [cache.get(unit)["first"] for unit in online_units(plan, kind)]
        curves = 100 * np.array([np.interp(share, np.linspace(0, 100, len(trace)), trace) for trace in traces])
        axes.plot(share, curves.mean(axis=0), color=color, label=kind)
        axes.fill_between(share, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2)
    axes.set(xlabel="share of the stream seen, %", ylabel="accuracy on the first experience, %", ylim=(60, 101))
    axes.legend(loc="lower right", fontsize=8)
    return figure


def imbalance(plan: Plan, cache: Cache) -> Figure | None:
    """Recall by how frequent a class was in training."""
    shown: list[tuple[str, dict[str, Any]]] = [("20:1, all data", {"ratio": 20.0}), ("100:1, all data", {"ratio": 100.0}),
             ("20:1, stream, 100 kept", {"ratio": 20.0, "capacity": 100})]  # fmt: skip
    if not all(_there(cache, over_seeds(plan, "imbalance", **options)) for _, options in shown):
        return None
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, options), color in zip(shown, COLORS, strict=False):
        recalls = np.array([cache.get(u)["by_frequency"] for u in over_seeds(plan, "imbalance", **options)]) * 100
        axes.plot(range(1, recalls.shape[1] + 1), recalls.mean(axis=0), "o-", color=color, label=name)
    axes.set(xlabel="class, from the most to the least frequent", ylabel="recall, %", ylim=(0, 102))
    axes.legend(loc="lower left", fontsize=8)
    return figure


def corrections(plan: Plan, cache: Cache) -> Figure | None:
    """What single corrections cost everything else."""
    units = over_seeds(plan, "correction")
    if not _there(cache, units):
        return None
    changes = np.concatenate([cache.get(unit)["changes"] for unit in units])
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.hist(changes, bins=np.arange(changes.min() - 0.185, changes.max() + 0.37, 0.37).tolist(), color=COLORS[0])
    axes.axvline(float(np.percentile(changes, 5)), color=COLORS[1], label="5th percentile")
    axes.set(xlabel="change of accuracy on clean images, points", ylabel="corrections")
    axes.legend(fontsize=8)
    return figure


def drift(plan: Plan, cache: Cache) -> Figure | None:
    """Labels between the change and the alarm."""
    units = over_seeds(plan, "drift", runs=plan.drift_runs)
    if not _there(cache, units):
        return None
    delays = np.concatenate([cache.get(unit)["delays"] for unit in units])
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.hist(delays, bins=list(range(0, 620, 20)), color=COLORS[0])
    axes.axvline(float(np.mean(delays)), color=COLORS[1], label=f"mean {np.mean(delays):.0f}")
    axes.set(xlabel="labels from 10 % to 20 % error until the alarm", ylabel="runs")
    axes.legend(fontsize=8)
    return figure


PICTURES: dict[str, Draw] = {
    "forgetting": forgetting,
    "strategies": strategies,
    "buffer": buffer,
    "online": online,
    "imbalance": imbalance,
    "corrections": corrections,
    "drift": drift,
}
