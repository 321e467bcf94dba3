"""The connection that all requests share: what leaves together, and whose reply is whose."""

from __future__ import annotations

import asyncio

import hiredis
import pytest
from continual_contract.errors import RedisUnavailableError
from continual_gateway import wire
from continual_gateway.deadlines import Deadlines
from continual_gateway.wire import EXEC, MULTI, RedisAddress, _Link, results_of


class Transport:
    """Keeps what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True


def linked(story):
    """Run a story with a link and its transport."""

    async def whole():
        transport = Transport()
        link = _Link(RedisAddress("redis", 6379))
        link.connection_made(transport)
        await story(link, transport)

    asyncio.run(whole())


def packed(*words):
    return hiredis.pack_command(words)


def test_what_is_sent_meanwhile_leaves_together_when_the_reply_has_come():
    """Pins one command alone, several as one transaction, and each reply to its own caller, errors among them."""

    async def story(link, transport):
        first = link.send(("GET", "1"))
        await asyncio.sleep(0)
        later = [link.send(("GET", str(n))) for n in (2, 3)]
        await asyncio.sleep(0)
        assert transport.written == [packed("GET", "1")]
        link.data_received(b"+one\r\n")
        assert transport.written[1:] == [MULTI + packed("GET", "2") + packed("GET", "3") + EXEC]
        link.data_received(b"+OK\r\n+QUEUED\r\n+QUE")
        assert [one.done() for one in later] == [False, False]
        link.data_received(b"UED\r\n*2\r\n+two\r\n-BACKLOG full\r\n")
        assert (await first, await later[0]) == (b"one", b"two")
        assert isinstance(await later[1], hiredis.ReplyError)

    linked(story)


def test_who_gave_up_is_not_sent():
    """Pins that a request which was told as refused while Redis hung is not done when Redis goes on."""

    async def story(link, transport):
        held = link.send(("GET", "1"))
        await asyncio.sleep(0)
        gone, kept = link.send(("GET", "2")), link.send(("GET", "3"))
        gone.set_exception(TimeoutError())
        link.data_received(b"+one\r\n")
        assert transport.written[1:] == [packed("GET", "3")]
        link.data_received(b"+three\r\n")
        assert (await held, await kept) == (b"one", b"three")
        with pytest.raises(TimeoutError):
            await gone

    linked(story)


def test_a_user_without_transactions_is_served_one_after_the_other():
    """Pins that Redis's refusal of MULTI costs nobody an answer, and is not asked for again."""

    async def story(link, transport):
        for turn in range(2):
            callers = [link.send(("GET", str(n))) for n in range(2)]
            await asyncio.sleep(0)
            assert transport.written[-1].startswith(MULTI) is (turn == 0)
            refusal = (b"-NOPERM no multi\r\n", b"-ERR EXEC without MULTI\r\n") if turn == 0 else (b"", b"")
            link.data_received(refusal[0] + b"+a\r\n+b\r\n" + refusal[1])
            assert [await caller for caller in callers] == [b"a", b"b"]

    linked(story)


def test_a_transaction_that_was_given_up_is_told_to_all():
    error, abort = hiredis.ReplyError("ERR unknown command"), hiredis.ReplyError("EXECABORT")
    assert results_of([b"OK", b"QUEUED", error, abort]) == [abort, error]
    assert results_of([b"OK", b"QUEUED", b"QUEUED", [1, 2]]) == [1, 2]


def test_a_connection_that_ends_is_told_to_everybody():
    """Pins those whose command was written and those whose was not yet; and that a reply to nobody ends the connection."""

    async def story(link, transport):
        callers = [link.send(("GET", "1"))]
        await asyncio.sleep(0)
        callers += [link.send(("GET", "2")), link.send(("GET", "3"))]
        link.data_received(b"+one\r\n+what\r\n")
        assert transport.is_closed
        callers.append(link.send(("GET", "4")))
        for caller in callers:
            with pytest.raises(RedisUnavailableError):
                await caller

    linked(story)


def test_a_silent_connection_is_given_up(monkeypatch):
    """Pins that a machine which vanished with its connection is not waited for as long as TCP would: the next call connects anew."""
    monkeypatch.setattr(wire, "SILENT_SECONDS", 1.5)
    connections: list[asyncio.StreamWriter] = []

    async def story():
        async def accept(_, writer):
            connections.append(writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        asked = wire.Wire(RedisAddress("127.0.0.1", port), Deadlines())
        for _ in range(3):
            with pytest.raises(RedisUnavailableError):
                await asked.call("PING", seconds=1.0)
        asked.close()
        for writer in connections:
            writer.close()
        server.close()

    asyncio.run(story())
    assert len(connections) == 2
