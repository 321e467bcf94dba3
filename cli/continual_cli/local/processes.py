"""One process that outlives whoever started it, and can be found again.

A slot is a folder with one lock and numbered attempts. An attempt's life is read from files its shim wrote, so a `local up` that was
killed and started anew sees exactly what the old one would have seen: it adopts what runs, and learns how the rest ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from continual_cli.local import shim
from continual_cli.local.files import disk_errors, is_locked, read_json, write_json

VANISHED = 255
"""Exit code of a process whose end nobody saw (its shim was killed too, or the machine restarted)."""
SPAWN_SECONDS = 20.0
"""How long a shim may take to start its process."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """No process, and no trace of one."""


@dataclass(frozen=True, slots=True)
class Starting:
    """The shim has been started, its process not yet."""


@dataclass(frozen=True, slots=True)
class Running:
    pid: int
    since: float


@dataclass(frozen=True, slots=True)
class Exited:
    """How an attempt ended: the record a kubelet would make of it."""

    exit_code: int
    signal: int
    started: float
    finished: float
    reason: str
    """Completed, Error, OOMKilled, StartError or Unknown."""
    message: str = ""


Observation = NotStarted | Starting | Running | Exited


@dataclass(frozen=True, slots=True)
class Command:
    """What is run. The environment is whole: nothing is inherited."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path


class Slot:
    """At most one living process, in attempts 0, 1, 2 …"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shims: dict[int, tuple[int, float]] = {}
        """Attempt → shim's pid and when it was started."""

    def start(self, attempt: int, command: Command) -> None:
        """Start one attempt; the same attempt twice is one process."""
        for folder in (self.folder, command.cwd, command.log.parent):
            with disk_errors(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec = {
            "command": list(command.argv),
            "env": dict(command.env),
            "cwd": str(command.cwd),
            "log": str(command.log),
        }
        write_json(self._path("spec", attempt), spec)
        argv = [sys.executable, "-I", "-S", shim.__file__, str(self.folder), str(attempt)]
        self._shims[attempt] = spawn(argv, {}), time.monotonic()

    def observe(self, attempt: int) -> Observation:
        """What has become of an attempt."""
        self._reap()
        if ended := self._exited(attempt):
            return ended
        started = read_json(self._path("start", attempt))
        if started is None:
            return self._unstarted(attempt)
        pid, since = int(started["pid"]), float(started["time"])
        if started["boot"] == shim.boot_id() and _is_same(pid, int(started["ticks"])):
            return Running(pid, since)
        if is_locked(self.folder / "lock"):
            return Running(pid, since)  # ended this instant: the shim still holds the lock and will write the record
        return self._exited(attempt) or Exited(VANISHED, 0, since, time.time(), "Unknown", "nobody saw the process end")

    def signal(self, attempt: int, number: int) -> None:
        """Signal the process itself (SIGKILL: everything in its session); one that has ended is left alone."""
        seen = self.observe(attempt)
        if not isinstance(seen, Running):
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(seen.pid, number)
            else:
                os.kill(seen.pid, number)

    def forget(self) -> None:
        """Remove the folder; only of a slot whose process has ended."""
        self._reap()
        shutil.rmtree(self.folder, ignore_errors=True)

    def latest(self) -> int:
        """The newest attempt that was ever made; -1: none."""
        numbers = [path.stem.partition("-")[2] for path in self.folder.glob("spec-*.json")]
        return max((int(number) for number in numbers if number.isdigit()), default=-1)

    def trim(self, attempt: int) -> None:
        """Remove the files of attempts before this one."""
        for path in self.folder.glob("*-*.json"):
            number = path.stem.partition("-")[2]
            if number.isdigit() and int(number) < attempt:
                path.unlink(missing_ok=True)

    def _path(self, what: str, attempt: int) -> Path:
        return self.folder / f"{what}-{attempt}.json"

    def _exited(self, attempt: int) -> Exited | None:
        record = read_json(self._path("exit", attempt))
        if record is None:
            return None
        started = read_json(self._path("start", attempt)) or {}
        code, number = int(record["exit_code"]), int(record["signal"])
        reason = "Completed" if code == 0 else "Error"
        if record["oom"]:
            reason = "OOMKilled"
        if record["start_error"]:
            reason = "StartError"
        began = float(started.get("time", record["time"]))
        return Exited(code, number, began, float(record["time"]), reason, str(record["start_error"]))

    def _unstarted(self, attempt: int) -> Observation:
        shim_entry = self._shims.get(attempt)
        if shim_entry is not None and time.monotonic() - shim_entry[1] < SPAWN_SECONDS:
            return Starting()
        return Starting() if is_locked(self.folder / "lock") else NotStarted()

    def _reap(self) -> None:
        """Collect ended shims; one that ended without starting anything is forgotten, so that the attempt is made again."""
        for attempt, (pid, _) in list(self._shims.items()):
            if has_ended(pid):
                del self._shims[attempt]


def spawn(argv: Sequence[str], env: Mapping[str, str], output: Path | None = None) -> int:
    """Start a process in a session of its own, which may outlive this one; returns its pid. No handle has to be kept."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    target = str(output) if output else os.devnull
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, target, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(argv[0], list(argv), env, file_actions=actions, setsid=True)


def has_ended(pid: int) -> bool:
    """Whether a process that this one spawned has ended; collects it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _is_same(pid: int, ticks: int) -> bool:
    """Whether the process with this pid is the one that started then (and is no zombie)."""
    return ticks != 0 and shim.start_ticks(pid) == ticks and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "Z"
    return False
