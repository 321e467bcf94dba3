"""The gateway as one object: what its handlers share. Made once per process, started and stopped by the app's lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from continual_gateway.auth import Authenticator
from continual_gateway.deps import GatewayDeps
from continual_gateway.metrics import Metrics
from continual_gateway.models import Models
from continual_gateway.settings import GatewaySettings


class Gateway:
    """Reach it in a handler with `gateway_of(request)`."""

    def __init__(self, deps: GatewayDeps) -> None:
        self.deps = deps
        self.metrics = Metrics()
        self.auth = Authenticator(deps.settings, deps.clock)
        self.models = Models(deps.resources, deps.clock)

    @property
    def settings(self) -> GatewaySettings:
        return self.deps.settings

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Background work for as long as the app lives."""
        tasks = [asyncio.create_task(self.models.run(), name="models")]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        self.metrics.requests.labels(route, method, f"{status // 100}xx").inc()
        self.metrics.seconds.labels(route).observe(seconds)


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway
