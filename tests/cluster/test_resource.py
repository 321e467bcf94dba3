"""The ContinualModel on a real API server: what kubectl shows, what may change, and that a status comes back as it was written."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from continual_operator.status import Status
from control_plane import CRD, CRDS, MODELS, ControlPlane

MANIFEST: dict[str, Any] = {
    "apiVersion": "continual.dev/v1alpha1",
    "kind": "ContinualModel",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {
            "architecture": "lenet5",
            "input": {"height": 28, "width": 28, "channels": 1},
            "classes": ["0", "1", "2"],
        },
        "bootstrap": {"dataset": {"name": "digits"}},
    },
}
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def model(control_plane: ControlPlane, namespace: str) -> str:
    """Path of a model that was applied by `tests`."""
    path = f"{MODELS.format(namespace=namespace)}/digits"
    answer = control_plane.apply(path, MANIFEST)
    assert answer.ok, answer.message
    return path


def with_spec(section: str, **fields: Any) -> dict[str, Any]:
    manifest = copy.deepcopy(MANIFEST)
    manifest["spec"].setdefault(section, {}).update(fields)
    return manifest


# What may change ---------------------------------------------------------------------------------------------------------------

APPEND_ONLY = (
    'ContinualModel.continual.dev "digits" is invalid: spec.model.classes: Invalid value: "object": classes are append-only, their '
    "order is the model's output order; keep the old ones as they are and add new classes at the end"
)


@pytest.mark.parametrize("classes", [["1", "0", "2"], ["0", "1"], ["0", "1", "new", "2"], ["0", "1", "3"]])
def test_apply_refuses_classes_that_are_not_appended(
    control_plane: ControlPlane, model: str, classes: list[str]
) -> None:
    """Reordered, removed, inserted, renamed: each would give an old output a new meaning."""
    answer = control_plane.apply(model, with_spec("model", classes=classes))
    assert (answer.code, answer.message) == (422, APPEND_ONLY)
    assert control_plane.get(model).body["spec"]["model"]["classes"] == ["0", "1", "2"]


def test_apply_accepts_an_appended_class(control_plane: ControlPlane, model: str) -> None:
    """Growth at the end keeps every old output in its place, and the order is the one that was written."""
    answer = control_plane.apply(model, with_spec("model", classes=["0", "1", "2", "9", "3"]))
    assert answer.ok, answer.message
    assert answer.body["spec"]["model"]["classes"] == ["0", "1", "2", "9", "3"]


def test_without_the_rule_apply_would_reorder(control_plane: ControlPlane, namespace: str) -> None:
    """The mutation: the same CRD under another group, its rule weakened to the obvious `self == oldSelf` on the set."""
    text = CRD.read_text().replace("continual.dev", "mutant.dev")
    rule = r"(self.classes.join('\n') + '\n').startsWith(oldSelf.classes.join('\n') + '\n')"
    assert text.count(rule) == 1
    control_plane.install_crd(text.replace(rule, "self.classes == oldSelf.classes"), group="mutant.dev")
    path = f"{MODELS.format(namespace=namespace).replace('continual.dev', 'mutant.dev')}/digits"
    for classes in (["0", "1", "2"], ["1", "0", "2"]):
        manifest = with_spec("model", classes=classes) | {"apiVersion": "mutant.dev/v1alpha1"}
        answer = control_plane.apply(path, manifest)
        assert answer.ok, answer.message
    assert answer.body["spec"]["model"]["classes"] == ["1", "0", "2"]
    assert control_plane.request("DELETE", f"{CRDS}/continualmodels.mutant.dev").ok


def test_kubectl_apply_refuses_reordered_classes(control_plane: ControlPlane, model: str) -> None:
    """The same through kubectl, which people use; the message reaches them."""
    namespace = model.split("/")[5]
    manifest = with_spec("model", classes=["2", "1", "0"])
    done = control_plane.kubectl(
        "apply", "--server-side", "--field-manager=tests", "-n", namespace, "-f", "-", stdin=manifest
    )
    assert done.returncode == 1
    assert "classes are append-only" in done.stderr


# fmt: off
FIXED: list[tuple[str, Any, str]] = [
    ("model.architecture", "mlp", 'spec.model.architecture: Invalid value: "object": is immutable; create another ContinualModel'),
    ("model.input.height", 32, 'spec.model.input: Invalid value: "object": height, width and channels are immutable; create another ContinualModel'),
    ("bootstrap.dataset.name", "mnist", 'spec.bootstrap: Invalid value: "object": is immutable, the first version came from it; create another ContinualModel'),
]
# fmt: on


@pytest.mark.parametrize(("path", "value", "message"), FIXED)
def test_what_the_versions_came_from_cannot_change(
    control_plane: ControlPlane, model: str, path: str, value: Any, message: str
) -> None:
    """A network of another shape cannot learn on from the old one."""
    patch: Any = value
    for part in reversed(path.split(".")):
        patch = {part: patch}
    answer = control_plane.merge(model, {"spec": patch})
    assert (answer.code, answer.message.partition(" is invalid: ")[2]) == (422, message)


def test_what_is_not_its_shape_may_change(control_plane: ControlPlane, model: str) -> None:
    """How an image of another size is fitted, margins, steps: everything else is free."""
    patch = {"model": {"input": {"fit": "Refuse"}}, "rollout": {"gate": {"margin": 0.1}, "steps": [{"weight": 5}]}}
    answer = control_plane.merge(model, {"spec": patch})
    assert answer.ok, answer.message
    assert answer.body["metadata"]["generation"] == 2


# Status ------------------------------------------------------------------------------------------------------------------------


def sample(whole: dict[str, Any], node: dict[str, Any]) -> Any:
    """A value for every field of a JSON schema, none left out."""
    choices = [choice for choice in node.get("anyOf", ()) if choice != {"type": "null"}]
    node = {**node, **choices[0]} if choices else node
    if "$ref" in node:
        node = whole["$defs"][node["$ref"].rpartition("/")[2]]
    if "enum" in node or "const" in node:
        return node["enum"][-1] if "enum" in node else node["const"]
    if "properties" in node:
        return {name: sample(whole, child) for name, child in node["properties"].items()}
    if node["type"] == "object":
        inner = node.get("additionalProperties")
        return {"key": sample(whole, inner) if isinstance(inner, dict) else {"deep": [1, "two"]}}
    if node["type"] == "array":
        return [sample(whole, node["items"])]
    return {
        "integer": 3,
        "number": 0.25,
        "boolean": True,
        "string": NOW if node.get("format") == "date-time" else "text",
    }[node["type"]]


def full_status() -> Status:
    schema = Status.model_json_schema(by_alias=True)
    return Status.model_validate(sample(schema, schema))


def test_a_status_with_every_field_comes_back_as_it_was_written(control_plane: ControlPlane, model: str) -> None:
    """The status is the pointer of record: a field the API server pruned would be forgotten at the next restart."""
    written = full_status()
    answer = control_plane.merge(f"{model}/status", {"status": written.to_dict()})
    assert answer.ok, answer.message
    stored = control_plane.get(model).body
    assert stored["status"] == written.to_dict()
    assert Status.model_validate(stored["status"]) == written
    assert stored["metadata"]["generation"] == 1


def test_the_status_cannot_be_written_with_the_spec(control_plane: ControlPlane, model: str) -> None:
    """Whoever may change the spec cannot claim a version: the subresources are apart."""
    assert control_plane.merge(model, {"status": {"lastVersion": 99}}).ok
    assert "status" not in control_plane.get(model).body
    assert control_plane.merge(f"{model}/status", {"spec": {"suspend": True}, "status": {"lastVersion": 1}}).ok
    stored = control_plane.get(model).body
    assert (stored["spec"]["suspend"], stored["status"]) == (False, {"lastVersion": 1})


def condition(kind: str, state: str = "True") -> dict[str, Any]:
    return {"type": kind, "status": state, "reason": "AsExpected", "message": "so it is", "lastTransitionTime": NOW}


def test_conditions_of_two_writers_live_side_by_side(control_plane: ControlPlane, model: str) -> None:
    """Conditions merge by their type: none is lost to another field manager."""
    head = {key: MANIFEST[key] for key in ("apiVersion", "kind", "metadata")}
    for manager, kind in (("one", "Ready"), ("two", "Audited")):
        body = {**head, "status": {"conditions": [condition(kind)]}}
        assert control_plane.apply(f"{model}/status", body, manager=manager).ok
    assert [c["type"] for c in control_plane.get(model).body["status"]["conditions"]] == ["Ready", "Audited"]


# What kubectl shows ------------------------------------------------------------------------------------------------------------


DECISIONS = ((1, "Promote", "the first version"), (2, "Shadow", "so it was decided"))


def test_the_columns_tell_what_happens(control_plane: ControlPlane, model: str) -> None:
    """`kubectl get ctm` of a model whose canary is judged while it trains."""
    block = {
        "version": "v7",
        "digest": "d",
        "accuracy": {"value": "0.971", "lower": "0.9", "upper": "1"},
        "labels": 512,
    }
    canary = {"version": "v8", "digest": "e", "weight": 10, "evidence": {"message": "180 of 300 labels"}}
    status = {
        "conditions": [condition("Degraded", "False"), condition("Ready")], "stable": block, "canary": canary, "backlog": 37,
        "training": {"state": "Running", "summary": "Running", "job": "j", "trigger": "Drift", "started": NOW},
        "decisions": [{"sequence": n, "time": NOW, "action": a, "reason": "r", "message": m} for n, a, m in DECISIONS],
    }  # fmt: skip
    assert control_plane.merge(f"{model}/status", {"status": status}).ok
    namespace = model.split("/")[5]
    head, row = control_plane.kubectl("get", "ctm", "-n", namespace).stdout.splitlines()
    assert head.split() == [
        "NAME", "READY", "REASON", "STABLE", "CANARY", "WEIGHT", "PROBATION", "ACCURACY", "LABELS", "LAG", "TRAINING", "LAST", "AGE",
    ]  # fmt: skip
    assert row.split()[:-1] == [
        "digits",
        "True",
        "AsExpected",
        "v7",
        "v8",
        "10",
        "0.971",
        "512",
        "37",
        "Running",
        "Shadow",
    ]
    wide = control_plane.kubectl("get", "ctm", "-n", namespace, "-o", "wide").stdout
    assert "180 of 300 labels" in wide
    assert "so it was decided" in wide
    assert "so it is" in wide


def test_kubectl_wait_sees_ready(control_plane: ControlPlane, model: str) -> None:
    """`kubectl wait --for=condition=Ready` works on the conditions as they are written."""
    assert control_plane.merge(f"{model}/status", {"status": {"conditions": [condition("Ready")]}}).ok
    namespace = model.split("/")[5]
    done = control_plane.kubectl("wait", "--for=condition=Ready", "ctm/digits", "-n", namespace, "--timeout=10s")
    assert (done.returncode, done.stdout.strip()) == (0, "continualmodel.continual.dev/digits condition met")


def test_kubectl_scale_writes_the_replicas(control_plane: ControlPlane, model: str) -> None:
    """Scaling by hand, and an autoscaler of one's own, need no knowledge of our spec."""
    assert control_plane.merge(
        f"{model}/status", {"status": {"replicas": 2, "selector": "continual.dev/model=digits"}}
    ).ok
    namespace = model.split("/")[5]
    done = control_plane.kubectl("scale", "ctm/digits", "-n", namespace, "--replicas=5")
    assert done.returncode == 0, done.stderr
    assert control_plane.get(model).body["spec"]["serving"]["replicas"] == 5
    scale = control_plane.get(f"{model}/scale").body
    assert (scale["spec"], scale["status"]) == (
        {"replicas": 5},
        {"replicas": 2, "selector": "continual.dev/model=digits"},
    )


def test_kubectl_explain_teaches(control_plane: ControlPlane) -> None:
    """Every field carries its sentence, its choices and its default."""
    said = control_plane.kubectl("explain", "ctm.spec.rollout").stdout
    words = " ".join(said.split())
    assert "How a candidate becomes the stable version, or does not." in words
    assert "enum: Rollback, Wait, Promote" in words
    assert "What happens at the deadline without a verdict." in words


def test_the_crd_is_served_without_a_complaint(control_plane: ControlPlane) -> None:
    """Structural, its names accepted, established."""
    status = control_plane.get(f"{CRDS}/continualmodels.continual.dev").body["status"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"NamesAccepted": "True", "Established": "True"}
