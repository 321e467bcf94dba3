"""`python -m continual_operator` as a process: real API server and controllers, real Redis, its own service account, no pod runs."""

from __future__ import annotations

import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import MODELS, ControlPlane
from operators import ACCOUNT, PATHS, OperatorProcess, digits, objects, operator_account, until

LEASE_SECONDS = "9"


class World:
    """A namespace with an operator or two."""

    def __init__(self, plane: ControlPlane, namespace: str, redis: Any, folder: Path) -> None:
        self.plane, self.namespace, self.redis, self.folder = plane, namespace, redis, folder
        self.kubeconfig = operator_account(plane, namespace)
        self.operators: list[OperatorProcess] = []

    def start(self, name: str = "a") -> OperatorProcess:
        operator = OperatorProcess(
            name, self.folder, self.kubeconfig, self.namespace, self.redis.url, CONTINUAL_LEASE_SECONDS=LEASE_SECONDS
        )
        self.operators.append(operator)
        return operator

    def put(self, manifest: dict[str, Any]) -> dict[str, Any]:
        answer = self.plane.apply(f"{self.models}/{manifest['metadata']['name']}", manifest)
        assert answer.ok, answer.message
        return answer.body

    def delete(self, name: str) -> None:
        assert self.plane.request("DELETE", f"{self.models}/{name}").ok

    @property
    def models(self) -> str:
        return MODELS.format(namespace=self.namespace)

    @property
    def lease(self) -> str:
        return PATHS["Lease"].format(self.namespace) + "/continual-operator"

    def condition(self, name: str, kind: str) -> dict[str, Any] | None:
        conditions = self.plane.get(f"{self.models}/{name}").body.get("status", {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == kind), None)

    def jobs(self) -> list[dict[str, Any]]:
        return objects(self.plane, "Job", self.namespace)

    def deployments(self) -> list[dict[str, Any]]:
        return objects(self.plane, "Deployment", self.namespace)

    def mutations(self) -> list[dict[str, Any]]:
        """Everything the operator's account changed but its Lease, which is renewed for ever."""
        user = f"system:serviceaccount:{self.namespace}:{ACCOUNT}"
        return [event for event in self.plane.mutations(user) if event["objectRef"]["resource"] != "leases"]

    def keys(self) -> list[bytes]:
        return [key for key in self.redis.client().keys("*") if b"installation" not in key]


@pytest.fixture
def world(controllers: ControlPlane, namespace: str, redis_server: Any, tmp_path: Path) -> Iterator[World]:
    made = World(controllers, namespace, redis_server, tmp_path)
    try:
        yield made
    finally:
        for operator in made.operators:
            operator.close()
        print(*(operator.log() for operator in made.operators), sep="\n")


def health(operator: OperatorProcess) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.port}/healthz", timeout=5) as answer:
        return int(answer.status)


def test_a_model_is_trained_and_leaves_nothing_behind(world: World) -> None:
    """From `kubectl apply` to `kubectl delete`, as its own account."""
    operator = world.start()
    uid = world.put(digits())["metadata"]["uid"]
    [job] = until("the bootstrap Job exists", world.jobs)
    owner = {
        "apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "name": "digits", "uid": uid, "controller": True,
    }  # fmt: skip
    assert job["metadata"]["ownerReferences"] == [owner]
    assert job["metadata"]["name"].startswith("digits-train-")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "continual-test"
    assert {d["metadata"]["name"] for d in until("the evaluator exists", world.deployments)} == {"digits-evaluator"}
    until("the status says what is going on", lambda: world.condition("digits", "Ready"))
    assert health(operator) == 200
    assert world.keys()
    world.delete("digits")
    until("children are collected", lambda: not world.jobs() and not world.deployments())
    until("keys are swept", lambda: not world.keys())
    operator.signal(signal.SIGTERM)
    assert operator.process.wait(20) == 0, operator.log()[-3000:]
    assert not world.plane.get(world.lease).body["spec"].get("holderIdentity")


def _unchanged(world: World, seconds: float) -> bool:
    before = len(world.mutations())
    time.sleep(seconds)
    return len(world.mutations()) == before


def test_a_wrong_spec_is_told_and_a_corrected_one_goes_on(world: World) -> None:
    """What the API server cannot check the operator says in a condition; other models go on."""
    world.put(digits(retraining={"triggers": [{"schedule": "0 3 * * *", "timeZone": "Europe/Nowhere"}]}))
    world.put(digits("other"))
    world.start()
    until("the other model is served", world.jobs)
    said = until("the condition is there", lambda: world.condition("digits", "SpecValid"))
    assert (said["status"], said["reason"]) == ("False", "InvalidSpec")
    assert "Europe/Nowhere" in said["message"]
    ready = world.condition("digits", "Ready")
    assert ready is not None
    assert ready["status"] == "False"
    assert {job["metadata"]["labels"]["continual.dev/model"] for job in world.jobs()} == {"other"}
    world.put(digits())
    until("the corrected one is trained", lambda: len(world.jobs()) == 2)
    corrected = world.condition("digits", "SpecValid")
    assert corrected is not None
    assert corrected["status"] == "True"


def test_a_stopped_leader_is_followed_and_ends_when_it_wakes(world: World) -> None:
    """O4: SIGSTOP, takeover within the lease's duration and a little, SIGCONT: the old one ends without having written anything."""
    first = world.start("a")
    until("the first leads", first.leads)
    second = world.start("b")
    until("the second waits", lambda: second.lines("waiting for the lease"))
    first.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    until("the second leads", second.leads)
    assert time.monotonic() - stopped < 30
    world.put(digits())
    until("the second works", world.jobs)
    until("nothing moves any more", lambda: _unchanged(world, 2.0), 60)
    before = len(world.mutations())
    first.signal(signal.SIGCONT)
    assert first.process.wait(10) == 1
    assert [line["why"] for line in first.lines("lease lost")] == ["not renewed in time"]
    assert world.mutations()[before:] == []
    assert len(world.jobs()) == 1
    tokens = [operator.lines("leading")[0]["token"] for operator in (first, second)]
    assert tokens[1] == tokens[0] + 1


@pytest.mark.long
def test_a_leader_whose_api_server_hangs_ends_before_anybody_else_could_begin(world: World) -> None:
    """O4: no answer, so no renewal: it ends at its deadline. Started again (as a pod would be) it goes on where it was."""
    first = world.start("a")
    world.put(digits())
    until("it works", world.jobs)
    server = world.plane.processes["kube-apiserver"]
    server.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert first.process.wait(30) == 1
        assert time.monotonic() - began < float(LEASE_SECONDS)
    finally:
        server.send_signal(signal.SIGCONT)
    second = world.start("b")
    until("its successor leads", second.leads, 60)
    world.put(digits("other"))
    until("and works", lambda: len(world.jobs()) == 2, 60)


@pytest.mark.long
def test_deleting_ends_while_redis_is_down_and_keys_go_when_it_is_back(world: World) -> None:
    """O7: nothing holds a deletion up, and nothing is forgotten."""
    operator = world.start()
    world.put(digits())
    until("it is in Redis", lambda: world.jobs() and world.keys())
    world.redis.stop()
    world.delete("digits")
    until("children are collected", lambda: not world.jobs() and not world.deployments(), 60)
    until("it has tried to sweep", lambda: operator.lines("sweep failed"), 60)
    world.redis.start()
    assert world.keys()
    until("keys are swept", lambda: not world.keys(), 60)


@pytest.mark.long
def test_a_model_says_within_seconds_that_redis_is_gone(world: World) -> None:
    """O8: status tells the truth, and takes it back."""
    world.start()
    world.put(digits())
    until("it works", world.jobs)
    world.redis.stop()
    until("it says so", lambda: (world.condition("digits", "Degraded") or {}).get("status") == "True", 30)
    world.redis.start()
    until("it takes it back", lambda: (world.condition("digits", "Degraded") or {}).get("status") == "False", 60)
