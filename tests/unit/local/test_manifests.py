"""What local mode runs, ignores and refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from continual_cli.local import manifests
from continual_contract.artifacts import InputShape, TrainingInputs
from continual_contract.errors import InvalidSpecError
from continual_operator.children import disruption_budget, evaluator_deployment, inference_deployment, training_job
from continual_operator.rehearsal import minimal_model, rehearsal_settings
from continual_operator.spec import parse_model


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
    ("field", "value", "named"),
    [
        ("podReplacementPolicy", "TerminatingOrFailed", "spec.podReplacementPolicy"),
        ("podFailurePolicy", {"rules": [{"action": "FailJob"}]}, "spec.podFailurePolicy.rules[0].action"),
        (
            "podFailurePolicy",
            {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}}]},
            "spec.podFailurePolicy.rules[0].onExitCodes",
        ),
        (
            "podFailurePolicy",
            {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]}]},
            "spec.podFailurePolicy.rules[0].onPodConditions[0].type",
        ),
        ("suspend", True, "spec.suspend"),
    ],
    ids=["replacement", "fail at once", "exit codes", "another condition", "suspend"],
)
def test_what_would_change_which_failures_count_is_refused(field: str, value: Any, named: str) -> None:
    """Ignoring evictions is how it is here, because nobody evicts; every other rule would be dropped in silence."""
    job = deployment() | {"kind": "Job"}
    job["spec"] = {"template": job["spec"]["template"], field: value}
    with pytest.raises(InvalidSpecError) as caught:
        manifests.parse_job(job)
    assert named in str(caught.value)


def test_what_the_operator_makes_for_a_cluster_runs_here_too() -> None:
    """Nothing is forked: the same children, with their probes, rights, budgets of failures and volumes."""
    model = parse_model(minimal_model())
    inputs = TrainingInputs(
        namespace="default", model="digits", mode="bootstrap", architecture="mlp", classes=("a", "b"),
        input=InputShape(height=8, width=8, channels=1),
    )  # fmt: skip
    settings = rehearsal_settings()
    manifests.parse_deployment(inference_deployment(model, "v1", "sha256:ab", 2, "salt", settings))
    assert manifests.parse_deployment(evaluator_deployment(model, settings)).recreate
    assert manifests.parse_job(training_job(model, inputs, settings)).backoff_limit == 2
    assert not settings.disruption_budgets
    with pytest.raises(InvalidSpecError, match=r"spec\.maxUnavailable"):
        manifests.parse_deployment(disruption_budget(model, "v1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("a$$b", "a$b")],
)
def test_references_are_expanded_as_kubernetes_does_it(text: str, expected: str) -> None:
    assert manifests.expand(text, {"A": "1"}) == expected
