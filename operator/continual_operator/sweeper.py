"""What deleted models left behind: keys and blobs of uids that are gone.

There is no finalizer, so that deleting always ends. Instead every uid this installation serves is written down in Redis, and what belongs to a
written-down uid that no resource has any more is deleted. Only those: another installation in the same Redis or bucket is none of
our business, and a resource of the same name with a new uid keeps what is its own.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

from continual_contract.artifacts import StoreLayout
from continual_contract.keys import ModelKeys
from continual_contract.routing import parse_routing

from continual_operator.cluster import ModelRef
from continual_operator.deps import Deps

log = logging.getLogger(__name__)

SWEEP_EVERY = timedelta(minutes=5)
BATCH = 200


def roll_key(installation: str) -> str:
    """Hash uid → `namespace/name` of all resources this installation has served."""
    return f"ctm-installation:{installation}"


async def enroll(uid: str, ref: ModelRef, deps: Deps) -> None:
    """Write a uid down before anything is made for it."""
    await deps.redis.hset(roll_key(deps.settings.installation), uid, str(ref))


async def sweep(deps: Deps) -> list[str]:
    """Delete what dead uids left; returns them."""
    roll: dict[Any, Any] = await deps.redis.hgetall(roll_key(deps.settings.installation))
    alive = await _alive(deps)
    dead: list[tuple[str, ModelRef]] = [
        (uid.decode(), _ref(name.decode())) for uid, name in roll.items() if uid.decode() not in alive
    ]
    for uid, ref in dead:
        successor = ref in alive.values()
        await _sweep_redis(uid, ref, deps, successor=successor)
        if not successor:
            await asyncio.to_thread(_sweep_store, ref, deps)
        await deps.redis.hdel(roll_key(deps.settings.installation), uid)
        log.info("swept", extra={"model": str(ref), "uid": uid})
    return [uid for uid, _ in dead]


async def _alive(deps: Deps) -> dict[str, ModelRef]:
    alive = {}
    for ref in await deps.cluster.list_models():
        obj = await deps.cluster.get_model(ref)
        if obj is not None:
            alive[str(obj["metadata"].get("uid", ""))] = ref
    return alive


def _ref(text: str) -> ModelRef:
    namespace, _, name = text.partition("/")
    return ModelRef(namespace, name)


async def _sweep_redis(uid: str, ref: ModelRef, deps: Deps, *, successor: bool) -> None:
    """All keys of the model, unless a resource of the same name lives: that one wipes for itself."""
    keys = ModelKeys(ref.namespace, ref.name)
    raw: Any = await deps.redis.get(keys.routing)
    owner = parse_routing(raw).uid if raw else uid
    if successor or owner != uid:
        return
    found = [key async for key in deps.redis.scan_iter(match=_glob(keys.prefix), count=1000)]
    for start in range(0, len(found), BATCH):
        await deps.redis.unlink(*found[start : start + BATCH])


def _glob(prefix: str) -> str:
    """The prefix as a pattern; its braces are plain characters to SCAN, brackets would not be."""
    return prefix.replace("[", "\\[").replace("]", "\\]") + "*"


def _sweep_store(ref: ModelRef, deps: Deps) -> None:
    layout = StoreLayout(ref.namespace, ref.name)
    for info in list(deps.store.list(layout.prefix)):
        deps.store.delete(info.key)
