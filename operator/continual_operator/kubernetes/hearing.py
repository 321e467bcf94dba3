"""Proof that watches are heard: what a list had to tell, the watch of its kind must tell too, a moment later.

A watch can be open and dead: a proxy that keeps the connection and forgets the stream, a server that lost its cache. Lists go on, so models are
looked at once a minute, and nothing seems wrong. Every change that a list brought first is therefore expected from the
watch; what does not come for longer than it may is silence, and the liveness probe says so.
"""

from __future__ import annotations

from collections.abc import Callable


class Hearing:
    """What is expected from the watches, by uid."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected: dict[str, tuple[int, float]] = {}
        """uid → resource version that is due, and since when."""

    def expect(self, uid: str, version: int) -> None:
        """A list brought it first. What is due already stays due."""
        self._expected.setdefault(uid, (version, self._clock()))

    def heard(self, uid: str, version: int) -> None:
        """A watch told of it, in this version."""
        due = self._expected.get(uid)
        if due is not None and version >= due[0]:
            del self._expected[uid]

    def forget(self, uid: str) -> None:
        """It is gone: nobody will tell."""
        self._expected.pop(uid, None)

    def silence_seconds(self) -> float:
        """How long the longest awaited change has been due; 0 where none is. Asked by another thread: over a copy."""
        now = self._clock()
        return max((now - since for _, since in list(self._expected.values())), default=0.0)
