"""From the stores to a `Snapshot`: one round trip to Redis per look, and nothing read twice that cannot change.

Histories only grow at their end, so each look reads what is new and keeps the rest. Manifests are immutable and kept by digest. When Redis or
the object store does not answer in time, the page says so and shows what the resource itself knows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from continual_clients.registry import Registry
from continual_contract.artifacts import CheckpointManifest, StoreLayout
from continual_contract.errors import ContinualError
from continual_contract.history import COARSE, FINE, HistoryPoint, Resolution
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from fastapi import Request
from pydantic import BaseModel, ValidationError

from continual_gateway import audit
from continual_gateway.gateway import Gateway, gateway_of
from continual_gateway.pages.asking import Chances
from continual_gateway.resources import Document, ModelRef, dig, ref_of
from continual_gateway.views.snapshot import Epoch, Snapshot

MAX_HISTORY_BYTES = 1 << 20
MANIFESTS_KEPT = 500
MANIFESTS_SHOWN = 20
"""So many newest versions are described by their manifests."""
REDIS_AWAY = (
    "Redis does not answer: live numbers are missing. They come back by themselves; `continual doctor` looks closer."
)
NEWER = "The evaluator's report cannot be read here: it is of another release. Update the gateway to the evaluator's."
STORE_AWAY = "The object store does not answer: holdout scores and training curves are missing."


@dataclass(slots=True)
class Line:
    """One history stream, as far as it has been read."""

    last: bytes = b"0-0"
    points: list[HistoryPoint] = field(default_factory=list)

    def start(self) -> bytes:
        return b"(" + self.last

    def extend(self, found: Iterable[tuple[bytes, dict[bytes, bytes]]], newest: bytes, resolution: Resolution) -> None:
        """Take what is new. A stream that ends before where we are was begun anew: start over at the next look."""
        if _order(newest) < _order(self.last):
            self.last, self.points = b"0-0", []
            return
        for entry_id, fields in found:
            if _order(entry_id) > _order(self.last):
                self.last = entry_id
                if (point := parsed(HistoryPoint, fields.get(b"p", b""))) is not None:
                    self.points.append(point)
        del self.points[: -resolution.points]


Written = TypeVar("Written", bound=BaseModel)


def parsed(kind: type[Written], raw: bytes) -> Written | None:
    """What an evaluator wrote; None for what a newer one writes otherwise: a page without it is better than none."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError:
        return None


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


class Reading:
    """What this process has read; one per app."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._lines: dict[str, tuple[Line, Line]] = {}
        self._manifests: dict[str, CheckpointManifest] = {}
        self._epochs: dict[str, tuple[Epoch, ...]] = {}
        self.runtime = Chances()

    async def snapshot(self, document: Document, *, whole: bool = True) -> Snapshot:
        """Everything known of a model now; with `whole` false only what its line in the list shows."""
        missing: list[str] = []
        found = _Live()
        try:
            async with asyncio.timeout(self._gateway.settings.limits.redis_seconds):
                found = await self._live(document, whole=whole)
        except (redis.RedisError, OSError, TimeoutError):
            missing.append(REDIS_AWAY)
        if found.unreadable:
            missing.append(NEWER)
        if whole and not await self._fetch_manifests(document):
            missing.append(STORE_AWAY)
        epochs_of, epochs = self._newest_epochs(document)
        return Snapshot(
            document=document,
            now_ms=int(self._gateway.deps.clock() * 1000),
            report=found.report,
            fine=tuple(found.fine.points),
            coarse=tuple(found.coarse.points),
            manifests=self._manifests,
            epochs=epochs,
            epochs_of=epochs_of,
            progress=found.progress,
            missing=tuple(missing),
        )

    async def audit(self, ref: ModelRef, count: int) -> list[dict[str, Any]]:
        """Changes by people, newest first; none while Redis is away."""
        try:
            async with asyncio.timeout(self._gateway.settings.limits.redis_seconds):
                return await audit.newest(self._gateway.deps.redis, ref, count)
        except (redis.RedisError, OSError, TimeoutError):
            return []

    async def decision(self, ref: ModelRef, sequence: int, outbox: list[dict[str, Any]]) -> dict[str, Any]:
        """One entry of the ledger, whole. Errors: NotFoundError, StoreUnavailableError."""
        if waiting := next((dict(entry) for entry in outbox if entry.get("sequence") == sequence), None):
            return waiting
        key = StoreLayout(ref.namespace, ref.name).decision(sequence)
        entry: dict[str, Any] = json.loads(await asyncio.to_thread(self._gateway.deps.store.get, key))
        return entry

    async def _live(self, document: Document, *, whole: bool) -> _Live:
        ref = ref_of(document)
        keys = ModelKeys(ref.namespace, ref.name)
        fine, coarse = self._lines.setdefault(keys.prefix, (Line(), Line()))
        job = str(dig(document, "status.training.job", "")) if whole else ""
        pipe = self._gateway.deps.redis.pipeline(transaction=False)
        pipe.hget(keys.report, "json")
        for line, resolution in ((fine, FINE), (coarse, COARSE)) if whole else ((fine, FINE),):
            pipe.xrange(keys.history(resolution.suffix), line.start(), "+")
            pipe.xrevrange(keys.history(resolution.suffix), count=1)
        if job:
            pipe.hgetall(keys.progress(job))
        raw, fine_new, fine_end, *more = await pipe.execute()
        fine.extend(fine_new, _end(fine_end), FINE)
        if whole:
            coarse.extend(more[0], _end(more[1]), COARSE)
        progress = more[2] if job else {}
        report = parsed(Report, raw) if raw else None
        told = {k.decode(): v.decode() for k, v in progress.items()}
        return _Live(report, fine, coarse, told, unreadable=bool(raw) and report is None)

    async def _fetch_manifests(self, document: Document) -> bool:
        """Read the manifests not read yet; False when the store does not answer."""
        versions = dig(document, "status.versions", [])[-MANIFESTS_SHOWN:]
        wanted = [str(v.get("digest")) for v in versions if v.get("digest") and v["digest"] not in self._manifests]
        if not wanted:
            return True
        ref = ref_of(document)
        registry = Registry(self._gateway.deps.store, StoreLayout(ref.namespace, ref.name))
        try:
            async with asyncio.timeout(self._gateway.settings.limits.redis_seconds * 2):
                found = await asyncio.to_thread(_read_manifests, registry, wanted)
        except (ContinualError, OSError, TimeoutError):
            return False
        for digest, manifest, epochs in found:
            self._manifests[digest], self._epochs[digest] = manifest, epochs
        while len(self._manifests) > MANIFESTS_KEPT:
            oldest = next(iter(self._manifests))
            del self._manifests[oldest], self._epochs[oldest]
        return True

    def _newest_epochs(self, document: Document) -> tuple[str, tuple[Epoch, ...]]:
        for record in reversed(dig(document, "status.versions", [])):
            if epochs := self._epochs.get(str(record.get("digest")), ()):
                return str(record.get("version")), epochs
        return "", ()


@dataclass(frozen=True, slots=True)
class _Live:
    report: Report | None = None
    fine: Line = field(default_factory=Line)
    coarse: Line = field(default_factory=Line)
    progress: dict[str, str] = field(default_factory=dict)
    unreadable: bool = False


def _end(newest: list[tuple[bytes, Any]]) -> bytes:
    return newest[0][0] if newest else b"0-0"


def _read_manifests(registry: Registry, digests: list[str]) -> list[tuple[str, CheckpointManifest, tuple[Epoch, ...]]]:
    found = []
    for digest in digests:
        manifest = registry.manifest(digest)
        found.append((digest, manifest, _read_epochs(registry, manifest)))
    return found


def _read_epochs(registry: Registry, manifest: CheckpointManifest) -> tuple[Epoch, ...]:
    """The last attempt's epochs of a training's history."""
    blob = manifest.artifacts.get("history.json")
    if blob is None or blob.size > MAX_HISTORY_BYTES:
        return ()
    rows: list[dict[str, Any]] = json.loads(registry.get_blob(blob))
    last = max((row.get("attempt", 0) for row in rows), default=0)
    return tuple(
        Epoch(int(row["epoch"]), float(row["loss"]), float(row["train_accuracy"]), row.get("holdout_accuracy"))
        for row in rows
        if row.get("attempt", 0) == last
    )


def reading_of(request: Request) -> Reading:
    """The app's `Reading`, made when the first page asks for it."""
    state = request.app.state
    if not hasattr(state, "reading"):
        state.reading = Reading(gateway_of(request))
    found: Reading = state.reading
    return found
