"""What `continual local status` knows: the files say it, so it works while `local up` is dead."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from continual_operator import labels

from continual_cli.document import condition, dig
from continual_cli.local.files import is_locked, read_json
from continual_cli.local.gateway import GatewayFiles, is_running
from continual_cli.local.paths import Home
from continual_cli.local.processes import Running, Slot
from continual_cli.local.state import Endpoints, LocalState


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process."""

    component: str
    name: str
    pid: int | None
    state: str
    ready: bool
    restarts: int
    since_seconds: float | None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model."""

    name: str
    ready: str
    reason: str
    stable: str
    canary: str
    training: str


@dataclass(frozen=True, slots=True)
class LocalStatus:
    home: str
    up: bool
    endpoints: Endpoints | None
    processes: tuple[ProcessRow, ...]
    models: tuple[ModelRow, ...]
    dashboard: str | None = None
    """Address of the gateway, while it runs."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"redis_cli": redis_cli(self.endpoints) if self.endpoints else None}


def read_status(home: Home) -> LocalStatus:
    """Look at a home; nothing is changed."""
    state = LocalState(home)
    endpoints = state.endpoints() if home.endpoints.exists() else None
    up = is_locked(home.up_lock)
    rows = [_up_row(home, up=up)]
    if endpoints is not None and endpoints.managed_redis:
        rows.append(_standing_row(home, "redis", "redis-server"))
    dashboard = GatewayFiles(home).url if is_running(home) else None
    if (home.gateway / "port").exists():
        rows.append(_standing_row(home, "gateway", "gateway"))
    rows += [_pod_row(home, path) for path in sorted(home.objects("Pod").glob("[!.]*.json"))]
    models = tuple(_model_row(state.read_model(name)) for name in state.model_names())
    return LocalStatus(str(home.root), up, endpoints, tuple(rows), models, dashboard)


def redis_cli(endpoints: Endpoints) -> str:
    """A line to paste; the password is read from its file and never shown."""
    parts = urlsplit(endpoints.redis_url)
    secret = f"REDISCLI_AUTH=\"$(cat '{endpoints.redis_password_file}')\" " if endpoints.redis_password_file else ""
    user = f" --user {endpoints.redis_username}" if endpoints.redis_username else ""
    tls = " --tls" if parts.scheme == "rediss" else ""
    database = parts.path.strip("/") or "0"
    return f"{secret}redis-cli -h {parts.hostname} -p {parts.port or 6379} -n {database}{user}{tls}"


def _up_row(home: Home, *, up: bool) -> ProcessRow:
    state = read_json(home.up_state) or {}
    phase = str(state.get("phase", "stopped")) if up else "stopped"
    return ProcessRow("operator", "local up", state.get("pid") if up else None, phase, phase == "ready", 0, None)


def _standing_row(home: Home, component: str, name: str) -> ProcessRow:
    """Of a process that belongs to no pod."""
    slot = Slot(home.run / component)
    attempt = slot.latest()
    seen = slot.observe(attempt)
    if isinstance(seen, Running):
        return ProcessRow(component, name, seen.pid, "Running", True, max(0, attempt), time.time() - seen.since)
    return ProcessRow(component, name, None, type(seen).__name__, False, max(0, attempt), None)


def _pod_row(home: Home, path: Path) -> ProcessRow:
    document = read_json(path) or {}
    record, name = document.get("local", {}), path.stem
    component = dig(document, "metadata.labels", {}).get(labels.COMPONENT, "other")
    seen = Slot(home.pod_folder(name)).observe(int(record.get("attempt", 0)))
    alive = isinstance(seen, Running)
    container = (dig(document, "status.containerStatuses", [{}]) or [{}])[0]
    detail: dict[str, Any] = next(iter(container.get("state", {}).values()), {})
    state = "Running" if alive else detail.get("reason") or dig(document, "status.phase", "Unknown")
    if alive and record.get("kill_at"):
        state = "Terminating"
    ready = alive and bool(record.get("ready"))
    since = time.time() - seen.since if isinstance(seen, Running) else None
    pid = seen.pid if isinstance(seen, Running) else None
    return ProcessRow(component, name, pid, str(state), ready, int(record.get("attempt", 0)), since)


def _model_row(model: dict[str, Any]) -> ModelRow:
    ready = condition(model, "Ready")
    return ModelRow(
        name=model["metadata"]["name"],
        ready=ready.get("status", "Unknown"),
        reason=ready.get("reason", ""),
        stable=dig(model, "status.stable.version", ""),
        canary=dig(model, "status.canary.version", ""),
        training=dig(model, "status.training.phase", "") or dig(model, "status.training.job", ""),
    )
