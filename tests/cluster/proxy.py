"""What stands between an operator and its servers in the fault tests: it sees every call by name, and may kill, hold up or answer for them.

`ApiProxy` speaks HTTP to the operator and TLS to the API server; `RedisProxy` passes bytes on and knows the commands that change something.
Both hand every call that changes something to a `Gate`, before it goes out and after its answer came in, so that a test can end the
operator's process exactly there: `before` means that the server never heard of the call, `after` that the operator never heard the answer.
Each proxy has a thread and a port of its own on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web
from control_plane import ControlPlane
from operators import farewells
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}
CHANGING_COMMANDS = {b"FCALL", b"HSET", b"HDEL", b"UNLINK"}


@dataclass
class Call:
    """One request of the operator to the API server."""

    at: float
    """Monotonic seconds."""
    method: str
    path: str
    query: str
    body: Any = None
    status: int = 0

    @property
    def changes(self) -> bool:
        return self.method != "GET" and "/leases" not in self.path

    @property
    def is_watch(self) -> bool:
        return "watch=" in self.query


@dataclass
class Reply:
    """An answer that the API server never gave."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


Point = tuple[str, str, str]
"""Chapter, name of the call, `before` or `after`."""


class Gate:
    """Knows the chapter, names every changing call, and ends the operator at the points of its plan, each once."""

    def __init__(self, plan: Iterable[Point] = (), kill: Callable[[], None] = lambda: None) -> None:
        self.plan, self.kill = list(plan), kill
        self.chapter = "create"
        self.passed: list[tuple[str, str]] = []
        """Chapter and name of every call that was answered, in order."""
        self.last_change = time.monotonic()
        self._told = 0
        self._lock = threading.Lock()

    def dies(self, name: str, moment: str) -> bool:
        """Whether the operator ended here; it is dead when this returns."""
        with self._lock:
            self.last_change = time.monotonic()
            if moment == "after":
                self.passed.append((self.chapter, name))
            point = (self.chapter, name, moment)
            if point not in self.plan:
                return False
            self.plan.remove(point)
            self.kill()
            return True

    def name(self, call: Call) -> str:
        """`create jobs`, `apply deployments/digits-v2`, `status Accept`, `event Accept`: the same wherever the story is told."""
        *_, kind, last = call.path.split("/")
        if last == "status":
            return self._name_of_status(call.body["status"])
        if call.method == "POST":
            return f"event {call.body['message'].split()[0]}" if last == "events" else f"create {last}"
        if call.method == "DELETE":
            return f"delete {kind}/{_canonical(last)}"
        return "count" if kind == "events" else f"apply {kind}/{_canonical(last)}"

    def _name_of_status(self, status: dict[str, Any]) -> str:
        decided = [line["action"] for line in status.get("decisions") or () if line["sequence"] > self._told]
        return f"status {'+'.join(decided)}" if decided else "status"

    def heard(self, call: Call) -> None:
        """What was told is not told again: a status that is sent anew after a crash has the same name."""
        if call.path.endswith("/status") and call.status == 200:
            lines = call.body["status"].get("decisions") or ()
            self._told = max(self._told, *(line["sequence"] for line in lines), 0)


def _canonical(name: str) -> str:
    """A Job's name ends with a hash that differs from namespace to namespace."""
    return name.partition("-train-")[0] + "-train" if "-train-" in name else name


class Thread:
    """An event loop in a thread; `serve` sets up what it runs."""

    def __init__(self) -> None:
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20), "the proxy does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the proxy does not end"

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        async with contextlib.AsyncExitStack() as stack:
            self.port = await self.serve(stack)
            self._ready.set()
            await self._over.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await farewells()

    async def serve(self, stack: contextlib.AsyncExitStack) -> int:
        raise NotImplementedError

    def hold(self) -> None:
        """A black hole from now on: nothing passes, nothing is refused."""
        self._loop.call_soon_threadsafe(self.open.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self.open.set)


class ApiProxy(Thread):
    """Between one operator and the API server."""

    def __init__(self, plane: ControlPlane, gate: Gate | None = None) -> None:
        super().__init__()
        self.plane, self.gate = plane, gate or Gate()
        self.calls: list[Call] = []
        self.answer: Callable[[Call], Reply | None] = lambda _: None
        """Called for every request; what it returns is the answer."""
        self.drops: Callable[[dict[str, Any]], bool] = lambda _: False
        """Called for every watch event; True swallows it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rate(self, since: float, seconds: float) -> float:
        """Requests per second in a window."""
        return sum(since <= call.at < since + seconds for call in self.calls) / seconds

    async def serve(self, stack: contextlib.AsyncExitStack) -> int:
        trust = ssl.create_default_context(cafile=str(self.plane.ca))
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        runner = web.ServerRunner(web.Server(self._guarded, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        """A client that went away is nobody's error here."""
        try:
            return await self._handle(request)
        except (ConnectionError, aiohttp.ClientError):
            return _cut(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        call = Call(time.monotonic(), request.method, request.path, request.query_string, json.loads(raw or b"null"))
        self.calls.append(call)
        await self.open.wait()
        if request.transport is None or request.transport.is_closing():
            return _cut(request)  # a firewall that drops packets delivers none of them later
        if (reply := self.answer(call)) is not None:
            call.status = reply.status
            return web.json_response(reply.body, status=reply.status, headers=reply.headers)
        name = self.gate.name(call) if call.changes else ""
        if name and self.gate.dies(name, "before"):
            return _cut(request)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        url = URL(self.plane.url + request.raw_path, encoded=True)
        async with self._session.request(request.method, url, headers=headers, data=raw or None) as answer:
            call.status = answer.status
            if call.is_watch and answer.status == 200:
                return await self._stream(request, answer)
            data = await answer.read()
        self.gate.heard(call)
        if name and answer.status < 300 and self.gate.dies(name, "after"):
            return _cut(request)
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_BY_HOP}
        return web.Response(status=answer.status, body=data, headers=kept)

    async def _stream(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """A watch: line by line, each when the way is open."""
        response = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
        await response.prepare(request)
        async for line in _lines(answer):
            await self.open.wait()
            if not self.drops(json.loads(line)):
                await response.write(line)
        await response.write_eof()
        return response


async def _lines(answer: aiohttp.ClientResponse) -> Any:
    """Lines of any length: a model with its status may be larger than a stream reader's limit."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


class RedisProxy(Thread):
    """Between one operator and Redis: what it changes passes the gate, called by its function or command."""

    def __init__(self, port: int, gate: Gate) -> None:
        super().__init__()
        self.target, self.gate = port, gate

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, stack: contextlib.AsyncExitStack) -> int:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        stack.push_async_callback(_closed, server)
        return int(server.sockets[0].getsockname()[1])

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError), contextlib.closing(writer):
            up, down = await asyncio.open_connection("127.0.0.1", self.target)
            waiting: list[str] = []
            with contextlib.closing(down):
                await _first(self._out(reader, down, waiting), self._back(up, writer, waiting))

    async def _out(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter, waiting: list[str]) -> None:
        while data := await reader.read(1 << 20):
            await self.open.wait()
            names = command_names(data)
            if any(self.gate.dies(name, "before") for name in names):
                return
            waiting.extend(names)
            down.write(data)

    async def _back(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, waiting: list[str]) -> None:
        while data := await up.read(1 << 20):
            await self.open.wait()
            names, waiting[:] = waiting[:], []
            if any(self.gate.dies(name, "after") for name in names):
                return
            writer.write(data)


def command_names(data: bytes) -> list[str]:
    """The changing commands in these bytes: `call route`, `HSET` …; a command that is split over two reads is not seen."""
    words = data.split(b"\r\n")
    names = []
    for index, word in enumerate(words):
        if word in CHANGING_COMMANDS and index >= 2 and words[index - 2].startswith(b"*"):
            names.append(f"call {words[index + 2].decode().rpartition('_')[2]}" if word == b"FCALL" else word.decode())
    return names


async def _first(*works: Awaitable[None]) -> None:
    """Until one of them ends; the other is cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _closed(server: asyncio.Server) -> None:
    server.close()
