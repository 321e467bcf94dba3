"""uvicorn with bounds that it lacks: a connection that does not say what it wants, in bytes or in seconds, is closed."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from continual_contract.errors import AddressInUseError
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from continual_gateway.cycle import Cycle
from continual_gateway.settings import ADDRESS

MAX_HEAD_BYTES = 32 << 10
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 65
"""Longer than the idle time of common proxies, so that they close first."""
SHUTDOWN_SECONDS = 25
"""Accepted requests get their answers before the process ends."""
BACKLOG = 1024
GC_THRESHOLDS = (5_000, 10, 10)
"""Seven times the usual first one: what a request leaves behind is freed without the collector."""


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is longer than 32 kB or takes longer than ten seconds, and one that is idle for long.

    A timer per request costs as much as parsing it; so a connection only notes since when it waits, and the server looks once a second.
    """

    _head_bytes = 0
    _patience = HEAD_SECONDS
    """How long it may go on as it is; no end while a request is answered."""
    _since = 0.0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself narrows it
        super().connection_made(transport)
        self._waits(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        if self._patience != HEAD_SECONDS:
            self._waits(HEAD_SECONDS)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._patience = False, math.inf
        http_version, parsed = self.parser.get_http_version(), httptools.parse_url(self.url)
        path = parsed.path.decode("ascii")
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"), "http_version": http_version,
            "path": unquote(path) if "%" in path else path, "raw_path": parsed.path, "query_string": parsed.query or b"",
        }  # fmt: skip
        before, self.cycle = self.cycle, self._cycle(http_version)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _cycle(self, http_version: str) -> Cycle:
        return Cycle(
            scope=self.scope, transport=self.transport, flow=self.flow, logger=self.logger, access_logger=self.access_logger,
            access_log=False, default_headers=[], message_event=asyncio.Event(), expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive(), on_response=self.on_response_complete,
        )  # fmt: skip

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_head:
            self._waits(KEEP_ALIVE_SECONDS)

    def _waits(self, patience: float) -> None:
        self._patience, self._since = patience, self.loop.time()

    def close_if_late(self, now: float) -> None:
        """Loop time, s."""
        if now - self._since > self._patience and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Ends by SIGTERM or SIGINT with exit code 0: uvicorn sends itself the signal once more when it has finished.

    Streams of events are ended first, so that only requests hold up the end.
    """

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settle_memory()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.close_if_late(now)
        return await super().on_tick(counter)

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


def settle_memory() -> None:
    """What was made by the start stays: the collector need not walk through it again and again, a seventh of a request's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


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
