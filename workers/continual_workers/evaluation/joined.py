"""One labelled request: the votes about it, what the versions answered, and where it stands.

Votes are collected for a short while after the first (`settle_ms`, in the time of the labels stream), then the majority
decides once. Everything later that is counted from it (scores, drift, evidence) uses that decision, so that the same
streams give the same numbers however often the evaluator was killed in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from continual_contract.entries import Answer
from continual_contract.ids import id_key

from continual_workers.evaluation.votes import majority

SETTLE_SHARE = 20
MAX_SETTLE_MS = 60_000


def settle_milliseconds(window_seconds: float) -> int:
    """How long votes about a request are collected after the first: a twentieth of the window, at most a minute."""
    return min(MAX_SETTLE_MS, int(window_seconds * 1000 / SETTLE_SHARE))


@dataclass(frozen=True, slots=True)
class Vote:
    class_name: str
    source: str


@dataclass(slots=True)
class Joined:
    """A row of the table `joined`, by request id."""

    request_id: str
    settle_ms: int
    cluster: str
    """Key `k` in hex; empty without one."""
    unit: str
    """Short hash of the unit of separation; empty when the pixels are gone and there is no key."""
    votes: dict[str, Vote] = field(default_factory=dict)
    decided: bool = False
    verdict: str | None = None
    """Majority of the votes whose source may judge; None undecided or a tie."""
    answers: dict[str, str] = field(default_factory=dict)
    """version → class"""
    owner: str = ""
    """The version whose answer was published; empty: not answered yet."""
    substituted: bool = False
    """An heir answered in the owner's place."""
    missing: list[str] = field(default_factory=list)
    """Versions that may still answer."""

    @property
    def time_ms(self) -> int:
        return id_key(self.request_id)[0]

    def decide(self, gate_sources: tuple[str, ...]) -> str | None:
        """Close the votes; returns the class to train on, the majority of all votes."""
        self.decided = True
        self.verdict = majority(vote.class_name for vote in self.votes.values() if vote.source in gate_sources)
        return self.verdict or majority(vote.class_name for vote in self.votes.values())

    def trained_by(self, class_name: str) -> tuple[str, str]:
        """Labeler and source to be named with the sample: of the first vote, by name, for this class."""
        name = min(name for name, vote in self.votes.items() if vote.class_name == class_name)
        return name, self.votes[name].source

    def answer(self, answer: Answer, owner: bool) -> bool:
        """Note what a version said; False if it had been heard before (an heir may have shadowed the same request)."""
        if owner:
            self.owner, self.substituted = answer.version, answer.why == "heir"
        if answer.version in self.missing:
            self.missing = [version for version in self.missing if version != answer.version]
        if answer.version in self.answers:
            return False
        self.answers[answer.version] = answer.class_name
        return True

    @property
    def waiting(self) -> bool:
        """Decided, but nobody has answered the request yet."""
        return self.decided and not self.owner

    @property
    def unfinished(self) -> bool:
        """Decided, and an answer may still come."""
        return self.decided and self.verdict is not None and (not self.owner or bool(self.missing))

    def dump(self) -> dict[str, Any]:
        return {
            "s": self.settle_ms, "k": self.cluster, "u": self.unit, "d": self.decided, "c": self.verdict,
            "v": {name: [vote.class_name, vote.source] for name, vote in self.votes.items()},
            "a": self.answers, "o": self.owner, "h": self.substituted, "m": self.missing,
        }  # fmt: skip

    @classmethod
    def load(cls, request_id: str, state: Mapping[str, Any]) -> Joined:
        return cls(
            request_id=request_id,
            settle_ms=state["s"],
            cluster=state["k"],
            unit=state["u"],
            votes={name: Vote(*vote) for name, vote in state["v"].items()},
            decided=state["d"],
            verdict=state["c"],
            answers=state["a"],
            owner=state["o"],
            substituted=state["h"],
            missing=state["m"],
        )
