"""The pages: server-rendered, working without JavaScript; htmx keeps their parts fresh."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from continual_gateway import audit
from continual_gateway.gateway import gateway_of
from continual_gateway.guards import Admin, Viewer, principal_of
from continual_gateway.pages.ingest import ingest_router
from continual_gateway.pages.learning import learning_router
from continual_gateway.pages.reading import reading_of
from continual_gateway.pages.rendering import STATIC, KeptFiles, PageRoute, fingerprint, fragment, render
from continual_gateway.pages.steering import obey
from continual_gateway.resources import ModelRef, ref_of
from continual_gateway.views import text
from continual_gateway.views.charts import charts
from continual_gateway.views.classes import classes
from continual_gateway.views.overview import head, row
from continual_gateway.views.rollout import rollout
from continual_gateway.views.snapshot import Snapshot
from continual_gateway.views.versions import conditions, decisions, versions

pages_router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
pages_router.include_router(learning_router)
pages_router.include_router(ingest_router)
FRAGMENTS = ("head", "rollout", "versions", "classes", "ledger")
AUDIT_SHOWN = 8


def mount_static(app: FastAPI) -> None:
    """Serve the web libraries, style and scripts under /static."""
    app.mount("/static", KeptFiles(directory=STATIC), name="static")


@pages_router.get("/signin")
async def sign_in_page(request: Request, refused: Annotated[str, Query(max_length=1)] = "") -> Response:
    if principal_of(request) is not None:
        return RedirectResponse("/", 303)
    return render(request, "signin.html", refused=refused == "1")


# The list -------------------------------------------------------------------------------------------------------------------


@pages_router.get("/")
async def models_page(request: Request, _: Viewer) -> Response:
    return render(request, "models.html", **await _list(request))


@pages_router.get("/models/live")
async def models_live(request: Request, _: Viewer, seen: str = "") -> Response:
    """The list anew; 204 while it is what the browser has."""
    values = await _list(request)
    if values["seen"] == seen:
        return Response(status_code=204)
    return HTMLResponse(fragment(request, "_models.html", **values))


async def _list(request: Request) -> dict[str, Any]:
    reading = reading_of(request)
    documents = await gateway_of(request).models.documents()
    snapshots = await asyncio.gather(*(reading.snapshot(document, whole=False) for document in documents))
    values: dict[str, Any] = {
        "rows": [row(snapshot) for snapshot in snapshots],
        "several": len({ref_of(document).namespace for document in documents}) > 1,
        "missing": sorted({sentence for snapshot in snapshots for sentence in snapshot.missing}),
    }
    return values | {"seen": fingerprint(repr(values).encode())}


# One model ------------------------------------------------------------------------------------------------------------------


@pages_router.get("/models/{model}")
async def model_page(request: Request, _: Viewer, model: str, version: str = "") -> Response:
    snapshot = await snapshot_of(request, model)
    shown = await _fragments(request, snapshot, version, oob=False)
    shown["poll"] = _poll(request, snapshot, shown, version, oob=False)
    return render(request, "model.html", page="Overview", model=head(snapshot), fragments=shown)


@pages_router.get("/models/{model}/live")
async def model_live(request: Request, _: Viewer, model: str, seen: str = "", version: str = "") -> Response:
    """The parts of the page that differ from what the browser has; 204 when none does."""
    snapshot = await snapshot_of(request, model)
    plain = await _fragments(request, snapshot, version, oob=False)
    known = seen.split(".")
    changed = [name for name, sign in zip(FRAGMENTS, _signs(plain), strict=True) if sign not in known]
    if not changed:
        return Response(status_code=204)
    sent = await _fragments(request, snapshot, version, oob=True)
    return HTMLResponse("".join(sent[name] for name in changed) + _poll(request, snapshot, plain, version, oob=True))


@pages_router.get("/models/{model}/charts.json")
async def model_charts(
    request: Request, _: Viewer, model: str, minutes: Annotated[int, Query(ge=1, le=10_080)] = 60
) -> Response:
    return JSONResponse(charts(await snapshot_of(request, model), minutes))


@pages_router.get("/models/{model}/decisions/{sequence}")
async def decision_page(request: Request, _: Viewer, model: str, sequence: int) -> Response:
    snapshot = await snapshot_of(request, model)
    entry = await reading_of(request).decision(snapshot.ref, sequence, snapshot.status("outbox", []))
    shown = [
        (text.words(name.replace("_", " ").capitalize()), value) for name, value in entry.items() if _is_plain(value)
    ]
    judged = json.dumps(entry["facts"], indent=2, ensure_ascii=False) if entry.get("facts") else ""
    return render(
        request, "decision.html", page="Overview", model=head(snapshot), entry=entry, facts=shown, judged=judged
    )


def _is_plain(value: object) -> bool:
    return value not in (None, "") and not isinstance(value, (dict, list))


@pages_router.post("/models/{model}/verbs/{verb}")
async def steer(
    request: Request, who: Admin, model: str, verb: str, version: Annotated[str, Form(max_length=80)] = ""
) -> Response:
    """Write what a button asks for; the page then shows what the operator makes of it."""
    gateway = gateway_of(request)
    document = await gateway.models.fresh(model)
    await obey(gateway.deps.resources, document, verb, version, who, int(gateway.deps.clock() * 1000))
    await audit.record(gateway.deps.redis, who, ref_of(document), verb, version)
    await gateway.models.refresh()
    return RedirectResponse(f"/models/{model}?told={verb}", 303)


async def snapshot_of(request: Request, model: str) -> Snapshot:
    """Errors: NotFoundError, UnavailableError."""
    return await reading_of(request).snapshot(await gateway_of(request).models.document(model))


async def _fragments(request: Request, snapshot: Snapshot, version: str, *, oob: bool) -> dict[str, str]:
    model = head(snapshot)
    shared = {"model": model, "oob": oob}
    return {
        "head": fragment(request, "_head.html", **shared, suspended=bool(snapshot.spec("suspend", False))),
        "rollout": fragment(request, "_rollout.html", **shared, rollout=rollout(snapshot)),
        "versions": fragment(request, "_versions.html", **shared, versions=versions(snapshot)),
        "classes": fragment(request, "_classes.html", **shared, classes=classes(snapshot, version)),
        "ledger": fragment(
            request, "_ledger.html", **shared, decisions=decisions(snapshot), conditions=conditions(snapshot),
            audit=await _audit(request, snapshot.ref),
        ),
    }  # fmt: skip


def _signs(fragments: dict[str, str]) -> list[str]:
    return [fingerprint(fragments[name].encode()) for name in FRAGMENTS]


def _poll(request: Request, snapshot: Snapshot, fragments: dict[str, str], version: str, *, oob: bool) -> str:
    seen = ".".join(_signs(fragments))
    return fragment(request, "_poll.html", model=head(snapshot), seen=seen, wanted=version, oob=oob)


async def _audit(request: Request, ref: ModelRef) -> list[dict[str, Any]]:
    found = await reading_of(request).audit(ref, AUDIT_SHOWN)
    return [entry | {"time": text.iso(entry["time_ms"]), "verb": entry["verb"].replace("_", " ")} for entry in found]
