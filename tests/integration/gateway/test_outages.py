"""D4, S9, S10 and restarts at the front door: what was accepted is answered, what cannot be is refused at once."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import httpx
import pytest
from continual_contract.keys import ModelKeys
from gateway_stand import TOKENS, Stand, first, picture, pixels

KEYS = ModelKeys("default", "digits")
GONE_SECONDS = 2.0
SLACK_SECONDS = 1.0
"""For a machine whose cores are shared; the goal is two seconds."""


@pytest.fixture(scope="module")
def module_stand(tmp_path_factory):
    """A stand with a worker and a gateway, which the tests of this module may break, and leave well."""
    stand = Stand(tmp_path_factory.mktemp("outages"))
    try:
        stand.start_redis()
        stand.apply()
        stand.serve()
        stand.configure()
        stand.start_gateway()
        yield stand
    finally:
        stand.close()


@pytest.fixture
def own(module_stand):
    yield module_stand
    for process in (module_stand.workers[0], module_stand.redis_process):
        process.send_signal(signal.SIGCONT)


def restart(stand, **env):
    """The gateway with other bounds."""
    stand.gateway.kill()
    stand.gateway.wait()
    stand.start_gateway(**env)


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
        own.wait(lambda: api.get("/v2/health/ready").status_code == 200, 15)
        own.wait(lambda: own.infer(api, pixels(2)).status_code == 200, 20)
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
        own.wait(lambda: own.infer(api, pixels(2)).status_code == 200, 20)


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
        answer, seconds = timed(call)
        assert answer.status_code == 503, (name, answer.text)
        assert seconds <= GONE_SECONDS + SLACK_SECONDS, (name, seconds)
        if name in {"infer", "label"}:
            assert answer.headers["retry-after"]
            assert answer.json()["reason"] == "RedisUnavailable"


def test_a_full_redis_refuses_new_requests_and_recovers(own):
    """S10 at the front door. Pins 503 for what cannot be accepted, and that answers go on coming when there is room again."""
    with own.api() as api:
        assert first(own.infer(api, pixels(1))) == "class 1"
        own.client.config_set("maxmemory", "1mb")
        refused = own.infer(api, pixels(2))
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"]
        own.client.config_set("maxmemory", "0")
        assert first(own.infer(api, pixels(3))) == "class 3"


async def flood(stand, count, outstanding=64):
    """Statuses and request ids of `count` requests, `outstanding` at once."""
    seen: list[tuple[int, str, str]] = []
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
    return seen


def test_back_pressure_is_429_and_what_was_accepted_is_served(own):
    """S9. Pins, with a worker that stands still and a small bound: some are refused with Retry-After, every accepted one is answered."""
    restart(own, CONTINUAL_GATEWAY_BACKLOG="20")
    worker = own.workers[0]
    worker.send_signal(signal.SIGSTOP)
    threading.Timer(1.5, worker.send_signal, [signal.SIGCONT]).start()
    before = own.ledger()[0]
    seen = asyncio.run(flood(own, 600))
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
    restart(own, CONTINUAL_GATEWAY_BACKLOG="1000000")
    worker = own.workers[0]
    worker.send_signal(signal.SIGSTOP)
    threading.Timer(1.0, worker.send_signal, [signal.SIGCONT]).start()
    assert {status for status, _, _ in asyncio.run(flood(own, 200))} == {200}


def test_a_restart_of_the_gateway_loses_no_accepted_request(own):
    """Pins SIGTERM under load: every request that was answered or accepted has exactly one prediction, and every one that the gateway took
    before it stopped listening was answered over its own connection."""
    seen: list[int] = []
    stop = threading.Event()

    def ask():
        with own.api() as api:
            for n in range(10_000):
                if stop.is_set():
                    return
                try:
                    seen.append(own.infer(api, pixels(n)).status_code)
                except httpx.HTTPError:
                    time.sleep(0.05)  # between the two lives nobody listens

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            _wait_for_more(own, seen)
            own.gateway.terminate()
            assert own.gateway.wait(30) == 0
            own.start_gateway()
        _wait_for_more(own, seen)
    finally:
        stop.set()
    for thread in threads:
        thread.join(30)
    assert set(seen) == {200}
    _settled(own)


def _settled(stand):
    """The ledger check: accepted = predictions + dead letters, nothing pending."""
    stand.wait(lambda: stand.ledger()[3] == 0)
    accepted, predictions, dead, _ = stand.ledger()
    assert accepted == predictions + dead


def _wait_for_more(stand, seen):
    already = len(seen)
    stand.wait(lambda: len(seen) > already + 30, 40)


def test_watchers_do_not_hold_up_the_end(own):
    """Pins that a stream of events, which nobody would end, ends by itself on SIGTERM."""
    restart(own)
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
    asking.join(10)
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
    restart(own, CONTINUAL_GATEWAY_ANSWER_SECONDS="0.5")
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
    restart(own)
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
        asking.join(10)
        worker.send_signal(signal.SIGCONT)
    assert asked[0].status_code == 400
    assert "wrong length" in asked[0].json()["error"]
