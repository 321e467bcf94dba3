"""What is pure of producer and consumer: the score, the JSON shape, retries by key."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import redis
from continual_cli import producing, sources
from continual_cli.consuming import Score
from continual_cli.streams import is_entry_id
from continual_contract.artifacts import InputShape
from continual_contract.entries import PredictionEntry
from continual_contract.errors import InvalidImageError, RedisUnavailableError, UnknownClassError, UsageError
from continual_contract.keys import ModelKeys

SHAPE = InputShape(height=2, width=2, channels=1)


def prediction(request: str, name: str) -> PredictionEntry:
    return PredictionEntry(request, "v1", "abc", "stable", "owner", name, 0.9, 50, 1_700_000_000_000)


def test_a_score_takes_label_and_prediction_in_either_order_and_once():
    """Pins right and wrong, a label before its prediction, and that repetitions count once."""
    score = Score()
    assert score.predict(prediction("1-1", "a")) is None
    assert score.label("1-1", "a") is True
    assert score.label("1-1", "b") is None
    assert score.label("2-1", "a") is None
    assert score.predict(prediction("2-1", "b")) is False
    assert (score.right, score.seen, score.accuracy) == (1, 2, 0.5)


def encoded(values) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def test_floats_become_pixels_by_rounding():
    assert sources.float32_pixels("x", encoded([0, 0.5, 0.998, 1]), SHAPE) == bytes([0, 128, 254, 255])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("%%", "is not base64 of float32"),
        (encoded([0.0] * 3), "has the wrong length (got 3); send 4 values (2x2x1)"),
        (encoded([0, 0, 0, 255]), "has values outside 0..1 (got [0.0, 255.0]); divide pixels by 255 before sending"),
        (encoded([0, 0, 0, np.nan]), "has values outside 0..1"),
    ],
)
def test_floats_that_are_no_image_are_refused(text, said):
    with pytest.raises(InvalidImageError) as caught:
        sources.float32_pixels("file:3", text, SHAPE)
    assert str(caught.value).startswith(f"file:3: image: {said}")


@pytest.mark.parametrize(
    ("label", "classes", "name"),
    [
        (None, "ab", None),
        (1, "ab", "b"),
        ("b", "ab", "b"),
        ([0], "ab", "a"),
        (7, "0123456789", "7"),
        ("7", "0123456789", "7"),
    ],
)
def test_a_json_label_is_a_name_or_a_position(label, classes, name):
    assert sources.json_label("x", label, classes) == name


@pytest.mark.parametrize("label", [2, -1, "c", 0.5, [0, 1]])
def test_a_json_label_beyond_the_classes_is_refused(label):
    with pytest.raises(UnknownClassError):
        sources.json_label("x", label, "ab")


@pytest.mark.parametrize(
    ("text", "is_id"), [("1-0", True), ("1", False), ("a-0", False), ("1-", False), ("-1", False), ("key:1-0", False)]
)
def test_an_entry_id_is_two_numbers(text, is_id):
    assert is_entry_id(text) is is_id


class Flaky:
    """A Redis that refuses connections a number of times, then takes what it is sent."""

    def __init__(self, failures: int) -> None:
        self.failures, self.commands = failures, []
        self.connection_pool = redis.ConnectionPool(host="flaky", port=1)

    def execute_command(self, *words):
        self.commands.append(words)
        if len(self.commands) <= self.failures:
            raise redis.ConnectionError("refused")
        return [b"1-0", 1]

    def close(self) -> None: ...


def producer(client: Flaky, dedupe: str | None) -> producing.Producer:
    peer = producing.Peer(ModelKeys("default", "m"), lambda: client, SHAPE, ("a", "b"))
    options = producing.Options(0, 1, 0, None, "truth", dedupe, wait_when_full=True, backlog_limit=0, retry_for=10.0)
    return producing.Producer(peer, options)


def test_a_request_with_a_key_is_sent_again_while_redis_is_away(monkeypatch, capsys):
    """Pins that the same keyed call is repeated, and the outage told once."""
    monkeypatch.setattr(producing.time, "sleep", lambda _: None)
    client = Flaky(3)
    made = producer(client, "run")
    made.send(sources.Item(b"\0" * 4, "a", "x-1"))
    assert (made.tally.sent, len(client.commands), len(set(client.commands))) == (1, 4, 1)
    assert capsys.readouterr().err.count("trying again") == 1


def test_a_request_without_a_key_is_never_sent_twice():
    """Pins the guarantee's other half: without a key a lost reply may have been a success, so the producer stops."""
    client = Flaky(1)
    with pytest.raises(RedisUnavailableError):
        producer(client, None).send(sources.Item(b"\0" * 4, "a", "x-1"))
    assert len(client.commands) == 1


def test_a_redis_that_stays_away_ends_the_producer(monkeypatch):
    monkeypatch.setattr(producing.time, "sleep", lambda _: None)
    client = Flaky(1000)
    with pytest.raises(RedisUnavailableError):
        producer(client, "run").send(sources.Item(b"\0" * 4, "a", "x-1"))
    assert len(client.commands) == 1 + 10.0 / producing.RETRY_SECONDS


def test_what_a_json_line_holds_beside_the_image_travels_along():
    """Pins partition key, event time and metadata of a request from a line of JSON."""
    line = json.dumps({"id": 1, "image": encoded([0] * 4), "k": "cam-3", "t": 17, "country": "Norge"})
    item = sources.json_item("x:1", line, SHAPE, "ab")
    assert dict(item.more) == {"k": b"cam-3", "t": 17, "m": b'{"country":"Norge"}'}
    assert (item.class_name, item.key) == (None, "1")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"t": "now"}, "x:1: t: is not a time (got 'now')"),
        ({"note": "n" * 3000}, "x:1: is too much metadata (got '3011 bytes')"),
    ],
)
def test_a_json_line_with_wrong_extras_is_refused(fields, said):
    with pytest.raises(UsageError) as caught:
        sources.json_item("x:1", json.dumps({"id": 1, "image": encoded([0] * 4), **fields}), SHAPE, "ab")
    assert str(caught.value).startswith(said)
