"""Redis itself fails: killed, full, emptied, rolled back. Workers wait, come back, and nothing that was acknowledged is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from continual_contract.errors import BacklogFullError, ForeignOwnerError, RedisUnavailableError, StaleRoutingError
from continual_contract.functions import (
    enqueue_call,
    error_from_reply,
    parse_route,
    parse_survey,
    route_call,
    survey_call,
    wipe_call,
)
from continual_contract.ids import EntryId
from continual_workers.streaming.reaper import ReapOptions, groups, reap_once
from streams_driver import FAST, KEYS, UID, Bench, fleet, mutate

PATIENT = replace(FAST, min_idle_ms=60_000)
"""Nothing is claimed during the test: whatever comes back comes from the worker's own recovery."""


def seconds_until(condition: Callable[[], bool], timeout: float) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout, f"not within {timeout} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def test_s11_a_killed_redis_loses_nothing_acknowledged(loaded_redis: Any) -> None:
    """With fsync on every write: each accepted request is answered once, and workers are back within five seconds, at the quickest of three."""
    loaded_redis.client().config_set("appendfsync", "always")
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    with fleet(loaded_redis, options=PATIENT) as crew:
        crew.start("v1", 2)
        took = []
        for _ in range(3):
            bench.produce([b"slow:0.002"] * 300)
            time.sleep(0.1)
            loaded_redis.restart(kill9=True)
            before = bench.predicted()
            took.append(seconds_until(lambda before=before: bench.predicted() > before or bench.is_idle(), 30))  # type: ignore[misc]
            print(f"back after {took[-1]:.2f} s")
        assert min(took) <= 5
        assert bench.drain(30)
        crew.terminate()
    assert bench.check() == []


def test_s10_a_full_redis_drains(loaded_redis: Any) -> None:
    """At the memory limit requests are refused and answers go on."""
    bench = fill_up(loaded_redis)
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        seconds_until(lambda: bench.predicted() == len(bench.accepted), 30)
    assert bench.check() == []


def test_s10_commits_without_allow_oom_stand_still(redis_server: Any) -> None:
    """Mutation: commit is registered like enqueue."""
    redis_server.load_functions(
        mutate(("register('commit', commit, { 'allow-oom' })", "register('commit', commit, {})"))
    )
    bench = fill_up(redis_server)
    with fleet(redis_server) as crew:
        crew.start("v1")
        time.sleep(1.5)
    assert bench.predicted() == 0


def fill_up(server: Any) -> Bench:
    """Requests up to the memory limit; the next one is refused."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    bench.produce([b"x" * 100] * 500)
    bench.client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError) as refused:
        bench.run(enqueue_call(KEYS, {"d": b"x"}))
    assert isinstance(error_from_reply(str(refused.value)), RedisUnavailableError)
    return bench


def test_s12_an_emptied_redis_is_routed_again(loaded_redis: Any) -> None:
    """After FLUSHALL the operator routes with its remembered generation; group names stay unique and workers go on by themselves."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    with fleet(loaded_redis) as crew:
        (worker,) = crew.start("v1")
        bench.produce([b"x"] * 100)
        seconds_until(lambda: bench.predicted() == 100, 30)
        bench.client.flushall()
        time.sleep(0.5)
        assert worker.is_alive()
        bench.accepted.clear()
        bench.produce([b"x"] * 50)
        reply = bench.run(route_call(KEYS, 0, 1, UID, [("v1", 10_000)], min_gen=7))
        assert parse_route(reply).gen == 8
        seconds_until(lambda: bench.predicted() == 50, 30)
        assert [row["name"] for row in bench.client.xinfo_groups(KEYS.requests)] == [b"v1@8"]
        assert worker.is_alive()


def test_a_destroyed_group_is_made_again_behind_the_audited_id(loaded_redis: Any) -> None:
    """Somebody destroys a group: the reaper makes it again, nothing is lost or doubled, and an alarm says so."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    with fleet(loaded_redis) as crew:
        crew.start("v1", 2)
        bench.produce([b"x"] * 500)
        seconds_until(lambda: bench.predicted() == 500, 30)
        bench.produce([b"slow:0.01"] * 100)
        bench.client.xgroup_destroy(KEYS.requests, "v1@1")
        bench.produce([b"x"] * 100)
        assert bench.drain(30)
        seconds_until(lambda: bench.predicted() == 700, 30)
    assert bench.check() == ["alarms {b'lost_groups': b'1'}"]


def test_who_may_publish_is_written_again_from_the_table(loaded_redis: Any) -> None:
    """Somebody deletes `serve`: every commit is fenced until the reaper has written it again, and nothing is lost or doubled."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    with fleet(loaded_redis) as crew:
        crew.start("v1", 2)
        bench.produce([b"x"] * 100)
        seconds_until(lambda: bench.predicted() == 100, 30)
        bench.client.delete(KEYS.serve)
        bench.produce([b"x"] * 100)
        time.sleep(0.3)
        assert bench.predicted() == 100
        bench.reap()
        seconds_until(lambda: bench.predicted() == 200, 30)
    assert bench.client.hgetall(KEYS.serve) == {b"v1@1": b"v1"}
    assert bench.check() == []


def test_a_lost_tail_raises_an_alarm(loaded_redis: Any) -> None:
    """Redis comes back without its newest entries: a worker that had seen them says so."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    bench.client.config_set("appendfsync", "always")
    (log,) = (loaded_redis.dir / "appendonlydir").glob("*.incr.aof")
    size = log.stat().st_size
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        bench.produce([b"x"] * 20)
        seconds_until(lambda: bench.predicted() == 20, 30)
        loaded_redis.kill9()
        with log.open("r+b") as file:
            file.truncate(size)
        loaded_redis.start("--aof-load-truncated", "yes")
        seconds_until(lambda: bench.client.hget(KEYS.alarms, "lost_tail") == b"1", 30)
        bench.produce([b"x"] * 20)
        seconds_until(lambda: bench.predicted() == 20, 30)


NO_RESTART_NOTICE = ("    notice_restart(state)\n", "")


@pytest.mark.parametrize(("without", "alarms"), [((), {}), ((NO_RESTART_NOTICE,), {b"lost_undelivered": b"500"})])
def test_a_restart_is_no_loss(redis_server: Any, without: Any, alarms: dict[bytes, bytes]) -> None:
    """Redis forgets its read counters when it restarts; believing them (the mutation) reports 500 answered requests as lost."""
    redis_server.load_functions(mutate(*without))
    bench = Bench(redis_server)
    bench.route([("v1", 10_000)])
    bench.client.config_set("appendfsync", "always")  # else a running fsync may hold back what a kill then costs
    with fleet(redis_server) as crew:
        crew.start("v1")
        bench.produce([b"x"] * 500)
        assert bench.drain(30)
        crew.terminate()
    redis_server.restart(kill9=True)
    bench.produce([b"x"] * 100)
    for _ in range(2):
        bench.reap(requests_max_age_seconds=0)
    assert bench.client.xlen(KEYS.requests) < 600
    assert bench.client.hgetall(KEYS.alarms) == alarms


def test_an_unanswered_passed_request_is_added_again(loaded_redis: Any) -> None:
    """The audit: an entry that was acknowledged without an answer comes back under its first id, once, with an alarm."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    ids = bench.produce([b"x"] * 10, key=b"k")
    bench.client.xreadgroup("v1@1", "v1/careless", {KEYS.requests: ">"}, count=10)
    bench.client.xack(KEYS.requests, "v1@1", *ids)
    assert bench.reap().readded == 10
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        assert bench.drain(30)
        seconds_until(lambda: bench.predicted() == 10, 30)
    assert bench.reap().readded == 0
    assert bench.check() == ["alarms {b'readded': b'10'}"]


def test_the_audit_says_when_it_cannot_tell(loaded_redis: Any) -> None:
    """An entry whose bucket may have expired is counted, not asked again: a doubled prediction is worse than a report."""
    bench = Bench(loaded_redis)
    bench.client.xadd(KEYS.requests, {"d": b"x"}, id="1000-0")
    bench.route([("v1", 10_000)])
    bench.client.xreadgroup("v1@1", "v1/careless", {KEYS.requests: ">"}, count=10)
    bench.client.xack(KEYS.requests, "v1@1", "1000-0")
    assert bench.reap().readded == 0
    assert bench.client.hgetall(KEYS.alarms) == {b"unaudited": b"1"}


# The functions' refusals ----------------------------------------------------------------------------------------------------------


def refused(bench: Bench, call: Any) -> Exception:
    with pytest.raises(redis.ResponseError) as error:
        bench.run(call)
    return error_from_reply(str(error.value))


def test_route_is_a_compare_and_set_for_one_leader_of_one_resource(loaded_redis: Any) -> None:
    """STALE for an old generation, FENCED for an old leader, FOREIGN for another resource; the same wish again changes nothing."""
    bench = Bench(loaded_redis)
    wish: Any = [("v1", 10_000)]
    assert parse_route(bench.run(route_call(KEYS, 0, 5, "a", wish))).changed
    again = parse_route(bench.run(route_call(KEYS, 1, 5, "a", wish)))
    assert (again.gen, again.changed) == (1, False)
    assert isinstance(refused(bench, route_call(KEYS, 0, 5, "a", wish)), StaleRoutingError)
    assert "older than 5" in str(refused(bench, route_call(KEYS, 1, 4, "a", wish)))
    assert isinstance(refused(bench, route_call(KEYS, 1, 6, "b", wish)), ForeignOwnerError)
    assert bench.run(wipe_call(KEYS, "a", 6)) == 0
    assert bench.run(wipe_call(KEYS, "b", 6)) > 0
    assert parse_route(bench.run(route_call(KEYS, 0, 6, "b", wish, min_gen=1))).gen == 2


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"shares": [("v1", 9999)]}, "sum is 9999"),
        ({"shares": [("v1", 10_001), ("v2", -1)]}, "v2 has -1"),
        ({"shares": [("v1", 10_000)], "heirs": {"v2": "v3"}}, "v2 cannot be inherited by v3"),
        ({"shares": [("v1", 10_000)], "heirs": {"v1": "v1"}}, "v1 cannot be inherited by v1"),
    ],
)
def test_route_refuses_what_cannot_be(loaded_redis: Any, wish: Any, says: str) -> None:
    """A refused wish leaves no trace."""
    bench = Bench(loaded_redis)
    assert says in str(refused(bench, route_call(KEYS, 0, 1, "a", **wish)))
    assert not bench.client.exists(KEYS.routing, KEYS.serve, KEYS.requests)


def test_enqueue_refuses_a_full_backlog(loaded_redis: Any) -> None:
    """The limit counts what an owning group has still to settle; a shadow group that stands still does not count."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000), ("v2", 0)], shadow=["v1", "v2"])
    with fleet(loaded_redis) as crew:
        for _ in range(10):
            bench.run(enqueue_call(KEYS, {"d": b"x"}, backlog_limit=10))
        assert isinstance(refused(bench, enqueue_call(KEYS, {"d": b"x"}, backlog_limit=10)), BacklogFullError)
        crew.start("v1")
        seconds_until(lambda: bench.predicted() == 10, 30)
        bench.run(enqueue_call(KEYS, {"d": b"x"}, backlog_limit=10))


def test_a_missing_library_is_waited_for(redis_server: Any) -> None:
    """A worker that starts before the operator loaded the functions answers as soon as they are there."""
    redis_server.load_functions()
    bench = Bench(redis_server)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"] * 10)
    bench.client.function_flush()
    with fleet(redis_server) as crew:
        (worker,) = crew.start("v1")
        time.sleep(0.7)
        assert worker.is_alive()
        redis_server.load_functions()
        seconds_until(lambda: bench.predicted() == 10, 30)


def test_survey_tells_how_far_every_group_is(loaded_redis: Any) -> None:
    """Undelivered, pending, the id that was passed, and the oldest that waits; read-only."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    ids = bench.produce([b"x"] * 5)
    bench.client.xreadgroup("v1@1", "v1/a", {KEYS.requests: ">"}, count=3)
    bench.client.xack(KEYS.requests, "v1@1", ids[0])
    (state,) = parse_survey(bench.run(survey_call(KEYS))).values()
    assert (state.version, state.serve, state.until, state.undelivered, state.pending) == ("v1", "v1", None, 2, 2)
    assert state.oldest_waiting == ids[1]
    assert groups(bench.client, KEYS)[state.group] == state


def test_the_byte_limit_trims_audited_requests_early(loaded_redis: Any) -> None:
    """Above `requests.maxBytes` what is audited goes before its age; what is not stays."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        bench.produce([b"x" * 2000] * 2000)
        assert bench.drain(30)
        crew.terminate()
    kept = bench.produce([b"x" * 2000] * 500)
    for _ in range(5):
        reap_once(bench.client, KEYS, ReapOptions(requests_max_bytes=1_500_000, answers_ttl_seconds=7200))
    left = [i.decode() for i, _ in bench.client.xrange(KEYS.requests)]
    assert left[-500:] == kept
    assert int(bench.client.memory_usage(KEYS.requests)) < 2_000_000


@pytest.mark.parametrize(("min_age", "left"), [(600.0, 1000), (0.0, 500)])
def test_labels_that_were_counted_stay_a_while(loaded_redis: Any, min_age: float, left: int) -> None:
    """Whoever keeps score beside the evaluator reads them too; without a least age (the mutation) they vanish behind its back."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    pipe = bench.client.pipeline(transaction=False)
    for _ in range(1000):
        pipe.xadd(KEYS.labels, {"r": "1-0", "c": "7", "by": "ann", "src": "audit"})
    ids = [EntryId(i.decode()) for i in pipe.execute()]
    time.sleep(0.002)
    reap_once(bench.client, KEYS, ReapOptions(labels_through=ids[500], labels_min_age_seconds=min_age))
    assert left <= bench.client.xlen(KEYS.labels) <= left + 100
