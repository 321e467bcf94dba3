"""Who changed what: one line in the log for each change, and the newest thousands in the model's stream `audit`.

The log is the record (a pod's log is shipped away); the stream is what the page shows. A change is never held up because the stream
cannot be written.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
import redis.asyncio
from continual_contract.keys import ModelKeys

from continual_gateway.auth import Principal
from continual_gateway.resources import ModelRef

log = logging.getLogger("continual.gateway.audit")

KEPT = 5000


async def record(client: redis.asyncio.Redis, principal: Principal, ref: ModelRef, verb: str, value: str = "") -> None:
    """`value`: a version, a request id, a class; never a secret."""
    entry: dict[Any, Any] = {
        "by": principal.name,
        "role": principal.role.label,
        "how": principal.how,
        "verb": verb,
        "value": value,
    }
    log.info("change made", extra={"model": ref.qualified, **{f"audit_{name}": text for name, text in entry.items()}})
    try:
        await client.xadd(ModelKeys(ref.namespace, ref.name).audit, entry, maxlen=KEPT, approximate=True)
    except redis.RedisError as error:
        log.warning("audit stream not written", extra={"error": str(error)})


async def newest(client: redis.asyncio.Redis, ref: ModelRef, count: int = 50) -> list[dict[str, Any]]:
    """`{time_ms, by, role, how, verb, value}`, newest first."""
    found: Any = await client.xrevrange(ModelKeys(ref.namespace, ref.name).audit, count=count)
    return [
        {"time_ms": int(entry_id.partition(b"-")[0])}
        | {k.decode(): v.decode("utf-8", "replace") for k, v in fields.items()}
        for entry_id, fields in found
    ]
