"""Checkpoints in the object store: whole or not there, and always the bytes their digest says.

A version becomes visible with one atomic write, its manifest, and that write happens only after every blob it names has been
read back and verified. So a publisher may be killed anywhere: what remains is unreferenced blobs, which garbage collection finds.
Publishing twice writes the same bytes to the same keys; a race between two copies of a training is harmless.

Nothing read from the store is trusted: length and sha256 are checked before a byte is used, and no more bytes are read than
the manifest allows (an endless or swapped object ends in `IntegrityError`).

Collecting garbage is a pure plan over a listing. It never removes a manifest that is kept, the parent of one that is kept, or
anything young; manifests go first, blobs in a later round, when no manifest in the store names them any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from continual_contract.artifacts import Blob, CheckpointManifest, DataList, StoreLayout, TrainingOutcome
from continual_contract.errors import IntegrityError, NotFoundError
from continual_contract.ids import Digest, canonical_json, sha256_digest
from pydantic import BaseModel, ValidationError

from continual_clients.objectstore import ObjectInfo, ObjectStore

Document = TypeVar("Document", bound=BaseModel)

MAX_MANIFEST_BYTES = 4 << 20
MAX_DATA_LIST_BYTES = 64 << 20
MAX_OUTCOME_BYTES = 4 << 20
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class GarbagePlan:
    """Keys to remove in this round: manifests first, then blobs that no manifest of the listing named."""

    manifests: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    before: datetime = _NEVER
    """Only objects not written since then: a publisher that comes back to an old blob makes it young."""


class Registry:
    """The checkpoints of one model."""

    def __init__(self, store: ObjectStore, layout: StoreLayout) -> None:
        self.store, self.layout = store, layout

    def put_blob(self, data: bytes) -> Blob:
        """Store bytes under their digest. Written even if present: this heals a damaged one and makes it young for GC."""
        blob = Blob(digest=sha256_digest(data), size=len(data))
        self.store.put(self.layout.blob(blob.digest), data)
        return blob

    def get_blob(self, blob: Blob) -> bytes:
        """The blob's bytes, verified; `IntegrityError` when length or sha256 differ, `NotFoundError` when it is gone."""
        data = self.store.get(self.layout.blob(blob.digest), limit=blob.size)
        if len(data) != blob.size:
            raise _damaged("blob", blob.digest, f"has {len(data)} bytes instead of {blob.size}")
        return _verified("blob", blob.digest, data)

    def publish(self, manifest: CheckpointManifest) -> Digest:
        """Make a version visible: read back everything it names, then write the manifest. Idempotent."""
        try:
            self._read_back(manifest)
        except NotFoundError as error:
            raise IntegrityError(
                f"names what is not in the store ({error.value})",
                field="manifest",
                remedy="write every blob before publishing",
            ) from error
        data = manifest.encode()
        digest = sha256_digest(data)
        self.store.put(self.layout.manifest(digest), data)
        return digest

    def manifest(self, digest: str) -> CheckpointManifest:
        """The manifest whose bytes have this digest; `IntegrityError` when they do not, or do not parse."""
        data = self.store.get(self.layout.manifest(digest), limit=MAX_MANIFEST_BYTES)
        return _parsed("manifest", digest, CheckpointManifest, _verified("manifest", digest, data))

    def put_data_list(self, data: DataList) -> Digest:
        return Digest(self.put_blob(canonical_json(data.model_dump(mode="json"))).digest)

    def data_list(self, digest: str) -> DataList:
        data = self.store.get(self.layout.blob(digest), limit=MAX_DATA_LIST_BYTES)
        return _parsed("data list", digest, DataList, _verified("data list", digest, data))

    def put_json(self, key: str, value: BaseModel) -> None:
        """Write a document that is not content-addressed (an outcome, a ledger entry) as canonical JSON."""
        self.store.put(key, canonical_json(value.model_dump(mode="json")))

    def put_outcome(self, outcome: TrainingOutcome) -> TrainingOutcome:
        """Record how a training ended, and return what stands: a manifest recorded earlier is never replaced."""
        standing = self.outcome(outcome.job)
        if standing is not None and standing.manifest is not None:
            return standing
        self.put_json(self.layout.outcome(outcome.job), outcome)
        return outcome

    def outcome(self, job: str) -> TrainingOutcome | None:
        """How the training ended; None while it has not."""
        try:
            data = self.store.get(self.layout.outcome(job), limit=MAX_OUTCOME_BYTES)
        except NotFoundError:
            return None
        return _parsed("outcome", job, TrainingOutcome, data)

    def digests(self) -> list[Digest]:
        """Digests of all manifests in the store, verified or not, in key order."""
        prefix = f"{self.layout.prefix}checkpoints/"
        return [_digest_of(info.key) for info in self.store.list(prefix) if info.key.endswith(".json")]

    def garbage(self, keep: Iterable[str], now: datetime, min_age: timedelta) -> GarbagePlan:
        """Plan what may go. `keep`: digests of manifests in use (and of blobs a running Job was told)."""
        listing = [info for part in ("checkpoints/", "blobs/") for info in self.store.list(self.layout.prefix + part)]
        manifests = {digest: self._readable(digest) for digest in self.digests()}
        return plan_garbage(listing, manifests, frozenset(keep), now, min_age)

    def collect(self, plan: GarbagePlan) -> int:
        """Carry a plan out: manifests first. What became young since is left. Returns how many objects were removed."""
        removed = 0
        for key in (*plan.manifests, *plan.blobs):
            if self._is_old(key, plan.before):
                self.store.delete(key)
                removed += 1
        return removed

    def _is_old(self, key: str, before: datetime) -> bool:
        return any(info.key == key and info.modified <= before for info in self.store.list(key))

    def _readable(self, digest: str) -> CheckpointManifest | None:
        try:
            return self.manifest(digest)
        except (IntegrityError, NotFoundError):
            return None

    def _read_back(self, manifest: CheckpointManifest) -> None:
        """A manifest attests what was read, not what was meant to be written."""
        for blob in blobs_of(manifest):
            self.get_blob(blob)
        if manifest.data is not None:
            self.data_list(manifest.data)
        if manifest.bootstrap_holdout is not None:
            _verified(
                "holdout", manifest.bootstrap_holdout, self.store.get(self.layout.holdout(manifest.bootstrap_holdout))
            )


def plan_garbage(
    listing: Iterable[ObjectInfo],
    manifests: Mapping[Digest, CheckpointManifest | None],
    keep: frozenset[str],
    now: datetime,
    min_age: timedelta,
) -> GarbagePlan:
    """Decide what of `listing` (checkpoints/ and blobs/ of one model) may be removed.

    `manifests` holds every manifest of the listing, None where one cannot be read: while there is such a one no blob goes,
    because what it names is unknown. Kept: `keep`, parents of kept manifests, everything younger than `min_age`, and every
    blob that any listed manifest names, even one removed in this round.
    """
    kept = keep | {m.parent for d, m in manifests.items() if d in keep and m is not None and m.parent is not None}
    before = now - min_age
    old = [info for info in listing if info.modified <= before]
    named = {digest for m in manifests.values() if m is not None for digest in digests_in(m)}
    blind = any(m is None for m in manifests.values())
    return GarbagePlan(
        manifests=tuple(i.key for i in old if "/checkpoints/" in i.key and _digest_of(i.key) not in kept),
        blobs=()
        if blind
        else tuple(i.key for i in old if "/blobs/" in i.key and _digest_of(i.key) not in kept | named),
        before=before,
    )


def blobs_of(manifest: CheckpointManifest) -> tuple[Blob, ...]:
    """Every blob the manifest names with its length."""
    optional = (manifest.state, manifest.state_meta)
    return (manifest.onnx, *(b for b in optional if b is not None), *manifest.artifacts.values())


def digests_in(manifest: CheckpointManifest) -> frozenset[str]:
    """Digests of all blobs a manifest needs, its data list included."""
    data = () if manifest.data is None else (manifest.data,)
    return frozenset((*(blob.digest for blob in blobs_of(manifest)), *data))


def _digest_of(key: str) -> Digest:
    return Digest("sha256:" + key.rpartition("/")[2].removesuffix(".json"))


def _damaged(what: str, name: str, how: str) -> IntegrityError:
    return IntegrityError(f"{name} {how}", field=what, remedy="restore it from a backup, or train and publish again")


def _verified(what: str, digest: str, data: bytes) -> bytes:
    actual = sha256_digest(data)
    if actual != digest:
        raise _damaged(what, digest, f"holds other bytes: their sha256 is {actual}")
    return data


def _parsed(what: str, name: str, model: type[Document], data: bytes) -> Document:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise _damaged(what, name, f"does not parse: {error.error_count()} errors") from error
