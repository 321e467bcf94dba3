"""One request and its answer in uvicorn, with a response of known length leaving in one write.

uvicorn writes head and body apart, and searches each name and value of the head by itself for bytes that could begin a line of a stranger's making.
Here the head waits for the body that follows at once, and is searched as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

CONTROL = bytes(n for n in range(32) if n != 9) + b"\x7f"
"""What uvicorn allows in no value either."""

Headers = Iterable[tuple[bytes, bytes]]


class Cycle(RequestResponseCycle):
    """Everything but the short way of a whole response is uvicorn's."""

    _held: Any = None
    """The start of a response whose length is known, until its body comes."""

    async def send(self, message: Any) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            if self._is_whole(held, message):
                self._write(held, message.get("body", b""))
                return
            self.response_started = False
            await super().send(held)
        elif not self.response_started and message["type"] == "http.response.start" and has_length(message["headers"]):
            self._held, self.response_started, self.waiting_for_100_continue = message, True, False
            return
        await super().send(message)

    def _is_whole(self, held: Any, message: Any) -> bool:
        """Whether nothing else can follow or hold it up, and the length is the promised one; what is wrong is uvicorn's to say."""
        return (
            not message.get("more_body", False)
            and not (self.flow.write_paused or self.disconnected)
            and self.scope["method"] != "HEAD"
            and (b"content-length", b"%d" % len(message.get("body", b""))) in held["headers"]
            and "body" in message
        )

    def _write(self, held: Any, body: bytes) -> None:
        head = head_of(held["status"], held["headers"])
        if b"\r\nconnection: close\r\n" in head:
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        self.transport.write(b"%b\r\n%b" % (head, body))
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def has_length(headers: Headers) -> bool:
    return any(name == b"content-length" for name, _ in headers)


def head_of(status: int, headers: Headers) -> bytes:
    """Status line and headers, without the empty line. Raises RuntimeError for a control character, as uvicorn does."""
    lines = [b"%b: %b" % pair for pair in headers]
    text = b"".join(lines)
    if len(text.translate(None, CONTROL)) != len(text):
        raise RuntimeError("Invalid HTTP header.")
    return STATUS_LINE[status] + b"\r\n".join([*lines, b""])
