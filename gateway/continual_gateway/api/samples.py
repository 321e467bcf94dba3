"""Upload a folder, look at what was uploaded, and forget a person's sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from continual_clients.objectstore import ObjectStore
from continual_contract.artifacts import StoreLayout
from continual_contract.errors import ContinualError, NotFoundError, UsageError
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile

from continual_gateway import audit
from continual_gateway.errors import body_of, headers_of, status_of
from continual_gateway.forgetting import forget
from continual_gateway.gateway import gateway_of
from continual_gateway.guards import Admin, Labeler, Viewer
from continual_gateway.labelling import source_of
from continual_gateway.openapi import UPLOAD_DOC
from continual_gateway.reaching import in_store
from continual_gateway.samples import (
    MAX_FILES,
    Filter,
    Ingested,
    SampleFile,
    Upload,
    ingest,
    is_image,
    listing,
    read_table,
    state_named,
    unpack,
)

router = APIRouter(prefix="/v1/models/{model}/samples", tags=["samples"])

MAX_FIELDS = 20
HASH = re.compile(r"[0-9a-f]{40}")
MAX_PICTURE_BYTES = 16 << 20


@router.post("", openapi_extra=UPLOAD_DOC)
async def upload(request: Request, principal: Labeler, model: str) -> JSONResponse:
    """Take in a folder or a zip archive; images that are there already are passed over.

    A form with `files` (as many as there are) or `archive` (a zip), and perhaps `metadata` (a CSV with a column `file`), `label`
    (for all), `source` (of the labels: truth, unless said otherwise). Without both, the name of a file's folder is its label where it is a class.
    """
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    form = await request.form(max_files=MAX_FILES + 2, max_fields=MAX_FIELDS)
    wanted = await upload_of(form)
    done: list[Ingested] = []
    problem: ContinualError | None = None
    try:
        async for one in ingest(gateway, facts, principal, files_of(form), wanted):
            done.append(one)
    except ContinualError as error:
        if not done:
            raise
        problem = error
    return _report(done, problem)


def _report(done: list[Ingested], problem: ContinualError | None) -> JSONResponse:
    """What was taken in before a problem stands; the whole upload may be sent again."""
    counts = {name: sum(one.outcome == name for one in done) for name in ("added", "duplicate", "refused")}
    said: dict[str, Any] = {**counts, "files": [one.document() for one in done]}
    if problem is None:
        return JSONResponse(said)
    status = status_of(problem)
    return JSONResponse(said | body_of(problem), status, headers_of(status))


async def upload_of(form: FormData) -> Upload:
    """What the form says besides the files. Errors: UsageError."""
    table = form.get("metadata")
    label = form.get("label") or ""
    known = read_table(await table.read()) if isinstance(table, UploadFile) and table.size else {}
    return Upload(source_of(form.get("source") or "truth"), label if isinstance(label, str) else "", known)


def files_of(form: FormData) -> Iterator[SampleFile]:
    """The images of the form, one in memory at a time. Blocking. Errors: UsageError when there is none."""
    archive = form.get("archive")
    if isinstance(archive, UploadFile) and archive.size:
        return unpack(archive.file)
    files = [one for one in form.getlist("files") if isinstance(one, UploadFile) and is_image(one.filename or "")]
    if not files:
        raise UsageError("there is no image in it", field="files", remedy="send files=@… or archive=@….zip")
    return (SampleFile(one.filename or "", one.file.read()) for one in files)


@router.get("")
async def samples(
    request: Request,
    _: Viewer,
    model: str,
    label: Annotated[str, Query(max_length=64)] = "",
    predicted: Annotated[str, Query(max_length=64)] = "",
    text: Annotated[str, Query(max_length=100)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    since_ms: Annotated[int, Query(ge=0, le=1 << 60)] = 0,
    until_ms: Annotated[int, Query(ge=0, le=1 << 60)] = 1 << 60,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str, Query(max_length=12)] = "",
) -> dict[str, Any]:
    """The table of uploaded samples, newest first, with what the stream says of each."""
    gateway = gateway_of(request)
    wanted = Filter(label, predicted, text, state_named(state), since_ms, until_ms)
    page = await listing(gateway, await gateway.models.facts(model), wanted, limit, cursor)
    return {"total": page.total, "next": page.next, "samples": [row.document() for row in page.rows]}


@router.get("/{content_hash}/image", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def sample_image(request: Request, _: Viewer, model: str, content_hash: str) -> Response:
    """The picture, as a PNG of the gateway's own making."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    data = await in_store(_picture, gateway.deps.store, facts.layout, content_hash)
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


class ForgetIn(BaseModel):
    """Whose sample: the id of a request, or the partition key of a person's requests."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"id": "1763740800000-0"}})

    id: str = Field("", max_length=64)
    key: str = Field("", max_length=256)


@router.post("/forget")
async def forget_sample(request: Request, principal: Admin, model: str, body: ForgetIn) -> dict[str, Any]:
    """Remove what is kept of a person's sample; the answer says what was removed and what leaves only with time."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    done = await forget(gateway, facts, body.id, body.key)
    await audit.record(gateway.deps.redis, principal, facts.ref, "forget", f"{len(done.requests)} requests")
    return done.document()


def _picture(store: ObjectStore, layout: StoreLayout, content_hash: str) -> bytes:
    if not HASH.fullmatch(content_hash):
        raise NotFoundError("there is no such picture", field="hash", value=content_hash[:50], remedy="see the table")
    return store.get(layout.sample(content_hash), limit=MAX_PICTURE_BYTES)
