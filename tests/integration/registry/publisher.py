"""A publisher that is killed -9 at a numbered point, run as its own process by the tests beside it.

    publisher.py crash <folder> <variant>       one store <folder>/<n> per kill point n; prints the number of points
    publisher.py publish <folder> <variant> <job>…     publish these jobs; nobody kills

Points lie before every call to the store, after half of a file is written, before its rename, and after it. Variants are `sound`
and the mutations that must turn the tests red: `manifest-first`, `in-place` (a store that writes where it reads), `stamped`
(a manifest that says who wrote it).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_clients.shards import make_shard, write_shard
from continual_contract.artifacts import (
    Blob,
    CheckpointManifest,
    DataList,
    HoldoutScores,
    InputShape,
    Normalization,
    StoreLayout,
    TrainingOutcome,
)
from continual_contract.ids import sha256_digest

LAYOUT = StoreLayout("default", "digits")


class MortalStore(FileStore):
    """Kills its process at point `deadline`."""

    def __init__(self, root: Path, deadline: int, *, in_place: bool) -> None:
        super().__init__(root)
        self.points, self.deadline, self.in_place = 0, deadline, in_place

    def _point(self) -> None:
        self.points += 1
        if self.points == self.deadline:
            os.kill(os.getpid(), signal.SIGKILL)

    def get(self, key: str, limit: int | None = None) -> bytes:
        self._point()
        return super().get(key, limit)

    def put(self, key: str, data: bytes) -> None:
        self._point()
        if self.in_place:
            (self.root / key).parent.mkdir(parents=True, exist_ok=True)
            self._write_mortally(self.root / key, data)
        else:
            super().put(key, data)
        self._point()

    def _write(self, path: Path, data: bytes) -> None:  # type: ignore[override]
        self._write_mortally(path, data)

    def _write_mortally(self, path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            self._point()
            file.write(data[len(data) // 2 :])
        self._point()


def publish(store: FileStore, job: str, variant: str) -> None:
    """What a training does at its end."""
    registry = Registry(store, LAYOUT)
    content = {name: f"{name} of {job} ".encode() * 200 for name in ("onnx", "state", "state_meta", "curves.png")}
    holdout = make_shard(np.zeros((2, 4, 4, 1), np.uint8), [0, 1])
    manifest = CheckpointManifest(
        namespace="default",
        model="digits",
        job=job,
        mode="bootstrap",
        architecture="lenet5",
        input=InputShape(height=4, width=4, channels=1),
        classes=("0", "1"),
        normalization=Normalization(mean=(0.1,), std=(0.3,)),
        onnx=_blob(content["onnx"]),
        state=_blob(content["state"]),
        state_meta=_blob(content["state_meta"]),
        artifacts={"curves.png": _blob(content["curves.png"])},
        data=registry.put_data_list(DataList(train=("sha256:00",))),
        bootstrap_holdout=write_shard(store, LAYOUT, holdout, "holdout"),
        trigger=str(os.getpid()) if variant == "stamped" else "",
        scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
        parity_max_abs_diff=0.0,
    )
    if variant == "manifest-first":
        store.put(LAYOUT.manifest(manifest.digest()), manifest.encode())
    for data in content.values():
        registry.put_blob(data)
    registry.put_outcome(TrainingOutcome(job=job, manifest=registry.publish(manifest)))


def _blob(data: bytes) -> Blob:
    return Blob(digest=sha256_digest(data), size=len(data))


def crash_everywhere(folder: Path, variant: str) -> int:
    """One child per kill point, until one lives to the end."""
    point = 0
    while True:
        point += 1
        child = os.fork()
        if child == 0:
            publish(MortalStore(folder / str(point), point, in_place=variant == "in-place"), "job", variant)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return point - 1
        assert os.WTERMSIG(status) == signal.SIGKILL


def main() -> None:
    verb, folder, variant = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if verb == "crash":
        print(crash_everywhere(folder, variant))
        return
    store = FileStore(folder)
    for job in sys.argv[4:]:
        publish(store, job, variant)


if __name__ == "__main__":
    main()
