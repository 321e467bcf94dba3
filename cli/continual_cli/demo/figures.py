"""The four charts of a run as SVG: accuracy, shares, drift, delay, over one time axis."""

from __future__ import annotations

from collections.abc import Callable

from continual_contract.ids import version_number

from continual_cli.demo import svg
from continual_cli.demo.recording import Band, Recording, Sample, bands

COLOURS = ("#4269d0", "#e08a00", "#d6455d", "#2a9d6f", "#8a63d2", "#0f93a8")
"""One per version, in order of their numbers; readable on white and on near-black."""
LOG10_E = 0.4342944819
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def colour_of(version: str) -> str:
    return COLOURS[(version_number(version) - 1) % len(COLOURS)]


def css_of(version: str) -> str:
    return f"c{(version_number(version) - 1) % len(COLOURS)}"


def versions_of(recording: Recording) -> list[str]:
    seen = {now.version for sample in recording.samples for now in sample.versions}
    return sorted(seen | {b.version for b in recording.bins}, key=version_number)


def accuracy_points(recording: Recording, version: str, least: int = 15) -> list[tuple[float, float]]:
    """Middle of the bin and percent right; bins with fewer than `least` answers are noise and left out."""
    half = recording.bin_seconds / 2
    return [
        (b.second + half, 100 * b.correct / b.requests)
        for b in recording.bins
        if b.version == version and b.requests >= least
    ]


def end_of(recording: Recording) -> float:
    return recording.samples[-1].second if recording.samples else 1.0


def accuracy_chart(recording: Recording) -> str:
    low = min((p for v in versions_of(recording) for _, p in accuracy_points(recording, v)), default=50.0)
    floor = max(0, 10 * int((low - 3) // 10))
    axes = svg.Axes(end_of(recording), floor, 106.0, 330)
    marks = [_band_mark(axes, band) for band in bands(recording.samples)]
    for version in versions_of(recording):
        points = accuracy_points(recording, version)
        marks += [
            *(svg.line(axes, run, css_of(version)) for run in runs(points, 2.5 * recording.bin_seconds)),
            svg.dots(axes, points, css_of(version), _tooltip(version)),
        ]
    marks += [svg.moment(axes, h.second, h.text, f"k-{h.kind}") for h in recording.happenings]
    return svg.panel(axes, "Accuracy over time per version", marks, range(floor, 101, 10), lambda v: f"{v:.0f} %")


def share_chart(recording: Recording) -> str:
    axes = svg.Axes(end_of(recording), 0.0, 100.0, 150)
    marks, floor = [], [(s.second, 0.0) for s in recording.samples]
    for version in versions_of(recording):
        top = [(second, low + weight_of(s, version)) for (second, low), s in zip(floor, recording.samples, strict=True)]
        marks.append(svg.area(axes, _steps(floor), _steps(top), css_of(version)))
        floor = top
    return svg.panel(axes, "Share of the stream per version", marks, (0, 50, 100), lambda v: f"{v:.0f} %")


def drift_chart(recording: Recording) -> str:
    points = [(s.second, max(0.0, s.log_drift * LOG10_E)) for s in recording.samples]
    threshold = max((s.log_threshold for s in recording.samples), default=0.0) * LOG10_E
    axes = svg.Axes(
        end_of(recording), 0.0, max([threshold * 1.5, 1.0, *(min(p, 2 * threshold) for _, p in points)]), 170
    )
    marks = [svg.line(axes, points, "ink"), svg.level(axes, threshold, "alarm")]
    marks += [svg.moment(axes, h.second, h.text, "k-world") for h in recording.happenings if h.kind == "world"]
    alarms = [(h.second, threshold) for h in recording.happenings if h.kind == "alarm"]
    marks.append(
        svg.dots(axes, alarms, "alarm", lambda second, _: f"alarm at {second:.0f} s; the statistic starts anew")
    )
    return svg.panel(
        axes, "Drift statistic", marks, range(int(axes.high) + 1), lambda v: "10" + str(int(v)).translate(SUPERSCRIPT)
    )


def lag_chart(recording: Recording) -> str:
    points = [(s.second, float(s.unanswered)) for s in recording.samples]
    axes = svg.Axes(end_of(recording), 0.0, max([10.0, *(p for _, p in points)]), 170)
    marks = [svg.area(axes, [(s, 0.0) for s, _ in points], points, "ink")]
    marks += [svg.moment(axes, h.second, h.text, "k-fault") for h in recording.happenings if h.kind == "fault"]
    return svg.panel(axes, "Requests waiting for their answer", marks, _round_ticks(axes.high), lambda v: f"{v:.0f}")


def _round_ticks(high: float) -> list[float]:
    """Three or so ticks on round numbers."""
    step = next(s for exponent in range(9) for s in (10**exponent, 2 * 10**exponent, 5 * 10**exponent) if high / s <= 4)
    return [float(tick) for tick in range(0, int(high) + 1, step)]


def _tooltip(version: str) -> Callable[[float, float], str]:
    return lambda second, percent: f"{version}: {percent:.1f} % right at {second:.0f} s"


def _band_mark(axes: svg.Axes, band: Band) -> str:
    return svg.band(axes, band.start, band.end, (band.version, band.short), f"{css_of(band.version)} s-{band.stage}")


def weight_of(sample: Sample, version: str) -> float:
    return next((v.weight for v in sample.versions if v.version == version), 0.0)


def _steps(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A share holds until it changes: corners instead of slopes."""
    corners: list[tuple[float, float]] = []
    for second, value in points:
        if corners:
            corners.append((second, corners[-1][1]))
        corners.append((second, value))
    return corners


def runs(points: list[tuple[float, float]], gap: float) -> list[list[tuple[float, float]]]:
    """Split where a version answered nothing for a while: no line is drawn over what was not observed."""
    found: list[list[tuple[float, float]]] = []
    for point in points:
        if found and point[0] - found[-1][-1][0] <= gap:
            found[-1].append(point)
        else:
            found.append([point])
    return found
