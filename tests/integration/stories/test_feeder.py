"""The demo's traffic on a real Redis, with replies that get lost: what is booked is what lies in the stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from continual_cli.demo import feeder as module
from continual_cli.demo.feeder import Feeder, Labeler, Scene
from continual_cli.demo.ledger import Books
from continual_cli.demo.world import deal, load_digits
from continual_clients.redis import ensure_functions
from continual_contract.functions import enqueue_call
from continual_contract.keys import ModelKeys
from redis.client import Pipeline

KEYS = ModelKeys("default", "digits")


class ForgetfulPipeline(Pipeline):
    """Sends its commands, and loses every third reply: nobody knows whether they were run."""

    calls = 0

    def execute(self, raise_on_error: bool = True) -> Any:
        replies = super().execute(raise_on_error)
        ForgetfulPipeline.calls += 1
        if ForgetfulPipeline.calls % 3 == 0:
            raise redis.ConnectionError("reply lost")
        return replies


class ForgetfulRedis(redis.Redis):
    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> ForgetfulPipeline:
        return ForgetfulPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def feed(redis_server: Any) -> tuple[Feeder, Books, redis.Redis]:
    """Run the feeder over forgetful connections for two hundred requests and ten retries, until it has sent all it drew and labelled it."""
    client = redis_server.client()
    ensure_functions(client)
    digits, books = load_digits(), Books()
    connect: Callable[[], redis.Redis] = lambda: ForgetfulRedis.from_url(redis_server.url)
    producer = Feeder(connect, KEYS, digits, deal(len(digits.labels), 0), books, seed=0)
    producer.scene = Scene(labelled_rate=100, score_only_rate=100, labeler=Labeler("night", "truth", off_by=3))
    producer.start()
    deadline = time.monotonic() + 60
    while (len(books.sent) <= 200 or producer.retries <= 10) and time.monotonic() < deadline:
        time.sleep(0.02)
    producer.finish()
    labelled = [request for request in books.sent.copy().values() if not request.score_only]
    deadline = time.monotonic() + 60
    while len({label.request_id for label in producer.labels}) < len(labelled) and time.monotonic() < deadline:
        time.sleep(0.05)
        labelled = [request for request in books.sent.copy().values() if not request.score_only]
    producer.stop()
    return producer, books, client


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LABEL_DELAY_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)


def test_a_lost_reply_sends_nothing_twice(redis_server: Any) -> None:
    """Every request that was drawn lies in the stream exactly once and is booked; only score-only requests stay unlabelled."""
    producer, books, client = feed(redis_server)
    in_stream = [entry_id.decode() for entry_id, _ in client.xrange(KEYS.requests)]
    assert producer.retries > 3
    assert sorted(in_stream) == sorted(books.sent)
    assert len(in_stream) > 200
    labels = [fields for _, fields in client.xrange(KEYS.labels)]
    assert {f[b"r"].decode() for f in labels} == {r.request_id for r in books.sent.values() if not r.score_only}
    assert all(int(f[b"c"]) == (int(books.sent[f[b"r"].decode()].true_class) + 3) % 10 for f in labels)


def test_mutation_without_a_caller_key_the_stream_holds_more_than_was_booked(
    redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protection removed: what is sent again after a lost reply is a second request."""
    monkeypatch.setattr(
        module, "enqueue_call", lambda keys, fields, _key, limit, ttl: enqueue_call(keys, fields, None, limit, ttl)
    )
    _, books, client = feed(redis_server)
    assert client.xlen(KEYS.requests) > len(books.sent)
