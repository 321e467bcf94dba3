"""Accuracy over time of both policies with what happened, one small picture per scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from continual_cli.demo.picture import STYLE
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.closedloop.judge import Curve, Judged

PRODUCT, SEEDS, JOINT = "#2b6cb0", "#dd6b20", "#718096"
MARKS = {
    "onset": ("#b8860b", "-", "the world changes"),
    "alarm": ("#b83280", ":", "drift alarm"),
    "flag": ("#805ad5", ":", "label-free flag"),
    "promote": ("#2f855a", "--", "promotion"),
    "rollback": ("#c0392b", "--", "rollback"),
    "reject": ("#c0392b", ":", "rejected offline"),
}
COLUMNS = 3


def draw(judged: Sequence[Judged], path: Path) -> None:
    """Small multiples into one PNG."""
    rows = -(-len(judged) // COLUMNS)
    with rc_context({**STYLE, "font.size": 8, "axes.titlesize": 9}):
        figure = Figure(figsize=(12.5, 2.5 * rows + 0.5), layout="constrained")
        places = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes, one in zip(places.flat, judged, strict=False):
            _one(axes, one)
        for axes in places.flat[len(judged) :]:
            axes.set_axis_off()
        _legend(figure, places.flat[0])
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=90, metadata={"Software": None})


def _one(axes: Axes, judged: Judged) -> None:
    axes.set_title(judged.figures.scenario)
    for curve, color, name, width in (
        (judged.joint, JOINT, "joint retraining on all labels", 1.0),
        (judged.seeds, SEEDS, "every 1000 labels retrain on the last 1000, swap unguarded", 1.4),
        (judged.product, PRODUCT, "Continual", 1.8),
    ):
        axes.plot(*_points(curve), color=color, lw=width, label=name, drawstyle="steps-post")
    axes.plot(*_points(judged.seen), ".", color=PRODUCT, ms=2.5, alpha=0.5, label="as its consumers saw it")
    for second, kind, _ in judged.events:
        if kind in MARKS:
            color, style, _told = MARKS[kind]
            axes.axvline(second, color=color, ls=style, lw=1.0)
    lowest = min(value for curve in (judged.product, judged.seeds) for _, value in curve)
    axes.set_ylim(max(0.0, 100 * lowest - 6), 101)
    axes.set_xlim(0, judged.product[-1][0])


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    return [point[0] for point in curve], [100 * point[1] for point in curve]


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    for color, style, told in MARKS.values():
        handles.append(axes.plot([], [], color=color, ls=style, lw=1.0)[0])
        labels.append(told)
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    figure.supxlabel("seconds of the stream (30 requests a second)", fontsize=8)
    figure.supylabel("accuracy on the current truth, %", fontsize=8)
