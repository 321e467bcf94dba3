"""The embedded Redis under the chart's ACL file: every component does its whole work as its user, and nothing of the others'.

A function runs with its caller's rights, so only running the real components shows that the rules suffice; what was refused to anybody
stands in the server's ACL LOG, which must be empty at the end.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from chart_rendering import PASSWORDS, users_acl
from chart_tools import until
from chart_worlds import inference_tier
from continual_clients.environment import WorkerEnvironment
from continual_clients.objectstore import FileStore
from continual_clients.redis import check, connect_url, ensure_functions
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import StoreLayout, TrainingInputs
from continual_contract.config import EvaluatorConfig, ServedVersion
from continual_contract.functions import (
    configure_call,
    enqueue_call,
    parse_enqueue,
    parse_survey,
    replay_call,
    survey_call,
    wipe_call,
)
from continual_contract.ids import EntryId
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from continual_operator.rehearsal import Rehearsal
from continual_operator.sweeper import sweep
from continual_workers.evaluation.process import Evaluator
from continual_workers.streaming.reaper import ReapOptions, reap_once
from continual_workers.training import __main__ as training

KEYS = ModelKeys("default", "digits")
ADMIN_PASSWORD = "admin-of-the-test"
ADMIN = f"user admin on #{hashlib.sha256(ADMIN_PASSWORD.encode()).hexdigest()} ~* &* +@all"
"""The test itself looks at everything; no such user is in the chart."""


@dataclass
class Users:
    """A redis-server with the chart's users."""

    server: Any
    folder: Path
    clients: list[redis.Redis]

    def password_file(self, name: str) -> Path:
        path = self.folder / f"password-{name}"
        path.write_text(PASSWORDS.get(name, ADMIN_PASSWORD))
        return path

    def connect(self, name: str) -> redis.Redis:
        client = connect_url(self.server.url, name, self.password_file(name))
        self.clients.append(client)
        return client

    def url(self, name: str) -> str:
        return str(self.server.url).replace("redis://", f"redis://{name}:{PASSWORDS.get(name, ADMIN_PASSWORD)}@")

    def environment(self, name: str) -> dict[str, str]:
        return {settings.REDIS_USERNAME: name, settings.REDIS_PASSWORD_FILE: str(self.password_file(name))}

    def refused(self) -> list[str]:
        """What was refused to whom so far, as the server noted it."""
        log: Any = self.connect("admin").acl_log()
        return [f"{e['username']}: {e['object']} ({e['reason']}, {e['context']})" for e in log]


@pytest.fixture
def users(redis_server: Any, tmp_path: Path) -> Iterator[Users]:
    """The server starts again with the rendered file, as the chart starts it, and one more user for the test."""
    acl = tmp_path / "users.acl"
    acl.write_text(f"{users_acl()}{ADMIN}\n")
    redis_server.stop()
    made = Users(redis_server, tmp_path, [])
    _start(redis_server, acl)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()


def _start(server: Any, acl: Path) -> None:
    """`RedisServer.start` waits for a PING without a password; here nobody gets an answer without one."""

    def answers() -> bool:
        try:
            with closing(redis.Redis(port=server.port, username="admin", password=ADMIN_PASSWORD)) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    server._wait_until_ready = lambda: until("the server answers", answers)
    server.start("--aclfile", str(acl), "--maxmemory-policy", "noeviction")


def send(call: Any, client: redis.Redis) -> Any:
    return client.execute_command(*call.command())


# The whole work of everybody ---------------------------------------------------------------------------------------------------


def test_the_operator_takes_a_version_through_its_whole_life_as_its_user(users: Users) -> None:
    """Bootstrap, shadow, shares, promotion, probation, rollback, deletion and sweep by the operator's own core."""
    check(users.connect("operator"), users.server.url)
    play = Rehearsal(users.url("operator"))
    with closing(play):
        play.redis.close()
        play.redis = redis.Redis.from_url(users.url("evaluator"), protocol=2)  # the reports are the evaluator's
        play.serve_first()
        assert play.reach_probation() == "v2"
        play.report(pairs=60, worse=5.0)
        play.settle()
        assert play.shares == {"v1": 10_000}
        assert users.connect("operator").hgetall("ctm-installation:local")
        play.cluster.models.clear()
        assert play.wait_for(sweep(play.deps)) == ["uid-model"]
    assert users.refused() == []
    assert users.connect("admin").keys("*") == []


@pytest.fixture
def bench(users: Users) -> Iterator[Any]:
    """Inference workers as processes, under their user; the test routes as the operator."""
    registry = Registry(FileStore(users.folder / "store"), StoreLayout("default", "digits"))
    made = inference_tier.Bench(users.server.url, users.connect("operator"), users.folder, registry)
    ensure_functions(made.client)
    try:
        yield made
    finally:
        made.close()


def ask(gateway: redis.Redis, numbers: range, fields: dict[str, bytes] | None = None) -> list[str]:
    """Requests as the gateway sends them, each under the caller's own key."""
    ids = []
    for n in numbers:
        sent: dict[str | bytes, Any] = dict(fields or {"d": inference_tier.pixels(n)})
        ids.append(str(parse_enqueue(send(enqueue_call(KEYS, sent, f"caller-{n}", 1000), gateway)).entry_id))
    return ids


def orders(operator: redis.Redis) -> None:
    """The evaluator's orders, fenced, as the operator writes them."""
    config = EvaluatorConfig(
        uid="uid", token=1, sequence=1, classes=inference_tier.CLASSES, input=inference_tier.SHAPE, salt="audit",
        window_seconds=60.0, audit_percent=100.0, holdout_percent=10.0,
        versions=(ServedVersion(version="v1", digest="sha256:1", role="stable"),),
    )  # fmt: skip
    send(configure_call(KEYS, "uid", 1, config.model_dump_json()), operator)


def test_requests_labels_canary_and_training_work_under_their_users(users: Users, bench: Any) -> None:
    """Gateway, two workers of two versions, evaluator and trainer: answers, a dead letter and its replay, an abandoned entry, labels, reaping."""
    operator, gateway = users.connect("operator"), users.connect("gateway")
    for version in ("v1", "v2"):
        bench.start(bench.publish(inference_tier.build_onnx()), version, **users.environment("inference")).wait_ready()
    bench.route([("v1", 10_000)])
    evaluator = Evaluator(users.connect("evaluator"), bench.registry.store, KEYS, reports_every_seconds=0.0)
    evaluator.start()
    orders(operator)
    sent = ask(gateway, range(40))
    [bad] = ask(gateway, range(40, 41), {"d": b"short"})
    bench.wait(lambda: len(bench.predictions()) == 40 and len(bench.dead()) == 1)
    letter = gateway.xrange(KEYS.dead)[0][0].decode()
    send(replay_call(KEYS, letter), gateway)
    bench.wait(lambda: len(bench.dead()) == 1 and gateway.xrange(KEYS.dead)[0][0].decode() != letter)
    _abandon(users.connect("inference"), gateway)
    bench.wait(lambda: len(bench.predictions()) == 45)
    for request_id, n in zip(sent, range(40), strict=True):
        gateway.xadd(KEYS.labels, {"r": request_id, "c": f"class {n % 10}", "by": "ann", "src": "audit"})
    gateway.xadd(KEYS.labels, {"r": "key:caller-1", "c": "class 1", "by": "bob", "src": "audit"})
    until("the evaluator has read all labels", lambda: evaluator.step() and _labels(gateway) == 40)
    bench.route([("v1", 5_000), ("v2", 5_000)], shadow=["v1", "v2"], shadow_bp=10_000, salt="s")
    ask(gateway, range(100, 140))
    bench.wait(lambda: len(bench.predictions()) == 85)
    bench.route([("v1", 10_000)], heirs={"v2": "v1"})
    _reap(users.connect("evaluator"))
    _train(users, operator)
    survey = parse_survey(send(survey_call(KEYS), operator))
    assert {state.version for state in survey.values()} == {"v1"}
    assert send(wipe_call(KEYS, "uid", 1), operator) == 0
    assert [worker.terminate() for worker in bench.workers] == [0, 0]
    assert bad
    assert users.refused() == []


def _labels(gateway: redis.Redis) -> int:
    raw: Any = gateway.hget(KEYS.report, "json")
    report = Report.model_validate_json(raw) if raw else None
    return report.versions["v1"].labels if report and "v1" in report.versions else 0


def _abandon(inference: redis.Redis, gateway: redis.Redis) -> None:
    """Five entries are read by a worker that is never heard of again; the living one takes them over."""
    group = inference.get(KEYS.routing)
    assert group
    reader = threading.Thread(
        target=inference.xreadgroup, args=("v1@1", "v1/ghost", {KEYS.requests: ">"}), kwargs={"count": 5, "block": 900}
    )
    reader.start()
    ask(gateway, range(200, 205))
    reader.join()


def _reap(evaluator: redis.Redis) -> None:
    """Until the canary's group is gone; consumers nobody hears of any more are forgotten."""
    options = ReapOptions(consumer_idle_seconds=0.0, requests_max_age_seconds=0.0, labels_through=EntryId("1-0"))
    until("the canary's group is reaped", lambda: len(reap_once(evaluator, KEYS, options).groups) == 1)


def _train(users: Users, operator: redis.Redis) -> None:
    """What a training writes into Redis: its progress, which the operator reads."""
    inputs = TrainingInputs(
        namespace="default", model="digits", mode="bootstrap", architecture="mlp", input=inference_tier.SHAPE,
        classes=inference_tier.CLASSES,
    )  # fmt: skip
    named = {
        settings.NAMESPACE: "default", settings.MODEL: "digits", settings.REDIS_URL: users.server.url,
        settings.STORE_URL: f"file://{users.folder / 'store'}", **users.environment("trainer"),
    }  # fmt: skip
    report = training._reporter(WorkerEnvironment.from_env(named), inputs)
    report({"phase": "Learning", "epoch": "1"})
    assert operator.hget(KEYS.progress(inputs.job_hash()), "epoch") == b"1"
