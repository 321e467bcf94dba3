"""Whose label counts: one vote per labeler and request, the latest wins, the majority decides, a tie decides nothing.

Quotas bound what one account can do in an hour; the owner of a request is chosen by a keyed hash, so nobody can aim their
labels at one arm. What remains is a majority of malicious trusted labelers, which Continual does not promise to resist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from continual_contract.entries import LabelSource
from continual_contract.ids import HOUR_MS

MAX_LABELERS = 10_000
"""Labelers whose labels are counted in one hour; names beyond that are throttled, so invented names fill no memory."""


def majority(votes: Iterable[str]) -> str | None:
    """The class with most votes; None for a tie or no vote."""
    ranked = Counter(votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def effective_source(source: LabelSource, audited: bool) -> LabelSource:
    """An `audit` label outside the audit set was chosen by somebody: it counts as a correction, which never judges."""
    return "correction" if source == "audit" and not audited else source


@dataclass(slots=True)
class Quota:
    """Labels per labeler in the current hour of the labels stream."""

    hour: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    throttled: dict[str, int] = field(default_factory=dict)

    def admits(self, labeler: str, time_ms: int, limit: int) -> bool:
        """Count one label; False when the labeler has used the hour's quota."""
        if time_ms // HOUR_MS != self.hour:
            self.hour, self.counts, self.throttled = time_ms // HOUR_MS, {}, {}
        used = self.counts.get(labeler, 0)
        if used >= limit or (used == 0 and len(self.counts) >= MAX_LABELERS):
            if len(self.throttled) < MAX_LABELERS or labeler in self.throttled:
                self.throttled[labeler] = self.throttled.get(labeler, 0) + 1
            return False
        self.counts[labeler] = used + 1
        return True

    def top_throttled(self, count: int = 5) -> tuple[str, ...]:
        return tuple(sorted(self.throttled, key=lambda name: (-self.throttled[name], name))[:count])

    def dump(self) -> dict[str, Any]:
        return {"hour": self.hour, "counts": self.counts, "throttled": self.throttled}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Quota:
        return cls(state["hour"], dict(state["counts"]), dict(state["throttled"]))
