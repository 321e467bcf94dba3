"""Everything that is known of one model at one moment; what no source could tell at that moment is empty, never invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from continual_contract.artifacts import CheckpointManifest
from continual_contract.history import HistoryPoint
from continual_contract.report import Report

from continual_gateway.resources import Document, ModelRef, dig, ref_of


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a training's history. Accuracies are shares in 0..1."""

    epoch: int
    loss: float
    train_accuracy: float
    holdout_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`report`, `fine` and `coarse` are empty while Redis is away, `manifests` while the store is."""

    document: Document
    now_ms: int
    report: Report | None = None
    fine: tuple[HistoryPoint, ...] = ()
    coarse: tuple[HistoryPoint, ...] = ()
    manifests: Mapping[str, CheckpointManifest] = field(default_factory=dict)
    """By digest."""
    epochs: tuple[Epoch, ...] = ()
    """Of the newest version with a history."""
    epochs_of: str = ""
    progress: Mapping[str, str] = field(default_factory=dict)
    """Of the training in flight, as it says itself."""
    events: tuple[Mapping[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    """Sentences about sources that did not answer, each with its remedy."""

    @property
    def ref(self) -> ModelRef:
        return ref_of(self.document)

    def spec(self, path: str, default: Any = None) -> Any:
        return dig(self.document, f"spec.{path}", default)

    def status(self, path: str, default: Any = None) -> Any:
        return dig(self.document, f"status.{path}", default)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.spec("model.classes", ()))

    def condition(self, kind: str) -> dict[str, Any]:
        """The condition of that type; empty without it."""
        return next((dict(c) for c in self.status("conditions", ()) if c.get("type") == kind), {})
