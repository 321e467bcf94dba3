"""What the evaluator reads from Redis: the streams behind its positions, requests, answers, and how far the groups are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from continual_clients.images import decode_image, raw_pixels
from continual_contract.artifacts import InputShape
from continual_contract.entries import Answer, Fields, RequestEntry, decode_answer, decode_request
from continual_contract.errors import InvalidImageError
from continual_contract.functions import GroupState
from continual_contract.ids import id_key
from continual_contract.keys import ModelKeys
from continual_contract.routing import BASIS_POINTS, parse_routing

from continual_workers.evaluation.state import KnownRequest
from continual_workers.streaming import reaper

REQUEST_ID = re.compile(r"^[0-9]{1,20}-[0-9]{1,20}$")
PAGE = 2000
MAX_TIME_MS = 1 << 62
"""An event time beyond it is nonsense, and does not fit a shard."""

Entry = tuple[str, Fields]
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Groups:
    """How far the versions are, and how requests are shared, as of one moment.

    `passed`: version → every request below it is answered by that version, or never will be.
    """

    time_ms: int
    passed: Mapping[str, Position] = field(default_factory=dict)
    lag_seconds: Mapping[str, float] = field(default_factory=dict)
    backlog: int = 0
    shadow_is_full: bool = True


@dataclass(frozen=True, slots=True)
class Answers:
    """What `answers` holds of one request. `closed`: it was dead-lettered or its answer is not kept."""

    owner: Answer | None
    shadows: tuple[Answer, ...]
    closed: bool


@dataclass(slots=True)
class Source:
    client: redis.Redis
    keys: ModelKeys

    def now_ms(self) -> int:
        """The time of the server that gives the ids."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def read(self, stream: str, after: str, count: int = PAGE) -> list[Entry]:
        """Entries behind a position, oldest first; fewer than `count` means that there are no more."""
        found: Any = self.client.xrange(stream, min=f"({after}", max="+", count=count)
        return [(entry_id.decode(), fields) for entry_id, fields in found]

    def groups(self) -> Groups:
        """One look at all groups; the time is taken before it, so a group without work has passed that time."""
        now = self.now_ms()
        states = reaper.groups(self.client, self.keys).values()
        raw: Any = self.client.get(self.keys.routing)
        epoch = parse_routing(raw).epochs[-1] if raw else None
        owners = {group for group, width in epoch.shares if width > 0} if epoch else set()
        newest: dict[str, GroupState] = {}
        for state in sorted(states, key=lambda each: int(each.group.rpartition("@")[2])):
            newest[state.version] = state
        return Groups(
            now,
            {version: _passed(state, now) for version, state in newest.items()},
            {version: state.lag_seconds(now) for version, state in newest.items()},
            max((state.backlog for state in newest.values() if state.group in owners), default=0),
            epoch is None or not epoch.shadow or epoch.shadow_bp >= BASIS_POINTS,
        )

    def resolve(self, references: Sequence[str]) -> list[str | None]:
        """Request ids of labels' references: an id, or `key:` and the caller's key; None for nobody's."""
        callers = [ref.removeprefix("key:") for ref in references if ref.startswith("key:")]
        found: Any = self.client.mget([self.keys.seen(key) for key in callers]) if callers else []
        seen = {key: raw.decode() for key, raw in zip(callers, found, strict=True) if raw}
        ids = [seen.get(ref[4:]) if ref.startswith("key:") else ref for ref in references]
        return [each if each and REQUEST_ID.match(each) else None for each in ids]

    def requests(self, request_ids: Iterable[str], shape: InputShape) -> dict[str, KnownRequest]:
        """Those of the ids that are known: in the requests stream, or at least answered."""
        ids = list(dict.fromkeys(request_ids))
        pipe = self.client.pipeline(transaction=False)
        for request_id in ids:
            pipe.xrange(self.keys.requests, min=request_id, max=request_id)
            pipe.hexists(self.keys.answers_of(request_id), request_id)
        replies = pipe.execute() if ids else []
        known = {}
        for request_id, entries, answered in zip(ids, replies[::2], replies[1::2], strict=True):
            if entries:
                known[request_id] = known_request(decode_request(entries[0][0], entries[0][1]), shape)
            elif answered:
                known[request_id] = KnownRequest(request_id)
        return known

    def answers(self, request_ids: Sequence[str], versions: Sequence[str]) -> list[Answers]:
        """What the owner and the shadows said, request by request."""
        pipe = self.client.pipeline(transaction=False)
        for request_id in request_ids:
            pipe.hmget(self.keys.answers_of(request_id), [request_id, *(f"{request_id}/{v}" for v in versions)])
        return [_answers(reply) for reply in (pipe.execute() if request_ids else [])]

    def dead_letters(self) -> int:
        return int(self.client.xlen(self.keys.dead))

    def alarms(self) -> dict[str, int]:
        return reaper.alarms(self.client, self.keys)


def _passed(state: GroupState, now_ms: int) -> Position:
    """First id that is not settled in this group; a group that has nothing to do is up to date."""
    if state.undelivered == 0 and state.pending == 0 and state.until is None:
        return now_ms, 0
    milliseconds, sequence = id_key(state.passed)
    return milliseconds, sequence + 1


def _answers(reply: Sequence[bytes | None]) -> Answers:
    owner, *shadows = (decode_answer(raw) if raw else None for raw in reply)
    return Answers(owner, tuple(shadow for shadow in shadows if shadow), reply[0] is not None and owner is None)


def known_request(entry: RequestEntry, shape: InputShape) -> KnownRequest:
    """A request as the evaluator needs it, its image decoded."""
    return KnownRequest(
        request_id=entry.request_id,
        key=entry.key,
        pixels=decode_pixels(entry.data, entry.encoding, shape),
        event_time_ms=entry.event_time_ms if (entry.event_time_ms or 0) < MAX_TIME_MS else None,
        metadata=entry.metadata.decode("utf-8", "replace").replace("\0", ""),
    )


def decode_pixels(data: bytes, encoding: str, shape: InputShape) -> bytes:
    """Raw HWC bytes; empty for an image that cannot be read, which then trains nobody."""
    if not data:
        return b""
    try:
        return (decode_image(data, encoding, shape) if encoding else raw_pixels(data, shape)).tobytes()
    except InvalidImageError:
        return b""
