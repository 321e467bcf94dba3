"""What the gateway knows of every model without asking twice: the documents, read every few seconds, and their parts typed.

A request for inference needs the classes and the input size; reading them from the API server a thousand times a second would be rude. So the
documents are kept and read again in the background; while the other side is away the last ones serve.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Literal, cast

from continual_clients.images import Fit
from continual_contract.artifacts import InputShape, StoreLayout
from continual_contract.errors import ContinualError, NotFoundError, UnavailableError
from continual_contract.keys import ModelKeys

from continual_gateway.durations import parse_duration
from continual_gateway.resources import Document, ModelRef, Resources, choose, dig, ref_of

log = logging.getLogger("continual.gateway.models")

REFRESH_SECONDS = 2.0
MISS_SECONDS = 0.5
"""A name nobody knows is looked up this often, not more."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What of a model the API needs, typed."""

    ref: ModelRef
    keys: ModelKeys
    layout: StoreLayout
    classes: tuple[str, ...]
    input: InputShape
    fit: Fit
    window: timedelta
    audit_percent: float
    holdout_percent: float
    corrections: Literal["Off", "Candidate", "Promote"]
    suspended: bool
    stable: str
    """Version that serves; empty before the first."""
    versions: tuple[str, ...]
    """All that the status knows, oldest first."""
    serving: tuple[str, ...]
    """Versions that have workers: stable, canary, the warm one."""
    owners: tuple[str, ...]
    """Versions that own a share of the stream."""

    @property
    def name(self) -> str:
        return self.ref.name


def facts_of(document: Document) -> ModelFacts:
    """Raises KeyError for a document without the fields that the CRD requires."""
    ref = ref_of(document)
    spec = document["spec"]["model"]
    shape = spec["input"]
    listed = [str(entry.get("version")) for entry in dig(document, "status.versions", [])]
    roles = [dig(document, f"status.{role}.version") for role in ("stable", "canary", "probation")]
    return ModelFacts(
        ref=ref,
        keys=ModelKeys(ref.namespace, ref.name),
        layout=StoreLayout(ref.namespace, ref.name),
        classes=tuple(str(name) for name in spec["classes"]),
        input=InputShape(height=shape["height"], width=shape["width"], channels=shape["channels"]),
        fit=cast("Fit", shape.get("fit", "Letterbox")),
        window=parse_duration(str(dig(document, "spec.feedback.window", "24h"))),
        audit_percent=float(dig(document, "spec.feedback.auditPercent", 5.0)),
        holdout_percent=float(dig(document, "spec.feedback.holdoutPercent", 10.0)),
        corrections=dig(document, "spec.retraining.instantCorrections", "Candidate"),
        suspended=bool(dig(document, "spec.suspend", default=False)),
        stable=str(dig(document, "status.stable.version", "")),
        serving=_serving(document),
        owners=_owners(document),
        versions=tuple(dict.fromkeys([*listed, *(str(version) for version in roles if version)])),
    )


def _serving(document: Document) -> tuple[str, ...]:
    paths = ("status.stable.version", "status.canary.version", "status.probation.previous")
    return tuple(str(version) for path in paths if (version := dig(document, path)))


def _owners(document: Document) -> tuple[str, ...]:
    canary = dig(document, "status.canary.version") if dig(document, "status.canary.weight", 0) else None
    return tuple(str(version) for version in (dig(document, "status.stable.version"), canary) if version)


class Models:
    """The documents as of a moment ago."""

    def __init__(self, resources: Resources, clock: Callable[[], float]) -> None:
        self._resources, self._clock = resources, clock
        self._documents: list[Document] = []
        self._read_at = 0.0
        self._lock = asyncio.Lock()
        self._facts: dict[str, ModelFacts] = {}
        self.problem: ContinualError | None = None

    @property
    def loaded(self) -> bool:
        return self._read_at > 0

    async def refresh(self) -> None:
        """Read all again. Errors: what `Resources.list_models` raises."""
        async with self._lock:
            await self._load()

    async def _load(self) -> None:
        try:
            self._documents = sorted(await self._resources.list_models(), key=ref_of)
        except ContinualError as error:
            self.problem = error
            raise
        self._facts.clear()
        self.problem, self._read_at = None, self._clock()

    async def run(self) -> None:
        """Refresh until cancelled; a side that is away is told once."""
        while True:
            told = self.problem
            try:
                await self.refresh()
            except ContinualError as error:
                if told is None:
                    log.warning("models cannot be read, the last ones serve", extra={"error": error.describe()})
            await asyncio.sleep(REFRESH_SECONDS)

    async def documents(self) -> list[Document]:
        """Errors: UnavailableError while nothing was ever read."""
        if not self.loaded:
            await self.refresh()
        return self._documents

    async def document(self, wanted: str) -> Document:
        """By `name` or `namespace.name`. Errors: NotFoundError, UnavailableError."""
        try:
            return choose(await self.documents(), wanted)
        except NotFoundError:
            if self._clock() - self._read_at < MISS_SECONDS:
                raise
        try:
            await self.refresh()
        except UnavailableError:
            log.info("model looked up in what was read before", extra={"model": wanted[:100]})
        return choose(self._documents, wanted)

    async def fresh(self, wanted: str) -> Document:
        """The document as it is now. Errors: as `document`, and what `Resources.read` raises."""
        return await self._resources.read(ref_of(await self.document(wanted)))

    def known(self, wanted: str) -> ModelFacts | None:
        """The typed facts if they are at hand: no await, for the path of every request."""
        return self._facts.get(wanted)

    async def facts(self, wanted: str) -> ModelFacts:
        """Errors: NotFoundError, UnavailableError."""
        if (known := self._facts.get(wanted)) is not None:
            return known
        facts = facts_of(await self.document(wanted))
        self._facts[wanted] = facts
        return facts


@lru_cache(maxsize=1024)
def short_digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
