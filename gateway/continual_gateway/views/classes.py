"""How each class fares, and what is taken for what: bars and a matrix as numbers ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

from continual_contract.artifacts import CheckpointManifest
from continual_contract.report import VersionScores

from continual_gateway.views import text
from continual_gateway.views.snapshot import Snapshot

HEAT_STEPS = 10
MATRIX_CLASSES = 30
"""Above this many classes the matrix is unreadable: only the worst confusions are listed."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One class. Shares in 0..1; None where nothing is known."""

    name: str
    live: float | None
    live_text: str
    labels: int
    holdout: float | None
    holdout_text: str
    parent: float | None
    """The parent on the same holdout: what forgetting is measured against."""


@dataclass(frozen=True, slots=True)
class Cell:
    """How often a true class was answered with another; `heat` 0..10 is its share of the row."""

    count: int
    heat: int
    right: bool
    title: str


@dataclass(frozen=True, slots=True)
class Confusion:
    true: str
    answered: str
    count: int
    share: str


@dataclass(frozen=True, slots=True)
class Classes:
    """`version` is whose; `others` may be chosen instead."""

    version: str
    others: tuple[str, ...]
    bars: tuple[Bar, ...]
    names: tuple[str, ...]
    matrix: tuple[tuple[Cell, ...], ...]
    worst: tuple[Confusion, ...]
    labels: str


def classes(snapshot: Snapshot, wanted: str = "") -> Classes:
    """Of the wanted version, else of stable."""
    report = snapshot.report
    known = tuple(report.versions) if report else ()
    recorded = tuple(str(record.get("version")) for record in snapshot.status("versions", ()))
    names = tuple(dict.fromkeys((*recorded, *known)))
    version = wanted if wanted in names else str(snapshot.status("stable.version", ""))
    scores = report.versions.get(version) if report else None
    manifest = _manifest(snapshot, version)
    return Classes(
        version=version,
        others=tuple(name for name in names if name != version)[-8:],
        bars=tuple(_bar(name, scores, manifest) for name in snapshot.classes),
        names=snapshot.classes,
        matrix=_matrix(snapshot.classes, scores) if len(snapshot.classes) <= MATRIX_CLASSES else (),
        worst=_worst(scores),
        labels=text.count(scores.labels if scores else 0),
    )


def _manifest(snapshot: Snapshot, version: str) -> CheckpointManifest | None:
    digest = next((str(r.get("digest")) for r in snapshot.status("versions", ()) if r.get("version") == version), "")
    return snapshot.manifests.get(digest)


def _bar(name: str, scores: VersionScores | None, manifest: CheckpointManifest | None) -> Bar:
    live = scores.per_class_recall.get(name) if scores else None
    holdout = manifest.scores.per_class.get(name) if manifest else None
    return Bar(
        name=name,
        live=live,
        live_text=text.percent(live, 0),
        labels=scores.per_class_labels.get(name, 0) if scores else 0,
        holdout=holdout,
        holdout_text=text.percent(holdout, 0),
        parent=manifest.scores.parent_per_class.get(name) if manifest else None,
    )


def _matrix(names: tuple[str, ...], scores: VersionScores | None) -> tuple[tuple[Cell, ...], ...]:
    if scores is None or not scores.confusion:
        return ()
    return tuple(tuple(_cell(true, said, scores.confusion.get(true, {})) for said in names) for true in names)


def _cell(true: str, said: str, row: dict[str, int]) -> Cell:
    count, total = row.get(said, 0), sum(row.values())
    share = count / total if total else 0.0
    heat = 0 if not count else max(1, round(share * HEAT_STEPS))
    return Cell(count, heat, true == said, f"{true} answered as {said}: {count} of {total}")


def _worst(scores: VersionScores | None) -> tuple[Confusion, ...]:
    if scores is None:
        return ()
    found = [
        Confusion(true, said, number, text.percent(number / max(1, sum(row.values())), 0))
        for true, row in scores.confusion.items()
        for said, number in row.items()
        if true != said
    ]
    return tuple(sorted(found, key=lambda each: -each.count)[:5])
