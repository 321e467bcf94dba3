"""What an installation tells its operator, read once from environment variables.

The operator's own access to Redis and the store has the names that workers use. What a component is started with has the component's name
in it, CONTINUAL_TRAINER_…, because each mounts another Secret and is another user. Secrets are only ever paths, or names of Secrets.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from continual_contract import settings as names
from continual_contract.errors import UsageError
from pydantic import ValidationError

from continual_operator.kubernetes.api import service_account_namespace
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.spec import Resources

LEASE_NAMESPACE = "CONTINUAL_OPERATOR_NAMESPACE"
"""Where the operator's Lease lives; its own namespace when unset."""
LEASE_NAME = "CONTINUAL_LEASE_NAME"
LEASE_SECONDS = "CONTINUAL_LEASE_SECONDS"
WATCH = "CONTINUAL_WATCH_NAMESPACES"
"""Namespaces with commas between; `*` is all of them; the operator's own when unset."""
LIVENESS = "CONTINUAL_LIVENESS_URL"
"""http://0.0.0.0:8080/healthz"""
INSTALLATION = "CONTINUAL_INSTALLATION"
METRICS = "CONTINUAL_METRICS_ADDRESS"
"""host:port of /metrics; none when unset."""
GPU_RESOURCE = "CONTINUAL_GPU_RESOURCE"
PULL_POLICY = "CONTINUAL_IMAGE_PULL_POLICY"
PULL_SECRETS = "CONTINUAL_IMAGE_PULL_SECRETS"
"""Names of Secrets in the models' namespaces, with commas between."""
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
WRITABLE = (("HOME", "/tmp"), ("TMPDIR", "/tmp"))  # noqa: S108 -- in a pod of its own, where nothing else can be written
COMPONENTS = {
    "inference": "continual_workers.inference",
    "evaluator": "continual_workers.evaluation",
    "trainer": "continual_workers.training",
}


@dataclass(frozen=True, slots=True)
class Installation:
    """Everything that `python -m continual_operator` must know."""

    settings: OperatorSettings
    """With token 0: the Lease gives the real one."""
    redis_username: str
    redis_password_file: Path | None
    store_credentials_file: Path | None
    lease_namespace: str
    lease_name: str
    lease_seconds: float
    holder: str
    namespaces: tuple[str, ...]
    """Empty: all."""
    liveness: str
    metrics: str = ""

    def with_token(self, token: int) -> OperatorSettings:
        return replace(self.settings, token=token)


def read_installation(env: Mapping[str, str]) -> Installation:
    """Raises `UsageError` that names the first variable that is missing or wrong."""
    namespace = env.get(LEASE_NAMESPACE) or service_account_namespace()
    lease_seconds = _number(env, LEASE_SECONDS, 15.0, low=3.0, high=300.0)
    return Installation(
        settings=_settings(env),
        redis_username=env.get(names.REDIS_USERNAME, ""),
        redis_password_file=_path(env, names.REDIS_PASSWORD_FILE),
        store_credentials_file=_path(env, names.STORE_CREDENTIALS_FILE),
        lease_namespace=namespace,
        lease_name=env.get(LEASE_NAME) or "continual-operator",
        lease_seconds=lease_seconds,
        holder=f"{env.get(names.POD_NAME) or socket.gethostname()}_{secrets.token_hex(4)}",
        namespaces=_namespaces(env.get(WATCH) or namespace),
        liveness=env.get(LIVENESS, ""),
        metrics=env.get(METRICS, ""),
    )


def _settings(env: Mapping[str, str]) -> OperatorSettings:
    components = {name: _component(env, name, module) for name, module in COMPONENTS.items()}
    return OperatorSettings(
        token=0,
        redis_url=_required(env, names.REDIS_URL),
        store_url=_required(env, names.STORE_URL),
        inference=components["inference"],
        evaluator=components["evaluator"],
        trainer=components["trainer"],
        installation=_required(env, INSTALLATION),
        extra_env=WRITABLE,
        gpu_resource=env.get(GPU_RESOURCE) or "nvidia.com/gpu",
        image_pull_policy=_pull_policy(env),
        image_pull_secrets=_names(env.get(PULL_SECRETS, "")),
        disruption_budgets=True,
    )


def _component(env: Mapping[str, str], name: str, module: str) -> ComponentSettings:
    """CONTINUAL_TRAINER_IMAGE is required; everything else has a default or is left out."""
    prefix = f"CONTINUAL_{name.upper()}_"

    def said(what: str) -> str | None:
        return env.get(prefix + what) or None

    return ComponentSettings(
        command=_command(prefix + "COMMAND", said("COMMAND"), module),
        image=_required(env, prefix + "IMAGE"),
        gpu_image=said("GPU_IMAGE"),
        redis_username=said("REDIS_USERNAME"),
        redis_secret=said("REDIS_SECRET"),
        store_secret=said("STORE_SECRET"),
        resources=_resources(prefix + "RESOURCES", said("RESOURCES")),
        data_root=said("DATA"),
    )


def _command(field: str, text: str | None, module: str) -> tuple[str, ...]:
    """A JSON list, for images whose Python is not `python`."""
    if text is None:
        return ("python", "-m", module)
    command = _json(text)
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise UsageError("is not a command", field=field, value=text, remedy='write a JSON list: ["python", "-m", …]')
    return tuple(command)


def _resources(field: str, text: str | None) -> Resources:
    """ResourceRequirements as JSON, with the rules that hold for a model's."""
    if text is None:
        return Resources()
    try:
        return Resources.model_validate(_json(text))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UsageError(
            f"{where}: {problem['msg']}" if where else str(problem["msg"]), field=field, value=text,
            remedy='write JSON: {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}',
        ) from error  # fmt: skip


def _json(text: str) -> Any:
    """What the text says; None where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _pull_policy(env: Mapping[str, str]) -> str | None:
    policy = env.get(PULL_POLICY) or None
    if policy is not None and policy not in PULL_POLICIES:
        raise UsageError("is none of them", field=PULL_POLICY, value=policy, remedy=f"use {', '.join(PULL_POLICIES)}")
    return policy


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _namespaces(text: str) -> tuple[str, ...]:
    return () if text.strip() == "*" else _names(text)


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise UsageError("is not set", field=name, remedy=f"set the environment variable {name} of the operator")
    return value


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None


def _number(env: Mapping[str, str], name: str, default: float, *, low: float, high: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UsageError("is not a number in range", field=name, value=text, remedy=f"use {low:g} to {high:g}")
    return value
