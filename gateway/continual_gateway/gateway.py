"""The gateway as one object: what its handlers share. Made once per process, started and stopped by the app's lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request

from continual_gateway.answers import Answers
from continual_gateway.auth import Authenticator
from continual_gateway.deadlines import Deadlines
from continual_gateway.decoding import Decoder
from continual_gateway.deps import GatewayDeps
from continual_gateway.lineage import Lineage
from continual_gateway.metrics import Metrics
from continual_gateway.models import ModelFacts, Models
from continual_gateway.recheck import Recheck
from continual_gateway.resources import ModelRef
from continual_gateway.seen import SeenLabels
from continual_gateway.settings import GatewaySettings
from continual_gateway.wire import Wire, address_of


class Gateway:
    """Reach it in a handler with `gateway_of(request)`."""

    def __init__(self, deps: GatewayDeps) -> None:
        self.deps = deps
        self.metrics = Metrics()
        self.stopping = asyncio.Event()
        """Set when the process is told to end: streams of events end by themselves."""
        self.auth = Authenticator(deps.settings, deps.clock)
        self.models = Models(deps.resources, deps.clock)
        self.decoder = Decoder(self.metrics)
        settings = deps.settings
        self._address = address_of(settings.redis_url, settings.redis_username, settings.redis_password_file)
        self.deadlines = Deadlines()
        self._sender = Wire(self._address, self.deadlines)
        self._answers: dict[ModelRef, Answers] = {}
        self.recheck = Recheck()
        self.lineage = Lineage(deps.store)
        self.seen_labels: dict[ModelRef, SeenLabels] = {}
        self.watches: dict[ModelRef, Any] = {}
        """`watching.Watch` of each model that somebody watches."""

    @property
    def settings(self) -> GatewaySettings:
        return self.deps.settings

    @asynccontextmanager
    async def running(self, background: Iterable[Coroutine[Any, Any, None]] = ()) -> AsyncIterator[None]:
        """Background work for as long as the app lives: its own, and what it is given."""
        tasks = [asyncio.create_task(work) for work in (self.models.run(), *background)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await self._close()

    def answers(self, facts: ModelFacts) -> Answers:
        """The questions and answers of one model."""
        found = self._answers.get(facts.ref)
        if found is None:
            found = Answers(facts.keys, self._address, self._sender, self.settings.limits, self.deadlines)
            self._answers[facts.ref] = found
            self.metrics.waiting.labels(facts.ref.qualified).set_function(lambda: float(found.waiting))
        return found

    async def _close(self) -> None:
        for answers in self._answers.values():
            await answers.close()
        for watch in self.watches.values():
            await watch.close()
        self._sender.close()
        await self.decoder.close()

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        self.metrics.observe(route, method, status, seconds)


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway
