"""One battery for every implementation of the operator's `Cluster`: what observe, decide and apply rely on.

The machine's processes are real. Another implementation joins by a class with the methods of `LocalWorld` in `WORLDS`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest
from continual_cli.local.cluster import LocalCluster
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from continual_contract.errors import ConflictError
from continual_operator.cluster import Cluster, ModelRef

REF = ModelRef("default", "digits")
LABELS = {"continual.dev/model": "digits", "continual.dev/component": "inference"}
SLEEPER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


class LocalWorld:
    """LocalCluster in a folder of its own."""

    runs_pods = True

    def __init__(self, folder: Path) -> None:
        self.state = LocalState(Home(folder / "home").create())
        self.cluster: Cluster = LocalCluster(self.state, os.environ)

    async def __aenter__(self) -> Self:
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.cluster.run(self._stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task
        for view in await self.cluster.children(REF):
            if view["kind"] != "Pod":
                await self.cluster.delete(view["kind"], "default", view["metadata"]["name"], view["metadata"]["uid"])
        await self.cluster.stop_all()

    def put_model(self, **spec: Any) -> dict[str, Any]:
        return self.state.create_or_replace(model(**spec)).model

    def delete_model(self) -> None:
        self.state.delete_model(REF.name)


WORLDS = {"local": LocalWorld}


@pytest.fixture(params=sorted(WORLDS))
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Any], Awaitable[None]]], None]:
    """Run a coroutine in a fresh world and clean up after it."""

    def run(scene: Callable[[Any], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with WORLDS[request.param](tmp_path) as world:
                await scene(world)

        asyncio.run(whole())

    return run


def model(**spec: Any) -> dict[str, Any]:
    whole = {
        "model": {
            "architecture": "lenet5",
            "input": {"height": 28, "width": 28, "channels": 1},
            "classes": [str(i) for i in range(10)],
        },
        "bootstrap": {"dataset": {"name": "digits"}},
    }
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": REF.name},
        "spec": whole | spec,
    }


def pod_spec(script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "continual", "command": ["sh", "-c", script]}
    if env := spec.pop("env", None):
        container["env"] = env
    return {"metadata": {"labels": LABELS}, "spec": {"containers": [container]} | spec}


def deployment(script: str = SLEEPER, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "digits-v1", "namespace": "default", "labels": LABELS},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": pod_spec(script, **({"terminationGracePeriodSeconds": 2} | spec)),
        },
    }


def job(script: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "digits-train-1", "namespace": "default", "labels": LABELS},
        "spec": {"template": pod_spec(script, restartPolicy="Never", terminationGracePeriodSeconds=1)} | spec,
    }


async def views(world: Any, kind: str) -> list[dict[str, Any]]:
    return [view for view in await world.cluster.children(REF) if view["kind"] == kind]


async def eventually(claim: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    """The claim's value once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := await claim()):
        assert time.monotonic() < deadline, f"not in {seconds} s"
        await asyncio.sleep(0.05)
    return value


async def there(file: Path) -> None:
    """Until a process has made it."""

    async def claim() -> bool:
        return await asyncio.to_thread(file.exists)

    await eventually(claim)


async def ready_deployment(world: Any, replicas: int, generation: int = 1) -> dict[str, Any]:
    async def claim() -> dict[str, Any] | None:
        [view] = await views(world, "Deployment")
        status = view.get("status", {})
        wanted = {"updatedReplicas": replicas, "replicas": replicas, "observedGeneration": generation}
        if world.runs_pods:
            wanted["readyReplicas"] = replicas
        told = len(await views(world, "Pod")) >= replicas  # pods may be told of a little later
        return view if told and wanted == {key: status.get(key, 0) for key in wanted} else None

    return await eventually(claim)


async def finished_job(world: Any) -> dict[str, Any]:
    async def claim() -> dict[str, Any] | None:
        [view] = await views(world, "Job")
        return view if view.get("status", {}).get("conditions") else None

    return await eventually(claim)


def test_a_status_write_changes_the_version_and_not_the_generation(play: Any) -> None:
    """The operator's own writes must not look like a changed spec."""

    async def scene(world: Any) -> None:
        first = world.put_model()
        await world.cluster.write_status(REF, {"observedGeneration": 1}, first["metadata"]["resourceVersion"])
        second = await world.cluster.get_model(REF)
        assert second["status"] == {"observedGeneration": 1}
        assert second["metadata"]["generation"] == 1
        assert second["metadata"]["uid"] == first["metadata"]["uid"]
        assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]

    play(scene)


def test_a_status_write_over_an_unseen_change_is_a_conflict(play: Any) -> None:
    """A decision made on an old object must not be recorded on a new one; nor on one that is gone."""

    async def scene(world: Any) -> None:
        seen = world.put_model()["metadata"]["resourceVersion"]
        await world.cluster.annotate(REF, {"continual.dev/promote": "v8"})
        with pytest.raises(ConflictError):
            await world.cluster.write_status(REF, {"lost": True}, seen)
        world.delete_model()
        with pytest.raises(ConflictError):
            await world.cluster.write_status(REF, {"lost": True}, seen)

    play(scene)


def test_annotations_are_set_and_removed_without_a_new_generation(play: Any) -> None:
    """One-shot verbs are annotations; they are no change of the spec."""

    async def scene(world: Any) -> None:
        world.put_model()
        await world.cluster.annotate(REF, {"a": "1", "b": "2"})
        await world.cluster.annotate(REF, {"a": None})
        metadata = (await world.cluster.get_model(REF))["metadata"]
        assert metadata["annotations"] == {"b": "2"}
        assert metadata["generation"] == 1

    play(scene)


def test_a_changed_spec_is_a_new_generation_and_keeps_the_status(play: Any) -> None:
    """observedGeneration tells an answered spec from an unanswered one."""

    async def scene(world: Any) -> None:
        first = world.put_model()
        await world.cluster.write_status(REF, {"backlog": 3}, first["metadata"]["resourceVersion"])
        world.put_model(suspend=True)
        second = await world.cluster.get_model(REF)
        assert (second["metadata"]["generation"], second["status"]) == (2, {"backlog": 3})

    play(scene)


def test_models_are_listed_and_a_missing_one_is_none(play: Any) -> None:
    async def scene(world: Any) -> None:
        assert await world.cluster.list_models() == []
        assert await world.cluster.get_model(REF) is None
        world.put_model()
        assert await world.cluster.list_models() == [REF]

    play(scene)


def test_a_deployment_becomes_ready_and_says_so(play: Any) -> None:
    """readyReplicas and observedGeneration are what a rollout step waits for."""

    async def scene(world: Any) -> None:
        await world.cluster.apply(deployment(replicas=2))
        await ready_deployment(world, 2)
        pods = await views(world, "Pod")
        assert len({pod["metadata"]["uid"] for pod in pods}) == 2
        assert all("running" in pod["status"]["containerStatuses"][0]["state"] for pod in pods)

    play(scene)


def test_applying_the_same_again_changes_nothing(play: Any) -> None:
    """An idle object's resourceVersion stays, and no pod restarts."""

    async def scene(world: Any) -> None:
        await world.cluster.apply(deployment())
        before = await ready_deployment(world, 1)
        pods = [pod["metadata"]["uid"] for pod in await views(world, "Pod")]
        await world.cluster.apply(deployment())
        await asyncio.sleep(0.6)
        after = await ready_deployment(world, 1)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        assert [pod["metadata"]["uid"] for pod in await views(world, "Pod")] == pods

    play(scene)


def test_a_changed_template_is_rolled_without_losing_ready_pods(play: Any) -> None:
    """Stable capacity never drops (C1): one pod more than wanted, none less ready."""

    async def scene(world: Any) -> None:
        await world.cluster.apply(deployment(replicas=2))
        await ready_deployment(world, 2)
        old = {pod["metadata"]["uid"] for pod in await views(world, "Pod")}
        lowest = 2
        await world.cluster.apply(deployment(script=SLEEPER + " # new", replicas=2))

        async def rolled() -> bool:
            nonlocal lowest
            [view] = await views(world, "Deployment")
            lowest = min(lowest, view["status"]["readyReplicas"])
            pods = {pod["metadata"]["uid"] for pod in await views(world, "Pod")}
            return not pods & old and view["status"]["readyReplicas"] == 2

        await eventually(rolled)
        assert lowest == 2

    play(scene)


def test_scaling_keeps_the_pods_that_stay(play: Any) -> None:
    async def scene(world: Any) -> None:
        await world.cluster.apply(deployment(replicas=1))
        await ready_deployment(world, 1)
        [kept] = [pod["metadata"]["uid"] for pod in await views(world, "Pod")]
        await world.cluster.apply(deployment(replicas=2))
        await ready_deployment(world, 2, generation=2)
        await world.cluster.apply(deployment(replicas=1))
        await ready_deployment(world, 1, generation=3)
        assert kept in {pod["metadata"]["uid"] for pod in await views(world, "Pod")}

    play(scene)


def test_a_crashing_process_is_reported_as_a_crash_loop_with_its_last_words(play: Any) -> None:
    """The operator tells a broken version by the reason of its pods."""

    async def scene(world: Any) -> None:
        await world.cluster.apply(deployment("echo the model is broken >&2; exit 3"))

        async def looping() -> dict[str, Any] | None:
            for pod in await views(world, "Pod"):
                status = pod["status"]["containerStatuses"][0]
                if status["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff":
                    return status
            return None

        status = await eventually(looping)
        ended = status["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (3, "Error")
        assert "the model is broken" in ended["message"]
        assert status["restartCount"] >= 2
        assert status["ready"] is False

    play(scene)


def test_a_job_that_succeeds_is_complete_and_runs_once(play: Any) -> None:
    """Creating it again is a success that does nothing: one training per set of inputs."""

    async def scene(world: Any) -> None:
        await world.cluster.create(job("exit 0"))
        await world.cluster.create(job("exit 0"))
        status = (await finished_job(world))["status"]
        await world.cluster.create(job("exit 0"))
        assert (status["succeeded"], status["failed"], status["active"]) == (1, 0, 0)
        assert status["conditions"][-1]["type"] == "Complete"
        assert len(await views(world, "Pod")) == 1

    play(scene)


def test_a_job_fails_when_its_failures_exceed_the_limit(play: Any) -> None:
    """Each failed pod stays, with exit code and message, so that the operator can say why."""

    async def scene(world: Any) -> None:
        await world.cluster.create(job("echo diverged; exit 7", backoffLimit=1))
        status = (await finished_job(world))["status"]
        assert (status["succeeded"], status["failed"]) == (0, 2)
        assert (status["conditions"][-1]["type"], status["conditions"][-1]["reason"]) == (
            "Failed",
            "BackoffLimitExceeded",
        )
        ends = [p["status"]["containerStatuses"][0]["state"]["terminated"] for p in await views(world, "Pod")]
        assert [(e["exitCode"], "diverged" in e["message"]) for e in ends] == [(7, True), (7, True)]

    play(scene)


def test_a_job_past_its_deadline_is_ended_and_failed(play: Any) -> None:
    async def scene(world: Any) -> None:
        await world.cluster.create(job(SLEEPER, activeDeadlineSeconds=1))
        status = (await finished_job(world))["status"]
        assert status["conditions"][-1]["reason"] == "DeadlineExceeded"

        async def no_process() -> bool:
            return not any("running" in _state(pod) for pod in await views(world, "Pod"))

        await eventually(no_process)

    play(scene)


def _state(pod: dict[str, Any]) -> dict[str, Any]:
    """Of its container; empty while no node has taken the pod."""
    return next((status["state"] for status in pod["status"].get("containerStatuses", ())), {})


def test_a_delete_with_another_uid_is_a_success_that_deletes_nothing(play: Any) -> None:
    """What was deleted and created again under its old name must not be deleted by a late call."""

    async def scene(world: Any) -> None:
        await world.cluster.apply(deployment())
        view = await ready_deployment(world, 1)
        await world.cluster.delete("Deployment", "default", "digits-v1", "another-uid")
        await world.cluster.delete("Deployment", "default", "no-such-name", view["metadata"]["uid"])
        assert len(await views(world, "Deployment")) == 1

    play(scene)


def test_a_deleted_deployment_takes_its_processes_with_it(play: Any, tmp_path: Path) -> None:
    """SIGTERM first: the process ends its work in its own way."""

    async def scene(world: Any) -> None:
        mark, trapped = tmp_path / "graceful", tmp_path / "trapped"
        script = f"trap 'touch {mark}; exit 0' TERM; touch {trapped}; while :; do sleep 0.05; done"
        await world.cluster.apply(deployment(script, terminationGracePeriodSeconds=30))
        view = await ready_deployment(world, 1)
        await there(trapped)
        for _ in range(2):
            await world.cluster.delete("Deployment", "default", "digits-v1", view["metadata"]["uid"])

        async def gone() -> bool:
            return await world.cluster.children(REF) == []

        await eventually(gone)
        assert mark.exists()

    play(scene)


def test_a_process_that_does_not_end_is_killed_after_its_grace(play: Any, tmp_path: Path) -> None:
    async def scene(world: Any) -> None:
        trapped = tmp_path / "trapped"
        await world.cluster.apply(deployment(f"trap '' TERM; touch {trapped}; while :; do sleep 0.05; done"))
        view = await ready_deployment(world, 1)
        await there(trapped)
        began = time.monotonic()
        await world.cluster.delete("Deployment", "default", "digits-v1", view["metadata"]["uid"])

        async def gone() -> bool:
            return await world.cluster.children(REF) == []

        await eventually(gone)
        assert 1.5 < time.monotonic() - began < 20.0

    play(scene)


def test_children_go_with_their_model(play: Any) -> None:
    """Owner references: deleting the model is enough, and a new model of that name does not inherit the old one's processes."""

    async def scene(world: Any) -> None:
        uid = world.put_model()["metadata"]["uid"]
        owned = deployment()
        owned["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "continual.dev/v1alpha1",
                "kind": "ContinualModel",
                "name": "digits",
                "uid": uid,
                "controller": True,
            }
        ]
        await world.cluster.apply(owned)
        await ready_deployment(world, 1)
        world.delete_model()
        world.put_model()

        async def gone() -> bool:
            return await world.cluster.children(REF) == []

        await eventually(gone)

    play(scene)


def test_changes_tell_of_the_model_and_of_its_children(play: Any) -> None:
    """The operator sleeps between changes: none may be missed."""

    async def scene(world: Any) -> None:
        changes = world.cluster.changes()
        world.put_model()
        assert await asyncio.wait_for(anext(changes), 30) == REF
        await world.cluster.apply(deployment())
        assert await asyncio.wait_for(anext(changes), 30) == REF
        await ready_deployment(world, 1)
        assert await asyncio.wait_for(anext(changes), 30) == REF
        await changes.aclose()

    play(scene)


def test_a_process_learns_its_pod_from_field_references(play: Any, tmp_path: Path) -> None:
    """What the manifests take from the downward API works everywhere."""

    async def scene(world: Any) -> None:
        out = tmp_path / "env"
        env = [
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "GREETING", "value": "hello $(ME)"},
        ]
        await world.cluster.apply(deployment(f'echo "$GREETING" > {out}; {SLEEPER}', env=env))
        await ready_deployment(world, 1)
        [pod] = await views(world, "Pod")

        async def written() -> bool:
            return out.exists() and bool(out.read_text())

        await eventually(written)
        assert out.read_text().strip() == f"hello {pod['metadata']['name']}"

    play(scene)


def test_a_command_that_cannot_be_run_is_told_from_one_that_fails(play: Any) -> None:
    """A wrong path is the installation's fault, not the model's."""

    async def scene(world: Any) -> None:
        manifest = job("unused", backoffLimit=0)
        manifest["spec"]["template"]["spec"]["containers"][0]["command"] = ["/no/such/command"]
        await world.cluster.create(manifest)
        await finished_job(world)
        [pod] = await views(world, "Pod")
        ended = _state(pod)["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
        assert "/no/such/command" in ended["message"]

    play(scene)
