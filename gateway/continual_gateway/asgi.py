"""The names of ASGI's parts, and an error as a response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from continual_contract.errors import ContinualError
from starlette.responses import JSONResponse

from continual_gateway.errors import body_of, headers_of, status_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def error_response(error: ContinualError) -> JSONResponse:
    status = status_of(error)
    return JSONResponse(body_of(error), status, headers_of(status))
