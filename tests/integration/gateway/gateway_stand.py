"""A gateway as a process over a home, a real Redis, a real worker, and the ways in which they fail."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import redis
from continual_cli.local.paths import Home
from continual_cli.local.state import Endpoints, LocalState
from continual_clients.health import probe
from continual_clients.objectstore import open_store
from continual_clients.registry import Registry
from continual_clients.shards import make_shard, write_shard
from continual_contract import settings
from continual_contract.artifacts import (
    CheckpointManifest,
    DataList,
    HoldoutScores,
    InputShape,
    Normalization,
    StoreLayout,
    TrainingInputs,
)
from continual_contract.config import EvaluatorConfig
from continual_contract.functions import configure_call, library_source, route_call
from continual_contract.keys import ModelKeys
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from redis.backoff import NoBackoff
from redis.retry import Retry

PORTS = itertools.cycle(itertools.chain(range(22_000 + os.getpid() % 2_000, 24_000), range(22_000, 24_000)))
"""Below those the kernel gives away itself, and one after the other: what was said to be free is nobody's before it is used."""
LIBC = ctypes.CDLL(None)
SHAPE = InputShape(height=28, width=28, channels=1)
CLASSES = tuple(f"class {n}" for n in range(10))
KEYS = ModelKeys("default", "digits")
TOKENS = {"viewer": "v" * 40, "labeler": "l" * 40, "admin": "a" * 40}
SALT = "salt"


def die_with_parent() -> None:
    LIBC.prctl(1, signal.SIGKILL)


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe_socket, contextlib.suppress(OSError):
            probe_socket.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


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
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def pixels(n: int) -> bytes:
    """Raw bytes whose class is `n` modulo 10, different for every n below 2**32."""
    image = bytearray(SHAPE.nbytes)
    image[n % 10] = 255
    image[20:24] = n.to_bytes(4, "big")
    return bytes(image)


def picture(n: int, encoding: str = "PNG", size: tuple[int, int] | None = None) -> bytes:
    """The same as a file."""
    image = Image.frombytes("L", (28, 28), pixels(n))
    buffer = io.BytesIO()
    (image.resize(size) if size else image).save(buffer, encoding, **({"lossless": True} if encoding == "WEBP" else {}))
    return buffer.getvalue()


def manifest_of(**spec: Any) -> dict[str, Any]:
    model: dict[str, Any] = {
        "architecture": "mlp",
        "input": {"height": 28, "width": 28, "channels": 1, "fit": "Letterbox"},
        "classes": list(CLASSES),
    }
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": "digits"},
        "spec": {
            "model": model, "bootstrap": {"dataset": {"name": "digits"}}, "feedback": {"auditPercent": 100, "window": "1h"},
            **spec,
        },
    }  # fmt: skip


@dataclass
class Stand:
    """One home with one model. `start_*` may be called again after the part was killed."""

    folder: Path
    limits: dict[str, str] = field(default_factory=dict)
    store_url: str = ""
    """Empty: the home's own files."""
    store_credentials: Path | None = None
    redis_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    redis_process: subprocess.Popen[bytes] | None = None
    gateway: subprocess.Popen[bytes] | None = None
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Further gateways, of this Redis and home."""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    gen: int = 0

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "home").create()
        self.state = LocalState(self.home)
        self.store_url = self.store_url or f"file://{self.home.store}"
        self.registry = Registry(open_store(self.store_url, self.store_credentials), StoreLayout("default", "digits"))
        self.client = redis.Redis(port=self.redis_port, protocol=2, socket_timeout=10, retry=Retry(NoBackoff(), 0))
        self.state.write_endpoints(Endpoints(self.redis_url, None, None, self.store_url, managed_redis=False))
        self._write_secrets()

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _write_secrets(self) -> None:
        people = [
            {"name": role, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
            for role, token in TOKENS.items()
        ]
        (self.folder / "tokens.json").write_text(json.dumps(people))
        (self.folder / "key").write_text("k" * 48)

    # -- parts

    def start_redis(self, *options: str) -> None:
        binary = shutil.which("redis-server")
        assert binary, "redis-server is not installed: run `make setup`"
        (self.folder / "redis").mkdir(exist_ok=True)
        self.redis_process = subprocess.Popen(
            [binary, "--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(self.folder / "redis"), "--save", "",
             "--appendonly", "yes", "--loglevel", "warning", "--logfile", "redis.log", *options],
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
        self.wait(self._redis_answers, 20)
        self.client.function_load(library_source(), replace=True)

    def _redis_answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def kill_redis(self) -> None:
        assert self.redis_process is not None
        self.redis_process.kill()
        self.redis_process.wait()

    def apply(self, **spec: Any) -> None:
        self.state.create_or_replace(manifest_of(**spec))

    def publish(self, shift: int = 0, **changes: Any) -> str:
        fields: dict[str, Any] = {
            "namespace": "default", "model": "digits", "job": "0123456789", "mode": "bootstrap", "architecture": "mlp",
            "input": SHAPE, "classes": CLASSES, "normalization": Normalization(mean=(0.0,), std=(1.0,)),
            "onnx": self.registry.put_blob(build_onnx(shift)),
            "scores": HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
            "parity_max_abs_diff": 0.0,
        }  # fmt: skip
        return self.registry.publish(CheckpointManifest(**fields | changes))

    def serve(self, version: str = "v1", shift: int = 0) -> str:
        """A worker of this version, made the stable one. Returns its digest."""
        digest = self.publish(shift)
        self.start_worker(version, digest)
        self.route([(version, 10_000)])
        self.set_status(
            stable={"version": version, "digest": digest},
            versions=[{"version": version, "digest": digest, "phase": "Stable"}],
        )
        return digest

    def set_status(self, **status: Any) -> None:
        def change(document: dict[str, Any]) -> dict[str, Any]:
            document["status"] = {**document.get("status", {}), **status}
            return document

        self.state.update_model("digits", change)

    def begin_correction(self, request_id: str, n: int) -> tuple[str, str]:
        """What evaluator and operator write when the correction with picture `n` goes into a Job. Returns its hash and its data list's digest."""
        image = np.frombuffer(pixels(n), np.uint8).reshape(1, 28, 28, 1)
        shard = make_shard(image, [0], request_id=[request_id], source=["correction"])
        digest = write_shard(self.registry.store, self.registry.layout, shard, "shards")
        data = self.registry.put_data_list(DataList(train=(digest,), corrections=(digest,)))
        inputs = TrainingInputs(
            namespace="default", model="digits", mode="correction", architecture="mlp", input=SHAPE, classes=CLASSES,
            data=data, parent="sha256:" + "0" * 64,
        )  # fmt: skip
        job = inputs.job_hash()
        training = {"state": "Running", "job": job, "trigger": "Correction", "started": "2026-11-21T18:00:00Z"}
        self.set_status(training={**training, "inputs": inputs.model_dump(mode="json")})
        return job, data

    def start_worker(self, version: str, digest: str) -> None:
        n = len(self.workers)
        env = {
            "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", settings.NAMESPACE: "default", settings.MODEL: "digits",
            settings.REDIS_URL: self.redis_url, **self._store_variables(), settings.VERSION: version,
            settings.CHECKPOINT: digest, settings.HEALTH_ADDRESS: f"unix:{self.folder}/{n}.sock",
            settings.POD_NAME: f"pod-{n}", settings.TERMINATION_LOG: str(self.folder / f"{n}.termination"),
            settings.MIN_IDLE: "2",
        }  # fmt: skip
        with (self.folder / f"worker-{n}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "continual_workers.inference"], env=env, stdout=log, stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
            )  # fmt: skip
        self.workers.append(worker)
        self.wait(lambda: (found := probe(env[settings.HEALTH_ADDRESS])) is not None and found[0] == 200, 120)

    def route(self, shares: list[tuple[str, int]]) -> None:
        call = route_call(KEYS, self.gen, 1, "uid", shares)
        self.gen = int(self.client.execute_command(*call.command())[0])

    def configure(self, **changes: Any) -> None:
        """The evaluator's orders, as the operator writes them."""
        config = EvaluatorConfig(
            uid="uid", token=1, sequence=1, classes=CLASSES, input=SHAPE, salt=SALT, window_seconds=3600.0,
            audit_percent=100.0, **changes,
        )  # fmt: skip
        self.client.execute_command(*configure_call(KEYS, "uid", 1, config.model_dump_json()).command())

    def _store_variables(self) -> dict[str, str]:
        where = {settings.STORE_URL: self.store_url}
        if self.store_credentials is not None:
            where[settings.STORE_CREDENTIALS_FILE] = str(self.store_credentials)
        return where

    def start_gateway(self, **env: str) -> None:
        """Listening; this stand's own."""
        self.gateway = self._spawn_gateway(self.port, env)

    def restart_gateway(self, **env: str) -> None:
        """With other variables."""
        assert self.gateway is not None
        self.gateway.kill()
        self.gateway.wait()
        self.start_gateway(**env)

    def start_another(self, port: int, **env: str) -> subprocess.Popen[bytes]:
        """A second replica."""
        self.others.append(self._spawn_gateway(port, env))
        return self.others[-1]

    def _spawn_gateway(self, port: int, env: dict[str, str]) -> subprocess.Popen[bytes]:
        variables = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "CONTINUAL_HOME": str(self.home.root), "OMP_NUM_THREADS": "1",
            settings.REDIS_URL: self.redis_url, **self._store_variables(), "CONTINUAL_GATEWAY_ADDRESS": f"127.0.0.1:{port}",
            "CONTINUAL_GATEWAY_TOKENS_FILE": str(self.folder / "tokens.json"),
            "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(self.folder / "key"),
            **self.limits, **env,
        }  # fmt: skip
        with (self.folder / "gateway.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "continual_cli.local.serve_gateway"], env=variables, stdout=log, stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
            )  # fmt: skip
        try:
            self.wait(lambda: self._gateway_answers(process, port), 120)
        except AssertionError:
            process.kill()
            raise
        return process

    def _gateway_answers(self, process: subprocess.Popen[bytes], port: int) -> bool:
        assert process.poll() is None, self.log()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2).status_code == 200
        return False

    # -- looking

    def api(self, role: str = "admin", **options: Any) -> httpx.Client:
        """A program with this role's token."""
        headers = {"authorization": f"Bearer {TOKENS[role]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=options.pop("timeout", 40), **options)

    def infer(
        self, api: httpx.Client, body: bytes, kind: str = "application/octet-stream", **headers: str
    ) -> httpx.Response:
        return api.post("/v2/models/digits/infer", content=body, headers={"content-type": kind, **headers})

    def memory_mb(self) -> float:
        """Resident set of the gateway and of its decoder."""
        return sum(each.memory_info().rss for each in self._family()) / 2**20

    def forget_peak(self) -> None:
        """From now on `peak_mb` counts."""
        for each in self._family():
            Path(f"/proc/{each.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The most that gateway and decoder held since `forget_peak`, each at its own moment."""
        said = [Path(f"/proc/{each.pid}/status").read_text() for each in self._family()]
        return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in said) / 1024

    def _family(self) -> list[psutil.Process]:
        assert self.gateway is not None
        process = psutil.Process(self.gateway.pid)
        return [process, *process.children(recursive=True)]

    def worker_pids(self) -> list[int]:
        return [worker.pid for worker in self.workers if worker.poll() is None]

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(errors="replace")[-5000:]

    def ledger(self) -> tuple[int, int, int, int]:
        """(accepted, predictions, dead letters, pending) by Redis's own counters."""

        def added(stream: str) -> int:
            return int(self.client.xinfo_stream(stream)["entries-added"]) if self.client.exists(stream) else 0

        pending = sum(int(group["pending"]) for group in self.client.xinfo_groups(KEYS.requests))
        return added(KEYS.requests), added(KEYS.predictions), added(KEYS.dead), pending

    def predictions(self) -> list[str]:
        """Request ids of all predictions, in order."""
        return [fields[b"r"].decode() for _, fields in self.client.xrange(KEYS.predictions)]

    def wait(self, what: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.log() if (self.folder / "gateway.log").exists() else "not in time"
            time.sleep(0.03)

    def close(self) -> None:
        for process in (self.gateway, *self.others, *self.workers, self.redis_process):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        self.client.close()


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Stand]:
    """Redis, a worker, the evaluator's orders and the gateway; gone afterwards."""
    stand = Stand(folder, **options)
    try:
        stand.start_redis()
        stand.apply()
        stand.serve()
        stand.configure()
        stand.start_gateway()
        yield stand
    finally:
        stand.close()


def first(response: httpx.Response, output: str = "class") -> Any:
    """First element of one output of an inference response."""
    assert response.status_code == 200, response.text
    return next(one for one in response.json()["outputs"] if one["name"] == output)["data"][0]


def sabotage(folder: Path, code: str) -> dict[str, str]:
    """Variables that make a gateway (and its decoder) run this code before its own: a protection is taken away."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def zipped(files: dict[str, bytes]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()
