"""The evaluator's memory in Redis: state, positions, dead labels and report, committed in one transaction.

Keys, under `ctm:{<namespace>/<model>}:evaluator`: `head` (JSON), one hash per table, and `incarnation`, which every
evaluator raises when it starts: one that was replaced while it slept finds another number and commits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from continual_contract.errors import FencedError, RedisUnavailableError
from continual_contract.history import COARSE, FINE, Resolution
from continual_contract.keys import ModelKeys

from continual_workers.evaluation.codec import CODECS, decode_state, encode_head, fold_parts, tables_of
from continual_workers.evaluation.state import State

START = {"labels": "0-0", "predictions": "0-0", "dead": "0-0"}
DEAD_LETTERS_KEPT = 10_000

Fields = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    state: State
    offsets: dict[str, str]
    report_seq: int


@dataclass(slots=True)
class Snapshot:
    """One evaluator's hold on the state; `incarnation` is its fence."""

    client: redis.Redis
    keys: ModelKeys
    incarnation: int = 0

    def key(self, name: str) -> str:
        return f"{self.keys.evaluator}:{name}"

    def take_over(self) -> None:
        """Become the evaluator: whoever was it before commits nothing any more."""
        raised: Any = self.client.incr(self.key("incarnation"))
        self.incarnation = int(raised)

    def load(self) -> Loaded:
        """The last committed moment; an empty state where there is none."""
        pipe = self.client.pipeline(transaction=True)
        pipe.get(self.key("head"))
        pipe.hget(self.keys.report, "seq")
        for name in CODECS:
            pipe.hgetall(self.key(name))
        head, seq, *hashes = pipe.execute()
        if head is None:
            return Loaded(State(), dict(START), int(seq or 0))
        rows = {name: {k.decode(): v for k, v in found.items()} for name, found in zip(CODECS, hashes, strict=True)}
        state, offsets = decode_state(head, rows)
        return Loaded(state, START | offsets, int(seq or 0))

    def save(
        self,
        state: State,
        offsets: Mapping[str, str],
        letters: Sequence[Fields],
        report: tuple[int, bytes] | None,
        points: Sequence[tuple[Resolution, bytes]] = (),
    ) -> None:
        """Commit everything that changed, at once.

        Raises:
            FencedError: another evaluator has taken over.
            RedisUnavailableError: the keys were deleted: start anew.
        """
        fold_parts(state)
        with self.client.pipeline(transaction=True) as pipe:
            pipe.watch(self.key("incarnation"))  # type: ignore[no-untyped-call]  # unannotated in redis-py
            holder: Any = pipe.get(self.key("incarnation"))
            if holder is None:
                raise RedisUnavailableError(
                    "the evaluator's keys are gone", field=self.key("incarnation"), remedy="it starts anew"
                )
            if int(holder) != self.incarnation:
                raise self._fenced()
            pipe.multi()
            self._queue(pipe, state, offsets, letters, report)
            for resolution, point in points:
                pipe.xadd(
                    self.keys.history(resolution.suffix), {b"p": point}, maxlen=resolution.points, approximate=True
                )
            try:
                pipe.execute()
            except redis.WatchError as error:
                raise self._fenced() from error

    def _queue(
        self,
        pipe: Any,
        state: State,
        offsets: Mapping[str, str],
        letters: Sequence[Fields],
        report: tuple[int, bytes] | None,
    ) -> None:
        pipe.set(self.key("head"), encode_head(state, offsets))
        for name, table in tables_of(state).items():
            changes = table.drain()
            if changes.removed:
                pipe.hdel(self.key(name), *changes.removed)
            if changes.written:
                pipe.hset(self.key(name), mapping={row: CODECS[name].encode(v) for row, v in changes.written.items()})
        for letter in letters:
            pipe.xadd(self.keys.dead, letter, maxlen=DEAD_LETTERS_KEPT, approximate=True)
        if report is not None:
            pipe.hset(self.keys.report, mapping={"seq": report[0], "json": report[1]})

    def _fenced(self) -> FencedError:
        return FencedError(
            "another evaluator of this model has taken over",
            field="incarnation",
            value=self.incarnation,
            remedy="run one evaluator per model",
        )

    def forget(self) -> None:
        """Delete the state of a former resource of this name."""
        self.client.delete(self.key("head"), *(self.key(name) for name in CODECS))
        self.client.delete(*(self.keys.history(each.suffix) for each in (FINE, COARSE)))  # a right of its own
