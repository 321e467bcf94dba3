"""R1, R2, R3 and R7 of the guarantees: crashes, races and tampering against the registry."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from continual_clients.objectstore import FileStore, S3Store
from continual_clients.onnxmodel import open_session
from continual_clients.registry import Registry, blobs_of
from continual_clients.shards import make_shard, read_shard, write_shard
from continual_contract.artifacts import Blob, CheckpointManifest, HoldoutScores, InputShape, Normalization, StoreLayout
from continual_contract.errors import ContinualError, IntegrityError
from continual_contract.ids import sha256_digest
from continual_workers.inference.engine import load_engine
from onnx import TensorProto, helper, numpy_helper

LAYOUT = StoreLayout("default", "digits")
PUBLISHER = Path(__file__).with_name("publisher.py")


def run_publisher(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(PUBLISHER), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.strip()


def broken_versions(root: Path) -> list[str]:
    """The ledger check of R1: visible manifests, or recorded outcomes, behind which anything is missing or wrong."""
    registry = Registry(FileStore(root), LAYOUT)
    broken = []
    for digest in registry.digests():
        try:
            manifest = registry.manifest(digest)
            for blob in blobs_of(manifest):
                registry.get_blob(blob)
            registry.data_list(str(manifest.data))
            read_shard(registry.store, LAYOUT, str(manifest.bootstrap_holdout), "holdout")
        except ContinualError as error:
            broken.append(f"{digest}: {error}")
    try:
        outcome = registry.outcome("job")
        if outcome is not None and outcome.manifest not in registry.digests():
            broken.append("outcome of a version that is not there")
    except IntegrityError as error:
        broken.append(str(error))
    return broken


def crash_at_every_point(folder: Path, variant: str) -> dict[int, list[str]]:
    """What each kill point leaves behind."""
    points = int(finish(run_publisher("crash", folder, variant)))
    assert points >= 35
    return {point: broken_versions(folder / str(point)) for point in range(1, points + 1)}


def test_r1_a_version_is_visible_only_when_whole(tmp_path: Path) -> None:
    """kill -9 before, within and after every store call: nothing broken is visible, and a second run ends as an unbroken one."""
    left_behind = crash_at_every_point(tmp_path, "sound")
    assert not any(left_behind.values())
    reference = Registry(FileStore(tmp_path / str(len(left_behind) + 1)), LAYOUT)
    (digest,) = reference.digests()
    for point in list(left_behind)[::9]:
        root = tmp_path / str(point)
        finish(run_publisher("publish", root, "sound", "job"))
        again = Registry(FileStore(root), LAYOUT)
        assert {info.key for info in again.store.list("")} == {info.key for info in reference.store.list("")}
        assert again.digests() == [digest]


@pytest.mark.parametrize("mutation", ["manifest-first", "in-place"])
def test_r1_is_red_without_its_protection(tmp_path: Path, mutation: str) -> None:
    """Mutation check: a manifest before its blobs, or a store that writes in place, leaves something broken visible."""
    assert any(crash_at_every_point(tmp_path, mutation).values())


def race(folder: Path, variant: str, count: int = 15) -> list[list[str]]:
    """Two publishers of the same trainings at once; per job, the digests of its visible versions and its outcome."""
    jobs = [f"job-{n}" for n in range(count)]
    both = [run_publisher("publish", folder, variant, *jobs) for _ in range(2)]
    for process in both:
        finish(process)
    registry = Registry(FileStore(folder), LAYOUT)
    results: dict[str, list[str]] = {job: [] for job in jobs}
    for digest in registry.digests():
        results[registry.manifest(digest).job].append(digest)
    for job, digests in results.items():
        outcome = registry.outcome(job)
        assert outcome is not None
        assert outcome.manifest in digests
    return list(results.values())


def test_r2_two_copies_of_a_training_end_in_one_result(tmp_path: Path) -> None:
    """Same digest, one manifest, one outcome; everything verified."""
    results = race(tmp_path, "sound")
    assert all(len(digests) == 1 for digests in results)
    assert broken_versions(tmp_path) == []


def test_r2_is_red_when_a_manifest_says_who_wrote_it(tmp_path: Path) -> None:
    """Mutation check: anything of the run in the manifest makes two versions of one training."""
    assert any(len(digests) > 1 for digests in race(tmp_path, "stamped"))


SHAPE = InputShape(height=4, width=4, channels=1)
PROBE = np.random.default_rng(0).integers(0, 255, (8, 4, 4, 1), np.uint8)


def small_model(seed: int = 0) -> bytes:
    weights = np.random.default_rng(seed).normal(0, 0.1, (16, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 4, 4, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "g", [image], [logits], [numpy_helper.from_array(weights, "weights")])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return data


def manifest_of(onnx: Blob, seed: int = 0) -> CheckpointManifest:
    return CheckpointManifest(
        namespace="default",
        model="digits",
        job="job",
        mode="bootstrap",
        architecture="mlp",
        input=SHAPE,
        classes=("a", "b", "c"),
        normalization=Normalization(mean=(0.0,), std=(1.0,)),
        onnx=onnx,
        seed=seed,
        scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
        parity_max_abs_diff=0.0,
    )


def flips(data: bytes, step: int = 1) -> Iterator[bytes]:
    """The data with one bit changed, for every `step`-th bit."""
    for bit in range(0, len(data) * 8, step):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(FileStore(tmp_path), LAYOUT)


def refused(path: Path, variants: Iterator[bytes], read: Callable[[], object]) -> int:
    """Puts each variant in the file's place; every read must end in IntegrityError. Returns how many there were."""
    whole, count = path.read_bytes(), 0
    for data in variants:
        path.write_bytes(data)
        with pytest.raises(IntegrityError):
            read()
        count += 1
    path.write_bytes(whole)
    read()
    return count


def test_r3_every_bit_flip_and_truncation_is_refused(registry: Registry, tmp_path: Path) -> None:
    """Model and manifest: each single bit, each shorter length, one byte more."""
    data = small_model()
    digest = registry.publish(manifest_of(registry.put_blob(data)))
    onnx, manifest = tmp_path / LAYOUT.blob(sha256_digest(data)), tmp_path / LAYOUT.manifest(digest)
    described = registry.manifest(digest)
    reads: dict[Path, Callable[[], object]] = {
        onnx: lambda: registry.get_blob(described.onnx),
        manifest: lambda: registry.manifest(digest),
    }
    for path, read in reads.items():
        whole = path.read_bytes()
        cuts = (whole[:length] for length in range(len(whole)))
        for variants in (flips(whole), cuts, iter([whole + b"\0"])):
            assert refused(path, variants, read) > 0
        assert refused(path, flips(whole, 97), lambda: load_engine(registry, digest, "cpu")) > 20
    assert load_engine(registry, digest, "cpu").logits(PROBE).shape == (8, 3)


def test_r3_swapped_files_are_refused(registry: Registry, tmp_path: Path) -> None:
    """A whole, valid file under another file's name: models, manifests and shards."""
    models = [small_model(seed) for seed in (0, 1)]
    digests = [registry.publish(manifest_of(registry.put_blob(data), seed)) for seed, data in enumerate(models)]
    a, b = (tmp_path / LAYOUT.blob(sha256_digest(data)) for data in models)
    refused(a, iter([b.read_bytes()]), lambda: load_engine(registry, digests[0], "cpu"))
    a, b = (tmp_path / LAYOUT.manifest(digest) for digest in digests)
    refused(a, iter([b.read_bytes()]), lambda: load_engine(registry, digests[0], "cpu"))
    shards = [write_shard(registry.store, LAYOUT, make_shard(PROBE + n, range(8)), "shards") for n in range(2)]
    a, b = (tmp_path / LAYOUT.shard(digest) for digest in shards)
    refused(a, iter([b.read_bytes()]), lambda: read_shard(registry.store, LAYOUT, shards[0], "shards"))
    assert refused(a, flips(a.read_bytes(), 101), lambda: read_shard(registry.store, LAYOUT, shards[0], "shards")) > 100


def test_r3_is_red_without_the_hash() -> None:
    """Mutation check: of the same bit flips, many load in the runtime and answer with other numbers."""
    data = small_model()
    manifest = manifest_of(Blob(digest=sha256_digest(data), size=len(data)))
    right = open_session(data, manifest, "cpu").run(["logits"], {"image": PROBE})[0]
    wrong = 0
    for changed in flips(data, 11):
        try:
            logits = open_session(changed, manifest, "cpu").run(["logits"], {"image": PROBE})[0]
        except ContinualError:
            continue
        wrong += not np.array_equal(logits, right)
    assert wrong > 20


class EndlessServer:
    """Speaks just enough HTTP to answer every GET with a body that never ends; counts what it could send."""

    def __init__(self) -> None:
        self.sent = 0
        self.stopping = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n")
                    while not self.stopping:
                        connection.sendall(b"\0" * 65_536)
                        self.sent += 65_536
                except OSError:
                    continue

    def close(self) -> None:
        self.stopping = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def test_r7_an_endless_blob_ends_at_the_manifests_length() -> None:
    """The download stops one byte past the length the manifest gives: what was sent is bounded by socket buffers, not by memory."""
    server = EndlessServer()
    try:
        registry = Registry(S3Store(server.endpoint, "bucket", "key", "secret-key"), LAYOUT)
        with pytest.raises(IntegrityError, match="longer than the 1000 bytes"):
            registry.get_blob(Blob(digest=sha256_digest(b""), size=1000))
        assert server.sent < 32 << 20
    finally:
        server.close()


def test_r7_is_red_without_the_limit() -> None:
    """Mutation check: a read without a limit goes on as long as the other side does."""
    server = EndlessServer()
    store = S3Store(server.endpoint, "bucket", "key", "secret-key")
    reader = threading.Thread(target=store.get, args=(LAYOUT.blob("sha256:00"),))
    reader.start()
    while server.sent < 64 << 20 and reader.is_alive():
        reader.join(0.01)
    assert reader.is_alive()
    server.close()
    reader.join(10)
