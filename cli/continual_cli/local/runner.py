"""The side effects of a pod: its process, environment, readiness and log.

The decisions are in `pods`; this module looks and acts. It keeps nothing that a new `local up` could not find again in the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Collection, Mapping
from pathlib import Path

from continual_contract import settings

from continual_cli.local import manifests
from continual_cli.local.paths import Home
from continual_cli.local.pods import Action, Pod
from continual_cli.local.processes import Command, Exited, Observation, Slot

INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)
"""All that a process gets from the environment of `local up`: a pod inherits nothing, and no secret of a shell leaks into it."""

PROBE_SECONDS = 1.0
LOG_BYTES = 10 << 20
STANDING_LOGS = ("operator", "redis", "gateway", "up")
"""Folders of logs that belong to no pod."""
LAST_WORDS_BYTES = 2048
LAST_WORDS_LINES = 12


class PodRunner:
    """Run, look at and end the processes of pods."""

    def __init__(self, home: Home, environ: Mapping[str, str]) -> None:
        self._home = home
        self._inherited = {name: environ[name] for name in INHERITED if name in environ}
        self._slots: dict[str, Slot] = {}
        self._templates: dict[str, manifests.Template] = {}

    def observe(self, pod: Pod) -> tuple[Observation, str]:
        """What became of the current attempt, and the last words of one that ended."""
        seen = self._slot(pod).observe(pod.attempt)
        return seen, self._last_words(pod, seen) if isinstance(seen, Exited) else ""

    def act(self, pod: Pod, action: Action) -> None:
        if action is Action.START:
            self._start(pod)
        elif action is Action.TERMINATE:
            self.terminate(pod)
        elif action is Action.KILL:
            self.kill(pod)

    def terminate(self, pod: Pod) -> None:
        """Ask the process to end."""
        self._slot(pod).signal(pod.attempt, signal.SIGTERM)

    def forget(self, pod: Pod) -> None:
        """Remove what only a living pod needs; its log stays."""
        self._slot(pod).forget()
        self._slots.pop(pod.name, None)
        self._home.socket(pod.name).unlink(missing_ok=True)

    def container(self, pod: Pod) -> manifests.Container:
        """What its own template says to run and to poll."""
        return self._template(pod).container

    def socket(self, pod: Pod) -> Path:
        return self._home.socket(pod.name)

    def kill(self, pod: Pod) -> None:
        self._slot(pod).signal(pod.attempt, signal.SIGKILL)

    def log_path(self, pod: Pod) -> Path:
        return self._home.logs / pod.component / f"{pod.name}.log"

    def rotate_log(self, pod: Pod) -> None:
        rotate(self.log_path(pod))

    def prune_logs(self, living: Collection[str], keep: int) -> None:
        """Remove the oldest logs of pods that are gone."""
        of_pods = [path for path in self._home.logs.glob("*/*.log*") if path.parent.name not in STANDING_LOGS]
        gone = [path for path in of_pods if path.name.partition(".log")[0] not in living]
        for path in sorted(gone, key=lambda path: path.stat().st_mtime)[: max(0, len(gone) - keep)]:
            path.unlink(missing_ok=True)

    def _slot(self, pod: Pod) -> Slot:
        return self._slots.setdefault(pod.name, Slot(self._home.pod_folder(pod.name)))

    def _template(self, pod: Pod) -> manifests.Template:
        if pod.digest not in self._templates:
            every = ("Always", "OnFailure", "Never")
            self._templates[pod.digest] = manifests.parse_template(pod.template, "Always", every)
        return self._templates[pod.digest]

    def _start(self, pod: Pod) -> None:
        template = self._template(pod)
        slot, folder = self._slot(pod), self._home.pod_folder(pod.name)
        slot.trim(pod.attempt)
        self._home.socket(pod.name).unlink(missing_ok=True)
        (folder / "termination-log").unlink(missing_ok=True)
        command = Command(
            template.container.command, self._environment(pod, template), folder / "work", self.log_path(pod)
        )
        slot.start(pod.attempt, command)

    def _environment(self, pod: Pod, template: manifests.Template) -> dict[str, str]:
        metadata = {
            "name": pod.name,
            "namespace": pod.namespace,
            "uid": pod.uid,
            "labels": pod.labels,
            "annotations": template.annotations,
        }
        own = {
            settings.HEALTH_ADDRESS: f"unix:{self._home.socket(pod.name)}",
            settings.POD_NAME: f"{pod.name}-{pod.attempt}",
            settings.TERMINATION_LOG: str(self._home.pod_folder(pod.name) / "termination-log"),
        }
        return {**self._inherited, settings.CPUS: "1", **manifests.environment(template.container, metadata), **own}

    def _last_words(self, pod: Pod, seen: Exited) -> str:
        """The termination message; of a failed process without one, the end of its log."""
        with contextlib.suppress(OSError):
            if text := (self._home.pod_folder(pod.name) / "termination-log").read_text(errors="replace").strip():
                return text[:LAST_WORDS_BYTES]
        return tail(self.log_path(pod)) if seen.exit_code else ""


async def http_ok(socket: Path, path: str, timeout_seconds: float = PROBE_SECONDS) -> bool:
    """Whether GET answers 2xx or 3xx in time."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                status = (await reader.readuntil(b"\r\n")).split()
                return len(status) > 1 and status[1][:1] in {b"2", b"3"}
            finally:
                writer.close()
    return False


def tail(path: Path) -> str:
    """The last lines of a log, at most 2 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LAST_WORDS_LINES:]).strip()


def rotate(path: Path, limit: int = LOG_BYTES) -> bool:
    """Copy a log that has grown too long to `.1` and empty it: writers append, so they go on at its new end."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
            return True
    return False
