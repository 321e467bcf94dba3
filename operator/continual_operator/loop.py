"""One task per model: woken by changes, or by time; the only place that catches broadly.

A failing model hurts only itself: its task says so in a condition and waits longer each time, with jitter, while the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from datetime import timedelta

import redis
from continual_contract.errors import ContinualError, FencedError

from continual_operator import reasons
from continual_operator.cluster import Cluster, ModelRef
from continual_operator.decide import AT_ONCE
from continual_operator.deps import Deps
from continual_operator.reconcile import reconcile, report_problem
from continual_operator.sweeper import SWEEP_EVERY, sweep

log = logging.getLogger(__name__)

RESYNC_EVERY = timedelta(seconds=60)
WATCH_AGAIN_AFTER = timedelta(seconds=1)
COALESCE = timedelta(milliseconds=50)
"""Changes that come together are looked at together."""
LOOKS = 32
"""Looks at once. Each computes for some milliseconds: when five hundred models move, whoever else needs the event loop (the Lease!) must
wait for a few of them, and not for all."""
HURRIES = 10
"""Looks in a row that may ask for another one at once. Decisions come to rest sooner; a write that is refused again and again does not."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=0.5), timedelta(seconds=60)


async def run_operator(cluster: Cluster, deps: Deps, stop: asyncio.Event) -> None:
    """Reconcile every model until `stop` is set; running passes end first. Returns when all is quiet."""
    loops = Loops(deps, stop)
    helpers = [
        asyncio.create_task(_watch(cluster, loops)),
        asyncio.create_task(_resync(cluster, loops)),
        asyncio.create_task(_sweep(deps)),
    ]
    await stop.wait()
    for task in helpers:
        task.cancel()
    await asyncio.gather(*helpers, return_exceptions=True)
    await loops.finish()


async def _watch(cluster: Cluster, loops: Loops) -> None:
    """Wake on every change; a watch that breaks is taken up again."""
    while True:
        try:
            async for ref in cluster.changes():
                loops.wake(ref)
        except (ContinualError, OSError) as error:
            log.warning("watch broke", extra={"error": str(error)})
        await asyncio.sleep(WATCH_AGAIN_AFTER.total_seconds())


async def _resync(cluster: Cluster, loops: Loops) -> None:
    """Missed changes do no harm: every model is looked at again within a minute."""
    while True:
        try:
            for ref in await cluster.list_models():
                loops.wake(ref)
        except (ContinualError, OSError) as error:
            log.warning("resync failed", extra={"error": str(error)})
        await asyncio.sleep(RESYNC_EVERY.total_seconds())


async def _sweep(deps: Deps) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY.total_seconds())
        try:
            await sweep(deps)
        except (ContinualError, redis.RedisError, OSError) as error:
            log.warning("sweep failed", extra={"error": str(error)})


class Loops:
    """The tasks of all models, by name."""

    def __init__(self, deps: Deps, stop: asyncio.Event) -> None:
        self._deps, self._stop = deps, stop
        self._turns = asyncio.Semaphore(LOOKS)
        self._wakes: dict[ModelRef, asyncio.Event] = {}
        self._tasks: dict[ModelRef, asyncio.Task[None]] = {}

    def wake(self, ref: ModelRef) -> None:
        """Look at this model soon; starts its task if it has none."""
        self._wakes.setdefault(ref, asyncio.Event()).set()
        task = self._tasks.get(ref)
        if task is None or task.done():
            self._tasks[ref] = asyncio.create_task(self._loop(ref), name=f"reconcile {ref}")

    async def finish(self) -> None:
        for wake in self._wakes.values():
            wake.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _loop(self, ref: ModelRef) -> None:
        wake, failures, hurries = self._wakes[ref], 0, 0
        while not self._stop.is_set():
            async with self._turns:
                wake.clear()
                again, failures = await self._guarded(ref, failures)
            if again is None:
                return
            hurries = hurries + 1 if again <= AT_ONCE else 0
            if hurries > HURRIES:
                again = back_off(hurries - HURRIES, random.random())  # noqa: S311 -- jitter, not a secret
            is_calm = failures == 0 and hurries <= HURRIES
            await _wake_or(wake if is_calm else asyncio.Event(), self._stop, again)

    async def _guarded(self, ref: ModelRef, failures: int) -> tuple[timedelta | None, int]:
        """One pass; whatever goes wrong becomes a condition and a longer pause."""
        began = time.monotonic()
        try:
            again = await reconcile(ref, self._deps)
            self._deps.metrics.looked(timedelta(seconds=time.monotonic() - began))
            return again, 0
        except Exception as error:
            self._deps.metrics.looked(timedelta(seconds=time.monotonic() - began), _reason(error))
            log.warning(
                "reconcile failed",
                extra={"model": str(ref), "error": repr(error), "failures": failures + 1},
                exc_info=error,
            )
            await _say(ref, self._deps, error)
            return back_off(failures, random.random()), failures + 1  # noqa: S311 -- jitter, not a secret


def back_off(failures: int, jitter: float) -> timedelta:
    """0.5 s doubling to a minute, times 0.5 … 1.5, so that many models do not come back at once."""
    pause: timedelta = min(FIRST_PAUSE * float(2 ** min(failures, 10)), LONGEST_PAUSE)
    return pause * (0.5 + jitter)


async def _say(ref: ModelRef, deps: Deps, error: Exception) -> None:
    if isinstance(error, FencedError):
        return  # somebody newer speaks for this model
    with suppress(ContinualError, OSError):
        obj = await deps.cluster.get_model(ref)
        if obj is not None:
            said = str(error) or repr(error)
            await report_problem(ref, obj, deps, deps.now(), "Degraded", "True", _reason(error), said)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ContinualError) else reasons.RECONCILE_FAILED


async def _wake_or(wake: asyncio.Event, stop: asyncio.Event, again: timedelta) -> None:
    """Sleep until woken, told to stop, or until it is time."""
    waits = [asyncio.create_task(wake.wait()), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(waits, timeout=again.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
    if wake.is_set() and not stop.is_set():
        await asyncio.sleep(COALESCE.total_seconds())
