"""Pages where people teach: try an image, correct it and follow what becomes of it, and the label queue."""

from __future__ import annotations

import string
from typing import Annotated, Any

from continual_contract.errors import NotFoundError, UsageError
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse

from continual_gateway import corrections
from continual_gateway.api.labels import seen_labels
from continual_gateway.auth import Principal, require
from continual_gateway.gateway import gateway_of
from continual_gateway.guards import Asker, Labeler, Viewer
from continual_gateway.inference import Context
from continual_gateway.labelling import Label, next_to_label, send_labels, skip
from continual_gateway.lookups import Lookup, look_up, png_of, require_id
from continual_gateway.models import ModelFacts
from continual_gateway.pages import asking
from continual_gateway.pages.again import live_answer
from continual_gateway.pages.reading import reading_of
from continual_gateway.pages.rendering import PageRoute, fragment, render
from continual_gateway.roles import Role
from continual_gateway.views import text
from continual_gateway.views.corrections import Told, newest_answer, progress
from continual_gateway.views.overview import head
from continual_gateway.views.snapshot import Snapshot

learning_router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
SHOWN = 12
MAX_CHIPS = 40
"""Above this many classes a list is chosen from instead of buttons."""
NO_PICTURE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 28 28"><rect width="28" height="28" fill="#8883"/>'
    b'<path d="M8 8l12 12M20 8L8 20" stroke="#888" stroke-width="1.5"/></svg>'
)
KEPT_PICTURE = {"cache-control": "private, max-age=3600"}


async def model_frame(request: Request, model: str, page: str) -> tuple[ModelFacts, dict[str, Any], Snapshot]:
    """The facts and what the frame of a model's page needs."""
    gateway = gateway_of(request)
    snapshot = await reading_of(request).snapshot(await gateway.models.document(model), whole=False)
    facts = await gateway.models.facts(model)
    return (
        facts,
        {"page": page, "model": head(snapshot), "classes": facts.classes, "chips": len(facts.classes) <= MAX_CHIPS},
        snapshot,
    )


# Try it ---------------------------------------------------------------------------------------------------------------------


@learning_router.get("/models/{model}/try")
async def try_page(request: Request, who: Viewer, model: str) -> Response:
    return await _try(request, who, model, "")


@learning_router.post("/models/{model}/try")
async def ask(request: Request, _: Asker, model: str, image: Annotated[UploadFile, File()]) -> Response:
    """Send one image; its answer has an address of its own."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    pixels = await gateway.decoder.fit(await image.read(), "", facts.input, facts.fit)
    answer = await asking.send(gateway, facts, pixels, Context())
    return RedirectResponse(f"/models/{model}/try/{answer.request_id}", 303)


@learning_router.get("/models/{model}/try/{request_id}")
async def answer_page(request: Request, who: Viewer, model: str, request_id: str) -> Response:
    return await _try(request, who, model, request_id)


async def _try(request: Request, who: Principal, model: str, request_id: str) -> Response:
    gateway = gateway_of(request)
    facts, values, _ = await model_frame(request, model, "Try it")
    said = await look_up(gateway, facts, request_id) if request_id else None
    mine = await corrections.history(gateway, facts, who.name, SHOWN)
    shape = facts.input
    return render(
        request, "try.html", said=said, confidence=text.percent(said.confidence if said else None), mine=[_line(c) for c in mine],
        chances=await _chances(request, facts, model, said), can_draw=shape.channels == 1,
        size=f"{shape.height} × {shape.width}", width=shape.width, height=shape.height, fit=facts.fit,
        corrections=facts.corrections, **values,
    )  # fmt: skip


async def _chances(request: Request, facts: ModelFacts, model: str, said: Lookup | None) -> list[dict[str, Any]]:
    """Rows of the answer's bars: class, share, percent."""
    if said is None or not said.class_name:
        return []
    gateway = gateway_of(request)
    try:
        pixels = await asking.pixels_of(gateway, facts, said.id)
    except NotFoundError:
        return []
    document = await gateway.models.document(model)
    found = await asking.chances(gateway, reading_of(request).runtime, facts, document, said.version, pixels)
    return [{"name": g.class_name, "share": g.confidence, "percent": text.percent(g.confidence)} for g in found]


def _line(one: corrections.Correction) -> dict[str, Any]:
    said = f"the new checkpoint says {one.after}" if one.after else "on its way"
    return {
        "id": one.id, "was": one.was, "label": one.label, "time": text.iso(one.time_ms),
        "said": f"fixed: {said}" if one.fixed else one.message if one.state == "failed" else said,
    }  # fmt: skip


@learning_router.get("/models/{model}/requests/{request_id}.png")
async def picture(request: Request, _: Viewer, model: str, request_id: str) -> Response:
    """The image of a request, redrawn by us; a placeholder when it is no longer kept."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    try:
        png = png_of(await asking.pixels_of(gateway, facts, request_id), facts.input)
    except NotFoundError:
        return Response(NO_PICTURE, media_type="image/svg+xml")
    return Response(png, media_type="image/png", headers=KEPT_PICTURE)


# Corrections ----------------------------------------------------------------------------------------------------------------


@learning_router.post("/models/{model}/try/{request_id}/correct")
async def correct(
    request: Request, who: Labeler, model: str, request_id: str, label: Annotated[str, Form(max_length=256)]
) -> Response:
    """Use for retraining: the label travels with its image."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    pixels = await asking.pixels_of(gateway, facts, request_id)
    begun = await corrections.correct(gateway, facts, who, pixels, label, request_id)
    if begun.state == "right":
        raise UsageError(
            "is what it answered already", field="class", value=label, remedy="there is nothing to correct"
        )
    return RedirectResponse(f"/models/{model}/corrections/{request_id}", 303)


@learning_router.get("/models/{model}/corrections/{request_id}")
async def correction_page(request: Request, _: Viewer, model: str, request_id: str) -> Response:
    _facts, values, _snapshot = await model_frame(request, model, "Try it")
    shown = await _follow(request, model, request_id)
    return render(request, "correction.html", **values, **shown)


@learning_router.get("/models/{model}/corrections/{request_id}/live")
async def correction_live(request: Request, _: Viewer, model: str, request_id: str) -> Response:
    facts, values, _snapshot = await model_frame(request, model, "Try it")
    del facts
    return HTMLResponse(fragment(request, "_correction.html", **values, **await _follow(request, model, request_id)))


async def _follow(request: Request, model: str, request_id: str) -> dict[str, Any]:
    """How far a correction has come; asks the image again once the version that learned it serves."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    found = await corrections.state_of(gateway, facts, request_id)
    snapshot = await reading_of(request).snapshot(await gateway.models.fresh(model))
    again = await live_answer(gateway, facts, request_id, found.version, is_live=found.live)
    told = Told(
        state=found.state, was=found.was, label=found.label, message=found.message, job=found.job,
        phase=found.progress.phase, epoch=found.progress.epoch, epochs=found.progress.epochs, digest=found.digest,
        after=found.after, after_confidence=found.after_confidence, version=found.version, live=found.live,
    )  # fmt: skip
    return {
        "correction": found, "progress": progress(snapshot, told, again), "now": newest_answer(told, again),
        "was_confidence": text.percent(found.was_confidence),
    }  # fmt: skip


# The label queue ------------------------------------------------------------------------------------------------------------


@learning_router.get("/models/{model}/queue")
async def queue_page(request: Request, who: Viewer, model: str, item: str = "") -> Response:
    require(who, Role.LABELER)
    _, values, snapshot = await model_frame(request, model, "Label queue")
    return render(request, "queue.html", **values, **await _queued(request, who, model, snapshot, item=item))


@learning_router.get("/models/{model}/queue/next")
async def queue_next(request: Request, who: Viewer, model: str) -> Response:
    require(who, Role.LABELER)
    _, values, snapshot = await model_frame(request, model, "Label queue")
    return HTMLResponse(fragment(request, "_queue.html", **values, **await _queued(request, who, model, snapshot)))


@learning_router.post("/models/{model}/queue/{request_id}")
async def queue_label(
    request: Request, who: Labeler, model: str, request_id: str, label: Annotated[str, Form(max_length=256)] = ""
) -> Response:
    """Label or, without a class, skip; then the next one."""
    gateway = gateway_of(request)
    facts, values, snapshot = await model_frame(request, model, "Label queue")
    if label:
        (sent,) = await send_labels(gateway, facts, who, [Label(require_id(request_id), label, "audit")])
        if sent.problem is not None:
            raise sent.problem
    else:
        await skip(gateway, facts, who, request_id)
    if "hx-request" not in request.headers:
        return RedirectResponse(f"/models/{model}/queue", 303)
    last = {"id": request_id, "label": label}
    return HTMLResponse(
        fragment(request, "_queue.html", **values, **await _queued(request, who, model, snapshot, last=last))
    )


async def _queued(
    request: Request, who: Principal, model: str, snapshot: Snapshot, item: str = "", last: dict[str, str] | None = None
) -> dict[str, Any]:
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    found = await next_to_label(gateway, facts, who, seen_labels(gateway, facts), 1)
    pair = snapshot.report.pair if snapshot.report else None
    coverage = pair.coverage_percent if pair else None
    return {
        "item": require_id(item) if item else found.tasks[0].id if found.tasks else "",
        "waiting": text.count(found.waiting),
        "keyed": [(name, _key(name, index, facts.classes)) for index, name in enumerate(facts.classes)],
        "window": text.span(facts.window.total_seconds()),
        "percent": f"{facts.audit_percent:g}",
        "coverage": "" if coverage is None else f"{coverage:.0f} %",
        "last": last,
    }


def _key(name: str, index: int, classes: tuple[str, ...]) -> str:
    """The class's own character where all have one (digits, letters), else its place: 1 … 9, 0, a …"""
    if all(len(each) == 1 and each.isalnum() for each in classes):
        return name.lower()
    order = "1234567890" + string.ascii_lowercase
    return order[index] if index < len(order) else ""
