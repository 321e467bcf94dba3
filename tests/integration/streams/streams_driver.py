"""What the stream tests share: worker processes, an operator that follows the table of operations, and the ledger check.

Workers are real processes (forked, so that a hundred of them cost little), each with the real consumer on its own connections.
A *mutation* removes one protection: in the Lua source by replacing a text that must be there, in the worker by patching a method.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import random
import signal
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from continual_contract.entries import RequestEntry, decode_prediction
from continual_contract.functions import (
    FunctionCall,
    enqueue_call,
    library_source,
    parse_enqueue,
    parse_route,
    parse_survey,
    route_call,
    survey_call,
)
from continual_contract.ids import hour_of, id_key
from continual_contract.keys import ModelKeys
from continual_contract.routing import Epoch, Group, Routing, parse_routing
from continual_workers.streaming import Consumer, ConsumerOptions, Outcome, Predicted, Refused
from continual_workers.streaming.reaper import ReapOptions, reap_once

KEYS = ModelKeys("tests", "digits")
UID = "uid-1"
ANSWERS_TTL = 7200
FAST = ConsumerOptions(
    batch_size=32, block_ms=200, min_idle_ms=500, heir_interval_seconds=0.1, salt="s", max_lag_seconds=60
)
Patch = Callable[[], None]


def mutate(*replacements: tuple[str, str]) -> str:
    """The library with protections removed; every text must be there once, so that a mutation cannot rot unnoticed."""
    source = library_source()
    for old, new in replacements:
        assert source.count(old) == 1, f"{source.count(old)} times in functions.lua: {old}"
        source = source.replace(old, new)
    return source


# Workers ----------------------------------------------------------------------------------------------------------------------


def plain_handler(requests: Sequence[RequestEntry]) -> list[Outcome]:
    """2 ms per batch; `slow:<seconds>` sleeps, `poison` kills the process, `bad` is refused."""
    time.sleep(0.002)
    return [_outcome(request) for request in requests]


def unhurried_handler(requests: Sequence[RequestEntry]) -> list[Outcome]:
    """15 ms per batch: whoever is killed, stopped or replaced has work in its hands."""
    time.sleep(0.015)
    return [_outcome(request) for request in requests]


def slow_handler(requests: Sequence[RequestEntry]) -> list[Outcome]:
    """50 ms per batch: a group is never quite empty."""
    time.sleep(0.05)
    return [_outcome(request) for request in requests]


def _outcome(request: RequestEntry) -> Outcome:
    if request.data == b"poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if request.data == b"bad":
        return Refused("InvalidImage", "3 bytes instead of 784")
    if request.data.startswith(b"slow:"):
        time.sleep(float(request.data[5:]))
    return Predicted(str(len(request.data) % 10), 0.75)


@dataclass(eq=False)
class Worker:
    """One worker process."""

    version: str
    pid: int
    name: str
    stopped_until: float | None = None
    exit_status: int | None = None

    def signal(self, number: int) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    def is_alive(self) -> bool:
        if self.exit_status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_status = os.waitstatus_to_exitcode(status)
        return self.exit_status is None

    def wait(self, timeout: float = 20) -> int:
        """Exit status. Fails the test when the process does not end."""
        deadline = time.monotonic() + timeout
        while self.is_alive():
            assert time.monotonic() < deadline, f"worker {self.name} did not end within {timeout} s"
            time.sleep(0.01)
        assert self.exit_status is not None
        return self.exit_status

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()


class Fleet:
    """Starts workers and ends all of them with the test."""

    def __init__(
        self,
        server: Any,
        options: ConsumerOptions = FAST,
        handler: Callable[[Sequence[RequestEntry]], Sequence[Outcome]] = plain_handler,
        patch: Patch | None = None,
    ) -> None:
        self._server, self.options, self._handler, self._patch = server, options, handler, patch
        self.workers: list[Worker] = []
        self._started = 0

    def start(self, version: str, number: int = 1) -> list[Worker]:
        new = [self._fork(version) for _ in range(number)]
        self.workers += new
        return new

    def of(self, version: str) -> list[Worker]:
        return [w for w in self.workers if w.version == version and w.is_alive()]

    def running(self) -> list[Worker]:
        return [w for w in self.workers if w.stopped_until is None and w.is_alive()]

    def _fork(self, version: str) -> Worker:
        self._started += 1
        name = f"w{self._started}"
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the child knows what to do with it
        pid = os.fork()
        if pid == 0:
            self._work(version, name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return Worker(version, pid, name)

    def _work(self, version: str, name: str) -> None:
        """The child: never returns."""
        status = 1
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            logging.getLogger().handlers.clear()
            logging.basicConfig(
                filename=self._server.dir / "workers.log", format=f"{name} %(message)s %(exc_info)s", force=True
            )
            logging.raiseExceptions = False
            stop = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if self._patch:
                self._patch()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            Consumer(self._server.connect, KEYS, version, "0123456789ab", name, self.options, self._handler).run(stop)
            status = 0
        except BaseException:
            logging.getLogger("worker").exception("worker died")
        finally:
            os._exit(status)

    def log(self) -> str:
        path = self._server.dir / "workers.log"
        return path.read_text() if path.exists() else ""

    def terminate(self, timeout: float = 20) -> None:
        """SIGTERM to all, and wait."""
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait(timeout)

    def close(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        for worker in self.workers:
            worker.wait()


@contextlib.contextmanager
def fleet(server: Any, **arguments: Any) -> Iterator[Fleet]:
    crew = Fleet(server, **arguments)
    try:
        yield crew
    finally:
        crew.close()


# Requests and routes -----------------------------------------------------------------------------------------------------------


class Bench:
    """One model under test: its requests, its routes and what they must come to."""

    def __init__(self, server: Any) -> None:
        self.client: redis.Redis = server.client()
        self.accepted: dict[str, bytes] = {}
        """Request id → partition key."""
        self.epochs: dict[str, Epoch] = {}
        """By `after`; one that held no entry was replaced."""
        self.groups: dict[str, Group] = {}
        self.takeovers: list[tuple[str, str, str]] = []
        """(dead version, heir, last prediction id when the heir took over)."""
        self.gen = 0
        self.readded = 0
        self._afters: list[tuple[tuple[int, int], str]] = []

    def run(self, call: FunctionCall) -> Any:
        return self.client.execute_command(*call.command())

    def produce(self, payloads: Sequence[bytes], key: bytes = b"") -> list[str]:
        fields: list[dict[str | bytes, Any]] = [{"d": p, **({"k": key} if key else {})} for p in payloads]
        pipe = self.client.pipeline(transaction=False)
        for each in fields:
            pipe.execute_command(*enqueue_call(KEYS, each).command())
        ids = [str(parse_enqueue(reply).entry_id) for reply in pipe.execute()]
        self.accepted.update(dict.fromkeys(ids, key))
        return ids

    def route(
        self,
        shares: Sequence[tuple[str, int]],
        *,
        shadow: Sequence[str] = (),
        heirs: dict[str, str] | None = None,
        shadow_bp: int = 10_000,
    ) -> None:
        """One routing change, and what it means for the check afterwards, seen in the same transaction."""
        pipe = self.client.pipeline(transaction=True)
        bp = shadow_bp if shadow else 0
        pipe.execute_command(*route_call(KEYS, self.gen, 1, UID, shares, shadow, bp, "s", heirs).command())
        pipe.xrevrange(KEYS.predictions, count=1)
        pipe.get(KEYS.routing)
        reply, newest, raw = pipe.execute()
        self.gen = parse_route(reply).gen
        last = newest[0][0].decode() if newest else "0-0"
        self.takeovers += [(dead, heir, last) for dead, heir in (heirs or {}).items()]
        self.remember(parse_routing(raw))

    def remember(self, table: Routing) -> None:
        self.epochs.update({str(epoch.after): epoch for epoch in table.epochs})
        self.groups.update({str(name): group for name, group in table.groups.items()})

    def reap(self, **changes: Any) -> Any:
        result = reap_once(self.client, KEYS, ReapOptions(answers_ttl_seconds=ANSWERS_TTL, **changes))
        self.readded += result.readded
        return result

    def predicted(self) -> int:
        return int(self.client.xlen(KEYS.predictions))

    def wait_for(self, condition: Callable[[], bool], timeout: float, what: str = "") -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, what or "condition not met in time"
            time.sleep(0.02)

    def is_idle(self) -> bool:
        """Nothing undelivered, nothing pending, in any group."""
        states = parse_survey(self.run(survey_call(KEYS))).values()
        return all(state.backlog == 0 for state in states)

    def drain(self, timeout: float) -> bool:
        """Reap until every group is idle and every closed one destroyed; False when that does not happen in time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.reap()
            states = parse_survey(self.run(survey_call(KEYS))).values()
            if all(state.backlog == 0 and state.until is None for state in states):
                return True
            time.sleep(0.05)
        return False

    # The ledger ---------------------------------------------------------------------------------------------------------------

    def epoch_of(self, entry_id: str) -> Epoch:
        """The epoch whose `after` is the largest below the id, over all epochs there ever were."""
        if len(self._afters) != len(self.epochs):
            self._afters = sorted((id_key(after), after) for after in self.epochs)
        return self.epochs[self._afters[bisect_left(self._afters, (id_key(entry_id), "")) - 1][1]]

    def owner_of(self, entry_id: str, key: bytes) -> str:
        return str(self.epoch_of(entry_id).owner(entry_id, key))

    def check(self) -> list[str]:
        """Every way in which the run broke its promise; empty when accepted = predictions + dead letters + pending, and more."""
        return Ledger(self).problems()


UNLIKELY = 1e-12
"""Request ids hold the time, so each run draws its shares anew: a thousand shares looked at convict an honest run once in a billion."""


def chance_at_most(seen: int, count: int, share: float) -> float:
    """Bound of the probability that a binomial draw lies as far from its share as `seen`, on its side (Chernoff and Hoeffding)."""
    observed = seen / count
    if share in {0.0, 1.0}:
        return float(observed == share)
    parts = ((observed, share), (1 - observed, 1 - share))
    return math.exp(-count * sum(part * math.log(part / whole) for part, whole in parts if part))


@dataclass
class Ledger:
    """accepted = predictions + dead letters + pending, by request id; owners, heirs, shares and answers besides."""

    bench: Bench
    found: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        client = self.bench.client
        rows = [(i.decode(), decode_prediction(f)) for i, f in client.xrange(KEYS.predictions)]
        dead = Counter(f[b"r"].decode() for _, f in client.xrange(KEYS.dead))
        pending = self._pending()
        self._count(Counter(p.request_id for _, p in rows), dead, pending)
        self._owners(rows)
        self._takeovers(rows)
        self._shares(rows)
        self._answers(rows)
        self._alarms()
        return self.found

    def _say(self, what: str, ids: Sequence[str]) -> None:
        if ids:
            self.found.append(f"{len(ids)} {what}: {list(ids)[:3]}")

    def _pending(self) -> set[str]:
        """Ids that some group has still to settle."""
        waiting: set[str] = set()
        client = self.bench.client
        for name in client.hkeys(KEYS.serve):
            waiting |= {
                row["message_id"].decode() for row in client.xpending_range(KEYS.requests, name, "-", "+", 100_000)
            }
        states = parse_survey(self.bench.run(survey_call(KEYS)))
        for state in states.values():
            if state.undelivered:
                found = client.xrange(KEYS.requests, f"({state.passed}", "+")
                waiting |= {i.decode() for i, _ in found}
        return waiting

    def _count(self, predictions: Counter[str], dead: Counter[str], pending: set[str]) -> None:
        accepted = self.bench.accepted
        settled = predictions + dead
        self._say("duplicates", [i for i, n in settled.items() if n > 1])
        self._say("lost", [i for i in accepted if i not in settled and i not in pending])
        self._say("stuck", [i for i in accepted if i not in settled and i in pending])
        self._say("answers to nothing", [i for i in settled if i not in accepted])

    def _owners(self, rows: Sequence[tuple[str, Any]]) -> None:
        heirs = {dead: heir for dead, heir, _ in self.bench.takeovers}
        wrong = []
        for _, p in rows:
            if p.request_id not in self.bench.accepted:
                continue
            rightful = self.bench.groups[self.bench.owner_of(p.request_id, self.bench.accepted[p.request_id])].version
            line = [str(rightful)]
            while line[-1] in heirs:
                line.append(heirs[line[-1]])
            expected = "owner" if p.version == rightful else "heir"
            if p.version not in line or p.why != expected:
                wrong.append(p.request_id)
        self._say("answered by a version that is neither owner nor heir", wrong)

    def _takeovers(self, rows: Sequence[tuple[str, Any]]) -> None:
        for dead, _, last in self.bench.takeovers:
            late = [p.request_id for i, p in rows if p.version == dead and id_key(i) > id_key(last)]
            self._say(f"published by {dead} after its heir took over", late)

    def _shares(self, rows: Sequence[tuple[str, Any]]) -> None:
        """Observed share of every group in every epoch, within what one run in a billion exceeds."""
        seen: dict[tuple[str, str], int] = Counter()
        total: dict[str, int] = Counter()
        for _, p in rows:
            epoch = self.bench.epoch_of(p.request_id)
            total[epoch.after] += 1
            seen[epoch.after, str(epoch.owner(p.request_id, self.bench.accepted.get(p.request_id, b"")))] += 1
        for after, n in total.items():
            for group, width in self.bench.epochs[after].shares:
                answered, share = seen[after, str(group)], width / 10_000
                if chance_at_most(answered, n, share) < UNLIKELY:
                    self.found.append(f"{group} answered {answered} of {n}, share {share}")

    def _answers(self, rows: Sequence[tuple[str, Any]]) -> None:
        """Every prediction can be joined, and shadow answers are those of a shadow that does not own the request."""
        stored: dict[str, bytes] = {}
        for hour in {hour_of(i) for i in self.bench.accepted}:
            found = self.bench.client.hgetall(KEYS.answers(hour))
            stored.update({k.decode(): v for k, v in found.items()})
        self._say(
            "not joinable",
            [p.request_id for _, p in rows if not stored.get(p.request_id, b"").startswith(p.version.encode() + b" ")],
        )
        self._say("shadow answers of no shadow", [name for name in stored if "/" in name and not self._is_shadow(name)])

    def _is_shadow(self, name: str) -> bool:
        entry_id, _, version = name.partition("/")
        epoch = self.bench.epoch_of(entry_id)
        shadows = {str(self.bench.groups[group].version) for group in epoch.shadow}
        owner = self.bench.groups[epoch.owner(entry_id, self.bench.accepted[entry_id])].version
        return version in shadows and version != owner

    def _alarms(self) -> None:
        alarms = self.bench.client.hgetall(KEYS.alarms)
        if alarms:
            self.found.append(f"alarms {alarms}")


# The chaos ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChaosPlan:
    seed: int
    requests: int = 20_000
    per_second: int = 900
    kill_every: float = 0.25
    stop_every: float = 0.25
    change_every: float = 0.3
    reap_every: float = 0.5
    drain_seconds: float = 45.0
    changes: int = 0
    """Go on until there were so many routing changes."""
    delete_within: float = 1.5
    retire_without_heirs: bool = False
    workers_per_version: int = 2


class Chaos:
    """Requests, kills, stops and routing changes, drawn from one seeded generator."""

    def __init__(self, bench: Bench, crew: Fleet, plan: ChaosPlan) -> None:
        self.bench, self.crew, self.plan = bench, crew, plan
        self.random = random.Random(plan.seed)
        self.counts: Counter[str] = Counter()
        self.stable, self.canary, self.warm = "v1", "", ""
        self.last_version = 1
        self._deletions: list[tuple[float, Worker]] = []
        self._produced = 0
        self.changes = 0

    def run(self) -> list[str]:
        """The whole run; returns what is wrong afterwards."""
        self.crew.start("v1", self.plan.workers_per_version)
        self.bench.produce([b"early"] * 50)
        self.bench.route([("v1", 10_000)])
        begun = time.monotonic()
        due = {"kill": begun, "stop": begun, "change": begun + 0.3, "reap": begun}
        while self._produced < self.plan.requests or self.changes < self.plan.changes:
            self._tick(time.monotonic(), begun, due)
            time.sleep(0.01)
        self._calm()
        drained = self.bench.drain(self.plan.drain_seconds)
        problems = self.bench.check()
        return problems if drained else [*problems, "not drained"]

    def _tick(self, now: float, begun: float, due: dict[str, float]) -> None:
        target = min(self.plan.requests, int((now - begun) * self.plan.per_second))
        if target > self._produced:
            number = min(target - self._produced, 200)
            self.bench.produce([b"x" * self.random.randrange(20, 90) for _ in range(number)])
            self._produced += number
        self._keep_up(now)
        acts = (
            ("kill", self._kill, self.plan.kill_every), ("stop", self._pause, self.plan.stop_every),
            ("change", self._change, self.plan.change_every), ("reap", self._reap, self.plan.reap_every),
        )  # fmt: skip
        for name, act, every in acts:
            if now >= due[name]:
                due[name] = max(due[name] + every, now)
                act()

    def _reap(self) -> None:
        self.bench.reap()

    def _keep_up(self, now: float) -> None:
        """What a cluster does: wake who slept long enough, end who was deleted, replace who died."""
        for worker in self.crew.workers:
            if worker.stopped_until is not None and now >= worker.stopped_until:
                worker.stopped_until = None
                worker.signal(signal.SIGCONT)
        for moment, worker in list(self._deletions):
            if now >= moment:
                self._deletions.remove((moment, worker))
                worker.signal(signal.SIGCONT)
                worker.signal(self.random.choice([signal.SIGKILL, signal.SIGTERM]))
        deleted = {worker for _, worker in self._deletions}
        for version in filter(None, (self.stable, self.canary, self.warm)):
            alive = [w for w in self.crew.of(version) if w not in deleted]
            if len(alive) < self.plan.workers_per_version:
                self.crew.start(version, self.plan.workers_per_version - len(alive))
        self.crew.workers = [w for w in self.crew.workers if w.is_alive()]

    def _kill(self) -> None:
        """A stopped worker survives kills: it shall come back as a zombie."""
        if alive := self.crew.running():
            self.random.choice(alive).signal(signal.SIGKILL)
            self.counts["kill -9"] += 1

    def _pause(self) -> None:
        if alive := self.crew.running():
            worker = self.random.choice(alive)
            worker.stopped_until = time.monotonic() + math.exp(self.random.uniform(math.log(0.1), math.log(5)))
            worker.signal(signal.SIGSTOP)
            self.counts["SIGSTOP"] += 1

    # The table of operations ----------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        """One row of the table that is possible now."""
        if self.warm:
            choices = [self._retire, self._roll_back_promoted]
        elif self.canary:
            choices = [self._weigh, self._weigh, self._promote, self._roll_back, self._supersede]
        else:
            choices = [self._add_canary]
        act = self.random.choice(choices)
        act()
        self.changes += 1
        self.counts[act.__name__.strip("_")] += 1

    def _new_version(self) -> str:
        self.last_version += 1
        version = f"v{self.last_version}"
        self.crew.start(version, self.plan.workers_per_version)
        return version

    def _delete(self, version: str) -> None:
        """Pods go a while after the route that made them useless: some of them wake up in between."""
        for worker in self.crew.of(version):
            self._deletions.append((time.monotonic() + self.random.uniform(0, self.plan.delete_within), worker))

    def _both(self) -> list[str]:
        return [self.stable, self.canary or self.warm]

    def _add_canary(self) -> None:
        self.canary = self._new_version()
        self.bench.route([(self.stable, 10_000), (self.canary, 0)], shadow=self._both())

    def _weigh(self) -> None:
        width = self.random.choice([500, 1000, 2500, 5000])
        self.bench.route([(self.stable, 10_000 - width), (self.canary, width)], shadow=self._both())

    def _promote(self) -> None:
        self.stable, self.warm, self.canary = self.canary, self.stable, ""
        self.bench.route([(self.stable, 10_000), (self.warm, 0)], shadow=self._both())

    def _roll_back(self) -> None:
        gone, self.canary = self.canary, ""
        self._without(gone)

    def _roll_back_promoted(self) -> None:
        gone, self.stable, self.warm = self.stable, self.warm, ""
        self._without(gone)

    def _retire(self) -> None:
        gone, self.warm = self.warm, ""
        self._without(gone)

    def _without(self, gone: str) -> None:
        heirs = {} if self.plan.retire_without_heirs else {gone: self.stable}
        self.bench.route([(self.stable, 10_000)], heirs=heirs)
        self._delete(gone)

    def _supersede(self) -> None:
        gone, self.canary = self.canary, self._new_version()
        heirs = {} if self.plan.retire_without_heirs else {gone: self.stable}
        self.bench.route([(self.stable, 10_000), (self.canary, 0)], shadow=self._both(), heirs=heirs)
        self._delete(gone)

    def _calm(self) -> None:
        """No more faults; what was deleted goes, what was stopped wakes, what was killed is replaced."""
        for worker in self.crew.workers:
            worker.stopped_until = None
            worker.signal(signal.SIGCONT)
        self._keep_up(math.inf)
