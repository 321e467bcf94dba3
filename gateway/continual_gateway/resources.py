"""ContinualModels as the gateway knows them: it reads them, patches fields of the spec, and writes the annotations of verbs.

The seam is small because the gateway decides nothing: a promotion is an annotation that the operator obeys. In a cluster the other
side is the API server (`continual_gateway.kubernetes`), on one machine the files of `continual local`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from continual_contract.errors import NotFoundError

Document = dict[str, Any]
"""A whole ContinualModel: metadata, spec, status."""


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    namespace: str
    name: str

    @property
    def qualified(self) -> str:
        """`team.digits`: one path segment, unambiguous because neither part can hold a dot."""
        return f"{self.namespace}.{self.name}"


class Resources(Protocol):
    """Every method may raise `ClusterUnavailableError` (503) or `ClusterRefusedError` (403)."""

    async def list_models(self) -> list[Document]:
        """All models the gateway serves, in no particular order."""
        ...

    async def read(self, ref: ModelRef) -> Document:
        """Errors: NotFoundError."""
        ...

    async def patch_spec(self, ref: ModelRef, fields: Mapping[str, Any]) -> Document:
        """Set fields by their dotted path below `spec` (`rollout.pinnedVersion`); None removes. Errors: NotFoundError, InvalidSpecError."""
        ...

    async def annotate(self, ref: ModelRef, annotations: Mapping[str, str]) -> Document:
        """Merge annotations in. Errors: NotFoundError."""
        ...

    async def events(self, ref: ModelRef) -> list[Document]:
        """`{type, reason, message, count, firstTimestamp, lastTimestamp}`, oldest first."""
        ...


def ref_of(document: Document) -> ModelRef:
    metadata = document["metadata"]
    return ModelRef(str(metadata.get("namespace", "default")), str(metadata["name"]))


def dig(document: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Value at a dotted path, `default` where any part is missing or null."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, Mapping) or value.get(part) is None:
            return default
        value = value[part]
    return value


def choose(documents: list[Document], wanted: str) -> Document:
    """The model meant by a path segment: `namespace.name`, or the name where it is unique.

    Errors: NotFoundError naming what there is.
    """
    found = [d for d in documents if wanted in {ref_of(d).qualified, ref_of(d).name}]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(ref_of(d).qualified for d in documents)) or "none"
    problem = "there is no such model" if not found else "several namespaces have a model of this name"
    raise NotFoundError(problem, field="model", value=wanted, remedy=f"known: {known}")
