"""Sweep soon after a model is gone, and once at the start for those that went while nobody looked.

Workers of a deleted model end a little later than the model; what they still write would outlive the sweep. So it waits until no child is
left whose model is gone, but not for ever.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import redis
from continual_contract.errors import ContinualError

from continual_operator.deps import Deps
from continual_operator.kubernetes.cluster import KubernetesCluster
from continual_operator.sweeper import sweep

log = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=1)
LONGEST_WAIT = timedelta(seconds=60)
RETRY_AFTER = timedelta(seconds=10)


async def sweep_after_deletions(cluster: KubernetesCluster, deps: Deps) -> None:
    """For ever. What could not be swept is tried again."""
    while True:
        await cluster.deleted.wait()
        cluster.deleted.clear()
        try:
            await cluster.list_models()
            await _until_childless(cluster)
            await sweep(deps)
        except (ContinualError, redis.RedisError, OSError) as error:
            log.warning("sweep failed", extra={"error": str(error)})
            await asyncio.sleep(RETRY_AFTER.total_seconds())
            cluster.deleted.set()


async def _until_childless(cluster: KubernetesCluster) -> None:
    for _ in range(LONGEST_WAIT // LOOK_EVERY):
        if not cluster.has_orphans():
            return
        await asyncio.sleep(LOOK_EVERY.total_seconds())
