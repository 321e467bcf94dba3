"""Serving, measured: the real worker processes beside the seeds' loop and the bare runtime, in one run.

    python benchmarks/serving/run.py                 every part, three rounds (`make bench`)
    python benchmarks/serving/run.py --quick         one round on a twentieth of the load (`make bench-quick`)
    python benchmarks/serving/run.py --only worker   one part

Prints a table with each ratio, its goal and whether it is met; writes <out>/serving.json and a plot. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
from machine import FOREIGN_LIMIT
from rich.console import Console
from rich.table import Table
from rows import PARTS, Context, Row
from stand import stand


def main() -> int:
    options = _options()
    console = Console(stderr=True)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="continual-bench-") as folder,
        console.status("starting") as status,
        stand(Path(folder) / "stand") as server,
    ):
        context = Context(server, options.rounds, options.scale, tell=status.update)
        for name in options.only or PARTS:
            context.tell(name)
            rows += PARTS[name](context)
    Console(width=150).print(_table(rows))
    quiet = context.quiet
    print(
        f"{quiet.rejected} runs rejected because strangers used more than {FOREIGN_LIMIT:.0%} of the cores; "
        f"{quiet.disturbed} figures are from runs that stayed above it; median foreign share {np.median(quiet.foreign or [0]):.1%}"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving.json").write_text(json.dumps(_document(rows, context), indent=1) + "\n")
    _plot(rows, options.out / "serving.png")
    print(f"written: {options.out}/serving.json, {options.out}/serving.png")
    return 0 if all(row.is_met for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round on a tenth of the load: direction, not figures")
    parser.add_argument("--rounds", type=int, help="how often each measure is taken (3; 1 with --quick)")
    parser.add_argument("--scale", type=float, help="share of the full backlog (1; 0.1 with --quick)")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts to run, all by default")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for the JSON and the plot")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.scale = options.scale or (0.1 if options.quick else 1.0)
    return options


def _table(rows: Sequence[Row]) -> Table:
    table = Table("goal", "what", "figure", "wanted", "", "rounds (min … max)", "note", title="Serving")
    for row in rows:
        spread = f"{min(row.samples):.2f} … {max(row.samples):.2f}" if row.samples else ""
        verdict = "[green]met[/]" if row.is_met else "[red]MISSED[/]"
        table.add_row(row.goal, row.what, f"{row.value:.2f}", f"{row.sign} {row.limit:g}", verdict, spread, row.note)
    return table


def _document(rows: Sequence[Row], context: Context) -> dict[str, object]:
    return {
        "machine": {"cores": psutil.cpu_count(), "python": platform.python_version(), "onnxruntime": onnxruntime.__version__},
        "rounds": context.rounds,
        "scale": context.scale,
        "foreign": context.quiet.foreign,
        "rejected": context.quiet.rejected,
        "disturbed": context.quiet.disturbed,
        "rows": [
            {"goal": r.goal, "what": r.what, "value": r.value, "wanted": f"{r.sign} {r.limit:g}", "met": r.is_met, "samples": r.samples, "note": r.note}
            for r in rows
        ],
    }  # fmt: skip


def _plot(rows: Sequence[Row], path: Path) -> None:
    """How far above (right of 1) or below its goal each figure is."""
    import matplotlib as mpl  # noqa: PLC0415 -- slow to import, wanted at the end only

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [row for row in rows if row.sign != "=" and row.value > 0]
    margins = [row.value / row.limit if row.sign == "≥" else row.limit / row.value for row in shown]
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(shown) + 1), layout="constrained")
    axes.barh(
        [f"{row.goal} {row.what}" for row in shown], margins, color=["#2a7" if row.is_met else "#c33" for row in shown]
    )
    axes.axvline(1, color="#333", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("figure ÷ goal (above 1: met)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
