"""Dependencies of handlers: `Annotated[Principal, Depends(viewer)]` reads, `Depends(labels)` and `Depends(steers)` change.

A handler that changes something takes one of the last two: they check the role and, for a browser's request, the token of its
session, in the header X-CSRF-Token or the form field `csrf`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from continual_gateway.auth import CSRF_FIELD, CSRF_HEADER, Principal, require
from continual_gateway.gateway import gateway_of
from continual_gateway.roles import Role

MAX_FILES, MAX_FIELDS = 2002, 100
"""Of a form, in whatever handler: an upload's."""
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def principal_of(request: Request) -> Principal | None:
    found: Principal | None = request.state.principal
    return found


def viewer(request: Request) -> Principal:
    """Errors: UnauthenticatedError."""
    return require(principal_of(request), Role.VIEWER)


async def asks(request: Request) -> Principal:
    """A viewer who sends an image to be answered: changes nothing but the stream. Errors: ForbiddenError."""
    return await _writer(request, Role.VIEWER)


async def labels(request: Request) -> Principal:
    """Errors: UnauthenticatedError, ForbiddenError."""
    return await _writer(request, Role.LABELER)


async def steers(request: Request) -> Principal:
    """Errors: UnauthenticatedError, ForbiddenError."""
    return await _writer(request, Role.ADMIN)


async def _writer(request: Request, role: Role) -> Principal:
    principal = require(principal_of(request), role)
    if principal.how != "token":
        gateway_of(request).auth.check_csrf(principal, await _sent_token(request))
    return principal


async def _sent_token(request: Request) -> str:
    if (sent := request.headers.get(CSRF_HEADER)) is not None:
        return sent
    if request.headers.get("content-type", "").startswith(FORMS):
        value = (await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS)).get(CSRF_FIELD)
        return value if isinstance(value, str) else ""
    return ""


Viewer = Annotated[Principal, Depends(viewer)]
Asker = Annotated[Principal, Depends(asks)]
Labeler = Annotated[Principal, Depends(labels)]
Admin = Annotated[Principal, Depends(steers)]
