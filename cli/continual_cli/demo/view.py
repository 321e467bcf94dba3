"""What one sees while the demo runs: a live page in a terminal, plain lines elsewhere. It reads the tracker's samples and nothing else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from continual_cli.demo.recording import Happening, Sample, VersionNow

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_SECONDS = 0.5
PLAIN_EVERY_SECONDS = 5.0
HAPPENINGS_SHOWN = 9
SPARK = "▁▂▃▄▅▆▇█"
STYLES = {
    "world": "yellow",
    "fault": "red",
    "alarm": "bold yellow",
    "decision": "cyan",
    "training": "blue",
    "correction": "green",
}


def spark(values: list[float], low: float, high: float) -> str:
    """Values as little bars between `low` and `high`."""
    top = len(SPARK) - 1
    return "".join(SPARK[round(top * min(max((v - low) / (high - low), 0.0), 1.0))] for v in values)


def drift_bar(sample: Sample, width: int = 24) -> str:
    """How far the drift statistic is on its way to an alarm."""
    share = sample.log_drift / sample.log_threshold if sample.log_threshold > 0 else 0.0
    filled = round(width * min(max(share, 0.0), 1.0))
    return "█" * filled + "·" * (width - filled)


def plain_line(sample: Sample) -> str:
    """One line for a log: time, phase, versions with stage, weight and accuracy, labels, drift, delay."""
    versions = "  ".join(
        f"{v.version} {v.stage} {v.weight:.0f}%{'' if v.accuracy is None else f' {100 * v.accuracy:.1f}'}"
        for v in sample.versions
    )
    training = f" | training: {sample.training}" if sample.training else ""
    return (
        f"{sample.second:6.1f}s {sample.phase:<24} {versions or 'no version yet':<44} | {sample.requests} requests, "
        f"{sample.labels} labels, {sample.unanswered} waiting | drift {sample.log_drift:.1f}/{sample.log_threshold:.1f}{training}"
    )


def page(samples: list[Sample], happenings: list[Happening]) -> RenderableType:
    """The live page."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    if not samples:
        return Panel("starting …", title="Continual")
    now = samples[-1]
    told = [Text(f"{h.second:6.1f}s  {h.text}", style=STYLES.get(h.kind, "")) for h in happenings[-HAPPENINGS_SHOWN:]]
    title = f"Continual on real digits · {now.second:.0f} s · {now.phase}"
    return Panel(Group(_versions_table(now), _numbers(now, samples), *told), title=title, border_style="bright_black")


def _versions_table(now: Sample) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, expand=True, header_style="bright_black")
    for column in ("version", "stage", "share of the stream", "accuracy (latest labels)", "labels"):
        table.add_column(column)
    for version in now.versions:
        table.add_row(*_version_row(version))
    if not now.versions:
        table.add_row("[bright_black]no version yet", now.training, "", "", "")
    return table


def _version_row(now: VersionNow) -> tuple[str, ...]:
    bar = "█" * round(now.weight / 5)
    accuracy = "-" if now.accuracy is None else f"{100 * now.accuracy:.1f} %"
    colour = {"stable": "green", "probation": "cyan", "canary": "yellow", "shadow": "bright_black"}.get(
        now.stage, "white"
    )
    return f"[bold]{now.version}", f"[{colour}]{now.stage}", f"{bar} {now.weight:.0f} %", accuracy, f"{now.labels:,}"


def _numbers(now: Sample, samples: list[Sample]) -> RenderableType:
    from rich.table import Table

    waiting = [float(s.unanswered) for s in samples[-40:]]
    table = Table.grid(padding=(0, 2))
    table.add_row("requests", f"{now.requests:,}", "answered", f"{now.predictions:,}", "labels", f"{now.labels:,}")
    table.add_row(
        "waiting", f"{now.unanswered}", spark(waiting, 0, max([*waiting, 20.0])), "", "lag", f"{now.lag_seconds:.1f} s"
    )
    table.add_row("drift", drift_bar(now), "", "", "training", now.training or "-")
    return table


class View:
    """Shows the newest sample until stopped. One thread, or none at all when there is nothing to show on."""

    def __init__(
        self, samples: Callable[[], list[Sample]], happenings: Callable[[], list[Happening]], out: TextIO = sys.stdout
    ) -> None:
        self._samples, self._happenings, self._out = samples, happenings, out
        self._stop = threading.Event()
        run = self._live if out.isatty() else self._plain
        self._thread = threading.Thread(target=run, name="view", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(file=self._out), refresh_per_second=4) as live:
            while not self._stop.wait(REFRESH_SECONDS):
                live.update(page(self._samples(), self._happenings()))

    def _plain(self) -> None:
        told, last = 0, -PLAIN_EVERY_SECONDS
        while not self._stop.wait(REFRESH_SECONDS):
            samples, happenings = self._samples(), self._happenings()
            for happening in happenings[told:]:
                self._print(f"{happening.second:6.1f}s ** {happening.text}")
            told = len(happenings)
            if samples and samples[-1].second - last >= PLAIN_EVERY_SECONDS:
                last = samples[-1].second
                self._print(plain_line(samples[-1]))

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)
