"""Where a process is, as its environment tells it: read once, typed, at the start.

The names are `continual_contract.settings`; this module turns them into one frozen value, so that nothing deeper reads
`os.environ`. A wrong value is a `UsageError` that names the variable. Passwords are not here, only the files that hold them.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from continual_contract import settings
from continual_contract.errors import UsageError
from continual_contract.keys import ModelKeys


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """What every worker process is told. Empty strings where a component needs no such value."""

    namespace: str
    model: str
    redis_url: str
    redis_username: str
    redis_password_file: Path | None
    store_url: str
    store_credentials_file: Path | None
    version: str
    checkpoint: str
    salt: str
    sample_percent: float
    answers_ttl_seconds: int
    batch_size: int
    max_lag_seconds: float
    min_idle_seconds: float
    device: Literal["cpu", "cuda"]
    cpus: float
    health_address: str
    pod: str
    data: Path | None

    @property
    def keys(self) -> ModelKeys:
        return ModelKeys(self.namespace, self.model)

    @property
    def processes(self) -> int:
        """Inference processes of this pod: one per whole core, never none."""
        return max(1, math.floor(self.cpus))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> WorkerEnvironment:
        """Read `env`; `UsageError` names the first variable that is missing or wrong."""
        return cls(
            namespace=_required(env, settings.NAMESPACE),
            model=_required(env, settings.MODEL),
            redis_url=_required(env, settings.REDIS_URL),
            redis_username=env.get(settings.REDIS_USERNAME, ""),
            redis_password_file=_path(env, settings.REDIS_PASSWORD_FILE),
            store_url=_required(env, settings.STORE_URL),
            store_credentials_file=_path(env, settings.STORE_CREDENTIALS_FILE),
            version=env.get(settings.VERSION, ""),
            checkpoint=env.get(settings.CHECKPOINT, ""),
            salt=env.get(settings.ROLE_SALT, ""),
            sample_percent=_number(env, settings.SAMPLE_PERCENT, 100.0, 0.0, 100.0),
            answers_ttl_seconds=int(_number(env, settings.ANSWERS_TTL, 90_000, 1, 2**31)),
            batch_size=int(_number(env, settings.BATCH_SIZE, 64, 1, 1024)),
            max_lag_seconds=_number(env, settings.MAX_LAG, 30.0, 0.0, 86_400.0),
            min_idle_seconds=_number(env, settings.MIN_IDLE, 30.0, 0.1, 3600.0),
            device=_device(env),
            cpus=_number(env, settings.CPUS, 1.0, 0.0, 1024.0),
            health_address=env.get(settings.HEALTH_ADDRESS, ""),
            pod=env.get(settings.POD_NAME) or socket.gethostname(),
            data=_path(env, settings.DATA),
        )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise UsageError("is not set", field=name, remedy=f"set the environment variable {name} for this process")
    return value


def _path(env: Mapping[str, str], name: str) -> Path | None:
    value = env.get(name, "")
    return Path(value) if value else None


def _number(env: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UsageError("is not a number in range", field=name, value=text, remedy=f"use {low:g} to {high:g}")
    return value


def _device(env: Mapping[str, str]) -> Literal["cpu", "cuda"]:
    value = env.get(settings.DEVICE) or "cpu"
    if value == "cpu":
        return "cpu"
    if value == "cuda":
        return "cuda"
    raise UsageError("is not a device", field=settings.DEVICE, value=value, remedy="use cpu or cuda")
