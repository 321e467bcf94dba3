"""How fast one process may ask the API server: at full speed while it answers, slower with every refusal, never against its `Retry-After`.

A server in trouble refuses with 429, answers 5xx, or says 409 and 410 to everybody at once; hundreds of models that each try again by a
clock of their own would keep it there. So there is one pace for all of them: a failure halves the requests per second, a success adds one to
them (additive increase, multiplicative decrease, as TCP does it: Chiu & Jain, 1989). At one failure in two that settles near two
requests per second, and one healthy second later it has doubled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

FASTEST, SLOWEST = 200.0, 0.5
"""Requests per second."""
LONGEST_WAIT_SECONDS = 120.0
"""A `Retry-After` beyond this is taken for this."""


@dataclass(frozen=True, slots=True)
class Speed:
    """`next_at`: seconds on the caller's clock, before which nothing is sent."""

    per_second: float = FASTEST
    next_at: float = 0.0

    def after_turn(self, now: float) -> Speed:
        return replace(self, next_at=now + 1 / self.per_second)

    def after_success(self) -> Speed:
        return replace(self, per_second=min(FASTEST, self.per_second + 1.0))

    def after_failure(self, now: float, retry_after_seconds: float = 0.0) -> Speed:
        slower = max(SLOWEST, self.per_second / 2)
        wait = max(min(retry_after_seconds, LONGEST_WAIT_SECONDS), 1 / slower)
        return Speed(slower, max(self.next_at, now + wait))


class Pace:
    """The speed of one client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._speed = clock, Speed()

    async def turn(self) -> None:
        """Wait until a request may go. A failure in the meantime puts off whoever waits, too."""
        while (wait := self._speed.next_at - self._clock()) > 0:  # noqa: ASYNC110 -- a clock is waited for
            await asyncio.sleep(wait)
        self._speed = self._speed.after_turn(self._clock())

    def succeeded(self) -> None:
        self._speed = self._speed.after_success()

    def failed(self, retry_after_seconds: float = 0.0) -> None:
        self._speed = self._speed.after_failure(self._clock(), retry_after_seconds)


def retry_after(value: str | None) -> float:
    """Seconds in a `Retry-After` header; 0 where there is none, or a date, which Kubernetes never sends."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0
