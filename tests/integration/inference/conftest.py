"""A real worker process on a real Redis, over a checkpoint whose ONNX file is built node by node."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from continual_clients.health import probe
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import CheckpointManifest, HoldoutScores, InputShape, Normalization, StoreLayout
from continual_contract.entries import PredictionEntry, decode_prediction
from continual_contract.functions import route_call
from continual_contract.keys import ModelKeys
from onnx import TensorProto, helper, numpy_helper

SHAPE = InputShape(height=28, width=28, channels=1)
CLASSES = tuple(f"class {n}" for n in range(10))
KEYS = ModelKeys("default", "digits")


def build_onnx(shift: int = 0) -> bytes:
    """A linear classifier: the class is the brightest of the first ten pixels, rotated by `shift`."""
    weights = np.zeros((SHAPE.nbytes, 10), np.float32)
    weights[np.arange(10), (np.arange(10) + shift) % 10] = 0.05
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 28, 28, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "g", [image], [logits], [numpy_helper.from_array(weights, "weights")])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return data


def pixels(n: int) -> bytes:
    """Raw bytes whose class is `n` modulo 10, different for every n below 2 550 000."""
    image = bytearray(SHAPE.nbytes)
    image[n % 10] = 255
    image[20:24] = n.to_bytes(4, "big")
    return bytes(image)


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    health: str
    log: Path
    termination_log: Path

    def wait_ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while (answer := probe(self.health)) is None or answer[0] != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def kill9(self) -> None:
        self.process.kill()
        self.process.wait()

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@dataclass
class Bench:
    """One model with a store, a Redis and worker processes."""

    redis_url: str
    client: redis.Redis
    folder: Path
    registry: Registry
    workers: list[Worker] = field(default_factory=list)
    gen: int = 0

    def publish(self, data: bytes, **changes: Any) -> str:
        fields: dict[str, Any] = {
            "namespace": "default",
            "model": "digits",
            "job": "0123456789",
            "mode": "bootstrap",
            "architecture": "mlp",
            "input": SHAPE,
            "classes": CLASSES,
            "normalization": Normalization(mean=(0.0,), std=(1.0,)),
            "onnx": self.registry.put_blob(data),
            "scores": HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
            "parity_max_abs_diff": 0.0,
        }
        return self.registry.publish(CheckpointManifest(**fields | changes))

    def start(self, checkpoint: str, version: str = "v1", **env: str) -> Worker:
        n = len(self.workers)
        worker_env = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            settings.NAMESPACE: "default",
            settings.MODEL: "digits",
            settings.REDIS_URL: self.redis_url,
            settings.STORE_URL: f"file://{self.folder}/store",
            settings.VERSION: version,
            settings.CHECKPOINT: checkpoint,
            settings.HEALTH_ADDRESS: f"unix:{self.folder}/{n}.sock",
            settings.POD_NAME: f"pod-{n}",
            settings.TERMINATION_LOG: str(self.folder / f"{n}.termination"),
            settings.MIN_IDLE: "2",
        }
        log = self.folder / f"{n}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "continual_workers.inference"],
                env=worker_env | env, stdout=file, stderr=file, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
            )  # fmt: skip
        worker = Worker(process, worker_env[settings.HEALTH_ADDRESS], log, self.folder / f"{n}.termination")
        self.workers.append(worker)
        return worker

    def route(self, shares: list[tuple[str, int]], **options: Any) -> None:
        call = route_call(KEYS, self.gen, 1, "uid", shares, **options)
        self.gen = int(self.client.execute_command(*call.command())[0])  # type: ignore[no-untyped-call]

    def send(self, count: int, first: int = 0) -> list[str]:
        """Plain XADDs, as a stranger would; request ids in order."""
        pipeline = self.client.pipeline(transaction=False)
        for n in range(first, first + count):
            pipeline.xadd(KEYS.requests, {"d": pixels(n)})
        return [entry_id.decode() for entry_id in pipeline.execute()]

    def predictions(self) -> list[PredictionEntry]:
        entries: Any = self.client.xrange(KEYS.predictions)
        return [decode_prediction(fields) for _, fields in entries]

    def dead(self) -> list[dict[bytes, bytes]]:
        entries: Any = self.client.xrange(KEYS.dead)
        return [fields for _, fields in entries]

    def pending(self, group: str = "v1@1") -> int:
        state: Any = self.client.xpending(KEYS.requests, group)
        return int(state["pending"])

    def wait(self, what: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.workers[-1].log.read_text()[-3000:]
            time.sleep(0.02)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
                worker.kill9()


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@pytest.fixture
def bench(redis_server: Any, tmp_path: Path) -> Iterator[Bench]:
    redis_server.load_functions()
    registry = Registry(FileStore(tmp_path / "store"), StoreLayout("default", "digits"))
    bench = Bench(redis_server.url, redis_server.client(), tmp_path, registry)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def onnx_of() -> Callable[[int], bytes]:
    return build_onnx


@pytest.fixture
def keys() -> ModelKeys:
    return KEYS
