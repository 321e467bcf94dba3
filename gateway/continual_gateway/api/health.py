"""Alive, ready, and counted: for kubelet, Open Inference Protocol clients and Prometheus."""

from __future__ import annotations

import asyncio

import redis
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from continual_gateway.gateway import Gateway, gateway_of

router = APIRouter(tags=["health"])


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """The process answers."""
    return "alive\n"


@router.get("/readyz", response_class=PlainTextResponse)
async def readyz(request: Request) -> Response:
    """Models were read once. Redis is not asked: without it every replica would leave the Service, and pages with them."""
    loaded = gateway_of(request).models.loaded
    return PlainTextResponse("ready\n" if loaded else "models were not read yet\n", 200 if loaded else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return Response(generate_latest(gateway_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v2/health/live", tags=["inference"])
async def live() -> dict[str, bool]:
    """Open Inference Protocol: the server answers."""
    return {"live": True}


@router.get("/v2/health/ready", tags=["inference"])
async def ready(request: Request) -> JSONResponse:
    """Open Inference Protocol: the server can take requests."""
    problem = await not_ready(gateway_of(request))
    return JSONResponse({"ready": not problem}, 503 if problem else 200)


async def not_ready(gateway: Gateway) -> str:
    """Why not; empty when it is."""
    if not gateway.models.loaded:
        return "models were not read yet"
    try:
        async with asyncio.timeout(gateway.settings.limits.redis_seconds):
            await gateway.deps.redis.ping()
    except (redis.RedisError, OSError, TimeoutError):
        return "Redis does not answer"
    return ""
