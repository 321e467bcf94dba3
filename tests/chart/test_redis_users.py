"""The embedded Redis under the chart's ACL file: every component does its whole work as its user, and nothing of the others'.

A function runs with its caller's rights, so only running the real components shows that the rules suffice; what was refused to anybody
stands in the server's ACL LOG, which must be empty at the end.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import closing, suppress
from typing import Any

import pytest
import redis
from chart_redis import Users
from chart_rendering import COMPONENTS, PASSWORDS, WITH_PASSWORDS, one, render, users_acl
from chart_tools import until
from chart_worlds import inference_tier
from continual_clients.environment import WorkerEnvironment
from continual_clients.objectstore import FileStore
from continual_clients.redis import check, ensure_functions
from continual_contract import settings
from continual_contract.artifacts import TrainingInputs
from continual_contract.config import EvaluatorConfig, ServedVersion
from continual_contract.functions import (
    Answered,
    Author,
    Section,
    commit_call,
    configure_call,
    enqueue_call,
    parse_enqueue,
    parse_survey,
    replay_call,
    route_call,
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
from redis.backoff import NoBackoff
from redis.retry import Retry

KEYS = ModelKeys("default", "digits")


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


# What each must not do -----------------------------------------------------------------------------------------------------

PLACES = {
    "requests": KEYS.requests, "predictions": KEYS.predictions, "labels": KEYS.labels, "dead": KEYS.dead,
    "routing": KEYS.routing, "serve": KEYS.serve, "report": KEYS.report, "config": KEYS.config, "alarms": KEYS.alarms,
    "evaluator": KEYS.evaluator + ":head", "answers": KEYS.answers(1), "seen": KEYS.seen("k"), "progress": KEYS.progress("j"),
    "history": KEYS.history("history"), "audit": KEYS.audit, "corrections": KEYS.corrections, "labelled": KEYS.labelled,
    "ingested": KEYS.ingested, "roll": "ctm-installation:here/continual", "ticket": "ctm:ticket:x", "foreign": "somebody:else",
}  # fmt: skip
"""Every kind of key; `foreign` is another application's."""
CHANGES: dict[str, tuple[str, ...]] = {
    "set": ("SET", "{}", "v"), "hset": ("HSET", "{}", "f", "v"), "hdel": ("HDEL", "{}", "f"), "del": ("DEL", "{}"), "unlink": ("UNLINK", "{}"),
    "expire": ("EXPIRE", "{}", "1"), "xadd": ("XADD", "{}", "*", "f", "v"), "xdel": ("XDEL", "{}", "1-1"), "xtrim": ("XTRIM", "{}", "MAXLEN", "1"),
    "xack": ("XACK", "{}", "g", "1-1"), "group": ("XGROUP", "CREATE", "{}", "g", "0"), "zadd": ("ZADD", "{}", "1", "m"),
    "hincrby": ("HINCRBY", "{}", "f", "1"), "hsetnx": ("HSETNX", "{}", "f", "v"), "rename": ("RENAME", "{}", "other"),
}  # fmt: skip
LOOKS: dict[str, tuple[str, ...]] = {
    "get": ("GET", "{}"), "hget": ("HGET", "{}", "f"), "xrange": ("XRANGE", "{}", "-", "+"), "xreadgroup": ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "{}", ">"),
    "zrange": ("ZRANGE", "{}", "0", "1"), "dump": ("DUMP", "{}"),
}  # fmt: skip
MAY_CHANGE = {
    "operator": "set routing config, hset serve roll, hdel roll, group requests, del * , unlink *",
    "inference": "xack requests, hset answers, hsetnx answers, expire answers, xadd predictions dead, hincrby alarms",
    "evaluator": (
        "set evaluator routing, hset evaluator report serve, hdel evaluator serve, del evaluator history, hincrby alarms, "
        "xadd requests dead history, xdel dead, xtrim requests predictions labels, group requests"
    ),
    "trainer": "hset progress, expire progress",
    "gateway": (
        "set seen ticket, hset corrections labelled ingested, hdel corrections labelled ingested answers, del corrections labelled ingested, "
        "expire corrections labelled ingested, zadd corrections labelled ingested, xadd requests labels audit, xdel dead"
    ),
}
"""What a user may change directly, verb by verb; `*` is every key of a model."""
MAY_LOOK = {
    "operator": {"get", "hget", "xrange"},
    "inference": {"get", "hget", "xrange", "xreadgroup"},
    "evaluator": {"get", "hget", "xrange"},
    "trainer": set[str](),
    "gateway": {"get", "hget", "xrange", "zrange"},
}
NEVER = (
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("KEYS", "*"), ("ACL", "LIST"), ("ACL", "SETUSER", "x"),
    ("SHUTDOWN",), ("DEBUG", "SLEEP", "1"), ("EVAL", "return 1", "0"), ("FUNCTION", "FLUSH"), ("FUNCTION", "DELETE", "continual_v1"),
    ("MONITOR",), ("REPLICAOF", "h", "1"), ("SAVE",), ("SWAPDB", "0", "1"), ("CLIENT", "KILL", "ID", "1"), ("CLIENT", "PAUSE", "1"),
    ("MODULE", "LIST"), ("MIGRATE", "h", "1", "k", "0", "1"), ("SCRIPT", "FLUSH"), ("SUBSCRIBE", "c"), ("PUBLISH", "c", "m"),
)  # fmt: skip


def tried(admin: redis.Redis, user: str, command: tuple[str, ...]) -> bool:
    """Whether the server would let the user send it."""
    return bool(admin.execute_command("ACL", "DRYRUN", user, *command) == b"OK")  # type: ignore[no-untyped-call]  # unannotated in redis-py


def spelled(rules: str) -> set[str]:
    """`verb key key, verb key` as `verb key` each; `*` stands for every key of a model."""
    of_models = [place for place in PLACES if place not in {"roll", "ticket", "foreign"}]
    found = set()
    for part in rules.split(","):
        verb, *places = part.split()
        found |= {f"{verb} {place}" for place in (of_models if places == ["*"] else places)}
    return found


@pytest.mark.parametrize("user", COMPONENTS)
def test_a_user_changes_its_own_keys_and_no_others(users: Users, user: str) -> None:
    """Every changing command on every kind of key, asked of the server itself."""
    admin = users.connect("admin")
    open_to_it = {
        f"{verb} {place}"
        for verb, command in CHANGES.items()
        for place, key in PLACES.items()
        if tried(admin, user, tuple(word.format(key) for word in command))
    }
    assert open_to_it ^ spelled(MAY_CHANGE[user]) == set()


@pytest.mark.parametrize("user", COMPONENTS)
def test_a_user_looks_with_its_own_commands_and_never_at_other_applications(users: Users, user: str) -> None:
    """Reading is narrower than it seems: by command, and never outside of models."""
    admin = users.connect("admin")
    found = {
        (verb, place)
        for verb, command in LOOKS.items()
        for place, key in PLACES.items()
        if tried(admin, user, tuple(word.format(key) for word in command))
    }
    assert {verb for verb, _ in found} == MAY_LOOK[user]
    assert "foreign" not in {place for _, place in found}
    assert {place for _, place in found if place in {"roll", "ticket"}} == set()


@pytest.mark.parametrize("user", ["probe", *COMPONENTS])
def test_nobody_may_administer_the_server(users: Users, user: str) -> None:
    """Only the operator loads functions, and not even it deletes them."""
    admin = users.connect("admin")
    assert [command for command in NEVER if tried(admin, user, command)] == []
    assert tried(admin, user, ("FUNCTION", "LOAD", "x")) == (user == "operator")
    assert tried(admin, user, ("PING",))


def test_without_a_password_or_with_a_wrong_one_nothing_is_answered(users: Users) -> None:
    """The default user is off; the probe's user needs none and may only ping."""
    once = {"port": users.server.port, "retry": Retry(NoBackoff(), 0)}
    for client in (
        redis.Redis(**once),
        redis.Redis(**once, username="operator", password="wrong"),
        redis.Redis(**once, username="operator", password=PASSWORDS["trainer"]),
    ):
        with closing(client), pytest.raises(redis.AuthenticationError):
            client.ping()
    with closing(redis.Redis(**once, username="probe", password="none")) as probe:
        assert probe.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            probe.get(KEYS.routing)


def written(users: Users) -> dict[bytes, Any]:
    """Everything in the server: entries of streams (their groups count reads anew after a restart), dumps of the rest."""
    admin = users.connect("admin")
    streams = {key.encode() for key in (KEYS.requests, KEYS.predictions)}
    return {key: repr(admin.xrange(key)) if key in streams else admin.dump(key) for key in admin.keys("*")}


@pytest.mark.parametrize("kill", [False, True])
def test_what_functions_wrote_survives_a_restart(users: Users, kill: bool) -> None:
    """Redis replays its append-only file as the default user, transactions under its rights: off for people, it must be allowed everything."""
    work_a_little(users)
    before = written(users)
    assert {KEYS.requests.encode(), KEYS.routing.encode(), KEYS.predictions.encode()} <= set(before)
    users.connect("admin").config_set(
        "appendfsync", "always"
    )  # else a running fsync may hold back what a kill then costs
    users.server.restart(kill9=kill)
    assert written(users) == before
    assert "NOPERM" not in (users.server.dir / "redis.log").read_text()
    assert not ensure_functions(users.connect("operator"))


def test_a_default_user_without_rights_would_lose_it(users: Users) -> None:
    """Mutation check: `user default off` alone, as it is usually written."""
    acl = users.folder / "users.acl"
    acl.write_text(acl.read_text().replace("user default off ~* &* +@all", "user default off"))
    users.server.restart()
    work_a_little(users)
    assert KEYS.predictions.encode() in written(users)
    users.server.restart()
    assert KEYS.predictions.encode() not in written(users)


def test_redis_starts_as_the_chart_starts_it(users: Users) -> None:
    """The rendered arguments, placed on this machine: append-only, no eviction, the users of the file; the readiness command answers PONG."""
    [container] = one(render(WITH_PASSWORDS), "StatefulSet", "continual-redis")["spec"]["template"]["spec"][
        "containers"
    ]
    users.server.stop()
    here = {"0.0.0.0": "127.0.0.1", "6379": str(users.server.port), "/data": str(users.server.dir)}
    acl = str(users.folder / "users.acl")
    placed = [here.get(word, acl if word.endswith("users.acl") else word) for word in container["args"]]
    users.server.start(*placed)
    config = users.connect("admin").config_get
    assert config("appendonly", "appendfsync", "maxmemory-policy", "save") == {
        "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": "",
    }  # fmt: skip
    assert config("maxmemory") == {"maxmemory": "536870912"}
    ready = container["readinessProbe"]["exec"]["command"]
    told = [*ready[:-1], ready[-1].replace("redis-cli", f"redis-cli -p {users.server.port}")]
    assert subprocess.run(told, check=False).returncode == 0
    users.server.stop()
    assert subprocess.run(told, check=False, capture_output=True).returncode != 0


def test_a_function_gives_nobody_more_than_its_user_has(users: Users) -> None:
    """Everybody may call functions; what these do is still judged: a worker cannot route, reap or enqueue through them."""
    ensure_functions(users.connect("operator"))
    worker = users.connect("inference")
    for call in (
        route_call(KEYS, 0, 9, "evil", [("v9", 10_000)]),
        enqueue_call(KEYS, {"d": b"x"}),
        configure_call(KEYS, "evil", 9, "{}"),
    ):
        with pytest.raises(redis.ResponseError, match="The user executing the script can't"):
            send(call, worker)
    assert users.connect("admin").keys("*") == []


@pytest.mark.parametrize("left_out", ["+xack", "+hsetnx", "+xgroup|create", "+fcall", "+incrby", "%R~ctm:{*}:routing"])
def test_the_stories_notice_a_rule_that_is_missing(users: Users, left_out: str) -> None:
    """Mutation check: the same file without one rule, and somebody is refused."""
    admin = users.connect("admin")
    whole = users_acl()
    assert left_out in whole
    for line in whole.replace(f" {left_out}", "").splitlines()[2:]:
        _, name, *rules = line.split()
        text = " ".join(rules)
        outside, selectors = (
            text.partition(" (")[0].split(),
            [f"({part.rstrip(') ')})" for part in text.split(" (")[1:]],
        )
        admin.execute_command("ACL", "SETUSER", name, "reset", *outside, *selectors)  # type: ignore[no-untyped-call]  # unannotated in redis-py
    work_a_little(users)
    assert users.refused() != []


def work_a_little(users: Users) -> None:
    """The shortest way through every component; what is refused is noted by the server, not raised here."""
    operator, worker, gateway = (users.connect(name) for name in ("operator", "inference", "gateway"))
    with suppress(redis.ResponseError):
        ensure_functions(operator)
        send(route_call(KEYS, 0, 1, "uid", [("v1", 10_000)]), operator)
        entry = parse_enqueue(send(enqueue_call(KEYS, {"d": b"x"}), gateway)).entry_id
        assert worker.get(KEYS.routing)
        worker.xreadgroup("v1@1", "v1/a", {KEYS.requests: ">"}, count=1)
        said = Section("o", "stable", "owner", [Answered(entry, entry, "1", 0.9)])
        send(commit_call(KEYS, "v1@1", Author("v1", "abcdef", 100), [said]), worker)
    with suppress(redis.ResponseError):
        Evaluator(users.connect("evaluator"), FileStore(users.folder / "store"), KEYS).start()
