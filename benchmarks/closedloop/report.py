"""The table: on the terminal for people, as CSV for the documentation, as JSON for programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.closedloop.judge import Figures

HEADS = (
    "scenario", "detected", "recovered", "lowest (seeds)", "final (seeds)", "joint", "wrong / promotions",
    "stopped", "needless / trainings", "goals",
)  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _span(seconds: float | None, labels: int | None) -> str:
    if seconds is None:
        return "-"
    return "not needed" if seconds == 0 else f"{seconds:.0f} s, {labels} labels"


def row(line: Figures) -> tuple[str, ...]:
    """One line as people read it."""
    missed = [name for name, holds in line.checks.items() if not holds]
    return (
        line.scenario, _span(line.detect_seconds, line.detect_labels), _span(line.recover_seconds, line.recover_labels),
        f"{percent(line.lowest)} ({percent(line.seeds_lowest)})", f"{percent(line.final)} ({percent(line.seeds_final)})",
        percent(line.joint_final), f"{line.wrong} / {line.promotions}", str(line.stopped),
        f"{line.needless} / {line.trainings}", "met" if not missed else "missed: " + ", ".join(missed),
    )  # fmt: skip


def show(lines: Sequence[Figures], console: Console) -> None:
    table = Table(
        title="Accuracies in % on digits that are never streamed; seconds and labels from the onset",
        title_justify="left",
    )
    for head in HEADS:
        table.add_column(head)
    for line in lines:
        passed = all(line.checks.values())
        *cells, goals = row(line)
        table.add_row(*cells, f"[{'green' if passed else 'bold red'}]{goals}")
    console.print(table)
    for line in lines:
        if line.note:
            console.print(f"{line.scenario}: {line.note}", style="dim", markup=False, highlight=False)


def write(lines: Sequence[Figures], folder: Path, table: Path | None) -> None:
    """closedloop.json and closedloop.csv into `folder`; the CSV also to `table`."""
    (folder / "closedloop.json").write_text(
        json.dumps([{**asdict(line), "checks": line.checks} for line in lines], indent=1) + "\n", encoding="utf-8"
    )
    for path in (folder / "closedloop.csv", table):
        if path is not None:
            _write_csv(lines, path)


def _write_csv(lines: Sequence[Figures], path: Path) -> None:
    names = [field.name for field in fields(Figures)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "missed"])
        for line in lines:
            missed = "; ".join(name for name, holds in line.checks.items() if not holds)
            writer.writerow([*(_cell(getattr(line, name)) for name in names), missed])


def _cell(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else "" if value is None else value
