"""The resource as users write it: every rule with the message they read, and every default."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest
from continual_contract.errors import InvalidSpecError
from continual_operator.quantity import format_duration, parse_duration, parse_quantity
from continual_operator.spec import ContinualModelSpec, parse_model
from hypothesis import given
from hypothesis import strategies as st

MISSING = object()


def manifest() -> dict[str, Any]:
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": "digits", "namespace": "default", "uid": "u", "generation": 3},
        "spec": {
            "model": {
                "architecture": "lenet5",
                "input": {"height": 28, "width": 28, "channels": 1},
                "classes": ["0", "1", "2"],
            },
            "bootstrap": {"dataset": {"name": "digits"}},
        },
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """The minimal manifest with one value set (or removed) at a dotted path."""
    whole = manifest()
    *parents, last = path.split(".")
    place = whole
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is MISSING:
        del place[last]
    else:
        place[last] = copy.deepcopy(value)
    return whole


# fmt: off
REFUSED: list[tuple[str, Any, str]] = [
    ("apiVersion", "v1", "apiVersion: is unknown (got 'v1'); write continual.dev/v1alpha1"),
    ("kind", "Pod", "kind: is not ours (got 'Pod'); write ContinualModel"),
    ("metadata.name", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "metadata.name: must be a lower-case DNS label that starts with a letter, at most 40 characters (got 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'); rename the model"),
    ("metadata.name", "a.b", "metadata.name: must be a lower-case DNS label that starts with a letter, at most 40 characters (got 'a.b'); rename the model"),
    ("metadata.name", "7up", "metadata.name: must be a lower-case DNS label that starts with a letter, at most 40 characters (got '7up'); rename the model"),
    ("metadata.name", "Digits", "metadata.name: must be a lower-case DNS label that starts with a letter, at most 40 characters (got 'Digits'); rename the model"),
    ("metadata.name", MISSING, "metadata.name: must be a lower-case DNS label that starts with a letter, at most 40 characters (got None); rename the model"),
    ("spec", MISSING, "spec.bootstrap: is required; add it\nspec.model: is required; add it"),
    ("spec.model", MISSING, "spec.model: is required; add it"),
    ("spec.bootstrap", MISSING, "spec.bootstrap: is required; add it"),
    ("spec.template", {"spec": {}}, "spec.template: is not a field of the resource; remove it"),
    ("spec.suspend", "yes", "spec.suspend: must be true or false (got 'yes'); write it without quotes"),
    ("spec.model.architecture", "Le Net", "spec.model.architecture: must match ^[a-z0-9][a-z0-9.-]*$ (got 'Le Net'); correct it"),
    ("spec.model.architecture", MISSING, "spec.model.architecture: is required; add it"),
    ("spec.model.input.height", 0, "spec.model.input.height: must be at least 1 (got 0); raise it"),
    ("spec.model.input.width", 2000, "spec.model.input.width: must be at most 1024 (got 2000); lower it"),
    ("spec.model.input.channels", 5, "spec.model.input.channels: must be at most 4 (got 5); lower it"),
    ("spec.model.input.channels", "1", "spec.model.input.channels: must be a whole number (got '1'); write it without quotes or fraction"),
    ("spec.model.input.fit", "Crop", "spec.model.input.fit: must be one of 'Refuse', 'Letterbox' or 'Stretch' (got 'Crop'); choose one"),
    ("spec.model.classes", ["a"], "spec.model.classes: needs more items, at least 2; add some"),
    ("spec.model.classes", [f"c{i}" for i in range(1001)], "spec.model.classes: has too many items, at most 1000; remove some"),
    ("spec.model.classes", [0, 1], "spec.model.classes[0]: must be text (got 0); put it in quotes\nspec.model.classes[1]: must be text (got 1); put it in quotes"),
    ("spec.model.classes", ["a", "a"], "spec.model.classes: name 'a' twice; name each class once"),
    ("spec.model.classes", ["a", ""], "spec.model.classes[1]: is too short, characters needed: 1 (got ''); lengthen it"),
    ("spec.model.classes", ["a", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"], "spec.model.classes[1]: is too long, characters allowed: 64 (got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…); shorten it"),
    ("spec.model.classes", ["a", "é"], "spec.model.classes[1]: must be in Unicode normal form C (got 'é'); write it composed (NFC)"),
    ("spec.model.classes", ["a", "b\n"], "spec.model.classes[1]: must have a visible character and no control characters (got 'b\\n'); give the class a plain name"),
    ("spec.model.classes", "ab", "spec.model.classes: must be a list (got 'ab'); write it as a list"),
    ("spec.model.normalization", {"mean": [0.1], "std": [0.3, 0.3]}, "spec.model.normalization.std: needs as many values as mean, one per channel; give both the same length"),
    ("spec.model.normalization", {"mean": [0.1, 0.1, 0.1], "std": [0.3, 0.3, 0.3]}, "spec.model.normalization.mean: needs one value per input channel; omit normalization to compute it from the data"),
    ("spec.model.normalization", {"mean": [0.1], "std": [0]}, "spec.model.normalization.std[0]: must be at least 0.0001 (got 0); raise it"),
    ("spec.model.normalization", {"mean": [2.0], "std": [1.0]}, "spec.model.normalization.mean[0]: must be at most 1.0 (got 2.0); lower it"),
    ("spec.model.pretrained", {}, "spec.model.pretrained.objectKey: is required; add it"),
    ("spec.model.pretrained", {"objectKey": "a b"}, "spec.model.pretrained.objectKey: must match ^[A-Za-z0-9!_.*'()/-]+$ (got 'a b'); correct it"),
    ("spec.bootstrap", {}, "spec.bootstrap: needs exactly one of dataset and checkpoint; remove one, or add one"),
    ("spec.bootstrap", {"dataset": {"name": "digits"}, "checkpoint": {"objectKey": "a", "digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}}, "spec.bootstrap: needs exactly one of dataset and checkpoint; remove one, or add one"),
    ("spec.bootstrap.dataset", {"name": "imagenet"}, "spec.bootstrap.dataset.name: must be one of 'digits', 'mnist', 'fashion-mnist' or 'cifar10' (got 'imagenet'); choose one"),
    ("spec.bootstrap.dataset", {"objectKey": "a.npz"}, "spec.bootstrap.dataset.format: goes with objectKey; set both or neither"),
    ("spec.bootstrap.dataset", {"name": "digits", "objectKey": "a.npz", "format": "npz"}, "spec.bootstrap.dataset: needs exactly one of name and objectKey; remove one, or add one"),
    ("spec.bootstrap.dataset", {"name": "digits", "format": "npz"}, "spec.bootstrap.dataset.format: goes with objectKey (got 'npz'); set both or neither"),
    ("spec.bootstrap", {"checkpoint": {"objectKey": "a", "digest": "abc"}}, "spec.bootstrap.checkpoint.digest: must match ^sha256:[0-9a-f]{64}$ (got 'abc'); correct it"),
    ("spec.serving.replicas", -1, "spec.serving.replicas: must be at least 0 (got -1); raise it"),
    ("spec.serving.replicas", 1.5, "spec.serving.replicas: must be a whole number (got 1.5); write it without quotes or fraction"),
    ("spec.serving.replicas", True, "spec.serving.replicas: must be a whole number (got True); write it without quotes or fraction"),
    ("spec.serving.autoscaling", {}, "spec.serving.autoscaling.maxReplicas: is required; add it"),
    ("spec.serving.autoscaling", {"minReplicas": 6, "maxReplicas": 5}, "spec.serving.autoscaling.minReplicas: must not exceed maxReplicas (got 6); lower one or raise the other"),
    ("spec.serving.batchSize", 0, "spec.serving.batchSize: must be at least 1 (got 0); raise it"),
    ("spec.serving.device", "gpu", "spec.serving.device: must be one of 'cpu' or 'cuda' (got 'gpu'); choose one"),
    ("spec.serving.precision", "auto", "spec.serving.precision: must be one of 'float32' or 'int8' (got 'auto'); choose one"),
    ("spec.serving.resources", {"limits": {"cpu": "lots"}}, "spec.serving.resources.limits.cpu: is not a quantity (got 'lots'); write e.g. 500m, 2 or 2Gi"),
    ("spec.serving.resources", {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}, "spec.serving.resources.limits.cpu: is below requests.cpu 2 (got '1'); raise the limit or lower the request"),
    ("spec.serving.scheduling", {"affinity": {}}, "spec.serving.scheduling.affinity: is not a field of the resource; remove it"),
    ("spec.serving.podLabels", {"a": 1}, "spec.serving.podLabels.a: must be text (got 1); put it in quotes"),
    ("spec.feedback.window", "1d", "spec.feedback.window: is not a duration (got '1d'); write numbers with units h, m, s or ms, e.g. 24h or 1h30m"),
    ("spec.feedback.window", "2 days", "spec.feedback.window: is not a duration (got '2 days'); write numbers with units h, m, s or ms, e.g. 24h or 1h30m"),
    ("spec.feedback.window", 3600, "spec.feedback.window: is not a duration (got 3600); write numbers with units h, m, s or ms, e.g. 24h or 1h30m"),
    ("spec.feedback.window", "0s", "spec.feedback.window: must be longer than 0s (got '0s'); give labels some time to come"),
    ("spec.feedback.window", "72h", "spec.retention.requests.maxAge: is shorter than feedback.window, a late label needs its image; lengthen it"),
    ("spec.feedback.samplePercent", 101, "spec.feedback.samplePercent: must be at most 100.0 (got 101); lower it"),
    ("spec.feedback.auditPercent", -1, "spec.feedback.auditPercent: must be at least 0.0 (got -1); raise it"),
    ("spec.feedback.holdoutPercent", 0, "spec.feedback.holdoutPercent: must be at least 1.0 (got 0); raise it"),
    ("spec.feedback.gateSources", ["correction"], "spec.feedback.gateSources[0]: must be one of 'audit' or 'truth' (got 'correction'); choose one"),
    ("spec.feedback.gateSources", [], "spec.feedback.gateSources: needs more items, at least 1; add some"),
    ("spec.feedback.archive", "true", "spec.feedback.archive: must be true or false (got 'true'); write it without quotes"),
    ("spec.retraining.strategy", "sgd", "spec.retraining.strategy: must be one of 'der++', 'er', 'er-ace', 'gdumb', 'ewc', 'lwf', 'fine-tune' or 'joint' (got 'sgd'); choose one"),
    ("spec.retraining.replayCapacity", 0, "spec.retraining.replayCapacity: must be at least 1 (got 0); raise it"),
    ("spec.retraining.augmentation", {"rotateDegrees": 181}, "spec.retraining.augmentation.rotateDegrees: must be at most 180.0 (got 181); lower it"),
    ("spec.retraining.triggers", [{}], "spec.retraining.triggers[0]: is not exactly one of labels, schedule, drift, accuracyBelow; split it into several"),
    ("spec.retraining.triggers", [{"labels": 500, "schedule": "0 3 * * *"}], "spec.retraining.triggers[0]: is not exactly one of labels, schedule, drift, accuracyBelow; split it into several"),
    ("spec.retraining.triggers", [{"accuracyBelow": 0.9}], "spec.retraining.triggers[0].accuracyBelow: goes with overLabels (got 0.9); set both or neither"),
    ("spec.retraining.triggers", [{"overLabels": 500, "labels": 5}], "spec.retraining.triggers[0].accuracyBelow: goes with overLabels; set both or neither"),
    ("spec.retraining.triggers", [{"labels": 0}], "spec.retraining.triggers[0].labels: must be at least 1 (got 0); raise it"),
    ("spec.retraining.triggers", [{"schedule": "every night"}], "spec.retraining.triggers[0].schedule: is not a cron expression of five fields (Wrong number of fields) (got 'every night'); write e.g. 0 3 * * *"),
    ("spec.retraining.triggers", [{"schedule": "61 25 * * *"}], "spec.retraining.triggers[0].schedule: is not a cron expression of five fields (Bad minute) (got '61 25 * * *'); write e.g. 0 3 * * *"),
    ("spec.retraining.triggers", [{"schedule": "0 0 3 * * *"}], "spec.retraining.triggers[0].schedule: is not a cron expression of five fields (Wrong number of fields) (got '0 0 3 * * *'); write e.g. 0 3 * * *"),
    ("spec.retraining.triggers", [{"schedule": "0 3 * * *", "timeZone": "Mars/Olympus"}], "spec.retraining.triggers[0].timeZone: is not in the time zone database (got 'Mars/Olympus'); write e.g. Europe/Berlin"),
    ("spec.retraining.triggers", [{"labels": 5, "timeZone": "UTC"}], "spec.retraining.triggers[0].timeZone: goes with schedule (got 'UTC'); remove it"),
    ("spec.retraining.triggers", [{"drift": {"minSamples": 0}}], "spec.retraining.triggers[0].drift.minSamples: must be at least 1 (got 0); raise it"),
    ("spec.retraining.triggers", [{"drift": {"falseAlarmEvery": 1}}], "spec.retraining.triggers[0].drift.falseAlarmEvery: must be at least 100 (got 1); raise it"),
    ("spec.retraining.instantCorrections", True, "spec.retraining.instantCorrections: must be one of 'Off', 'Candidate' or 'Promote' (got True); choose one"),
    ("spec.retraining.cooldown", "10", "spec.retraining.cooldown: is not a duration (got '10'); write numbers with units h, m, s or ms, e.g. 24h or 1h30m"),
    ("spec.retraining.cooldown", "-5m", "spec.retraining.cooldown: is not a duration (got '-5m'); write numbers with units h, m, s or ms, e.g. 24h or 1h30m"),
    ("spec.retraining.maxPerDay", -1, "spec.retraining.maxPerDay: must be at least 0 (got -1); raise it"),
    ("spec.retraining.maxFailures", 0, "spec.retraining.maxFailures: must be at least 1 (got 0); raise it"),
    ("spec.rollout.steps", [{"weight": 0}, {"weight": 50}, {"weight": 10}], "spec.rollout.steps: weights must increase from step to step; sort them and drop repetitions"),
    ("spec.rollout.steps", [{"weight": 10}, {"weight": 10}], "spec.rollout.steps: weights must increase from step to step; sort them and drop repetitions"),
    ("spec.rollout.steps", [], "spec.rollout.steps: needs more items, at least 1; add some"),
    ("spec.rollout.steps", [{"weight": 101}], "spec.rollout.steps[0].weight: must be at most 100 (got 101); lower it"),
    ("spec.rollout.steps", [{"hold": "1m"}], "spec.rollout.steps[0].weight: is required; add it"),
    ("spec.rollout.shadowPercentage", 5, "spec.rollout.shadowPercentage: is not a field of the resource (got 5); did you mean shadowPercent?"),
    ("spec.rollout.shadowPercent", 200, "spec.rollout.shadowPercent: must be at most 100.0 (got 200); lower it"),
    ("spec.rollout.offlineGate", {"mode": "Off"}, "spec.rollout.offlineGate.mode: must be one of 'Enforce' or 'Observe' (got 'Off'); choose one"),
    ("spec.rollout.gate.margin", 1, "spec.rollout.gate.margin: must be at most 0.5 (got 1); lower it"),
    ("spec.rollout.gate.margin", "0.01", "spec.rollout.gate.margin: must be a number (got '0.01'); write it without quotes"),
    ("spec.rollout.gate.margin", float("nan"), "spec.rollout.gate.margin: must be a finite number (got nan); change the value"),
    ("spec.rollout.gate.alpha", 0, "spec.rollout.gate.alpha: must be at least 1e-06 (got 0); raise it"),
    ("spec.rollout.gate.minLabels", 0, "spec.rollout.gate.minLabels: must be at least 1 (got 0); raise it"),
    ("spec.rollout.gate.maxLag", "30", "spec.rollout.gate.maxLag: is not a duration (got '30'); write numbers with units h, m, s or ms, e.g. 24h or 1h30m"),
    ("spec.rollout.gate.maxLatencyRatio", 0.5, "spec.rollout.gate.maxLatencyRatio: must be at least 1.0 (got 0.5); raise it"),
    ("spec.rollout.gate.requireApproval", "no", "spec.rollout.gate.requireApproval: must be true or false (got 'no'); write it without quotes"),
    ("spec.rollout.gate.alhpa", 0.05, "spec.rollout.gate.alhpa: is not a field of the resource (got 0.05); did you mean alpha?"),
    ("spec.rollout.mode", "DryRun", "spec.rollout.mode: must be one of 'Act' or 'Observe' (got 'DryRun'); choose one"),
    ("spec.rollout.deadline", "1h", "spec.rollout.deadline: ends before feedback.window, labels that arrive later could never be counted (got '1h'); lengthen it, or set rollout.onInconclusive: Wait"),
    ("spec.rollout.deadline", "0s", "spec.rollout.deadline: must be longer than 0s (got '0s'); set onInconclusive: Wait to have none"),
    ("spec.rollout.onInconclusive", "rollback", "spec.rollout.onInconclusive: must be one of 'Rollback', 'Wait' or 'Promote' (got 'rollback'); choose one"),
    ("spec.rollout.probation", "30m", "spec.rollout.probation: must be a mapping (got '30m'); write key: value pairs"),
    ("spec.rollout.probation", {"alpha": 0.9}, "spec.rollout.probation.alpha: must be at most 0.5 (got 0.9); lower it"),
    ("spec.rollout.supersede", "Newest", "spec.rollout.supersede: must be one of 'Queue' or 'Replace' (got 'Newest'); choose one"),
    ("spec.rollout.pinnedVersion", "3", "spec.rollout.pinnedVersion: must match ^v[1-9][0-9]{0,8}$ (got '3'); correct it"),
    ("spec.rollout.pinnedVersion", "v0", "spec.rollout.pinnedVersion: must match ^v[1-9][0-9]{0,8}$ (got 'v0'); correct it"),
    ("spec.retention.versions", 1, "spec.retention.versions: must be at least 2 (got 1); raise it"),
    ("spec.retention.requests.maxAge", "1h", "spec.retention.requests.maxAge: is shorter than feedback.window, a late label needs its image (got '1h'); lengthen it"),
    ("spec.retention.requests.maxBytes", "2GiB", "spec.retention.requests.maxBytes: is not a quantity (got '2GiB'); write e.g. 500m, 2 or 2Gi"),
    ("spec.retention.requests.maxBytes", 0, "spec.retention.requests.maxBytes: must be at least 1 (got 0); raise it"),
]
ACCEPTED: list[tuple[str, Any]] = [
    ("metadata.name", "a" * 40),
    ("spec.model.classes", [f"{i:064d}" for i in range(1000)]),
    ("spec.model.classes", ["été", "日本", "a b"]),
    ("spec.model.normalization", {"mean": [0.13], "std": [0.31]}),
    ("spec.model.normalization", {"mean": [0], "std": [1]}),
    ("spec.model.pretrained", {"objectKey": "weights/resnet50.safetensors"}),
    ("spec.bootstrap", {"checkpoint": {"objectKey": "a/b.json", "digest": "sha256:" + "0" * 64}}),
    ("spec.bootstrap", {"dataset": {"objectKey": "data.npz", "format": "npz"}}),
    ("spec.serving.replicas", 0),
    ("spec.serving.autoscaling", {"maxReplicas": 8}),
    ("spec.serving.resources", {"limits": {"cpu": 2, "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "512Mi"}}),
    ("spec.feedback.window", "1.5h"),
    ("spec.feedback.window", "1h30m"),
    ("spec.feedback.gateSources", ["truth"]),
    ("spec.retraining.triggers", []),
    ("spec.retraining.triggers", [{"schedule": "0 3 * * MON-FRI", "timeZone": "Europe/Berlin"}]),
    ("spec.retraining.triggers", [{"accuracyBelow": 0.9, "overLabels": 500}, {"drift": {}}]),
    ("spec.retraining.cooldown", "0s"),
    ("spec.retraining.instantCorrections", "Off"),
    ("spec.rollout.steps", [{"weight": 100}]),
    ("spec.rollout.gate.margin", 0),
    ("spec.rollout.gate.margin", 1e-2),
    ("spec.rollout.gate.margin", 0.30000000000000004),
    ("spec.rollout.pinnedVersion", "v3"),
    ("spec.retention.requests.maxBytes", "2Gi"),
    ("spec.retention.requests.maxBytes", 1000000),
]
# fmt: on


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=[f"{p}-{i}" for i, (p, _, _) in enumerate(REFUSED)])
def test_a_wrong_field_is_named_with_its_value_and_a_remedy(path: str, value: Any, message: str) -> None:
    """One line per wrong field: where, what is wrong, what was written, what to do."""
    with pytest.raises(InvalidSpecError) as caught:
        parse_model(changed(path, value))
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=[f"{p}-{i}" for i, (p, _) in enumerate(ACCEPTED)])
def test_what_is_allowed_is_accepted(path: str, value: Any) -> None:
    """The edges of every range, and spellings people use."""
    parse_model(changed(path, value))


def test_all_wrong_fields_are_listed_at_once() -> None:
    """Nobody corrects a manifest one message at a time."""
    whole = manifest()
    whole["kind"] = "Pod"
    whole["spec"]["serving"] = {"replicas": -1, "batchSize": 0}
    with pytest.raises(InvalidSpecError) as caught:
        parse_model(whole)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "kind", "spec.serving.batchSize", "spec.serving.replicas",
    ]  # fmt: skip


def test_defaults_are_those_of_the_design() -> None:
    """Names and defaults that users see; a change here is a change of the interface."""
    spec = parse_model(manifest()).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    resources = {"limits": {}, "requests": {}}
    scheduling = {"nodeSelector": {}, "tolerations": [], "topologySpreadConstraints": []}
    assert spec["serving"] == {
        "replicas": 2, "batchSize": 64, "device": "cpu", "precision": "float32", "resources": resources,
        "scheduling": scheduling, "podLabels": {}, "podAnnotations": {},
    }  # fmt: skip
    assert spec["feedback"] == {
        "window": "24h", "samplePercent": 100.0, "auditPercent": 5.0, "archive": False, "holdoutPercent": 10.0,
        "gateSources": ["audit", "truth"],
    }  # fmt: skip
    assert spec["retraining"] == {
        "strategy": "der++", "replayCapacity": 2000,
        "augmentation": {"shiftPixels": 0.0, "rotateDegrees": 0.0, "scalePercent": 0.0},
        "triggers": [{"labels": 500}, {"drift": {"falseAlarmEvery": 10000, "minSamples": 200}}], "instantCorrections": "Candidate",
        "cooldown": "10m", "maxPerDay": 24, "maxFailures": 3, "timeout": "1h", "device": "cpu", "resources": resources,
        "scheduling": scheduling,
    }  # fmt: skip
    assert spec["rollout"] == {
        "steps": [{"weight": 0, "hold": "0s"}, {"weight": 10, "hold": "1m"}, {"weight": 50, "hold": "1m"}],
        "shadowPercent": 100.0,
        "offlineGate": {"mode": "Enforce", "maxDrop": 0.02, "maxClassDrop": 0.05, "maxNegativeFlips": 0.05},
        "gate": {
            "margin": 0.02, "alpha": 0.05, "rollbackAlpha": 0.05, "classAlpha": 0.05, "maxLag": "30s", "maxErrorRate": 0.01,
            "minLabels": 100, "minDuration": "24h", "cycle": "0s", "worstClassMargin": 0.05, "minCoverage": 95.0,
            "maxLatencyRatio": 1.5, "requireApproval": False,
        },
        "mode": "Act", "deadline": "168h", "onInconclusive": "Rollback",
        "probation": {"alpha": 0.01, "minDuration": "24h", "minLabels": 300, "deadline": "168h"}, "supersede": "Queue",
    }  # fmt: skip
    assert spec["retention"] == {"versions": 10, "requests": {"maxAge": "48h", "maxBytes": 2 << 30}}
    assert spec["suspend"] is False
    assert spec["model"]["input"]["fit"] == "Letterbox"


def test_a_spec_written_out_reads_back_the_same() -> None:
    """The dump is a manifest again: what the ledger keeps of a spec can be judged again."""
    spec = parse_model(manifest()).spec
    dumped = spec.model_dump_json(by_alias=True, exclude_none=True)
    assert ContinualModelSpec.model_validate_json(dumped) == spec
    assert ContinualModelSpec.model_validate(json.loads(dumped)) == spec


@pytest.mark.parametrize(
    ("classes", "index", "got", "back"),
    [(["a", "b"], 2, None, "c"), (["b", "a", "c"], 0, "b", "a"), (["a", "b", "new", "c"], 2, "new", "c")],
)
def test_classes_are_append_only(classes: list[str], index: int, got: str | None, back: str) -> None:
    """Their order is the output order of every checkpoint: status remembers what was accepted."""
    whole = changed("spec.model.classes", classes) | {"status": {"classes": ["a", "b", "c"]}}
    with pytest.raises(InvalidSpecError) as caught:
        parse_model(whole)
    said = f"classes are append-only, their order is the model's output order (got {got!r})"
    assert str(caught.value) == f"spec.model.classes[{index}]: {said}; put {back!r} back and add new classes at the end"


def test_a_new_class_may_be_appended() -> None:
    """Growth at the end keeps every old output in its place."""
    model = parse_model(changed("spec.model.classes", ["a", "b", "c", "d"]) | {"status": {"classes": ["a", "b", "c"]}})
    assert model.spec.model.classes == ("a", "b", "c", "d")


@given(st.integers(min_value=0, max_value=10**10))
def test_durations_survive_printing(milliseconds: int) -> None:
    """Any duration to the millisecond."""
    value = timedelta(milliseconds=milliseconds)
    text = format_duration(value)
    if len(text) <= 16:
        assert parse_duration(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("2Gi", "2147483648"),
        ("1.5k", "1500"),
        (3, "3"),
        ("1e3", "1000"),
        ("2E", "2e18"),
        (".5", "0.5"),
    ],
)
def test_quantities_read_as_kubernetes_reads_them(text: object, value: str) -> None:
    """Suffixes of both families, exponents, bare numbers."""
    assert parse_quantity(text) == parse_quantity(value)
