"""What an installation tells its gateway, read once from the environment.

Redis and the store have the names that workers use. Secrets (tokens, session key, a webhook's address) are files that the environment
names; tokens are kept only as sha256, so that the file of one replica gives nobody a token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from continual_contract import settings as names
from continual_contract.errors import UsageError

from continual_gateway.roles import Role, role_named

ADDRESS = "CONTINUAL_GATEWAY_ADDRESS"
"""host:port to listen on."""
TOKENS_FILE = "CONTINUAL_GATEWAY_TOKENS_FILE"
"""JSON list of {name, role, sha256}; an entry without sha256 only gives a role to a name from the trusted header."""
SESSION_KEY_FILE = "CONTINUAL_GATEWAY_SESSION_KEY_FILE"
"""At least 32 bytes, the same for every replica."""
TRUSTED_HEADER = "CONTINUAL_GATEWAY_TRUSTED_HEADER"
"""Header in which a proxy before the gateway names the person; unset: none is believed."""
TRUSTED_PROXIES = "CONTINUAL_GATEWAY_TRUSTED_PROXIES"
"""Addresses or networks with commas between, whose X-Forwarded-Proto is believed; unset: none."""
WEBHOOK_URL = "CONTINUAL_GATEWAY_WEBHOOK_URL"
WEBHOOK_URL_FILE = "CONTINUAL_GATEWAY_WEBHOOK_URL_FILE"
"""The same in a mounted file, where the address itself is a secret."""
WATCH = "CONTINUAL_WATCH_NAMESPACES"
"""Namespaces with commas between; `*` is all of them."""
INSTALLATION = "CONTINUAL_INSTALLATION"
BACKLOG = "CONTINUAL_GATEWAY_BACKLOG"
"""Requests not yet answered above which new ones are refused with 429."""
ANSWER_SECONDS = "CONTINUAL_GATEWAY_ANSWER_SECONDS"
"""How long an inference request waits for its answer before it is told the id to ask later."""

MIN_KEY_BYTES = 32
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Token:
    """Who a token stands for; `sha256` is empty for a name that comes by the trusted header only."""

    name: str
    role: Role
    sha256: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can cost."""

    body_bytes: int = 10 << 20
    upload_bytes: int = 256 << 20
    """Of a whole folder or archive."""
    body_seconds: float = 10.0
    answer_seconds: float = 30.0
    """How long an inference request waits for its answer."""
    redis_seconds: float = 1.5
    """How long any other request waits for Redis (D4: 503 within two seconds)."""
    backlog: int = 20_000
    """Requests not yet answered above which new ones are refused with 429."""
    waiting: int = 4096
    """Requests of this process that may wait for answers at once."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    host: str
    port: int
    redis_url: str
    redis_username: str
    redis_password_file: Path | None
    store_url: str
    store_credentials_file: Path | None
    tokens: tuple[Token, ...]
    session_key: bytes = field(repr=False)
    trusted_header: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    webhook_url: str = field(default="", repr=False)
    namespaces: tuple[str, ...] = ()
    """Empty: all."""
    installation: str = ""
    limits: Limits = Limits()


def read_settings(env: Mapping[str, str]) -> GatewaySettings:
    """Raises `UsageError` that names the first variable that is missing or wrong."""
    host, port = read_address(env.get(ADDRESS) or "127.0.0.1:8080")
    tokens = read_tokens(_path(env, TOKENS_FILE))
    trusted = env.get(TRUSTED_HEADER, "").lower()
    if not trusted and not any(token.sha256 for token in tokens):
        raise UsageError(
            "nobody could sign in", field=TOKENS_FILE, remedy=f"name a file with tokens, or set {TRUSTED_HEADER}"
        )
    return GatewaySettings(
        host=host,
        port=port,
        redis_url=_required(env, names.REDIS_URL),
        redis_username=env.get(names.REDIS_USERNAME, ""),
        redis_password_file=_path(env, names.REDIS_PASSWORD_FILE),
        store_url=_required(env, names.STORE_URL),
        store_credentials_file=_path(env, names.STORE_CREDENTIALS_FILE),
        tokens=tokens,
        session_key=read_session_key(_path(env, SESSION_KEY_FILE)),
        trusted_header=trusted,
        trusted_proxies=read_networks(env.get(TRUSTED_PROXIES, "")),
        webhook_url=_webhook(env),
        namespaces=_namespaces(env.get(WATCH, "")),
        installation=env.get(INSTALLATION, ""),
        limits=_limits(env),
    )


def _limits(env: Mapping[str, str]) -> Limits:
    default = Limits()
    return replace(
        default,
        backlog=int(_number(env, BACKLOG, default.backlog, 1, 10_000_000)),
        answer_seconds=_number(env, ANSWER_SECONDS, default.answer_seconds, 0.1, 600.0),
    )


def _number(env: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = env.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UsageError("is not a number in range", field=name, value=text, remedy=f"use {low:g} to {high:g}")
    return value


def read_address(text: str) -> tuple[str, int]:
    """`host:port`; `UsageError` for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise UsageError("is not an address", field=ADDRESS, value=text, remedy="write host:port, like 0.0.0.0:8080")
    return host.strip("[]"), int(port)


def read_networks(text: str) -> tuple[Network, ...]:
    """`10.0.0.0/8,192.168.1.7`; `UsageError` for anything else."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"is no list of addresses: {error}",
            field=TRUSTED_PROXIES,
            value=text,
            remedy="write 10.0.0.0/8,192.168.1.7",
        ) from error


def read_tokens(path: Path | None) -> tuple[Token, ...]:
    """The people who may sign in. Raises `UsageError` naming the entry that is wrong, never its digest."""
    if path is None:
        return ()
    try:
        entries = json.loads(_text(path, TOKENS_FILE))
    except ValueError:
        entries = None
    if not isinstance(entries, list):
        raise _bad_tokens("is not a JSON list", str(path))
    return tuple(_token(index, entry) for index, entry in enumerate(entries))


def _token(index: int, entry: object) -> Token:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise _bad_tokens(f"entry {index} has no name", index)
    digest = entry.get("sha256", "")
    if digest and not (isinstance(digest, str) and len(digest) == 64 and all(c in "0123456789abcdef" for c in digest)):
        raise _bad_tokens(f"entry {index} ({entry['name']}) has no sha256 of 64 hexadecimal digits", index)
    return Token(entry["name"], role_named(str(entry.get("role", ""))), str(digest))


def read_session_key(path: Path | None) -> bytes:
    """What signs cookies. Raises `UsageError` when it is missing or short."""
    key = _text(path, SESSION_KEY_FILE).strip().encode() if path is not None else b""
    if len(key) < MIN_KEY_BYTES:
        raise UsageError(
            f"holds fewer than {MIN_KEY_BYTES} bytes", field=SESSION_KEY_FILE, value=str(path),
            remedy="write one: head -c 48 /dev/urandom | base64",
        )  # fmt: skip
    return key


def _webhook(env: Mapping[str, str]) -> str:
    file = _path(env, WEBHOOK_URL_FILE)
    url = _text(file, WEBHOOK_URL_FILE).strip() if file is not None else env.get(WEBHOOK_URL, "")
    if url and not url.startswith(("http://", "https://")):
        raise UsageError("is not an address", field=WEBHOOK_URL, remedy="write http://… or https://…")
    return url


def _bad_tokens(what: str, value: object) -> UsageError:
    return UsageError(what, field=TOKENS_FILE, value=value, remedy="write [{name, role: viewer|labeler|admin, sha256}]")


def _text(path: Path, variable: str) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", field=variable, value=str(path), remedy="mount the secret"
        ) from error


def _namespaces(text: str) -> tuple[str, ...]:
    return () if text.strip() in {"", "*"} else tuple(filter(None, (part.strip() for part in text.split(","))))


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise UsageError("is not set", field=name, remedy=f"set the environment variable {name} of the gateway")
    return value


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None
