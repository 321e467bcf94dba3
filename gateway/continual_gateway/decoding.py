"""The parent's side of the decoder: a process that is started when first needed, replaced when it dies, killed when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, Literal

from continual_clients.images import Fit
from continual_contract.artifacts import InputShape
from continual_contract.errors import InvalidImageError, UnavailableError

from continual_gateway.decoder import LENGTHS, frame
from continual_gateway.metrics import Metrics

log = logging.getLogger("continual.gateway.decoding")

PROCESSES = 1
LONGEST_SECONDS = 8.0
"""One image: the largest allowed takes one second on an idle core."""
START_SECONDS = 20.0
QUEUE = 64
"""Images that may wait for the decoder; beyond it the answer is 503."""
MAX_REPLY_BYTES = 64 << 20
ENVIRONMENT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


@dataclass(frozen=True, slots=True)
class Kept:
    """An image as it trains, and as it is shown."""

    pixels: bytes
    png: bytes


class Decoder:
    """Decodes one image at a time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._queued = 0
        self._started = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Warm it up, so that the first image does not wait for the libraries."""
        async with self._turn:
            try:
                await self._running()
            except UnavailableError as error:
                log.warning("decoder does not start yet", extra={"error": error.describe()})

    async def fit(self, data: bytes, encoding: str, shape: InputShape, fit: Fit) -> bytes:
        """The file as raw uint8 HWC of `shape`. Errors: InvalidImageError; UnavailableError when too many wait."""
        return (await self._asked(_head("fit", shape, fit, enc=encoding), data))[1]

    async def fit_raw(self, data: bytes, given: tuple[int, int, int], shape: InputShape, fit: Fit) -> bytes:
        """Raw uint8 [h, w, c] of another size, brought to `shape`. Errors: as `fit`."""
        return (await self._asked(_head("raw", shape, fit, given=list(given)), data))[1]

    async def keep(self, data: bytes, encoding: str, shape: InputShape, fit: Fit) -> Kept:
        """The file as pixels, and as a PNG of our own to be shown. Errors: as `fit`."""
        head, both = await self._asked(_head("keep", shape, fit, enc=encoding), data)
        return Kept(both[: head["pixels"]], both[head["pixels"] :])

    async def close(self) -> None:
        await self._end()

    async def _asked(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        if self._queued >= QUEUE:
            raise UnavailableError("too many images wait to be decoded", field="image", remedy="retry a little later")
        self._queued += 1
        try:
            async with self._turn:
                answer, body = await self._exchange(frame(head, data))
        finally:
            self._queued -= 1
        if (wrong := answer.get("error")) is not None:
            self._metrics.images_refused.labels(_kind(wrong["message"])).inc()
            raise InvalidImageError(
                wrong["message"], field=wrong["field"], value=wrong["value"], remedy=wrong["remedy"]
            )
        return answer, body

    async def _exchange(self, framed: bytes) -> tuple[dict[str, Any], bytes]:
        """One question, one answer; a process that cannot give it is replaced, and the image is to blame."""
        process = await self._running()
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                return await _talk(process, framed)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, ValueError) as error:
            log.warning("decoder replaced", extra={"error": str(error) or type(error).__name__})
            self._metrics.images_refused.labels("decoder").inc()
            await self._end()
            raise InvalidImageError(
                "could not be decoded within its bounds", field="image", remedy="send a smaller or plainer image"
            ) from error
        except asyncio.CancelledError:
            await self._end()  # half an exchange would answer the next caller
            raise

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._started += 1
        if self._started > 1:
            self._metrics.decoder_restarts.inc()
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "continual_gateway.decoder",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment, limit=1 << 20,
        )  # fmt: skip
        await self._ready(self._process)
        return self._process

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await _receive(process)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            await self._end()
            raise UnavailableError("the decoder does not start", field="image", remedy="try again") from error
        except asyncio.CancelledError:
            await self._end()
            raise

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        transport = getattr(process, "_transport", None)
        if transport is not None:
            transport.close()


async def _talk(process: asyncio.subprocess.Process, framed: bytes) -> tuple[dict[str, Any], bytes]:
    assert process.stdin is not None
    process.stdin.write(framed)
    await process.stdin.drain()
    return await _receive(process)


async def _receive(process: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    head, data = LENGTHS.unpack(await process.stdout.readexactly(LENGTHS.size))
    if head + data > MAX_REPLY_BYTES:
        raise ValueError(f"a reply of {head + data} bytes")
    return json.loads(await process.stdout.readexactly(head)), await process.stdout.readexactly(data)


def _head(do: Literal["fit", "raw", "keep"], shape: InputShape, fit: Fit, **more: Any) -> dict[str, Any]:
    return {"do": do, "height": shape.height, "width": shape.width, "channels": shape.channels, "fit": fit, **more}


def _kind(message: str) -> str:
    """A label of few values out of a sentence that may quote the file."""
    kinds = (
        "too large",
        "too many pixels",
        "several frames",
        "damaged",
        "another size",
        "memory",
        "supported",
        "channels",
    )
    return next((kind for kind in kinds if kind in message), "other")
