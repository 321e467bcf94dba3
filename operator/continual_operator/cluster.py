"""The seam under the manifests: what the operator needs of a cluster, and nothing more.

Kubernetes and the one-machine cluster both implement `Cluster`; the same observe, decide and apply run on either. Objects are plain
dicts of the Kubernetes API, because manifests are what both sides understand. Every call is safe to repeat: applying
what is there, creating what exists and deleting what is gone are successes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which ContinualModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Cluster(Protocol):
    """What holds ContinualModels, Deployments, Jobs and Pods."""

    async def list_models(self) -> list[ModelRef]: ...

    async def get_model(self, ref: ModelRef) -> Manifest | None:
        """The whole object: metadata (uid, generation, resourceVersion, annotations), spec, status; None when there is none."""
        ...

    async def children(self, ref: ModelRef) -> list[Manifest]:
        """Deployments, PodDisruptionBudgets, Jobs and Pods labelled with the model, with `.status` as Kubernetes has it."""
        ...

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply of a whole Deployment or PodDisruptionBudget."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Create a Job; one that exists already is a success."""
        ...

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete what has this uid; gone already, or another uid, is a success."""
        ...

    async def write_status(self, ref: ModelRef, status: Manifest, resource_version: str) -> None:
        """Replace the status; ConflictError when the object changed meanwhile."""
        ...

    async def annotate(self, ref: ModelRef, annotations: dict[str, str | None]) -> None:
        """Set annotations; None removes one."""
        ...

    async def record_event(self, ref: ModelRef, type_: str, reason: str, message: str) -> None:
        """An Event for the owner of the model; `type_` is Normal or Warning."""
        ...

    def changes(self) -> AsyncIterator[ModelRef]:
        """Models of which the object or a child changed; a model may come more often than needed."""
        ...
