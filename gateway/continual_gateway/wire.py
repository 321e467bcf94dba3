"""A connection to Redis for the path of every inference request: many commands in flight, few writes.

redis-py takes a connection of its pool per command and costs as much as the rest of a request; here all requests of this process share one
socket, commands are answered in order, and what is sent while others are answered leaves together. Parsing is hiredis's. Nothing is ever
repeated: when the socket breaks, or stays silent for long, every caller is told, and the next call connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
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
SILENT_SECONDS = 5.0
"""A connection that owes an answer for longer is given up: the machine at its other end may be gone, which TCP itself notices after minutes."""
MULTI, EXEC = hiredis.pack_command(("MULTI",)), hiredis.pack_command(("EXEC",))
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
        link = self._link
        try:
            if link is not None and not link.closed:
                reply = await self._deadlines.within(seconds, link.send(words))
            else:
                async with asyncio.timeout(seconds):
                    reply = await (await self._open()).send(words)
        except TimeoutError as error:
            if link is not None and link.silent_seconds > SILENT_SECONDS:
                link.close()
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
    """A socket with its callers in line.

    What is sent while replies are awaited is gathered and leaves when they have come: the busier Redis is, the more goes at once. Several commands
    leave as one transaction, so that a worker that waits for requests is given all of them; without it Redis hands it the first alone, at the price of
    a batch. Where the user may not use transactions, they leave one after the other.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._reader = hiredis.Reader()
        self._out: list[tuple[asyncio.Future[Any], bytes]] = []
        self._flying: list[asyncio.Future[Any]] = []
        """Callers of what was written last."""
        self._replies: list[Any] = []
        self._written_at = 0.0
        self._wanted = 0
        """Replies to what was written last, the transaction's own included."""
        self._together = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def send(self, words: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """The reply, in time; an error reply is a value."""
        caller: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            caller.set_exception(unreachable(self._address, "the connection was closed"))
            return caller
        if not self._out and not self._flying:
            self._loop.call_soon(self._flush)
        self._out.append((caller, hiredis.pack_command(words)))  # type: ignore[arg-type]  # its stub wants one type per tuple
        return caller

    def _flush(self) -> None:
        """Write what has gathered, but not for who gave up meanwhile: what was told as refused is not done after all."""
        if self._transport is None or self._flying:
            return
        waiting = [(caller, packed) for caller, packed in self._out if not caller.done()]
        self._out = []
        self._flying = [caller for caller, _ in waiting]
        parts = [packed for _, packed in waiting]
        if self._together and len(parts) > 1:
            parts = [MULTI, *parts, EXEC]
        self._wanted = len(parts)
        if parts:
            self._written_at = self._loop.time()
            self._transport.write(b"".join(parts))

    @property
    def silent_seconds(self) -> float:
        """For how long an answer has been owed."""
        return self._loop.time() - self._written_at if self._flying else 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by birth

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
        except hiredis.ProtocolError:
            self.close()
            return
        if len(self._replies) > self._wanted:
            self.close()  # it says what nobody asked
        elif len(self._replies) == self._wanted:
            self._answer()

    def _answer(self) -> None:
        callers, replies = self._flying, self._replies
        self._flying, self._replies, self._wanted = [], [], 0
        if len(replies) > len(callers):
            self._together = not isinstance(replies[0], hiredis.ReplyError)
            replies = results_of(replies)
        for caller, reply in zip(callers, replies, strict=True):
            if not caller.done():
                caller.set_result(reply)
        if self._out:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "the connection was closed")

    def close(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):
                self._transport.close()
        self._fail("the connection was closed")

    def _fail(self, why: str) -> None:
        self.closed = True
        callers = [*self._flying, *(caller for caller, _ in self._out)]
        self._flying, self._out = [], []
        for caller in callers:
            if not caller.done():
                caller.set_exception(unreachable(self._address, why))


def results_of(replies: list[Any]) -> list[Any]:
    """Each command's own reply, of all replies to MULTI, the commands and EXEC. Errors are values."""
    refused, *queued, done = replies
    if isinstance(done, list):
        return done
    if isinstance(refused, hiredis.ReplyError):
        return queued  # no transaction was begun, so each was done by itself
    return [one if isinstance(one, hiredis.ReplyError) else done for one in queued]  # one was refused, so none was done


def unreachable(address: object, why: str) -> RedisUnavailableError:
    return RedisUnavailableError(f"no answer from Redis: {why}", field=f"redis {address}", remedy="try again")


def _refusal(reply: hiredis.ReplyError) -> ContinualError:
    """An error reply; what ours do not name is Redis refusing, which is never the caller's fault."""
    found = error_from_reply(str(reply))
    if type(found) is ContinualError:
        return RedisUnavailableError(f"Redis refuses: {reply}"[:300], field="redis", remedy="see the operator's log")
    return found
