"""What the machine did meanwhile: our CPU, everybody's CPU, and what was left for strangers.

On a shared machine a rate means little and a ratio of two rates measured minutes apart means less. So every figure is taken side by
side with what it is compared with, several times, interleaved, and a run during which strangers used the cores is thrown away.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

FOREIGN_LIMIT = 0.08
"""Share of all cores that strangers may use during a run that counts."""
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Span:
    """What happened between two moments: wall seconds, our CPU seconds, the share of all cores that strangers took."""

    seconds: float = 0.0
    own_cpu: float = 0.0
    foreign: float = 0.0


def _busy_seconds() -> float:
    """CPU seconds of all cores that were not idle since boot, stolen time included: who stole it was a stranger."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def cpu_seconds(pids: list[int]) -> float:
    """User and system seconds of these processes so far; those that are gone count nothing."""
    return sum(_one(pid) for pid in pids)


def _own_seconds(pids: list[int]) -> float:
    """Of these processes, and of all children that ended and were waited for: a child moves from one sum to the other."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cpu_seconds(pids) + ended.ru_utime + ended.ru_stime


def _one(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 -- read many times a second
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def family() -> list[int]:
    """This process and everything it started."""
    me = psutil.Process()
    return [me.pid, *(child.pid for child in me.children(recursive=True))]


@contextmanager
def span() -> Iterator[Span]:
    """Watch the block; the object is filled when it ends. Processes that begin inside it are not counted as ours."""
    taken, pids = Span(), family()
    busy, own, began = _busy_seconds(), _own_seconds(pids), time.perf_counter()
    try:
        yield taken
    finally:
        taken.seconds = time.perf_counter() - began
        taken.own_cpu = _own_seconds(pids) - own
        capacity = taken.seconds * (os.cpu_count() or 1)
        taken.foreign = max(0.0, (_busy_seconds() - busy - taken.own_cpu) / capacity)


@dataclass(slots=True)
class Quiet:
    """Runs a measurement again while strangers disturb it; keeps the least disturbed one if they never stop."""

    tries: int = 3
    rejected: int = 0
    disturbed: int = 0
    foreign: list[float] = field(default_factory=list)

    def measure(self, run: Callable[[], tuple[float, Span]]) -> float:
        attempts: list[tuple[float, float]] = []
        for _ in range(self.tries):
            value, taken = run()
            attempts.append((taken.foreign, value))
            if taken.foreign <= FOREIGN_LIMIT:
                break
            self.rejected += 1
        foreign, value = min(attempts)
        self.foreign.append(foreign)
        self.disturbed += foreign > FOREIGN_LIMIT
        return value
