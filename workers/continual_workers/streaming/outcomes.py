"""What a handler says of a request, and what the stream reports about itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from continual_contract.entries import RequestEntry, Role


class Predicted(NamedTuple):
    class_name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The request can never be answered (wrong size, unknown encoding …): it becomes a dead letter at once."""

    reason: str
    message: str


Outcome = Predicted | Refused
Handler = Callable[[Sequence[RequestEntry]], Sequence[Outcome]]
"""One outcome per request, in order. It must not raise for what a request may contain."""

CounterName = Literal[
    "delivered",
    "acknowledged",
    "published",
    "lost",  # answered, but settled by somebody else meanwhile
    "fenced",  # left alone because another version works in the group
    "claimed",
    "renewed",
    "isolated",
    "dead",
    "shadow_dropped",
    "no_epoch",
    "gone",  # pending, but its entry was deleted
    "reconnects",
]


class StreamMetrics(Protocol):
    """Where a consumer counts. Called per batch, from three threads."""

    def count(self, name: CounterName, amount: int = 1) -> None: ...

    def batch(self, role: Role, images: int, seconds: float) -> None:
        """One handler call: `images` requests took `seconds`."""

    def lag(self, seconds: float) -> None:
        """Age of the oldest entry of the newest batch."""


class Counters:
    """The plain implementation: numbers in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.totals: Counter[str] = Counter()
        self.lag_seconds = 0.0

    def count(self, name: CounterName, amount: int = 1) -> None:
        with self._lock:
            self.totals[name] += amount

    def batch(self, role: Role, images: int, seconds: float) -> None:
        with self._lock:
            self.totals[f"images_{role}"] += images
            self.totals["handler_us"] += round(seconds * 1e6)

    def lag(self, seconds: float) -> None:
        self.lag_seconds = seconds
