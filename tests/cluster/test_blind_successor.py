"""O1 and O3 where the cache is at its worst: the operator dies after it created a Job, and its successor's first look misses that Job.

Both run in this process, so that the look can be blinded; `test_crash_points.py` kills real ones. A killed operator makes no further call;
its successor has an empty cache and a newer token.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from continual_clients.objectstore import open_store
from continual_clients.redis import connect_async
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.deps import Deps
from continual_operator.kubernetes.api import EVENT, JOB, Api, Kind, configuration, connect
from continual_operator.kubernetes.cluster import KubernetesCluster
from continual_operator.kubernetes.handlers import Watches
from continual_operator.kubernetes.sweeping import sweep_after_deletions
from continual_operator.loop import run_operator
from continual_operator.settings import ComponentSettings, OperatorSettings
from control_plane import MODELS, ControlPlane
from operators import ACCOUNT, digits, farewells, operator_account

Point = tuple[int | str, str] | None
"""Number or name of a write, and before or after."""
REFERENCE = {
    "training": ("Running", ""),
    "decisions": [("Train", "Bootstrap"), ("Cancel", "Cancelled"), ("Train", "Bootstrap")],
    "conditions": {
        "Ready": ("False", "NoVersionYet"),
        "SpecValid": ("True", "AsExpected"),
        "Serving": ("False", "NoVersionYet"),
        "Training": ("True", "Bootstrap"),
        "CanaryHealthy": ("Unknown", "NoCanary"),
        "Degraded": ("False", "AsExpected"),
        "DataLoss": ("Unknown", "NoLabels"),
    },
    "made": Counter(
        {
            ("patch", "deployments", "digits-evaluator"): 1,
            ("create", "jobs", "digits"): 2,  # the cancelled one, and the one asked for after it
            ("delete", "jobs", "digits"): 1,
        }
    ),
    "keys": [],
}
SETTLED_SECONDS = 1.5
"""Longer than the operator sleeps between two looks."""


class Mortal:
    """An `Api` whose writes are counted; at the fatal one the process stands still for ever, before or after it."""

    def __init__(self, api: Api, fatal: Point, *, twice: bool = False) -> None:
        self._api, self._fatal, self._twice = api, fatal, twice
        self.writes = 0
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def reborn(self) -> Mortal:
        return Mortal(self._api, None, twice=self._twice)

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        if self._twice and kind is JOB:
            metadata = {**manifest["metadata"], "name": f"{manifest['metadata']['name']}-{secrets.token_hex(2)}"}
            manifest = {**manifest, "metadata": metadata}
        return await self._write(f"create {kind.name}", lambda: self._api.create(kind, manifest))

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._write(f"apply {kind.name}", lambda: self._api.apply(kind, manifest))

    async def merge(self, kind: Kind, *arguments: Any) -> Manifest:
        return await self._write(f"merge {kind.name}", lambda: self._api.merge(kind, *arguments))

    async def delete(self, kind: Kind, *arguments: Any) -> None:
        await self._write(f"delete {kind.name}", lambda: self._api.delete(kind, *arguments))

    async def _write(self, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if what.endswith(EVENT.name):
            return await call()  # told to people, and lost with the process
        self.writes += 1
        await self._perhaps_die(what, "before")
        result = await call()
        await self._perhaps_die(what, "after")
        return result

    async def _perhaps_die(self, what: str, moment: str) -> None:
        if self.died.is_set() or self._fatal in {(self.writes, moment), (what, moment)}:
            self.died.set()
            await asyncio.Event().wait()


class Blind(KubernetesCluster):
    """An operator whose first look misses every Job: the worst a cache can do to it."""

    looked = False

    async def children(self, ref: ModelRef) -> list[Manifest]:
        seen = await super().children(ref)
        first, self.looked = not self.looked, True
        return [child for child in seen if not first or child["kind"] != JOB.name]


class Story:
    """One life of a model, with one operator or two in turn."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, redis_url: str) -> None:
        self.plane, self.namespace, self.redis_url = plane, namespace, redis_url
        self.store = f"file://{folder / namespace}"
        self.kubeconfig = operator_account(plane, namespace)
        self.token = 0
        self.path = f"{MODELS.format(namespace=namespace)}/digits"
        self.account = f"system:serviceaccount:{namespace}:{ACCOUNT}"

    async def tell(self, fatal: Point, *, twice: bool = False) -> dict[str, Any]:
        """Returns the end state: what there is, and how often it was made and removed."""
        found = await configuration({"KUBECONFIG": str(self.kubeconfig)})
        async with connect(found) as api:
            self.mortal = Mortal(api, fatal, twice=twice)
            await self._start(found)
            assert self.plane.apply(self.path, digits()).ok
            await self._settle(found, ["Train"])
            self._annotate("continual.dev/cancel-training-requested-at", "1")
            await self._settle(found, ["Train", "Cancel"])
            self._annotate("continual.dev/retrain-requested-at", "1")
            await self._settle(found, ["Train", "Cancel", "Train"])
            end = self._end_state()
            assert self.plane.request("DELETE", self.path).ok
            await self._settle(found, [])
            end["keys"] = await self._keys()
            await self._kill()
        await farewells()
        return end

    async def _start(self, found: Any) -> None:
        self.token += 1
        self.before = asyncio.all_tasks()
        cluster = Blind(self.mortal, (self.namespace,))  # type: ignore[arg-type]  # an Api that can die
        watches = Watches(cluster, found, (self.namespace,))
        await watches.start()
        self.watches = watches
        self.watching = asyncio.create_task(watches.run())
        self.redis = connect_async(self.redis_url)
        deps = Deps(cluster, self.redis, open_store(self.store), settings(self))
        self.acting = [
            asyncio.create_task(run_operator(cluster, deps, asyncio.Event())),
            asyncio.create_task(sweep_after_deletions(cluster, deps)),
        ]

    async def _kill(self) -> None:
        """Nothing of it runs on: no farewell, no last write."""
        self.watches.stop()
        await self.watching
        rest = asyncio.all_tasks() - self.before
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self.redis.aclose()

    async def _settle(self, found: Any, decided: list[str]) -> None:
        """Until this was decided and then nothing written for a while; a dead operator is followed by another."""
        quiet_since, seen, deadline = time.monotonic(), -1, time.monotonic() + 60
        while not self._has(decided) or time.monotonic() - quiet_since < SETTLED_SECONDS:
            assert time.monotonic() < deadline, f"it never settles: {self._decided()} instead of {decided}"
            if self.mortal.died.is_set():
                await self._kill()
                self.mortal = self.mortal.reborn()
                await self._start(found)
                seen = -1
            if self.mortal.writes != seen or not self._has(decided):
                quiet_since, seen = time.monotonic(), self.mortal.writes
            await asyncio.sleep(0.1)

    def _has(self, decided: list[str]) -> bool:
        """Whether this is what was decided first; more may follow."""
        return self._decided()[: len(decided)] == decided

    def _decided(self) -> list[str]:
        """Actions in the status, in order; none of a model that is gone."""
        status = self.plane.get(self.path).body.get("status")
        return [line["action"] for line in status.get("decisions", ())] if isinstance(status, dict) else []

    def _annotate(self, name: str, value: str) -> None:
        assert self.plane.merge(self.path, {"metadata": {"annotations": {name: value}}}).ok

    def _end_state(self) -> dict[str, Any]:
        status = self.plane.get(self.path).body["status"]
        made = Counter(
            (event["verb"], event["objectRef"]["resource"], event["objectRef"]["name"].partition("-train-")[0])
            for event in self.plane.mutations(self.account)
            if event["objectRef"]["resource"] in {"jobs", "deployments"} and event["responseStatus"]["code"] < 300
        )
        return {
            "training": (status["training"]["state"], status["training"]["reason"]),
            "decisions": [(line["action"], line["reason"]) for line in status["decisions"]],
            "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
            "made": made,
        }

    async def _keys(self) -> list[bytes]:
        deadline = time.monotonic() + 10
        while keys := [key async for key in self.redis.scan_iter(match=f"*{self.namespace}*") if b"instal" not in key]:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        return keys


def settings(story: Story) -> OperatorSettings:
    part = ComponentSettings(("true",), "continual-test")
    look = timedelta(seconds=0.3)
    return OperatorSettings(
        story.token, story.redis_url, story.store, part, part, part, installation=story.namespace,
        busy_interval=look, idle_interval=look, status_interval=look,
    )  # fmt: skip


@pytest.fixture
def tell(controllers: ControlPlane, redis_server: Any, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], int]]:
    """Tell the story with this crash; returns the end state and the number of writes."""

    def run(fatal: Point, *, twice: bool = False) -> tuple[dict[str, Any], int]:
        namespace = f"crash-{secrets.token_hex(6)}"
        assert controllers.create("/api/v1/namespaces", {"metadata": {"name": namespace}}).ok
        story = Story(controllers, namespace, tmp_path, redis_server.url)
        return asyncio.run(story.tell(fatal, twice=twice)), story.mortal.writes

    return run


def test_a_crash_after_a_job_was_created_makes_no_second_one(tell: Any) -> None:
    """The most dangerous point: it is in no cache yet, and the successor's first look misses it. Its name is the protection."""
    end, _ = tell(("create Job", "after"))
    assert end == REFERENCE


@pytest.mark.long
def test_without_names_from_inputs_there_would_be_two(tell: Any) -> None:
    """Mutation check: a Job named at random is created again by the successor."""
    end, _ = tell(("create Job", "after"), twice=True)
    assert end["made"]["create", "jobs", "digits"] > REFERENCE["made"]["create", "jobs", "digits"]
