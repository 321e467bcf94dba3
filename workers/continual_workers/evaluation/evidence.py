"""The paired evidence of one pair: which observations count, in which order, and the record by which it can be replayed.

An observation is one labelled request that both versions answered, or one cluster of requests that share the key `k`
(duplicates, video frames), counted once with its mean. Observations are taken in the order of their requests, not of
their labels: in order of arrival an old version whose mistakes are labelled sooner is beaten by chance in 23–99 % of runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from continual_contract.config import PairUnderJudgement
from continual_contract.ids import canonical_json, id_key
from continual_contract.report import ClassEvidence, PairEvidence

from continual_workers.evaluation.statistics import PairedTest, confidence_sequence, mean_gain

EMPTY_DIGEST = "sha256:" + hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Observation:
    """One line of the evidence: `d` = correct(candidate) − correct(baseline), or a cluster's mean of it."""

    request_id: str
    """Of the request, or of the cluster's first member."""
    cluster: str
    """The key `k` in hex; empty for a request of its own."""
    class_name: str
    gain: float
    requests: int = 1

    def line(self) -> bytes:
        """One JSON line: fields `id k c d n`."""
        document = {"id": self.request_id, "k": self.cluster, "c": self.class_name, "d": self.gain, "n": self.requests}
        return canonical_json(document) + b"\n"


def parse_observation(line: bytes | str) -> Observation:
    row = json.loads(line)
    return Observation(row["id"], row["k"], row["c"], float(row["d"]), int(row["n"]))


def chain(digest: str, observation: Observation) -> str:
    """Digest of a list that grew by one: sha256 over the digest so far and the new line."""
    return "sha256:" + hashlib.sha256(digest.encode() + b"\n" + observation.line()).hexdigest()


def digest_of(observations: Iterable[Observation]) -> str:
    """Digest of an ordered list of observations, as the report and the ledger hold it."""
    digest = EMPTY_DIGEST
    for observation in observations:
        digest = chain(digest, observation)
    return digest


@dataclass(slots=True)
class PairState:
    """The evidence so far, and how far in the requests it has come."""

    pair: PairUnderJudgement
    population: str
    """`audit` or `sampled`: whose requests are waited for."""
    test: PairedTest
    position: str
    """Last request that was counted or skipped: requests at or before it are history."""
    requests: int = 0
    wins: int = 0
    losses: int = 0
    resolved: int = 0
    """Requests of the population up to `position`, without those whose unit had trained."""
    covered: int = 0
    substituted: int = 0
    first_population_ms: int | None = None
    first_pair_ms: int | None = None
    last_pair_ms: int | None = None
    digest: str = EMPTY_DIGEST
    objects: list[str] = field(default_factory=list)
    written: int = 0
    """Observations that are in `objects`."""

    def count(self, observation: Observation) -> None:
        self.test.add(observation.gain, observation.class_name)
        self.requests += observation.requests
        self.wins += observation.gain > 0
        self.losses += observation.gain < 0
        time_ms = id_key(observation.request_id)[0]
        self.first_pair_ms = time_ms if self.first_pair_ms is None else self.first_pair_ms
        self.last_pair_ms = time_ms
        self.digest = chain(self.digest, observation)

    def evidence(self, class_count: int, coverage_known: bool) -> PairEvidence:
        """The numbers the operator judges by."""
        return pair_evidence(self, class_count, self.coverage() if coverage_known else None)

    def coverage(self) -> float | None:
        return 100.0 * self.covered / self.resolved if self.resolved else None

    def dump(self) -> dict[str, Any]:
        test = self.test
        return {
            "pair": self.pair.model_dump(mode="json"), "population": self.population, "position": self.position,
            "gains": _pairs(test.gains), "classes": {name: _pairs(gains) for name, gains in test.classes.items()},
            "requests": self.requests, "wins": self.wins, "losses": self.losses, "resolved": self.resolved,
            "covered": self.covered, "substituted": self.substituted,
            "first_population_ms": self.first_population_ms, "first_pair_ms": self.first_pair_ms,
            "last_pair_ms": self.last_pair_ms, "digest": self.digest, "objects": self.objects, "written": self.written,
        }  # fmt: skip

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> PairState:
        pair = PairUnderJudgement.model_validate(state["pair"])
        test = PairedTest(pair.margin, pair.worst_class_margin, _gains(state["gains"]))
        test.classes = {name: _gains(rows) for name, rows in state["classes"].items()}
        names = ("requests", "wins", "losses", "resolved", "covered", "substituted", "first_population_ms")
        more = ("first_pair_ms", "last_pair_ms", "digest", "objects", "written")
        return cls(pair, state["population"], test, state["position"], **{name: state[name] for name in names + more})


def begin(pair: PairUnderJudgement, population: str, position: str) -> PairState:
    """New evidence, at wealth 1, on requests after `position`."""
    return PairState(pair, population, PairedTest(pair.margin, pair.worst_class_margin), position)


def pair_evidence(state: PairState, class_count: int, coverage: float | None) -> PairEvidence:
    test, pair = state.test, state.pair
    lower, upper = confidence_sequence(test.gains)
    return PairEvidence(
        **pair.model_dump(exclude={"since"}),
        pairs=test.observations,
        requests=state.requests,
        mean_gain=mean_gain(test.gains),
        gain_lower=lower,
        gain_upper=upper,
        log_wealth_not_inferior=test.log_not_inferior,
        log_wealth_worse=test.log_worse,
        log_wealth_class_veto=test.log_class_veto(class_count),
        classes={name: _class_evidence(test, name) for name in sorted(test.classes)},
        wins=state.wins,
        losses=state.losses,
        coverage_percent=coverage,
        substituted=state.substituted,
        first_pair_ms=state.first_pair_ms,
        last_pair_ms=state.last_pair_ms,
        evidence_digest=state.digest,
        evidence_objects=tuple(state.objects),
    )


def _class_evidence(test: PairedTest, name: str) -> ClassEvidence:
    gains = test.classes[name]
    return ClassEvidence(labels=sum(gains.values()), mean_gain=mean_gain(gains), log_wealth=test.log_class_loss(name))


def replay(
    observations: Iterable[Observation],
    margin: float,
    worst_class_margin: float,
    *,
    class_count: int = 0,
    evidence_id: str = "",
    candidate: str = "",
    baseline: str = "",
    purpose: str = "canary",
) -> PairEvidence:
    """Compute the evidence anew from its record: the same numbers, bit for bit, as in the report that had this digest.

    Coverage and substitutes are not in the record of pairs; they come from the ledger.
    """
    document = {
        "evidence_id": evidence_id, "purpose": purpose, "candidate": candidate, "baseline": baseline, "since": "0-0",
        "margin": margin, "worst_class_margin": worst_class_margin,
    }  # fmt: skip
    state = begin(PairUnderJudgement.model_validate(document), "audit", "0-0")
    for observation in observations:
        state.count(observation)
    return pair_evidence(state, class_count, None)


def _pairs(gains: Mapping[float, int]) -> list[list[float]]:
    return [[gain, gains[gain]] for gain in sorted(gains)]


def _gains(rows: Iterable[list[float]]) -> dict[float, int]:
    return {float(gain): int(count) for gain, count in rows}
