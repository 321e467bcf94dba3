"""The command line as a client of the streams: send requests and labels, wait for answers, read what was said.

Sending goes through the function `enqueue`: one entry per caller's key whatever is repeated, and a full backlog refuses instead of
piling up. An answer is found by reading `predictions` and `dead` from where they stood before the request was sent, so nothing
between sending and waiting can be missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from continual_contract.entries import (
    DeadLetter,
    Fields,
    LabelEntry,
    PredictionEntry,
    decode_prediction,
    encode_label,
)
from continual_contract.errors import NotFoundError, UnavailableError
from continual_contract.ids import EntryId, RequestId, Version

if TYPE_CHECKING:
    import redis
    from continual_contract.functions import FunctionCall
    from continual_contract.keys import ModelKeys

BACKLOG_LIMIT = 100_000
"""Requests not yet answered above which sending is refused."""
KEY_REFERENCE = "key:"
PAGE = 500
BLOCK_MS = 500


@dataclass(frozen=True, slots=True)
class Sent:
    """`duplicate`: the caller's key was known; `request_id` is the earlier request's."""

    request_id: RequestId
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """Positions in the two streams where an answer can appear."""

    predictions: str
    dead: str


@contextmanager
def reaching(client: redis.Redis) -> Iterator[None]:
    """Turn connection failures and our functions' error replies into errors that a person can read."""
    import redis
    from continual_clients.redis import reaching_redis
    from continual_contract.functions import error_from_reply

    place = client.connection_pool.connection_kwargs
    with reaching_redis(f"redis {place.get('host')}:{place.get('port')}"):
        try:
            yield
        except redis.ResponseError as error:
            raise error_from_reply(str(error)) from error


def enqueue(
    client: redis.Redis,
    keys: ModelKeys,
    fields: Mapping[str | bytes, bytes | str | int | float],
    *,
    caller_key: str | None = None,
    window_seconds: float = 86_400.0,
    backlog_limit: int = BACKLOG_LIMIT,
) -> Sent:
    """Send one request. Errors: BacklogFullError, RedisUnavailableError."""
    from continual_contract.functions import enqueue_call, parse_enqueue

    call = enqueue_call(keys, fields, caller_key, backlog_limit, int(window_seconds) + 3600)
    result = parse_enqueue(run(client, call))
    return Sent(RequestId(result.entry_id), duplicate=not result.is_new)


def run(client: redis.Redis, call: FunctionCall) -> Any:
    """Run one of our functions. Errors: the one its error reply stands for."""
    with reaching(client):
        return client.execute_command(*call.command())  # type: ignore[no-untyped-call]  # redis-py has no annotation here


def send_label(client: redis.Redis, keys: ModelKeys, label: LabelEntry) -> EntryId:
    """Append one label. Repeating it is harmless: one vote per labeler and request."""
    with reaching(client):
        entry: Any = client.xadd(keys.labels, dict(encode_label(label)))  # type: ignore[arg-type]  # redis-py's dict is invariant
    return EntryId(entry.decode())


def cursor(client: redis.Redis, keys: ModelKeys) -> Cursor:
    """Where the streams end now."""
    return Cursor(last_id(client, keys.predictions), last_id(client, keys.dead))


def last_id(client: redis.Redis, stream: str) -> str:
    """Id of the newest entry, `0-0` for an empty or missing stream."""
    with reaching(client):
        newest: Any = client.xrevrange(stream, count=1)
    return newest[0][0].decode() if newest else "0-0"


def answers(
    client: redis.Redis, keys: ModelKeys, start: Cursor, *, until: float | None = None
) -> Iterator[PredictionEntry | DeadLetter | None]:
    """Predictions and dead letters after `start`, as they come; None whenever nothing came for half a second.

    Ends at `until` (monotonic seconds), else never.
    """
    positions = {keys.predictions: start.predictions, keys.dead: start.dead}
    while until is None or time.monotonic() < until:
        with reaching(client):
            found: Any = client.xread(positions, count=PAGE, block=BLOCK_MS)  # type: ignore[arg-type]  # redis-py's dict is invariant
        for name, entries in found or ():
            stream = name.decode()
            for entry_id, fields in entries:
                positions[stream] = entry_id.decode()
                yield readable_prediction(fields) if stream == keys.predictions else refused_request(entry_id, fields)
        if not found:
            yield None


def await_answers(
    client: redis.Redis, keys: ModelKeys, wanted: Sequence[str], start: Cursor, timeout: float
) -> dict[str, PredictionEntry | DeadLetter]:
    """The answers of `wanted` by request id, as many as came before `timeout` seconds were over."""
    found: dict[str, PredictionEntry | DeadLetter] = {}
    missing = set(wanted)
    if not missing:
        return found
    for answer in answers(client, keys, start, until=time.monotonic() + timeout):
        if answer is not None and answer.request_id in missing:
            found[answer.request_id] = answer
            missing.discard(answer.request_id)
        if not missing:
            break
    return found


def no_answer(request_id: str, timeout: float) -> UnavailableError:
    return UnavailableError(
        f"no answer within {timeout:g} s; the request stays in the stream and will be answered",
        field="request",
        value=request_id,
        remedy="see `continual get` for Ready, or wait longer with --timeout",
    )


def readable_prediction(fields: Fields) -> PredictionEntry | None:
    """A published prediction; None for what a stranger added and nobody can read."""
    try:
        return decode_prediction(fields)
    except (KeyError, ValueError):
        return None


def refused_request(entry_id: bytes, fields: Fields) -> DeadLetter | None:
    """The dead letter of a request; None for that of a label, which may name a request that is still to be answered."""
    return None if fields.get(b"kind") == b"label" else decode_dead(entry_id, fields)


def decode_dead(entry_id: bytes, fields: Fields) -> DeadLetter:
    """Read one dead letter; `request` gets the request's own fields back."""

    def text(name: bytes) -> str:
        return fields.get(name, b"").decode("utf-8", "replace")

    def number(name: bytes) -> int:
        return int(fields[name]) if fields.get(name, b"").isdigit() else 0

    return DeadLetter(
        entry_id=EntryId(entry_id.decode()),
        request_id=RequestId(text(b"r")),
        reason=text(b"reason"),
        message=text(b"message"),
        deliveries=number(b"deliveries"),
        version=Version(text(b"v")),
        time_ms=number(b"t"),
        request={name[2:]: value for name, value in fields.items() if name.startswith(b"x-")},
    )


def resolve(client: redis.Redis, keys: ModelKeys, reference: str) -> RequestId:
    """The request id behind `key:<caller's key>`, or the id itself. Errors: NotFoundError for an unknown key."""
    if not reference.startswith(KEY_REFERENCE):
        return RequestId(reference)
    with reaching(client):
        held: Any = client.get(keys.seen(reference.removeprefix(KEY_REFERENCE)))
    if held is None:
        raise unknown_request(reference)
    return RequestId(held.decode())


def require_known(client: redis.Redis, keys: ModelKeys, request_id: RequestId) -> None:
    """Errors: NotFoundError when the request is neither answered within the window nor waiting in the stream."""
    if not is_known(client, keys, request_id):
        raise unknown_request(request_id)


def is_known(client: redis.Redis, keys: ModelKeys, request_id: str) -> bool:
    """Whether a label for this request can still be joined."""
    if not is_entry_id(request_id):
        return False
    with reaching(client):
        if client.hexists(keys.answers_of(request_id), request_id):
            return True
        waiting: Any = client.xrange(keys.requests, request_id, request_id)
    return bool(waiting)


def is_entry_id(text: str) -> bool:
    milliseconds, dash, sequence = text.partition("-")
    return bool(dash) and milliseconds.isdigit() and sequence.isdigit()


def unknown_request(reference: str) -> NotFoundError:
    return NotFoundError(
        "no such request, or older than feedback.window",
        field="id",
        value=reference,
        remedy="take the id from `continual predict` or `continual consume`, or key:<the key you sent it under>",
    )
