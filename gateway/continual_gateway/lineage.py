"""What checkpoints were made of, read once: manifests, data lists and shards never change."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TypeVar

from continual_clients.objectstore import ObjectStore
from continual_clients.registry import Registry
from continual_clients.shards import read_shard
from continual_contract.artifacts import CheckpointManifest
from continual_contract.errors import IntegrityError, NotFoundError

KEPT = 200
Value = TypeVar("Value")


class Lineage:
    """Blocking: call it in a thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._lock = store, Lock()
        self._manifests: OrderedDict[str, CheckpointManifest | None] = OrderedDict()
        self._taught: OrderedDict[str, frozenset[str]] = OrderedDict()

    def manifest(self, registry: Registry, digest: str) -> CheckpointManifest | None:
        """None for one that is gone or damaged. Errors: StoreUnavailableError."""
        with self._lock:
            if digest in self._manifests:
                return self._manifests[digest]
        try:
            found = registry.manifest(digest)
        except (IntegrityError, NotFoundError):
            found = None
        self._keep(self._manifests, digest, found)
        return found

    def taught(self, registry: Registry, data: str) -> frozenset[str]:
        """Request ids in the correction shards of a data list; none when they cannot be read. Errors: StoreUnavailableError."""
        with self._lock:
            if data in self._taught:
                return self._taught[data]
        try:
            listed = registry.data_list(data).corrections
            shards = [read_shard(self._store, registry.layout, digest, "shards") for digest in listed]
        except (IntegrityError, NotFoundError):
            shards = []
        found = frozenset(str(one) for shard in shards for one in shard.request_id)
        self._keep(self._taught, data, found)
        return found

    def _keep(self, kept: OrderedDict[str, Value], name: str, value: Value) -> None:
        with self._lock:
            kept[name] = value
            while len(kept) > KEPT:
                kept.popitem(last=False)
