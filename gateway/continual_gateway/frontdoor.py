"""What every request passes before any handler: bounds on its body, who sent it, from which page; and what every response carries.

Plain ASGI, because a layer that every inference request crosses must cost microseconds.
"""

from __future__ import annotations

import asyncio
import time

from continual_contract.errors import ContinualError
from starlette.responses import RedirectResponse, Response

from continual_gateway.asgi import App, Message, Receive, Scope, Send, error_response
from continual_gateway.auth import Principal, check_origin, require
from continual_gateway.deadlines import Deadlines
from continual_gateway.errors import TooLargeError, TooSlowError, status_of
from continual_gateway.gateway import Gateway
from continual_gateway.roles import Role

OPEN_PATHS = frozenset(
    {
        "/healthz",
        "/readyz",
        "/metrics",
        "/signin",
        "/signin/ticket",
        "/v2/health/live",
        "/v2/health/ready",
        "/favicon.ico",
    }
)
"""Answered to anybody: they say nothing about models but names in metrics."""
STATIC = "/static/"
UPLOAD_SUFFIX = "/samples"
"""POST addresses that take a whole folder or archive."""
SLOWEST_UPLOAD = 256 * 1024.0
"""Bytes per second below which an upload is given up."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
NO_STORE = (b"cache-control", b"no-store")


class FrontDoor:
    """The outermost layer. Puts the `Principal` (or None) into `scope["state"]["principal"]`."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        answer = Answered(send, scope["path"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            refusal = self._admit(scope, headers)
            if refusal is None:
                bounded = Bounded(receive, self._gateway.deadlines, *self._bounds(scope, headers))
                await self._app(scope, bounded.receive, answer.send)
            else:
                await refusal(scope, receive, answer.send)
        except ContinualError as error:
            if answer.begun:
                raise
            await error_response(error)(scope, receive, answer.send)
        finally:
            route = str(scope.get("path_of_route") or getattr(scope.get("route"), "path", "other"))
            self._gateway.observe(route, scope["method"], answer.status, time.perf_counter() - began)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """The refusal of a request that no handler should see; None lets it in."""
        path, method = scope["path"], scope["method"]
        state = scope.setdefault("state", {})
        state["principal"], state["headers"] = None, headers
        try:
            check_origin(method, headers)
            if path.startswith(STATIC):
                return None
            state["principal"] = principal = self._identify(path, headers)
            if path not in OPEN_PATHS:
                require(principal, Role.VIEWER)
            self._bounds(scope, headers)
        except ContinualError as error:
            return _refusal(error, method, headers)
        return None

    def _identify(self, path: str, headers: dict[str, str]) -> Principal | None:
        try:
            return self._gateway.auth.identify(headers)
        except ContinualError:
            if path in OPEN_PATHS:
                return None
            raise

    def _bounds(self, scope: Scope, headers: dict[str, str]) -> tuple[int, float]:
        """(bytes, seconds) that the body may take. Errors: TooLargeError when the header already promises more."""
        limits = self._gateway.settings.limits
        is_upload = scope["method"] == "POST" and scope["path"].endswith(UPLOAD_SUFFIX)
        most = limits.upload_bytes if is_upload else limits.body_bytes
        promised = headers.get("content-length", "0")
        if not promised.isdigit() or int(promised) > most:
            raise too_large(most)
        return most, limits.body_seconds + (most / SLOWEST_UPLOAD if is_upload else 0.0)


class Bounded:
    """A body that cannot be longer, or slower, than its bounds."""

    def __init__(self, receive: Receive, deadlines: Deadlines, most: int, seconds: float) -> None:
        self._receive, self._deadlines, self._most, self._seconds = receive, deadlines, most, seconds
        self._taken, self._complete, self._late = 0, False, False
        self._until = 0.0

    async def receive(self) -> Message:
        """Errors: TooLargeError, TooSlowError. Once the body is whole, only waits for the client to hang up."""
        if self._complete:
            return await self._receive()
        message = await self._in_time()
        self._taken += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._taken > self._most:
            raise too_large(self._most)
        return message

    async def _in_time(self) -> Message:
        """As `asyncio.timeout` does it, without its timer. Errors: TooSlowError."""
        task = asyncio.current_task()
        assert task is not None
        now, cancelled_before = asyncio.get_running_loop().time(), task.cancelling()
        self._until = self._until or now + self._seconds
        name = self._deadlines.add(self._until - now, lambda: self._give_up(task))
        try:
            return await self._receive()
        except asyncio.CancelledError as error:
            if not self._late or task.uncancel() > cancelled_before:
                raise
            raise TooSlowError(
                "did not arrive in time", field="body", value=f"{self._taken} bytes",
                remedy=f"send the whole body within {self._seconds:g} s",
            ) from error  # fmt: skip
        finally:
            self._deadlines.discard(name)

    def _give_up(self, task: asyncio.Task[object]) -> None:
        self._late = True
        task.cancel()


class Answered:
    """Adds what every response carries, and remembers the status."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._path = send, path
        self.status, self.begun = 500, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = int(message["status"])
            headers = [*message.get("headers", ()), *SECURITY]
            if not self._path.startswith(STATIC) and not any(name == b"cache-control" for name, _ in headers):
                headers.append(NO_STORE)
            if self.status in {408, 413}:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def too_large(most: int) -> TooLargeError:
    return TooLargeError("is too large", field="body", remedy=f"send at most {most} bytes")


def _refusal(error: ContinualError, method: str, headers: dict[str, str]) -> Response:
    """People are shown the way to sign in; programs get the error."""
    if status_of(error) == 401 and method == "GET" and "text/html" in headers.get("accept", ""):
        return RedirectResponse("/signin", 303)
    return error_response(error)
