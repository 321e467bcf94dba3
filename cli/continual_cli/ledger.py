"""The decision ledger read back, and each decision made once more.

A ledger entry holds the whole input of the pure judge that decided. Replaying recomputes the paired evidence from the ordered pairs
in the store (their digest must be the recorded one), puts it in the place of the recorded numbers and asks the same judge.
Numbers, verdict, reason and message must come out the same, bit for bit; with another gate they may not, and that is the point.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual_contract.errors import IntegrityError, NotFoundError, UsageError

from continual_cli.target import Target

if TYPE_CHECKING:
    from continual_contract.report import PairEvidence
    from continual_operator.judges import Facts
    from continual_operator.ledger import LedgerEntry

REPLAY_HEADS = ("Seq", "Version", "Judge", "Pairs", "Recorded", "Verdict", "Reason", "Same", "Message")
COMPUTED = (
    "pairs",
    "requests",
    "mean_gain",
    "gain_lower",
    "gain_upper",
    "log_wealth_not_inferior",
    "log_wealth_worse",
    "log_wealth_class_veto",
    "classes",
    "wins",
    "losses",
)
"""Fields of PairEvidence that follow from the ordered pairs alone."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision made again. `pairs` is None where no stored evidence belongs to it."""

    sequence: int
    version: str
    judge: str
    pairs: int | None
    recorded: str
    verdict: str
    reason: str
    message: str
    same: bool

    def row(self) -> tuple[object, ...]:
        return (
            self.sequence,
            self.version,
            self.judge,
            self.pairs,
            self.recorded,
            self.verdict,
            self.reason,
            self.same,
            self.message,
        )


def entries(target: Target) -> list[LedgerEntry]:
    """The ledger, oldest first: what is in the store, and what the status holds until it is there too."""
    from continual_operator.ledger import LedgerEntry

    prefix = target.layout.decision(0).rpartition("/")[0] + "/"
    stored = [LedgerEntry.model_validate_json(target.store.get(info.key)) for info in target.store.list(prefix)]
    waiting = [LedgerEntry.model_validate(entry) for entry in target.status.get("outbox", [])]
    return sorted({entry.sequence: entry for entry in (*stored, *waiting)}.values(), key=lambda entry: entry.sequence)


def read(target: Target) -> list[dict[str, Any]]:
    return [entry.model_dump(mode="json") for entry in entries(target)]


def row(entry: dict[str, Any]) -> tuple[object, ...]:
    names = ("version", "action", "verdict", "reason", "by", "message")
    return (entry["sequence"], entry["time"][:19] + "Z", *(entry[name] for name in names))


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision that a judge made, and the model it is of."""

    target: Target
    entry: LedgerEntry


def judged(target: Target, sequence: int | None) -> list[Judged]:
    """The decisions that can be made again: one, or all. Errors: NotFoundError, UsageError for one no judge made."""
    found = [entry for entry in entries(target) if sequence is None or entry.sequence == sequence]
    if sequence is not None and not found:
        raise NotFoundError("no such decision", field="SEQ", value=sequence, remedy="see `continual decisions`")
    chosen = [Judged(target, entry) for entry in found if entry.judge and entry.facts is not None]
    if sequence is not None and not chosen:
        said = f"{found[0].action}: {found[0].reason}"
        raise UsageError(
            "was not made by a judge", field=f"decision {sequence}", value=said, remedy="it follows from another one"
        )
    return chosen


def replay(one: Judged, gate_file: Path | None) -> Replayed:
    """Make one decision again. Errors: IntegrityError when the stored pairs are not those of the ledger."""
    from continual_operator.judges import JUDGES

    entry = one.entry
    kind, judge = JUDGES[entry.judge]
    facts = kind.model_validate_json(json.dumps(entry.facts))
    evidence = recomputed(one, facts)
    if evidence is not None:
        facts = facts.model_copy(update={"evidence": evidence})
    if gate_file is not None:
        facts = with_gate(facts, gate_file)
    verdict = judge(facts)
    said = (verdict.outcome, verdict.reason, verdict.message)
    return Replayed(
        entry.sequence,
        entry.version,
        entry.judge,
        evidence.pairs if evidence else None,
        entry.verdict,
        *said,
        same=said == (entry.verdict, entry.reason, entry.message),
    )


def recomputed(one: Judged, facts: Facts) -> PairEvidence | None:
    """The facts' evidence computed anew from the store; None where the judge looked at none.

    Errors: IntegrityError when digest or numbers differ from the recorded ones.
    """
    recorded: PairEvidence | None = getattr(facts, "evidence", None)
    if recorded is None or not recorded.evidence_objects:
        return None
    from continual_workers.evaluation.evidence import digest_of
    from continual_workers.evaluation.evidence import replay as compute

    observations = stored_pairs(one.target, recorded)
    where = f"decision {one.entry.sequence}"
    if (digest := digest_of(observations)) != recorded.evidence_digest:
        remedy = f"the ledger holds {recorded.evidence_digest}: restore evidence/{recorded.evidence_id}"
        raise IntegrityError(
            "the stored pairs are not those that were judged", field=where, value=digest, remedy=remedy
        )
    anew = compute(
        observations,
        recorded.margin,
        recorded.worst_class_margin,
        class_count=len(one.target.classes),
        evidence_id=recorded.evidence_id,
        candidate=recorded.candidate,
        baseline=recorded.baseline,
        purpose=recorded.purpose,
    )
    return merged(where, recorded, anew)


def merged(where: str, recorded: PairEvidence, anew: PairEvidence) -> PairEvidence:
    """The recorded evidence with every number that follows from the pairs computed anew."""
    for name in COMPUTED:
        if getattr(anew, name) != getattr(recorded, name):
            raise IntegrityError(
                f"{name} comes out differently",
                field=where,
                value=getattr(anew, name),
                remedy=f"the ledger says {getattr(recorded, name)}",
            )
    return recorded.model_copy(update={name: getattr(anew, name) for name in COMPUTED})


def stored_pairs(target: Target, evidence: PairEvidence) -> list[Any]:
    """The ordered observations behind an evidence, up to the number it counted."""
    from continual_workers.evaluation.evidence import parse_observation

    data = b"".join(target.store.get(key) for key in evidence.evidence_objects)
    return [parse_observation(line) for line in data.splitlines()][: evidence.pairs]


def with_gate(facts: Facts, gate_file: Path) -> Facts:
    """The facts with fields of `rollout.gate` (or the file's own `gate:`) in place of the recorded ones."""
    from pydantic import ValidationError

    from continual_cli.verbs.manifest import read_manifests

    gate = getattr(facts, "gate", None)
    if gate is None:
        return facts
    (given, *_) = read_manifests(gate_file)
    try:
        changed = type(gate).model_validate({**gate.model_dump(mode="json", by_alias=True), **given.get("gate", given)})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            first["msg"], field=f"{gate_file}: {place}", value=first["input"], remedy="see rollout.gate"
        ) from error
    return facts.model_copy(update={"gate": changed})
