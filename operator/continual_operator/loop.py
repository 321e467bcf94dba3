"""One task per model: woken by changes, or by time; the only place that catches broadly."""

from __future__ import annotations

import asyncio

from continual_operator.cluster import Cluster
from continual_operator.reconcile import Deps


async def run_operator(cluster: Cluster, deps: Deps, stop: asyncio.Event) -> None:
    """Reconcile every model until `stop` is set; running reconciles end their pass first."""
    raise NotImplementedError
