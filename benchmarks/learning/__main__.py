"""`make bench-learning`: measure every learning goal on real data with the product's own trainer; print the table.

    python -m benchmarks.learning                     all rows, ten seeds
    python -m benchmarks.learning --only job-class    one row alone
    python -m benchmarks.learning --quick             a minute: one seed, few epochs, short simulations
    python -m benchmarks.learning --dataset mnist --data DIR
    python -m benchmarks.learning --cached --publish docs   the table and pictures of the documentation, from what is measured

Results go to out/bench-learning: table.txt, table.csv, table.json, plots, and the measurements themselves (cache.jsonl).
Exit code 1 when a judged goal is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from continual_contract.errors import ContinualError
from tqdm import tqdm

from benchmarks.learning import report
from benchmarks.learning.cache import Cache
from benchmarks.learning.plots import draw
from benchmarks.learning.rows import ROWS, Line, Plan, Row, Unit
from benchmarks.learning.worlds import World

JUDGED_QUICKLY = frozenset({"drift", "signals", "resume", "gate"})
"""Rows whose figures do not depend on how many epochs a stream gets."""
NOT_QUICK = frozenset({"strategies", "job-corr", "joint", "fine-tune", "job-rot", "large-buffer"})
"""Rows that `--quick` measures only when they are named."""
ARCHITECTURES = {"digits": "mlp", "mnist": "lenet5", "fashion-mnist": "lenet5", "cifar10": "cnn3"}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.split("\n\n")[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", choices=names, metavar="ROW", help=f"one of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a minute: for CI")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dataset", choices=sorted(ARCHITECTURES), default="digits")
    parser.add_argument("--data", type=Path, help="folder with the set's original files")
    parser.add_argument("--limit", type=int, default=5000, help="most training images of a large set")
    parser.add_argument("--architecture", help="default: mlp, lenet5 or cnn3, by the set")
    parser.add_argument("--validation", action="store_true", help="test on a fifth of the training part: for choosing")
    parser.add_argument("--out", type=Path, default=Path("out/bench-learning"))
    parser.add_argument("--cached", action="store_true", help="only the rows whose measurements are all there: no run")
    parser.add_argument(
        "--publish", type=Path, metavar="DOCS", help="also write benchmarks/learning.{csv,md} and pictures there"
    )
    parser.add_argument("--code", metavar="FINGERPRINT", help="with --cached: figures of older code, named on the page")
    parser.add_argument(
        "--carry", action="store_true", help="older code's figures count where one seed measured anew is equal"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the cache")
    chosen = parser.parse_args(argv)
    if chosen.code and not chosen.cached:
        parser.error("--code only reads: add --cached")
    return chosen


def plan_of(chosen: argparse.Namespace) -> Plan:
    architecture = chosen.architecture or ARCHITECTURES[chosen.dataset]
    folder = str(chosen.data) if chosen.data else ""
    size = 8 if architecture == "mlp" else 28
    world = World(chosen.dataset, size, architecture, folder, chosen.limit, chosen.validation)
    if chosen.quick:
        return Plan(world, 1, 2, 1000, 100, epochs=3, beside=False)
    return Plan(world, chosen.seeds)


def measure(units: Sequence[Unit], cache: Cache) -> None:
    """Run what is not known yet, in order, each unit once."""
    missing = [unit for unit in dict.fromkeys(units) if unit not in cache]
    with tqdm(missing, unit="run", disable=None, dynamic_ncols=True) as bar:
        for unit in bar:
            bar.set_description(f"{unit.measure} {dict(unit.options).get('kind', '')} seed {unit.seed}")
            cache.put(unit, unit.run())


def chosen_rows(chosen: argparse.Namespace, plan: Plan) -> list[Row]:
    if chosen.only:
        return [row for row in ROWS if row.name in chosen.only]
    skipped = NOT_QUICK if chosen.quick else frozenset()
    return [row for row in ROWS if row.name not in skipped and row.units(plan)]


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    plan = plan_of(chosen)
    cache = Cache(chosen.out / "cache.jsonl", fresh=chosen.fresh, code=chosen.code)
    lines: list[Line] = []
    try:
        for row in chosen_rows(chosen, plan):
            if chosen.cached and not all(unit in cache for unit in row.units(plan)):
                continue
            if chosen.carry:
                cache.carry(row.units(plan))
            measure(row.units(plan), cache)
            made = row.lines(plan, cache.get)
            lines += made if plan.judged or row.name in JUDGED_QUICKLY else report.unjudged(made)
            report.write(lines, chosen.out)
    except ContinualError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    pictures = draw(plan, cache, chosen.out)
    if chosen.publish:
        report.publish(lines, chosen.out, pictures, chosen.publish, cache.version)
    print(report.table(lines))
    failed = [entry for entry in lines if entry.holds is False]
    print(f"\n{sum(entry.holds is True for entry in lines)} goals met, {len(failed)} missed; figures in {chosen.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
