"""`KubernetesCluster` in the battery that `LocalCluster` passes: real API server, real controllers, the operator's own rights.

There is no kubelet, so no pod runs. What needs a running pod is listed here by name, and the list is held complete.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.kubernetes.api import Api, configuration, connect
from continual_operator.kubernetes.cluster import KubernetesCluster
from continual_operator.kubernetes.handlers import Watches
from control_plane import MODELS, ControlPlane
from operators import ACCOUNT, PATHS, farewells, operator_account

FILE = Path(__file__).resolve().parents[1] / "conformance/test_cluster.py"
NEED_A_NODE = {
    "test_a_changed_template_is_rolled_without_losing_ready_pods",
    "test_a_command_that_cannot_be_run_is_told_from_one_that_fails",
    "test_a_crashing_process_is_reported_as_a_crash_loop_with_its_last_words",
    "test_a_deleted_deployment_takes_its_processes_with_it",
    "test_a_deployment_becomes_ready_and_says_so",
    "test_a_job_fails_when_its_failures_exceed_the_limit",
    "test_a_job_that_succeeds_is_complete_and_runs_once",
    "test_a_process_learns_its_pod_from_field_references",
    "test_a_process_that_does_not_end_is_killed_after_its_grace",
    "test_scaling_keeps_the_pods_that_stay",
}


def load_battery() -> Any:
    spec = importlib.util.spec_from_file_location("cluster_battery", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


battery = load_battery()
REF: ModelRef = battery.REF
SCENES = {name: value for name, value in vars(battery).items() if name.startswith("test_")}


class SettledCluster(KubernetesCluster):
    """A look waits until the watch has told of what the test wrote: between the two, any watch is late."""

    written = 0

    async def get_model(self, ref: ModelRef) -> Manifest | None:
        async def told() -> bool:
            known = await KubernetesCluster.get_model(self, ref)
            return not self.written or (known is not None and int(known["metadata"]["resourceVersion"]) >= self.written)

        await battery.eventually(told)
        return await super().get_model(ref)


class KubernetesWorld:
    """What the battery asks of a world."""

    runs_pods = False

    def __init__(self, plane: ControlPlane, api: Api, cluster: SettledCluster) -> None:
        self.plane, self.api, self.cluster = plane, api, cluster
        self.path = f"{MODELS.format(namespace='default')}/{REF.name}"

    def put_model(self, **spec: Any) -> dict[str, Any]:
        answer = self.plane.apply(self.path, battery.model(**spec))
        assert answer.ok, answer.message
        self.cluster.written = int(answer.body["metadata"]["resourceVersion"])
        return answer.body

    def delete_model(self) -> None:
        self.plane.request("DELETE", self.path)
        self.cluster.written = 0

    async def clean(self) -> None:
        self.delete_model()
        for kind in ("Deployment", "PodDisruptionBudget", "Job"):
            self.plane.request("DELETE", PATHS[kind].format("default"), {"propagationPolicy": "Background"})

        async def gone() -> bool:
            await self.cluster.resync()
            return await self.cluster.children(REF) == [] and await self.cluster.list_models() == []

        await battery.eventually(gone)


@asynccontextmanager
async def world(plane: ControlPlane, kubeconfig: Path) -> AsyncIterator[KubernetesWorld]:
    found = await configuration({"KUBECONFIG": str(kubeconfig)})
    async with connect(found) as api:
        cluster = SettledCluster(api, ("default",))
        watches = Watches(cluster, found, ("default",))
        await watches.start()
        watching = asyncio.create_task(watches.run())
        made = KubernetesWorld(plane, api, cluster)
        await cluster.resync()
        try:
            yield made
        finally:
            await made.clean()
            watches.stop()
            await watching
    await farewells()


@pytest.fixture(scope="session")
def account(controllers: ControlPlane) -> Path:
    return operator_account(controllers, "default")


@pytest.fixture
def play(controllers: ControlPlane, account: Path) -> Callable[[Callable[[Any], Awaitable[None]]], None]:
    """Run a coroutine in a clean namespace and clean up after it."""

    def run(scene: Callable[[Any], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with world(controllers, account) as made:
                await scene(made)

        asyncio.run(whole())

    return run


@pytest.mark.parametrize("name", sorted(SCENES.keys() - NEED_A_NODE))
def test_a_real_cluster_behaves_as_the_battery_says(name: str, play: Any) -> None:
    """One protocol, two clusters: what the operator relies on holds on both."""
    SCENES[name](play)


def test_what_needs_a_node_is_named_and_nothing_else_is_left_out() -> None:
    """A new test of the battery runs here too, unless somebody says why not."""
    assert set(SCENES) >= NEED_A_NODE


def test_a_job_exists_once(play: Any) -> None:
    """Created twice it is the same Job: one training per set of inputs, also after a crash between two calls."""

    async def scene(made: KubernetesWorld) -> None:
        await made.cluster.create(battery.job("exit 0"))
        [first] = await battery.views(made, "Job")
        await made.cluster.create(battery.job("exit 0"))
        await made.cluster.resync()
        [second] = await battery.views(made, "Job")
        assert second["metadata"]["uid"] == first["metadata"]["uid"]

    play(scene)


def test_a_status_write_removes_what_it_leaves_out(play: Any) -> None:
    """Replaced, not merged: a canary that is over must not stay in the status."""

    async def scene(made: KubernetesWorld) -> None:
        first = made.put_model()
        whole = {"backlog": 3, "replicas": 2, "canary": {"version": "v2", "weight": 10}}
        await made.cluster.write_status(REF, whole, first["metadata"]["resourceVersion"])
        second = await made.cluster.get_model(REF)
        assert second is not None
        assert second["status"] == whole
        less = {"replicas": 2, "canary": {"version": "v2"}}
        await made.cluster.write_status(REF, less, second["metadata"]["resourceVersion"])
        assert made.plane.get(made.path).body["status"] == less

    play(scene)


def test_events_of_the_same_words_are_one_that_counts(play: Any) -> None:
    """`kubectl describe ctm` stays readable."""

    async def scene(made: KubernetesWorld) -> None:
        uid = made.put_model()["metadata"]["uid"]
        for message in ("Promote v2", "Promote v2", "Rollback v3"):
            await made.cluster.record_event(REF, "Normal", "AccuracyHeld", message)
        events = made.plane.get(PATHS["Event"].format("default") + f"?fieldSelector=involvedObject.uid={uid}").body[
            "items"
        ]
        assert sorted((e["message"], e["count"]) for e in events) == [("Promote v2", 2), ("Rollback v3", 1)]

    play(scene)


def test_the_same_apply_is_no_request_until_somebody_touched_the_child(controllers: ControlPlane, play: Any) -> None:
    """O2: every event of a child leads to a look, and no look to a write; what somebody changed is put right."""

    def patches() -> int:
        asked = controllers.mutations(f"system:serviceaccount:default:{ACCOUNT}")
        return sum(e["verb"] == "patch" and e["objectRef"]["resource"] == "deployments" for e in asked)

    async def scene(made: KubernetesWorld) -> None:
        path = PATHS["Deployment"].format("default") + "/digits-v1"
        await made.cluster.apply(battery.deployment())
        await battery.ready_deployment(made, 1)
        before = patches()
        await made.cluster.apply(battery.deployment())
        assert patches() == before
        touches: list[Any] = [{"metadata": {"labels": {"continual.dev/component": None}}}, {"spec": {"replicas": 3}}]
        for count, touch in enumerate(touches, 1):
            assert made.plane.merge(path, touch).ok
            await made.cluster.resync()
            await made.cluster.apply(battery.deployment())
            await made.cluster.apply(battery.deployment())
            assert patches() == before + count
        live = made.plane.get(path).body
        assert (live["spec"]["replicas"], live["metadata"]["labels"]) == (1, battery.LABELS)
        made.cluster._applied.clear()  # mutation check: without the memory it is a request
        await made.cluster.apply(battery.deployment())
        assert patches() == before + len(touches) + 1

    play(scene)


def test_a_list_makes_good_what_no_watch_told(controllers: ControlPlane, account: Path) -> None:
    """O5: with every watch frozen, a model, its child and their end are seen by the next list."""

    async def scene() -> None:
        found = await configuration({"KUBECONFIG": str(account)})
        async with connect(found) as api:
            cluster = SettledCluster(api, ("default",))
            made = KubernetesWorld(controllers, api, cluster)
            assert await cluster.list_models() == []
            cluster.deleted.clear()
            made.put_model()
            controllers.create(PATHS["Job"].format("default"), battery.job("exit 0"))
            assert await KubernetesCluster.get_model(cluster, REF) is None  # mutation check: nothing else tells
            assert await cluster.list_models() == [REF]
            assert [job["metadata"]["name"] for job in await battery.views(made, "Job")] == ["digits-train-1"]
            assert not cluster.deleted.is_set()
            await made.clean()
            assert cluster.deleted.is_set()
        await farewells()

    asyncio.run(scene())
