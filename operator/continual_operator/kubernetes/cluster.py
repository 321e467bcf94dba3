"""The operator's `Cluster` on a real API server.

Looks cost nothing: they read a cache that watch events, one list per kind and minute and the answers to our own writes keep fresh. Writes ask
the Lease first (`Api.fenced`), are bound to a uid or a resource version where they change what others may have changed, and are left
out when they would change nothing. Deleting starts from a fresh read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from continual_contract.errors import ClusterRefusedError, ConflictError, ContinualError, NotFoundError
from continual_contract.ids import canonical_json, sha256_digest

from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.kubernetes.api import CHILDREN, EVENT, JOB, KINDS, MODEL, Api, Kind, Listing
from continual_operator.kubernetes.cache import Cache, model_of, version_of
from continual_operator.kubernetes.hearing import Hearing
from continual_operator.kubernetes.patches import contains, merge_patch

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
MAX_COUNTED_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply left behind: as long as it is still so, the same apply is no request."""

    uid: str
    generation: int
    manifest: str
    """Hash of what was applied."""


class KubernetesCluster:
    """`namespaces`: those whose models are served; empty means all. `api` is fenced: it refuses writes that are not ours to do."""

    def __init__(
        self,
        api: Api,
        namespaces: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._namespaces, self._clock = api, namespaces, clock
        self._cache = Cache()
        self._applied: dict[tuple[str, str, str], Applied] = {}
        self._event_counts: dict[str, int] = {}
        self._changed: dict[ModelRef, None] = {}
        self._wake = asyncio.Event()
        self._resynced = clock()
        self._hearing = Hearing(clock)
        self._pictured: set[str | None] = set()
        """Namespaces (None: all of them) of which everything was listed once."""
        self.deleted = asyncio.Event()
        """Set when a model went, and at the start: models may have gone before."""
        self.deleted.set()

    # What is told to us -----------------------------------------------------------------------------------------------------

    def saw(self, type_: str | None, obj: Manifest) -> None:
        """A watch event. One that tells nothing new (our own write comes back) wakes nobody."""
        self._hearing.heard(obj["metadata"]["uid"], version_of(obj))
        if self._cache.drop(obj) if type_ == "DELETED" else self._cache.put(obj):
            self._notify(obj)

    async def resync(self) -> None:
        """List everything once. A namespace that refuses us is left out, whole: half a picture looks like loss. The others go on.

        Raises:
            ClusterRefusedError: such a namespace: it was deleted with its Role, or never had one.
            ClusterUnavailableError: the API server does not answer.
        """
        refused: ClusterRefusedError | None = None
        for namespace in self._namespaces or (None,):
            try:
                listings = [(kind, await self._list(kind, namespace)) for kind in (MODEL, *CHILDREN)]
            except ClusterRefusedError as error:
                refused = error
                continue
            for kind, listing in listings:
                self._take(kind, namespace, listing)
            self._pictured.add(namespace)
            self._resynced = self._clock()
        self._wake.set()
        if refused is not None:
            raise refused

    async def _list(self, kind: Kind, namespace: str | None) -> Listing:
        return await self._api.list(kind, namespace, labels.MODEL if kind in CHILDREN else "")

    def _take(self, kind: Kind, namespace: str | None, listing: Listing) -> None:
        for obj in self._cache.replace(kind, namespace, listing):
            self._await_watch(obj)
            self._notify(obj)

    @property
    def resync_age_seconds(self) -> float:
        """Seconds since a namespace was listed whole; since the start while none was."""
        return self._clock() - self._resynced

    @property
    def watch_silence_seconds(self) -> float:
        """For how long a watch has not told what a list did; 0 while all are heard."""
        return self._hearing.silence_seconds()

    @property
    def models(self) -> int:
        return self._cache.count(MODEL)

    def _await_watch(self, obj: Manifest) -> None:
        if self._cache.get_like(obj) is None:
            self._hearing.forget(obj["metadata"]["uid"])
        else:
            self._hearing.expect(obj["metadata"]["uid"], version_of(obj))

    async def changes(self) -> AsyncIterator[ModelRef]:
        """Models that changed, or whose children did; for one reader. None of a namespace that was not listed yet."""
        while True:
            while (ref := next(filter(self._is_pictured, self._changed), None)) is not None:
                del self._changed[ref]
                yield ref
            self._wake.clear()
            await self._wake.wait()

    def _is_pictured(self, ref: ModelRef) -> bool:
        return (ref.namespace if self._namespaces else None) in self._pictured

    def _notify(self, obj: Manifest) -> None:
        if obj["kind"] == MODEL.name and self._cache.get_like(obj) is None:
            self.deleted.set()
        if (ref := model_of(obj)) is not None:
            self._changed[ref] = None
            self._wake.set()

    # Looks ------------------------------------------------------------------------------------------------------------------

    async def list_models(self) -> list[ModelRef]:
        """All models, listed now. Waits for an API server that is away: what is not known must not be taken for gone.

        Raises:
            ClusterRefusedError: some namespace cannot be listed, others can.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self.resync()
            except ContinualError as error:
                if self._pictured and isinstance(error, ClusterRefusedError):
                    raise
                log.warning("resync failed", extra={"error": str(error), "pause_seconds": pause})
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                return self._cache.models()

    async def get_model(self, ref: ModelRef) -> Manifest | None:
        return self._cache.get(MODEL, ref.namespace, ref.name)

    async def children(self, ref: ModelRef) -> list[Manifest]:
        return self._cache.children(ref)

    def has_orphans(self) -> bool:
        """Whether there are children whose model is gone: garbage collection is not through yet."""
        return bool(self._cache.parents() - set(self._cache.models()))

    # Writes to children -----------------------------------------------------------------------------------------------------

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply; no request when the last one still holds."""
        kind, metadata = KINDS[manifest["kind"]], manifest["metadata"]
        where, digest = (metadata["namespace"], metadata["name"]), sha256_digest(canonical_json(manifest))
        live, key = self._cache.get(kind, *where), (kind.name, *where)
        if live is not None and self._applied.get(key) == _applied(live, digest) and _is_marked(live, manifest):
            return
        after = await self._api.apply(kind, manifest)
        self._applied[key] = _applied(after, digest)
        self._cache.put(after)

    async def create(self, manifest: Manifest) -> None:
        try:
            self._cache.put(await self._api.create(JOB, manifest))
        except ConflictError:
            return

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        found = await self._api.get(KINDS[kind], namespace, name)
        if found is None or found["metadata"]["uid"] != uid:
            known = self._cache.get(KINDS[kind], namespace, name)
            if known is not None and known["metadata"]["uid"] == uid:
                self._cache.drop(known)
            return
        await self._api.delete(KINDS[kind], namespace, name, uid)
        self._applied.pop((kind, namespace, name), None)
        self._cache.drop(found)

    # Writes to the model ----------------------------------------------------------------------------------------------------

    async def write_status(self, ref: ModelRef, status: Manifest, resource_version: str) -> None:
        """Replace the status by a patch of what differs.

        Raises:
            ConflictError: the object changed meanwhile, or is gone; a fresh read is in the cache.
        """
        known = await self.get_model(ref)
        if known is None or known["metadata"]["resourceVersion"] != resource_version:
            known = await self._fresh(ref)
        if known is None or known["metadata"]["resourceVersion"] != resource_version:
            raise ConflictError("the model changed meanwhile", field="metadata.resourceVersion", value=resource_version)
        patch = merge_patch({"status": known.get("status") or {}}, {"status": status})
        if not patch:
            return
        patch["metadata"] = {"resourceVersion": resource_version, "uid": known["metadata"]["uid"]}
        try:
            self._cache.put(await self._api.merge(MODEL, ref.namespace, ref.name, patch, "status"))
        except (ConflictError, NotFoundError) as error:
            await self._fresh(ref)
            raise ConflictError(error.message, field=error.field) from error

    async def annotate(self, ref: ModelRef, annotations: dict[str, str | None]) -> None:
        """Raises `NotFoundError` when the model is gone."""
        patch = {"metadata": {"annotations": annotations}}
        self._cache.put(await self._api.merge(MODEL, ref.namespace, ref.name, patch))

    async def record_event(self, ref: ModelRef, type_: str, reason: str, message: str) -> None:
        """The same words about the same object are one Event that is counted. An Event is for people: failing costs a log line."""
        known = await self.get_model(ref)
        if known is None:
            return
        event = _event(known, type_, reason, message, datetime.now(UTC))
        try:
            await self._tell(event)
        except ContinualError as error:
            log.warning("event not recorded", extra={"model": str(ref), "reason": reason, "error": str(error)})

    async def _tell(self, event: Manifest) -> None:
        metadata = event["metadata"]
        name = metadata["name"]
        if len(self._event_counts) >= MAX_COUNTED_EVENTS:
            self._event_counts.clear()
        count = self._event_counts[name] = self._event_counts.get(name, 0) + 1
        try:
            await self._api.create(EVENT, event)
        except ConflictError:
            counted = {"count": max(count, 2), "lastTimestamp": event["lastTimestamp"]}
            await self._api.merge(EVENT, metadata["namespace"], name, counted)

    async def _fresh(self, ref: ModelRef) -> Manifest | None:
        """Read the model now, past the cache."""
        found = await self._api.get(MODEL, ref.namespace, ref.name)
        known = await self.get_model(ref)
        if found is not None:
            self._cache.put(found)
        elif known is not None:
            self._cache.drop(known)
        return found


def _applied(live: Manifest, digest: str) -> Applied:
    return Applied(live["metadata"]["uid"], int(live["metadata"].get("generation", 0)), digest)


def _is_marked(live: Manifest, manifest: Manifest) -> bool:
    """Labels, annotations and owners do not count in the generation: they are compared."""
    wanted = {key: manifest["metadata"].get(key) for key in ("labels", "annotations", "ownerReferences")}
    return contains(live["metadata"], {key: value for key, value in wanted.items() if value})


def _event(model: Manifest, type_: str, reason: str, message: str, now: datetime) -> Manifest:
    metadata: dict[str, Any] = model["metadata"]
    about = {
        "apiVersion": model["apiVersion"], "kind": model["kind"], "namespace": metadata["namespace"],
        "name": metadata["name"], "uid": metadata["uid"],
    }  # fmt: skip
    words = sha256_digest(canonical_json([metadata["uid"], type_, reason, message])).partition(":")[2][:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {"namespace": metadata["namespace"], "name": f"{metadata['name']}.{words}"},
        "involvedObject": about,
        "type": type_,
        "reason": reason,
        "message": message[:1024],
        "source": {"component": labels.MANAGER},
        "reportingComponent": labels.MANAGER,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
