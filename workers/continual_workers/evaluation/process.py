"""The evaluator's loop: read, think, write, commit.

One step reads what is new in the streams, feeds it to the `State`, writes shards and evidence to the store, and commits
state, positions, dead labels and report in one transaction. A step that fails anywhere is forgotten: the evaluator loads
the last committed moment and reads on from there, exactly as it does after a kill.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis
from continual_clients.objectstore import ObjectStore
from continual_clients.shards import Shard, make_shard, write_shard
from continual_contract.artifacts import StoreLayout
from continual_contract.config import EvaluatorConfig
from continual_contract.entries import LabelEntry, PredictionEntry, decode_label, decode_prediction
from continual_contract.errors import ContinualError, UnavailableError
from continual_contract.history import COARSE, FINE, Resolution, point_of
from continual_contract.ids import ZERO_ID, EntryId, id_key
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from pydantic import ValidationError

from continual_workers.evaluation.reporting import Surroundings, build_report
from continual_workers.evaluation.samples import ClosedShard
from continual_workers.evaluation.snapshot import START, Fields, Snapshot
from continual_workers.evaluation.source import PAGE, REQUEST_ID, Entry, Groups, Source, decode_pixels
from continual_workers.evaluation.state import KnownRequest, State
from continual_workers.streaming.reaper import ReapOptions, reap_once

log = logging.getLogger(__name__)

STEP_SECONDS = 0.2
REPORT_SECONDS = 0.5
REAP_SECONDS = 10.0
SIGN_OF_LIFE_MS = 5000
"""An unchanged report is written this often, so that a silent evaluator can be told from a dead one."""
LABELS_PAGE = 500
TAIL_OBSERVATIONS = 1000
MAX_BACKOFF_SECONDS = 5.0


@dataclass(slots=True)
class Letters:
    """Labels nobody can use, kept as dead letters with a reason: fields `r reason message v t kind` and the label's as `l-*`."""

    keys: ModelKeys
    fields: list[Fields] = field(default_factory=list)

    def add(self, entry: Entry, reference: str, reason: str, message: str) -> None:
        label_id, label = entry
        letter: Fields = {
            "r": reference, "reason": reason, "message": message, "deliveries": 0, "v": "",
            "t": label_id.partition("-")[0], "kind": "label",
        }  # fmt: skip
        self.fields.append(letter | {b"l-" + name: value for name, value in label.items() if name != b"d"})


@dataclass(slots=True)
class Evaluator:
    """One model's evaluator. `step()` once, or `run()` until told to stop."""

    client: redis.Redis
    store: ObjectStore
    keys: ModelKeys
    source: Source = field(init=False)
    snapshot: Snapshot = field(init=False)
    layout: StoreLayout = field(init=False)
    state: State = field(default_factory=State)
    offsets: dict[str, str] = field(default_factory=lambda: dict(START))
    report: Report | None = None
    report_seq: int = 0
    reports_every_seconds: float = REPORT_SECONDS
    steps: int = 0
    _reported_at: float = 0.0
    _reaped_at: float = 0.0
    _config_raw: bytes | None = None
    _saved_offsets: dict[str, str] = field(default_factory=dict)
    _saved_clock: int = 0
    _drawn_ms: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source, self.snapshot = Source(self.client, self.keys), Snapshot(self.client, self.keys)
        self.layout = StoreLayout(self.keys.namespace, self.keys.model)

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over from any evaluator before, at the last moment it committed."""
        self.snapshot.take_over()
        self.reload()

    def reload(self) -> None:
        loaded = self.snapshot.load()
        self.state, self.offsets, self.report_seq = loaded.state, loaded.offsets, loaded.report_seq
        self.report, self._config_raw, self._reported_at = None, None, 0.0
        self._saved_offsets = {}

    @property
    def ready(self) -> bool:
        """Whether there are orders, and a report was written under them."""
        return self.report is not None

    def run(self, stop: threading.Event) -> None:
        """Step until stopped. Unreachable servers are waited for; a newer evaluator ends this one (FencedError)."""
        backoff = 0.0
        started = False
        while not stop.is_set():
            try:
                if not started:
                    self.start()
                    started = True
                self.step()
                backoff = 0.0
            except (redis.RedisError, UnavailableError) as error:
                backoff = min(MAX_BACKOFF_SECONDS, backoff * 2 or 0.2)
                started = False
                log.warning("step failed, state is loaded again", extra={"error": str(error), "retry_seconds": backoff})
            stop.wait(max(STEP_SECONDS, backoff))

    # -- one step -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Read, think, write, commit; False while there are no orders."""
        if not self._orders():
            return False
        groups = self.source.groups()
        letters = Letters(self.keys)
        caught_up = self._read_predictions()
        self._read_dead()
        read_up_to = self._read_labels(letters, groups.time_ms)
        self.state.advance(read_up_to)
        self._look_up_answers(groups)
        if caught_up:
            self._judge(groups)
        self._write_shards()
        self._commit(groups, letters)
        self._reap()
        self.steps += 1
        return True

    def _orders(self) -> bool:
        """Take new orders; a pair that began is shown the predictions since its beginning."""
        raw: Any = self.client.get(self.keys.config)
        if raw is not None and raw != self._config_raw:
            self._config_raw = raw
            try:
                config = EvaluatorConfig.model_validate_json(raw)
            except ValidationError as error:
                log.error("orders cannot be read", extra={"key": self.keys.config, "error": str(error)})  # noqa: TRY400 -- the text says it all
                return self.state.config is not None
            self._obey(config)
        if self.state.config is not None and self.state.pair_is_new:
            self._rewind()
        return self.state.config is not None

    def _obey(self, config: EvaluatorConfig) -> None:
        current = self.state.config
        if current is not None and current.uid != config.uid and config.token >= current.token:
            log.info("another resource of this name: starting anew", extra={"uid": config.uid})
            self.snapshot.forget()
            self.state, self.offsets = State(), dict(START)
        if not self.state.configure(config):
            log.warning("orders of a former operator ignored", extra={"token": config.token})

    def _rewind(self) -> None:
        """Show the pair all predictions of requests since it began, up to where the stream has been read."""
        pair = self.state.pair
        end, position = (
            id_key(self.offsets["predictions"]),
            f"{max(0, id_key(pair.pair.since)[0] - 1)}-0" if pair else "0-0",
        )
        while pair is not None:
            entries = self.source.read(self.keys.predictions, position)
            for entry_id, fields in entries:
                prediction = readable_prediction(fields)
                if prediction is not None and id_key(entry_id) <= end:
                    self.state.track(prediction.request_id)
            if len(entries) < PAGE or id_key(entries[-1][0]) >= end:
                break
            position = entries[-1][0]
        self.state.pair_is_new = False

    def _read_predictions(self, pages: int = 5) -> bool:
        """False when there is more than this step took."""
        for _ in range(pages):
            entries = self.source.read(self.keys.predictions, self.offsets["predictions"])
            for entry_id, fields in entries:
                prediction = readable_prediction(fields)
                if prediction is not None:
                    self.state.predicted(prediction)
                self.offsets["predictions"] = entry_id
            if len(entries) < PAGE:
                return True
        return False

    def _read_dead(self) -> None:
        for entry_id, fields in self.source.read(self.keys.dead, self.offsets["dead"]):
            self.state.dead_letter(fields.get(b"v", b"").decode("utf-8", "replace"))
            self.offsets["dead"] = entry_id

    # -- labels ---------------------------------------------------------------------------------------------------------

    def _read_labels(self, letters: Letters, now_ms: int, pages: int = 4) -> int:
        """Feed new labels; returns the stream time before which all have been seen."""
        for _ in range(pages):
            entries = self.source.read(self.keys.labels, self.offsets["labels"], LABELS_PAGE)
            self._feed_page(letters, entries)
            if len(entries) < LABELS_PAGE:
                return now_ms
        return id_key(self.offsets["labels"])[0]

    def _feed_page(self, letters: Letters, entries: list[Entry]) -> None:
        labels = [decode_label(fields) for _, fields in entries]
        ids = self.source.resolve([label.reference for label in labels])
        known = self.source.requests([each for each in ids if each], self.state.orders.input)
        for entry, label, request_id in zip(entries, labels, ids, strict=True):
            self._feed(letters, entry, label, known.get(request_id or ""), request_id)
            self.offsets["labels"] = entry[0]

    def _feed(
        self, letters: Letters, entry: Entry, label: LabelEntry, request: KnownRequest | None, request_id: str | None
    ) -> None:
        state, time_ms = self.state, id_key(entry[0])[0]
        state.labels.received += 1
        if label.class_name not in state.orders.classes:
            state.labels.unknown += 1
            letters.add(entry, label.reference, "UnknownClass", _unknown_class(label, state.orders.classes))
        elif request is not None:
            state.labelled(label, time_ms, self._with_image(label, request))
        elif request_id is not None and id_key(request_id)[0] + state.window_ms < time_ms:
            state.labels.late += 1
        else:
            state.labels.unknown += 1
            letters.add(entry, label.reference, "UnknownRequest", _unknown_request(label))

    def _with_image(self, label: LabelEntry, request: KnownRequest) -> KnownRequest:
        """A label may carry the image, for when the request's is gone."""
        if request.pixels or not label.image:
            return request
        pixels = decode_pixels(label.image, label.encoding, self.state.orders.input)
        return KnownRequest(request.request_id, request.key, pixels, request.event_time_ms, request.metadata)

    def _look_up_answers(self, groups: Groups) -> None:
        state = self.state
        rows = state.unfinished(PAGE, groups.passed)
        versions = [served.version for served in state.orders.versions]
        for row, found in zip(rows, self.source.answers([row.request_id for row in rows], versions), strict=True):
            state.answered(row.request_id, found.owner, found.shadows, groups.passed, closed=found.closed)

    def _judge(self, groups: Groups) -> None:
        pair = self.state.pair
        if pair is not None:
            both = (groups.passed.get(v, (0, 0)) for v in (pair.pair.candidate, pair.pair.baseline))
            self.state.judge(min(both), groups.shadow_is_full)

    # -- writing --------------------------------------------------------------------------------------------------------

    def _write_shards(self) -> None:
        for closed in self.state.closed:
            kind = "holdout" if closed.bin.kind == "holdout" else "shards"
            shard = shard_of(closed, self.state.orders)
            self.state.shard_written(closed, write_shard(self.store, self.layout, shard, kind))  # type: ignore[arg-type]  # one of two literals
        self.state.closed = []

    def _write_evidence(self) -> None:
        """Lay the observations that are not in the store yet into an object; a short one is replaced by a longer one."""
        pair, tail = self.state.pair, self.state.tables.tail
        if pair is None or pair.written == pair.test.observations:
            return
        if pair.objects and pair.written % TAIL_OBSERVATIONS:
            pair.objects.pop()
        names = sorted(tail)
        for first in range(0, len(names), TAIL_OBSERVATIONS):
            part = names[first : first + TAIL_OBSERVATIONS]
            name = self.layout.evidence(pair.pair.evidence_id, f"{int(part[-1]):08d}-{pair.digest[7:15]}.jsonl")
            self.store.put(name, b"".join(tail.rows[each].line() for each in part))
            pair.objects.append(name)
        pair.written = pair.test.observations
        for name in names[: pair.written // TAIL_OBSERVATIONS * TAIL_OBSERVATIONS - int(names[0]) + 1]:
            tail.remove(name)

    def _commit(self, groups: Groups, letters: Letters) -> None:
        report = None
        if time.monotonic() - self._reported_at >= self.reports_every_seconds:
            self._reported_at = time.monotonic()
            self._write_evidence()
            report = self._next_report(groups)
        moved = self.offsets != self._saved_offsets or self.state.clock - self._saved_clock >= 1000
        if report is None and not letters.fields and not moved:
            return
        written = (report.seq, report.model_dump_json().encode()) if report else None
        points = self._points(report) if report else []
        self.snapshot.save(self.state, self.offsets, letters.fields, written, points)
        self._drawn_ms |= {resolution.suffix: groups.time_ms for resolution, _ in points}
        self._saved_offsets, self._saved_clock = dict(self.offsets), self.state.clock
        if report is not None:
            self.report, self.report_seq = report, report.seq

    def _points(self, report: Report) -> list[tuple[Resolution, bytes]]:
        """The report as a point of each history whose time has come."""
        due = [each for each in (FINE, COARSE) if report.time_ms - self._drawn_ms.get(each.suffix, 0) >= each.every_ms]
        point = point_of(report).model_dump_json(exclude_defaults=True).encode() if due else b""
        return [(each, point) for each in due]

    def _next_report(self, groups: Groups) -> Report | None:
        """None when nothing changed but the time, and the last sign of life is young."""
        surroundings = Surroundings(groups, self.source.dead_letters(), self.source.alarms())
        report = build_report(self.state, surroundings, self.report_seq + 1)
        last = self.report
        if last is None or report.time_ms - last.time_ms >= SIGN_OF_LIFE_MS:
            return report
        if report == last.model_copy(update={"seq": report.seq, "time_ms": report.time_ms}):
            return None
        return report

    def _reap(self) -> None:
        if time.monotonic() - self._reaped_at < REAP_SECONDS:
            return
        self._reaped_at = time.monotonic()
        orders = self.state.orders
        try:
            result = reap_once(self.client, self.keys, reap_options(orders, self.offsets))
        except UnavailableError:
            raise
        except ContinualError as error:
            log.warning("reaping failed", extra={"error": str(error)})
            return
        if result.readded or result.destroyed:
            log.info("streams reaped", extra={"readded": result.readded, "destroyed": result.destroyed})


def readable_prediction(fields: Mapping[bytes, bytes]) -> PredictionEntry | None:
    """A published prediction; None for an entry that somebody else wrote and we cannot read."""
    try:
        prediction = decode_prediction(dict(fields))
    except (KeyError, ValueError):
        log.warning("prediction cannot be read", extra={"fields": sorted(map(repr, fields))[:20]})
        return None
    return prediction if REQUEST_ID.match(prediction.request_id) else None


def reap_options(orders: EvaluatorConfig, offsets: Mapping[str, str]) -> ReapOptions:
    return ReapOptions(
        requests_max_age_seconds=orders.requests_max_age_seconds,
        requests_max_bytes=orders.requests_max_bytes,
        predictions_max_age_seconds=orders.predictions_max_age_seconds,
        answers_ttl_seconds=int(orders.window_seconds) + 3600,
        labels_through=EntryId(offsets["labels"]) if offsets["labels"] != ZERO_ID else None,
    )


def shard_of(closed: ClosedShard, orders: EvaluatorConfig) -> Shard:
    """The arrays of a shard."""
    shape = (len(closed.samples), orders.input.height, orders.input.width, orders.input.channels)
    samples = closed.samples
    return make_shard(
        np.frombuffer(b"".join(sample.pixels for sample in samples), np.uint8).reshape(shape),
        [orders.classes.index(sample.class_name) for sample in samples],
        request_id=[sample.request_id for sample in samples],
        event_time=[sample.event_time_ms for sample in samples],
        source=[sample.source for sample in samples],
        k=[sample.key_text for sample in samples],
        labeler=[sample.labeler for sample in samples],
        metadata=[sample.metadata for sample in samples],
    )


def _unknown_class(label: LabelEntry, classes: tuple[str, ...]) -> str:
    names = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    return f"c: the model has no such class (got {label.class_name[:80]!r}); use one of {names}"


def _unknown_request(label: LabelEntry) -> str:
    return (
        f"r: no request has this id or key (got {label.reference[:80]!r}); "
        "use the id that XADD returned, or key:<the caller's key>, within feedback.window"
    )
