"""Readiness and liveness of running pods, asked on their health sockets as a kubelet asks on their ports.

Readiness is polled quicker than in a cluster (a person waits for it); liveness keeps the manifest's own timing, because a process killed
too early on a busy machine would be worse than one that hangs a little longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from continual_cli.local.manifests import Container
from continual_cli.local.pods import Pod
from continual_cli.local.runner import PodRunner, http_ok

UNREADY_SECONDS = 0.4
READY_SECONDS = 2.0
UNREADY_AFTER = 3
"""Polls in a row that must fail before a ready pod is not ready any more."""


@dataclass(slots=True)
class Watch:
    """What is remembered of one attempt of a pod between polls; all times monotonic."""

    attempt: int
    ready_due: float
    live_due: float
    ready_failures: int = 0
    live_failures: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one round says of one attempt."""

    pod: str
    attempt: int
    ready: bool
    hung: bool


class Prober:
    """Polls whatever is due."""

    def __init__(self, runner: PodRunner, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner, self._clock = runner, clock
        self._watches: dict[str, Watch] = {}

    async def round(self, pods: Sequence[Pod]) -> list[Verdict]:
        """Poll the running ones of these pods; all at the same time."""
        running = [pod for pod in pods if pod.active and pod.pid is not None]
        self._watches = {pod.name: self._watch(pod) for pod in running}
        return list(await asyncio.gather(*(self._ask(pod, self._watches[pod.name]) for pod in running)))

    def _watch(self, pod: Pod) -> Watch:
        watch = self._watches.get(pod.name)
        if watch is not None and watch.attempt == pod.attempt:
            return watch
        live = self._runner.container(pod).live
        now = self._clock()
        return Watch(pod.attempt, now, now + (live.initial_delay_seconds if live else 0.0))

    async def _ask(self, pod: Pod, watch: Watch) -> Verdict:
        container = self._runner.container(pod)
        ready, hung = await asyncio.gather(self._ready(pod, container, watch), self._hung(pod, container, watch))
        return Verdict(pod.name, pod.attempt, ready, hung)

    async def _ready(self, pod: Pod, container: Container, watch: Watch) -> bool:
        if container.ready_path is None:
            return True
        now = self._clock()
        if now < watch.ready_due:
            return pod.ready
        watch.ready_due = now + (READY_SECONDS if pod.ready else UNREADY_SECONDS)
        answered = await http_ok(self._runner.socket(pod), container.ready_path)
        watch.ready_failures = 0 if answered else watch.ready_failures + 1
        return answered or (pod.ready and watch.ready_failures < UNREADY_AFTER)

    async def _hung(self, pod: Pod, container: Container, watch: Watch) -> bool:
        live, now = container.live, self._clock()
        if live is None or now < watch.live_due:
            return False
        watch.live_due = now + live.period_seconds
        answered = await http_ok(self._runner.socket(pod), live.path, live.timeout_seconds)
        watch.live_failures = 0 if answered else watch.live_failures + 1
        return watch.live_failures >= live.failure_threshold
