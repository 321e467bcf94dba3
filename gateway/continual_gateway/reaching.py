"""Redis and the store for everything but inference: bounded in time, and failures as sentences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import redis
import redis.asyncio
from continual_contract.errors import ContinualError, RedisUnavailableError, StoreUnavailableError
from continual_contract.functions import error_from_reply

from continual_gateway.gateway import Gateway

T = TypeVar("T")

STORE_SECONDS = 10.0


@asynccontextmanager
async def reaching(gateway: Gateway) -> AsyncIterator[redis.asyncio.Redis]:
    """The client, for `limits.redis_seconds`. Errors: RedisUnavailableError."""
    try:
        async with asyncio.timeout(gateway.settings.limits.redis_seconds):
            yield gateway.deps.redis
    except redis.ResponseError as error:
        found = error_from_reply(str(error))
        if type(found) is ContinualError:
            found = RedisUnavailableError(
                f"Redis refuses: {error}"[:300], field="redis", remedy="see the operator's log"
            )
        raise found from error
    except (redis.RedisError, OSError, TimeoutError) as error:
        raise RedisUnavailableError("no answer from Redis", field="redis", remedy="try again") from error


async def in_store(work: Callable[..., T], *arguments: Any) -> T:
    """A blocking call of the object store in a thread. Errors: StoreUnavailableError, and what the call raises."""
    try:
        async with asyncio.timeout(STORE_SECONDS):
            return await asyncio.to_thread(work, *arguments)
    except TimeoutError as error:
        raise StoreUnavailableError("the object store does not answer", field="store", remedy="try again") from error


async def replies(awaitable: Awaitable[Any] | Any) -> Any:
    """redis-py says that its replies may be awaitable or not; these are."""
    return await awaitable
