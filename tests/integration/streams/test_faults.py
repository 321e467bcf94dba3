"""The stream's guarantees S1–S8 and S14–S16, each under its fault; and each without its protection, which must be found out.

Every test ends with the ledger check: accepted = predictions + dead letters + pending, by request id.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from continual_contract.functions import (
    Answered,
    Author,
    Section,
    claim_call,
    commit_call,
    enqueue_call,
    forget_call,
    parse_claim,
    parse_commit,
    parse_enqueue,
    replay_call,
)
from continual_workers.streaming.reaper import forget_idle_consumers
from redis.backoff import NoBackoff
from redis.retry import Retry
from streams_driver import (
    ANSWERS_TTL,
    FAST,
    KEYS,
    Bench,
    Chaos,
    ChaosPlan,
    Fleet,
    fleet,
    mutate,
    slow_handler,
    unhurried_handler,
)
from streams_mutations import (
    NO_HSETNX_FENCE,
    NO_XACK_FENCE,
    acknowledge_at_delivery,
    leave_at_once,
    never_claim,
    never_renew,
)


def read(bench: Bench, group: str, consumer: str, count: int = 100) -> list[str]:
    """Deliver to a bare consumer; ids."""
    reply = bench.client.xreadgroup(group, consumer, {KEYS.requests: ">"}, count=count)
    return [i.decode() for _, entries in reply for i, _ in entries]


def commit(bench: Bench, group: str, ids: list[str], version: str = "v1") -> Any:
    section = Section("o", "stable", "owner", [Answered(i, i, "7", 0.5) for i in ids])
    author = Author(version, "0123456789ab", 10)
    return parse_commit(bench.run(commit_call(KEYS, group, author, [section], (), ANSWERS_TTL)))


def problems_of(found: list[str], *kinds: str) -> bool:
    return any(kind in problem for kind in kinds for problem in found)


# S1 -----------------------------------------------------------------------------------------------------------------------------


def kill_under_load(server: Any, requests: int, seed: int, **crew: Any) -> list[str]:
    """Four workers, one of them killed every 150 ms, 2 % slow items."""
    bench, rng = Bench(server), random.Random(seed)
    bench.route([("v1", 10_000)])
    with fleet(server, **crew) as workers:
        workers.start("v1", 4)
        for _ in range(requests // 200):
            bench.produce([b"slow:0.03" if rng.random() < 0.02 else b"x" * 40 for _ in range(200)])
            workers.start("v1", 4 - len(workers.of("v1")))
            rng.choice(workers.of("v1")).kill9()
            time.sleep(0.15)
        workers.start("v1", 4 - len(workers.of("v1")))
        drained = bench.drain(60 if not crew else 3)
    return bench.check() + ([] if drained else ["not drained"])


@pytest.mark.parametrize(
    ("requests", "seed"), [(8000, 1), pytest.param(20_000, 2, marks=pytest.mark.long), pytest.param(20_000, 3, marks=pytest.mark.long)]
)  # fmt: skip
def test_s1_killed_workers_lose_and_double_nothing(loaded_redis: Any, requests: int, seed: int) -> None:
    """Exactly one prediction per accepted request, however many workers die with work in their hands."""
    assert kill_under_load(loaded_redis, requests, seed) == []


def test_s1_without_claims_work_stays_with_the_dead(loaded_redis: Any) -> None:
    """Mutation: nobody takes over what a dead worker held."""
    found = kill_under_load(loaded_redis, 2000, 1, patch=never_claim, handler=unhurried_handler)
    assert problems_of(found, "stuck")


def test_s1_with_acknowledgement_at_delivery_work_dies_with_the_worker(redis_server: Any) -> None:
    """Mutation: entries are acknowledged when they are read."""
    redis_server.load_functions(mutate(NO_XACK_FENCE))
    found = kill_under_load(redis_server, 4000, 1, patch=acknowledge_at_delivery, handler=unhurried_handler)
    assert problems_of(found, "lost", "alarms")


# S2 -----------------------------------------------------------------------------------------------------------------------------


def published(bench: Bench) -> list[str]:
    return [fields[b"r"].decode() for _, fields in bench.client.xrange(KEYS.predictions)]


def sleeper_and_substitute(server: Any) -> list[str]:
    """A is stopped while it works, B claims and commits, A wakes up and commits what it had, then what came after B had left."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    with fleet(server) as crew:
        (a,) = crew.start("v1")
        (entry,) = bench.produce([b"slow:3"])
        bench.wait_for(lambda: bench.client.xpending(KEYS.requests, "v1@1")["pending"] == 1, 20)
        time.sleep(0.1)
        a.signal(signal.SIGSTOP)
        (b,) = crew.start("v1")
        bench.wait_for(lambda: bench.predicted() == 1, 30, "the substitute did not answer")
        b.signal(signal.SIGTERM)
        b.wait()
        a.signal(signal.SIGCONT)
        (later,) = bench.produce([b"x"])
        bench.wait_for(lambda: later in published(bench), 20, "the sleeper does not work on")
        assert a.is_alive()
        assert published(bench)[0] == entry
        return bench.check()


def test_s2_only_the_current_owner_commits(loaded_redis: Any) -> None:
    """A worker that slept through its lease publishes nothing when it wakes up."""
    assert sleeper_and_substitute(loaded_redis) == []


def test_s2_without_fences_the_sleeper_publishes_too(redis_server: Any) -> None:
    """Mutation: neither XACK nor the request id guards the publication."""
    redis_server.load_functions(mutate(NO_XACK_FENCE, NO_HSETNX_FENCE))
    assert problems_of(sleeper_and_substitute(redis_server), "duplicates")


def test_s2_a_late_commit_is_told_that_it_lost(loaded_redis: Any) -> None:
    """The first commit counts 1 published, the second 1 lost and 0 published."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"])
    ids = read(bench, "v1@1", "v1/a")
    taken, _ = parse_claim(bench.run(claim_call(KEYS, "v1@1", "v1", "v1/b", 0, 10)))
    assert [entry.entry_id for entry in taken] == ids
    first, second = commit(bench, "v1@1", ids), commit(bench, "v1@1", ids)
    assert (first.published, first.lost, second.published, second.lost) == (1, 0, 0, 1)
    assert bench.check() == []


@pytest.mark.parametrize(
    ("without", "fault", "red"),
    [
        ((), "group", False), ((NO_HSETNX_FENCE,), "group", True), ((NO_XACK_FENCE,), "group", False),
        ((), "answers", False), ((NO_HSETNX_FENCE,), "answers", False), ((NO_XACK_FENCE,), "answers", True),
    ],
)  # fmt: skip
def test_s2_each_fence_covers_where_the_other_is_blind(redis_server: Any, without: Any, fault: str, red: bool) -> None:
    """A re-created group forgets what was acknowledged, an expired bucket what was answered: it takes both fences to survive both."""
    redis_server.load_functions(mutate(*without))
    bench = Bench(redis_server)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"] * 5)
    ids = read(bench, "v1@1", "v1/a")
    commit(bench, "v1@1", ids)
    if fault == "group":
        bench.client.xgroup_destroy(KEYS.requests, "v1@1")
        bench.client.xgroup_create(KEYS.requests, "v1@1", "0")
        assert read(bench, "v1@1", "v1/a") == ids
    else:
        bench.client.delete(KEYS.answers_of(ids[0]))
    commit(bench, "v1@1", ids)
    assert problems_of(bench.check(), "duplicates") == red


# S3 -----------------------------------------------------------------------------------------------------------------------------


def run_some_commits(server: Any, *, atomic: bool) -> None:
    """Batches of ten, delivered and settled; with `atomic` by the function, else by the plain commands it replaces."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    for _ in range(20):
        bench.produce([b"x" * 30] * 10)
        ids = read(bench, "v1@1", "v1/a")
        if atomic:
            commit(bench, "v1@1", ids)
            continue
        bench.client.xack(KEYS.requests, "v1@1", *ids)
        for entry in ids:
            bench.client.xadd(KEYS.predictions, {"r": entry})
    server.stop()


def torn_ids(server: Any, offset: int, origin: Path) -> list[str]:
    """Restart from the append-only file cut at `offset`; ids that are in neither or in both of output and pending."""
    folder = server.dir / "appendonlydir"
    shutil.rmtree(folder)
    shutil.copytree(origin, folder)
    (log,) = folder.glob("*.incr.aof")
    with log.open("r+b") as file:
        file.truncate(offset)
    server.start("--aof-load-truncated", "yes")
    with server.connect() as client:
        groups = (
            {row["name"]: row for row in client.xinfo_groups(KEYS.requests)} if client.exists(KEYS.requests) else {}
        )
        last = groups[b"v1@1"]["last-delivered-id"] if b"v1@1" in groups else b"0-0"
        delivered = [i.decode() for i, _ in client.xrange(KEYS.requests, "-", last)] if groups else []
        output = Counter(f[b"r"].decode() for _, f in client.xrange(KEYS.predictions))
        rows = client.xpending_range(KEYS.requests, "v1@1", "-", "+", 10_000) if delivered else []
        pending = {row["message_id"].decode() for row in rows}
    server.kill9()
    return [i for i in delivered if output[i] + (i in pending) != 1]


def cut_at_random(server: Any, seed: int, cuts: int, *, atomic: bool) -> int:
    """How many ids were torn over all cuts."""
    run_some_commits(server, atomic=atomic)
    origin = server.dir / "origin"
    shutil.copytree(server.dir / "appendonlydir", origin)
    (log,) = origin.glob("*.incr.aof")
    rng, size = random.Random(seed), log.stat().st_size
    offsets = [rng.randrange(size // 10, size) for _ in range(cuts)]
    torn = sum(len(torn_ids(server, offset, origin)) for offset in offsets)
    print(f"seed {seed}: {cuts} cuts in {size} bytes, {torn} torn")
    return torn


@pytest.mark.parametrize(("seed", "cuts"), [(1, 25), pytest.param(2, 150, marks=pytest.mark.long)])
def test_s3_a_commit_is_atomic_on_disk(loaded_redis: Any, seed: int, cuts: int) -> None:
    """Wherever the append-only file ends, every delivered request is either answered or pending."""
    assert cut_at_random(loaded_redis, seed, cuts, atomic=True) == 0


def test_s3_separate_commands_are_torn_apart(loaded_redis: Any) -> None:
    """Mutation: the same effects as separate commands."""
    assert cut_at_random(loaded_redis, 1, 10, atomic=False) > 0


# S4 -----------------------------------------------------------------------------------------------------------------------------


class ReplyDropper:
    """A TCP proxy that passes everything to Redis and closes the connection instead of passing the first replies back."""

    def __init__(self, port: int, drops: int) -> None:
        self._target, self._drops = port, drops
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        while request := client.recv(65_536):
            server.sendall(request)
            reply = server.recv(65_536)
            if b"FCALL" in request and self._drops > 0:
                self._drops -= 1
                return
            client.sendall(reply)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def stubborn_producer(port: int, keys: list[str | None], fault: Any) -> list[str]:
    """Sends each request again until it is answered; ids as told."""
    client = redis.Redis(port=port, protocol=2, socket_timeout=0.3, retry=Retry(NoBackoff(), 0))
    told = []
    with client:
        for number, key in enumerate(keys):
            fault(number)
            while True:
                try:
                    reply = client.execute_command(*enqueue_call(KEYS, {"d": b"x"}, key).command())
                except (redis.ConnectionError, redis.TimeoutError):
                    continue
                told.append(str(parse_enqueue(reply).entry_id))
                break
    return told


@pytest.mark.parametrize(("named", "entries"), [(True, 20), (False, 25)])
def test_s4_a_retry_after_a_lost_reply_adds_nothing(loaded_redis: Any, named: bool, entries: int) -> None:
    """With a caller's key each request is one entry; without (the mutation) each of five lost replies leaves a second one."""
    proxy = ReplyDropper(loaded_redis.port, drops=5)
    try:
        told = stubborn_producer(proxy.port, [f"k{n}" if named else None for n in range(20)], lambda _: None)
    finally:
        proxy.close()
    stored = [i.decode() for i, _ in loaded_redis.client().xrange(KEYS.requests)]
    assert len(stored) == entries
    assert set(told) <= set(stored)


@pytest.mark.parametrize(("named", "doubled"), [(True, False), (False, True)])
def test_s4_a_stall_longer_than_the_timeout_adds_nothing(loaded_redis: Any, named: bool, doubled: bool) -> None:
    """Redis stands still for four time-outs: what piled up in its socket is one entry per caller's key."""

    def stall(number: int) -> None:
        if number == 3:
            loaded_redis.client().ping()
            signal_server(loaded_redis, signal.SIGSTOP)
            threading.Timer(1.3, signal_server, (loaded_redis, signal.SIGCONT)).start()

    stubborn_producer(loaded_redis.port, [f"k{n}" if named else None for n in range(6)], stall)
    time.sleep(0.2)
    assert (loaded_redis.client().xlen(KEYS.requests) > 6) == doubled


def signal_server(server: Any, number: int) -> None:
    import os

    os.kill(server.pid, number)


# S5 -----------------------------------------------------------------------------------------------------------------------------


def work_for_long(server: Any, seconds: int, **crew: Any) -> tuple[set[tuple[str, int]], list[str]]:
    """One item of many times min-idle (1.5 s) beside an idle second worker; (consumer, deliveries) seen meanwhile, and the ledger."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    seen: set[tuple[str, int]] = set()
    with fleet(server, options=replace(FAST, min_idle_ms=1500, max_deliveries=50, isolate_after=50), **crew) as workers:
        workers.start("v1", 2)
        bench.produce([b"slow:%d" % seconds])
        bench.wait_for(lambda: _watch(bench, seen), 60)
        workers.terminate()
    return seen, bench.check()


def _watch(bench: Bench, seen: set[tuple[str, int]]) -> bool:
    for row in bench.client.xpending_range(KEYS.requests, "v1@1", "-", "+", 10):
        seen.add((row["consumer"].decode(), row["times_delivered"]))
    return bench.predicted() == 1


def test_s5_long_work_keeps_its_lease(loaded_redis: Any) -> None:
    """The lease is renewed while the handler works: one consumer, one delivery, one answer."""
    seen, problems = work_for_long(loaded_redis, 15)
    assert problems == []
    assert [deliveries for _, deliveries in seen] == [1]


def test_s5_without_renewal_long_work_is_taken_over(loaded_redis: Any) -> None:
    """Mutation: leases are not renewed."""
    seen, _ = work_for_long(loaded_redis, 5, patch=never_renew)
    assert max(deliveries for _, deliveries in seen) > 1


# S6 and S7 ----------------------------------------------------------------------------------------------------------------------

NO_ISOLATION = ("  if #together > 0 or #rows == 0 then return together end\n  return { rows[1] }", "  return rows")


def poison_among_good(server: Any, **crew: Any) -> Bench:
    """An item that kills its worker, in the middle of 1 000 good ones; killed workers are replaced."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    options = replace(FAST, min_idle_ms=200, **crew)
    with fleet(server, options=options) as workers:
        bench.produce([b"x"] * 500 + [b"poison"] + [b"x"] * 500)
        deadline = time.monotonic() + 60
        while bench.client.xlen(KEYS.dead) == 0 or not bench.is_idle():
            assert time.monotonic() < deadline, "the poison did not become a dead letter"
            workers.start("v1", 2 - len(workers.of("v1")))
            time.sleep(0.05)
        workers.terminate()
    return bench


def test_s6_poison_is_isolated(loaded_redis: Any) -> None:
    """After five deliveries the poison is a dead letter with its reason, and no good request is."""
    bench = poison_among_good(loaded_redis)
    ((_, letter),) = bench.client.xrange(KEYS.dead)
    assert letter[b"x-d"] == b"poison"
    assert letter[b"reason"] == b"TooManyDeliveries"
    assert int(letter[b"deliveries"]) == 6
    assert bench.check() == []
    assert bench.predicted() == 1000


def test_s6_without_isolation_good_requests_die_with_the_poison(redis_server: Any) -> None:
    """Mutation: suspicious entries are handed out together and handled together."""
    redis_server.load_functions(mutate(NO_ISOLATION))
    bench = poison_among_good(redis_server, isolate_after=99)
    letters = [fields for _, fields in bench.client.xrange(KEYS.dead)]
    assert any(letter[b"x-d"] == b"x" for letter in letters)


def refuse_fix_replay(server: Any) -> Bench:
    """A request no version can answer, then a version that can, then a replay."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    with fleet(server) as crew:
        crew.start("v1")
        reply = bench.run(enqueue_call(KEYS, {"d": b"bad", "k": "customer 7", "t": 1700000000000, "m": b'{"a":1}'}))
        bench.accepted[str(parse_enqueue(reply).entry_id)] = b"customer 7"
        bench.produce([b"x"] * 20)
        bench.wait_for(lambda: bench.client.xlen(KEYS.dead) == 1 and bench.predicted() == 20, 30)
        bench.drain(30)
        assert bench.check() == []
        crew.terminate()
    with fleet(server, handler=fixed_handler) as crew:
        crew.start("v1")
        ((dead_id, _),) = bench.client.xrange(KEYS.dead)
        bench.run(replay_call(KEYS, dead_id.decode()))
        bench.drain(30)
    return bench


def fixed_handler(requests: Any) -> Any:
    from continual_workers.streaming import Predicted

    return [Predicted("3", 0.9) for _ in requests]


def test_s7_dead_letters_are_complete_and_replayable(loaded_redis: Any) -> None:
    """A replayed request keeps its fields and its id, and gets one result."""
    bench = refuse_fix_replay(loaded_redis)
    (first, *_) = bench.accepted
    assert bench.check() == []
    assert bench.predicted() == 21
    assert bench.client.xlen(KEYS.dead) == 0
    again = bench.client.xrange(KEYS.requests)[-1][1]
    assert again == {b"o": first.encode(), b"d": b"bad", b"k": b"customer 7", b"t": b"1700000000000", b"m": b'{"a":1}'}


def test_s7_a_mark_that_stays_blocks_the_replay(redis_server: Any) -> None:
    """Mutation: the dead letter's mark in `answers` is not lifted."""
    redis_server.load_functions(
        mutate(("if redis.call('HGET', bucket, request) == DEAD then redis.call('HDEL', bucket, request) end", ""))
    )
    bench = refuse_fix_replay(redis_server)
    assert problems_of(bench.check(), "lost")


# S8 -----------------------------------------------------------------------------------------------------------------------------


def last_delivered(bench: Bench, group: bytes) -> str:
    rows = {row["name"]: row for row in bench.client.xinfo_groups(KEYS.requests)}
    return str(rows[group]["last-delivered-id"].decode())


def paused_owner(server: Any, requests: int) -> tuple[Bench, int]:
    """Half of the requests belong to a version whose workers stand still while the reaper trims all it may; entries left then."""
    bench = Bench(server)
    bench.route([("v1", 5000), ("v2", 5000)])
    with fleet(server, options=replace(FAST, batch_size=200)) as crew:
        crew.start("v1")
        (early,) = crew.start("v2")
        bench.produce([b"x"] * 1000)
        bench.wait_for(bench.is_idle, 20)
        early.signal(signal.SIGTERM)
        early.wait()
        bench.reap()
        for _ in range(requests // 1000 - 2):
            bench.produce([b"x"] * 1000)
            bench.reap(requests_max_age_seconds=0, requests_max_bytes=10_000)
        last = bench.produce([b"x"] * 1000)[-1]
        bench.wait_for(lambda: last_delivered(bench, b"v1@1") == last, 60)
        bench.reap(requests_max_age_seconds=0, requests_max_bytes=10_000)
        left = int(bench.client.xlen(KEYS.requests))
        crew.start("v2")
        assert bench.drain(60)
        crew.terminate()
    return bench, left


@pytest.mark.parametrize("requests", [20_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_s8_nothing_unread_is_trimmed(loaded_redis: Any, requests: int) -> None:
    """With the slowest group paused nothing it has not passed is trimmed, whatever age and size say; afterwards it is."""
    bench, left = paused_owner(loaded_redis, requests)
    assert requests - 1000 <= left < requests
    assert bench.check() == []
    assert bench.predicted() == requests
    bench.reap(requests_max_age_seconds=0)
    assert bench.client.xlen(KEYS.requests) < requests / 2


def test_s8_trimming_by_age_alone_loses_requests_and_says_so(redis_server: Any) -> None:
    """Mutation: age decides alone. The loss is counted in the alarms from which the condition DataLoss is raised."""
    redis_server.load_functions(mutate(("compare(by_age, behind) < 0 and by_age or behind", "by_age")))
    bench, left = paused_owner(redis_server, 5000)
    assert left < 5000
    assert problems_of(bench.check(), "lost")
    assert int(bench.client.hget(KEYS.alarms, "lost_undelivered")) > 0


def test_s8_a_deleted_pending_request_raises_an_alarm(loaded_redis: Any) -> None:
    """A pending entry that somebody deleted cannot be answered: whoever claims it counts the loss."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"] * 3)
    ids = read(bench, "v1@1", "v1/a")
    bench.client.xdel(KEYS.requests, ids[1])
    taken, gone = parse_claim(bench.run(claim_call(KEYS, "v1@1", "v1", "v1/b", 0, 10)))
    assert ([entry.entry_id for entry in taken], gone) == ([ids[0], ids[2]], [ids[1]])
    assert bench.client.hget(KEYS.alarms, "lost_pending") == b"1"


# S14 ----------------------------------------------------------------------------------------------------------------------------


def restart_often(server: Any, forget: Any, restarts: int = 1000) -> tuple[Bench, int]:
    """Bare consumers that read one entry and go, every third without settling it; names left when all is settled."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"] * restarts)
    for number in range(restarts):
        ids = read(bench, "v1@1", f"v1/bare{number}", 1)
        if number % 3:
            commit(bench, "v1@1", ids)
        if number % 100 == 99:
            forget(bench)
    with fleet(server) as crew:
        crew.start("v1", 2)
        drained = bench.drain(30)
        forget(bench)
        names = len(bench.client.xinfo_consumers(KEYS.requests, "v1@1"))
    return bench, names if drained else -1


def test_s14_dead_consumers_do_not_pile_up(loaded_redis: Any) -> None:
    """Of 1 000 names only the living remain, and no name went while something was pending under it."""
    bench, names = restart_often(loaded_redis, lambda bench: forget_idle_consumers(bench.client, KEYS, 0.0))
    assert 0 <= names <= 4
    assert bench.check() == []


def test_s14_deleting_a_consumer_with_pending_work_loses_it(loaded_redis: Any) -> None:
    """Mutation: names are deleted without looking. (The audit then adds the lost requests again, and counts them.)"""

    def careless(bench: Bench) -> None:
        for row in bench.client.xinfo_consumers(KEYS.requests, "v1@1"):
            bench.client.xgroup_delconsumer(KEYS.requests, "v1@1", row["name"])

    bench, _ = restart_often(loaded_redis, careless, restarts=300)
    assert problems_of(bench.check(), "alarms", "lost")
    assert bench.readded > 0


def test_s14_forget_keeps_a_consumer_with_pending_work(loaded_redis: Any) -> None:
    """0 = kept while something is pending, 1 = gone once it is settled."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"])
    ids = read(bench, "v1@1", "v1/a")
    assert bench.run(forget_call(KEYS, "v1@1", "v1/a")) == 0
    commit(bench, "v1@1", ids)
    assert bench.run(forget_call(KEYS, "v1@1", "v1/a")) == 1
    assert bench.client.xinfo_consumers(KEYS.requests, "v1@1") == []


# S15 ----------------------------------------------------------------------------------------------------------------------------


def rolling_restart(server: Any, seconds: float, **crew: Any) -> tuple[list[str], float, Fleet]:
    """Three workers replaced one after the other at 200 requests/s; the ledger, p99 of the answer's delay, the fleet."""
    bench = Bench(server)
    bench.route([("v1", 10_000)])
    with fleet(server, options=replace(FAST, min_idle_ms=5000), **crew) as workers:
        workers.start("v1", 3)
        begun = time.monotonic()
        for tick in itertools.count():
            if time.monotonic() - begun > seconds:
                break
            bench.produce([b"slow:0.01"] * 4)
            if tick % 12 == 11:
                oldest = workers.of("v1")[0]
                workers.start("v1")
                oldest.signal(signal.SIGTERM)
            time.sleep(max(0.0, begun + (tick + 1) * 0.02 - time.monotonic()))
        bench.drain(30)
        workers.terminate()
    delays = sorted(_delay(i, f) for i, f in bench.client.xrange(KEYS.predictions))
    return bench.check(), delays[int(len(delays) * 0.99)], workers


def _delay(entry_id: bytes, fields: dict[bytes, bytes]) -> float:
    answered, asked = (int(i.split(b"-")[0]) for i in (entry_id, fields[b"r"]))
    return (answered - asked) / 1000


def test_s15_sigterm_is_graceful(loaded_redis: Any) -> None:
    """A stopped worker finishes, commits, leaves and takes its name with it: nothing waits for min-idle."""
    problems, p99, workers = rolling_restart(loaded_redis, 6)
    print(f"p99 {p99:.3f} s")
    assert problems == []
    assert p99 <= 2.0
    assert {worker.wait() for worker in workers.workers} == {0}
    assert loaded_redis.client().xinfo_consumers(KEYS.requests, "v1@1") == []


def test_s15_leaving_at_once_makes_requests_wait_for_the_lease(loaded_redis: Any) -> None:
    """Mutation: SIGTERM ends the process where it stands."""
    _, p99, _ = rolling_restart(loaded_redis, 6, patch=leave_at_once)
    assert p99 > 2.0


# S16 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [21, *(pytest.param(seed, marks=pytest.mark.long) for seed in (22, 23, 24, 25))])
def test_s16_version_changes_lose_nothing(loaded_redis: Any, seed: int) -> None:
    """Fifty and more promotions, rollbacks and successions under load: exact ledger, exact owners, shares within bounds."""
    bench = Bench(loaded_redis)
    plan = ChaosPlan(seed, requests=9000, kill_every=1e9, stop_every=1e9, change_every=0.17, changes=50)
    with fleet(loaded_redis) as crew:
        chaos = Chaos(bench, crew, plan)
        problems = chaos.run()
    print(f"seed {seed}: {dict(chaos.counts)}")
    assert problems == []
    assert chaos.changes >= 50


def test_s16_without_heirs_version_changes_strand_requests(loaded_redis: Any) -> None:
    """Mutation: a version goes without an heir."""
    bench = Bench(loaded_redis)
    plan = ChaosPlan(
        21, requests=4000, per_second=2000, kill_every=1e9, stop_every=1e9, change_every=0.1, drain_seconds=3, retire_without_heirs=True, delete_within=0.0
    )  # fmt: skip
    with fleet(loaded_redis, handler=slow_handler) as crew:
        assert problems_of(Chaos(bench, crew, plan).run(), "stuck", "not drained")
