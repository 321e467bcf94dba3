"""Hundreds of ContinualModels on one operator process: a real API server and its controllers, a real Redis, pods played by kwok.

Every model imports one published checkpoint, so that nothing is trained, and its evaluator is played: a report every ten seconds whose
numbers stay as they are. What the operator does then is what a fleet costs while nothing happens.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import redis
from continual_clients.objectstore import open_store
from continual_clients.registry import Registry
from continual_contract.artifacts import DatasetRef, InputShape, StoreLayout, TrainingInputs
from continual_contract.config import EvaluatorConfig
from continual_contract.keys import ModelKeys
from continual_operator.rehearsal import played_manifest, played_report

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/cluster"))

from control_plane import MODELS, ControlPlane, die_with_parent, free_port, running
from operators import ACCOUNT, OperatorProcess, digits, operator_account

NAMESPACE = "fleet"
REPORT_EVERY_SECONDS = 10.0
CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the audit log that the operator is the author of."""

    at: float
    """Unix time of its answer."""
    verb: str
    resource: str

    @property
    def changes(self) -> bool:
        return self.verb not in {"get", "list", "watch"}


@dataclass
class Audit:
    """The API server's audit log, read on from where it was left."""

    file: Path
    requests: list[Request] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> list[Request]:
        """All requests of the operator so far."""
        with self.file.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                event = json.loads(line)
                about = event.get("objectRef") or {}
                name = "/".join(filter(None, (about.get("resource"), about.get("subresource"))))
                if event["user"]["username"].endswith(f":{ACCOUNT}") and event["stage"] == "ResponseComplete":
                    self.requests.append(Request(_seconds(event["stageTimestamp"]), event["verb"], name))
        return self.requests


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


@dataclass
class Sample:
    at: float
    rss_mb: float
    cpu_seconds: float


class Fleet:
    """The stage, with everything on it."""

    def __init__(self, plane: ControlPlane, folder: Path, redis_port: int) -> None:
        self.plane, self.folder = plane, folder
        self.redis = redis.Redis(port=redis_port, protocol=2)
        self._account, self._redis_url = operator_account(plane, NAMESPACE), f"redis://127.0.0.1:{redis_port}/0"
        self.starts = 0
        self.operator = self._start()
        self.audit = Audit(plane.folder / "audit.log")
        self.samples: list[Sample] = []
        self.names: list[str] = []
        self._over = threading.Event()
        self._digest, self._key = self._published()
        self._threads = [threading.Thread(target=work) for work in (self._sample, self._evaluate)]
        for thread in self._threads:
            thread.start()

    def _start(self) -> OperatorProcess:
        self.starts += 1
        return OperatorProcess(f"fleet-{self.starts}", self.folder, self._account, NAMESPACE, self._redis_url)

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.operator.close()
        self.redis.close()

    def _published(self) -> tuple[str, str]:
        """A checkpoint that every model imports."""
        registry = Registry(open_store(f"file://{self.folder / 'store'}"), StoreLayout("elsewhere", "digits"))
        inputs = TrainingInputs(
            namespace="elsewhere", model="digits", mode="bootstrap", architecture="mlp",
            input=InputShape(height=8, width=8, channels=1), classes=tuple(map(str, range(10))),
            dataset=DatasetRef(name="digits"),
        )  # fmt: skip
        digest = registry.publish(played_manifest(registry, inputs))
        return digest, registry.layout.manifest(digest)

    # What happens on it -----------------------------------------------------------------------------------------------------

    def create(self, count: int) -> None:
        """`count` models more."""
        first = len(self.names)
        names = [f"model-{number:04d}" for number in range(first, first + count)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._create, names))
        self.names += names

    def _create(self, name: str) -> None:
        checkpoint = {"objectKey": self._key, "digest": self._digest}
        manifest = digits(name, serving={"replicas": 1}, bootstrap={"checkpoint": checkpoint})
        answer = self.plane.create(MODELS.format(namespace=NAMESPACE), manifest)
        assert answer.ok, answer.message

    def ready(self) -> int:
        """How many models are Ready."""
        items = self.plane.get(MODELS.format(namespace=NAMESPACE) + "?resourceVersion=0").body["items"]
        conditions = [{c["type"]: c["status"] for c in m.get("status", {}).get("conditions", ())} for m in items]
        return sum(c.get("Ready") == "True" for c in conditions)

    def resize(self, name: str, replicas: int) -> float:
        """Change a model; returns the time at which it was changed."""
        answer = self.plane.merge(
            f"{MODELS.format(namespace=NAMESPACE)}/{name}", {"spec": {"serving": {"replicas": replicas}}}
        )
        assert answer.ok, answer.message
        return time.time()

    # Who works in the background --------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Once a second; an operator that ended (an overloaded API server cost it the Lease) is started again, as its pod would be."""
        while not self._over.wait(1.0):
            if self.operator.process.poll() is not None:
                self.operator = self._start()
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(self.operator.process.pid)
                times = process.cpu_times()
                self.samples.append(Sample(time.time(), process.memory_info().rss / 2**20, times.user + times.system))

    def _evaluate(self) -> None:
        """Every evaluator of the fleet: the same numbers again and again, each time with a new sequence number."""
        sequence = 0
        while not self._over.wait(REPORT_EVERY_SECONDS):
            sequence += 1
            keys = [ModelKeys(NAMESPACE, name) for name in list(self.names)]
            raw: Any = self.redis.mget([key.config for key in keys]) if keys else []
            with self.redis.pipeline(transaction=False) as pipe:
                for key, orders in zip(keys, raw, strict=True):
                    if orders:
                        config = EvaluatorConfig.model_validate_json(orders)
                        said = played_report(config, sequence, int(time.time() * 1000))
                        pipe.hset(key.report, mapping={"seq": sequence, "json": said.model_dump_json()})
                pipe.execute()


@contextlib.contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Started, and gone afterwards."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
            stdout=subprocess.DEVNULL, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
        )  # fmt: skip
        stack.callback(lambda: (server.kill(), server.wait()))
        plane = stack.enter_context(running())
        plane.install_crd()
        plane.start_nodes()
        plane.new_namespace(NAMESPACE)
        made = Fleet(plane, folder, port)
        stack.callback(made.close)
        yield made
