"""Two closed loops with the same number of requests outstanding: over HTTP, and over Redis Streams.

Both run in one thread on non-blocking or packed sockets, without a framework, because on two cores what a client burns is not there for the
server. What they burn is measured and printed.
"""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis

OUTSTANDING = 64
ANSWER_SECONDS = 30.0


class FailedRequestError(Exception):
    """A server answered something else than 200, or not at all."""


@dataclass(slots=True)
class Load:
    """What a client saw: the seconds each answer took, the wall seconds, its own CPU seconds."""

    took: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def rps(self) -> float:
        return len(self.took) / self.seconds

    def quantile_ms(self, q: float) -> float:
        return statistics.quantiles(self.took, n=1000, method="inclusive")[round(q * 1000) - 1] * 1000


# HTTP ---------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Connection:
    """One request outstanding."""

    socket: socket.socket
    sent_at: float = 0.0
    buffer: bytes = b""
    sent: int = 0

    def send(self, requests: Sequence[bytes]) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(requests[self.sent % len(requests)])
        self.sent += 1


def http_loop(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    """64 keep-alive connections, each sending again as soon as its answer is whole. Raises FailedRequestError."""
    load, poll, connections = Load(), select.epoll(), dict[int, _Connection]()
    try:
        for _ in range(OUTSTANDING):  # each sends at once: a busy process then leaves the next one to its brother
            connection = _connect(port)
            connections[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
            connection.send(requests)
        began, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            ready = poll.poll(ANSWER_SECONDS)
            if not ready:
                raise FailedRequestError(f"no answer in {ANSWER_SECONDS:.0f} s")
            for descriptor, _ in ready:
                _receive(connections[descriptor], requests, load)
        load.seconds, load.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    finally:
        poll.close()
        for connection in connections.values():
            connection.socket.close()
    return load


def _connect(port: int) -> _Connection:
    made = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(made)


def _receive(connection: _Connection, requests: Sequence[bytes], load: Load) -> None:
    data = connection.socket.recv(65536)
    if not data:
        raise FailedRequestError("the server closed a connection")
    connection.buffer += data
    head, found, body = connection.buffer.partition(b"\r\n\r\n")
    if not found:
        return
    if not head.startswith(b"HTTP/1.1 200"):
        raise FailedRequestError(connection.buffer[:300].decode(errors="replace"))
    if _is_whole(head.lower(), body):
        connection.buffer = b""
        load.took.append(time.perf_counter() - connection.sent_at)
        connection.send(requests)


def _is_whole(head: bytes, body: bytes) -> bool:
    _, known, length = head.partition(b"content-length:")
    if known:
        return len(body) >= int(length.partition(b"\r\n")[0])
    if b"transfer-encoding: chunked" not in head:
        raise FailedRequestError("an answer without its length")
    return body.endswith(b"0\r\n\r\n")


# Redis Streams --------------------------------------------------------------------------------------------------------------------


def command(*words: bytes) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class _Redis:
    """One connection, replies in order."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=NotImplemented)

    def ask(self, packed: bytes, replies: int) -> list[Any]:
        self._socket.sendall(packed)
        found: list[Any] = []
        while len(found) < replies:
            while (reply := self._reader.gets()) is NotImplemented:
                self._reader.feed(self._socket.recv(1 << 18))
            if isinstance(reply, hiredis.ReplyError):
                raise FailedRequestError(str(reply))
            found.append(reply)
        return found

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Streams:
    """Where a stream client works, and whether the requests it sends at once leave as one transaction, as the gateway's do."""

    port: int
    requests: bytes
    predictions: bytes
    transaction: bool


def stream_loop(at: Streams, images: Sequence[bytes], seconds: float) -> Load:
    """64 requests in the stream; every answer read from the predictions is followed by a new request. Raises FailedRequestError."""
    load, client = Load(), _Redis(at.port)
    adds = [command(b"XADD", at.requests, b"*", b"d", image) for image in images]
    last = _newest(client, at.predictions)
    sent_at: dict[bytes, float] = {}
    due, number = OUTSTANDING, 0
    began, cpu = time.perf_counter(), time.process_time()
    try:
        while time.perf_counter() - began < seconds:
            sent = time.perf_counter()
            packed = b"".join(adds[(number + n) % len(adds)] for n in range(due))
            read = command(b"XREAD", b"BLOCK", b"%d" % (ANSWER_SECONDS * 1000), b"STREAMS", at.predictions, last)
            ids, answers = _exchange(client, packed, due, read, at)
            now = time.perf_counter()
            if answers is None:
                raise FailedRequestError(f"no answer in {ANSWER_SECONDS:.0f} s")
            sent_at.update(dict.fromkeys(ids, sent))
            entries, number = answers[0][1], number + due
            took = [now - sent for sent in (sent_at.pop(_request_of(fields), None) for _, fields in entries) if sent]
            load.took += took
            last, due = entries[-1][0], len(took)
        load.seconds, load.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    finally:
        client.close()
    return load


def _exchange(client: _Redis, packed: bytes, due: int, read: bytes, at: Streams) -> tuple[list[bytes], Any]:
    """Send what is due and read what is there or comes next: the new requests' ids and the answers."""
    if at.transaction:
        *_, ids, answers = client.ask(command(b"MULTI") + packed + command(b"EXEC") + read, due + 3)
        return ids, answers
    *ids, answers = client.ask(packed + read, due + 1)
    return ids, answers


def _request_of(fields: Sequence[bytes]) -> bytes:
    """The request id of a prediction: field `r`."""
    return bytes(fields[fields.index(b"r") + 1])


def _newest(client: _Redis, stream: bytes) -> bytes:
    (found,) = client.ask(command(b"XREVRANGE", stream, b"+", b"-", b"COUNT", b"1"), 1)
    return bytes(found[0][0]) if found else b"0-0"
