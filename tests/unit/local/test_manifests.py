"""What local mode runs, ignores and refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from continual_cli.local import manifests
from continual_contract.errors import InvalidSpecError


def deployment() -> dict[str, Any]:
    container = {
        "name": "inference",
        "image": "continual",
        "command": ["python", "-m", "x"],
        "args": ["--fast"],
        "env": [{"name": "A", "value": "1"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 2},
        "resources": {"limits": {"cpu": "1"}},
        "securityContext": {"runAsNonRoot": True},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "digits-v1", "labels": {"a": "b"}},
        "spec": {
            "replicas": 2,
            "template": {"spec": {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}},
        },
    }


def change(path: str, value: Any) -> dict[str, Any]:
    """The manifest with one field set: `spec.template.spec.containers.0.tty`."""
    manifest = copy.deepcopy(deployment())
    *steps, last = path.split(".")
    here: Any = manifest
    for step in steps:
        here = here[int(step)] if step.isdigit() else here.setdefault(step, {})
    here[last] = value
    return manifest


def test_a_deployment_is_read() -> None:
    spec = manifests.parse_deployment(deployment())
    assert (spec.replicas, spec.recreate) == (2, False)
    assert spec.template.container.command == ("python", "-m", "x", "--fast")
    assert spec.template.container.ready_path == "/readyz"
    assert spec.template.grace_seconds == 30


POD = "spec.template.spec"
REFUSED = [
    ("spec.paused", True, "spec.paused"),
    (f"{POD}.hostNetwork", True, f"{POD}.hostNetwork"),
    (f"{POD}.initContainers", [{"name": "a"}], f"{POD}.initContainers"),
    (f"{POD}.activeDeadlineSeconds", 5, f"{POD}.activeDeadlineSeconds"),
    (f"{POD}.containers.0.workingDir", "/x", f"{POD}.containers[0].workingDir"),
    (f"{POD}.containers.0.envFrom", [], f"{POD}.containers[0].envFrom"),
    (f"{POD}.containers.0.stdin", True, f"{POD}.containers[0].stdin"),
    (f"{POD}.containers.0.command", [], f"{POD}.containers[0].command"),
    (f"{POD}.containers.0.readinessProbe", {"exec": {"command": ["true"]}}, f"{POD}.containers[0].readinessProbe.exec"),
    (f"{POD}.containers.0.env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}], "secretKeyRef"),
    (f"{POD}.containers.0.env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}], "fieldPath"),
    (
        f"{POD}.containers.0.env",
        [{"name": "A", "value": 1}],
        f"{POD}.containers[0].env[0].value".removeprefix(f"{POD}."),
    ),
    (f"{POD}.containers", [{"name": "a", "command": ["a"]}, {"name": "b", "command": ["b"]}], f"{POD}.containers"),
    (f"{POD}.restartPolicy", "Never", f"{POD}.restartPolicy"),
    ("spec.strategy", {"type": "BlueGreen"}, "spec.strategy.type"),
    ("spec.replicas", -1, "spec.replicas"),
    ("spec.replicas", "2", "spec.replicas"),
]


@pytest.mark.parametrize(
    ("path", "value", "named"), REFUSED, ids=[f"{r[0].rpartition('.')[2]}={r[1]}" for r in REFUSED]
)
def test_what_is_not_implemented_is_refused_by_name(path: str, value: Any, named: str) -> None:
    """Nothing is dropped in silence: a manifest behaves here as in a cluster, or not at all."""
    with pytest.raises(InvalidSpecError) as caught:
        manifests.parse_deployment(change(path, value))
    assert named in str(caught.value)


def test_pod_only_fields_are_passed_over() -> None:
    """A written list of them; changing one still makes other pods, as in a cluster."""
    plain, limited = deployment(), change("spec.template.spec.containers.0.resources", {"limits": {"cpu": "2"}})
    assert manifests.parse_deployment(plain).template.digest != manifests.parse_deployment(limited).template.digest
    manifests.parse_deployment(change("spec.template.spec.tolerations", [{"key": "gpu"}]))


def test_a_job_runs_one_pod_to_completion() -> None:
    job = deployment() | {"kind": "Job"}
    job["spec"] = {"template": job["spec"]["template"], "backoffLimit": 0, "activeDeadlineSeconds": 60}
    spec = manifests.parse_job(job)
    assert (spec.backoff_limit, spec.active_deadline_seconds, spec.template.restart_policy) == (0, 60, "Never")
    job["spec"]["parallelism"] = 2
    with pytest.raises(InvalidSpecError, match="parallelism"):
        manifests.parse_job(job)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("a$$b", "a$b")],
)
def test_references_are_expanded_as_kubernetes_does_it(text: str, expected: str) -> None:
    assert manifests.expand(text, {"A": "1"}) == expected
