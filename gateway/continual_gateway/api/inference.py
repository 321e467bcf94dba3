"""The Open Inference Protocol v2 over REST, answered through the stream.

`POST /v2/models/{m}/infer` takes JSON tensors, the binary tensor extension, a raw body of pixels, or one image file as it is. Handlers read
the body themselves: a model of a three-kilobyte request would cost more than its answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from continual_contract.entries import PredictionEntry
from continual_contract.errors import ConflictError, NotFoundError
from fastapi import APIRouter, Request, Response

from continual_gateway import oip
from continual_gateway.auth import CSRF_HEADER, require
from continual_gateway.errors import MediaTypeError
from continual_gateway.gateway import Gateway, gateway_of
from continual_gateway.guards import Viewer, principal_of
from continual_gateway.inference import Context, ask, context_of, pixels_of
from continual_gateway.models import ModelFacts
from continual_gateway.openapi import INFER_DOC
from continual_gateway.roles import Role

router = APIRouter(prefix="/v2", tags=["inference"])

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp"})
JSON_TYPES = frozenset({"application/json", ""})
RAW = "application/octet-stream"
EXTENSIONS = ("binary_tensor_data",)
_NO_CONTEXT = Context()


@router.get("")
async def server(request: Request, _: Viewer) -> dict[str, Any]:
    """Name, version and extensions of this server."""
    return {"name": "continual", "version": request.app.version, "extensions": list(EXTENSIONS)}


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
async def metadata(request: Request, _: Viewer, model: str, version: str | None = None) -> dict[str, Any]:
    """What the model takes and gives."""
    facts = await gateway_of(request).models.facts(model)
    known = _known_version(facts, version)
    return oip.metadata_of(model, [known] if known else facts.versions, facts.input)


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
async def ready(request: Request, _: Viewer, model: str, version: str | None = None) -> Response:
    """200 when a version answers requests (or this version does), else 503."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    known = _known_version(facts, version)
    is_ready = bool(facts.stable) and known in {None, *facts.serving}
    return Response(
        json.dumps({"name": model, "ready": is_ready}), 200 if is_ready else 503, media_type="application/json"
    )


@router.post("/models/{model}/infer", openapi_extra=INFER_DOC)
async def infer(request: Request, model: str) -> Response:
    """Classify images. Each is a request in the stream; its `request_id` is what a label refers to."""
    gateway = gateway_of(request)
    facts = gateway.models.known(model) or await gateway.models.facts(model)
    return await _infer(request, gateway, facts, model)


@router.post("/models/{model}/versions/{version}/infer", openapi_extra=INFER_DOC)
async def infer_with_version(request: Request, model: str, version: str) -> Response:
    """The same, where this version answers every request; during a rollout the share decides, and the answer is 409."""
    gateway = gateway_of(request)
    facts = await gateway.models.facts(model)
    _known_version(facts, version)
    if facts.owners != (version,):
        raise _other_version(version, facts.owners)
    return await _infer(request, gateway, facts, model, version)


async def _infer(request: Request, gateway: Gateway, facts: ModelFacts, model: str, version: str = "") -> Response:
    principal = require(principal_of(request), Role.VIEWER)
    headers = request.headers
    gateway.auth.check_csrf(principal, headers.get(CSRF_HEADER, ""))
    asked = _asked(await request.body(), headers.get("content-type", ""), headers.get(oip.HEADER_LENGTH), facts)
    pixels = await pixels_of(gateway, facts, asked.images)
    found = await ask(gateway, facts, pixels, _context(asked, headers.get("idempotency-key", "")))
    if version and any(answer.version != version for answer in found):
        raise _other_version(version, tuple(answer.version for answer in found))
    return _spelled(model, asked, found)


def _asked(body: bytes, content_type: str, head_length: str | None, facts: ModelFacts) -> oip.InferRequest:
    """Errors: UsageError, InvalidImageError, MediaTypeError."""
    media = content_type.partition(";")[0].strip().lower()
    if head_length is not None:
        return oip.parse_infer(body, oip.head_length_of(head_length), facts.input)
    if media == RAW:
        return oip.parse_infer(body, 0, facts.input)
    if media in IMAGE_TYPES:
        return oip.InferRequest(oip.ImageFiles((body,)), "", oip.wishes(None, all_binary=False), {})
    if media in JSON_TYPES:
        return oip.parse_infer(body, None, facts.input)
    raise MediaTypeError(
        "is not taken here", field="Content-Type", value=media[:80],
        remedy=f"send application/json, {RAW}, {', '.join(sorted(IMAGE_TYPES))}",
    )  # fmt: skip


def _context(asked: oip.InferRequest, idempotency_key: str) -> Context:
    if not asked.parameters and not idempotency_key:
        return _NO_CONTEXT
    parameters = asked.parameters
    given = {
        name: parameters[name] for name in sorted(parameters) if name not in {"binary_data_output", "partition_key"}
    }
    metadata = json.dumps(given, ensure_ascii=False) if given else ""
    return context_of(parameters.get("partition_key", ""), idempotency_key, metadata)


def _spelled(model: str, asked: oip.InferRequest, found: Sequence[PredictionEntry]) -> Response:
    body, head_length = oip.spell(model, asked, found)
    if head_length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type=RAW, headers={oip.HEADER_LENGTH: str(head_length)})


def _known_version(facts: ModelFacts, version: str | None) -> str | None:
    if version is not None and version not in facts.versions:
        raise NotFoundError(
            "there is no such version",
            field="version",
            value=version,
            remedy=f"known: {', '.join(facts.versions) or 'none'}",
        )
    return version


def _other_version(version: str, owners: Sequence[str]) -> ConflictError:
    return ConflictError(
        f"{version} does not answer every request now", field="version", value=list(dict.fromkeys(owners)),
        remedy="leave the version out: the rollout decides which answers",
    )  # fmt: skip
