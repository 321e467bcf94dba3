"""The children of one model, each built whole from values: a Deployment per live version and a budget for who evicts its pods, one
evaluator, a Job per training.

A manifest carries the full command and every environment variable, so that whoever runs it needs no image's defaults. Its hash
is stamped on it: a child whose hash is the desired one is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from continual_contract import settings as env
from continual_contract.artifacts import TrainingInputs
from continual_contract.ids import canonical_json, sha256_digest

from continual_operator import labels
from continual_operator.cluster import Manifest
from continual_operator.pods import Placement, cpus, number, pod_spec, probes
from continual_operator.settings import OperatorSettings
from continual_operator.spec import Model, Resources, Scheduling

RESERVED = ("app.kubernetes.io/", "continual.dev/")
TRIES = 3
"""Pods of one training that may fail by themselves, over all Jobs it ever had; evictions do not count."""


def deployment_name(model: str, version: str) -> str:
    return f"{model}-{version}"


def evaluator_name(model: str) -> str:
    return f"{model}-evaluator"


def inference_deployment(
    model: Model, version: str, digest: str, replicas: int, salt: str, settings: OperatorSettings
) -> Manifest:
    """Pods that serve one version: they load the checkpoint whose manifest has this digest, and nothing else, ever."""
    serving, feedback, component = model.spec.serving, model.spec.feedback, settings.inference
    placement = Placement(serving.resources, serving.scheduling, serving.device)
    environment = {
        env.VERSION: version,
        env.CHECKPOINT: digest,
        env.ROLE_SALT: salt,
        env.SAMPLE_PERCENT: number(feedback.sample_percent),
        env.ANSWERS_TTL: number(feedback.window.total_seconds() + 3600),
        env.BATCH_SIZE: str(serving.batch_size),
        env.MAX_LAG: number(model.spec.rollout.gate.max_lag.total_seconds()),
        env.DEVICE: serving.device,
        env.CPUS: cpus(component, placement, settings.cpus),
    }
    marks = {**_free(serving.pod_labels), **_labels(model, labels.INFERENCE, {labels.VERSION: version})}
    pod = pod_spec(model, "inference", component, environment, placement, settings)
    pod["containers"][0] |= probes()
    spec = {
        "replicas": replicas,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 1,
        **_template(marks, pod, serving.pod_annotations),
    }
    return _child(model, "apps/v1", "Deployment", deployment_name(model.name, version), marks, spec)


def disruption_budget(model: Model, version: str) -> Manifest:
    """One pod of a version at a time may be evicted.

    Said as `maxUnavailable`, not as `minAvailable`: that one would hold a node's drain up for ever where there is a single pod. A
    lone pod may go at any time, its requests wait in the stream; so may one that is not healthy.
    """
    marks = _labels(model, labels.INFERENCE, {labels.VERSION: version})
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": _ours(marks)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return _child(model, "policy/v1", "PodDisruptionBudget", deployment_name(model.name, version), marks, spec)


def evaluator_deployment(model: Model, settings: OperatorSettings) -> Manifest:
    """The one process that joins labels with answers; the old one ends before the new one begins."""
    placement = Placement(Resources(), Scheduling())
    environment = {env.CPUS: cpus(settings.evaluator, placement, settings.cpus)}
    pod = pod_spec(model, "evaluator", settings.evaluator, environment, placement, settings)
    pod["containers"][0] |= probes()
    marks = _labels(model, labels.EVALUATOR, {})
    spec = {"replicas": 1, "strategy": {"type": "Recreate"}, "revisionHistoryLimit": 1, **_template(marks, pod, {})}
    return _child(model, "apps/v1", "Deployment", evaluator_name(model.name), marks, spec)


def training_job(model: Model, inputs: TrainingInputs, settings: OperatorSettings, spent: int = 0) -> Manifest:
    """One training; its name is a hash of its inputs, so that the same training can only exist once.

    `spent` of its tries were used up by Jobs that are gone. Evicted pods are replaced and not counted. It has no TTL: a Job
    that vanishes before its end was recorded would look like one that never ran.
    """
    retraining, component = model.spec.retraining, settings.trainer
    placement = Placement(retraining.resources, retraining.scheduling, retraining.device)
    environment = {env.DEVICE: retraining.device, env.CPUS: cpus(component, placement, settings.training_cpus)}
    pod = pod_spec(model, "trainer", component, environment, placement, settings)
    pod["containers"][0]["command"] += ["--inputs", canonical_json(inputs.model_dump(mode="json")).decode()]
    pod["restartPolicy"] = "Never"
    marks = _labels(model, labels.TRAINER, {labels.JOB: inputs.job_hash()})
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    spec = {
        "backoffLimit": max(0, TRIES - 1 - spent),
        "activeDeadlineSeconds": math.ceil(retraining.timeout.total_seconds()),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [disrupted]},
        "template": {"metadata": {"labels": marks}, "spec": pod},
    }
    return _child(model, "batch/v1", "Job", inputs.job_name(), marks, spec)


# What they share ------------------------------------------------------------------------------------------------------------


def _template(marks: Mapping[str, str], pod: Manifest, annotations: Mapping[str, str]) -> Manifest:
    template: Manifest = {"metadata": {"labels": dict(marks)}, "spec": pod}
    if annotations:
        template["metadata"]["annotations"] = dict(annotations)
    return {"selector": {"matchLabels": _ours(marks)}, "template": template}


def _ours(marks: Mapping[str, str]) -> dict[str, str]:
    """Labels that select; those of the user never do."""
    return {key: value for key, value in marks.items() if key in {labels.MODEL, labels.COMPONENT, labels.VERSION}}


def _free(marks: Mapping[str, str]) -> dict[str, str]:
    """Labels a model may give its pods: none by which Services and NetworkPolicies of an installation find other pods."""
    return {key: value for key, value in marks.items() if not key.startswith(RESERVED)}


def _labels(model: Model, component: str, more: Mapping[str, str]) -> dict[str, str]:
    return {labels.MANAGED_BY: labels.MANAGER, labels.MODEL: model.name, labels.COMPONENT: component, **more}


def _child(model: Model, api: str, kind: str, name: str, marks: Mapping[str, str], spec: Manifest) -> Manifest:
    """Owned by the model, and stamped with its own hash."""
    owner = {
        "apiVersion": labels.API_VERSION, "kind": labels.KIND, "name": model.name, "uid": model.uid, "controller": True,
    }  # fmt: skip
    metadata = {"namespace": model.namespace, "name": name, "labels": dict(marks), "ownerReferences": [owner]}
    manifest: Manifest = {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}
    manifest["metadata"]["annotations"] = {labels.MANIFEST_HASH: sha256_digest(canonical_json(manifest))[7:23]}
    return manifest
