"""The demo's traffic: a steady producer, and people who say what each image was a few seconds later.

Every request carries a de-duplication key, so a batch whose reply was lost (the server may have died, or not) is simply sent again.
What the world shows and who labels it is one `Scene`, replaced as a whole between two ticks.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import redis
from continual_contract.entries import LabelEntry, LabelSource, encode_label
from continual_contract.errors import UnavailableError
from continual_contract.functions import enqueue_call, error_from_reply, parse_enqueue
from continual_contract.ids import RequestId
from continual_contract.keys import ModelKeys

from continual_cli.demo.ledger import Books, Sent
from continual_cli.demo.world import CALM, Cast, Digits, Weather, draw

TICK_SECONDS = 0.05
RETRY_SECONDS = 0.5
LABEL_DELAY_SECONDS = (2.0, 5.0)
SEEN_TTL_SECONDS = 3600
CLASSES = 10
IMAGES_KEPT = 4000


@dataclass(frozen=True, slots=True)
class Labeler:
    """Who labels: a name, a source, and by how many classes the answers are off (0: an honest one)."""

    name: str = "anna"
    source: LabelSource = "audit"
    off_by: int = 0

    def class_of(self, label: int, classes: int) -> str:
        return str((label + self.off_by) % classes)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is streamed now. Rates are requests per second; `key_suffix` makes a digit a unit of its own in this scene."""

    weather: Weather = CALM
    pools: tuple[str, ...] = ("calm",)
    labelled_rate: float = 60.0
    score_only_rate: float = 60.0
    labeler: Labeler = Labeler()
    key_suffix: str = ""
    same_frames: bool = False
    """Labelled digits come again pixel by pixel: covered like any request, but one sample and one observation each."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """An image that is about to be sent: kept until its id is known."""

    caller_key: str
    digit: int
    key: bytes
    pixels: bytes
    score_only: bool
    labeler: Labeler


@dataclass(order=True, frozen=True, slots=True)
class DueLabel:
    second: float
    number: int
    label: LabelEntry


@dataclass(frozen=True, slots=True)
class GivenLabel:
    """A label that was sent."""

    request_id: str
    labeler: str


class Feeder:
    """Two lanes of requests at steady rates, and the late labels of one of them. One thread."""

    def __init__(
        self, connect: Callable[[], redis.Redis], keys: ModelKeys, digits: Digits, cast: Cast, books: Books, seed: int
    ) -> None:
        self._connect, self._keys, self._digits, self._cast, self._books = connect, keys, digits, cast, books
        self._seed, self._rng = seed, np.random.default_rng([seed, 2])
        self._numbers = itertools.count()
        self._due: list[DueLabel] = []
        self._unsent: list[Drawn] = []
        self._credit = {"labelled": 0.0, "score_only": 0.0}
        self._decks: dict[tuple[str, ...], Iterator[int]] = {}
        self._client: redis.Redis | None = None
        self._stop = threading.Event()
        self._paused = threading.Event()
        self.scene = Scene()
        self.labels: list[GivenLabel] = []
        self.pixels: dict[str, bytes] = {}
        """Images of the newest labelled requests by request id: the correction picks a mistaken one."""
        self.retries = 0
        self.started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    # -- steering, from the story's thread

    def start(self) -> None:
        self._thread.start()

    def show(self, **changes: object) -> None:
        """Change the scene from the next tick on."""
        self.scene = replace(self.scene, **changes)  # type: ignore[arg-type]  # names are checked by replace

    def finish(self) -> None:
        """Send nothing new; labels that are due still go out."""
        self._paused.set()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def seconds(self) -> float:
        return time.monotonic() - self.started

    # -- the thread

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(TICK_SECONDS):
            now = time.monotonic()
            if not self._paused.is_set():
                self._unsent += self._draw_due(now - last)
            last = now
            try:
                self._send_requests()
                self._send_labels()
            except (redis.ConnectionError, redis.TimeoutError):
                self._client = None
                self.retries += 1
                self._stop.wait(RETRY_SECONDS)

    def _redis(self) -> redis.Redis:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _draw_due(self, elapsed: float) -> list[Drawn]:
        """As many images as the rates owe for the elapsed time."""
        scene, drawn = self.scene, []
        for lane, rate in (("labelled", scene.labelled_rate), ("score_only", scene.score_only_rate)):
            self._credit[lane] += rate * min(elapsed, 1.0)
            owed = int(self._credit[lane])
            self._credit[lane] -= owed
            drawn += [self._draw_one(scene, lane == "score_only") for _ in range(owed)]
        return drawn

    def _draw_one(self, scene: Scene, score_only: bool) -> Drawn:
        digit = next(self._deck(("score_only",) if score_only else scene.pools))
        again = scene.same_frames and not score_only
        rng = np.random.default_rng([self._seed, 3, digit]) if again else self._rng
        image = draw(self._digits.ink[digit], scene.weather, rng)
        key = f"digit-{digit}{'' if score_only else scene.key_suffix}".encode()
        return Drawn(f"demo-{next(self._numbers)}", digit, key, image.tobytes(), score_only, scene.labeler)

    def _deck(self, pools: tuple[str, ...]) -> Iterator[int]:
        """Digits of these pools in turn, shuffled once, for ever."""
        if pools not in self._decks:
            members = (
                self._cast.score_only if pools == ("score_only",) else [d for p in pools for d in self._cast.pools[p]]
            )
            self._decks[pools] = itertools.cycle(self._rng.permutation(np.array(members)).tolist())
        return self._decks[pools]

    def _send_requests(self) -> None:
        if not self._unsent:
            return
        with self._redis().pipeline(transaction=False) as pipe:
            for drawn in self._unsent:
                pipe.execute_command(*self._enqueue(drawn))  # type: ignore[no-untyped-call]  # unannotated in redis-py
            replies = pipe.execute(raise_on_error=False)
        kept = []
        for drawn, reply in zip(self._unsent, replies, strict=True):
            if isinstance(reply, redis.ResponseError):
                _raise_unless_busy(reply)
                kept.append(drawn)
            elif isinstance(reply, Exception):
                raise reply
            else:
                self._book(drawn, parse_enqueue(reply).entry_id)
        self._unsent = kept

    def _enqueue(self, drawn: Drawn) -> tuple[str | bytes | int | float, ...]:
        fields: dict[str | bytes, str | bytes | int | float] = {"d": drawn.pixels, "k": drawn.key}
        return enqueue_call(self._keys, fields, drawn.caller_key, 0, SEEN_TTL_SECONDS).command()

    def _book(self, drawn: Drawn, request_id: str) -> None:
        label = int(self._digits.labels[drawn.digit])
        sent = Sent(request_id, drawn.digit, str(label), drawn.key, drawn.score_only, self.seconds())
        self._books.book_request(sent)
        if drawn.score_only:
            return
        self._keep_image(request_id, drawn.pixels)
        labeler = drawn.labeler
        due = time.monotonic() + self._rng.uniform(*LABEL_DELAY_SECONDS)
        entry = LabelEntry(
            RequestId(request_id),
            labeler.class_of(label, CLASSES),
            labeler.name,
            labeler.source,
            int(time.time() * 1000),
        )
        heapq.heappush(self._due, DueLabel(due, len(self._books.sent), entry))

    def _keep_image(self, request_id: str, pixels: bytes) -> None:
        self.pixels[request_id] = pixels
        if len(self.pixels) > IMAGES_KEPT:
            self.pixels.pop(next(iter(self.pixels)))

    def _send_labels(self) -> None:
        now, due = time.monotonic(), []
        while self._due and self._due[0].second <= now:
            due.append(heapq.heappop(self._due))
        if not due:
            return
        try:
            with self._redis().pipeline(transaction=False) as pipe:
                for item in due:
                    pipe.xadd(self._keys.labels, encode_label(item.label))  # type: ignore[arg-type]  # redis-py's dict is invariant
                pipe.execute()
        except (redis.ConnectionError, redis.TimeoutError):
            for item in due:
                heapq.heappush(self._due, item)
            raise
        self.labels += [GivenLabel(item.label.reference, item.label.labeler) for item in due]


def _raise_unless_busy(reply: redis.ResponseError) -> None:
    """BACKLOG, OOM, LOADING and a library that is not loaded yet pass by themselves; anything else is our mistake."""
    error = error_from_reply(str(reply))
    if not isinstance(error, UnavailableError):
        raise error
