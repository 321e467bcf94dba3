"""`python -m continual_operator`: the operator in a pod, or on a desk with KUBECONFIG.

Every replica watches, so that it is warm and its probe says something; the one that holds the Lease also acts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from continual_clients.health import HealthServer
from continual_clients.logs import configure
from continual_clients.objectstore import open_store
from continual_clients.redis import connect_async
from continual_contract.errors import ContinualError, UnavailableError

from continual_operator.deps import Deps
from continual_operator.kubernetes.api import Api, configuration, connect
from continual_operator.kubernetes.cluster import KubernetesCluster
from continual_operator.kubernetes.environment import Installation, read_installation
from continual_operator.kubernetes.handlers import Watches
from continual_operator.kubernetes.installed import InstalledCrd
from continual_operator.kubernetes.lease import Lease, LeaseTimes
from continual_operator.kubernetes.sweeping import sweep_after_deletions
from continual_operator.loop import RESYNC_EVERY, run_operator
from continual_operator.metrics import OperatorMetrics

log = logging.getLogger("continual_operator")

READY_SECONDS = 150.0
"""A replica whose cache is older than this would decide from the past."""


async def operate(environ: Mapping[str, str]) -> None:
    """Until SIGTERM or SIGINT; a lost Lease ends the process without coming back here."""
    installation = read_installation(environ)
    times = LeaseTimes(installation.lease_seconds)
    found = await configuration(environ)
    metrics = OperatorMetrics()
    async with connect(found, timedelta(seconds=times.request_timeout)) as plain:
        api = plain.counted(metrics.asked)
        lease = Lease(api, installation.lease_namespace, installation.lease_name, installation.holder, times)
        cluster = KubernetesCluster(api.fenced(lease.assert_held), installation.namespaces)
        metrics.watch(lambda: cluster.models, lambda: cluster.resync_age_seconds, lambda: cluster.watch_silence_seconds)
        watches = Watches(cluster, found, installation.namespaces, installation.liveness)
        await watches.start()
        stop = asyncio.Event()
        _stop_on_signals(stop)
        with HealthServer(installation.metrics, lambda: cluster.resync_age_seconds < READY_SECONDS, metrics.registry):
            async with asyncio.TaskGroup() as group:
                group.create_task(_watch(watches, stop))
                await _lead(lease, cluster, Parts(installation, api, metrics), stop)
                watches.stop()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _watch(watches: Watches, stop: asyncio.Event) -> None:
    await watches.run(restarted=lambda: _stop_on_signals(stop))
    if not stop.is_set():
        raise UnavailableError("the watches ended", field="kubernetes", remedy="see the log; the pod starts again")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a leader is made from."""

    installation: Installation
    api: Api
    metrics: OperatorMetrics


async def _lead(lease: Lease, cluster: KubernetesCluster, parts: Parts, stop: asyncio.Event) -> None:
    """Wait for the Lease, then run the operator until told to stop; leave the Lease to the next."""
    token = await _acquired(lease, cluster, stop)
    if token is None:
        return
    installation, settings = parts.installation, parts.installation.with_token(token)
    client = connect_async(settings.redis_url, installation.redis_username, installation.redis_password_file)
    store = open_store(settings.store_url, installation.store_credentials_file)
    deps = Deps(cluster, client, store, settings, metrics=parts.metrics)
    crd = InstalledCrd(parts.api, deps)
    work = (lease.keep(), sweep_after_deletions(cluster, deps), crd.keep())
    helpers = [asyncio.create_task(task) for task in work]
    parts.metrics.leads(leading=True)
    try:
        await crd.try_to_check()
        await run_operator(cluster, deps, stop)
    finally:
        for task in helpers:
            task.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        parts.metrics.leads(leading=False)
        await lease.release()
        await client.aclose()


async def _acquired(lease: Lease, cluster: KubernetesCluster, stop: asyncio.Event) -> int | None:
    """The fencing token; None when told to stop before. Meanwhile the cache is kept warm."""
    acquiring, stopping = asyncio.create_task(lease.acquire()), asyncio.create_task(stop.wait())
    warming = asyncio.create_task(_keep_warm(cluster))
    try:
        await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return acquiring.result() if acquiring.done() else None
    finally:
        for task in (acquiring, stopping, warming):
            task.cancel()


async def _keep_warm(cluster: KubernetesCluster) -> None:
    while True:
        with suppress(ContinualError):
            await cluster.list_models()
        await asyncio.sleep(RESYNC_EVERY.total_seconds())


def main() -> int:
    """Exit code 0 after a farewell; else that of what went wrong."""
    configure("operator")
    try:
        asyncio.run(operate(os.environ))
    except ContinualError as error:
        return _failed(error)
    except ExceptionGroup as group:
        if (first := _first(group)) is None:
            raise
        return _failed(first)
    return 0


def _failed(error: ContinualError) -> int:
    log.error("operator ends", extra={"error": error.describe()})
    return error.exit_code


def _first(group: ExceptionGroup[Exception]) -> ContinualError | None:
    """Of several that failed together the first one says why; None when it is none of ours."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, ContinualError) else None


if __name__ == "__main__":
    sys.exit(main())
