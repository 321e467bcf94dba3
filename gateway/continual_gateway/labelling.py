"""Labels, and the queue of requests that people are asked to label.

The queue is the gate's fair sample: the requests that `feedback.auditPercent` chose by hash, whatever was answered. What one labeler sees is
shuffled by their name, so that two of them rarely look at the same picture; the answer is not shown before the label, because a suggestion is
agreed with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from continual_contract.entries import DEAD, UNSAMPLED, LabelEntry, LabelSource, encode_label
from continual_contract.errors import ContinualError, UnknownClassError, UsageError
from continual_contract.ids import HOUR_MS
from continual_contract.routing import is_audited

from continual_gateway import audit
from continual_gateway.auth import Principal
from continual_gateway.errors import ForbiddenError
from continual_gateway.gateway import Gateway
from continual_gateway.lookups import REQUEST_ID, unknown
from continual_gateway.models import ModelFacts
from continual_gateway.reaching import reaching, replies
from continual_gateway.roles import Role
from continual_gateway.seen import SeenLabels

MAX_BULK = 10_000
SOURCES: tuple[LabelSource, ...] = ("audit", "truth", "correction")
KEY = "key:"
DRAWN, DRAWN_AN_HOUR = 20_000, 500
"""Answered requests among which unlabelled ones are searched: a fresh random draw each time, all where there are fewer."""
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Label:
    """One label as it was sent. `reference` is a request id or `key:<idempotency key>`."""

    reference: str
    class_name: str
    source: LabelSource = "correction"
    by: str = ""
    """Somebody else's name: only an admin (a labelling tool) may say it."""
    time_ms: int | None = None
    image: bytes = b""
    """Raw pixels of the model's size, for a request whose image is gone."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What became of it: `problem` is None when it was accepted."""

    reference: str
    problem: ContinualError | None = None


def source_of(text: object) -> LabelSource:
    """Errors: UsageError."""
    for source in SOURCES:
        if text == source:
            return source
    raise UsageError("is not a source of labels", field="source", value=text, remedy=f"use {', '.join(SOURCES)}")


def check_class(facts: ModelFacts, name: str) -> str:
    """Errors: UnknownClassError naming the classes there are."""
    if name not in facts.classes:
        some = ", ".join(facts.classes[:20]) + (", …" if len(facts.classes) > 20 else "")
        raise UnknownClassError(
            "the model has no such class", field="class", value=name[:80], remedy=f"classes: {some}"
        )
    return name


async def send_labels(
    gateway: Gateway, facts: ModelFacts, principal: Principal, labels: Sequence[Label]
) -> list[Labelled]:
    """Check each, append those that are right; one vote per labeler and request, so sending again is harmless.

    Errors: RedisUnavailableError, and then none or some were appended; ForbiddenError for `by` without the right.
    """
    if principal.role < Role.ADMIN and any(label.by and label.by != principal.name for label in labels):
        raise ForbiddenError("only an admin may label for others", field="by", remedy="leave it out")
    ids = await _resolved(gateway, facts, labels)
    problems = [_problem(facts, label, known) for label, known in zip(labels, ids, strict=True)]
    good = [(label, str(known)) for label, known, problem in zip(labels, ids, problems, strict=True) if problem is None]
    if good:
        await _append(gateway, facts, principal, good)
    return [Labelled(label.reference, problem) for label, problem in zip(labels, problems, strict=True)]


async def _append(gateway: Gateway, facts: ModelFacts, principal: Principal, good: Sequence[tuple[Label, str]]) -> None:
    now_ms = int(gateway.deps.clock() * 1000)
    async with reaching(gateway) as client:
        pipe = client.pipeline(transaction=False)
        for label, request_id in good:
            entry = LabelEntry(
                request_id,
                label.class_name,
                label.by or principal.name,
                label.source,
                label.time_ms or now_ms,
                label.image,
            )
            pipe.xadd(facts.keys.labels, dict(encode_label(entry)))  # type: ignore[arg-type]  # redis-py's dict is invariant
            pipe.zadd(facts.keys.labelled, {request_id: now_ms})
        pipe.zremrangebyscore(facts.keys.labelled, 0, now_ms - facts.window.total_seconds() * 1000)
        pipe.expire(facts.keys.labelled, int(facts.window.total_seconds()) + 3600)
        await pipe.execute()
    for label, _ in good:
        gateway.metrics.labels.labels(facts.ref.qualified, label.source).inc()
    said = good[0][0].class_name if len(good) == 1 else f"{len(good)} labels"
    await audit.record(
        gateway.deps.redis, principal, facts.ref, "label", f"{good[0][1]} {said}" if len(good) == 1 else said
    )


async def _resolved(gateway: Gateway, facts: ModelFacts, labels: Sequence[Label]) -> list[str | None]:
    """Request ids that can still be joined; None for nobody's."""
    async with reaching(gateway) as client:
        ids = [await _by_key(client, facts, label.reference) for label in labels]
        pipe = client.pipeline(transaction=False)
        for request_id in ids:
            if request_id is not None:
                pipe.hexists(facts.keys.answers_of(request_id), request_id)
                pipe.xrange(facts.keys.requests, request_id, request_id)
        found = iter(await pipe.execute())
    known = []
    for request_id in ids:
        is_known = request_id is not None and any((next(found), next(found)))
        known.append(request_id if is_known else None)
    return known


async def _by_key(client: Any, facts: ModelFacts, reference: str) -> str | None:
    if reference.startswith(KEY):
        held: Any = await replies(client.get(facts.keys.seen(reference.removeprefix(KEY))))
        return held.decode() if held else None
    return reference if REQUEST_ID.fullmatch(reference) else None


def _problem(facts: ModelFacts, label: Label, known: str | None) -> ContinualError | None:
    if known is None:
        return unknown(label.reference)
    try:
        check_class(facts, label.class_name)
    except UnknownClassError as error:
        return error
    return None


# The queue ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """One request to be labelled."""

    id: str
    time_ms: int
    expires_ms: int
    """After this moment the label is too late."""


@dataclass(frozen=True, slots=True)
class Queue:
    tasks: tuple[Task, ...]
    waiting: int
    """Unlabelled requests found, these included."""


async def next_to_label(
    gateway: Gateway, facts: ModelFacts, principal: Principal, seen: SeenLabels, limit: int
) -> Queue:
    """Audited requests without a label, in an order of this labeler's own. Errors: RedisUnavailableError."""
    now_ms = int(gateway.deps.clock() * 1000)
    oldest_ms = now_ms - int(facts.window.total_seconds() * 1000)
    async with reaching(gateway) as client:
        salt = _salt(await replies(client.get(facts.keys.config)))
        if salt is None:
            return Queue((), 0)
        await _read_labels(client, facts, seen)
        found = await _audited(client, facts, salt, oldest_ms, now_ms)
        done = await _done(client, facts, principal, found)
    left = [request_id for request_id in found if request_id not in seen.ids and request_id not in done]
    left.sort(key=lambda request_id: hashlib.blake2b(f"{principal.name}/{request_id}".encode(), digest_size=8).digest())
    window_ms = now_ms - oldest_ms
    tasks = tuple(Task(each, _ms(each), _ms(each) + window_ms) for each in left[:limit])
    return Queue(tasks, len(left))


async def skip(gateway: Gateway, facts: ModelFacts, principal: Principal, request_id: str) -> None:
    """Show it to this labeler no more; others still see it. Errors: NotFoundError, RedisUnavailableError."""
    if not REQUEST_ID.fullmatch(request_id):
        raise unknown(request_id)
    async with reaching(gateway) as client:
        await client.zadd(facts.keys.labelled, {_skipped(principal, request_id): int(gateway.deps.clock() * 1000)})


def _skipped(principal: Principal, request_id: str) -> str:
    return f"skip/{principal.name}/{request_id}"


def _ms(request_id: str) -> int:
    return int(request_id.partition("-")[0])


def _salt(raw: bytes | None) -> str | None:
    """The salt of the audit draw, from the evaluator's orders; None before there are any."""
    if raw is None:
        return None
    try:
        return str(json.loads(raw)["salt"])
    except (ValueError, KeyError, TypeError):
        return None


async def _read_labels(client: Any, facts: ModelFacts, seen: SeenLabels) -> None:
    while True:
        entries: Any = await replies(client.xrange(facts.keys.labels, b"(" + seen.position, "+", count=PAGE))
        seen.add(entries)
        if len(entries) < PAGE:
            return


async def _audited(client: Any, facts: ModelFacts, salt: str, oldest_ms: int, now_ms: int) -> list[str]:
    """Drawn from the answers, hour by hour: they name the requests without their images. Those whose image is gone are left out."""
    first: Any = await replies(client.xrange(facts.keys.requests, "-", "+", count=1))
    if not first:
        return []
    oldest_ms = max(oldest_ms, _ms(first[0][0].decode()))
    hours = range(oldest_ms // HOUR_MS, now_ms // HOUR_MS + 1)
    pipe = client.pipeline(transaction=False)
    for hour in hours:
        pipe.hrandfield(facts.keys.answers(hour), max(DRAWN_AN_HOUR, DRAWN // len(hours)), withvalues=True)
    drawn = [pair for flat in await pipe.execute() for pair in zip(flat[::2], flat[1::2], strict=True)]
    ids = (name.decode() for name, answer in drawn if b"/" not in name and answer not in (UNSAMPLED, DEAD))
    return [each for each in ids if _ms(each) >= oldest_ms and is_audited(each, salt, facts.audit_percent)]


async def _done(client: Any, facts: ModelFacts, principal: Principal, ids: Sequence[str]) -> frozenset[str]:
    """Labelled through a gateway, or skipped by this labeler."""
    if not ids:
        return frozenset()
    members = [member for each in ids for member in (each, _skipped(principal, each))]
    scores: Any = await replies(client.zmscore(facts.keys.labelled, members))
    return frozenset(each for index, each in enumerate(ids) if scores[2 * index : 2 * index + 2] != [None, None])
