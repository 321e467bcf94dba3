"""A connection to Redis for the path of every inference request: many commands in flight, one write per turn of the loop.

redis-py takes a connection of its pool per command and costs as much as the rest of a request; here all requests of this process share one
socket, commands are answered in order, and what is sent within one turn of the loop leaves in one write. Parsing is hiredis's. Nothing
is ever repeated: when the socket breaks, every caller is told, and the next call connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis
from continual_clients.redis import read_password
from continual_contract.errors import ContinualError, RedisUnavailableError
from continual_contract.functions import error_from_reply

from continual_gateway.deadlines import Deadlines

CONNECT_SECONDS = 1.5
Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is; the password is read from its file at every connect, so a rotated one is found."""

    host: str
    port: int
    database: int = 0
    tls: bool = False
    socket_path: str = ""
    username: str = ""
    password_file: Path | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.socket_path or f"{self.host}:{self.port}"


def address_of(url: str, username: str, password_file: Path | None) -> RedisAddress:
    """From the URL that `connect_async` takes as well."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return RedisAddress("", 0, 0, False, unquote(parts.path), username, password_file)
    database = parts.path.strip("/")
    return RedisAddress(
        parts.hostname or "127.0.0.1", parts.port or 6379, int(database) if database.isdigit() else 0,
        parts.scheme == "rediss", "", username, password_file,
    )  # fmt: skip


class Wire:
    """One shared connection, made when it is first needed."""

    def __init__(self, address: RedisAddress, deadlines: Deadlines) -> None:
        self._address, self._deadlines = address, deadlines
        self._link: _Link | None = None
        self._opening = asyncio.Lock()

    async def call(self, *words: Argument, seconds: float) -> Any:
        """One command's reply: bytes, int, None or lists of them.

        Errors: RedisUnavailableError when there is no answer within `seconds`; of an error reply, what it stands for.
        """
        try:
            link = self._link
            if link is not None and not link.closed:
                reply = await self._deadlines.within(seconds, link.send(words))
            else:
                async with asyncio.timeout(seconds):
                    reply = await (await self._open()).send(words)
        except TimeoutError as error:
            raise unreachable(self._address, "no answer in time") from error
        if isinstance(reply, hiredis.ReplyError):
            raise _refusal(reply)
        return reply

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    async def _open(self) -> _Link:
        async with self._opening:
            if self._link is not None and not self._link.closed:
                return self._link
            link = await _connected(self._address)
            self._link = link
            return link


async def _connected(address: RedisAddress) -> _Link:
    loop = asyncio.get_running_loop()
    link = _Link(address)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.socket_path:
                await loop.create_unix_connection(lambda: link, address.socket_path)
            else:
                tls = ssl.create_default_context() if address.tls else None
                await loop.create_connection(lambda: link, address.host, address.port, ssl=tls)
            for words in _greeting(address):
                if isinstance(reply := await link.send(words), hiredis.ReplyError):
                    raise _refusal(reply)
    except (OSError, TimeoutError) as error:
        link.close()
        raise unreachable(address, str(error) or "no answer in time") from error
    except ContinualError:
        link.close()
        raise
    return link


def _greeting(address: RedisAddress) -> list[tuple[Argument, ...]]:
    password = read_password(address.password_file)
    words: list[tuple[Argument, ...]] = []
    if password:
        words.append(("AUTH", address.username, password) if address.username else ("AUTH", password))
    if address.database:
        words.append(("SELECT", address.database))
    return words


class _Link(asyncio.Protocol):
    """A socket with its callers in line."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._reader = hiredis.Reader()
        self._callers: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def send(self, words: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """The reply, in time; an error reply is a value."""
        caller: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            caller.set_exception(unreachable(self._address, "the connection was closed"))
            return caller
        self._callers.append(caller)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub wants one type per tuple
        return caller

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by birth

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                caller = self._callers.popleft()
                if not caller.done():
                    caller.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "the connection was closed")

    def close(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):
                self._transport.close()
        self._fail("the connection was closed")

    def _fail(self, why: str) -> None:
        self.closed = True
        while self._callers:
            caller = self._callers.popleft()
            if not caller.done():
                caller.set_exception(unreachable(self._address, why))


def unreachable(address: object, why: str) -> RedisUnavailableError:
    return RedisUnavailableError(f"no answer from Redis: {why}", field=f"redis {address}", remedy="try again")


def _refusal(reply: hiredis.ReplyError) -> ContinualError:
    """An error reply; what ours do not name is Redis refusing, which is never the caller's fault."""
    found = error_from_reply(str(reply))
    if type(found) is ContinualError:
        return RedisUnavailableError(f"Redis refuses: {reply}"[:300], field="redis", remedy="see the operator's log")
    return found
