"""The table on the screen, and the same as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.learning.rows import Line

MARKS = {True: "ok", False: "FAILS", None: ""}


def table(lines: Iterable[Line]) -> str:
    """Plain text, one line each, a blank line between rows."""
    out = [f"{'row':<16}{'what':<68}{'mean':>9}{'sd':>7}{'worst':>9}{'n':>5}  {'goal':<22}{'':<7}"]
    before = ""
    for entry in lines:
        if before and entry.row != before:
            out.append("")
        before = entry.row
        figures = f"{entry.mean:>9.4g}{entry.sd:>7.2f}{entry.worst:>9.4g}{entry.seeds:>5}"
        out.append(f"{entry.row:<16}{entry.what:<68}{figures}  {entry.goal:<22}{MARKS[entry.holds]:<7}{entry.detail}")
    return "\n".join(out)


def unjudged(lines: Sequence[Line]) -> list[Line]:
    """The lines without their goals: other data, another network, fewer epochs."""
    return [replace(entry, goal="", holds=None) for entry in lines]


def write(lines: Sequence[Line], folder: Path) -> None:
    """table.txt, table.csv and table.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(table(lines) + "\n")
    (folder / "table.json").write_text(json.dumps([asdict(entry) for entry in lines], indent=1, ensure_ascii=False))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Line.__slots__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in lines)
