"""The children of one model, each built whole from values: a Deployment per live version, one evaluator, a Job per training.

A manifest carries the full command and every environment variable, so that whoever runs it needs no image's defaults. Its hash
is stamped on it: a child whose hash is the desired one is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from continual_contract import settings as env
from continual_contract.artifacts import TrainingInputs
from continual_contract.ids import canonical_json, sha256_digest

from continual_operator import labels
from continual_operator.cluster import Manifest
from continual_operator.quantity import parse_quantity
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.spec import Model, Resources, Scheduling


def deployment_name(model: str, version: str) -> str:
    return f"{model}-{version}"


def evaluator_name(model: str) -> str:
    return f"{model}-evaluator"


def inference_deployment(
    model: Model, version: str, digest: str, replicas: int, salt: str, settings: OperatorSettings
) -> Manifest:
    """Pods that serve one version: they load the checkpoint whose manifest has this digest, and nothing else, ever."""
    serving, feedback = model.spec.serving, model.spec.feedback
    environment = {
        **_common_env(model, settings),
        env.VERSION: version,
        env.CHECKPOINT: digest,
        env.ROLE_SALT: salt,
        env.SAMPLE_PERCENT: _number(feedback.sample_percent),
        env.ANSWERS_TTL: _number(feedback.window.total_seconds() + 3600),
        env.BATCH_SIZE: str(serving.batch_size),
        env.MAX_LAG: _number(model.spec.rollout.gate.max_lag.total_seconds()),
        env.DEVICE: serving.device,
        env.CPUS: _cpus(serving.resources, settings.cpus),
    }
    marks = {**serving.pod_labels, **_labels(model, labels.INFERENCE, {labels.VERSION: version})}
    pod = _pod(settings.inference, "inference", environment, serving.resources, serving.scheduling, settings)
    pod["containers"][0]["readinessProbe"] = _probe("/readyz")
    pod["containers"][0]["livenessProbe"] = {**_probe("/healthz"), "initialDelaySeconds": 30, "failureThreshold": 6}
    return _deployment(model, deployment_name(model.name, version), replicas, marks, pod, serving.pod_annotations)


def evaluator_deployment(model: Model, settings: OperatorSettings) -> Manifest:
    """The one process that joins labels with answers."""
    pod = _pod(settings.evaluator, "evaluator", _common_env(model, settings), Resources(), Scheduling(), settings)
    pod["containers"][0]["readinessProbe"] = _probe("/readyz")
    return _deployment(model, evaluator_name(model.name), 1, _labels(model, labels.EVALUATOR, {}), pod, {})


def training_job(model: Model, inputs: TrainingInputs, settings: OperatorSettings) -> Manifest:
    """One training; its name is a hash of its inputs, so that the same training can only exist once."""
    retraining = model.spec.retraining
    environment = {
        **_common_env(model, settings),
        env.DEVICE: retraining.device,
        env.CPUS: _cpus(retraining.resources, settings.training_cpus),
    }
    pod = _pod(settings.trainer, "trainer", environment, retraining.resources, retraining.scheduling, settings)
    pod["containers"][0]["command"] += ["--inputs", canonical_json(inputs.model_dump(mode="json")).decode()]
    pod["restartPolicy"] = "Never"
    marks = _labels(model, labels.TRAINER, {labels.JOB: inputs.job_hash()})
    spec = {
        "backoffLimit": 2,
        "activeDeadlineSeconds": math.ceil(retraining.timeout.total_seconds()),
        "template": {"metadata": {"labels": marks}, "spec": pod},
    }
    return _stamped(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(model, inputs.job_name(), marks), "spec": spec}
    )


def _common_env(model: Model, settings: OperatorSettings) -> dict[str, str]:
    """Where a child of this model finds its work. Secrets only as paths of files."""
    optional = {
        env.REDIS_PASSWORD_FILE: settings.redis_password_file,
        env.REDIS_USERNAME: settings.redis_username,
        env.STORE_CREDENTIALS_FILE: settings.store_credentials_file,
        env.DATA: settings.data_root,
    }
    return {
        env.NAMESPACE: model.namespace,
        env.MODEL: model.name,
        env.REDIS_URL: settings.redis_url,
        env.STORE_URL: settings.store_url,
        env.HEALTH_ADDRESS: settings.health_address,
        **{name: value for name, value in optional.items() if value is not None},
        **dict(settings.extra_env),
    }


def _pod(
    component: ComponentSettings,
    name: str,
    environment: Mapping[str, str],
    resources: Resources,
    scheduling: Scheduling,
    settings: OperatorSettings,
) -> Manifest:
    container: Manifest = {
        "name": name,
        "image": component.image,
        "command": list(component.command),
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())] + [_pod_name_env()],
    }
    declared = resources.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    if declared:
        container["resources"] = declared
    return {
        "containers": [container],
        "terminationGracePeriodSeconds": math.ceil(settings.grace.total_seconds()),
        **scheduling.model_dump(by_alias=True, mode="json", exclude_none=True, exclude_defaults=True),
    }


def _pod_name_env() -> Manifest:
    return {"name": env.POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def _deployment(
    model: Model, name: str, replicas: int, marks: dict[str, str], pod: Manifest, annotations: Mapping[str, str]
) -> Manifest:
    ours = {key: value for key, value in marks.items() if key in {labels.MODEL, labels.COMPONENT, labels.VERSION}}
    template: Manifest = {"metadata": {"labels": marks}, "spec": pod}
    if annotations:
        template["metadata"]["annotations"] = dict(annotations)
    spec = {"replicas": replicas, "selector": {"matchLabels": ours}, "template": template}
    return _stamped(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _metadata(model, name, marks), "spec": spec}
    )


def _metadata(model: Model, name: str, marks: Mapping[str, str]) -> Manifest:
    owner = {
        "apiVersion": labels.API_VERSION, "kind": labels.KIND, "name": model.name, "uid": model.uid, "controller": True,
    }  # fmt: skip
    return {"namespace": model.namespace, "name": name, "labels": dict(marks), "ownerReferences": [owner]}


def _labels(model: Model, component: str, more: Mapping[str, str]) -> dict[str, str]:
    return {labels.MANAGED_BY: labels.MANAGER, labels.MODEL: model.name, labels.COMPONENT: component, **more}


def _stamped(manifest: Manifest) -> Manifest:
    manifest["metadata"]["annotations"] = {labels.MANIFEST_HASH: sha256_digest(canonical_json(manifest))[7:23]}
    return manifest


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": 8081}, "periodSeconds": 5}


def _cpus(resources: Resources, default: float) -> str:
    declared: Any = resources.limits.get("cpu", resources.requests.get("cpu"))
    return _number(float(parse_quantity(declared)) if declared is not None else default)


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
