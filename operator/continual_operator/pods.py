"""The pod that every child runs in: one container, no rights, nothing to write but /tmp.

It passes the restricted profile of Pod Security whatever the model says. Secrets are files that the kubelet mounts: the operator knows
their names only. A pod whose Secret is not there does not start, and is told of as ConnectionSecretMissing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from continual_contract import settings as env

from continual_operator.cluster import Manifest
from continual_operator.quantity import parse_quantity
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.spec import Model, Resources, Scheduling

USER = 10001
"""Uid and gid of the images' user."""
HEALTH_PORT = 8081
SECRETS = (("redis", "/etc/continual/redis", "password"), ("store", "/etc/continual/store", "credentials"))
"""Volume, folder, key: what a component may have to log in with."""
STARTED_WITHIN_SECONDS = 300
"""A model of some gigabytes is loaded from a slow store; until then nobody asks whether it lives."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What the model may say about where and how large its pods are."""

    resources: Resources
    scheduling: Scheduling
    device: str = "cpu"


def pod_spec(
    model: Model,
    name: str,
    component: ComponentSettings,
    environment: Mapping[str, str],
    placement: Placement,
    settings: OperatorSettings,
) -> Manifest:
    """A whole pod: `name` is the container's."""
    spec: Manifest = {
        "containers": [
            _container(name, component, _told(model, component, environment, settings), placement, settings)
        ],
        "volumes": _volumes(component),
        "securityContext": _pod_security(),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(settings.grace.total_seconds()),
        **placement.scheduling.model_dump(by_alias=True, mode="json", exclude_none=True, exclude_defaults=True),
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    return spec


def _container(
    name: str, component: ComponentSettings, told: Mapping[str, str], placement: Placement, settings: OperatorSettings
) -> Manifest:
    image = component.gpu_image if placement.device == "cuda" and component.gpu_image else component.image
    container: Manifest = {
        "name": name,
        "image": image,
        "command": list(component.command),
        "env": [{"name": key, "value": value} for key, value in sorted(told.items())] + [_pod_name()],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *_mounts(component)],  # noqa: S108 -- in a pod of its own
        "securityContext": _container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    if resources := _resources(component, placement, settings):
        container["resources"] = resources
    return container


def _told(
    model: Model, component: ComponentSettings, environment: Mapping[str, str], settings: OperatorSettings
) -> dict[str, str]:
    """Where a child of this model finds its work. Secrets only as paths of files."""
    optional = {
        env.REDIS_PASSWORD_FILE: _secret_file(component, "redis") or settings.redis_password_file,
        env.REDIS_USERNAME: component.redis_username or settings.redis_username,
        env.STORE_CREDENTIALS_FILE: _secret_file(component, "store") or settings.store_credentials_file,
        env.DATA: component.data_root or settings.data_root,
    }
    return {
        env.NAMESPACE: model.namespace,
        env.MODEL: model.name,
        env.REDIS_URL: settings.redis_url,
        env.STORE_URL: settings.store_url,
        env.HEALTH_ADDRESS: settings.health_address,
        **{name: value for name, value in optional.items() if value is not None},
        **dict(settings.extra_env),
        **environment,
    }


def _pod_name() -> Manifest:
    return {"name": env.POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


# Secrets and other volumes --------------------------------------------------------------------------------------------------


def secrets_of(component: ComponentSettings) -> dict[str, str]:
    """Volume → name of the Secret in the model's namespace."""
    names = {"redis": component.redis_secret, "store": component.store_secret}
    return {volume: name for volume, name in names.items() if name}


def _secret_file(component: ComponentSettings, volume: str) -> str | None:
    return next(
        (f"{folder}/{key}" for name, folder, key in SECRETS if name == volume and name in secrets_of(component)), None
    )


def _volumes(component: ComponentSettings) -> list[Manifest]:
    """Files of a Secret belong to root and our group; only their one key is there."""
    named = secrets_of(component)
    return [
        {"name": "tmp", "emptyDir": {}},
        *(
            {
                "name": volume,
                "secret": {"secretName": named[volume], "defaultMode": 0o440, "items": [{"key": key, "path": key}]},
            }
            for volume, _, key in SECRETS
            if volume in named
        ),
    ]


def _mounts(component: ComponentSettings) -> list[Manifest]:
    named = secrets_of(component)
    return [{"name": name, "mountPath": folder, "readOnly": True} for name, folder, _ in SECRETS if name in named]


# Rights ---------------------------------------------------------------------------------------------------------------------


def _pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


# Size -----------------------------------------------------------------------------------------------------------------------


def _resources(component: ComponentSettings, placement: Placement, settings: OperatorSettings) -> Manifest:
    """What the model declares, else what the installation does; with `cuda`, one GPU at least."""
    said = _declared(component, placement).model_dump(by_alias=True, mode="json", exclude_defaults=True)
    if placement.device == "cuda" and settings.gpu_resource not in said.get("limits", {}):
        said["limits"] = {**said.get("limits", {}), settings.gpu_resource: 1}
    return dict(said)


def _declared(component: ComponentSettings, placement: Placement) -> Resources:
    return component.resources if placement.resources == Resources() else placement.resources


def cpus(component: ComponentSettings, placement: Placement, default: float) -> str:
    """CONTINUAL_CPUS: the limit, else the request, else the default."""
    resources = _declared(component, placement)
    said: Any = resources.limits.get("cpu", resources.requests.get("cpu"))
    return number(float(parse_quantity(said)) if said is not None else default)


def number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


# Probes ---------------------------------------------------------------------------------------------------------------------


def probes() -> Manifest:
    """Time to start, then: ready decides about being counted, half a minute of silence about being started again."""
    period = 5
    return {
        "startupProbe": {**_probe("/healthz"), "periodSeconds": period, "failureThreshold": STARTED_WITHIN_SECONDS // period},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": period},
        "livenessProbe": {
            **_probe("/healthz"), "periodSeconds": period, "initialDelaySeconds": 30, "failureThreshold": 6,
        },
    }  # fmt: skip


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": HEALTH_PORT}, "timeoutSeconds": 3}
