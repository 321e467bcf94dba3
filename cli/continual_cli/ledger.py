"""The decision ledger read back, and each decision made once more.

A ledger entry holds the whole input of the pure judge that decided. Replaying recomputes the paired evidence from the ordered pairs
in the store (their digest must be the recorded one), puts it in the place of the recorded numbers and asks the same judge.
Numbers, verdict, reason and message must come out the same, bit for bit; with another gate they may not, and that is the point.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from continual_contract.errors import IntegrityError, NotFoundError, UsageError

from continual_cli.target import Target

if TYPE_CHECKING:
    from continual_contract.report import PairEvidence
    from continual_operator.judges import Facts
    from continual_operator.ledger import LedgerEntry
    from continual_operator.spec import Gate, Rollout
    from continual_workers.evaluation.evidence import Observation
    from pydantic import BaseModel

    Part = TypeVar("Part", bound=BaseModel)

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
    observations = recorded_pairs(one, facts)
    evidence = None if observations is None else recomputed(one, facts, observations)
    if evidence is not None:
        facts = facts.model_copy(update={"evidence": evidence})
    if gate_file is not None:
        facts = under(one, facts, gate_file, observations)
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


def recorded_pairs(one: Judged, facts: Facts) -> list[Observation] | None:
    """The stored pairs behind a decision; None where the judge looked at none.

    Errors: IntegrityError when they are not those of the ledger.
    """
    recorded: PairEvidence | None = getattr(facts, "evidence", None)
    if recorded is None or not recorded.evidence_objects:
        return None
    from continual_workers.evaluation.evidence import digest_of

    observations = stored_pairs(one.target, recorded)
    if (digest := digest_of(observations)) != recorded.evidence_digest:
        remedy = f"the ledger holds {recorded.evidence_digest}: restore evidence/{recorded.evidence_id}"
        raise IntegrityError(
            "the stored pairs are not those that were judged",
            field=f"decision {one.entry.sequence}",
            value=digest,
            remedy=remedy,
        )
    return observations


def recomputed(one: Judged, facts: Facts, observations: list[Observation]) -> PairEvidence:
    """The facts' evidence computed anew. Errors: IntegrityError when a number differs from the recorded one."""
    recorded: PairEvidence = facts.evidence  # type: ignore[attr-defined]  # facts with pairs have it
    anew = computed(one, recorded, observations, recorded.margin, recorded.worst_class_margin)
    return merged(f"decision {one.entry.sequence}", recorded, anew)


def computed(
    one: Judged, recorded: PairEvidence, observations: list[Observation], margin: float, worst_class_margin: float
) -> PairEvidence:
    """Every number that follows from the pairs, at these margins."""
    from continual_workers.evaluation.evidence import replay as compute

    return compute(
        observations,
        margin,
        worst_class_margin,
        class_count=len(one.target.classes),
        evidence_id=recorded.evidence_id,
        candidate=recorded.candidate,
        baseline=recorded.baseline,
        purpose=recorded.purpose,
    )


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


SECTIONS = {"OfflineFacts": "offlineGate", "ProbationFacts": "probation", "CanaryFacts": "gate", "StepFacts": "gate"}
"""The part of `rollout` that each judge looks at."""
ALONE = {"StepFacts": ("steps",), "DeadlineFacts": ("deadline", "onInconclusive")}
"""Single fields of `rollout` among a judge's facts."""


def under(one: Judged, facts: Facts, gate_file: Path, observations: list[Observation] | None) -> Facts:
    """The facts under another policy: fields of the file in place of the recorded ones, evidence computed for its margins.

    The level of a canary is its share of the period's alpha (e-LOND), so it scales with `gate.alpha`.
    """
    kind, policy = type(facts).__name__, read_policy(gate_file)
    section = SECTIONS.get(kind, "")
    name = "probation" if section == "probation" else "gate"
    changes: dict[str, Any] = {
        snake(field): getattr(of_rollout(field, policy[field], gate_file), snake(field))
        for field in ALONE.get(kind, ())
        if field in policy
    }
    if section in policy:
        changes[name] = validated(getattr(facts, name), policy[section], f"{gate_file}: ")
    gate = changes.get("gate")
    if kind == "CanaryFacts" and gate is not None:
        changes["alpha"] = facts.alpha * gate.alpha / facts.gate.alpha  # type: ignore[attr-defined]  # CanaryFacts has both
        if observations is not None:
            changes["evidence"] = at_margins(one, facts, observations, gate)
    return facts.model_copy(update=changes)


def of_rollout(field: str, value: Any, gate_file: Path) -> Rollout:
    """A rollout with this one field, so that it is read as the resource would read it."""
    from continual_operator.spec import Rollout

    return validated(Rollout(), {field: value}, f"{gate_file}: ")


def at_margins(one: Judged, facts: Facts, observations: list[Observation], gate: Gate) -> PairEvidence:
    recorded: PairEvidence = facts.evidence  # type: ignore[attr-defined]  # facts with pairs have it
    anew = computed(one, recorded, observations, gate.margin, gate.worst_class_margin)
    update = {name: getattr(anew, name) for name in (*COMPUTED, "margin", "worst_class_margin")}
    return recorded.model_copy(update=update)


def read_policy(gate_file: Path) -> dict[str, Any]:
    """Parts of `rollout` by name: a file of gate fields, a file with `gate:`, `offlineGate:` …, or a whole ContinualModel."""
    from continual_cli.verbs.manifest import read_manifests

    (given, *_) = read_manifests(gate_file)
    if "spec" in given:
        return dict((given["spec"] or {}).get("rollout") or {})
    parts = {*SECTIONS.values(), *(field for fields in ALONE.values() for field in fields)}
    return given if parts & set(given) else {"gate": given}


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def validated(part: Part, changes: dict[str, Any], where: str) -> Part:
    """The part with some fields changed. Errors: UsageError naming the file and the field."""
    from pydantic import ValidationError

    try:
        return type(part).model_validate({**part.model_dump(mode="json", by_alias=True), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        remedy = "see `kubectl explain continualmodel.spec.rollout`"
        raise UsageError(first["msg"], field=f"{where}{place}", value=first["input"], remedy=remedy) from error
