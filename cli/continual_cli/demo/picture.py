"""The same four charts as one PNG, for a mail or a README."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual_cli.demo.figures import LOG10_E, accuracy_points, colour_of, end_of, runs, versions_of, weight_of
from continual_cli.demo.recording import Recording, bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3de",
    "axes.axisbelow": True,
}
SHADE = {"shadow": 0.07, "canary": 0.16, "probation": 0.10}
MARKS = {"world": "#b8860b", "fault": "#c0392b", "correction": "#2e7d32"}


def write_png(recording: Recording, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12.5, 10), layout="constrained")
        rows = figure.subplots(4, 1, sharex=True, height_ratios=[3.6, 1, 1.2, 1.2])
        for draw, axes in zip((_accuracy, _shares, _drift, _waiting), rows, strict=True):
            draw(axes, recording)
        rows[3].set_xlabel("seconds since the start")
        rows[3].set_xlim(0, end_of(recording))
        figure.suptitle("Continual: the whole loop on real digits", x=0.012, ha="left", fontsize=15, fontweight="bold")
        figure.savefig(path, dpi=110)


def _accuracy(axes: Axes, recording: Recording) -> None:
    axes.set_title("Accuracy per version, on digits whose labels the system never sees (%)")
    low = 100.0
    for version in versions_of(recording):
        points = accuracy_points(recording, version)
        low = min([low, *(p for _, p in points)])
        if not points:
            axes.plot([], [], "o-", ms=3.2, lw=1.7, color=colour_of(version), label=f"{version} (shadow only)")
        for number, run in enumerate(runs(points, 2.5 * recording.bin_seconds)):
            seconds, percents = zip(*run, strict=True)
            label = version if number == 0 else None
            axes.plot(seconds, percents, "o-", ms=3.2, lw=1.7, color=colour_of(version), label=label)
    axes.set_ylim(max(0.0, 10 * ((low - 3) // 10)), 107)
    axes.set_yticks([tick for tick in range(0, 101, 10) if tick >= 10 * ((low - 3) // 10)])
    _shade(axes, recording)
    _mark(axes, recording)
    if versions_of(recording):
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=6, frameon=False)


def _shade(axes: Axes, recording: Recording) -> None:
    """Bands of the versions under judgement, named where they are wide enough."""
    end = end_of(recording)
    for band in bands(recording.samples):
        axes.axvspan(band.start, band.end, color=colour_of(band.version), alpha=SHADE[band.stage], lw=0)
        if band.end - band.start > 0.0065 * end * len(band.short):
            where, told = (band.start + 0.003 * end, 0.99), f"{band.version}\n{band.short}"
            colour = colour_of(band.version)
            axes.annotate(told, where, xycoords=("data", "axes fraction"), va="top", fontsize=8.5, color=colour)


def _mark(axes: Axes, recording: Recording) -> None:
    """A dashed line and a number per happening of the world, a fault or a correction; the texts stand below."""
    marked = [h for h in recording.happenings if h.kind in MARKS]
    for number, happening in enumerate(marked, 1):
        colour = MARKS[happening.kind]
        axes.axvline(happening.second, color=colour, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            str(number), (happening.second, 0.02), xycoords=("data", "axes fraction"), fontsize=8, ha="center",
            color="white", bbox={"boxstyle": "circle,pad=0.22", "fc": colour, "ec": "none"},
        )  # fmt: skip
    told = "   ".join(f"{n} {h.text} ({h.second:.0f} s)" for n, h in enumerate(marked, 1))
    axes.set_xlabel(told, fontsize=8.5, loc="left", wrap=True)


def _shares(axes: Axes, recording: Recording) -> None:
    axes.set_title("Share of the stream each version answers (%)")
    seconds = [s.second for s in recording.samples]
    names = versions_of(recording)
    stacked = [[weight_of(s, name) for s in recording.samples] for name in names]
    if seconds:
        axes.stackplot(seconds, *stacked, colors=[colour_of(n) for n in names], step="post", alpha=0.75, lw=0)
    axes.set_ylim(0, 100)


def _drift(axes: Axes, recording: Recording) -> None:
    axes.set_title("Drift statistic (labels only; power of ten), alarm above the dashed line")
    threshold = max((s.log_threshold for s in recording.samples), default=0.0) * LOG10_E
    points = [(s.second, min(max(0.0, s.log_drift * LOG10_E), 2 * threshold)) for s in recording.samples]
    axes.plot(*zip(*points, strict=True), color="#444", lw=1.3) if points else None
    axes.axhline(threshold, color="#c0392b", ls="--", lw=1)
    for happening in recording.happenings:
        if happening.kind == "alarm":
            axes.plot([happening.second], [threshold], "o", ms=7, color="#c0392b")
            axes.annotate("  alarm", (happening.second, threshold), va="center", fontsize=8.5, color="#c0392b")
    axes.set_ylim(0)


def _waiting(axes: Axes, recording: Recording) -> None:
    axes.set_title("Requests waiting for their answer")
    seconds = [s.second for s in recording.samples]
    axes.fill_between(seconds, [s.unanswered for s in recording.samples], color="#777", alpha=0.6, step="post")
    for happening in recording.happenings:
        if happening.kind == "fault":
            axes.axvline(happening.second, color=MARKS["fault"], lw=1, ls=(0, (4, 3)))
    axes.set_ylim(0)
