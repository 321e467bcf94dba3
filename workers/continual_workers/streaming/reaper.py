"""Housekeeping of one model's streams, done by the evaluator every ten seconds.

Groups that nobody needs any more are destroyed, every request that all groups have passed is checked for an answer (an unanswered one
is added again: a loss becomes a delay and an alarm), old entries are trimmed, names of dead consumers are forgotten.
What must be atomic is the function `reap`; this module repeats it in small portions, so that Redis is never held for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis
from continual_contract.functions import (
    GroupState,
    error_from_reply,
    forget_call,
    parse_reap,
    parse_survey,
    reap_call,
    survey_call,
)
from continual_contract.ids import EntryId, GroupName, id_key
from continual_contract.keys import ModelKeys


@dataclass(frozen=True, slots=True)
class ReapOptions:
    requests_max_age_seconds: float = 172_800.0
    requests_max_bytes: int = 2 << 30
    predictions_max_age_seconds: float = 172_800.0
    answers_ttl_seconds: int = 90_000
    labels_through: EntryId | None = None
    """The evaluator's offset: labels behind it are trimmed. None trims none."""
    labels_min_age_seconds: float = 600.0
    """Younger labels stay all the same: `continual consume --score` reads along."""
    consumer_idle_seconds: float = 300.0
    """A consumer with nothing pending that has not read for so long is forgotten."""
    budget: int = 200
    """Entries audited per call."""
    calls: int = 500
    """Calls per round; the next round goes on where this one ended."""


@dataclass(frozen=True, slots=True)
class ReapResult:
    destroyed: int
    repaired: int
    readded: int
    trimmed: int
    audited: EntryId
    forgotten: int
    groups: dict[GroupName, GroupState]
    alarms: dict[str, int]
    """Counters that only grow: lost_undelivered, lost_pending, lost_tail, lost_groups, readded, unaudited."""
    dead: int
    """Length of the stream of dead letters."""


def reap_once(client: redis.Redis, keys: ModelKeys, options: ReapOptions) -> ReapResult:
    """One round. Raises ContinualError for an error reply, redis.ConnectionError when nobody answers."""
    totals, audited = _reap_all(client, keys, options)
    _trim_others(client, keys, options)
    states = groups(client, keys)
    forgotten = forget_idle_consumers(client, keys, options.consumer_idle_seconds)
    dead = int(client.xlen(keys.dead))
    return ReapResult(*totals, audited, forgotten, states, alarms(client, keys), dead)


def groups(client: redis.Redis, keys: ModelKeys) -> dict[GroupName, GroupState]:
    """How far every group is: backlog, the id it has passed, the oldest entry that waits. Cheap and read-only."""
    return parse_survey(_run(client, survey_call(keys).command()))


def alarms(client: redis.Redis, keys: ModelKeys) -> dict[str, int]:
    found: Any = client.hgetall(keys.alarms)
    return {name.decode(): int(count) for name, count in found.items()}


def forget_idle_consumers(client: redis.Redis, keys: ModelKeys, idle_seconds: float) -> int:
    """Delete names under which nothing is pending and nobody has read for long; a live worker that returns is created again."""
    forgotten = 0
    for group in _group_names(client, keys):
        consumers: Any = client.xinfo_consumers(keys.requests, group)
        for consumer in consumers:
            if consumer["pending"] == 0 and consumer["idle"] >= idle_seconds * 1000:
                forgotten += int(_run(client, forget_call(keys, group, consumer["name"].decode()).command()))
    return forgotten


def _group_names(client: redis.Redis, keys: ModelKeys) -> list[str]:
    served: Any = client.hkeys(keys.serve)
    return [name.decode() for name in served] if client.exists(keys.requests) else []


def _reap_all(client: redis.Redis, keys: ModelKeys, options: ReapOptions) -> tuple[tuple[int, int, int, int], EntryId]:
    """Destroyed, repaired, readded, trimmed; and the audited id."""
    call = reap_call(
        keys,
        round(options.requests_max_age_seconds * 1000),
        options.requests_max_bytes,
        options.answers_ttl_seconds,
        options.budget,
    )
    destroyed = repaired = readded = trimmed = 0
    for _ in range(options.calls):
        reply = parse_reap(_run(client, call.command()))
        destroyed, repaired = destroyed + reply.destroyed, repaired + reply.repaired
        readded, trimmed = readded + reply.readded, trimmed + reply.trimmed
        if not reply.more:
            break
    return (destroyed, repaired, readded, trimmed), reply.audited


def _trim_others(client: redis.Redis, keys: ModelKeys, options: ReapOptions) -> None:
    """Predictions by age; labels only behind the evaluator's offset, and not the newest."""
    seconds, micros = client.time()
    now = seconds + micros / 1e6
    oldest = round((now - options.predictions_max_age_seconds) * 1000)
    client.xtrim(keys.predictions, minid=max(0, oldest), approximate=True)
    if options.labels_through is not None:
        young = EntryId(f"{max(0, round((now - options.labels_min_age_seconds) * 1000))}-0")
        client.xtrim(keys.labels, minid=min(options.labels_through, young, key=id_key), approximate=True)


def _run(client: Any, command: tuple[Any, ...]) -> Any:
    try:
        return client.execute_command(*command)
    except redis.ResponseError as error:
        raise error_from_reply(str(error)) from error
