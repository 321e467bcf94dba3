"""Clients with a clock: requests at a fixed rate whether or not answers come, and a fixed number of requests in flight.

Both enqueue with plain XADDs from one thread and read the predictions stream from another, as a client of the wire format does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import redis
from continual_contract.entries import decode_prediction
from nets import Net
from stand import KEYS, Stand

TICK_SECONDS = 0.002
LAST_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Of every request when it was sent (seconds since the start) and how long its answer took; NaN where none came."""

    sent: npt.NDArray[np.float64]
    took: npt.NDArray[np.float64]

    @property
    def lost(self) -> int:
        return int(np.isnan(self.took).sum())

    def quantile(self, q: float) -> float:
        """Seconds."""
        return float(np.nanquantile(self.took, q))

    @property
    def until(self) -> float:
        """When the last answer came, seconds since the start."""
        return float(np.nanmax(self.sent + self.took))

    def window(self, begin: float, end: float) -> Seen:
        inside = (self.sent >= begin) & (self.sent < end)
        return Seen(self.sent[inside], self.took[inside])


class Answers(threading.Thread):
    """Reads every prediction as it is published and notes when."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.client = redis.Redis(port=port, protocol=2)
        self.times: dict[str, float] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        last = b"0"
        while not self.stop.is_set():
            reply = self.client.xread({KEYS.predictions: last}, count=500, block=100)
            now = time.perf_counter()
            for _, entries in reply or []:
                last = entries[-1][0]
                for _, fields in entries:
                    self.times[decode_prediction(fields).request_id] = now


def open_loop(stand: Stand, net: Net, rate: float, seconds: float, at_half: Callable[[], None] | None = None) -> Seen:
    """Send `rate` requests a second for so long; `at_half` is called once in the middle."""
    images = [image.tobytes() for image in net.images(64)]
    answers = Answers(stand.port)
    answers.start()
    ids: list[str] = []
    moments: list[float] = []
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        if at_half is not None and elapsed > seconds / 2:
            at_half()
            at_half = None
        due = int(elapsed * rate) - len(ids)
        if due > 0:
            pipeline = stand.client.pipeline(transaction=False)
            for n in range(due):
                pipeline.xadd(KEYS.requests, {"d": images[(len(ids) + n) % 64]})
            sent = time.perf_counter()
            ids += [entry_id.decode() for entry_id in pipeline.execute()]
            moments += [sent] * due
        time.sleep(TICK_SECONDS)
    deadline = time.monotonic() + LAST_ANSWER_SECONDS
    while len(answers.times) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.01)
    answers.stop.set()
    answers.join()
    sent_at = np.array(moments)
    got = np.array([answers.times.get(request_id, np.nan) for request_id in ids])
    return Seen(sent_at - began, got - sent_at)
