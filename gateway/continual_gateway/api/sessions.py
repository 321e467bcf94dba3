"""Sign in with a token (or a ticket from `continual dashboard`), sign out, and who am I."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Annotated, Any

import redis
import redis.asyncio
from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from continual_gateway.auth import COOKIE, SESSION_SECONDS, TICKET_SECONDS, is_encrypted
from continual_gateway.gateway import Gateway, gateway_of
from continual_gateway.guards import Asker, Viewer

router = APIRouter(tags=["session"])

TICKETS_KEPT = 1000
_used: OrderedDict[str, None] = OrderedDict()
"""Nonces redeemed by this process: holds while Redis is away."""


@router.post("/signin", status_code=303, response_class=RedirectResponse)
async def sign_in(request: Request, token: Annotated[str, Form(max_length=512)]) -> Response:
    """Exchange a token for a session cookie."""
    gateway = gateway_of(request)
    found = gateway.auth.token_of(token.strip())
    gateway.metrics.signins.labels("accepted" if found else "refused").inc()
    if found is None:
        return RedirectResponse("/signin?refused=1", 303)
    return _welcome(request, gateway, found.name)


@router.get("/signin/ticket", status_code=303, response_class=RedirectResponse)
async def redeem_ticket(request: Request, ticket: Annotated[str, Query(max_length=1024)]) -> Response:
    """The one-time address that `continual dashboard` opens."""
    gateway = gateway_of(request)
    claims = gateway.auth.redeem(ticket)
    if claims is None or not await _first_use(gateway, claims[1]):
        gateway.metrics.signins.labels("refused").inc()
        return RedirectResponse("/signin?refused=1", 303)
    gateway.metrics.signins.labels("accepted").inc()
    return _welcome(request, gateway, claims[0])


@router.post("/signout", status_code=303, response_class=RedirectResponse)
async def sign_out(principal: Asker) -> Response:
    """End the session in this browser."""
    del principal
    response = RedirectResponse("/signin", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


@router.get("/v1/whoami")
async def whoami(request: Request, principal: Viewer) -> dict[str, Any]:
    """Name, role, and the CSRF token that a browser sends back with every change."""
    return {
        "name": principal.name,
        "role": principal.role.label,
        "csrf": gateway_of(request).auth.csrf_token(principal) if principal.how != "token" else None,
    }


def _welcome(request: Request, gateway: Gateway, name: str) -> Response:
    response = RedirectResponse("/", 303)
    peer = request.client.host if request.client is not None else ""
    secure = is_encrypted(request.url.scheme, peer, request.headers, gateway.settings.trusted_proxies)
    response.set_cookie(
        COOKIE, gateway.auth.session_for(name), max_age=int(SESSION_SECONDS), path="/", httponly=True, samesite="lax",
        secure=secure,
    )  # fmt: skip
    return response


async def _first_use(gateway: Gateway, nonce: str) -> bool:
    """Whether nobody has used this ticket, here or at another replica."""
    if nonce in _used:
        return False
    _used[nonce] = None
    while len(_used) > TICKETS_KEPT:
        _used.popitem(last=False)
    try:
        async with asyncio.timeout(gateway.settings.limits.redis_seconds):
            return bool(await gateway.deps.redis.set(f"ctm:ticket:{nonce}", 1, nx=True, ex=int(TICKET_SECONDS)))
    except (redis.RedisError, OSError, TimeoutError):
        return True
