"""What an installation tells its operator, read once from environment variables.

The operator's own access to Redis and the store has the names that workers use; what it hands on to its children has CONTINUAL_CHILD_ before
them, because a child mounts another secret and is another user. Secrets are only ever paths.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from continual_contract import settings as names
from continual_contract.errors import UsageError

from continual_operator.kubernetes.api import service_account_namespace
from continual_operator.settings import ComponentSettings, OperatorSettings

LEASE_NAMESPACE = "CONTINUAL_OPERATOR_NAMESPACE"
"""Where the operator's Lease lives; its own namespace when unset."""
LEASE_NAME = "CONTINUAL_LEASE_NAME"
LEASE_SECONDS = "CONTINUAL_LEASE_SECONDS"
WATCH = "CONTINUAL_WATCH_NAMESPACES"
"""Namespaces with commas between; `*` is all of them; the operator's own when unset."""
LIVENESS = "CONTINUAL_LIVENESS_URL"
"""http://0.0.0.0:8080/healthz"""
INSTALLATION = "CONTINUAL_INSTALLATION"
CHILD = "CONTINUAL_CHILD_"
"""Before REDIS_USERNAME, REDIS_PASSWORD_FILE, STORE_CREDENTIALS_FILE and DATA: what children are told."""
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
        redis_username=env.get(CHILD + "REDIS_USERNAME") or None,
        redis_password_file=env.get(CHILD + "REDIS_PASSWORD_FILE") or None,
        store_credentials_file=env.get(CHILD + "STORE_CREDENTIALS_FILE") or None,
        data_root=env.get(CHILD + "DATA") or None,
        installation=_required(env, INSTALLATION),
    )


def _component(env: Mapping[str, str], name: str, module: str) -> ComponentSettings:
    """CONTINUAL_TRAINER_IMAGE is required, CONTINUAL_TRAINER_COMMAND a JSON list where the image's Python is not `python`."""
    prefix = f"CONTINUAL_{name.upper()}_"
    image, text = _required(env, prefix + "IMAGE"), env.get(prefix + "COMMAND", "")
    if not text:
        return ComponentSettings(("python", "-m", module), image)
    try:
        command = json.loads(text)
    except ValueError:
        command = None
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise UsageError(
            "is not a command", field=prefix + "COMMAND", value=text, remedy='write a JSON list: ["python", "-m", …]'
        )
    return ComponentSettings(tuple(command), image)


def _namespaces(text: str) -> tuple[str, ...]:
    return () if text.strip() == "*" else tuple(filter(None, (part.strip() for part in text.split(","))))


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
