"""One image and its answer: sent through the stream, found again by its request id, with what each class would have had."""

from __future__ import annotations

from typing import Any

import numpy as np
from continual_clients.registry import Registry
from continual_contract.entries import PredictionEntry
from continual_contract.errors import ContinualError, NotFoundError

from continual_gateway import lookups
from continual_gateway.gateway import Gateway
from continual_gateway.inference import Context, ask
from continual_gateway.models import ModelFacts
from continual_gateway.reaching import in_store, reaching
from continual_gateway.recheck import Guess, Recheck
from continual_gateway.resources import Document, dig

TOP = 5


class Chances(Recheck):
    """A published checkpoint's whole answer, not only its best class."""

    def chances(self, registry: Registry, digest: str, pixels: bytes) -> list[Guess]:
        """Every class with its probability, the likeliest first. Errors: as `guess`."""
        with self._lock:
            model = self._model(registry, digest)
            shape = model.manifest.input
            images = np.frombuffer(pixels, np.uint8).reshape(1, shape.height, shape.width, shape.channels)
            logits = model.logits(images)[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        pairs = zip(model.manifest.classes, (shares / shares.sum()).tolist(), strict=True)
        return sorted((Guess(name, share) for name, share in pairs), key=lambda guess: -guess.confidence)


async def send(gateway: Gateway, facts: ModelFacts, pixels: bytes, context: Context) -> PredictionEntry:
    """Ask about pixels of the model's own size. Errors: as `ask`."""
    (found,) = await ask(gateway, facts, [pixels], context)
    return found


async def pixels_of(gateway: Gateway, facts: ModelFacts, request_id: str) -> bytes:
    """The image of a request that is still in the stream, or of a correction. Errors: NotFoundError."""
    try:
        return await lookups.pixels_of_request(gateway, facts, request_id)
    except NotFoundError:
        async with reaching(gateway) as client:
            kept: Any = await client.hget(facts.keys.correction(request_id), "pixels")
        if not kept:
            raise
    pixels: bytes = kept
    return pixels


async def chances(
    gateway: Gateway, runtime: Chances, facts: ModelFacts, document: Document, version: str, pixels: bytes
) -> tuple[Guess, ...]:
    """What that version gives each class for this image, the likeliest first; nothing where its file is not to be had."""
    records = dig(document, "status.versions", [])
    digest = next((str(r["digest"]) for r in records if r.get("version") == version and r.get("digest")), "")
    if not digest:
        return ()
    registry = Registry(gateway.deps.store, facts.layout)
    try:
        found = await in_store(runtime.chances, registry, digest, pixels)
    except (ContinualError, OSError):
        return ()
    return tuple(found[:TOP])
