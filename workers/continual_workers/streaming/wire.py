"""One socket to Redis, several commands in one send.

A redis-py pipeline costs twice the raw write, and hides that a reply is an error until all are parsed. This takes one connection out of
the client's pool, packs the commands with hiredis, sends them at once, and gives every reply back in order: errors as values.
There are no retries here: whether a command may be sent twice is known only to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import redis
from continual_contract.functions import Argument, FunctionCall, error_from_reply
from hiredis import pack_command

TRANSIENT_CODES = ("MISCONF", "BUSY", "NOREPLICAS", "UNBLOCKED")
TRANSIENT_KINDS = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)
"""redis-py takes these codes out of the text and makes a class of each."""
Command = Sequence[Argument] | FunctionCall


class Wire:
    """Raises redis.ConnectionError or redis.TimeoutError when the server is not there; the connection is then useless."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection: Any = client.connection_pool.get_connection()  # the interface of a Connection is untyped

    def exchange(self, *commands: Command) -> list[Any]:
        """Replies in the order of the commands; an error reply is a redis.ResponseError among them."""
        words = [c.command() if isinstance(c, FunctionCall) else tuple(c) for c in commands]
        packed = [pack_command(each) for each in words]  # type: ignore[arg-type]  # its stub takes tuples of one word only
        self._connection.send_packed_command([b"".join(packed)])
        return [self._reply() for _ in words]

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except redis.ResponseError as error:
            return error

    def client_id(self) -> int:
        return int(self.exchange(("CLIENT", "ID"))[0])

    def close(self) -> None:
        self._connection.disconnect()
        self._client.connection_pool.release(self._connection)
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_transient(error: redis.ResponseError) -> bool:
    """Whether the same command may succeed later: Redis loads, is full, fails over, or has lost its functions for a moment."""
    text = str(error)
    return isinstance(error, TRANSIENT_KINDS) or text.startswith(TRANSIENT_CODES) or "Function not found" in text


def has_code(reply: object, code: str) -> bool:
    return isinstance(reply, redis.ResponseError) and str(reply).startswith(code)


def raise_unless_transient(reply: object) -> bool:
    """True for a reply that is a transient error, False for a good reply; other errors are raised as ours."""
    if not isinstance(reply, Exception):
        return False
    if isinstance(reply, redis.ResponseError) and is_transient(reply):
        return True
    raise error_from_reply(str(reply)) from reply


def stream_entries(reply: Any) -> list[tuple[bytes, list[bytes] | None]]:
    """Entries of an XREADGROUP on one stream; RESP2 gives a list of pairs, RESP3 a map. A deleted entry has None for fields."""
    if not reply:
        return []
    entries = next(iter(reply.values())) if isinstance(reply, Mapping) else reply[0][1]
    return [(entry_id, fields) for entry_id, fields in entries]


def named_values(reply: Any) -> dict[bytes, Any]:
    """An XINFO reply: flat list in RESP2, map in RESP3."""
    return dict(reply) if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
