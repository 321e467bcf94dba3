"""A status on its way to the next: what deciding passes from hand to hand.

Every step takes a draft and returns one; each decision leaves a line in the status and a whole entry in its outbox. The draft becomes the status in one write,
so that a decision and its record are never apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from continual_contract.artifacts import DataList

from continual_operator.judges import Facts, Verdict, dump_facts
from continual_operator.ledger import LedgerEntry
from continual_operator.observation import Observation
from continual_operator.spec import ContinualModelSpec
from continual_operator.status import MAX_DECISIONS, MAX_QUARANTINE, DecisionLine, Phase, Status

MAX_OUTBOX = 100
MAX_MESSAGE = 300
By = Literal["operator", "person"]


@dataclass(frozen=True, slots=True)
class Draft:
    obs: Observation
    now: datetime
    status: Status
    data_lists: tuple[DataList, ...] = ()
    """Lists to be stored before the status names their digests."""

    @property
    def spec(self) -> ContinualModelSpec:
        return self.obs.model.spec

    def to(self, **changes: Any) -> Draft:
        """The same draft with a changed status."""
        return replace(self, status=self.status.replaced(**changes))

    def phase(self, version: str, phase: Phase, reason: str = "", message: str = "") -> Draft:
        return replace(self, status=self.status.with_phase(version, phase, reason, message))

    def storing(self, data: DataList) -> Draft:
        return replace(self, data_lists=(*self.data_lists, data))

    def quarantined(self, digest: str) -> Draft:
        """The digest never comes back by itself."""
        rest = tuple(d for d in self.status.quarantine if d != digest)
        return self.to(quarantine=(*rest, digest)[-MAX_QUARANTINE:])

    def record(
        self,
        action: str,
        verdict: Verdict,
        version: str = "",
        *,
        facts: Facts | None = None,
        judge: str = "",
        by: By = "operator",
        acted: bool = True,
        **details: Any,
    ) -> Draft:
        """Enter a decision in the ledger: a line for people, the whole entry for replay."""
        entry = self._entry(action, verdict, version, facts, judge, by, acted, details)
        line = DecisionLine(
            sequence=entry.sequence, time=self.now, action=action, reason=verdict.reason,
            message=verdict.message[:MAX_MESSAGE], version=version, by=by,
        )  # fmt: skip
        return self.to(
            ledger_sequence=entry.sequence,
            decisions=(*self.status.decisions, line)[-MAX_DECISIONS:],
            outbox=(*self.status.outbox, entry)[-MAX_OUTBOX:],
        )

    def _entry(
        self, action: str, verdict: Verdict, version: str, facts: Facts | None, judge: str, by: By, acted: bool,
        details: dict[str, Any],
    ) -> LedgerEntry:  # fmt: skip
        model, known = self.obs.model, self.status.record(version)
        about: dict[str, Any] = {}
        if known is not None:
            about = {
                "digest": known.digest, "parent": known.parent, "job": known.job, "trigger": known.trigger,
                "trained_through": known.trained_through,
            }  # fmt: skip
        pair = self.obs.report.pair if self.obs.report and judge in {"judge_canary", "judge_probation"} else None
        if pair is not None and pair.candidate == version:
            about |= {"evidence_digest": pair.evidence_digest, "evidence_objects": pair.evidence_objects}
        return LedgerEntry(
            sequence=self.status.ledger_sequence + 1, time=self.now, namespace=model.namespace, model=model.name,
            uid=model.uid, generation=model.generation, action=action, verdict=verdict.outcome, reason=verdict.reason,
            message=verdict.message, by=by, acted=acted, version=version, judge=judge,
            facts=dump_facts(facts) if facts is not None else None, **(about | details),
        )  # fmt: skip


def rollout_salt(uid: str, rollout: int) -> str:
    """Salt of one rollout's shares: fixed while it lasts, fresh for the next, so that nobody is always the guinea pig."""
    return hashlib.sha256(f"{uid}/{rollout}".encode()).hexdigest()[:16]
