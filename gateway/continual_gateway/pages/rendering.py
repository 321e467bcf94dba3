"""Templates into HTML: one environment, autoescaped, in which a misspelt name is an error and not an empty string."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any

from continual_contract.errors import ContinualError, UsageError
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Scope

from continual_gateway.errors import body_of, headers_of, status_of
from continual_gateway.gateway import gateway_of
from continual_gateway.guards import principal_of
from continual_gateway.roles import Role

HERE = Path(__file__).resolve().parent.parent
STATIC = HERE / "static"
YEAR_SECONDS = 31_536_000


@cache
def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.globals["asset"] = asset
    return env


@cache
def asset(name: str) -> str:
    """The address of a static file, with a piece of its hash: it may be kept for ever, and a changed file is another address.

    Errors: UsageError when it is missing, which only the web libraries can be.
    """
    path = STATIC / name
    if not path.is_file():
        raise UsageError("is not there", field="static file", value=name, remedy="run `make web`")
    return f"/static/{name}?v={fingerprint(path.read_bytes())}"


def fingerprint(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


class KeptFiles(StaticFiles):
    """Static files; those asked for by their hash are kept by the browser."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if scope["query_string"].startswith(b"v=") and response.status_code == 200:
            response.headers["cache-control"] = f"public, max-age={YEAR_SECONDS}, immutable"
        return response


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page."""
    return HTMLResponse(environment().get_template(template).render(**frame(request), **values), status)


def fragment(request: Request, template: str, **values: Any) -> str:
    """A part of a page."""
    return environment().get_template(template).render(**frame(request), **values)


def frame(request: Request) -> dict[str, Any]:
    """What every template may use: who is signed in, and the token of the session."""
    principal = principal_of(request)
    csrf = gateway_of(request).auth.csrf_token(principal) if principal is not None and principal.how != "token" else ""
    is_admin = principal is not None and principal.role >= Role.ADMIN
    is_labeler = principal is not None and principal.role >= Role.LABELER
    told = request.query_params.get("told", "")
    return {
        "principal": principal,
        "csrf": csrf,
        "is_admin": is_admin,
        "is_labeler": is_labeler,
        "told": TOLD.get(told, ""),
    }


TOLD = {
    "retrain": "A training was asked for. It starts as soon as none is in flight.",
    "promote": "The promotion was asked for.",
    "approve": "Approved.",
    "reject": "The rejection was asked for.",
    "rollback": "The rollback was asked for.",
    "pin": "Pinned: nothing replaces this version until it is unpinned.",
    "unpin": "Unpinned.",
    "suspend": "Suspended: no training and no rollout decision; serving goes on.",
    "resume": "Resumed.",
    "cancel": "The cancellation was asked for.",
    "readmit": "Readmitted: it becomes a candidate again.",
    "forget": "Forgotten: its picture and its row are gone, and no later training may have it.",
}
"""What a page says after a verb; the address only carries its name, so nobody can make a page say something else."""


class PageRoute(APIRoute):
    """A route whose errors are pages that name the remedy; for programs the same error as JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except ContinualError as error:
                return error_page(request, error)
            except RequestValidationError as error:
                first = error.errors()[0]
                return error_page(
                    request, UsageError(str(first["msg"]), field=str(first["loc"][-1]), remedy="go back and correct it")
                )

        return handle


def error_page(request: Request, error: ContinualError) -> Response:
    if "text/html" not in request.headers.get("accept", "") and "hx-request" not in request.headers:
        raise error  # a program: the app tells it as JSON
    status = status_of(error)
    page = render(
        request, "error.html", status, code=status, reason=error.reason, field=error.field, message=error.message,
        value="" if error.value is None else str(error.value)[:200], remedy=body_of(error).get("remedy", ""),
        back=_back(request),
    )  # fmt: skip
    page.headers.update(headers_of(status))
    return page


def _back(request: Request) -> str:
    """The page it came from, if it is one of ours."""
    referer = request.headers.get("referer", "")
    own = str(request.base_url)
    return "/" + referer.removeprefix(own) if referer.startswith(own) else "/"
