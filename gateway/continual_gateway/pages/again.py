"""The last look at a correction: once the version that learned it serves, the image is asked again, once, for everybody who watches."""

from __future__ import annotations

from typing import Any

from continual_gateway.gateway import Gateway
from continual_gateway.inference import Context
from continual_gateway.models import ModelFacts
from continual_gateway.pages.asking import send
from continual_gateway.reaching import reaching, replies
from continual_gateway.views.corrections import Again


async def live_answer(
    gateway: Gateway, facts: ModelFacts, request_id: str, version: str, *, is_live: bool
) -> Again | None:
    """What the version that learned it says, live; asked once it owns the stream. Errors: RedisUnavailableError, as `send`.

    The status names a new stable version a moment before the routing follows; an answer of the old one says nothing.
    """
    key = facts.keys.correction(request_id)
    async with reaching(gateway) as client:
        told: Any = await replies(client.hmget(key, "live", "live_p", "live_v", "pixels"))
    if told[0] is not None:
        return Again(told[0].decode(), float(told[1] or 0), told[2].decode())
    if not is_live or told[3] is None:
        return None
    answer = await send(gateway, facts, told[3], Context())
    if answer.version != version:
        return None
    found = Again(answer.class_name, answer.confidence, answer.version)
    async with reaching(gateway) as client:
        kept: dict[Any, Any] = {"live": found.class_name, "live_p": found.confidence, "live_v": found.version}
        await replies(client.hset(key, mapping=kept))
    return found
