"""D4, S9, S10 and restarts at the front door: what was accepted is answered, what cannot be is refused at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from continual_contract.functions import library_source
from continual_contract.keys import ModelKeys
from gateway_stand import TOKENS, Stand, first, free_port, picture, pixels, running, sabotage

KEYS = ModelKeys("default", "digits")
GONE_SECONDS = 2.0
TRIES = 5
"""Others on the machine only add to an answer's time: the quickest of a few tries counts."""


@pytest.fixture(scope="module")
def module_stand(tmp_path_factory):
    """A stand with a worker and a gateway, which the tests of this module may break, and leave well."""
    with running(tmp_path_factory.mktemp("outages")) as stand:
        yield stand


@pytest.fixture
def own(module_stand):
    yield module_stand
    for process in (module_stand.workers[0], module_stand.redis_process):
        process.send_signal(signal.SIGCONT)


def timed(call):
    began = time.monotonic()
    return call(), time.monotonic() - began


def test_without_redis_every_answer_is_503_within_two_seconds_and_it_recovers(own):
    """D4. Pins API and page: refused at once, alive, not ready, and well again by itself; also while Redis hangs instead of being gone."""
    with own.api() as api:
        assert first(own.infer(api, pixels(1))) == "class 1"
        own.kill_redis()
        _refused_at_once(own, api)
        assert api.get("/healthz").status_code == 200
        assert api.get("/readyz").status_code == 200, "a Service without replicas has no pages"
        assert api.get("/", headers={"accept": "text/html"}).status_code == 200
        own.start_redis()
        own.wait(lambda: api.get("/v2/health/ready").status_code == 200, 60)
        own.wait(lambda: own.infer(api, pixels(2)).status_code == 200, 60)
        assert first(own.infer(api, pixels(3))) == "class 3"


def test_a_redis_that_hangs_is_as_good_as_gone(own):
    """D4. Pins the timeouts: the socket is open, and nothing comes."""
    with own.api() as api:
        assert first(own.infer(api, pixels(1))) == "class 1"
        own.redis_process.send_signal(signal.SIGSTOP)
        try:
            _refused_at_once(own, api)
        finally:
            own.redis_process.send_signal(signal.SIGCONT)
        own.wait(lambda: own.infer(api, pixels(2)).status_code == 200, 60)


def _refused_at_once(own, api):
    calls = {
        "infer": lambda: own.infer(api, pixels(1)),
        "image": lambda: own.infer(api, picture(1), "image/png"),
        "label": lambda: api.post("/v1/models/digits/labels", json={"id": "1-1", "class": "class 1"}),
        "prediction": lambda: api.get("/v1/models/digits/predictions/1-1"),
        "queue": lambda: api.get("/v1/models/digits/queue"),
        "ready": lambda: api.get("/v2/health/ready"),
    }
    for name, call in calls.items():
        answer, seconds = _quickest(call)
        assert answer.status_code == 503, (name, answer.text)
        assert seconds <= GONE_SECONDS, (name, seconds)
        if name in {"infer", "label"}:
            assert answer.headers["retry-after"]
            assert answer.json()["reason"] == "RedisUnavailable"


def _quickest(call):
    answer, seconds = timed(call)
    for _ in range(TRIES - 1):
        if seconds <= GONE_SECONDS:
            break
        answer, again = timed(call)
        seconds = min(seconds, again)
    return answer, seconds


PATIENT = """
from dataclasses import replace
from continual_gateway import answers, settings, wire

read = settings.read_settings

def patient(env):
    found = read(env)
    return replace(found, limits=replace(found.limits, redis_seconds=6.0))

answers.GONE_SECONDS = wire.CONNECT_SECONDS = 6.0
settings.read_settings = patient
"""


def test_without_its_limits_the_gateway_would_wait_for_redis(own, tmp_path, monkeypatch):
    """Mutation check of D4: the same claims are red of a gateway that is patient with a Redis that hangs."""
    monkeypatch.setitem(globals(), "TRIES", 1)
    own.restart_gateway(**sabotage(tmp_path / "mutant", PATIENT))
    with own.api() as api:
        assert first(own.infer(api, pixels(1))) == "class 1"
        own.redis_process.send_signal(signal.SIGSTOP)
        with pytest.raises(AssertionError):
            _refused_at_once(own, api)
        own.redis_process.send_signal(signal.SIGCONT)
    own.restart_gateway()


COMMIT, ENQUEUE = "register('commit', commit, { 'allow-oom' })", "register('enqueue', enqueue, {})"


def full_redis_drains(own, api):
    """S10. A worker that stands still while twelve requests are accepted and Redis gets full; then it goes on, with Redis as full as before."""
    ids: list[str] = []
    worker = own.workers[0]
    worker.send_signal(signal.SIGSTOP)
    before = own.ledger()
    asking = [threading.Thread(target=_ask_into, args=(ids, own, n), daemon=True) for n in range(12)]
    for thread in asking:
        thread.start()
    own.wait(lambda: own.ledger()[0] == before[0] + 12)
    own.client.config_set("maxmemory", "1mb")
    worker.send_signal(signal.SIGCONT)
    own.wait(lambda: own.ledger()[1] == before[1] + 12, 8)
    for thread in asking:
        thread.join(20)
    assert len(set(ids)) == 12
    refused = own.infer(api, pixels(50))
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"]
    assert own.client.config_get("maxmemory")["maxmemory"] == "1048576"


def _ask_into(ids, own, n):
    with own.api() as api:
        answer = own.infer(api, pixels(n))
        if answer.status_code == 200:
            ids.append(first(answer, "request_id"))


@pytest.fixture
def roomy(own):
    """Whatever the test did, Redis has room and its own functions again, and what was accepted is answered."""
    yield own
    own.workers[0].send_signal(signal.SIGCONT)
    own.client.config_set("maxmemory", "0")
    own.client.function_load(library_source(), replace=True)
    own.wait(lambda: own.ledger()[3] == 0, 30)


def test_a_full_redis_takes_nothing_new_and_gives_what_it_took(roomy):
    """S10 at the front door. Pins 503 for what cannot be accepted, that commits go on, and that requests are taken again when there is room."""
    with roomy.api() as api:
        full_redis_drains(roomy, api)
        roomy.client.config_set("maxmemory", "0")
        assert first(roomy.infer(api, pixels(3))) == "class 3"
    _settled(roomy)


@pytest.mark.parametrize(
    ("mine", "mutant"),
    [(COMMIT, "register('commit', commit, {})"), (ENQUEUE, "register('enqueue', enqueue, { 'allow-oom' })")],
    ids=["commit", "enqueue"],
)
def test_without_either_flag_a_full_redis_would_not_drain(roomy, mine, mutant):
    """Mutation check of S10: commits that are refused too, and requests that are taken although there is no room."""
    assert mine in library_source()
    roomy.client.function_load(library_source().replace(mine, mutant), replace=True)
    with roomy.api() as api, pytest.raises(AssertionError):
        full_redis_drains(roomy, api)


Seen = list[tuple[int, str, str]]
"""Status, request id and Retry-After of each answer."""


async def flood(stand, count, seen: Seen, outstanding=64):
    """What is answered to `count` requests, `outstanding` at once."""
    numbers = iter(range(count))
    headers = {"authorization": f"Bearer {TOKENS['viewer']}", "content-type": "application/octet-stream"}

    async def one(client):
        for n in numbers:
            answer = await client.post("/v2/models/digits/infer", content=pixels(n))
            found = answer.json()["outputs"][3]["data"][0] if answer.status_code == 200 else ""
            seen.append((answer.status_code, found, answer.headers.get("retry-after", "")))

    limits = httpx.Limits(max_connections=outstanding)
    async with httpx.AsyncClient(base_url=stand.url, headers=headers, timeout=60, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(outstanding)))


@contextlib.contextmanager
def standing_still(own, until):
    """The worker does nothing before this is so."""
    worker = own.workers[0]
    worker.send_signal(signal.SIGSTOP)

    def wake():
        try:
            own.wait(until)
        finally:
            worker.send_signal(signal.SIGCONT)

    waking = threading.Thread(target=wake)
    waking.start()
    yield
    waking.join()


def test_back_pressure_is_429_and_what_was_accepted_is_served(own):
    """S9. Pins, with a worker that stands still and a small bound: some are refused with Retry-After, every accepted one is answered."""
    own.restart_gateway(CONTINUAL_GATEWAY_BACKLOG="20")
    before, seen = own.ledger()[0], Seen()
    with standing_still(own, lambda: any(status == 429 for status, _, _ in seen)):
        asyncio.run(flood(own, 600, seen))
    served = [request_id for status, request_id, _ in seen if status == 200]
    refused = [retry for status, _, retry in seen if status == 429]
    assert len(served) + len(refused) == 600
    assert refused
    assert all(refused)
    assert len(set(served)) == len(served)
    _settled(own)
    assert own.ledger()[0] == before + len(served)


def test_without_a_bound_nothing_would_be_refused(own):
    """Mutation check of S9: the same flood and a bound of a million is refused nothing."""
    own.restart_gateway(CONTINUAL_GATEWAY_BACKLOG="1000000")
    before, seen = own.ledger()[0], Seen()
    with standing_still(own, lambda: own.ledger()[0] >= before + 64):
        asyncio.run(flood(own, 200, seen))
    assert {status for status, _, _ in seen} == {200}


@dataclass
class Customers:
    """Programs that ask two gateways in turn, under a key of their own for each request, until each is answered."""

    stand: Stand
    urls: tuple[str, ...]
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    answers: dict[str, set[str]] = field(default_factory=dict)
    """Request ids that each key was told."""
    odd: list[object] = field(default_factory=list)
    """Whatever came instead of an answer or a broken connection."""
    broken: int = 0
    """Requests whose connection ended before their answer."""

    def run(self):
        """One program."""
        headers = {"authorization": f"Bearer {TOKENS['viewer']}", "content-type": "application/octet-stream"}
        with contextlib.ExitStack() as opened:
            clients = [
                opened.enter_context(httpx.Client(base_url=url, headers=headers, timeout=40)) for url in self.urls
            ]
            while not self.stop.is_set():
                self._ask(clients, next(self.numbers))
                time.sleep(0.02)

    def _ask(self, clients, n):
        key = f"{self.urls[1]}/{n}"
        for attempt in range(400):
            try:
                answer = clients[(n + attempt) % len(clients)].post(
                    "/v2/models/digits/infer", content=pixels(n), headers={"idempotency-key": key}
                )
            except httpx.ConnectError:
                time.sleep(0.05)  # nobody listens there now
                continue
            except httpx.HTTPError:
                self.broken += 1
                continue
            if answer.status_code == 200 and first(answer) == f"class {n % 10}":
                self.answers.setdefault(key, set()).add(first(answer, "request_id"))
            else:
                self.odd.append((key, answer.status_code, answer.text))
            return
        self.odd.append((key, "never answered", ""))


def two_gateways_under_load(own, end, **env):
    """Both gateways are ended in turn while sixteen programs ask; afterwards every key has one id, and every id one prediction."""
    port = free_port()
    own.restart_gateway(**env)
    other = own.start_another(port, **env)
    accepted_before, predicted_before = own.ledger()[0], len(own.predictions())
    customers = Customers(own, (own.url, f"http://127.0.0.1:{port}"))
    threads = [threading.Thread(target=customers.run, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        _end_in_mid_request(own, other, end)
        other = own.start_another(port, **env)
        _end_in_mid_request(own, own.gateway, end)
        own.start_gateway(**env)
        _wait_for_more(own, 40)
    finally:
        customers.stop.set()
        for thread in threads:
            thread.join(60)
        other.kill()
        other.wait()
    assert customers.odd == []
    ids = [request_id for told in customers.answers.values() for request_id in told]
    assert len(ids) == len(set(ids)) == len(customers.answers)
    counted = Counter(own.predictions()[predicted_before:])
    assert {request_id: counted[request_id] for request_id in ids} == dict.fromkeys(ids, 1)
    _settled(own)
    assert own.ledger()[0] == accepted_before + len(ids)
    return customers


def _end_in_mid_request(own, process, end):
    """The worker stands still until nearly all programs wait for it: whoever ends a gateway then, ends it with requests in its hands."""
    _wait_for_more(own, 40)
    own.workers[0].send_signal(signal.SIGSTOP)
    own.wait(lambda: own.ledger()[0] - own.ledger()[1] - own.ledger()[2] >= 14, 60)
    end(process)
    own.workers[0].send_signal(signal.SIGCONT)
    process.wait(30)


def _wait_for_more(own, count):
    already = own.ledger()[1]
    own.wait(lambda: own.ledger()[1] >= already + count, 90)


def test_gateways_that_are_told_to_end_lose_no_request(own):
    """Pins SIGTERM of each of two gateways under load: every accepted request has exactly one prediction, by its id, and its sender got it."""
    two_gateways_under_load(own, subprocess.Popen.terminate)


def test_gateways_that_are_killed_lose_no_accepted_request(own):
    """Pins kill -9 of each of two gateways under load: connections break, and the keys find every request again."""
    assert two_gateways_under_load(own, subprocess.Popen.kill).broken >= 2


KEYLESS = """
from continual_gateway import answers

call = answers.enqueue_call
answers.enqueue_call = lambda keys, fields, caller_key=None, *rest: call(keys, fields, None, *rest)
"""


def test_without_the_callers_key_a_killed_gateway_would_ask_twice(own, tmp_path):
    """Mutation check of the above: a gateway that forgets the key makes two requests of one."""
    with pytest.raises(AssertionError):
        two_gateways_under_load(own, subprocess.Popen.kill, **sabotage(tmp_path / "mutant", KEYLESS))
    own.restart_gateway()


HURRIED = """
from continual_gateway import server

server.SHUTDOWN_SECONDS = 0
"""


def answered_before_the_end(own, patience=1.5, **env):
    """What became of eight requests that were in a gateway's hands when it was told to end; the worker sleeps so long, or until it has ended."""
    own.restart_gateway(**env)
    own.workers[0].send_signal(signal.SIGSTOP)
    before, seen = own.ledger()[0], list[object]()

    def ask(n):
        try:
            with own.api() as api:
                seen.append(own.infer(api, pixels(n)).status_code)
        except httpx.HTTPError as error:
            seen.append(type(error).__name__)

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    own.wait(lambda: own.ledger()[0] == before + 8)
    own.gateway.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        own.gateway.wait(patience)
    own.workers[0].send_signal(signal.SIGCONT)
    for thread in threads:
        thread.join(30)
    own.gateway.wait(30)
    own.start_gateway()
    return seen


def test_what_a_gateway_has_in_its_hands_it_answers_before_it_ends(own):
    """Pins the graceful end: nothing accepted is given up, although the answers come only after the signal."""
    assert answered_before_the_end(own) == [200] * 8


def test_without_patience_at_the_end_it_would_not(own, tmp_path):
    """Mutation check of the above."""
    assert answered_before_the_end(own, 20, **sabotage(tmp_path / "mutant", HURRIED)) != [200] * 8


def _settled(stand):
    """The ledger check: accepted = predictions + dead letters, nothing pending."""
    stand.wait(lambda: stand.ledger()[3] == 0)
    accepted, predictions, dead, _ = stand.ledger()
    assert accepted == predictions + dead


def test_watchers_do_not_hold_up_the_end(own):
    """Pins that a stream of events, which nobody would end, ends by itself on SIGTERM."""
    own.restart_gateway()
    with own.api() as api, api.stream("GET", "/v1/models/digits/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        began = time.monotonic()
        own.gateway.terminate()
        assert own.gateway.wait(20) == 0
        assert time.monotonic() - began < 10
        list(lines)
    own.start_gateway()


def test_a_gateway_killed_in_mid_request_leaves_it_to_be_answered(own):
    """Pins kill -9: the request is in the stream, is answered, and its caller's key finds it again through the next gateway."""
    before, worker = own.ledger()[0], own.workers[0]
    worker.send_signal(signal.SIGSTOP)
    answer: list[object] = []

    def ask():
        with own.api() as api:
            try:
                answer.append(own.infer(api, pixels(4), **{"idempotency-key": "order-9"}))
            except httpx.HTTPError as error:
                answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    own.wait(lambda: own.client.exists(KEYS.seen("order-9")) == 1)
    own.gateway.kill()
    own.gateway.wait()
    asking.join(30)
    assert isinstance(answer[0], httpx.HTTPError)
    worker.send_signal(signal.SIGCONT)
    own.start_gateway()
    with own.api() as api:
        again = own.infer(api, pixels(4), **{"idempotency-key": "order-9"})
    assert first(again) == "class 4"
    assert own.ledger()[0] == before + 1
    _settled(own)


def test_an_answer_that_does_not_come_is_504_with_the_id_to_ask_later(own):
    """Pins that an accepted request is never told as lost."""
    own.restart_gateway(CONTINUAL_GATEWAY_ANSWER_SECONDS="0.5")
    own.workers[0].send_signal(signal.SIGSTOP)
    with own.api() as api:
        late = own.infer(api, pixels(5))
        assert late.status_code == 504
        request_id = late.json()["id"]
        assert api.get(f"/v1/models/digits/predictions/{request_id}").json()["state"] == "waiting"
        own.workers[0].send_signal(signal.SIGCONT)
        own.wait(lambda: api.get(f"/v1/models/digits/predictions/{request_id}").json()["state"] == "answered")


def test_a_request_that_becomes_a_dead_letter_is_told_as_refused(own):
    """Pins that who waits hears the reason at once, not after the time limit: a dead letter as the worker writes it for wrong bytes."""
    own.restart_gateway()
    with own.api() as api:
        first(own.infer(api, pixels(1)))
        asked: list[httpx.Response] = []
        before = own.ledger()[0]
        worker = own.workers[0]
        worker.send_signal(signal.SIGSTOP)
        asking = threading.Thread(target=lambda: asked.append(own.infer(api, pixels(1))), daemon=True)
        asking.start()
        own.wait(lambda: own.ledger()[0] == before + 1)
        ((entry_id, _),) = own.client.xrevrange(KEYS.requests, count=1)
        own.client.xadd(
            KEYS.dead, {"r": entry_id, "reason": "InvalidImage", "message": "has the wrong length", "v": "v1", "t": 1}
        )
        asking.join(30)
        worker.send_signal(signal.SIGCONT)
    assert asked[0].status_code == 400
    assert "wrong length" in asked[0].json()["error"]
