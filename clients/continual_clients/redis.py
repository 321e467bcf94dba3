"""Connections to Redis that never act twice.

redis-py repeats a command after a lost reply; a repeated XADD is a second entry and a repeated read skips one. So retries are
off everywhere, and whoever may repeat (the consumer's outer loop, a producer with a de-duplication key) does it knowingly.
Timeouts stay above the longest BLOCK (1 s), so a dead peer is noticed and a quiet stream is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from continual_contract.errors import RedisUnavailableError, UsageError
from continual_contract.functions import LIBRARY, library_source
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from continual_clients.environment import WorkerEnvironment

SOCKET_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 3.0
SHARED_CONNECTIONS = 32
LONGEST_WAIT_SECONDS = 20.0


def connect(env: WorkerEnvironment) -> redis.Redis:
    """A client for the Redis that `env` names; nothing is sent before its first command."""
    return connect_url(env.redis_url, env.redis_username, env.redis_password_file)


def connect_url(url: str, username: str = "", password_file: Path | None = None) -> redis.Redis:
    """Synchronous client over hiredis: bytes out, RESP2, no retries."""
    client: redis.Redis = redis.Redis.from_url(
        _checked(url), retry=Retry(NoBackoff(), 0), **_options(username, password_file)
    )
    return client


def connect_async(url: str, username: str = "", password_file: Path | None = None) -> redis.asyncio.Redis:
    """The same for asyncio: the operator's client. Hundreds of models share a few connections and wait for one, where a plain pool refuses."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        _checked(url),
        max_connections=SHARED_CONNECTIONS,
        timeout=LONGEST_WAIT_SECONDS,
        retry=AsyncRetry(NoBackoff(), 0),
        **_options(username, password_file),
    )
    return redis.asyncio.Redis.from_pool(pool)


def _checked(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise UsageError("is not an address of Redis", field="Redis URL", value=url, remedy="use redis://host:port/db")
    return url


def _options(username: str, password_file: Path | None) -> dict[str, Any]:
    return {
        "username": username or None,
        "password": read_password(password_file),
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "protocol": 2,
    }


def read_password(path: Path | None) -> str | None:
    """First line of a mounted secret; None without one."""
    if path is None:
        return None
    try:
        return path.read_text().strip() or None
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", field="redis password file", value=str(path), remedy="mount the secret"
        ) from error


@contextmanager
def reaching_redis(what: str) -> Iterator[None]:
    """Turn redis-py's connection failures into one sentence a person can act on."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise RedisUnavailableError(
            f"no answer from Redis: {error}", field=what, remedy="start Redis, or correct its address and password"
        ) from error


def check(client: redis.Redis, url: str) -> None:
    """PING, or `RedisUnavailableError` that names the address."""
    with reaching_redis(url):
        client.ping()


def ensure_functions(client: redis.Redis) -> bool:
    """Load our function library where it is missing or different; True when it was (re)loaded.

    After FLUSHALL the library is gone too, so the operator calls this at every reconcile: it writes only when it must.
    """
    held: Any = client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")  # type: ignore[no-untyped-call]  # unannotated in redis-py
    if _holds(held, library_source()):
        return False
    client.execute_command("FUNCTION", "LOAD", "REPLACE", library_source())  # type: ignore[no-untyped-call]  # unannotated in redis-py
    return True


async def ensure_functions_async(client: redis.asyncio.Redis) -> bool:
    """`ensure_functions` for the operator's client."""
    held: Any = await client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")  # type: ignore[no-untyped-call]  # unannotated in redis-py
    if _holds(held, library_source()):
        return False
    await client.execute_command("FUNCTION", "LOAD", "REPLACE", library_source())  # type: ignore[no-untyped-call]  # unannotated in redis-py
    return True


def _holds(held: Any, source: str) -> bool:
    """Whether a FUNCTION LIST reply contains exactly this source."""
    wanted = source.encode()
    return any(wanted in _flat(library) for library in held or ())


def _flat(value: Any) -> list[bytes]:
    if isinstance(value, dict):
        return [part for pair in value.items() for item in pair for part in _flat(item)]
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in _flat(item)]
    return [value.encode() if isinstance(value, str) else value] if isinstance(value, (bytes, str)) else []
