"""A command line in a home of its own, without servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from continual_cli.app import app
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from typer.testing import CliRunner

Run = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home that the command line under test uses."""
    monkeypatch.setenv("CONTINUAL_HOME", str(tmp_path / "home"))
    for name in ("CONTINUAL_DATA", "CONTINUAL_TARGET"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path / "home").create()


@pytest.fixture
def state(home: Home) -> LocalState:
    return LocalState(home)


@pytest.fixture
def run(home: Home) -> Run:
    """Run `continual` with these words."""

    def call(*words: str, stdin: str | None = None, **extra: Any) -> Any:
        return CliRunner().invoke(app, list(words), input=stdin, **extra)

    return call


def minimal(name: str = "digits") -> dict[str, Any]:
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": name},
        "spec": {
            "model": {
                "architecture": "lenet5",
                "input": {"height": 28, "width": 28, "channels": 1},
                "classes": [str(d) for d in range(10)],
            },
            "bootstrap": {"dataset": {"name": "digits"}},
        },
    }


@pytest.fixture
def manifest() -> Callable[[str], dict[str, Any]]:
    return minimal


STATUS: dict[str, Any] = {
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Serving", "message": "1 of 1", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
    "stable": {
        "version": "v7", "digest": "sha256:" + "7" * 64, "weight": 90, "labels": 412,
        "accuracy": {"value": "0.953", "lower": "0.931", "upper": "0.969"},
    },
    "canary": {"version": "v8", "digest": "sha256:" + "8" * 64, "weight": 10, "labels": 40},
    "backlog": 3,
    "training": {"state": "Running", "job": "abc", "trigger": "Drift"},
    "versions": [
        {"version": "v6", "digest": "sha256:" + "6" * 64, "phase": "Retired", "created": "2026-01-01T00:00:00Z",
         "trigger": "Bootstrap", "accuracy": "0.940"},
        {"version": "v7", "digest": "sha256:" + "7" * 64, "phase": "Stable", "created": "2026-01-02T00:00:00Z",
         "trigger": "Labels", "accuracy": "0.951", "parent": "sha256:" + "6" * 64},
        {"version": "v8", "digest": "sha256:" + "8" * 64, "phase": "Canary", "created": "2026-01-03T00:00:00Z",
         "trigger": "Drift", "accuracy": "0.949", "parent": "sha256:" + "7" * 64},
    ],
}  # fmt: skip


@pytest.fixture
def digits(state: LocalState) -> LocalState:
    """One model, digits, in the middle of a canary."""
    state.create_or_replace(minimal())
    state.update_model("digits", lambda document: document | {"status": STATUS})
    return state


@pytest.fixture
def annotations(digits: LocalState) -> Callable[[], dict[str, str]]:
    return lambda: digits.read_model("digits")["metadata"].get("annotations", {})


@pytest.fixture
def dump() -> Callable[[Any], str]:
    return yaml.safe_dump


@pytest.fixture
def loads() -> Callable[[str], Any]:
    return json.loads
