"""From images to answers: fitted to the model, sent through the stream, waited for.

Nothing is predicted here. Every image is a request in the stream, so it is answered by the version that owns it, counts for the rollout,
and can be labelled by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from continual_contract.entries import MAX_METADATA_BYTES, PredictionEntry
from continual_contract.errors import ContinualError, InvalidImageError, UsageError

from continual_gateway.answers import Answers, Fields, Pending
from continual_gateway.gateway import Gateway
from continual_gateway.models import ModelFacts
from continual_gateway.oip import ImageFiles, RawImages

MAX_KEY_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Context:
    """What travels with a request besides its pixels."""

    partition_key: str = ""
    """`k`: same key, same version; one observation when versions are compared."""
    idempotency_key: str = ""
    """The same key again is the same request."""
    metadata: str = ""
    """JSON, at most 2 kB."""
    event_time_ms: int | None = None


def context_of(partition_key: object, idempotency_key: object, metadata: str = "") -> Context:
    """Errors: UsageError for keys that are no short text."""
    for field, value in (("partition_key", partition_key), ("idempotency_key", idempotency_key)):
        if not isinstance(value, str) or len(value) > MAX_KEY_CHARACTERS or not value.isprintable():
            raise UsageError(
                "is not a key", field=field, value=value, remedy=f"use up to {MAX_KEY_CHARACTERS} printable characters"
            )
    if len(metadata.encode()) > MAX_METADATA_BYTES:
        raise UsageError("is too long", field="metadata", remedy=f"keep it below {MAX_METADATA_BYTES} bytes")
    return Context(str(partition_key), str(idempotency_key), metadata)


async def pixels_of(gateway: Gateway, facts: ModelFacts, images: RawImages | ImageFiles) -> list[bytes]:
    """Each image as raw uint8 HWC of the model's size. Errors: InvalidImageError, UnavailableError."""
    if isinstance(images, ImageFiles):
        return [await gateway.decoder.fit(file, "", facts.input, facts.fit) for file in images.files]
    n, height, width, channels = images.shape
    shape, size = facts.input, height * width * channels
    if (height, width, channels) == (shape.height, shape.width, shape.channels):
        return [images.data] if n == 1 else [images.data[i * size : (i + 1) * size] for i in range(n)]
    if facts.fit == "Refuse":
        raise InvalidImageError(
            "has another size than the model's input", field="inputs[0].shape", value=list(images.shape),
            remedy=f"send {shape.height}x{shape.width}x{shape.channels} (spec.model.input.fit is Refuse)",
        )  # fmt: skip
    given = (height, width, channels)
    parts = (images.data[i * size : (i + 1) * size] for i in range(n))
    return [await gateway.decoder.fit_raw(part, given, shape, facts.fit) for part in parts]


def fields_of(pixels: bytes, context: Context) -> dict[str | bytes, str | bytes | int | float]:
    fields: dict[str | bytes, str | bytes | int | float] = {"d": pixels}
    if context.partition_key:
        fields["k"] = context.partition_key
    if context.metadata:
        fields["m"] = context.metadata
    if context.event_time_ms is not None:
        fields["t"] = context.event_time_ms
    return fields


async def ask(gateway: Gateway, facts: ModelFacts, images: Sequence[bytes], context: Context) -> list[PredictionEntry]:
    """One answer per image, in order.

    Errors: BacklogFullError and RedisUnavailableError when not all were accepted; AnswerLateError, InvalidImageError afterwards.
    """
    answers, seconds = gateway.answers(facts), facts.window.total_seconds()
    try:
        if len(images) == 1:
            key = context.idempotency_key or None
            found = [await answers.ask(fields_of(images[0], context), caller_key=key, window_seconds=seconds)]
        else:
            found = await _ask_many(answers, images, context, seconds)
    except ContinualError as error:
        gateway.metrics.answered(facts.ref.qualified, error.reason)
        raise
    gateway.metrics.answered(facts.ref.qualified, "Answered", len(found))
    return found


async def _ask_many(
    answers: Answers, images: Sequence[bytes], context: Context, seconds: float
) -> list[PredictionEntry]:
    """All are sent before the first is waited for; an idempotency key names each by its place."""

    async def send(index: int, fields: Fields) -> Pending:
        key = f"{context.idempotency_key}/{index}" if context.idempotency_key else None
        return await answers.send(fields, caller_key=key, window_seconds=seconds)

    sent = await asyncio.gather(
        *(send(index, fields_of(pixels, context)) for index, pixels in enumerate(images)), return_exceptions=True
    )
    pending = [one for one in sent if isinstance(one, Pending)]
    problem = next((one for one in sent if isinstance(one, BaseException)), None)
    if problem is not None:
        for one in pending:
            answers.forget(one)
        try:
            raise problem
        finally:
            del problem, sent  # an error whose own frame names it keeps all images until the collector comes
    found = await asyncio.gather(*map(answers.wait, pending), return_exceptions=True)
    wrong = next((one for one in found if isinstance(one, BaseException)), None)
    if wrong is not None:
        try:
            raise wrong
        finally:
            del wrong, found
    return [one for one in found if not isinstance(one, BaseException)]
