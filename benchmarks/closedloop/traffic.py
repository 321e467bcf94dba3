"""The stream of a scenario: requests at a steady rate and, later, what people say they were; every item is written down.

The demo's feeder does the sending. What is sent is drawn from one `Scene`, which the scenario replaces while it goes on;
the other policies are shown the written-down stream afterwards: the same images, the same labels, in the same order.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import redis
from continual_cli.demo.feeder import Drawn, DueLabel, Feeder, Labeler
from continual_cli.demo.ledger import Books, Sent
from continual_cli.demo.world import Cast
from continual_contract.entries import LabelEntry, LabelSource
from continual_contract.ids import RequestId
from continual_contract.keys import ModelKeys

from benchmarks.closedloop.world import CLASSES, Deck, World, digits

NOBODY = Labeler("nobody")
CALM_WORLD = World()


@dataclass(frozen=True, slots=True)
class Scene:
    """What is streamed now, and what becomes of its labels."""

    world: World = CALM_WORLD
    rate: float = 30.0
    """Requests per second."""
    labelled: float = 1.0
    """Share of them that is labelled at all."""
    delay: tuple[float, float] = (0.5, 1.5)
    """Seconds until the label comes."""
    noise: float = 0.0
    """Share of labels that name some other class, whichever."""
    swap: tuple[int, int, float] | None = None
    """(class, told as class, share): a labeler who calls some of one class another."""
    off_by: int = 0
    """Every label is off by this many classes."""
    source: LabelSource = "audit"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be said of an image that is about to be sent; `given` None: nothing."""

    given: int | None
    delay: float
    source: LabelSource


@dataclass(frozen=True, slots=True)
class Item:
    """One request as it went: seconds since the start of the stream. `given` -1: never labelled."""

    request_id: str
    second: float
    label: int
    given: int
    label_second: float
    source: str


@dataclass(slots=True)
class Written:
    """The whole stream; `pixels` in the order of `items`."""

    items: list[Item] = field(default_factory=list)
    pixels: list[bytes] = field(default_factory=list)


class Traffic(Feeder):
    """The demo's feeder, showing scenes of a scenario. One thread."""

    def __init__(self, connect: Callable[[], redis.Redis], keys: ModelKeys, books: Books, seed: int) -> None:
        super().__init__(connect, keys, digits(), Cast((), (), {}), books, seed)
        self.stage, self.written = Scene(), Written()
        self._deck_of_all = Deck(seed)
        self._people = np.random.default_rng([seed, 14])
        self._plans: dict[str, Plan] = {}

    def play(self, **changes: object) -> None:
        """Change the scene from the next tick on."""
        self.stage = replace(self.stage, **changes)  # type: ignore[arg-type]  # names are checked by replace

    def begin(self) -> None:
        """The stream's seconds count from here."""
        self.started = time.monotonic()
        self.start()

    def _draw_due(self, elapsed: float) -> list[Drawn]:
        scene = self.stage
        self._credit["labelled"] += scene.rate * min(elapsed, 1.0)
        owed = int(self._credit["labelled"])
        self._credit["labelled"] -= owed
        return [self._draw_for(scene) for _ in range(owed)]

    def _draw_for(self, scene: Scene) -> Drawn:
        digit, label, image = self._deck_of_all.draw(scene.world)
        name = f"loop-{next(self._numbers)}"
        self._plans[name] = Plan(
            said_of(label, scene, self._people), float(self._people.uniform(*scene.delay)), scene.source
        )
        return Drawn(name, digit, b"", image.tobytes(), score_only=False, labeler=NOBODY)

    def _book(self, drawn: Drawn, request_id: str) -> None:
        plan, label, now = self._plans.pop(drawn.caller_key), int(self._digits.labels[drawn.digit]), self.seconds()
        self._books.book_request(Sent(request_id, drawn.digit, str(label), b"", score_only=True, second=now))
        given = -1 if plan.given is None else plan.given
        self.written.items.append(Item(request_id, now, label, given, now + plan.delay, plan.source))
        self.written.pixels.append(drawn.pixels)
        if plan.given is None:
            return
        entry = LabelEntry(RequestId(request_id), str(plan.given), "anna", plan.source, int(time.time() * 1000))
        heapq.heappush(self._due, DueLabel(time.monotonic() + plan.delay, len(self._books.sent), entry))


def said_of(label: int, scene: Scene, rng: np.random.Generator) -> int | None:
    """The class a labeler names; None when nobody looks."""
    if rng.random() >= scene.labelled:
        return None
    if scene.noise and rng.random() < scene.noise:
        return int((label + rng.integers(1, CLASSES)) % CLASSES)
    if scene.swap is not None and label == scene.swap[0] and rng.random() < scene.swap[2]:
        return scene.swap[1]
    return (label + scene.off_by) % CLASSES
