"""A laboratory on real digits: a store in a temporary folder, a parent trained once, and trainings as the operator starts them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_clients.shards import make_shard, write_shard
from continual_contract import settings
from continual_contract.artifacts import (
    CheckpointManifest,
    DataList,
    DatasetRef,
    InputShape,
    StoreLayout,
    TrainingInputs,
    TrainingOutcome,
)
from continual_workers.training import run
from continual_workers.training.datasets import digits_images
from continual_workers.training.runtime import OnnxClassifier

SHAPE = InputShape(height=8, width=8, channels=1)
CLASSES = tuple("0123456789")


@dataclass
class Lab:
    """One model's store, its digits, and verbs to train with."""

    root: Path
    images: np.ndarray
    labels: np.ndarray
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> FileStore:
        return FileStore(self.root)

    @property
    def layout(self) -> StoreLayout:
        return StoreLayout("ns", "digits")

    @property
    def registry(self) -> Registry:
        return Registry(self.store, self.layout)

    def inputs(self, mode: str, **changes: Any) -> TrainingInputs:
        given: dict[str, Any] = {"architecture": "mlp", "input": SHAPE, "classes": CLASSES, "epochs": 8, **changes}
        return TrainingInputs(namespace="ns", model="digits", mode=mode, **given)

    def bootstrap_inputs(self, indices: np.ndarray, **changes: Any) -> TrainingInputs:
        out = io.BytesIO()
        np.savez(out, image=self.images[indices], label=self.labels[indices])
        self.store.put("first.npz", out.getvalue())
        return self.inputs("bootstrap", dataset=DatasetRef(object_key="first.npz", format="npz"), **changes)

    def shard(self, indices: np.ndarray, kind: Any = "shards", images: np.ndarray | None = None) -> str:
        chosen = self.images[indices] if images is None else images
        return write_shard(self.store, self.layout, make_shard(chosen, self.labels[indices]), kind)

    def retrain_inputs(
        self, parent: str, train: tuple[str, ...], holdout: tuple[str, ...] = (), **changes: Any
    ) -> TrainingInputs:
        mode = changes.pop("mode", "retrain")
        corrections = train if mode == "correction" else ()
        data = DataList(train=train, holdout=holdout, corrections=corrections, trained_through=1)
        return self.inputs(mode, parent=parent, data=self.registry.put_data_list(data), **changes)

    def train(self, inputs: TrainingInputs, progress: run.Progress = lambda _: None) -> TrainingOutcome:
        return run.train(inputs, self.store, self.registry, progress)

    def manifest(self, outcome: TrainingOutcome) -> CheckpointManifest:
        assert outcome.manifest is not None, outcome.failure
        return self.registry.manifest(outcome.manifest)

    def predict(self, manifest: CheckpointManifest, images: np.ndarray) -> np.ndarray:
        return OnnxClassifier(self.registry.get_blob(manifest.onnx)).logits(images).argmax(axis=1)

    def accuracy(self, manifest: CheckpointManifest, indices: np.ndarray) -> float:
        return float((self.predict(manifest, self.images[indices]) == self.labels[indices]).mean())

    def copy(self, root: Path) -> Lab:
        shutil.copytree(self.root, root)
        return Lab(root, self.images, self.labels)

    def start(self, inputs: TrainingInputs | str, **env: str) -> subprocess.Popen[bytes]:
        """The real process, as the Job runs it."""
        environment = {**os.environ, settings.STORE_URL: f"file://{self.root}", "OMP_NUM_THREADS": "1", **env}
        text = inputs if isinstance(inputs, str) else inputs.model_dump_json()
        command = [sys.executable, "-m", "continual_workers.training", "--inputs", text]
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        self.children.append(child)
        return child

    def stop_all(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait()
            if child.stderr is not None:
                child.stderr.close()


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = digits_images(SHAPE)
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order], labels[order]


@dataclass(frozen=True)
class Nursery:
    """A parent that knows the digits 0 to 4, and what is left to learn and to test with."""

    lab: Lab
    parent: str
    old: np.ndarray
    new: np.ndarray
    old_test: np.ndarray
    new_test: np.ndarray


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, np.ndarray]) -> Nursery:
    """Trained once per session; tests take copies of its store."""
    lab = Lab(tmp_path_factory.mktemp("nursery"), *digits)
    first, second = np.flatnonzero(lab.labels < 5), np.flatnonzero(lab.labels >= 5)
    outcome = lab.train(lab.bootstrap_inputs(first[:500], replay_capacity=200))
    lab.manifest(outcome)
    assert outcome.manifest is not None
    return Nursery(lab, outcome.manifest, first[:500], second[:400], first[600:], second[500:])


@pytest.fixture
def school(nursery: Nursery, tmp_path: Path) -> Iterator[Nursery]:
    """The nursery with a store of its own for this test."""
    lab = nursery.lab.copy(tmp_path / "store")
    yield Nursery(lab, nursery.parent, nursery.old, nursery.new, nursery.old_test, nursery.new_test)
    lab.stop_all()


@pytest.fixture
def lab(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> Iterator[Lab]:
    """An empty store."""
    made = Lab(tmp_path / "store", *digits)
    yield made
    made.stop_all()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool], float], None]:
    """Poll until a claim holds; fail after so many seconds."""
    import time

    def wait(claim: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.01)

    return wait
