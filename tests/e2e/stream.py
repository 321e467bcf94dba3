"""The story's traffic: the demo's producer and its consumer, sending to the cluster's Redis from this machine.

Both connect as the chart's Redis user `gateway`, the only one that may send and read, through the address of the service. Every image is
labelled a few seconds later, every request is booked when it was accepted and every answer when it was published: the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import redis
from continual_cli.demo import world
from continual_cli.demo.feeder import Feeder, Labeler, Scene
from continual_cli.demo.ledger import Books
from continual_cli.demo.tracker import Tracker
from continual_contract.ids import id_key
from continual_contract.keys import ModelKeys

SEED = 7
CALM = world.Weather(jitter_pixels=1.0, jitter_degrees=5.0, ink_box=28)
"""As the dataset `digits` that the example's first version learns from: digits fill the image."""
DRIFTED = replace(world.DRIFTED, ink_box=28)
NIGHT_SHIFT = Labeler("night-shift", "truth", off_by=3)
"""Who imports wrong labels, from a source that the model does not let judge."""


class Stream:
    """A producer of real digits and a consumer of predictions for one model."""

    def __init__(
        self, connect: Callable[[], redis.Redis], keys: ModelKeys, read_status: Callable[[], dict[str, Any]]
    ) -> None:
        digits = world.load_digits()
        order = np.random.default_rng(SEED).permutation(len(digits.labels)).tolist()
        cast = world.Cast((), (), world._pools(order))
        self.keys, self.connect, self.books = keys, connect, Books()
        self.feeder = Feeder(connect, keys, digits, cast, self.books, SEED)
        self.feeder.scene = Scene(weather=CALM, labelled_rate=0.0, score_only_rate=0.0)
        self.tracker = Tracker(
            connect, keys, read_status, self.books, self.feeder.seconds, lambda: len(self.feeder.labels), str
        )  # fmt: skip

    def start(self, **scene: Any) -> None:
        self.show(**scene)
        self.tracker.start()
        self.feeder.start()

    def show(self, **scene: Any) -> None:
        """Change what the camera sees, how fast, and who labels it."""
        self.feeder.show(**scene)

    def finish(self) -> None:
        """Send nothing more; labels that are due still go out."""
        self.feeder.finish()

    def stop(self) -> None:
        self.feeder.stop()
        self.tracker.stop()

    # What was seen ---------------------------------------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        return len(self.books.answers)

    def answered_by(self, version: str) -> int:
        return sum(answer.version == version for answer in self.books.answers.copy().values())

    def dead_letters(self) -> int:
        client = self.connect()
        try:
            return int(client.xlen(self.keys.dead))
        finally:
            client.close()

    def drift(self) -> Any:
        report = self.tracker.seen.report
        return report.drift if report else None

    def newest_shard(self) -> int:
        report = self.tracker.seen.report
        return max((shard.sequence for shard in report.shards if shard.kind == "train"), default=0) if report else 0

    def labels_by(self, labeler: str) -> int:
        return sum(label.labeler == labeler for label in self.feeder.labels.copy())

    def answers_a_request_sent_after(self, moment: float) -> bool:
        """Whether something sent later than `moment` (of `seconds`) has been answered."""
        later = [sent.request_id for sent in self.books.sent.copy().values() if sent.second > moment]
        return bool(later) and any(request_id in self.books.answers for request_id in sorted(later, key=id_key))

    def seconds(self) -> float:
        return self.feeder.seconds()


def weights(status: dict[str, Any]) -> int:
    """The canary's share in percent; 0 where there is none."""
    return int((status.get("canary") or {}).get("weight") or 0)


def phase_of(status: dict[str, Any], version: str) -> str:
    records = status.get("versions") or []
    return next((str(record["phase"]) for record in records if record["version"] == version), "")


def wait_a_moment() -> None:
    """For what must not happen: a duplicate would come right behind the answer."""
    time.sleep(2.0)
