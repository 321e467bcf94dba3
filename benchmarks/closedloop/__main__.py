"""`make bench-closedloop`: twelve scenarios through the real `continual local`; who recovered, at which cost, and what was wrong.

    python -m benchmarks.closedloop                       all twelve, about half an hour
    python -m benchmarks.closedloop --only sudden         one alone
    python -m benchmarks.closedloop --quick               two of them
    python -m benchmarks.closedloop --cached              judge and print what has been run, run nothing
    python -m benchmarks.closedloop --cached --publish docs   the same, and table and picture of the documentation

Every run is kept in out/bench-closedloop/<scenario>: the stream, the ledger, the versions. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from continual_cli.local.commands import GATEWAY_VARIABLE
from rich.console import Console

from benchmarks.closedloop import plots, recording, report
from benchmarks.closedloop.director import Director, DirectorError
from benchmarks.closedloop.judge import Judge, Judged, load_judged, save
from benchmarks.closedloop.scenarios import SCENARIOS, Scenario

QUICK = ("sudden", "worse-canary")
RUN_BY = ("world", "traffic", "director")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closedloop", description=__doc__.split("\n\n")[0])
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", action="append", choices=names, metavar="SCENARIO", help=f"one of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--cached", action="store_true", help="run nothing; print what was run before")
    parser.add_argument("--missing", action="store_true", help="run only what was not run yet with this code")
    parser.add_argument("--unjudged", action="store_true", help="run, and judge later with --cached")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench-closedloop"))
    parser.add_argument(
        "--publish", type=Path, metavar="DOCS", help="also put table, CSV and picture into the documentation"
    )
    return parser.parse_args(argv)


def fingerprint(scenario: Scenario) -> str:
    """Of everything that decides what its run is like; a recording of other code is none."""
    trees = [ast.dump(ast.parse((Path(__file__).parent / f"{name}.py").read_text())) for name in RUN_BY]
    trees += [inspect.getsource(part) for part in (scenario.play, scenario.change) if part is not None]
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:16]


def run(scenario: Scenario, seed: int, out: Path) -> None:
    """One scenario, start to end, in a home of its own that is gone afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / f"{scenario.name}.log"
    log.unlink(missing_ok=True)
    director = Director(scenario.name, seed, log, scenario.without)
    try:
        director.run(scenario.play, scenario.change)
        director.keep(out / scenario.name, fingerprint(scenario))
    finally:
        director.stop()


def is_there(scenario: Scenario, out: Path) -> bool:
    folder = out / scenario.name
    return (folder / "recording.json").is_file() and recording.load(folder).code == fingerprint(scenario)


def judged(scenario: Scenario, folder: Path) -> Judged:
    """Kept beside the recording, as long as that is the same."""
    done = folder / "judged.json"
    if not done.is_file() or done.stat().st_mtime < (folder / "recording.json").stat().st_mtime:
        save(Judge(folder, scenario).judged(), folder)
    return load_judged(folder)


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault(GATEWAY_VARIABLE, "false")  # nobody looks
    names = chosen.only or (QUICK if chosen.quick else [scenario.name for scenario in SCENARIOS])
    wanted = [scenario for scenario in SCENARIOS if scenario.name in names]
    console, failed = Console(width=None if sys.stdout.isatty() else 200), []
    for scenario in wanted:
        if chosen.cached or (chosen.missing and is_there(scenario, chosen.out)):
            continue
        console.print(f"{scenario.name}: {scenario.told}", highlight=False)
        try:
            run(scenario, chosen.seed, chosen.out)
        except DirectorError as error:
            console.print(f"[red]{scenario.name}: {error}")
            failed.append(scenario.name)
    if chosen.unjudged:
        return 1 if failed else 0
    there = [s for s in wanted if s.name not in failed and is_there(s, chosen.out)]
    results = [judged(scenario, chosen.out / scenario.name) for scenario in there]
    return 1 if failed else _tell(results, chosen, console)


def _tell(results: Sequence[Judged], chosen: argparse.Namespace, console: Console) -> int:
    lines = [one.figures for one in results]
    report.show(lines, console)
    if lines:
        report.write(lines, chosen.out)
        plots.draw(results, picture := chosen.out / "closedloop.png")
        if chosen.publish is not None:
            report.publish(lines, picture, chosen.publish)
    missed = sum(not all(line.checks.values()) for line in lines)
    console.print(f"{len(lines) - missed} scenarios meet every goal, {missed} do not; figures in {chosen.out}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
