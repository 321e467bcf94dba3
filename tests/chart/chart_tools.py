"""Small things that tests of this folder share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from control_plane import ControlPlane


def until(claim: str, holds: Callable[[], Any], seconds: float = 60) -> Any:
    """The value, once another process has made it true; fails with the claim."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, claim
        time.sleep(0.1)
    return value


def new_namespace(plane: ControlPlane, name: str) -> str:
    """A namespace that enforces the restricted profile."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    answer = plane.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    assert answer.ok, answer.message
    return name
