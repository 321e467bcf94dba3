"""O11: an operator under a CRD that is older than itself, on a real API server; and what it says about itself on /metrics.

The CRD is changed for the whole server and put back, whatever happens: no other test may run beside this one, and none does.
"""

from __future__ import annotations

import copy
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from continual_operator.safety import DOCUMENT, missing_fields
from control_plane import CRD, CRDS, MODELS, ControlPlane, free_port
from operators import OperatorProcess, digits, objects, operator_account, until

MUTATIONS = str(Path(__file__).with_name("mutations.py"))
DROPPED = ("spec.rollout.gate.requireApproval", "status.quarantine", "status.training.spent")


@contextmanager
def older_crd(plane: ControlPlane) -> Iterator[None]:
    """The CRD without some fields that came later."""
    crd = yaml.safe_load(CRD.read_text())
    path = f"{CRDS}/{crd['metadata']['name']}"
    older = copy.deepcopy(crd)
    [version] = older["spec"]["versions"]
    for field in DROPPED:
        place = version["schema"]["openAPIV3Schema"]
        *parents, last = field.split(".")
        for parent in parents:
            place = place["properties"][parent]
        del place["properties"][last]
    try:
        install(plane, path, older)
        until("the older CRD is served", lambda: missing_fields(plane.get(DOCUMENT).body) == DROPPED)
        yield
    finally:
        install(plane, path, crd)
        until("the CRD is whole again", lambda: missing_fields(plane.get(DOCUMENT).body) == ())


def install(plane: ControlPlane, path: str, crd: dict[str, Any]) -> None:
    version = plane.get(path).body["metadata"]["resourceVersion"]
    answer = plane.request("PUT", path, {**crd, "metadata": {**crd["metadata"], "resourceVersion": version}})
    assert answer.ok, answer.message


class World:
    """A namespace with a model and an operator of its own."""

    def __init__(self, plane: ControlPlane, redis_url: str, folder: Path, *command: str) -> None:
        self.plane, self.metrics_port = plane, free_port()
        self.namespace = plane.new_namespace(f"crd-{'mutated' if command else 'plain'}")
        self.path = f"{MODELS.format(namespace=self.namespace)}/digits"
        assert plane.apply(self.path, digits()).ok
        kubeconfig = operator_account(plane, self.namespace)
        self.operator = OperatorProcess(
            self.namespace, folder, kubeconfig, self.namespace, redis_url, command or ("-m", "continual_operator"),
            CONTINUAL_METRICS_ADDRESS=f"127.0.0.1:{self.metrics_port}",
        )  # fmt: skip

    def ready(self) -> tuple[str, str, str]:
        found = [
            c for c in self.plane.get(self.path).body.get("status", {}).get("conditions", ()) if c["type"] == "Ready"
        ]
        return (found[0]["status"], found[0]["reason"], found[0]["message"]) if found else ("", "", "")

    def made(self) -> list[str]:
        return [
            o["metadata"]["name"] for kind in ("Deployment", "Job") for o in objects(self.plane, kind, self.namespace)
        ]

    def events(self, reason: str) -> list[dict[str, Any]]:
        return [event for event in objects(self.plane, "Event", self.namespace) if event["reason"] == reason]

    def metric(self, name: str) -> float:
        """Sum over all labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(
            float(number) for number in re.findall(rf"^continual_operator_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        )


@pytest.fixture
def worlds(controllers: ControlPlane, redis_server: Any, tmp_path: Path) -> Iterator[tuple[World, World]]:
    with older_crd(controllers):
        plain = World(controllers, redis_server.url, tmp_path)
        mutated = World(controllers, redis_server.url, tmp_path, MUTATIONS, "ignoring_the_installed_crd")
        try:
            yield plain, mutated
        finally:
            for world in (plain, mutated):
                world.operator.close()
                print(world.operator.log())


def test_under_an_older_crd_nothing_is_done_until_it_is_replaced(
    worlds: tuple[World, World], controllers: ControlPlane
) -> None:
    """Condition, event, log and metric name what is missing; the mutated operator trains, and forgets what it spent."""
    plain, mutated = worlds
    until("it says so", lambda: plain.ready()[1] == "InstalledCRDOutdated")
    status, _, message = plain.ready()
    assert status == "False"
    assert all(field in message for field in DROPPED)
    [told] = plain.operator.lines("installed CRD is older than this operator")
    assert told["missing"] == list(DROPPED)
    [event] = until("the owner is told", lambda: plain.events("InstalledCRDOutdated"))
    assert (event["type"], event["involvedObject"]["name"]) == ("Warning", "digits")
    assert plain.metric("refusing") == 1
    until("mutation check: without the look it trains", lambda: any("train" in name for name in mutated.made()))
    assert plain.made() == []
    crd = yaml.safe_load(CRD.read_text())
    install(controllers, f"{CRDS}/{crd['metadata']['name']}", crd)
    until("it goes on by itself", lambda: any("train" in name for name in plain.made()), 40)
    until("Ready says what is left to do", lambda: plain.ready()[1] == "NoVersionYet")
    counted = {
        name: plain.metric(name) for name in ("refusing", "leader", "models", "errors_total", "watch_silence_seconds")
    }
    assert counted == {"refusing": 0, "leader": 1, "models": 1, "errors_total": 0, "watch_silence_seconds": 0}
    assert plain.metric("decisions_total") >= 1
    assert plain.metric("reconciles_total") >= 2
    assert plain.metric("api_requests_total") >= 5
    assert plain.metric("resync_age_seconds") < 61
