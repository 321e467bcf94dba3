"""Labels one by one or in bulk, predictions by id, the queue of requests to label."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from continual_contract.errors import ContinualError, InvalidImageError, UsageError
from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from continual_gateway.errors import body_of, status_of
from continual_gateway.gateway import Gateway, gateway_of
from continual_gateway.guards import Labeler, Viewer
from continual_gateway.labelling import MAX_BULK, Label, Labelled, next_to_label, send_labels, skip
from continual_gateway.lookups import look_up, picture_of
from continual_gateway.models import ModelFacts
from continual_gateway.seen import SeenLabels

router = APIRouter(prefix="/v1/models/{model}", tags=["labels"])

PNG = "image/png"


class LabelIn(BaseModel):
    """One label."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, json_schema_extra={
        "example": {"id": "1763740800000-0", "class": "7", "source": "truth"},
    })  # fmt: skip

    id: str = Field(min_length=1, max_length=300, description="request_id of the answer, or key:<Idempotency-Key>")
    class_name: str = Field(alias="class", min_length=1, max_length=64, description="one of the model's classes")
    source: Literal["audit", "truth", "correction"] = Field(
        "correction",
        description="truth: known for every request · audit: of a randomly chosen request · correction: somebody saw a mistake",
    )
    by: str = Field("", max_length=128, description="for whom, when an admin labels for others")
    time_ms: int | None = Field(None, ge=0, le=10**14, description="when it was known")
    image: str | None = Field(
        None, max_length=14_000_000, description="base64 of the image file, when the request's is gone"
    )


@router.post("/labels", status_code=202)
async def label(
    request: Request, principal: Labeler, model: str, body: Annotated[LabelIn | list[LabelIn], Body()]
) -> Response:
    """Say what was right. One object, or a list of up to 10 000: then each is answered by itself."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    sent = body if isinstance(body, list) else [body]
    if not 1 <= len(sent) <= MAX_BULK:
        raise UsageError("has the wrong length", field="body", value=len(sent), remedy=f"send 1 to {MAX_BULK} labels")
    done = await send_labels(gateway, facts, principal, [await _label(gateway, facts, one) for one in sent])
    if not isinstance(body, list):
        if done[0].problem is not None:
            raise done[0].problem
        return JSONResponse({"id": body.id, "accepted": True}, 202)
    accepted = sum(one.problem is None for one in done)
    said = {"accepted": accepted, "refused": len(done) - accepted, "labels": [_told(one) for one in done]}
    return JSONResponse(said, 202)


async def _label(gateway: Gateway, facts: ModelFacts, one: LabelIn) -> Label:
    image = b""
    if one.image:
        try:
            file = base64.b64decode(one.image, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidImageError("is not base64", field="image", remedy="send the image file as base64") from None
        image = await gateway.decoder.fit(file, "", facts.input, facts.fit)
    return Label(one.id, one.class_name, one.source, one.by, one.time_ms, image)


def _told(one: Labelled) -> dict[str, Any]:
    problem: ContinualError | None = one.problem
    if problem is None:
        return {"id": one.reference, "accepted": True}
    return {"id": one.reference, "accepted": False, "status": status_of(problem), **body_of(problem)}


@router.get("/predictions/{request_id}")
async def prediction(request: Request, _: Viewer, model: str, request_id: str) -> dict[str, Any]:
    """What became of a request: answered, refused, or still waiting."""
    gateway = gateway_of(request)
    return (await look_up(gateway, await gateway.models.facts(model), request_id)).document()


@router.get("/requests/{request_id}/image", response_class=Response, responses={200: {"content": {PNG: {}}}})
async def request_image(request: Request, _: Viewer, model: str, request_id: str) -> Response:
    """The image of a request as the model sees it, while it is kept."""
    gateway = gateway_of(request)
    picture = await picture_of(gateway, await gateway.models.facts(model), request_id)
    return Response(picture, media_type=PNG, headers={"Cache-Control": "private, max-age=3600"})


@router.get("/queue")
async def queue(
    request: Request, principal: Labeler, model: str, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """Randomly chosen requests that nobody has labelled yet: the gate's fair sample. Label them with source `audit`."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    found = await next_to_label(gateway, facts, principal, seen_labels(gateway, facts), limit)
    tasks = [
        {
            "id": task.id, "time_ms": task.time_ms, "expires_ms": task.expires_ms,
            "image": f"/v1/models/{facts.ref.qualified}/requests/{task.id}/image",
        }
        for task in found.tasks
    ]  # fmt: skip
    return {"classes": list(facts.classes), "waiting": found.waiting, "tasks": tasks}


@router.post("/queue/{request_id}/skip", status_code=204, response_class=Response)
async def skip_task(request: Request, principal: Labeler, model: str, request_id: str) -> Response:
    """Do not show this one to me again."""
    gateway = gateway_of(request)
    await skip(gateway, await gateway.models.facts(model), principal, request_id)
    return Response(status_code=204)


def seen_labels(gateway: Gateway, facts: ModelFacts) -> SeenLabels:
    return gateway.seen_labels.setdefault(facts.ref, SeenLabels())
