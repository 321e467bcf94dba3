"""One request, looked up by its id: what was answered, and what it showed."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from continual_contract.artifacts import InputShape
from continual_contract.entries import RequestEntry, decode_answer, decode_request
from continual_contract.errors import NotFoundError
from PIL import Image

from continual_gateway.answers import Found, Refused, read_answer
from continual_gateway.gateway import Gateway
from continual_gateway.models import ModelFacts
from continual_gateway.reaching import reaching, replies

REQUEST_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,20}")
PAGES, PAGE = 20, 1000
"""How far a prediction outside `samplePercent` is searched for in the stream."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

State = Literal["answered", "refused", "waiting"]


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of a request. Version, class and confidence once it is answered; the message once it is refused."""

    id: str
    state: State
    class_name: str = ""
    confidence: float = 0.0
    version: str = ""
    role: str = ""
    message: str = ""

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {"id": self.id, "state": self.state}
        if self.state == "answered":
            found |= {
                "class": self.class_name, "confidence": self.confidence, "version": self.version, "role": self.role,
            }  # fmt: skip
        return found | ({"message": self.message} if self.message else {})


def require_id(text: str) -> str:
    """Errors: NotFoundError for what cannot be a request's id."""
    if not REQUEST_ID.fullmatch(text):
        raise unknown(text)
    return text


async def look_up(gateway: Gateway, facts: ModelFacts, request_id: str) -> Lookup:
    """Errors: NotFoundError for an unknown id or one older than `feedback.window`; RedisUnavailableError."""
    require_id(request_id)
    async with reaching(gateway) as client:
        pipe = client.pipeline(transaction=False)
        pipe.hget(facts.keys.answers_of(request_id), request_id)
        pipe.xrange(facts.keys.requests, request_id, request_id)
        raw, waiting = await pipe.execute()
        answer = decode_answer(raw) if raw else None
        if answer is not None:
            return Lookup(request_id, "answered", answer.class_name, answer.confidence, answer.version, answer.role)
        found = await _searched(client, facts, request_id) if raw else None
    if isinstance(found, Refused):
        return Lookup(request_id, "refused", message=f"{found.reason}: {found.message}")
    if found is not None:
        return Lookup(request_id, "answered", found.class_name, found.confidence, found.version, found.role)
    if raw:
        return Lookup(request_id, "answered" if raw == b"-" else "refused", message="the answer is no longer kept")
    if waiting:
        return Lookup(request_id, "waiting")
    raise unknown(request_id)


async def _searched(client: Any, facts: ModelFacts, request_id: str) -> Found | None:
    """In the streams themselves, from the request's time on: the answer's hash keeps only a mark."""
    for stream in (facts.keys.dead, facts.keys.predictions):
        start: str | bytes = request_id
        for _ in range(PAGES):
            entries: Any = await replies(client.xrange(stream, start, "+", count=PAGE))
            for _, fields in entries:
                if fields.get(b"r") == request_id.encode():
                    flat = [part for pair in fields.items() for part in pair]
                    return read_answer(request_id.encode(), flat)
            if len(entries) < PAGE:
                break
            start = b"(" + entries[-1][0]
    return None


async def entry_of(gateway: Gateway, facts: ModelFacts, request_id: str) -> RequestEntry:
    """The request itself. Errors: NotFoundError once it was trimmed."""
    require_id(request_id)
    async with reaching(gateway) as client:
        found: Any = await replies(client.xrange(facts.keys.requests, request_id, request_id))
    if not found:
        raise NotFoundError(
            "the request is not in the stream any more", field="id", value=request_id,
            remedy="images are kept for retention.requests.maxAge",
        )  # fmt: skip
    return decode_request(*found[0])


async def pixels_of_request(gateway: Gateway, facts: ModelFacts, request_id: str) -> bytes:
    """Its image as the model sees it: raw uint8 HWC. Errors: NotFoundError, InvalidImageError."""
    entry = await entry_of(gateway, facts, request_id)
    if not entry.encoding and len(entry.data) == facts.input.nbytes:
        return entry.data
    return await gateway.decoder.fit(entry.data, entry.encoding, facts.input, facts.fit)


async def picture_of(gateway: Gateway, facts: ModelFacts, request_id: str) -> bytes:
    """Its image as a PNG of our own making. Errors: NotFoundError, InvalidImageError."""
    return png_of(await pixels_of_request(gateway, facts, request_id), facts.input)


def png_of(pixels: bytes, shape: InputShape) -> bytes:
    """Raw pixels as PNG; channels that no viewer knows are shown as the first one."""
    array = np.frombuffer(pixels, np.uint8).reshape(shape.height, shape.width, shape.channels)
    if shape.channels not in MODES:
        array = array[:, :, :1]
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()


def unknown(request_id: str) -> NotFoundError:
    return NotFoundError(
        "no such request, or older than feedback.window", field="id", value=request_id[:80],
        remedy="take request_id from the answer of /v2/models/{m}/infer",
    )  # fmt: skip
