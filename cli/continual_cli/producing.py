"""The producer's loop: requests at a steady rate, each true class some seconds later, and nothing twice.

Requests carry the caller's own keys, so that a producer that is killed and started again goes on where it was. When the backlog is
full it waits and says so once: back-pressure, not loss. Labels name the request by its id, and are sent when due even after
the last request.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from continual_contract.entries import LabelEntry
from continual_contract.errors import BacklogFullError, RedisUnavailableError, UsageError
from continual_contract.keys import ModelKeys

from continual_cli import person, sources, streams
from continual_cli.document import dig, seconds
from continual_cli.output import Format, note, progress, say
from continual_cli.target import Target
from continual_cli.where import here, settle

if TYPE_CHECKING:
    from types import TracebackType

    import redis
    from continual_contract.artifacts import InputShape

WITHOUT_CLUSTER = "local"
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Peer:
    """Where a producer or consumer works: a model of the local cluster, or any Redis and a model's name."""

    keys: ModelKeys
    connect: Callable[[], redis.Redis]
    input: InputShape | None
    classes: Sequence[str]
    window_seconds: float = 86_400.0

    @classmethod
    def open(cls, model: str | None, redis_url: str | None, checkpoint: Path | None) -> Peer:
        if redis_url is None:
            return cls.of_target(Target.open(model))
        if here().kind == "kubernetes" and checkpoint is None:
            settle(replace(here(), redis_url=checked_url(redis_url)))
            return cls.of_target(Target.open(model))
        return cls.of_url(redis_url, model or WITHOUT_CLUSTER, checkpoint)

    @classmethod
    def of_target(cls, target: Target) -> Peer:
        window = seconds(str(dig(target.document, "spec.feedback.window", "24h")))
        return cls(target.keys, lambda: target.redis, target.input, target.classes, window)

    @classmethod
    def of_url(cls, url: str, model: str, checkpoint: Path | None) -> Peer:
        from continual_clients.redis import connect_url

        shape, classes = shape_of_run(checkpoint) if checkpoint is not None else (None, ())
        return cls(ModelKeys("default", model), lambda: connect_url(checked_url(url)), shape, classes)

    @cached_property
    def redis(self) -> redis.Redis:
        return self.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "redis" in self.__dict__:
            self.redis.close()

    def items(self, source: str, shape: sources.Shape, data: Path | None, seed: int) -> Iterator[sources.Item]:
        if shape is sources.Shape.dataset:
            return sources.dataset_items(source, self.input, self.classes, data, seed)
        if self.input is None:
            raise UsageError(
                "JSON images need the model's input",
                field="--shape",
                value=shape.value,
                remedy="give --checkpoint RUNDIR, or use a cluster",
            )
        return sources.json_items(source, self.input, self.classes)


def shape_of_run(run: Path) -> tuple[InputShape, tuple[str, ...]]:
    from continual_cli.offline import open_run

    manifest = open_run(run).manifest
    return manifest.input, manifest.classes


def checked_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise UsageError("not a Redis address", field="--redis-url", value=url, remedy="write redis://host:port")
    return url


@dataclass(frozen=True, slots=True)
class Options:
    rate: float
    count: int | None
    seed: int
    labels_after: float | None
    label_source: Literal["audit", "truth", "correction"]
    dedupe: str | None
    wait_when_full: bool
    retry_for: float
    """Seconds to go on trying while Redis is away; only with `dedupe`, because only a keyed request may be sent again."""
    backlog_limit: int


@dataclass(slots=True)
class Tally:
    sent: int = 0
    duplicates: int = 0
    labels: int = 0
    waited: float = 0.0

    def document(self, due: int) -> dict[str, Any]:
        return {"sent": self.sent, "duplicates": self.duplicates, "labels": self.labels, "labelsNotSent": due}

    def sentence(self, due: int) -> str:
        late = f", {due} labels not sent" if due else ""
        return f"{self.sent} requests, {self.duplicates} known before, {self.labels} labels{late}"


@dataclass(slots=True)
class Producer:
    """Sends items one by one; labels wait in order, because each is due the same time after its request."""

    peer: Peer
    options: Options
    tally: Tally = field(default_factory=Tally)
    due: deque[tuple[float, LabelEntry]] = field(default_factory=deque)
    away: float = 0.0
    """Seconds for which Redis has been away without a break."""

    def send(self, item: sources.Item) -> None:
        """Errors: BacklogFullError, unless the options say to wait."""
        key = f"{self.options.dedupe}:{item.key}" if self.options.dedupe else None
        while True:
            try:
                sent = self.enqueue(item, key)
                break
            except BacklogFullError as error:
                self.wait(error)
            except RedisUnavailableError as error:
                self.ride_out(error)
        self.away = 0.0
        self.remember(item, sent.request_id)
        if sent.duplicate:
            self.tally.duplicates += 1
        else:
            self.tally.sent += 1

    def enqueue(self, item: sources.Item, key: str | None) -> streams.Sent:
        peer = self.peer
        return streams.enqueue(
            peer.redis, peer.keys, {"d": item.data, **dict(item.more)},
            caller_key=key, window_seconds=peer.window_seconds, backlog_limit=self.options.backlog_limit,
        )  # fmt: skip

    def wait(self, error: BacklogFullError) -> None:
        if not self.options.wait_when_full:
            raise BacklogFullError(
                f"{error.message}; {self.tally.sent} requests were accepted before",
                field=error.field,
                remedy=error.remedy,
            ) from error
        if not self.tally.waited:
            note(f"{error.describe()}: waiting")
        self.tally.waited += RETRY_SECONDS
        self.label_until(time.monotonic())
        time.sleep(RETRY_SECONDS)

    def ride_out(self, error: RedisUnavailableError) -> None:
        """Wait for a Redis that is away. What may have been sent is sent again under its key: that is nothing twice."""
        limit = self.options.retry_for if self.options.dedupe else 0.0
        if self.away >= limit:
            raise error
        if not self.away:
            note(f"{error.describe()}: trying again for {limit:g} s")
        self.away += RETRY_SECONDS
        self.tally.waited += RETRY_SECONDS
        time.sleep(RETRY_SECONDS)

    def remember(self, item: sources.Item, request_id: str) -> None:
        if self.options.labels_after is None or item.class_name is None:
            return
        label = LabelEntry(
            request_id, item.class_name, person.name(), self.options.label_source, int(time.time() * 1000)
        )
        self.due.append((time.monotonic() + self.options.labels_after, label))

    def label_until(self, moment: float) -> None:
        """Send the labels that are due."""
        while self.due and self.due[0][0] <= moment:
            try:
                streams.send_label(self.peer.redis, self.peer.keys, self.due[0][1])
            except RedisUnavailableError as error:
                self.ride_out(error)
                continue
            self.away = 0.0
            self.due.popleft()
            self.tally.labels += 1

    def pause_until(self, moment: float) -> None:
        """Sleep, but wake for labels."""
        while (now := time.monotonic()) < moment:
            self.label_until(now)
            wake = min(moment, self.due[0][0]) if self.due else moment
            time.sleep(max(0.0, wake - time.monotonic()))
        self.label_until(time.monotonic())


def produce(peer: Peer, items: Iterator[sources.Item], options: Options, form: Format) -> None:
    """Send until `count`, the end of the source, or Ctrl-C; what was done is said in each case."""
    producer = Producer(peer, options)
    finished = False
    try:
        run(producer, items)
        finished = True
    finally:
        left = len(producer.due)
        if finished or producer.tally != Tally():
            say(form, producer.tally.sentence(left), producer.tally.document(left))


def run(producer: Producer, items: Iterator[sources.Item]) -> None:
    options = producer.options
    begin = time.monotonic()
    with progress() as bar:
        task = bar.add_task("requests", total=options.count)
        for number, item in enumerate(islice(items, options.count)):
            if options.rate:
                producer.pause_until(begin + producer.tally.waited + number / options.rate)
            producer.send(item)
            producer.label_until(time.monotonic())
            bar.advance(task)
        if producer.due:
            bar.update(task, description="labels")
            producer.pause_until(producer.due[-1][0])
