"""The server's own additions to uvicorn: a whole response in one write, and many time limits on one timer."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from continual_gateway import server as server_module
from continual_gateway.cycle import head_of
from continual_gateway.deadlines import GRAIN_SECONDS, Deadlines
from continual_gateway.server import BoundedProtocol, listen, server_for

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    """One way of answering per path."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"4")]
    headers += {"/close": [(b"connection", b"close")], "/split": [(b"x-name", b"a\r\nset-cookie: b=c")]}.get(
        scope["path"], []
    )
    if scope["path"] == "/stream":
        headers = headers[:1]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/parts":
        await send({"type": "http.response.body", "body": b"wh", "more_body": True})
        await send({"type": "http.response.body", "body": b"le"})
    else:
        await send({"type": "http.response.body", "body": b"long body" if scope["path"] == "/long" else b"body"})


app.state = SimpleNamespace(gateway=SimpleNamespace(stopping=None))  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def no_frozen_memory(monkeypatch):
    """The collector of this process is the tests' own."""
    monkeypatch.setattr(server_module, "settle_memory", lambda: None)


def talk(*requests):
    """All bytes that come back over one connection, until it is closed or nothing comes."""

    async def whole():
        app.state.gateway.stopping = asyncio.Event()
        server, listener = server_for(app), listen("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        said = b""
        for request in requests:
            writer.write(request)
            patience = 10.0
            with contextlib.suppress(TimeoutError):
                while chunk := await asyncio.wait_for(reader.read(65536), patience):
                    said, patience = said + chunk, 0.3
        writer.close()
        server.should_exit = True
        await serving
        return said

    return asyncio.run(whole())


def test_responses_are_what_uvicorn_would_send():
    """Pins status line, headers and body; a second request over the same connection; and the other ways of sending."""
    said = talk(GET % b"/", GET % b"/")
    assert said == 2 * b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nbody"
    assert talk(GET % b"/parts").endswith(b"content-length: 4\r\n\r\nwhle")
    assert talk(GET % b"/stream").endswith(b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")


def test_requests_sent_ahead_are_answered_in_order():
    """Pins HTTP pipelining, which the protocol starts itself."""
    said = talk((GET % b"/") + (GET % b"/parts") + (GET % b"/stream") + (GET % b"/"))
    places = [said.find(part) for part in (b"body", b"whle", b"4\r\nbody")]
    assert places == sorted(places)
    assert said.count(b"HTTP/1.1 200 OK") == 4


def test_a_head_request_is_answered_without_a_body():
    said = talk(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.endswith(b"content-length: 4\r\n\r\n")


@pytest.mark.parametrize("request_bytes", [GET % b"/close", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
def test_a_connection_that_is_to_be_closed_is_closed(request_bytes):
    """Pins that it is said once, and that nothing is answered after it."""
    said = talk(request_bytes, GET % b"/")
    assert said.count(b"HTTP/1.1") == 1
    assert said.lower().count(b"connection: close") == 1


def test_a_header_that_would_begin_another_line_is_never_sent(caplog):
    """Pins the search for control characters: neither the cookie nor the body leaves."""
    said = talk(GET % b"/split")
    assert b"set-cookie" not in said
    assert "Invalid HTTP header" in caplog.text


def test_without_the_search_it_would_be(monkeypatch):
    """Mutation check of the above."""
    monkeypatch.setattr("continual_gateway.cycle.CONTROL", b"")
    assert b"\r\nset-cookie: b=c\r\n" in talk(GET % b"/split")


def test_a_body_of_another_length_than_promised_ends_the_connection(caplog):
    said = talk(GET % b"/long", GET % b"/")
    assert b"long body" not in said
    assert said.count(b"HTTP/1.1 200") <= 1
    assert "longer than Content-Length" in caplog.text


def test_a_connection_that_says_nothing_is_closed():
    """Pins the sweep that stands in for a timer per request: a head that never ends, and a connection that is idle for long."""
    protocol = SimpleNamespace(_since=10.0, _patience=0.2, closed=0)
    protocol.transport = SimpleNamespace(is_closing=lambda: False, close=lambda: setattr(protocol, "closed", 1))
    BoundedProtocol.close_if_late(protocol, 10.1)
    assert protocol.closed == 0
    BoundedProtocol.close_if_late(protocol, 10.3)
    assert protocol.closed == 1


def test_a_name_is_written_as_it_is():
    assert head_of(404, [(b"a", b"b")]) == b"HTTP/1.1 404 Not Found\r\na: b\r\n"


def test_a_limit_fires_once_and_only_when_it_is_due():
    """Pins each of several limits on the one timer."""

    async def story():
        deadlines, fired = Deadlines(), list[str]()
        deadlines.add(0.0, lambda: fired.append("now"))
        gone = deadlines.add(0.0, lambda: fired.append("discarded"))
        deadlines.add(60.0, lambda: fired.append("much later"))
        deadlines.discard(gone)
        await asyncio.sleep(3 * GRAIN_SECONDS)
        return fired

    assert asyncio.run(story()) == ["now"]


def test_a_future_that_does_not_come_is_a_timeout():
    async def story():
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        soon, never = loop.create_future(), loop.create_future()
        loop.call_later(0.01, soon.set_result, "there")
        assert await deadlines.within(5.0, soon) == "there"
        with pytest.raises(TimeoutError):
            await deadlines.within(0.05, never)

    asyncio.run(story())
