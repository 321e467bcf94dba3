"""Garbage is planned by a pure function; what is in use is never in the plan."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from continual_clients.objectstore import FileStore, ObjectInfo
from continual_clients.registry import Registry, digests_in, plan_garbage
from continual_contract.artifacts import (
    Blob,
    CheckpointManifest,
    DataList,
    HoldoutScores,
    InputShape,
    Normalization,
    StoreLayout,
    TrainingFailure,
    TrainingOutcome,
)
from continual_contract.errors import IntegrityError, NotFoundError
from continual_contract.ids import Digest, sha256_digest
from hypothesis import given, settings
from hypothesis import strategies as st

LAYOUT = StoreLayout("default", "digits")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def manifest_of(onnx: Blob, seed: int = 0, parent: str | None = None, data: str | None = None) -> CheckpointManifest:
    return CheckpointManifest(
        namespace="default",
        model="digits",
        job="0123456789",
        mode="bootstrap",
        architecture="lenet5",
        input=InputShape(height=28, width=28, channels=1),
        classes=("0", "1"),
        normalization=Normalization(mean=(0.1,), std=(0.3,)),
        onnx=onnx,
        parent=parent,
        data=data,
        seed=seed,
        scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
        parity_max_abs_diff=0.0,
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(FileStore(tmp_path), LAYOUT)


def test_a_manifest_is_published_only_over_verified_blobs(registry: Registry) -> None:
    """A blob that is missing, or holds other bytes, or a data list that is missing: no manifest."""
    ghost = Blob(digest=sha256_digest(b"never written"), size=13)
    with pytest.raises(IntegrityError, match="write every blob before publishing"):
        registry.publish(manifest_of(ghost))
    damaged = registry.put_blob(b"model")
    registry.store.put(LAYOUT.blob(damaged.digest), b"mOdel")
    with pytest.raises(IntegrityError, match="holds other bytes"):
        registry.publish(manifest_of(damaged))
    with pytest.raises(IntegrityError, match="not in the store"):
        registry.publish(manifest_of(registry.put_blob(b"model"), data=sha256_digest(b"no list")))
    assert registry.digests() == []


def test_publishing_again_changes_nothing(registry: Registry) -> None:
    """Same manifest, same digest, one object."""
    manifest = manifest_of(registry.put_blob(b"model"), data=registry.put_data_list(DataList(train=("sha256:aa",))))
    assert registry.publish(manifest) == registry.publish(manifest)
    assert len(registry.digests()) == 1
    assert registry.data_list(str(manifest.data)).train == ("sha256:aa",)


def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    """Manifest, blob and data list; an outcome that is not there yet is None."""
    digest = sha256_digest(b"")
    for read in (registry.manifest, registry.data_list):
        with pytest.raises(NotFoundError):
            read(digest)
    with pytest.raises(NotFoundError):
        registry.get_blob(Blob(digest=digest, size=0))
    assert registry.outcome("0123456789") is None


def test_the_first_recorded_manifest_of_a_job_stands(registry: Registry) -> None:
    """A failure may be followed by a success, a success by nothing: two copies of a training end in one result."""
    failed = TrainingOutcome(job="j", failure=TrainingFailure(reason="OOM", message="out of memory"))
    first, second = (TrainingOutcome(job="j", manifest=f"sha256:{c * 64}") for c in "ab")
    assert registry.put_outcome(failed) == failed
    assert registry.put_outcome(first) == first
    assert registry.put_outcome(second) == first
    assert registry.put_outcome(failed) == first
    assert registry.outcome("j") == first


def test_an_outcome_that_does_not_parse_is_an_integrity_error(registry: Registry) -> None:
    """Never a traceback of the JSON library."""
    for data in (b"", b"{", b"[]", b'{"job": "j", "extra": 1}', b"\xff"):
        registry.store.put(LAYOUT.outcome("j"), data)
        with pytest.raises(IntegrityError, match="outcome"):
            registry.outcome("j")


blobs = [sha256_digest(bytes([n])) for n in range(6)]


@st.composite
def stores(draw: st.DrawFn) -> tuple[list[ObjectInfo], dict[Digest, CheckpointManifest | None], frozenset[str]]:
    """Any store: some blobs, some manifests over them in a chain of parents, of any age, some unreadable."""
    manifests: dict[Digest, CheckpointManifest | None] = {}
    parents: list[str] = []
    for seed in range(draw(st.integers(0, 5))):
        parent = draw(st.sampled_from([None, *parents]))
        data = draw(st.sampled_from([None, *blobs]))
        manifest = manifest_of(Blob(digest=draw(st.sampled_from(blobs)), size=1), seed, parent, data)
        parents.append(manifest.digest())
        manifests[manifest.digest()] = manifest if draw(st.integers(0, 9)) else None
    keys = [LAYOUT.blob(digest) for digest in blobs] + [LAYOUT.manifest(digest) for digest in manifests]
    listing = [ObjectInfo(key, 1, NOW - timedelta(hours=draw(st.integers(0, 48)))) for key in keys]
    return listing, manifests, frozenset(draw(st.sets(st.sampled_from([*parents, *blobs]))))


@given(stores())
@settings(max_examples=500, deadline=None)
def test_garbage_never_holds_what_is_needed(
    world: tuple[list[ObjectInfo], dict[Digest, CheckpointManifest | None], frozenset[str]],
) -> None:
    """Not a kept manifest, not its parent, nothing young, no blob that a listed manifest names."""
    listing, manifests, keep = world
    plan = plan_garbage(listing, manifests, keep, NOW, DAY)
    gone = {*plan.manifests, *plan.blobs}
    young = {info.key for info in listing if NOW - info.modified < DAY}
    assert not gone & young
    for digest, manifest in manifests.items():
        if digest in keep:
            assert LAYOUT.manifest(digest) not in gone
            assert manifest is None or manifest.parent is None or LAYOUT.manifest(manifest.parent) not in gone
        if manifest is None:
            assert not plan.blobs
        else:
            assert not {LAYOUT.blob(d) for d in digests_in(manifest)} & gone
    assert not {LAYOUT.blob(d) for d in keep} & gone


@given(stores())
@settings(max_examples=200, deadline=None)
def test_repeated_rounds_leave_exactly_what_is_needed_or_young(
    world: tuple[list[ObjectInfo], dict[Digest, CheckpointManifest | None], frozenset[str]],
) -> None:
    """Collecting ends, and then nothing old and unneeded is left (while every manifest can be read)."""
    listing, manifests, keep = world
    for _ in range(10):
        plan = plan_garbage(listing, manifests, keep, NOW, DAY)
        gone = {*plan.manifests, *plan.blobs}
        listing = [info for info in listing if info.key not in gone]
        manifests = {d: m for d, m in manifests.items() if LAYOUT.manifest(d) not in gone}
    assert not gone
    named = {d for m in manifests.values() if m is not None for d in digests_in(m)}
    if None not in manifests.values():
        for info in listing:
            digest = "sha256:" + info.key.rpartition("/")[2].removesuffix(".json")
            parents = {m.parent for d, m in manifests.items() if d in keep and m is not None}
            assert NOW - info.modified < DAY or digest in keep | named | parents


def test_the_rule_that_protects_parents_is_needed() -> None:
    """Mutation check: with the parent's digest not followed, the parent of a live version would go."""
    parent = manifest_of(Blob(digest=blobs[0], size=1))
    child = manifest_of(Blob(digest=blobs[1], size=1), 1, parent.digest())
    orphan = child.model_copy(update={"parent": None})
    listing = [ObjectInfo(LAYOUT.manifest(m.digest()), 1, NOW - 2 * DAY) for m in (parent, child)]
    with_rule = plan_garbage(
        listing, {parent.digest(): parent, child.digest(): child}, frozenset({child.digest()}), NOW, DAY
    )
    without = plan_garbage(
        listing, {parent.digest(): parent, child.digest(): orphan}, frozenset({child.digest()}), NOW, DAY
    )
    assert with_rule.manifests == ()
    assert without.manifests == (LAYOUT.manifest(parent.digest()),)


def test_a_blob_written_again_after_the_plan_stays(registry: Registry) -> None:
    """A training that comes back to an old blob makes it young: the plan made before does not remove it."""
    import os

    blob = registry.put_blob(b"old")
    other = registry.put_blob(b"other")
    root = registry.store.root  # type: ignore[attr-defined]
    for b in (blob, other):
        os.utime(root / LAYOUT.blob(b.digest), (0, 0))
    plan = registry.garbage((), datetime.now(UTC), DAY)
    assert len(plan.blobs) == 2
    registry.put_blob(b"old")
    assert registry.collect(plan) == 1
    assert registry.get_blob(blob) == b"old"
    assert not registry.store.exists(LAYOUT.blob(other.digest))
