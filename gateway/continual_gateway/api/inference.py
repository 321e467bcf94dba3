"""The Open Inference Protocol v2 over REST, answered through the stream.

`POST /v2/models/{m}/infer` takes JSON tensors, the binary tensor extension, a raw body of pixels, or one image file as it is. Handlers read
the body themselves: a model of a three-kilobyte request would cost more than its answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from continual_contract.errors import ConflictError, NotFoundError
from fastapi import APIRouter, Request, Response

from continual_gateway import oip
from continual_gateway.auth import CSRF_HEADER, Principal, require
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
    return await _infer(request, model)


@router.post("/models/{model}/versions/{version}/infer", openapi_extra=INFER_DOC)
async def infer_with_version(request: Request, model: str, version: str) -> Response:
    """The same, where this version answers every request; during a rollout the share decides, and the answer is 409."""
    gateway = gateway_of(request)
    admit(gateway, principal_of(request), request.headers)
    facts = await gateway.models.facts(model)
    _known_version(facts, version)
    if facts.owners != (version,):
        raise _other_version(version, facts.owners)
    return await _infer(request, model, version)


def admit(gateway: Gateway, principal: Principal | None, headers: Mapping[str, str]) -> None:
    """What the dependency `guards.asks` checks elsewhere. Errors: UnauthenticatedError, ForbiddenError."""
    gateway.auth.check_csrf(require(principal, Role.VIEWER), headers.get(CSRF_HEADER, ""))


async def answer(
    gateway: Gateway,
    principal: Principal | None,
    headers: Mapping[str, str],
    body: bytes,
    model: str,
    version: str = "",
) -> Spelled:
    """A body into its answer. Errors: those of every step on the way; `errors.status_of` says what they are in HTTP."""
    admit(gateway, principal, headers)
    facts = gateway.models.known(model) or await gateway.models.facts(model)
    asked = _asked(body, headers.get("content-type", ""), headers.get(oip.HEADER_LENGTH), facts)
    pixels = await pixels_of(gateway, facts, asked.images)
    found = await ask(gateway, facts, pixels, _context(asked, headers.get("idempotency-key", "")))
    if version and any(one.version != version for one in found):
        raise _other_version(version, tuple(one.version for one in found))
    return Spelled(*oip.spell(model, asked, found))


@dataclass(frozen=True, slots=True)
class Spelled:
    """A response's body; `head_length` where binary tensors follow its JSON head."""

    body: bytes
    head_length: int | None

    def headers(self) -> list[tuple[bytes, bytes]]:
        length = (b"content-length", b"%d" % len(self.body))
        if self.head_length is None:
            return [(b"content-type", b"application/json"), length]
        inference = (oip.HEADER_LENGTH.encode(), b"%d" % self.head_length)
        return [(b"content-type", RAW.encode()), length, inference]


async def _infer(request: Request, model: str, version: str = "") -> Response:
    done = await answer(
        gateway_of(request), principal_of(request), request.headers, await request.body(), model, version
    )
    response = Response(done.body)
    response.raw_headers = done.headers()
    return response


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
