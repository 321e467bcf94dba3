"""How a result is shown: a table for people, JSON or YAML for programs, the same values in each.

Tables look like kubectl's (no lines, upper-case heads). Colour and progress bars are for terminals only: rich leaves them out when
the output is not one or NO_COLOR is set, and then nothing is ever wrapped, so that `grep` and `awk` see whole rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

WIDE = 100_000
NONE = "-"


class Format(StrEnum):
    table = "table"
    json = "json"
    yaml = "yaml"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="How to print: table, json or yaml.")]


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or endless where there is none."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False, soft_wrap=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines; None and the empty string print as a dash."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for head in heads:
        grid.add_column(head.upper(), no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell(value)) for value in row))
    return grid


def cell(value: object) -> str:
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3f}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """What a stranger wrote into a stream moves no cursor and starts no line."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def emit(form: Format, data: Any, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `data` as JSON or YAML, or `rows` under `heads`."""
    if form is Format.table:
        print_table(heads, rows)
    else:
        print(dump(form, data))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    lines = list(rows)
    if not lines:
        note("nothing to show")
        return
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(table(heads, lines))
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def dump(form: Format, data: Any) -> str:
    if form is Format.yaml:
        import yaml

        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip()
    return json.dumps(data, indent=2, ensure_ascii=False)


def json_line(data: Mapping[str, Any]) -> str:
    """One document per line: what a stream of results prints with `-o json`."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def say(form: Format, text: str, data: Mapping[str, Any]) -> None:
    """A verb's answer: a sentence for people, the same facts for programs."""
    print(text if form is Format.table else dump(form, dict(data)))


def note(text: str) -> None:
    """Something a person may want to know, out of the way of the output."""
    print(text, file=sys.stderr)


def progress(*, transient: bool = True) -> Progress:
    """A progress display on stderr, silent when that is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=screen, transient=transient, disable=not sys.stderr.isatty())


def age(timestamp: str | None, now: datetime | None = None) -> str:
    """`2026-11-21T14:00:00Z` as kubectl shows an age: 42s, 7m, 3h12m, 5d."""
    if not timestamp:
        return NONE
    then = datetime.fromisoformat(timestamp)
    return duration(int(((now or datetime.now(UTC)) - then).total_seconds()))


def duration(seconds: int) -> str:
    seconds = max(seconds, 0)
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    if seconds < 172_800:
        return f"{seconds // 3600}h"
    return f"{seconds // 86_400}d"


def clock(milliseconds: int) -> str:
    """Milliseconds since 1970 as local hours, minutes and seconds; a dash for what is no time."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return NONE
