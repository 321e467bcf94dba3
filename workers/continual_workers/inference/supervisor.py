"""One inference process per core of the pod.

Several runtime threads in one process cost throughput; several processes do not. The supervisor starts them, sums their
metrics, is ready when all of them are, passes SIGTERM on and restarts a child that died (a poisoned request may kill one).
A child that gave up for a reason that a restart cannot mend (its exit code says so) ends the pod with that code.

A child notices the end of its supervisor by the end of its standard input, so that a killed supervisor leaves no orphans.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from continual_clients.environment import WorkerEnvironment
from continual_clients.health import HealthServer, probe
from continual_contract import settings
from continual_contract.errors import IntegrityError, UsageError
from prometheus_client import CollectorRegistry, multiprocess

log = logging.getLogger(__name__)

CHILD = "CONTINUAL_PROCESS_INDEX"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
FINAL_EXIT_CODES = frozenset({UsageError.exit_code, 3, IntegrityError.exit_code})
LOOK_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
CALM_AFTER_SECONDS = 30.0


def next_pause(pause: float, lived_seconds: float) -> float:
    """Seconds before a restart: doubles with every short life, starts over after a calm one."""
    return FIRST_PAUSE_SECONDS if lived_seconds >= CALM_AFTER_SECONDS else min(pause * 2, LONGEST_PAUSE_SECONDS)


@dataclass(slots=True)
class Child:
    """One slot of the pod: its process, and when it may start again."""

    index: int
    health_address: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS / 2
    not_before: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps `env.processes` children alive until `stop`; `run` returns the pod's exit code."""

    env: WorkerEnvironment
    environ: Mapping[str, str]
    folder: Path
    children: list[Child] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def run(self, stop: threading.Event) -> int:
        self.children = [Child(i, f"unix:{self.folder}/{i}.sock") for i in range(self.env.processes)]
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(self.folder))  # type: ignore[no-untyped-call]  # unannotated
        code = 0
        with HealthServer(self.env.health_address, lambda: self._ready() and not stop.is_set(), registry):
            while not code and not stop.is_set():
                code = self._look_after()
                stop.wait(LOOK_SECONDS)
        self._end()
        return code

    def _look_after(self) -> int:
        """Start what should run; returns a final exit code, or 0."""
        for child in self.children:
            if child.process is None:
                if self.clock() >= child.not_before:
                    self._start(child)
            elif (code := child.process.poll()) is not None:
                if code in FINAL_EXIT_CODES:
                    return code
                self._bury(child, code)
        return 0

    def _start(self, child: Child) -> None:
        extra = {
            CHILD: str(child.index),
            METRICS_FOLDER: str(self.folder),
            settings.HEALTH_ADDRESS: child.health_address,
        }
        child.started = self.clock()
        child.process = subprocess.Popen(
            [sys.executable, "-m", "continual_workers.inference"],
            env={**self.environ, **extra},
            stdin=subprocess.PIPE,
        )

    def _bury(self, child: Child, code: int) -> None:
        assert child.process is not None
        multiprocess.mark_process_dead(child.process.pid, str(self.folder))  # type: ignore[no-untyped-call]  # unannotated
        child.pause = next_pause(child.pause, self.clock() - child.started)
        child.not_before = self.clock() + child.pause
        child.process = None
        log.warning("worker process ended", extra={"index": child.index, "code": code, "restart_in": child.pause})

    def _ready(self) -> bool:
        answers = [probe(child.health_address) for child in self.children if child.process is not None]
        return len(answers) == len(self.children) and all(answer is not None and answer[0] == 200 for answer in answers)

    def _end(self) -> None:
        """SIGTERM to all, then wait: each finishes what it has read. The kubelet's grace period is the limit."""
        processes = [child.process for child in self.children if child.process is not None]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def supervise(env: WorkerEnvironment, environ: Mapping[str, str], stop: threading.Event) -> int:
    with tempfile.TemporaryDirectory(prefix="continual-") as folder:
        return Supervisor(env, environ, Path(folder)).run(stop)


def is_child(environ: Mapping[str, str]) -> bool:
    return CHILD in environ


def stop_with_parent(stop: threading.Event) -> None:
    """Set `stop` when the supervisor's end of our standard input closes."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
