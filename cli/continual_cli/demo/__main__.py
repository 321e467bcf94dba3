"""`python -m continual_cli.demo`: run the story, write the report, print what was reached. Exit code 1 if anything was missed."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from continual_contract.errors import ContinualError

from continual_cli.demo import recording, report, summary
from continual_cli.demo.installation import Installation, VerbFailedError
from continual_cli.demo.ledger import EpochTable, bins
from continual_cli.demo.recording import Recording
from continual_cli.demo.story import SCORED, Story, StoryError
from continual_cli.demo.view import View

BIN_SECONDS = 4.0
QUICK_SCORED = 500


def main() -> int:
    options = _options()
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="continual-demo-"))
    log = options.out / "local-up.log"
    log.unlink(missing_ok=True)
    story = Story(Installation(home, log), options.seed, QUICK_SCORED if options.quick else SCORED)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _play(story)
        recorded = _recording(story, time.monotonic() - begun)
    finally:
        story.cluster.stop()
    recording.save(recorded, options.out)
    report.write(recorded, options.out)
    _clean(story, home, options.out)
    _print(recorded, story.failure, options.out)
    return 0 if not any(check.failed for check in recorded.checks) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="continual_cli.demo", description="The whole loop on real digits, in under five minutes."
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where the report goes")
    parser.add_argument("--seed", type=int, default=0, help="which digit plays which part, and every jitter")
    parser.add_argument("--quick", action="store_true", help="accuracy from fewer requests: for a first look")
    return parser.parse_args()


def _interrupt(*_: object) -> None:
    """SIGTERM ends the story as Ctrl-C does: in order."""
    raise KeyboardInterrupt


def _play(story: Story) -> None:
    """Run the story with its view; whatever ends it early is kept as its failure."""
    view = View(lambda: story.tracker.seen.samples, lambda: story.tracker.seen.happenings)
    view.start()
    try:
        story.run()
    except (StoryError, VerbFailedError, ContinualError) as error:
        story.failure = f"{story.phase}: {error}"
    except KeyboardInterrupt:
        story.failure = f"{story.phase}: stopped by hand"
    finally:
        story.feeder.stop()
        story.tracker.stop()
        view.stop()


def _recording(story: Story, seconds: float) -> Recording:
    seen, decisions = story.tracker.seen, story.cluster.decisions()
    versions = [record["version"] for record in seen.status.get("versions") or []]
    outcome = summary.Outcome(
        story.books, EpochTable(seen.epochs.values()), story.marks, [label.request_id for label in story.feeder.labels],
        decisions, versions, seen.dead, seconds, story.scored, story.failure,
    )  # fmt: skip
    figures = summary.summarize(outcome)
    return Recording(
        seed=story.seed,
        samples=tuple(seen.samples),
        happenings=tuple(seen.happenings),
        bins=tuple(bins(story.books, BIN_SECONDS)),
        bin_seconds=BIN_SECONDS,
        summary=figures,
        checks=tuple(summary.checks(figures, outcome)),
        notes=summary.notes(figures, story.seed),
        decisions=tuple(_decision_line(decision) for decision in decisions),
    )


def _decision_line(decision: dict[str, object]) -> dict[str, object]:
    return {name: decision.get(name, "") for name in ("sequence", "action", "version", "reason", "message")}


def _clean(story: Story, home: Path, out: Path) -> None:
    """The home is kept only to find out what went wrong."""
    if story.failure:
        print(
            f"\n{story.failure}\nthe cluster's files are kept in {home}, its log in {out}/local-up.log", file=sys.stderr
        )
    else:
        shutil.rmtree(home, ignore_errors=True)


def _print(recorded: Recording, failure: str, out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="What the run had to reach", title_justify="left")
    for column in ("", "value", "bound", ""):
        table.add_column(column)
    for check in recorded.checks:
        colour = "green" if check.passed else "bold red" if check.failed else "yellow"
        table.add_row(check.name, check.value, check.bound, f"[{colour}]{check.word}")
    console = Console()
    console.print(table)
    console.print(f"report: {out}/report.html   picture: {out}/report.png   figures: {out}/summary.json")
    if failure:
        console.print(f"[bold red]the story did not end: {escape(failure)}")


if __name__ == "__main__":
    sys.exit(main())
