"""`kubectl get ctm` alone tells what happens: in every phase of a model's life, and while something it stands on is broken.

    .venv/bin/python -m pytest tests/cluster/test_columns.py -s     prints the table of docs/guides/kubectl-get.md

One model lives through all of it once: operator process, API server, controllers, Redis and store are real, kwok plays the pods. Each row is
what kubectl printed; the page in the docs is compared with them word by word, without the age.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from continual_clients.objectstore import S3Store, open_store
from continual_clients.registry import Registry
from continual_contract.artifacts import StoreLayout
from continual_contract.errors import StoreUnavailableError
from control_plane import ControlPlane, die_with_parent, free_port, tool
from operators import until
from stories import SPEC, Story, digits

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/guides/kubectl-get.md"
TOLD_WITHIN_SECONDS = 30
LIMITED = {"rollout": {**SPEC["rollout"], "gate": {**SPEC["rollout"]["gate"], "requireApproval": True}}}
"""The last step waits for a person, so that it can be looked at."""
BAD = {"retraining": {"triggers": [{"schedule": "0 3 * * *", "timeZone": "Europe/Nowhere"}]}}
GOOD = {"retraining": {"triggers": [{"labels": 1_000_000}]}}


@dataclass
class Seen:
    """Rows as kubectl prints them, and how long a fault took to be told."""

    head: str = ""
    rows: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """From a fault to its word in Ready."""
    serving: dict[str, str] = field(default_factory=dict)
    """The condition Serving during each fault."""


class Shown(Story):
    """The chapters; `server` is the Redis that is stopped and emptied."""

    server: Any
    minio: Minio
    seen: Seen
    nudge: Callable[[], None]
    """Whether a fault is waited for, or looked at when it is there."""

    def create(self) -> None:
        self.seen = Seen()
        assert self.plane.apply(self.path, digits(**{**SPEC, **LIMITED})).ok
        self.wait("a training runs", self.trainer)
        self.progress(3, 20)
        self.note("the first training", "Running 3/20")
        self.train()
        self.wait("v1 serves", lambda: self.condition("Ready") == "True")
        self.note("v1 serves", "Promote")

    def canary(self) -> None:
        self.ask_for_training(1)
        self.wait("v2 is judged", lambda: self.block("canary").get("since"), self.look)
        self.note("v2 in the shadow", "Shadow")
        self.wait("v2 has its share", lambda: self.block("canary").get("weight") == 50, self.good)
        self.note("v2 answers half", "Step")
        self.annotate("continual.dev/approve", "v2")
        self.wait("v2 is promoted", lambda: self.block("probation").get("since"), self.good)
        self.note("v2 on probation", "Probation")
        self.wait("probation is over", lambda: not self.block("probation"), self.good)
        self.note("v2 is stable", "Pass")

    def rollback(self) -> None:
        self.ask_for_training(2)
        self.wait("v3 is judged", lambda: self.block("canary").get("since"), self.look)
        self.wait("v3 is out", lambda: not self.block("canary"), lambda: self.report(pairs=200, worse=6.0))
        self.note("v3 was rolled back", "Rollback")

    def faults(self) -> None:
        """Each is told, and taken back."""
        self.fault("a wrong spec", "InvalidSpec", lambda: self.change(BAD), lambda: self.change(GOOD))
        self.fault("Redis is down", "RedisUnavailable", self.server.stop, self.server.start)
        self.fault("the store is down", "StoreUnavailable", self.minio.stop, self.minio.start)
        self.fault("Redis lost its data", "StreamReset", self.empty, self.report)

    def fault(self, name: str, reason: str, begin: Callable[[], Any], end: Callable[[], Any]) -> None:
        began = time.monotonic()
        begin()
        self.wait(f"{name}: Ready says {reason}", lambda: self._ready_reason() == reason, self.nudge)
        self.seen.seconds[name] = time.monotonic() - began
        self.seen.serving[name] = self.condition("Serving")
        self.note(name, reason)
        end()
        self.wait(f"{name}: it is taken back", lambda: self.condition("Ready") == "True", self.report)

    # What happens and what is seen ------------------------------------------------------------------------------------------

    def good(self) -> None:
        self.report(pairs=200, held=6.0)

    def progress(self, epoch: int, epochs: int) -> None:
        """As a trainer reports it."""
        key = self.keys.progress(self.block("training")["job"])
        self.redis.hset(key, mapping={"phase": "train", "epoch": str(epoch), "epochs": str(epochs)})

    def change(self, spec: dict[str, Any]) -> None:
        assert self.plane.merge(self.path, {"spec": spec}).ok

    def empty(self) -> None:
        """FLUSHALL and FUNCTION FLUSH; the evaluator's report comes later."""
        self.redis.flushall()
        self.redis.function_flush()

    def _ready_reason(self) -> str:
        return next((c["reason"] for c in self.status().get("conditions", ()) if c["type"] == "Ready"), "")

    def note(self, phase: str, word: str) -> None:
        """The row, once this word is in it."""
        row = self.wait(f"{phase}: the row says {word}", lambda: self._row_with(word), self.look)
        self.seen.rows[phase] = row

    def _row_with(self, word: str) -> str:
        lines = self.plane.kubectl("get", "ctm", "-n", self.namespace).stdout.splitlines()
        if len(lines) != 2:
            return ""
        self.seen.head, row = (without_age(line, lines[0]) for line in lines)
        return row if word in row else ""

    def state(self) -> dict[str, Any]:
        return {}  # compared with no other life


class Minio:
    """An object store that can be stopped; its data stay."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.credentials = folder / "credentials.json"
        self.credentials.write_text(json.dumps({"access_key": "continual-test", "secret_key": "continual-test-secret"}))
        self.url = f"s3://models?endpoint=http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "MINIO_ROOT_USER": "continual-test",
            "MINIO_ROOT_PASSWORD": "continual-test-secret", "MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "GOMAXPROCS": "1",
        }  # fmt: skip
        command = [tool("minio"), "server", "--address", f"127.0.0.1:{self.port}", str(self.folder / "data")]
        with (self.folder / "minio.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
            )  # fmt: skip
        until("MinIO answers", self._answers, 60)

    def _answers(self) -> bool:
        """By its bucket: MinIO calls itself ready earlier, and answers 503 until it knows its users."""
        try:
            self.store()
        except StoreUnavailableError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def store(self) -> S3Store:
        store = open_store(self.url, self.credentials)
        assert isinstance(store, S3Store)
        store.ensure_bucket()
        return store


def without_age(line: str, head: str) -> str:
    """Columns one space apart at least; the last one, the age, is left out."""
    return line[: head.index("AGE")].rstrip()


def told(plane: ControlPlane, redis: Any, folder: Path, *chapters: str, patient: bool = False) -> Seen:
    """`patient`: nobody wakes the operator when something breaks."""
    minio = Minio(folder)
    minio.start()
    try:
        where = {"CONTINUAL_STORE_URL": minio.url, "CONTINUAL_STORE_CREDENTIALS_FILE": str(minio.credentials)}
        story = Shown(plane, redis, folder, **where)
        story.store = minio.store()
        story.registry = Registry(story.store, StoreLayout(story.namespace, story.name))
        story.server, story.minio, story.nudge = redis, minio, (lambda: None) if patient else story.look
        story.tell(chapters)
    finally:
        minio.stop()
    return story.seen


@pytest.fixture(scope="module")
def seen(nodes: ControlPlane, redis_of_module: Any, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return told(nodes, redis_of_module, tmp_path_factory.mktemp("columns"), "create", "canary", "rollback", "faults")


def cells(line: str) -> list[str]:
    return re.sub(r" (\d+/\d+)", r"·\1", line).split()


def table(seen: Seen) -> str:
    """The page's table: what happens, then the row."""
    width = max(map(len, seen.rows)) + 2
    rows = [f"{phase:{width}}{row}" for phase, row in {"": seen.head, **seen.rows}.items()]
    return "\n".join(line.rstrip() for line in rows)


def words(text: str) -> list[list[str]]:
    """Words by line: column widths follow the longest cell and are nobody's promise."""
    return [line.split() for line in text.splitlines() if line.strip()]


def test_every_phase_is_told_by_its_row(seen: Seen) -> None:
    """Training with its epochs, shadow, share, probation, promotion and rollback are told apart without another command."""
    assert cells(seen.head) == [
        "NAME", "READY", "REASON", "STABLE", "CANARY", "WEIGHT", "PROBATION", "ACCURACY", "LABELS", "LAG", "TRAINING", "LAST",
    ]  # fmt: skip
    rows = {phase: cells(row) for phase, row in seen.rows.items()}
    assert rows["the first training"] == ["digits", "False", "NoVersionYet", "0", "Running·3/20", "Train"]
    assert rows["v1 serves"] == ["digits", "True", "AsExpected", "v1", "0", "0", "Succeeded", "Promote"]
    assert rows["v2 in the shadow"] == [
        "digits",
        "True",
        "AsExpected",
        "v1",
        "v2",
        "0",
        "0",
        "0",
        "Succeeded",
        "Shadow",
    ]
    assert rows["v2 answers half"] == ["digits", "True", "AsExpected", "v1", "v2", "50", "0", "0", "Succeeded", "Step"]
    assert rows["v2 on probation"] == ["digits", "True", "AsExpected", "v2", "v2", "0", "0", "Succeeded", "Probation"]
    assert rows["v2 is stable"] == ["digits", "True", "AsExpected", "v2", "0", "0", "Succeeded", "Pass"]
    assert rows["v3 was rolled back"] == ["digits", "True", "AsExpected", "v2", "0", "0", "Succeeded", "Rollback"]
    assert len(set(map(tuple, rows.values()))) == len(rows)


def test_every_fault_has_its_reason_and_serving_tells_whether_answers_are_given(seen: Seen) -> None:
    """O8: Ready=False says what is broken; without a store answers go on, without Redis they do not."""
    assert {name: cells(seen.rows[name])[1:3] for name in seen.seconds} == {
        "a wrong spec": ["False", "InvalidSpec"], "Redis is down": ["False", "RedisUnavailable"],
        "the store is down": ["False", "StoreUnavailable"], "Redis lost its data": ["False", "StreamReset"],
    }  # fmt: skip
    assert seen.serving == {
        "a wrong spec": "True", "Redis is down": "False", "the store is down": "True", "Redis lost its data": "False",
    }  # fmt: skip


@pytest.mark.long
def test_every_fault_is_told_within_half_a_minute_though_nobody_asks(
    nodes: ControlPlane, redis_server: Any, tmp_path: Path
) -> None:
    """O8: an idle model is looked at often enough, and a look asks both Redis and the store."""
    seconds = told(nodes, redis_server, tmp_path, "create", "faults", patient=True).seconds
    print({name: f"{taken:.1f} s" for name, taken in seconds.items()})
    assert max(seconds.values()) <= TOLD_WITHIN_SECONDS


def test_the_page_shows_what_kubectl_prints(seen: Seen) -> None:
    """The outputs in the docs are from this run, but for the age."""
    print(table(seen))
    [block] = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert words(block) == words(table(seen))
