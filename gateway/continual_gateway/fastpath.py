"""The one address that is asked thousands of times a second, answered before the framework begins.

Routing, dependency resolution and response models cost FastAPI two thirds of a request of three kilobytes. The route exists there too (it is
in the OpenAPI document, and handles the address with a version); this is the same `answer`, called directly.
"""

from __future__ import annotations

from continual_gateway.api.inference import answer
from continual_gateway.asgi import App, Receive, Scope, Send
from continual_gateway.gateway import Gateway

PREFIX, SUFFIX = "/v2/models/", "/infer"
ROUTE = "/v2/models/{model}/infer"


def model_of(method: str, path: str) -> str:
    """The model that an inference request names; empty for any other request."""
    if method != "POST" or not path.startswith(PREFIX) or not path.endswith(SUFFIX):
        return ""
    model = path[len(PREFIX) : -len(SUFFIX)]
    return "" if "/" in model else model


class FastPath:
    """Answers inference, and hands on everything else. Errors are those of `answer`: the layer around it tells them."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = model_of(scope["method"], scope["path"]) if scope["type"] == "http" else ""
        if not model:
            await self._app(scope, receive, send)
            return
        scope["path_of_route"] = ROUTE
        state = scope["state"]
        done = await answer(self._gateway, state["principal"], state["headers"], await _body(receive), model)
        await send({"type": "http.response.start", "status": 200, "headers": done.headers()})
        await send({"type": "http.response.body", "body": done.body})


async def _body(receive: Receive) -> bytes:
    """All of it; the layer around bounds it."""
    message = await receive()
    if not message.get("more_body", False):
        found: bytes = message.get("body", b"")
        return found
    parts = [message.get("body", b"")]
    while message.get("more_body", False):
        message = await receive()
        parts.append(message.get("body", b""))
    return b"".join(parts)
