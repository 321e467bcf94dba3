"""Correct an image and follow what the training makes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from continual_contract.errors import ContinualError, UsageError
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import UploadFile

from continual_gateway.corrections import correct, history, state_of
from continual_gateway.gateway import Gateway, gateway_of
from continual_gateway.guards import Labeler, Viewer
from continual_gateway.lookups import pixels_of_request
from continual_gateway.models import ModelFacts
from continual_gateway.openapi import CORRECTION_DOC
from continual_gateway.sse import EVENT_STREAM, event, keep_alive

router = APIRouter(prefix="/v1/models/{model}/corrections", tags=["corrections"])

LOOK_SECONDS = 0.5
LONGEST_SECONDS = 900.0


@router.post("", status_code=202, openapi_extra=CORRECTION_DOC)
async def correct_image(request: Request, principal: Labeler, model: str) -> JSONResponse:
    """Teach one image at once ("Use for retraining"): the model is asked, and learns `label` if it said something else.

    Send a form with `label` and either `image` (a file) or `request_id` (an image asked before).
    """
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    form = await request.form(max_files=1, max_fields=10)
    label, request_id, image = form.get("label"), form.get("request_id") or "", form.get("image")
    if not isinstance(label, str) or not label or not isinstance(request_id, str):
        raise UsageError("is missing", field="label", remedy="send label=<class> and image=@file or request_id=<id>")
    pixels = await pixels_to_teach(gateway, facts, image, request_id)
    begun = await correct(gateway, facts, principal, pixels, label, request_id)
    return JSONResponse(begun.document(), 200 if begun.final else 202)


async def pixels_to_teach(gateway: Gateway, facts: ModelFacts, image: object, request_id: str) -> bytes:
    """Of the file that was sent, or of the request that was asked. Errors: UsageError, InvalidImageError, NotFoundError."""
    if isinstance(image, UploadFile):
        data = await image.read()
        return await gateway.decoder.fit(data, "", facts.input, facts.fit)
    if not request_id:
        raise UsageError("is missing", field="image", remedy="send image=@file or request_id=<id>")
    return await pixels_of_request(gateway, facts, request_id)


@router.get("")
async def corrections(
    request: Request,
    principal: Viewer,
    model: str,
    mine: Annotated[bool, Query()] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> dict[str, Any]:
    """Newest first; with `mine` only one's own."""
    gateway = gateway_of(request)
    found = await history(gateway, await gateway.models.facts(model), principal.name if mine else "", limit)
    return {"corrections": [one.document() for one in found]}


@router.get("/{request_id}")
async def correction(request: Request, _: Viewer, model: str, request_id: str) -> dict[str, Any]:
    """Where it is by now: waiting, training (with progress), learned (with the second look), failed."""
    gateway = gateway_of(request)
    return (await state_of(gateway, await gateway.models.facts(model), request_id)).document()


@router.get("/{request_id}/events", response_class=StreamingResponse, responses=EVENT_STREAM)
async def correction_events(request: Request, _: Viewer, model: str, request_id: str) -> StreamingResponse:
    """The same as server-sent events, until it is over."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    await state_of(gateway, facts, request_id)
    return StreamingResponse(
        keep_alive(_told(gateway, facts, request_id), gateway.stopping), media_type="text/event-stream"
    )


async def _told(gateway: Gateway, facts: ModelFacts, request_id: str) -> AsyncIterator[bytes]:
    before, deadline = "", asyncio.get_running_loop().time() + LONGEST_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        try:
            found = await state_of(gateway, facts, request_id)
        except ContinualError as error:
            yield event("problem", json.dumps({"error": error.describe()}))
        else:
            said = json.dumps(found.document(), ensure_ascii=False)
            if said != before:
                yield event("correction", said)
            before = said
            if found.final:
                return
        await asyncio.sleep(LOOK_SECONDS)
