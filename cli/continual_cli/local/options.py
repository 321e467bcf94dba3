"""What `local up` is asked for, and the right to be the one `local up` of a home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual_contract.errors import ConflictError

from continual_cli.local.files import read_json, try_lock
from continual_cli.local.paths import Home


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line says."""

    home: Path
    manifests: Sequence[dict[str, Any]] = ()
    redis_url: str | None = None
    redis_port: int | None = None
    gateway: bool = True
    """Whether people get a dashboard and an HTTP API."""
    gateway_port: int | None = None


def acquire(home: Home) -> int:
    """Take the home's lock.

    Raises:
        ConflictError: somebody holds it.
    """
    lock = try_lock(home.up_lock)
    if lock is None:
        pid = (read_json(home.up_state) or {}).get("pid")
        raise ConflictError(
            f"another `continual local up` (pid {pid}) runs on this home",
            field="CONTINUAL_HOME",
            value=str(home.root),
            remedy="add models with `continual apply -f FILE`, or end it with `continual local down`",
        )
    return lock
