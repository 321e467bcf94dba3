"""What a run reached: the figures of `summary.json` and the checks that decide the exit code. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from continual_cli.demo import world
from continual_cli.demo.ledger import (
    Books,
    EpochTable,
    Score,
    Share,
    canary_share,
    labels_between,
    score_only,
    wrong_owners,
)
from continual_cli.demo.recording import Check
from continual_cli.demo.story import Marks

WITHIN_POINTS = 0.02
WITHIN_DEVIATIONS = 4.0
LIMIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything the figures are counted from."""

    books: Books
    table: EpochTable
    marks: Marks
    labelled: Sequence[str]
    """Request ids whose label was sent."""
    decisions: Sequence[Mapping[str, Any]]
    versions: Sequence[str]
    dead: int
    seconds: float
    scored: int
    """Least score-only requests per accuracy figure."""
    failure: str = ""


def windows(outcome: Outcome) -> dict[str, Score]:
    """Score-only accuracy in the calm, under drift while the old version owned all, and from the promotion on."""
    books, marks = outcome.books, outcome.marks
    return {
        "before_drift": score_only(books, marks.streaming, marks.drift),
        "after_drift": score_only(books, marks.drift, marks.canary),
        "after_recovery": score_only(books, marks.promoted, marks.recovered_until),
    }


def summarize(outcome: Outcome) -> dict[str, Any]:
    """The figures of `summary.json`; what was never reached is null."""
    books, share, marks = outcome.books, canary_share(outcome.books, outcome.table), outcome.marks
    scores = windows(outcome)
    return {
        "requests": len(books.sent),
        "predictions": len(books.sent.keys() & books.answers.keys()),
        "duplicates": books.duplicates,
        "lost": max(0, len(books.unanswered()) - outcome.dead),
        "dead": outcome.dead,
        "answered_by_others_than_owner": len(wrong_owners(books, outcome.table)),
        "labels": len(outcome.labelled),
        "promotions": count([d for d in outcome.decisions if d.get("baseline")], "Promote"),
        "rollbacks": count(outcome.decisions, "Rollback"),
        "versions": list(outcome.versions),
        **{f"accuracy_{name}": rounded(score.accuracy) for name, score in scores.items()},
        **{f"requests_{name}": score.requests for name, score in scores.items()},
        "labels_to_detect_drift": labels_between(outcome.labelled, marks.drift_id, marks.alarm_id) or None,
        "labels_to_promote": pairs_at(outcome.decisions, "Promote", marks.good_version),
        "labels_to_roll_back": pairs_at(outcome.decisions, "Rollback", marks.bad_version),
        "canary_requests": share.requests,
        "canary_share_expected": rounded(share.expected),
        "canary_share_observed": rounded(share.observed),
        "canary_share_deviations": rounded(share.z),
        "correction_fixed": marks.correction.get("fixed") is True,
        "seconds": round(outcome.seconds, 1),
    }


def checks(summary: Mapping[str, Any], outcome: Outcome) -> list[Check]:
    """What the run has to reach, line by line."""
    before, after = summary["accuracy_before_drift"], summary["accuracy_after_recovery"]
    least = min(score.requests for score in windows(outcome).values())
    share = Share(summary["canary_requests"], 0, 0, summary["canary_share_deviations"] or math.nan)
    lines = [
        ("the story ended", outcome.failure.partition(";")[0].partition("\n")[0] or "yes", "yes", not outcome.failure),
        ("requests lost", str(summary["lost"]), "0", summary["lost"] == 0),
        ("duplicate predictions", str(summary["duplicates"]), "0", summary["duplicates"] == 0),
        ("answered by another than the owner", str(summary["answered_by_others_than_owner"]), "0",
         summary["answered_by_others_than_owner"] == 0),
        ("promotions", str(summary["promotions"]), "≥ 1", summary["promotions"] >= 1),
        ("rollbacks", str(summary["rollbacks"]), "≥ 1", summary["rollbacks"] >= 1),
        ("accuracy after recovery", f"{spell(after)}, before {spell(before)}", "within 2 points",
         before is not None and after is not None and before - after <= WITHIN_POINTS),
        ("score-only requests per accuracy", f"≥ {least}", f"≥ {outcome.scored}", least >= outcome.scored),
        ("canary share off by", f"{share.z:+.1f} standard deviations", f"within {WITHIN_DEVIATIONS:.0f}",
         abs(share.z) < WITHIN_DEVIATIONS),
        ("correction learned", str(summary["correction_fixed"]).lower(), "true", summary["correction_fixed"]),
        ("seconds", f"{summary['seconds']:.0f}", f"< {LIMIT_SECONDS:.0f}", summary["seconds"] < LIMIT_SECONDS),
    ]  # fmt: skip
    return [Check(*line, binding=line[0] != "seconds") for line in lines]


def count(decisions: Sequence[Mapping[str, Any]], action: str) -> int:
    """Decisions of one action that were acted on."""
    return sum(decision["action"] == action and decision.get("acted", True) for decision in decisions)


def pairs_at(decisions: Sequence[Mapping[str, Any]], action: str, version: str) -> int | None:
    """How many labelled observations the verdict on a version had: from the judge's own input in the ledger."""
    for decision in decisions:
        if decision["action"] == action and decision.get("version") == version:
            return find_number(decision.get("facts") or {}, "pairs")
    return None


def find_number(document: Any, name: str) -> int | None:
    """The first integer called `name` anywhere in a JSON document."""
    if not isinstance(document, dict):
        return None
    if isinstance(document.get(name), int):
        return int(document[name])
    found = (find_number(value, name) for value in document.values())
    return next((number for number in found if number is not None), None)


def rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def spell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def notes(summary: Mapping[str, Any], seed: int) -> tuple[str, ...]:
    """How to read the figures."""
    pools = ", ".join(f"{name} {len(pool)}" for name, pool in world.deal(1797, seed).pools.items())
    return (
        (
            "Accuracies are counted on score-only digits: a third of the streamed ones, no label of which ever entered the system under "
            f"any light or tilt ({summary['requests_before_drift']:,}, {summary['requests_after_drift']:,} and "
            f"{summary['requests_after_recovery']:,} requests). They come again and again, each time with new jitter."
        ),
        (
            f"Labelled digits are dealt into pools ({pools}), so that what has trained does not judge: the key k of a request is its digit's "
            "index, and equal keys are one observation. Only the last phase, the corrected version's probation, shows digits again that "
            "were seen before; there k is index and phase."
        ),
        (
            "The bad candidate learned from an import of wrong labels (source truth, which this model does not let judge) with strategy "
            "fine-tune, while offlineGate.mode was Observe; correct labels (source audit) convicted it. rollout.gate.minCoverage is "
            "lowered, because the labels of score-only requests never come."
        ),
        "The canary's deviation counts keys, not requests: all requests of one key go to one version.",
    )
