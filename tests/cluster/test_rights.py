"""The chart's Role, verb by verb: the operator uses each, and without any one of them it cannot do what it has to.

Everything the operator can ask an API server for is asked once, with the token of the account that the chart makes; the audit log says what
was granted. `tests/chart` holds the list of rights itself (`auth can-i --list`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from continual_contract.errors import ClusterRefusedError, ConflictError, ContinualError
from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.kubernetes.api import CHILDREN, MODEL, Api, configuration, connect
from continual_operator.kubernetes.cluster import KubernetesCluster
from continual_operator.kubernetes.handlers import Watches
from continual_operator.kubernetes.lease import Lease
from control_plane import MODELS, ControlPlane
from operators import ACCOUNT, PATHS, chart_rights, digits, farewells, operator_account

Right = tuple[str, str, str]
"""Group, resource, verb."""
MARKS = {labels.MODEL: "digits", labels.COMPONENT: labels.INFERENCE, labels.VERSION: "v1"}
POD: Manifest = {
    "metadata": {"labels": MARKS},
    "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "none"}]},
}
WATCH_SECONDS = 6.0
AT_ONCE = 8


def child(api_version: str, kind: str, namespace: str, spec: Manifest) -> Manifest:
    metadata = {"namespace": namespace, "name": "digits-v1", "labels": MARKS}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def deployment(namespace: str) -> Manifest:
    return child("apps/v1", "Deployment", namespace, {"selector": {"matchLabels": MARKS}, "template": POD})


def budget(namespace: str) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": MARKS}}
    return child("policy/v1", "PodDisruptionBudget", namespace, spec)


def job(namespace: str) -> Manifest:
    template = {**POD, "spec": {**POD["spec"], "restartPolicy": "Never"}}
    return child("batch/v1", "Job", namespace, {"template": template})


class Exercise:
    """Every request the operator knows, in a namespace of its own, under a Role that may lack a right."""

    def __init__(self, plane: ControlPlane, lacking: Right | None = None) -> None:
        self.plane, self.namespace = plane, plane.new_namespace(f"rights-{secrets.token_hex(4)}")
        self.kubeconfig = operator_account(plane, self.namespace, lambda role: without(role, lacking))
        self.patience = WATCH_SECONDS if lacking else 10 * WATCH_SECONDS
        self.path = f"{MODELS.format(namespace=self.namespace)}/digits"

    def granted(self) -> set[Right]:
        """What it was granted; a refusal ends it early."""
        with contextlib.suppress(ContinualError, TimeoutError):
            asyncio.run(self._do_all(self.kubeconfig))
        for kind in ("ContinualModel", "Deployment", "PodDisruptionBudget", "Job"):
            self.plane.request("DELETE", PATHS[kind].format(self.namespace), {"propagationPolicy": "Background"})
        return set(self._audited())

    async def _do_all(self, kubeconfig: Path) -> None:
        found = await configuration({"KUBECONFIG": str(kubeconfig)})
        try:
            async with connect(found) as api:
                cluster = KubernetesCluster(api, (self.namespace,))
                watches = Watches(cluster, found, (self.namespace,))
                await watches.start()
                watching = asyncio.create_task(watches.run())
                try:
                    await self._ask(api, cluster)
                    await self._until_watched()
                finally:
                    watches.stop()
                    await asyncio.gather(watching, return_exceptions=True)
        finally:
            await farewells()

    async def _ask(self, api: Api, cluster: KubernetesCluster) -> None:
        ref, ends = ModelRef(self.namespace, "digits"), list[str]()
        lease = Lease(api, self.namespace, "continual-operator", "tests", end=ends.append)
        await asyncio.wait_for(lease.acquire(), 2 * self.patience)
        made = self.plane.apply(self.path, digits())
        assert made.ok, made.message
        await cluster.resync()
        version = made.body["metadata"]["resourceVersion"]
        await cluster.write_status(ref, {"backlog": 1}, version)
        await cluster.annotate(ref, {"a": "b"})
        for _ in range(2):
            await cluster.record_event(ref, "Normal", "Again", "the same words")
        for manifest in (deployment(self.namespace), budget(self.namespace)):
            await cluster.apply(manifest)
        await cluster.create(job(self.namespace))
        for view in await cluster.children(ref):
            metadata = view["metadata"]
            if view["kind"] != "Pod":
                await cluster.delete(view["kind"], self.namespace, metadata["name"], metadata["uid"])
        with contextlib.suppress(ConflictError):
            await cluster.write_status(ref, {"backlog": 2}, version)  # reads the model past the cache
        await lease.release()

    async def _until_watched(self) -> None:
        """All kinds are watched; given up where a watch is refused."""
        wanted = {(kind.api_version.rpartition("/")[0], kind.plural, "watch") for kind in (MODEL, *CHILDREN)}
        deadline = asyncio.get_running_loop().time() + self.patience
        while not wanted <= set(self._audited()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 -- of a server
            await asyncio.sleep(0.2)

    def _audited(self) -> Iterator[Right]:
        """A patch that makes an object (201) takes both rights."""
        for event in self.plane.requests(f"system:serviceaccount:{self.namespace}:{ACCOUNT}"):
            about = event.get("objectRef")
            if about is None:
                continue  # discovery, which everybody may read
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            yield about.get("apiGroup", ""), resource, event["verb"]
            if event["responseStatus"].get("code") == 201:
                yield about.get("apiGroup", ""), resource, "create"


def without(role: Manifest, right: Right | None) -> None:
    """Take one verb on one resource away."""
    group, resource, verb = right or ("", "", "")
    for rule in role["rules"]:
        if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
            rule["verbs"].remove(verb)
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]


def chart_role() -> Manifest:
    [role] = [manifest for manifest in chart_rights("default") if manifest["kind"] == "Role"]
    return role


def rights_of(role: Manifest) -> set[Right]:
    return {
        (g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]
    }


def test_every_right_of_the_chart_is_used_and_no_other(controllers: ControlPlane) -> None:
    """What the operator was granted is what the Role gives, verb by verb."""
    assert Exercise(controllers).granted() == rights_of(chart_role())


def test_without_any_one_verb_something_is_missed(controllers: ControlPlane) -> None:
    """Mutation check of the test above: each verb taken away turns it red."""
    rights = sorted(rights_of(chart_role()))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        granted = list(pool.map(lambda right: Exercise(controllers, right).granted(), rights))
    unmissed = [right for right, got in zip(rights, granted, strict=True) if right in got or got == set(rights)]
    print(f"{len(rights)} rights, each of them missed when it is gone")
    assert unmissed == []


@pytest.mark.parametrize("manifest", [deployment, budget])
def test_an_apply_without_the_right_to_create_is_refused_and_said_so(controllers: ControlPlane, manifest: Any) -> None:
    """Server-side apply of what is not there needs both verbs; the error names request and reason, and is none to retry blindly."""
    resource = {"deployment": ("apps", "deployments"), "budget": ("policy", "poddisruptionbudgets")}[manifest.__name__]
    exercise = Exercise(controllers, (*resource, "create"))

    async def scene() -> None:
        found = await configuration({"KUBECONFIG": str(exercise.kubeconfig)})
        async with connect(found) as api:
            with pytest.raises(
                ClusterRefusedError, match=rf"patch /apis/.*/{resource[1]}/.*403.*cannot create resource"
            ):
                await KubernetesCluster(api, (exercise.namespace,)).apply(manifest(exercise.namespace))
        await farewells()

    asyncio.run(scene())
