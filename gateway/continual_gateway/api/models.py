"""Models as JSON, their state as it changes, and the verbs that steer them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from continual_gateway import audit
from continual_gateway.gateway import Gateway, gateway_of
from continual_gateway.guards import Admin, Viewer
from continual_gateway.models import facts_of
from continual_gateway.pages.steering import obey
from continual_gateway.resources import ModelRef, ref_of
from continual_gateway.sse import EVENT_STREAM, keep_alive
from continual_gateway.watching import Watch, state_of

router = APIRouter(prefix="/v1/models", tags=["models"])

Verb = Literal[
    "promote", "approve", "reject", "rollback", "pin", "unpin", "retrain", "cancel", "readmit", "suspend", "resume"
]


class VerbIn(BaseModel):
    """What a verb is about."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"version": "v8"}})

    version: str = Field("", max_length=80, description="for promote, approve, reject, pin; for readmit a digest")


@router.get("")
async def models(request: Request, _: Viewer) -> dict[str, Any]:
    """All models with their state."""
    gateway = gateway_of(request)
    return {"models": [await state_of(gateway, document) for document in await gateway.models.documents()]}


@router.get("/{model}")
async def model_state(request: Request, _: Viewer, model: str) -> dict[str, Any]:
    """One model: what it takes, which versions serve, what is trained, what was decided."""
    gateway = gateway_of(request)
    document = await gateway.models.document(model)
    facts = facts_of(document)
    shape = facts.input
    takes = {"height": shape.height, "width": shape.width, "channels": shape.channels, "fit": facts.fit}
    return await state_of(gateway, document) | {"classes": list(facts.classes), "input": takes}


@router.get("/{model}/events", response_class=StreamingResponse, responses=EVENT_STREAM)
async def model_events(request: Request, _: Viewer, model: str) -> StreamingResponse:
    """The state as server-sent events: now, and whenever it changes."""
    gateway = gateway_of(request)
    ref = ref_of(await gateway.models.document(model))
    return StreamingResponse(
        keep_alive(watch_of(gateway, ref).events(), gateway.stopping), media_type="text/event-stream"
    )


@router.get("/{model}/history")
async def model_history(request: Request, _: Viewer, model: str) -> dict[str, Any]:
    """Kubernetes Events about the model, and who changed what through the gateway."""
    gateway = gateway_of(request)
    ref = ref_of(await gateway.models.document(model))
    events = await gateway.deps.resources.events(ref)
    return {"events": events[-200:], "changes": await audit.newest(gateway.deps.redis, ref)}


@router.post("/{model}/verbs/{verb}", status_code=202)
async def steer(
    request: Request, principal: Admin, model: str, verb: Verb, body: VerbIn | None = None
) -> dict[str, Any]:
    """Ask the operator for something: it obeys in its next pass, and its ledger names who asked."""
    gateway = gateway_of(request)
    version = body.version if body is not None else ""
    document = await gateway.models.fresh(model)
    await obey(gateway.deps.resources, document, verb, version, principal, int(gateway.deps.clock() * 1000))
    await audit.record(gateway.deps.redis, principal, ref_of(document), verb, version)
    await gateway.models.refresh()
    return {"model": ref_of(document).qualified, "verb": verb, "version": version, "requested": True}


def watch_of(gateway: Gateway, ref: ModelRef) -> Watch:
    found: Watch = gateway.watches.setdefault(ref, Watch(gateway, ref))
    return found
