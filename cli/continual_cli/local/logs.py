"""`continual local logs`: the output of processes, one file each, also of those that are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from continual_contract.errors import NotFoundError

from continual_cli.local.paths import Home

POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class LogFile:
    component: str
    name: str
    path: Path


def log_files(home: Home) -> list[LogFile]:
    """All logs, oldest output first."""
    found = [LogFile(path.parent.name, path.stem, path) for path in home.logs.glob("*/*.log")]
    return sorted(found, key=lambda file: file.path.stat().st_mtime)


def choose_logs(home: Home, selector: str | None) -> list[LogFile]:
    """Logs of a component, or of the process whose name is, or begins with, the selector; all without one.

    Raises:
        NotFoundError: none fits; the message lists what there is.
    """
    files = log_files(home)
    exact = [file for file in files if selector in {None, file.component, file.name}]
    chosen = exact or [file for file in files if file.name.startswith(selector or "")]
    if not chosen:
        known = sorted({file.component for file in files} | {file.name for file in files})
        raise NotFoundError(
            "no such log",
            field="logs",
            value=selector,
            remedy=f"name one of {', '.join(known) or '(nothing has run yet)'}",
        )
    return chosen


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, read from its end."""
    size = path.stat().st_size
    length = min(size, max(4096, count * 400))
    while True:
        with path.open("rb") as file:
            file.seek(size - length)
            lines = file.read(length).decode(errors="replace").splitlines()
        if len(lines) > count or length == size:
            return lines[-count:] if count else []
        length = min(size, length * 4)


def follow(home: Home, selector: str | None, stop_after: float | None = None) -> Iterator[tuple[LogFile, str]]:
    """New lines of the chosen logs as they come, of new processes too; for ever, or for some seconds."""
    offsets = {file.path: file.path.stat().st_size for file in choose_logs(home, selector)}
    deadline = None if stop_after is None else time.monotonic() + stop_after
    while deadline is None or time.monotonic() < deadline:
        for file in choose_logs(home, selector):
            offset, lines = _new_lines(file.path, offsets.get(file.path, 0))
            offsets[file.path] = offset
            yield from ((file, line) for line in lines)
        time.sleep(POLL_SECONDS)


def _new_lines(path: Path, offset: int) -> tuple[int, list[str]]:
    """Whole lines after an offset; a file that shrank was rotated and is read from its start."""
    size = path.stat().st_size
    start = offset if size >= offset else 0
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size - start)
    whole = data.rfind(b"\n") + 1
    return start + whole, data[:whole].decode(errors="replace").splitlines()
