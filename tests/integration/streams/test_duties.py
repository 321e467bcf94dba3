"""What workers do besides publishing: shadow answers, sampling, refusals, heirs, leaving."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from typing import Any

import pytest
from continual_contract.entries import DEAD, UNSAMPLED, decode_answer
from continual_contract.ids import hour_of
from streams_driver import FAST, KEYS, Bench, fleet, mutate


def answers(bench: Bench) -> dict[str, bytes]:
    """All that `answers` holds."""
    found: dict[str, bytes] = {}
    for hour in {hour_of(i) for i in bench.accepted}:
        found.update({k.decode(): v for k, v in bench.client.hgetall(KEYS.answers(hour)).items()})
    return found


def wait_until_idle(bench: Bench) -> None:
    bench.wait_for(bench.is_idle, 30, "not idle")


def test_both_versions_answer_what_the_other_owns(loaded_redis: Any) -> None:
    """Shadow answers go both ways and are never published: every request has one published and one dark answer."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 7000), ("v2", 3000)], shadow=["v1", "v2"])
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        crew.start("v2")
        ids = bench.produce([b"x"] * 500)
        bench.wait_for(lambda: bench.predicted() == 500, 30)
        wait_until_idle(bench)
    stored = answers(bench)
    assert len(stored) == 1000
    for entry in ids:
        published = decode_answer(stored[entry])
        assert published is not None
        other = "v2" if published.version == "v1" else "v1"
        dark = decode_answer(stored[f"{entry}/{other}"])
        assert dark is not None
        assert (published.role, dark.role, dark.why) == ("stable" if other == "v2" else "canary", "shadow", "shadow")
    assert bench.check() == []


def test_late_shadow_work_is_dropped_and_owned_work_is_not(loaded_redis: Any) -> None:
    """Above the lag limit the dark answers are left out, the owned ones are given all the same."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 5000), ("v2", 5000)], shadow=["v1", "v2"])
    bench.produce([b"x"] * 200)
    time.sleep(0.3)
    with fleet(loaded_redis, options=replace(FAST, max_lag_seconds=0.2)) as crew:
        crew.start("v1")
        crew.start("v2")
        bench.wait_for(lambda: bench.predicted() == 200, 30)
        wait_until_idle(bench)
    assert not [name for name in answers(bench) if "/" in name]
    assert bench.check() == []


def test_outside_the_sample_a_request_is_answered_but_not_kept(loaded_redis: Any) -> None:
    """Published, marked, not added again by the audit, and without a dark answer."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000), ("v2", 0)], shadow=["v1", "v2"])
    with fleet(loaded_redis, options=replace(FAST, sample_percent=0)) as crew:
        crew.start("v1")
        crew.start("v2")
        ids = bench.produce([b"x"] * 50)
        bench.wait_for(lambda: bench.predicted() == 50, 30)
        assert bench.drain(30)
    assert answers(bench) == dict.fromkeys(ids, UNSAMPLED)
    assert bench.readded == 0


def test_a_refused_request_is_dead_at_once_and_delays_nobody(loaded_redis: Any) -> None:
    """Its letter holds reason and request; the mark keeps the audit from asking again."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000), ("v2", 0)], shadow=["v1", "v2"])
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        crew.start("v2")
        (bad,) = bench.produce([b"bad"])
        bench.produce([b"x"] * 50)
        bench.wait_for(lambda: bench.predicted() == 50, 30)
        assert bench.drain(30)
    ((_, letter),) = bench.client.xrange(KEYS.dead)
    assert (letter[b"r"].decode(), letter[b"reason"], letter[b"v"]) == (bad, b"InvalidImage", b"v1")
    assert answers(bench)[bad] == DEAD
    assert bench.check() == []


def roll_back_a_busy_canary(server: Any, patience: float) -> tuple[Bench, bool]:
    """Stop a canary with work in its hands, roll it back; whether all is answered in time, with a min-idle of a minute."""
    bench = Bench(server)
    bench.route([("v1", 5000), ("v2", 5000)])
    with fleet(server, options=replace(FAST, min_idle_ms=60_000)) as crew:
        crew.start("v1")
        (canary,) = crew.start("v2")
        bench.produce([b"slow:0.02"] * 300)
        bench.wait_for(lambda: bench.predicted() > 20, 30)
        canary.signal(signal.SIGSTOP)
        bench.route([("v1", 10_000)], heirs={"v2": "v1"})
        deadline = time.monotonic() + patience
        while bench.predicted() < 300 and time.monotonic() < deadline:
            time.sleep(0.05)
        canary.signal(signal.SIGCONT)
        return bench, bench.predicted() == 300 and bench.drain(30)


def test_an_heir_finishes_what_the_dead_version_held_without_waiting_for_its_leases(loaded_redis: Any) -> None:
    """Held, delivered and undelivered requests are answered within seconds, as `heir`, and the emptied group is reaped."""
    bench, finished = roll_back_a_busy_canary(loaded_redis, 60)
    assert finished
    assert bench.check() == []
    assert {fields[b"why"] for _, fields in bench.client.xrange(KEYS.predictions)} == {b"owner", b"heir"}
    assert bench.client.hkeys(KEYS.serve) == [b"v1@1"]


def test_an_heir_that_waits_for_leases_does_not_finish(redis_server: Any) -> None:
    """Mutation: what a dead version held is claimed like anybody's, after min-idle."""
    redis_server.load_functions(mutate(("if row[3] >= min_idle or foreign then", "if row[3] >= min_idle then")))
    _, finished = roll_back_a_busy_canary(redis_server, 9)
    assert not finished


@pytest.mark.parametrize("busy", [False, True])
def test_a_stop_does_not_wait_for_traffic(loaded_redis: Any, busy: bool) -> None:
    """SIGTERM unblocks the read: an idle worker leaves at once, a busy one after its batch; the name is gone from the group."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    with fleet(loaded_redis, options=replace(FAST, block_ms=9000, batch_size=4)) as crew:
        (worker,) = crew.start("v1")
        bench.produce([b"x"])
        bench.wait_for(lambda: bench.predicted() == 1, 20)
        if busy:
            bench.produce([b"slow:0.05"] * 400)
        time.sleep(0.05)
        begun = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        took = time.monotonic() - begun
    assert took < 4
    assert bench.client.xinfo_consumers(KEYS.requests, "v1@1") == []
    assert bench.client.xpending(KEYS.requests, "v1@1")["pending"] == 0


def test_the_same_key_is_answered_by_the_same_version(loaded_redis: Any) -> None:
    """Partition key `k` decides ownership: all frames of one video meet one version."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 5000), ("v2", 5000)])
    with fleet(loaded_redis) as crew:
        crew.start("v1")
        crew.start("v2")
        for video in range(20):
            bench.produce([b"x"] * 10, key=f"video {video}".encode())
        bench.wait_for(lambda: bench.predicted() == 200, 30)
    seen: dict[bytes, set[bytes]] = {}
    for _, fields in bench.client.xrange(KEYS.predictions):
        seen.setdefault(bench.accepted[fields[b"r"].decode()], set()).add(fields[b"v"])
    assert all(len(versions) == 1 for versions in seen.values())
    assert len(set().union(*seen.values())) == 2


@pytest.mark.parametrize("original", [b"nonsense", b"\xff-1", b"99999999999999999999-0", b"1-"])
def test_a_stranger_who_writes_field_o_harms_nobody(loaded_redis: Any, original: bytes) -> None:
    """An `o` that is no id is ignored by worker and audit alike: answered once, under the entry's own id, never added again."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    entry = bench.client.xadd(KEYS.requests, {"o": original, "d": b"x"}).decode()
    bench.accepted[entry] = b""
    with fleet(loaded_redis) as crew:
        (worker,) = crew.start("v1")
        bench.produce([b"x"] * 5)
        bench.wait_for(lambda: bench.predicted() == 6, 30)
        assert bench.drain(30)
        assert worker.is_alive()
    assert bench.readded == 0
    assert bench.check() == []
