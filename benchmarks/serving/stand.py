"""A Redis with its append-only file on, a store, and the real worker processes: what every row of the table is measured on."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import redis
from continual_clients.health import probe
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import CheckpointManifest, HoldoutScores, StoreLayout
from continual_contract.functions import library_source, parse_route, route_call
from continual_contract.keys import ModelKeys
from machine import Span, cpu_seconds, span
from nets import CLASSES, Net, onnx_of

HERE = Path(__file__).resolve().parent
KEYS = ModelKeys("bench", "net")
READY_SECONDS = 60.0
PIPELINE = 500


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


@dataclass(slots=True)
class Process:
    """A child that says `ready` on its standard output and begins when it is told to."""

    popen: subprocess.Popen[str]

    @classmethod
    def start(cls, script: str, *args: str, cores: Sequence[int] = ()) -> Process:
        command = [sys.executable, str(HERE / script), *args]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
        if cores:
            psutil.Process(popen.pid).cpu_affinity(list(cores))
        assert popen.stdout is not None
        assert popen.stdout.readline().strip() == "ready", f"{script} did not start"
        return cls(popen)

    def go(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def result(self) -> list[float]:
        assert self.popen.stdout is not None
        words = self.popen.stdout.readline().split()
        self.popen.wait(30)
        return [float(word) for word in words]

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()


@dataclass(slots=True)
class Worker:
    """One real inference process of one version."""

    popen: subprocess.Popen[bytes]
    health: str
    log: Path

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while (answer := probe(self.health)) is None or answer[0] != 200:
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not become ready:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def pause(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        self.popen.kill()
        self.popen.wait()


@dataclass(slots=True)
class Drained:
    """One backlog worked off: how fast, at what cost."""

    rate: float
    """Images per second."""
    cpu_us: float
    """CPU of the workers, microseconds per image."""
    redis_us: float
    """CPU of Redis, microseconds per image."""
    span: Span


@dataclass
class Stand:
    """One Redis, one store. Every run starts from an empty Redis."""

    folder: Path
    port: int = field(default_factory=free_port)
    workers: list[Worker] = field(default_factory=list)
    gen: int = 0

    def __post_init__(self) -> None:
        self.client = redis.Redis(port=self.port, protocol=2)
        self.registry = Registry(FileStore(self.folder / "store"), StoreLayout("bench", "net"))
        self.digests: dict[str, str] = {}
        self.redis_pid = 0

    def start_redis(self) -> subprocess.Popen[bytes]:
        binary = shutil.which("redis-server")
        assert binary, "redis-server is not installed: run `make setup`"
        (self.folder / "redis").mkdir(parents=True, exist_ok=True)
        popen = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder / "redis"), "--save", "",
             "--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-min-size", "4gb", "--loglevel", "warning", "--logfile", "redis.log"],
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)
        self.client.function_load(library_source(), replace=True)
        self.redis_pid = popen.pid
        return popen

    def publish(self, net: Net) -> str:
        """The digest of this network's checkpoint, published once."""
        if net.name not in self.digests:
            manifest = CheckpointManifest(
                namespace="bench", model="net", job="0123456789", mode="bootstrap", architecture=net.name,
                input=net.shape, classes=CLASSES, normalization=net.normalization,
                onnx=self.registry.put_blob(onnx_of(net, self.folder.parent / "nets")),
                scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
                parity_max_abs_diff=0.0,
            )  # fmt: skip
            self.digests[net.name] = self.registry.publish(manifest)
        return self.digests[net.name]

    def reset(self) -> None:
        for worker in self.workers:
            worker.close()
        self.workers.clear()
        self.client.flushall()
        self.gen = 0

    def route(self, shares: Sequence[tuple[str, int]], shadow: Sequence[str] = (), shadow_bp: int = 0) -> None:
        call = route_call(KEYS, self.gen, 1, "uid", shares, shadow=shadow, shadow_bp=shadow_bp)
        self.gen = parse_route(self.client.execute_command(*call.command())).gen

    def start_workers(
        self, net: Net, count: int, version: str = "v1", cores: Sequence[int] = (), batch: int = 64
    ) -> list[Worker]:
        """Ready, and warm."""
        started = [self._start(net, version, cores, batch) for _ in range(count)]
        for worker in started:
            worker.wait_ready()
        return started

    def _start(self, net: Net, version: str, cores: Sequence[int], batch: int) -> Worker:
        number = len(self.workers)
        env = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            settings.NAMESPACE: "bench",
            settings.MODEL: "net",
            settings.REDIS_URL: f"redis://127.0.0.1:{self.port}/0",
            settings.STORE_URL: f"file://{self.folder}/store",
            settings.VERSION: version,
            settings.BATCH_SIZE: str(batch),
            settings.CHECKPOINT: self.publish(net),
            settings.HEALTH_ADDRESS: f"unix:{self.folder}/{number}.sock",
            settings.POD_NAME: f"pod-{number}",
            settings.TERMINATION_LOG: str(self.folder / f"{number}.termination"),
        }
        log = self.folder / f"{number}.log"
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-m", "continual_workers.inference"],
                env=env, stdout=file, stderr=file,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
            )  # fmt: skip
        if cores:
            psutil.Process(popen.pid).cpu_affinity(list(cores))
        worker = Worker(popen, env[settings.HEALTH_ADDRESS], log)
        self.workers.append(worker)
        return worker

    def fill(self, net: Net, count: int) -> None:
        """`count` raw requests; workers should be paused."""
        images = [image.tobytes() for image in net.images(64)]
        pipeline = self.client.pipeline(transaction=False)
        for n in range(count):
            pipeline.xadd(KEYS.requests, {"d": images[n % 64]})
            if n % PIPELINE == PIPELINE - 1:
                pipeline.execute()
        pipeline.execute()

    def fill_seeds(self, net: Net, count: int, stream: str) -> None:
        """The same images as the seeds send them: normalised float32, base64, JSON."""
        floats = (net.images(64).transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.25
        encoded = [base64.b64encode(image.tobytes()).decode() for image in floats]
        pipeline = self.client.pipeline(transaction=False)
        for n in range(count):
            pipeline.xadd(stream, {"message": json.dumps({"id": n, "image": encoded[n % 64], "label": n % 10})})
            if n % PIPELINE == PIPELINE - 1:
                pipeline.execute()
        pipeline.execute()
        self.client.xgroup_create(stream, "seed", id="0")

    def published(self) -> int:
        """Predictions so far, trimmed ones included."""
        try:
            return int(self.client.xinfo_stream(KEYS.predictions)["entries-added"])
        except redis.ResponseError:
            return 0

    def drain(self, count: int) -> Drained:
        """Let the paused workers work off what was filled in, and time it."""
        pids = [worker.popen.pid for worker in self.workers]
        self.rest()
        with span() as taken:
            cpu, redis_cpu, began = cpu_seconds(pids), self.redis_seconds(), time.perf_counter()
            for worker in self.workers:
                worker.resume()
            deadline = time.monotonic() + 300
            while (done := self.published()) < count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{done} of {count} answered after 300 s: {self.workers[0].log}")
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            cpu, redis_cpu = cpu_seconds(pids) - cpu, self.redis_seconds() - redis_cpu
        return Drained(count / seconds, cpu / count * 1e6, redis_cpu / count * 1e6, taken)

    def redis_seconds(self) -> float:
        """CPU seconds of Redis so far."""
        return cpu_seconds([self.redis_pid])

    def rest(self) -> None:
        """Wait until Redis has rewritten its append-only file: filling a backlog sets that off, and it is no part of working it off."""
        while self.client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)


@contextmanager
def stand(folder: Path) -> Iterator[Stand]:
    """A fresh stand under `folder`, gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Stand(folder)
    popen = made.start_redis()
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.close()
        made.client.close()
        popen.kill()
        popen.wait()
        shutil.rmtree(folder, ignore_errors=True)
