"""The app in this process over the files of a home: real resources, and a Redis that is not there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from continual_cli.local.paths import Home
from continual_cli.local.resources import LocalResources
from continual_cli.local.state import LocalState
from continual_clients.objectstore import FileStore
from continual_clients.redis import connect_async
from continual_gateway.app import create_app
from continual_gateway.deps import GatewayDeps
from continual_gateway.roles import Role
from continual_gateway.settings import GatewaySettings, Limits, Token

TOKENS = {role: role.label * 10 for role in Role}
NOW = 1_800_000_000.0
MODEL = {
    "apiVersion": "continual.dev/v1alpha1",
    "kind": "ContinualModel",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {
            "architecture": "mlp", "input": {"height": 28, "width": 28, "channels": 1}, "classes": ["zero", "one", "two"],
        },
        "bootstrap": {"dataset": {"name": "digits"}},
    },
}  # fmt: skip


class Clock:
    """Time that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Visit:
    """The app, asked within one event loop."""

    def __init__(self, client: httpx.AsyncClient, app: Any) -> None:
        self.client, self.app = client, app

    async def __call__(self, method: str, path: str, role: Role | None = Role.ADMIN, **options: Any) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if role is not None:
            headers["authorization"] = f"Bearer {TOKENS[role]}"
        return await self.client.request(method, path, headers=headers, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway_settings() -> GatewaySettings:
    people = tuple(
        Token(role.label, role, hashlib.sha256(token.encode()).hexdigest()) for role, token in TOKENS.items()
    )
    return GatewaySettings(
        host="127.0.0.1", port=0, redis_url="redis://127.0.0.1:1/0", redis_username="", redis_password_file=None, store_url="",
        store_credentials_file=None, tokens=(*people, Token("anna@example.org", Role.LABELER)), session_key=b"k" * 32,
        limits=Limits(body_bytes=100_000, body_seconds=1.0),
    )  # fmt: skip


@pytest.fixture
def visit(tmp_path: Path, gateway_settings: GatewaySettings, clock: Clock) -> Callable[..., Any]:
    """Run a coroutine function with a `Visit`."""
    state = LocalState(Home(tmp_path / "home").create())
    state.create_or_replace(MODEL)

    def run(story: Callable[[Visit], Coroutine[Any, Any, Any]], **changes: Any) -> Any:
        from dataclasses import replace

        settings = replace(gateway_settings, **changes)

        async def whole() -> Any:
            client = connect_async(settings.redis_url)
            app = create_app(GatewayDeps(LocalResources(state), client, FileStore(tmp_path / "store"), settings, clock))
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as asking,
            ):
                found = await story(Visit(asking, app))
            await client.aclose()
            return found

        return asyncio.run(whole())

    return run
