"""One battery, two stores: what holds for a folder holds for a real S3, or the seam is a lie."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from continual_clients.objectstore import FileStore, ObjectStore, S3Store, open_store
from continual_clients.registry import Registry
from continual_clients.shards import make_shard, read_shard, write_shard
from continual_contract.artifacts import (
    Blob,
    CheckpointManifest,
    HoldoutScores,
    InputShape,
    Normalization,
    StoreLayout,
    TrainingOutcome,
)
from continual_contract.errors import (
    IntegrityError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A fresh, empty store."""
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    server = request.getfixturevalue("minio_server")
    s3 = open_store(server.url(f"test-{uuid.uuid4().hex}"), server.credentials_file)
    assert isinstance(s3, S3Store)
    s3.ensure_bucket()
    s3.ensure_bucket()
    return s3


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(range(256)) * 4096, b"\0" * (6 << 20)], ids=["0", "1", "1MiB", "6MiB"]
)
def test_what_was_put_is_what_is_got(store: ObjectStore, data: bytes) -> None:
    """Bytes of any length, size and existence agree."""
    store.put("a/b", data)
    assert store.get("a/b") == data
    assert store.size("a/b") == len(data)
    assert store.exists("a/b")


def test_a_later_put_replaces_the_whole_object(store: ObjectStore) -> None:
    """No tail of a longer predecessor remains."""
    store.put("k", b"long long long")
    store.put("k", b"short")
    assert store.get("k") == b"short"


@pytest.mark.parametrize("verb", ["get", "size"])
def test_a_missing_object_is_not_found(store: ObjectStore, verb: str) -> None:
    """The typed error names the key; a folder is not an object."""
    store.put("folder/object", b"x")
    for key in ("nothing", "folder", "folder/object/below"):
        with pytest.raises(NotFoundError, match=key):
            getattr(store, verb)(key)
        assert not store.exists(key)


def test_delete_is_final_and_may_be_repeated(store: ObjectStore) -> None:
    """Gone already is success."""
    store.put("k", b"x")
    store.delete("k")
    store.delete("k")
    assert not store.exists("k")


def test_list_gives_every_key_under_a_prefix_in_order(store: ObjectStore) -> None:
    """A prefix is a plain string prefix; keys come sorted, with size and an aware time."""
    for key in ("b/2", "b/1", "b/1/deeper", "bb", "a", "c/ü x"):
        if key != "b/1/deeper":
            store.put(key, key.encode())
    assert [info.key for info in store.list("b/")] == ["b/1", "b/2"]
    assert [info.key for info in store.list("b")] == ["b/1", "b/2", "bb"]
    assert [info.key for info in store.list("")] == ["a", "b/1", "b/2", "bb", "c/ü x"]
    assert list(store.list("nothing/")) == []
    (info,) = store.list("c/")
    assert info.size == len("c/ü x".encode())
    assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=5)


def test_reading_stops_at_the_limit(store: ObjectStore) -> None:
    """An object longer than its manifest says is refused; one of exactly that length is not."""
    store.put("k", b"12345")
    assert store.get("k", limit=5) == b"12345"
    with pytest.raises(IntegrityError, match="longer than the 4 bytes"):
        store.get("k", limit=4)


BAD_KEYS = [
    "",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "a//b",
    "a/./b",
    "a\\b",
    "a\0b",
    "a\nb",
    "a/",
    "x" * 300,
    ".incoming/x",
]


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("verb", ["get", "put", "exists", "size", "delete"])
def test_a_key_cannot_leave_the_store(store: ObjectStore, key: str, verb: str) -> None:
    """Traversal, absolute paths and control characters are the caller's error, for every verb."""
    arguments = (key, b"x") if verb == "put" else (key,)
    with pytest.raises(UsageError, match="object key"):
        getattr(store, verb)(*arguments)


def test_a_reader_beside_a_writer_sees_whole_objects_only(store: ObjectStore) -> None:
    """Every read returns one of the written values, never a mixture or a part."""
    values = [bytes([n]) * 300_000 for n in range(1, 9)]
    store.put("k", values[0])
    seen: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(store.get("k"))

    reader = threading.Thread(target=read)
    reader.start()
    for value in values:
        before = len(seen)
        store.put("k", value)
        while len(seen) == before and reader.is_alive():
            time.sleep(0.001)
    stop.set()
    reader.join()
    assert len(seen) >= len(values)
    assert all(data in values for data in seen)


def manifest_for(onnx: Blob) -> CheckpointManifest:
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
        scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
        parity_max_abs_diff=0.0,
    )


def test_the_registry_works_on_it(store: ObjectStore) -> None:
    """Publish, read back, list, outcome and shard: the same on both stores."""
    layout = StoreLayout("default", "digits")
    registry = Registry(store, layout)
    digest = registry.publish(manifest_for(registry.put_blob(b"model")))
    assert registry.get_blob(registry.manifest(digest).onnx) == b"model"
    assert registry.digests() == [digest]
    assert registry.outcome("0123456789") is None
    registry.put_outcome(TrainingOutcome(job="0123456789", manifest=digest))
    assert registry.outcome("0123456789") == TrainingOutcome(job="0123456789", manifest=digest)
    import numpy as np

    shard = write_shard(store, layout, make_shard(np.ones((2, 4, 4, 1), np.uint8), [0, 1]), "shards")
    assert read_shard(store, layout, shard, "shards").label.tolist() == [0, 1]


@pytest.mark.parametrize("verb", ["get", "exists", "size", "delete"])
def test_a_store_that_is_not_there_is_unavailable(verb: str) -> None:
    """One typed error with a remedy, at once: no hidden retries."""
    with pytest.raises(StoreUnavailableError, match="start the store or fix its address"):
        getattr(S3Store("http://127.0.0.1:9", "bucket", "key", "secret-key"), verb)("key")


def test_wrong_keys_are_told_apart_from_a_missing_object(minio_server: Any) -> None:
    """Access denied is the store's refusal, not NotFound: nothing may be concluded about the object."""
    store = S3Store(minio_server.endpoint, "bucket", "nobody-known", "wrong-secret")
    with pytest.raises(StoreUnavailableError, match="check bucket and key pair"):
        store.get("key")


def test_a_missing_bucket_is_unavailable_not_empty(minio_server: Any) -> None:
    """A store without its bucket must not read as a store without objects."""
    store = open_store(minio_server.url("no-such-bucket"), minio_server.credentials_file)
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        store.get("key")
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        list(store.list(""))


def test_a_killed_writer_leaves_no_visible_object_and_is_swept(tmp_path: Path) -> None:
    """FileStore's temporary files are neither listed nor readable, and old ones go when a store is opened."""
    import os

    store = FileStore(tmp_path)
    leftover = tmp_path / ".incoming" / "killed"
    leftover.write_bytes(b"half")
    assert list(store.list("")) == []
    os.utime(leftover, (0, 0))
    FileStore(tmp_path)
    assert not leftover.exists()


@pytest.mark.parametrize("url", ["", "/path", "ftp://x", "s3://bucket", "file://", "s3://?endpoint=http://x"])
def test_a_store_url_of_another_form_is_refused(url: str) -> None:
    """The message shows both forms."""
    with pytest.raises(UsageError, match="use file:///path or s3://bucket"):
        open_store(url)
