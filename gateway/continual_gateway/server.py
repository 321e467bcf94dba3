"""uvicorn with bounds that it lacks: a connection that does not say what it wants, in bytes or in seconds, is closed."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from continual_contract.errors import AddressInUseError
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from continual_gateway.settings import ADDRESS

MAX_HEAD_BYTES = 32 << 10
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 65
"""Longer than the idle time of common proxies, so that they close first."""
SHUTDOWN_SECONDS = 25
"""Accepted requests get their answers before the process ends."""
BACKLOG = 1024


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is longer than 32 kB or takes longer than ten seconds."""

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself narrows it
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._cancel_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._in_head and not self.transport.is_closing():
            self.transport.close()

    def _cancel_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Server(uvicorn.Server):
    """Ends by SIGTERM or SIGINT with exit code 0: uvicorn sends itself the signal once more when it has finished.

    Streams of events are ended first, so that only requests hold up the end.
    """

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._stopping.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Errors: AddressInUseError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressInUseError(
            f"cannot be listened on: {error.strerror}", field=ADDRESS, value=f"{host}:{port}",
            remedy="end what listens there, or choose another address",
        ) from error  # fmt: skip
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def server_for(app: FastAPI, **options: Any) -> Server:
    """One worker; replicas are more processes. Access logs are off: metrics count, the audit names."""
    config = uvicorn.Config(
        app, http=BoundedProtocol, loop="none", lifespan="on", access_log=False, log_config=None, server_header=False,
        date_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ws="none", proxy_headers=False, **options,
    )  # fmt: skip
    return Server(config, app.state.gateway.stopping)
