"""The table: on the terminal for people, as CSV for the documentation, as JSON for programs."""

from __future__ import annotations

import csv
import json
import shutil
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


def markdown(lines: Sequence[Figures]) -> str:
    """The table of the documentation."""
    head = (
        "scenario", "detected", "recovered", "lowest (seeds)", "final (seeds)", "joint", "promoted, wrong", "stopped",
        "trained, needless", "missed",
    )  # fmt: skip
    rows = [head, ("---",) * len(head), *(_cells(line) for line in lines)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cells(line: Figures) -> tuple[str, ...]:
    missed = [name for name, holds in line.checks.items() if not holds]
    return (
        line.scenario,
        _span(line.detect_seconds, line.detect_labels).removesuffix(" labels").replace("-", "–"),
        _span(line.recover_seconds, line.recover_labels).removesuffix(" labels").replace("-", "–"),
        f"{percent(line.lowest)} ({percent(line.seeds_lowest)})", f"{percent(line.final)} ({percent(line.seeds_final)})",
        percent(line.joint_final), f"{line.promotions}, {line.wrong}", str(line.stopped),
        f"{line.trainings}, {line.needless}", "; ".join(missed) or "–",
    )  # fmt: skip


def publish(lines: Sequence[Figures], picture: Path, docs: Path) -> None:
    """CSV, picture and the page's table into the documentation; the words around the table stay."""
    _write_csv(lines, docs / "benchmarks" / "closedloop.csv")
    shutil.copyfile(picture, docs / "images" / "closedloop.png")
    page = docs / "benchmarks" / "closedloop.md"
    before, rest = page.read_text(encoding="utf-8").split("| scenario |", 1)
    after = rest.split("\n\n", 1)[1]
    page.write_text(f"{before}{markdown(lines)}\n{after}", encoding="utf-8")


def write(lines: Sequence[Figures], folder: Path) -> None:
    """closedloop.json and closedloop.csv into `folder`."""
    (folder / "closedloop.json").write_text(
        json.dumps([{**asdict(line), "checks": line.checks} for line in lines], indent=1) + "\n", encoding="utf-8"
    )
    _write_csv(lines, folder / "closedloop.csv")


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
