"""The decision ledger: who or what decided what, from which numbers, so that it can be decided again.

An entry holds the judge's whole input (`judge`, `facts`): replaying it is calling the same pure judge with the same values. The
evidence inside may be replaced by one recomputed from the ordered pairs in the store (`evidence_objects`), which proves the numbers too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from continual_contract.artifacts import Frozen


class LedgerEntry(Frozen):
    """One decision, as it lies in the store under `decisions/<sequence>.json`."""

    sequence: int
    time: datetime
    namespace: str
    model: str
    uid: str
    generation: int
    action: str
    """Train, TrainingFailed, Accept, Reject, Shadow, Step, Promote, Rollback, Supersede, ProbationPassed, … (reasons.ACTIONS)."""
    verdict: str
    reason: str
    message: str
    by: Literal["operator", "person"] = "operator"
    acted: bool = True
    """False in mode Observe: decided, recorded, not done."""
    version: str = ""
    baseline: str = ""
    digest: str = ""
    parent: str | None = None
    job: str = ""
    trigger: str = ""
    data: str | None = None
    """Digest of the data list: the range of labels it learned from."""
    trained_through: int = 0
    alpha: float | None = None
    judge: str = ""
    """Name of the judge in `judges.JUDGES`; empty when no judge was asked."""
    facts: dict[str, Any] | None = None
    """The judge's input."""
    evidence_digest: str | None = None
    evidence_objects: tuple[str, ...] = ()
