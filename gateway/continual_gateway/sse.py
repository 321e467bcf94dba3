"""Server-sent events: one shape, and a comment now and then so that proxies keep the line open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

BEAT_SECONDS = 15.0
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events"}
}


def event(name: str, data: str) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {data}\n\n".encode()


async def keep_alive(events: AsyncIterator[bytes], stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """The events until the process is told to stop, and a comment whenever none came for a while: a stream that nobody ends would hold up the end."""
    pending: asyncio.Task[bytes] | None = None
    over = asyncio.ensure_future(stopping.wait())
    try:
        while not stopping.is_set():
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending, over}, timeout=BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if pending not in done:
                yield b": still here\n\n"
                continue
            finished, pending = pending, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        over.cancel()
        if pending is not None:
            pending.cancel()
