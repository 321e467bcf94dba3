"""The table on the screen, the same as CSV and JSON, and as the page `docs/benchmarks/learning.md`."""

from __future__ import annotations

import csv
import json
import shutil
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


PAGE = """# Every learning goal, measured

Written by `python -m benchmarks.learning --cached --publish docs`, from measurements in its cache. Real digits: 1 257 training and 540 test
images of scikit-learn; MLP 64-100-100-10 unless named; nothing was chosen on test images. Where code changed after a row was measured, one of its seeds was measured
anew and is equal to the last digit (`--carry`). `make bench-learning ARGS="--only ROW"` reproduces a row alone. Worst: of the
seeds (n). Differences below a point are noise unless averaged over seeds. The goals are the project's own; what was tried where one is missed is in
`docs/decisions`.

"""


def page(lines: Sequence[Line], code: str) -> str:
    """Markdown: the count of goals, the fingerprint of the code that measured, then one table."""
    held = [entry.holds for entry in lines]
    out = [
        PAGE + f"{held.count(True)} goals met, {held.count(False)} missed. Measured by code `{code}` (`cache.py`).",
        "",
    ]
    out += ["| row | what | mean | sd | worst | n | goal | | |", "|---|---|--:|--:|--:|--:|---|---|---|"]
    out += [
        f"| {e.row} | {e.what} | {e.mean:.4g} | {e.sd:.2f} | {e.worst:.4g} | {e.seeds} | {e.goal} | {MARKS[e.holds]} | {e.detail} |"
        for e in lines
    ]
    return "\n".join(out) + "\n"


def publish(lines: Sequence[Line], measured: Path, pictures: Iterable[Path], docs: Path, code: str) -> None:
    """Put table and pictures into the documentation: docs/benchmarks/learning.{csv,md}, docs/images/learning-*.png."""
    for folder in ("benchmarks", "images"):
        (docs / folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(measured / "table.csv", docs / "benchmarks" / "learning.csv")
    (docs / "benchmarks" / "learning.md").write_text(page(lines, code))
    for picture in pictures:
        shutil.copyfile(picture, docs / "images" / f"learning-{picture.name}")
