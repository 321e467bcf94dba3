"""Who is asking, and may they: tokens, sessions, the trusted header, and the guard against foreign pages.

Three ways in. A bearer token (programs): nothing but the token speaks for the caller, so no foreign page can use it. A session cookie
(people, after signing in with a token): signed by the session key, so every replica reads it and none stores it. A header that a proxy
before the gateway sets, where the installation says so. The last two are sent by a browser whoever wrote the page; what
changes something therefore must come from our own origin (middleware) and carry the token of its session (`guard`).

Everything here is a function of the settings, the headers and the time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from continual_gateway.errors import ForbiddenError, UnauthenticatedError
from continual_gateway.roles import Role
from continual_gateway.settings import GatewaySettings, Network, Token

COOKIE = "continual_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
SESSION_SECONDS = 12 * 3600.0
TICKET_SECONDS = 120.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_COOKIE_BYTES = 1024

How = Literal["token", "session", "header"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `nonce` names the session."""

    name: str
    role: Role
    how: How
    nonce: str = ""


class Authenticator:
    """Reads and writes proofs of who somebody is."""

    def __init__(self, settings: GatewaySettings, clock: Callable[[], float]) -> None:
        self._key, self._clock = settings.session_key, clock
        self._trusted = settings.trusted_header
        self._by_digest = {token.sha256: token for token in settings.tokens if token.sha256}
        self._by_name = {token.name: token for token in settings.tokens}

    # -- who is asking

    def identify(self, headers: Mapping[str, str]) -> Principal | None:
        """The principal of these (lower-case) headers; None for nobody. Errors: UnauthenticatedError for a wrong token."""
        authorization = headers.get("authorization", "")
        if authorization:
            return self._bearer(authorization)
        if self._trusted and (name := headers.get(self._trusted, "").strip()):
            known = self._by_name.get(name)
            return Principal(name[:128], known.role if known else Role.VIEWER, "header")
        return self._session(cookie_of(headers.get("cookie", ""), COOKIE))

    def _bearer(self, authorization: str) -> Principal:
        scheme, _, text = authorization.partition(" ")
        token = self.token_of(text.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise UnauthenticatedError(
                "is not a token of this gateway", field="Authorization", remedy="send Bearer <token>"
            )
        return Principal(token.name, token.role, "token")

    def token_of(self, text: str) -> Token | None:
        """Whose token this is. Compared by digest, so the time taken says nothing about the secret."""
        return self._by_digest.get(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()) if text else None

    def _session(self, cookie: str) -> Principal | None:
        claims = self._verified(cookie, "session") if cookie else None
        if claims is None:
            return None
        known = self._by_name.get(str(claims["name"]))
        if known is None:
            return None  # the token was taken out of the file: its sessions end with it
        return Principal(known.name, known.role, "session", str(claims["nonce"]))

    # -- sessions and tickets

    def session_for(self, name: str) -> str:
        """A cookie value for somebody of the tokens file."""
        return self._signed("session", name, SESSION_SECONDS)

    def ticket_for(self, name: str) -> str:
        """A one-time sign-in for a URL: `continual dashboard` opens it."""
        return make_ticket(self._key, name, self._clock())

    def redeem(self, ticket: str) -> tuple[str, str] | None:
        """(name, nonce) of a ticket that is genuine and fresh; the caller must see that the nonce is used once."""
        claims = self._verified(ticket, "ticket")
        if claims is None or str(claims["name"]) not in self._by_name:
            return None
        return str(claims["name"]), str(claims["nonce"])

    def _signed(self, purpose: str, name: str, seconds: float) -> str:
        return _sign(self._key, purpose, name, self._clock() + seconds)

    def _verified(self, text: str, purpose: str) -> dict[str, Any] | None:
        payload, _, signature = text.partition(".")
        if len(text) > MAX_COOKIE_BYTES or not hmac.compare_digest(
            _mac(self._key, purpose, payload).encode(), signature.encode("utf-8", "replace")
        ):
            return None
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload))
        return claims if float(claims["expires"]) > self._clock() else None

    # -- foreign pages

    def csrf_token(self, principal: Principal) -> str:
        """What a form of this session carries in the field `csrf` (or a script in the header X-CSRF-Token)."""
        return _mac(self._key, "csrf", f"{principal.how}:{principal.name}:{principal.nonce}")

    def check_csrf(self, principal: Principal, sent: str) -> None:
        """Errors: ForbiddenError when a browser's request does not carry its session's token. Programs with a token need none."""
        if principal.how == "token":
            return
        if not hmac.compare_digest(self.csrf_token(principal).encode(), sent.encode("utf-8", "replace")):
            raise ForbiddenError(
                "does not belong to this session", field=CSRF_FIELD, remedy="load the page again and repeat"
            )


def check_origin(method: str, headers: Mapping[str, str]) -> None:
    """Errors: ForbiddenError when a page of another origin sends something that could change something."""
    if method in SAFE_METHODS or "authorization" in headers:
        return
    origin = headers.get("origin") or headers.get("referer", "")
    if origin and urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return
    if not origin and headers.get("sec-fetch-site", "") in {"same-origin", "none"}:
        return
    raise ForbiddenError(
        "comes from another site, or does not say from where", field="Origin", value=origin or None,
        remedy="use the gateway's own pages, or send a token in Authorization",
    )  # fmt: skip


def is_encrypted(scheme: str, peer: str, headers: Mapping[str, str], proxies: Sequence[Network]) -> bool:
    """Whether the browser spoke HTTPS: to us, or to a proxy that we trust and that says so.

    Args:
        scheme: of our own connection.
        peer: its other side's address; empty for none.
        headers: in lower case. Of several words in X-Forwarded-Proto the last is the one that our peer wrote.
        proxies: whose word counts.
    """
    if scheme == "https":
        return True
    said = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
    return said == "https" and is_within(peer, proxies)


def is_within(peer: str, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks; an IPv4 address in IPv6's clothes is an IPv4 address."""
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return any(plain in network for network in networks)


def require(principal: Principal | None, role: Role) -> Principal:
    """Errors: UnauthenticatedError, ForbiddenError."""
    if principal is None:
        raise UnauthenticatedError(
            "nobody is signed in", field="Authorization", remedy="sign in, or send Bearer <token>"
        )
    if principal.role < role:
        raise ForbiddenError(
            f"needs the role {role.label}", field="role", value=principal.role.label, remedy="ask an admin for a token"
        )
    return principal


def make_ticket(key: bytes, name: str, now: float) -> str:
    """A one-time sign-in made by whoever may read the session key's file."""
    return _sign(key, "ticket", name, now + TICKET_SECONDS)


def _sign(key: bytes, purpose: str, name: str, expires: float) -> str:
    claims = {"name": name, "expires": round(expires, 3), "nonce": secrets.token_urlsafe(12)}
    payload = base64.urlsafe_b64encode(json.dumps(claims, ensure_ascii=True).encode()).decode()
    return f"{payload}.{_mac(key, purpose, payload)}"


def _mac(key: bytes, purpose: str, text: str) -> str:
    digest = hmac.new(key, f"{purpose}:{text}".encode("utf-8", "replace"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def cookie_of(header: str, name: str) -> str:
    """One cookie's value; empty without it."""
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')  # http.cookies quotes a value that holds "="
    return ""
