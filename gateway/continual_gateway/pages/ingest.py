"""The page of samples: upload a folder or an archive, see what became of each file, and browse what was uploaded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from continual_contract.errors import ContinualError, UsageError
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from continual_gateway import audit, guards
from continual_gateway.api.samples import MAX_FIELDS, files_of, upload_of
from continual_gateway.forgetting import forget
from continual_gateway.gateway import gateway_of
from continual_gateway.guards import Admin, Viewer
from continual_gateway.pages.learning import model_frame
from continual_gateway.pages.rendering import PageRoute, render
from continual_gateway.samples import MAX_FILES, Filter, Ingested, ingest, listing, state_named
from continual_gateway.views.samples import sample_table

ingest_router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
PAGE = 50
REFUSED_SHOWN = 20
NO_FILTER = dict.fromkeys(("text", "label", "predicted", "state", "since", "until"), "")
STATES = (("", "all"), ("labelled", "labelled"), ("unlabelled", "not labelled"), ("wrong", "answered wrongly"))


@ingest_router.get("/models/{model}/samples")
async def samples_page(
    request: Request,
    _: Viewer,
    model: str,
    text: Annotated[str, Query(max_length=100)] = "",
    label: Annotated[str, Query(max_length=64)] = "",
    predicted: Annotated[str, Query(max_length=64)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    since: Annotated[str, Query(max_length=10)] = "",
    until: Annotated[str, Query(max_length=10)] = "",
    cursor: Annotated[str, Query(max_length=12)] = "",
) -> Response:
    chosen = {"text": text, "label": label, "predicted": predicted, "state": state, "since": since, "until": until}
    return await _page(request, model, chosen, cursor, None)


@ingest_router.post("/models/{model}/samples")
async def upload_samples(request: Request, model: str) -> Response:
    """Take in what the form holds; what was taken in before a problem stands, and the page says both."""
    gateway = gateway_of(request)
    form = await request.form(max_files=MAX_FILES + 2, max_fields=MAX_FIELDS)
    who = await guards.labels(request)
    facts = await gateway.models.facts(model)
    done: list[Ingested] = []
    problem = ""
    try:
        async for one in ingest(gateway, facts, who, files_of(form), await upload_of(form)):
            done.append(one)
    except ContinualError as error:
        if not done:
            raise
        problem = error.describe()
    return await _page(request, model, NO_FILTER, "", _report(done, problem))


@ingest_router.post("/models/{model}/samples/{request_id}/forget")
async def forget_row(request: Request, who: Admin, model: str, request_id: str) -> Response:
    """What is kept of one sample is removed, as `/v1/…/samples/forget` does it for programs."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    done = await forget(gateway, facts, request_id, "")
    await audit.record(gateway.deps.redis, who, facts.ref, "forget", f"{len(done.requests)} requests")
    return RedirectResponse(f"/models/{model}/samples?told=forget", 303)


def _report(done: list[Ingested], problem: str) -> dict[str, Any]:
    counts = {name: sum(one.outcome == name for one in done) for name in ("added", "duplicate", "refused")}
    refused = [one for one in done if one.outcome == "refused"]
    labelled = sum(bool(one.label) for one in done if one.outcome == "added")
    return {**counts, "labelled": labelled, "files": refused[:REFUSED_SHOWN], "problem": problem}


async def _page(
    request: Request, model: str, chosen: dict[str, str], cursor: str, report: dict[str, Any] | None
) -> Response:
    gateway = gateway_of(request)
    facts, values, _ = await model_frame(request, model, "Samples")
    page = await listing(gateway, facts, _filter(chosen), PAGE, cursor)
    table = sample_table(page.rows)
    kept = {name: value for name, value in chosen.items() if value}
    return render(
        request, "samples.html", report=report, table=table, total=page.total, chosen=chosen, filtered=bool(kept),
        older=str(request.url.replace_query_params(**kept, cursor=page.next).query) if page.next else "",
        states=STATES, max_files=MAX_FILES, **values,
    )  # fmt: skip


def _filter(chosen: dict[str, str]) -> Filter:
    since, until = chosen.get("since", ""), chosen.get("until", "")
    return Filter(
        label=chosen.get("label", ""),
        predicted=chosen.get("predicted", ""),
        text=chosen.get("text", ""),
        state=state_named(chosen.get("state", "")),
        since_ms=_day(since, "since") if since else 0,
        until_ms=_day(until, "until", days=1) - 1 if until else 1 << 60,
    )


def _day(text: str, field: str, days: int = 0) -> int:
    """The beginning of a day in UTC, in milliseconds. Errors: UsageError."""
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=days)
    except ValueError as error:
        raise UsageError("is not a day", field=field, value=text, remedy="write it as 2026-11-21") from error
    return int(moment.timestamp() * 1000)
