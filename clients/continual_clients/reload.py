"""For `skaffold dev`: run a module of ours and start it again when its code changes.

    python -m continual_clients.reload continual_operator

Every half second the changing times of our Python files are compared. A process that ends by itself is not started again before
its code has changed: what it said last stays in view. Signals for the end are handed on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event

LOOK_EVERY_SECONDS = 0.5
FAREWELL_SECONDS = 20.0
CODE = Path(__file__).resolve().parents[1]
"""The folder that holds our packages, in an image and in this repository's parts."""


def stamps(folder: Path) -> dict[str, int]:
    """File → when it was last changed, nanoseconds; a file that vanishes meanwhile is left out."""
    found = {}
    for path in folder.rglob("*.py"):
        try:
            found[str(path)] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def keep_running(command: Sequence[str], folder: Path, stop: Event) -> int:
    """Run `command` until told to stop, anew after every change under `folder`; the exit code of its last run."""
    while True:
        seen = stamps(folder)
        process = subprocess.Popen(command)
        while not stop.wait(LOOK_EVERY_SECONDS) and stamps(folder) == seen:
            pass
        code = _ended(process)
        if stop.is_set():
            return code
        print(f"reload: code has changed, {command[-1]} starts again", file=sys.stderr, flush=True)


def _ended(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(FAREWELL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return keep_running([sys.executable, "-m", *arguments], CODE, stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
