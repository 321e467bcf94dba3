"""Readiness and liveness of real processes with the real health server on a unix socket."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from continual_cli.local.cluster import LocalCluster
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from continual_operator.cluster import ModelRef

WORKER = """
import os, sys, threading, time
from pathlib import Path
from prometheus_client import CollectorRegistry
from continual_clients.health import HealthServer
ready = lambda: Path(sys.argv[1]).exists()
server = HealthServer(os.environ["HEALTH_ADDRESS"], ready, CollectorRegistry())
server.start()
threading.Event().wait()
"""
REF = ModelRef("default", "digits")
LABELS = {"continual.dev/model": "digits"}


def deployment(switch: Path) -> dict[str, Any]:
    container = {
        "name": "main",
        "command": [sys.executable, "-c", WORKER, str(switch)],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 1}},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": 1},
            "initialDelaySeconds": 12,
            "periodSeconds": 0.5,
            "failureThreshold": 4,
        },
    }
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "labels": LABELS},
        "spec": {"template": template},
    }


async def eventually(claim: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not await claim():
        assert time.monotonic() < deadline, f"not in {seconds} s"
        await asyncio.sleep(0.05)


def test_a_pod_is_ready_while_its_process_says_so_and_a_hung_one_is_killed(tmp_path: Path) -> None:
    """/readyz decides over Ready; a process stopped with SIGSTOP answers nothing, is killed and started anew."""
    asyncio.run(_scene(tmp_path))


async def _scene(tmp_path: Path) -> None:
    cluster = LocalCluster(LocalState(Home(tmp_path / "h").create()), os.environ)
    switch, stop = tmp_path / "switch", asyncio.Event()

    async def pod() -> dict[str, Any]:
        views = [view for view in await cluster.children(REF) if view["kind"] == "Pod"]
        return (
            views[0]["status"]["containerStatuses"][0]
            if views
            else {"ready": False, "started": False, "restartCount": 0}
        )

    async def started() -> bool:
        return (await pod())["started"]

    async def ready() -> bool:
        return (await pod())["ready"]

    async def unready() -> bool:
        return not (await pod())["ready"]

    async def restarted() -> bool:
        return (await pod())["restartCount"] == 1

    task = asyncio.create_task(cluster.run(stop))
    await cluster.apply(deployment(switch))
    await eventually(started)
    assert not await ready()
    switch.touch()
    await eventually(ready)
    switch.unlink()
    await eventually(unready)
    assert (await pod())["restartCount"] == 0
    switch.touch()
    await eventually(ready)
    os.kill(cluster.running()[0].pid, signal.SIGSTOP)
    await eventually(restarted)
    await eventually(ready)
    stop.set()
    await task
    await cluster.stop_all()
