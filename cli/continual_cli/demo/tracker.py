"""The demo's eyes: a consumer of the predictions stream, the routing table of every moment, and a sample of it all twice a second.

It only reads: the streams as any consumer would, the status as `continual get` would, the evaluator's report as the operator does. What
it cannot read at the moment (Redis or the operator is being killed) it reads again later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from continual_contract.entries import decode_prediction
from continual_contract.ids import id_key
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from continual_contract.routing import BASIS_POINTS, Epoch, parse_routing

from continual_cli.demo.ledger import Answered, Books
from continual_cli.demo.recording import Happening, Sample, Stage, VersionNow

SAMPLE_SECONDS = 0.5
READ_COUNT = 2000
BLOCK_MS = 100


@dataclass(slots=True)
class Seen:
    """Everything observed so far. Written by the tracker's thread, read by the story's and the view's."""

    epochs: dict[tuple[int, int], Epoch] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    report: Report | None = None
    dead: int = 0


def stage_of(status: dict[str, Any], version: str, weight: float) -> Stage:
    """The stage a live version is in, from the blocks of the status; one without a block is on its way out."""
    probation, canary = status.get("probation") or {}, status.get("canary") or {}
    if version == probation.get("version"):
        return "probation"
    if version == canary.get("version"):
        return "canary" if weight else "shadow"
    return "stable" if version == (status.get("stable") or {}).get("version") else "previous"


def versions_now(status: dict[str, Any], report: Report | None, epoch: Epoch | None) -> tuple[VersionNow, ...]:
    """Every version with a share or a shadow in the current epoch."""
    if epoch is None:
        return ()
    weights = {group.partition("@")[0]: 100 * width / BASIS_POINTS for group, width in epoch.shares}
    weights = {**{group.partition("@")[0]: 0.0 for group in epoch.shadow}, **weights}
    return tuple(_version_now(status, report, version, weight) for version, weight in sorted(weights.items()))


def _version_now(status: dict[str, Any], report: Report | None, version: str, weight: float) -> VersionNow:
    scores = report.versions.get(version) if report else None
    accuracy, labels = (scores.recent_accuracy, scores.labels) if scores else (None, 0)
    return VersionNow(version, stage_of(status, version, weight), weight, accuracy, labels)


def training_text(status: dict[str, Any]) -> str:
    """One short phrase about the training in flight; empty when there is none."""
    training = status.get("training") or {}
    if training.get("state") not in {"Pending", "Running", "Importing"}:
        return ""
    progress = training.get("progress") or {}
    epoch = f" epoch {progress['epoch']}/{progress['epochs']}" if progress.get("epochs") else ""
    return f"{training.get('trigger', '')} {progress.get('phase', '')}{epoch}".strip()


class Tracker:
    """Two threads: one reads predictions, one samples the system."""

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        keys: ModelKeys,
        read_status: Callable[[], dict[str, Any]],
        books: Books,
        clock: Callable[[], float],
        labels_given: Callable[[], int],
        phase: Callable[[], str],
    ) -> None:
        self._connect, self._keys, self._read_status, self._books = connect, keys, read_status, books
        self._clock, self._labels_given, self._phase = clock, labels_given, phase
        self._stop = threading.Event()
        self.seen = Seen()
        self._threads = [
            threading.Thread(target=self._guarded, args=(step,), name=step.__name__, daemon=True)
            for step in (self._read_predictions, self._sample)
        ]
        self._cursor: bytes | str = "0-0"

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)

    def tell(self, kind: str, text: str) -> None:
        """Put a mark on the time axis."""
        self.seen.happenings.append(Happening(round(self._clock(), 2), kind, text))

    def _guarded(self, step: Callable[[redis.Redis], None]) -> None:
        """Repeat a step over one connection; a broken one is replaced after a pause."""
        client = self._connect()
        while not self._stop.is_set():
            try:
                step(client)
            except (redis.ConnectionError, redis.TimeoutError):
                client.close()
                self._stop.wait(SAMPLE_SECONDS)
                client = self._connect()
        client.close()

    def _read_predictions(self, client: redis.Redis) -> None:
        reply: Any = client.xread({self._keys.predictions: self._cursor}, count=READ_COUNT, block=BLOCK_MS)
        for _, entries in reply or ():
            for entry_id, fields in entries:
                answer = decode_prediction(fields)
                self._books.book_answer(
                    Answered(answer.request_id, answer.version, answer.why, answer.class_name, self._clock())
                )
                self._cursor = entry_id

    def _sample(self, client: redis.Redis) -> None:
        begun = time.monotonic()
        self._read_routing(client)
        raw: Any = client.hget(self._keys.report, "json")
        self.seen.report = Report.model_validate_json(raw) if raw else None
        self.seen.dead = int(client.xlen(self._keys.dead))
        self.seen.status = self._read_status()
        self.seen.samples.append(self._sample_now())
        self._stop.wait(max(0.0, SAMPLE_SECONDS - (time.monotonic() - begun)))

    def _read_routing(self, client: redis.Redis) -> None:
        raw: Any = client.get(self._keys.routing)
        if raw:
            self.seen.epochs |= {id_key(epoch.after): epoch for epoch in parse_routing(raw).epochs}

    def _sample_now(self) -> Sample:
        seen = self.seen
        newest = max(seen.epochs) if seen.epochs else None
        drift = seen.report.drift if seen.report else None
        sent, answered = len(self._books.sent), len(self._books.answers)
        return Sample(
            second=round(self._clock(), 2),
            phase=self._phase(),
            versions=versions_now(seen.status, seen.report, seen.epochs[newest] if newest else None),
            log_drift=drift.log_statistic if drift else 0.0,
            log_threshold=drift.log_threshold if drift else 0.0,
            lag_seconds=max(seen.report.lag_seconds.values(), default=0.0) if seen.report else 0.0,
            unanswered=max(0, sent - answered),
            requests=sent,
            predictions=answered,
            labels=self._labels_given(),
            training=training_text(seen.status),
        )
