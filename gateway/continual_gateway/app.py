"""The app: routers, the front door around them, errors as JSON, and the background work of its lifetime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from continual_contract.errors import ContinualError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from continual_gateway.api import routers
from continual_gateway.deps import GatewayDeps
from continual_gateway.errors import body_of, headers_of, status_of
from continual_gateway.frontdoor import FrontDoor
from continual_gateway.gateway import Gateway
from continual_gateway.pages.routes import mount_static, pages_router

DESCRIPTION = "Ask, label, correct and steer image classifiers that keep learning. Inference speaks the Open Inference Protocol v2."


def create_app(deps: GatewayDeps) -> FastAPI:
    """Everything the gateway serves; `app.state.gateway` is the shared object."""
    gateway = Gateway(deps)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(
        title="Continual gateway",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both load scripts from another host
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.gateway = gateway
    app.add_middleware(FrontDoor, gateway=gateway)
    app.add_exception_handler(ContinualError, _tell)
    for router in routers():
        app.include_router(router)
    mount_static(app)
    app.include_router(pages_router, include_in_schema=False)
    return app


async def _tell(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ContinualError)
    status = status_of(error)
    return JSONResponse(body_of(error), status, headers_of(status))


def _version() -> str:
    try:
        return version("continual")
    except PackageNotFoundError:
        return "0"
