"""Many waits with a time limit, and one timer for all of them.

A request waits for its body, for Redis, and for its answer. `asyncio.timeout` makes and removes a timer for each, which takes longer than all that
is done meanwhile; and nearly none of them ever fires. Here a limit is an entry in a dictionary, which is looked through ten times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GRAIN_SECONDS = 0.1
"""How late a limit may fire."""


class Deadlines:
    """Of one event loop."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, Callable[[], object]]] = {}
        self._names = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, seconds: float, late: Callable[[], object]) -> int:
        """Call `late` when that long has passed, unless the name that is given back is discarded before."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(GRAIN_SECONDS, self._look, loop)
        self._names = name = self._names + 1
        self._due[name] = (loop.time() + seconds, late)
        return name

    def discard(self, name: int) -> None:
        self._due.pop(name, None)

    async def within(self, seconds: float, future: asyncio.Future[T]) -> T:
        """What the future gives. Errors: TimeoutError, which it then holds."""
        if future.done():
            return await future
        name = self.add(seconds, lambda: _give_up(future))
        try:
            return await future
        finally:
            self.discard(name)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for name, (due, late) in list(self._due.items()):
            if due <= now:
                del self._due[name]
                late()
        self._timer = loop.call_later(GRAIN_SECONDS, self._look, loop) if self._due else None


def _give_up(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
