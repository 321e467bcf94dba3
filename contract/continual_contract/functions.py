"""Calls into the Redis function library `continual_v1`, as values: who sends them is the caller's business.

Every builder returns a `FunctionCall`; `client.execute_command(*call.command())` runs it with any client. Replies are read by the
parser beside the builder, error replies by `error_from_reply`. The library (`functions.lua`) says what each function guarantees.
The version is part of the library's and of every function's name: two libraries cannot hold the same function name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import Any, Literal, NamedTuple

from continual_contract.entries import ISOLATE_AFTER_DELIVERIES, Role, Why
from continual_contract.errors import (
    BacklogFullError,
    ConflictError,
    ContinualError,
    FencedError,
    ForeignOwnerError,
    NotFoundError,
    RedisUnavailableError,
    StaleRoutingError,
    UsageError,
)
from continual_contract.ids import EntryId, GroupName, Version, hour_of
from continual_contract.keys import ModelKeys

LIBRARY = "continual_v1"
FUNCTIONS = (
    "enqueue", "commit", "renew", "claim", "forget", "dead", "replay", "route", "configure", "wipe", "survey", "reap",
)  # fmt: skip
Argument = str | bytes | int | float
CommitKind = Literal["o", "u", "s"]
"""o: publish and store · u: publish, store the mark UNSAMPLED · s: shadow answer, stored, never published."""


def library_source() -> str:
    """Lua source for FUNCTION LOAD REPLACE."""
    return files("continual_contract").joinpath("functions.lua").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """One FCALL: function name, keys (all of one hash slot), arguments."""

    name: str
    keys: tuple[str, ...]
    args: tuple[Argument, ...]

    def command(self) -> tuple[Argument, ...]:
        """The words of the command: `client.execute_command(*call.command())`."""
        return ("FCALL", self.name, len(self.keys), *self.keys, *self.args)


def _call(function: str, keys: Iterable[str], args: Iterable[Argument]) -> FunctionCall:
    return FunctionCall(f"{LIBRARY}_{function}", tuple(keys), tuple(args))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


# Requests ------------------------------------------------------------------------------------------------------------------------


def enqueue_call(
    keys: ModelKeys,
    fields: Mapping[str | bytes, Argument],
    caller_key: str | None = None,
    backlog_limit: int = 0,
    seen_ttl_seconds: int = 90_000,
) -> FunctionCall:
    """Add a request. The same `caller_key` again returns the first entry's id; a `backlog_limit` of 0 is none.

    Raises (as reply): BACKLOG when an owning group is `backlog_limit` or more requests behind; OOM when Redis is full.
    """
    flat = [part for pair in fields.items() for part in pair]
    names = [keys.requests, keys.routing, *([keys.seen(caller_key)] if caller_key else [])]
    return _call("enqueue", names, (backlog_limit, max(1, seen_ttl_seconds), *flat))


@dataclass(frozen=True, slots=True)
class Enqueued:
    entry_id: EntryId
    is_new: bool


def parse_enqueue(reply: Sequence[Any]) -> Enqueued:
    return Enqueued(EntryId(_text(reply[0])), bool(reply[1]))


# What a worker does with what was delivered to it ---------------------------------------------------------------------------------


class Author(NamedTuple):
    """Whose answers a commit brings."""

    version: str
    digest_prefix: str
    worker_us: int
    """Worker time per image, microseconds (batch time / batch size)."""


class Answered(NamedTuple):
    """One answered entry. `request_id` differs from `entry_id` where a request was added again."""

    entry_id: str
    request_id: str
    class_name: str
    confidence: float


class Section(NamedTuple):
    """Answers of one kind, said in one role for one reason, in the order of their ids."""

    kind: CommitKind
    role: Role
    why: Why
    answers: Sequence[Answered]


def commit_call(
    keys: ModelKeys,
    group: str,
    author: Author,
    sections: Iterable[Section],
    acknowledged: Sequence[str] = (),
    ttl_seconds: int = 90_000,
) -> FunctionCall:
    """Settle one batch of one group: publish and store answers, acknowledge what the group does not own. No section is empty.

    Raises (as reply): FENCED, with nothing acknowledged, when `group` is not served by `author.version`.
    """
    buckets: dict[int, int] = {}
    args: list[Argument] = [group, author.version, author.digest_prefix, author.worker_us, ttl_seconds]
    args += (len(acknowledged), *acknowledged)
    for section in sections:
        renamed = any(entry_id != request_id for entry_id, request_id, _, _ in section.answers)
        for hour, answers in _by_hour(section.answers, ascend=not renamed):
            position = buckets.setdefault(hour, len(buckets) + 1)
            args += (section.kind, section.role, section.why, position, int(renamed), len(answers))
            args += _cells(answers, renamed=renamed)
    return _call("commit", (keys.requests, keys.predictions, keys.serve, *map(keys.answers, buckets)), args)


def _cells(answers: Sequence[Answered], *, renamed: bool) -> list[Argument]:
    """Column by column: one formatting for all confidences takes half the time of one for each."""
    entry_ids, request_ids, names, confidences = zip(*answers, strict=True)
    cells: list[Argument] = [""] * (len(answers) * (4 if renamed else 3))
    step = 4 if renamed else 3
    cells[::step], cells[2::step] = entry_ids, names
    cells[1::step] = ("%.4f " * len(answers) % confidences).split()
    if renamed:
        cells[3::step] = request_ids
    return cells


def _by_hour(answers: Sequence[Answered], *, ascend: bool) -> Iterable[tuple[int, Sequence[Answered]]]:
    """Runs of the same hour bucket; where ids ascend and the ends agree, all between them do."""
    first = hour_of(answers[0].request_id)
    if ascend and first == hour_of(answers[-1].request_id):
        return [(first, answers)]
    return [(hour, list(run)) for hour, run in groupby(answers, lambda answer: hour_of(answer.request_id))]


@dataclass(frozen=True, slots=True)
class CommitResult:
    acknowledged: int
    published: int
    lost: int
    """Answered entries that were no longer pending: somebody else settled them."""


def parse_commit(reply: Sequence[Any]) -> CommitResult:
    return CommitResult(int(reply[0]), int(reply[1]), int(reply[2]))


def renew_call(keys: ModelKeys, group: str, version: str, consumer: str, entry_ids: Sequence[str]) -> FunctionCall:
    """Start the idle time of these entries again, where `consumer` still holds them. Reply: ids still held."""
    return _call("renew", (keys.requests, keys.serve), (group, version, consumer, *entry_ids))


def parse_renew(reply: Sequence[bytes | str]) -> frozenset[EntryId]:
    return frozenset(EntryId(_text(entry_id)) for entry_id in reply)


def claim_call(
    keys: ModelKeys,
    group: str,
    version: str,
    consumer: str,
    min_idle_ms: int,
    count: int,
    isolate_after: int = ISOLATE_AFTER_DELIVERIES,
) -> FunctionCall:
    """Take over pending entries: those idle for `min_idle_ms`, and at once those of consumers of other versions (`heirs`).

    Entries on their `isolate_after`-th delivery or a later one come alone. Consumer names are `<version>/<name>`.
    """
    args = (group, version, consumer, min_idle_ms, count, isolate_after)
    return _call("claim", (keys.requests, keys.serve, keys.alarms), args)


@dataclass(frozen=True, slots=True)
class Claimed:
    entry_id: EntryId
    deliveries: int
    fields: dict[bytes, bytes]


def parse_claim(reply: Sequence[Any]) -> tuple[list[Claimed], list[EntryId]]:
    """Entries taken over, and pending ids whose entry no longer exists (a loss: counted in `alarms` already)."""
    taken = [Claimed(EntryId(_text(i)), int(n), dict(zip(f[::2], f[1::2], strict=True))) for i, n, f in reply[0]]
    return taken, [EntryId(_text(entry_id)) for entry_id in reply[1]]


def forget_call(keys: ModelKeys, group: str, consumer: str) -> FunctionCall:
    """Delete a consumer, only if nothing is pending under its name. Reply: 1 deleted, 0 kept."""
    return _call("forget", (keys.requests,), (group, consumer))


def dead_call(
    keys: ModelKeys,
    group: str,
    version: str,
    entry_id: str,
    request_id: str,
    reason: str,
    message: str,
    ttl_seconds: int = 90_000,
) -> FunctionCall:
    """Give up on a request, through the same fences as an answer. Reply: id of the dead letter, or empty.

    Raises (as reply): FENCED; NOTOWNER when the group has no share of the entry.
    """
    names = (keys.requests, keys.dead, keys.serve, keys.answers_of(request_id), keys.routing)
    return _call("dead", names, (group, version, entry_id, request_id, reason, message[:500], ttl_seconds))


def replay_call(keys: ModelKeys, dead_entry_id: str) -> FunctionCall:
    """Add a dead letter's request again under its first id. Reply: id of the new entry. Raises (as reply): NOTFOUND."""
    return _call("replay", (keys.requests, keys.dead), (keys.prefix + "answers:", dead_entry_id))


# What the operator does -----------------------------------------------------------------------------------------------------------


def route_call(
    keys: ModelKeys,
    gen: int,
    token: int,
    uid: str,
    shares: Sequence[tuple[str, int]],
    shadow: Sequence[str] = (),
    shadow_bp: int = 0,
    salt: str = "",
    heirs: Mapping[str, str] | None = None,
    min_gen: int = 0,
) -> FunctionCall:
    """Who answers from now on: compare-and-set on `gen`; the same desired state again changes nothing.

    `shares`: (version, basis points) in order, summing to 10000; 0 keeps a version's group open. `heirs`: {dead version: heir}.
    Raises (as reply): STALE (read routing again), FENCED (a newer leader), FOREIGN (`wipe` first), SHARES, HEIRS.
    """
    wanted = {
        "shares": [[version, width] for version, width in shares],
        "shadow": list(shadow),
        "shadow_bp": shadow_bp,
        "salt": salt,
        "heirs": dict(heirs or {}),
    }
    return _call("route", (keys.requests, keys.routing, keys.serve), (gen, token, uid, min_gen, json.dumps(wanted)))


@dataclass(frozen=True, slots=True)
class RouteResult:
    gen: int
    after: EntryId
    """Where the current epoch begins (exclusive)."""
    changed: bool


def parse_route(reply: Sequence[Any]) -> RouteResult:
    return RouteResult(int(reply[0]), EntryId(_text(reply[1])), bool(reply[2]))


def configure_call(keys: ModelKeys, uid: str, token: int, document: bytes | str) -> FunctionCall:
    """Write the evaluator's orders, fenced like `route`. Raises (as reply): FENCED, FOREIGN."""
    return _call("configure", (keys.routing, keys.config), (uid, token, document))


def wipe_call(keys: ModelKeys, uid: str, token: int) -> FunctionCall:
    """Delete what another resource (another uid) of the same name left. Reply: keys deleted; 0 when it is ours already.

    `answers:*` and `seen:*` expire by themselves; request ids do not repeat.
    """
    names = (
        keys.routing, keys.requests, keys.predictions, keys.labels, keys.dead, keys.serve, keys.report, keys.config, keys.alarms,
    )  # fmt: skip
    return _call("wipe", names, (uid, token))


# What the evaluator does ----------------------------------------------------------------------------------------------------------


def reap_call(
    keys: ModelKeys, max_age_ms: int, max_bytes: int, answers_ttl_seconds: int, budget: int = 200
) -> FunctionCall:
    """Destroy drained groups, audit at most `budget` passed entries, drop epochs, trim audited ones."""
    names = (keys.requests, keys.routing, keys.serve, keys.alarms, keys.dead)
    return _call("reap", names, (keys.prefix + "answers:", max_age_ms, max_bytes, answers_ttl_seconds, budget))


@dataclass(frozen=True, slots=True)
class ReapReply:
    destroyed: int
    repaired: int
    readded: int
    trimmed: int
    audited: EntryId
    """Up to here every request has a prediction, a dead letter, or was added again."""
    more: bool
    """The budget was used up: call again soon."""


def parse_reap(reply: Sequence[Any]) -> ReapReply:
    destroyed, repaired, readded, trimmed, audited, more = reply
    return ReapReply(int(destroyed), int(repaired), int(readded), int(trimmed), EntryId(_text(audited)), bool(more))


def survey_call(keys: ModelKeys) -> FunctionCall:
    """How far every group is; read-only."""
    return _call("survey", (keys.requests, keys.routing), ())


@dataclass(frozen=True, slots=True)
class GroupState:
    group: GroupName
    version: Version
    serve: Version
    until: EntryId | None
    undelivered: int
    pending: int
    passed: EntryId
    """Nothing up to this id is undelivered or pending in this group."""
    oldest_waiting: EntryId | None

    @property
    def backlog(self) -> int:
        return self.undelivered + self.pending

    def lag_seconds(self, now_ms: int) -> float:
        """Age of the oldest entry the group has not settled; 0 when it has settled all."""
        if self.oldest_waiting is None:
            return 0.0
        return max(0.0, now_ms - int(self.oldest_waiting.partition("-")[0])) / 1000


def parse_survey(reply: Sequence[Sequence[Any]]) -> dict[GroupName, GroupState]:
    states = (_group_state(row) for row in reply)
    return {state.group: state for state in states}


def _group_state(row: Sequence[Any]) -> GroupState:
    name, version, serve, until, undelivered, pending, passed, oldest = row
    return GroupState(
        GroupName(_text(name)),
        Version(_text(version)),
        Version(_text(serve)),
        EntryId(_text(until)) if until else None,
        int(undelivered),
        int(pending),
        EntryId(_text(passed)),
        EntryId(_text(oldest)) if oldest else None,
    )


# Errors ---------------------------------------------------------------------------------------------------------------------------

_REMEDIES: dict[str, tuple[type[ContinualError], str, str]] = {
    "STALE": (StaleRoutingError, "routing.gen", "read routing again and decide again"),
    "FENCED": (FencedError, "serve", "somebody newer has taken over: stop acting on this"),
    "FOREIGN": (ForeignOwnerError, "routing.uid", "wipe the keys of the former resource first"),
    "BACKLOG": (BacklogFullError, "backlog", "retry later or add replicas"),
    "SHARES": (UsageError, "shares", "use whole basis points that sum to 10000"),
    "HEIRS": (UsageError, "heirs", "name an heir that has a share or a shadow, for a version that has none"),
    "NOTOWNER": (ConflictError, "group", "only the owner's group may write a dead letter"),
    "NOTFOUND": (NotFoundError, "dead", "list the dead letters for their ids"),
    "OOM": (RedisUnavailableError, "maxmemory", "let the backlog drain or give Redis more memory"),
    "NOGROUP": (StaleRoutingError, "group", "read routing again"),
    "LOADING": (RedisUnavailableError, "redis", "it is loading its data: retry"),
}


def error_from_reply(text: str) -> ContinualError:
    """The exception for an error reply; unknown ones are RedisUnavailableError when the library is missing, else ContinualError."""
    code, _, rest = text.partition(" ")
    if "used memory > 'maxmemory'" in text:  # redis-py takes the code OOM out of the text
        code, rest = "OOM", text
    if code in _REMEDIES:
        kind, field, remedy = _REMEDIES[code]
        return kind(rest or code, field=field, remedy=remedy)
    if "Function not found" in text:
        return RedisUnavailableError(
            f"library {LIBRARY} is not loaded", field="functions", remedy="the operator loads it: wait or run it"
        )
    return ContinualError(text, field="redis")


def lost_nothing(alarms: Mapping[bytes, bytes]) -> bool:
    """Whether the hash `alarms` counts no loss (re-added requests are delays, not losses)."""
    return not any(int(count) for name, count in alarms.items() if name.startswith(b"lost_"))
