"""A shortened story of one model through `continual local`, with kill -9 at five points, each of another part.

Serving → training → shadow → canary → probation: in each phase one of `local up`, Redis, the inference worker, the evaluator and the
trainer is killed, at a seeded moment. The story must go on to its end, and the books, kept from outside, must balance.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import yaml
from continual_cli.local.files import read_json
from continual_cli.local.paths import Home
from continual_cli.local.processes import Running, Slot
from continual_cli.local.state import LocalState
from continual_clients.guard import check_model
from continual_clients.objectstore import open_store
from continual_clients.redis import connect_url
from continual_clients.registry import Registry
from continual_contract import functions
from continual_contract.artifacts import CheckpointManifest, StoreLayout
from continual_contract.keys import ModelKeys

KEYS = ModelKeys("default", "digits")
PHASES = ("serving", "training", "shadow", "canary", "probation")
SPEC = """
model:
  architecture: mlp
  input: {height: 28, width: 28, channels: 1}
  classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
bootstrap: {dataset: {objectKey: datasets/digits.npz, format: npz}}
serving: {replicas: 1}
feedback: {window: 8s, auditPercent: 100, holdoutPercent: 10}
retraining: {triggers: [{labels: 1000000}], cooldown: 1s, timeout: 3m}
rollout:
  steps: [{weight: 0, hold: 3s}, {weight: 50, hold: 3s}]
  offlineGate: {maxDrop: 0.3, maxClassDrop: 0.9, maxNegativeFlips: 0.3, maxDropFromFirst: 0.9}
  gate: {margin: 0.15, worstClassMargin: 0.5, minLabels: 40, minDuration: 3s, minCoverage: 50}
  deadline: 120s
  probation: {minDuration: 4s, minLabels: 40, deadline: 60s}
"""


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1 797 real digits, 28x28 uint8, and their classes."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images / 16 * 255).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(image).resize((28, 28))) for image in small])
    return images[..., None], data.target.astype(np.int64)


class Town:
    """One home, driven as a person with a terminal drives it."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.state = LocalState(self.home)
        self.manifest = root.parent / "digits.yaml"
        self._env = {**os.environ, "CONTINUAL_HOME": str(root), "OMP_NUM_THREADS": "1"}

    def write_manifest(self, **serving: Any) -> None:
        document = {"apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "metadata": {"name": "digits"}}
        spec = yaml.safe_load(SPEC)
        spec["serving"] |= serving
        self.manifest.write_text(yaml.safe_dump(document | {"spec": spec}))

    def prepare(self) -> None:
        self.home.create()
        images, labels = digits()
        folder = self.home.store / "datasets"
        folder.mkdir()
        np.savez(folder / "digits.npz", image=images[:600], label=labels[:600])
        self.write_manifest()

    def declare(self, **rollout: object) -> None:
        """Change `spec.rollout` in the manifest, before the model is applied."""
        document = yaml.safe_load(self.manifest.read_text())
        document["spec"]["rollout"] |= rollout
        self.manifest.write_text(yaml.safe_dump(document))

    def verb(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "continual_cli", *words],
            env=self._env, capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.story()}"
        return done.stdout + done.stderr

    def up(self, *options: str) -> None:
        self.verb("local", "up", "--detach", "--timeout", "120", *options)

    def status(self) -> dict[str, Any]:
        return dict((self.state.find_model("digits") or {}).get("status") or {})

    def phase(self) -> str:
        """Where the story is: read from the status, as `continual get` does."""
        status = self.status()
        if (status.get("stable") or {}).get("version") == "v2":
            return "probation" if status.get("probation") else "done"
        if canary := status.get("canary"):
            return "canary" if canary.get("weight") else "shadow"
        return "training" if self.pid("trainer") else "serving"

    def wait(self, claim: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{self.story()}"
            time.sleep(0.1)

    def story(self) -> str:
        log = self.home.logs / "operator" / "operator.log"
        lines = log.read_text().splitlines()[-30:] if log.exists() else []
        return json.dumps(self.status().get("conditions"), indent=1) + "\n" + "\n".join(line[:400] for line in lines)

    def client(self) -> redis.Redis:
        endpoints = self.state.endpoints()
        assert endpoints.redis_password_file
        return connect_url(endpoints.redis_url, password_file=Path(endpoints.redis_password_file))

    def pid(self, part: str) -> int | None:
        """Pid of `up`, `redis`, or of the newest running process of a component."""
        if part == "up":
            return (read_json(self.home.up_state) or {}).get("pid")
        if part == "redis":
            return _running(self.home.run / "redis", Slot(self.home.run / "redis").latest())
        for path in sorted(self.home.objects("Pod").glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True):
            record = (read_json(path) or {}).get("local", {})
            if record.get("component") == part and (
                pid := _running(self.home.pod_folder(path.stem), record["attempt"])
            ):
                return pid
        return None

    def kill(self, part: str) -> None:
        """SIGKILL; `local up` is started again by hand, everything else must come back by itself."""
        if part == "redis":  # a running fsync may hold back what `everysec` has acknowledged
            self.client().config_set("appendfsync", "always")
        pid = self.pid(part)
        assert pid, f"{part} does not run\n{self.story()}"
        os.kill(pid, signal.SIGKILL)
        if part == "up":
            self.up()


def _running(folder: Path, attempt: int) -> int | None:
    seen = Slot(folder).observe(attempt)
    return seen.pid if isinstance(seen, Running) else None


class Feeder(threading.Thread):
    """Sends digits and, a second later, their labels; keeps the books of what was accepted."""

    def __init__(self, town: Town, rate: float) -> None:
        super().__init__(daemon=True)
        self._town, self._gap = town, 1.0 / rate
        self._end = threading.Event()
        self.accepted: dict[str, str] = {}
        images, labels = digits()
        self._images, self._labels = images[600:], labels[600:]

    def run(self) -> None:
        client, number, due = self._town.client(), 0, deque[tuple[float, str]]()
        while not self._end.is_set():
            index = number % len(self._images)
            request = self._repeat(lambda number=number, index=index: self._enqueue(client, number, index))
            if request is not None:
                self.accepted[request] = str(self._labels[index])
                due.append((time.monotonic() + 1.0, request))
            while due and due[0][0] < time.monotonic():
                labelled = due.popleft()[1]
                self._repeat(lambda labelled=labelled: client.xadd(KEYS.labels, self._label(labelled)))
            number += 1
            self._end.wait(self._gap)
        client.close()

    def stop(self) -> None:
        self._end.set()
        self.join(20)

    def _enqueue(self, client: redis.Redis, number: int, index: int) -> str:
        fields = {"d": self._images[index].tobytes(), "k": f"unit-{number}"}
        call = functions.enqueue_call(KEYS, fields, f"story-{number}", 100_000, 3600)
        reply = client.fcall(call.name, len(call.keys), *call.keys, *call.args)
        return (reply[0] if isinstance(reply, list) else reply).decode()

    def _label(self, request: str) -> dict[str, str]:
        return {"r": request, "c": self.accepted[request], "by": "t", "src": "audit", "t": str(int(time.time() * 1000))}

    def _repeat(self, call: Callable[[], Any]) -> Any:
        """Until it is answered: the caller's key makes a repetition harmless."""
        while not self._end.is_set():
            try:
                return call()
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(0.1)
        return None


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path / "h")
    town.prepare()
    yield town
    town.verb("local", "down", "--timeout", "20")


def answers(client: redis.Redis) -> Counter[str]:
    """How often each request was answered or died."""
    counted: Counter[str] = Counter()
    for stream in (KEYS.predictions, KEYS.dead):
        counted.update(fields[b"r"].decode() for _, fields in client.xrange(stream))
    return counted


def kill_plan(seed: int) -> dict[str, str]:
    """Which part dies in which phase: every part once; the trainer when it runs."""
    parts = ["up", "redis", "inference", "evaluator"]
    random.Random(seed).shuffle(parts)
    others = [phase for phase in PHASES if phase != "training"]
    return {"training": "trainer"} | dict(zip(others, parts, strict=True))


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.long) for s in range(2, 6))])
def test_the_story_goes_on_through_five_kills_and_the_books_balance(town: Town, seed: int) -> None:
    """lost 0, duplicates 0, one training per data set, and v2 is stable in the end."""
    plan, draw = kill_plan(seed), random.Random(seed)
    began = time.monotonic()
    print(f"seed {seed}: {plan}")
    town.up("-f", str(town.manifest), "--wait")
    feeder = Feeder(town, rate=40)
    feeder.start()
    try:
        for phase in PHASES:
            town.wait(lambda phase=phase: reached(town, phase), f"phase {phase}")
            time.sleep(draw.uniform(0.0, 1.0))
            print(f"{time.monotonic() - began:.1f} s: {phase}, kill -9 of {plan[phase]}")
            town.kill(plan[phase])
            if phase == "serving":
                town.wait(lambda: released(town) >= 150, "labelled samples")
                town.verb("retrain", "digits")
        town.wait(lambda: town.phase() == "done", "v2 out of probation")
        print(f"{time.monotonic() - began:.1f} s: done")
    finally:
        feeder.stop()
    check_books(town, feeder)
    assert len(list(open_store(f"file://{town.home.store}").list("models/default/digits/checkpoints/"))) == 2


@pytest.mark.long
def test_an_int8_version_passes_every_gate_beside_a_live_float32_one(town: Town) -> None:
    """`serving.precision: int8` for a model that serves: its next version is quantised, shadowed, canaried and promoted by evidence."""
    town.up("-f", str(town.manifest), "--wait")
    feeder = Feeder(town, rate=40)
    feeder.start()
    try:
        town.wait(lambda: released(town) >= 150, "labelled samples")
        town.write_manifest(precision="int8")
        town.verb("apply", "-f", str(town.manifest))
        town.verb("retrain", "digits")
        town.wait(lambda: town.phase() == "done", "v2 out of probation")
    finally:
        feeder.stop()
    check_books(town, feeder)
    first, second = versions(town)
    assert (first.precision, second.precision) == ("float32", "int8")
    served = store_of(town).get_blob(second.onnx)
    assert {"QuantizeLinear", "DequantizeLinear"} <= check_model(served).operators
    answered = Counter(fields[b"v"].decode() for _, fields in town.client().xrange(KEYS.predictions))
    assert min(answered["v1"], answered["v2"]) >= 20
    told = [line for line in json.loads(town.verb("decisions", "-o", "json")) if line["version"] == "v2"]
    assert {"Accept", "Shadow", "Step", "Promote"} <= {line["action"] for line in told}
    assert [line["by"] for line in told if line["action"] == "Promote"] == ["operator"]


def store_of(town: Town) -> Registry:
    return Registry(open_store(f"file://{town.home.store}"), StoreLayout("default", "digits"))


def versions(town: Town) -> list[CheckpointManifest]:
    """The manifests, parents first."""
    registry = store_of(town)
    return sorted((registry.manifest(digest) for digest in registry.digests()), key=lambda m: m.parent is not None)


def reached(town: Town, phase: str) -> bool:
    now = town.phase()
    return now == "done" or PHASES.index(now) >= PHASES.index(phase)


def released(town: Town) -> int:
    """Training samples in the evaluator's report."""
    try:
        raw = town.client().hget(KEYS.report, "json")
    except (redis.ConnectionError, redis.TimeoutError):
        return 0
    return int(json.loads(raw)["released_samples"]) if raw else 0


def test_observing_decides_in_the_dark_and_acting_on_the_same_evidence_promotes(town: Town) -> None:
    """mode: Observe — the verdict is in the ledger with `acted: false`, every answer is v1's; with Act the very same candidate is promoted."""
    town.declare(mode="Observe")
    town.up("-f", str(town.manifest), "--wait")
    feeder = Feeder(town, rate=40)
    feeder.start()
    try:
        town.wait(lambda: released(town) >= 150, "labelled samples")
        town.verb("retrain", "digits")
        town.wait(lambda: bool((town.status().get("canary") or {}).get("observedVerdict")), "an observed verdict")
        time.sleep(3)
        assert town.status()["canary"]["observedVerdict"] == "Promote/AccuracyHeld", town.story()
        assert (town.status()["stable"]["version"], owners(town)) == ("v1", {"v1"})
        lines = [line for line in json.loads(town.verb("decisions", "-o", "json")) if line["version"] == "v2"]
        assert [line["reason"] for line in lines if not line["acted"]] == ["AccuracyHeld"]
        assert town.phase() == "shadow"
        town.state.update_model("digits", acting)
        town.wait(lambda: town.phase() in {"probation", "done"}, "v2 promoted")
    finally:
        feeder.stop()
    check_books(town, feeder)


def acting(model: dict[str, Any]) -> dict[str, Any]:
    model["spec"]["rollout"]["mode"] = "Act"
    return model


def owners(town: Town) -> set[str]:
    """Versions that ever published an answer."""
    return {fields[b"v"].decode() for _, fields in town.client().xrange(KEYS.predictions)}


def check_books(town: Town, feeder: Feeder) -> None:
    """Every accepted request has exactly one answer."""
    client = town.client()
    town.wait(lambda: not set(feeder.accepted) - set(answers(client)), "every accepted request is answered", 60)
    counted = answers(client)
    assert len(feeder.accepted) > 500
    assert [r for r, n in counted.items() if n > 1] == []
    assert set(counted) == set(feeder.accepted)
    assert client.xlen(KEYS.dead) == 0
