"""The app: routers, the front door around them, errors as JSON, and the background work of its lifetime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from continual_contract.errors import ContinualError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from continual_gateway.api import routers
from continual_gateway.asgi import error_response
from continual_gateway.deps import GatewayDeps
from continual_gateway.fastpath import FastPath
from continual_gateway.frontdoor import FrontDoor
from continual_gateway.gateway import Gateway
from continual_gateway.notices import Notifier
from continual_gateway.pages.routes import mount_static, pages_router

DESCRIPTION = "Ask, label, correct and steer image classifiers that keep learning. Inference speaks the Open Inference Protocol v2."


class GatewayApp(FastAPI):
    """FastAPI behind the front door: nothing of the framework runs before a request was admitted."""

    door: FrontDoor | None = None

    def open(self, gateway: Gateway) -> None:
        self.door = FrontDoor(FastPath(super().__call__, gateway), gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.door is not None
        await self.door(scope, receive, send)


def create_app(deps: GatewayDeps) -> FastAPI:
    """Everything the gateway serves; `app.state.gateway` is the shared object."""
    gateway = Gateway(deps)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        url = gateway.settings.webhook_url
        background = [Notifier(gateway, url).run()] if url else []
        async with gateway.running(background):
            yield

    app = GatewayApp(
        title="Continual gateway",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both load scripts from another host
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.gateway = gateway
    app.open(gateway)
    app.add_exception_handler(ContinualError, _tell)
    for router in routers():
        app.include_router(router)
    mount_static(app)
    app.include_router(pages_router, include_in_schema=False)
    return app


async def _tell(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ContinualError)
    return error_response(error)


def _version() -> str:
    try:
        return version("continual")
    except PackageNotFoundError:
        return "0"
