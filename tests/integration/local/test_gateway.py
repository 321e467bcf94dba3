"""The gateway of `continual local`: there without being asked for, signed in to with one word, found again and started again."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`continual …` in a home of its own; everything is ended afterwards."""
    env = {**os.environ, "CONTINUAL_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    env.pop("CONTINUAL_LOCAL_GATEWAY", None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "continual_cli", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)

    try:
        yield run
    finally:
        assert run("local", "down", "--purge").returncode == 0


def gateway_row(local: Callable[..., Any]) -> dict[str, Any]:
    rows = json.loads(local("local", "status", "-o", "json").stdout)["processes"]
    return next((row for row in rows if row["component"] == "gateway"), {})


def test_the_dashboard_comes_with_local_up_and_comes_back(local, tmp_path):
    """Pins: on by default, token and key readable by the owner only, the printed address signs in once, kill -9 is survived on the same
    port, and `local down` ends it."""
    up = local("local", "up", "--detach")
    assert up.returncode == 0, up.stderr
    assert "dashboard: http://127.0.0.1:" in up.stdout
    folder = tmp_path / "home" / "gateway"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()} == {0o600}
    url = local("dashboard", "--no-open").stdout.strip()
    with httpx.Client(follow_redirects=True, timeout=30) as browser:
        assert browser.get(url).status_code == 200
        who = browser.get(url.partition("/signin")[0] + "/v1/whoami").json()
        assert (who["name"], who["role"]) == ("me", "admin")
    assert "refused" in httpx.get(url, timeout=30).headers["location"]
    before = gateway_row(local)
    os.kill(before["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (row := gateway_row(local)).get("pid") in {None, before["pid"]}:
        assert time.monotonic() < deadline, row
        time.sleep(0.2)
    token = (folder / "token").read_text()
    address = url.partition("/signin")[0]
    while True:
        try:
            models = httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {token}"}, timeout=30)
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert models.json() == {"models": []}
    assert local("local", "down").returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


def test_without_a_gateway_nothing_listens(local, tmp_path):
    assert local("local", "up", "--detach", "--no-gateway").returncode == 0
    assert gateway_row(local) == {}
    refused = local("dashboard", "--no-open")
    assert refused.returncode == 4
    assert "--no-gateway" in refused.stderr
    assert not (tmp_path / "home" / "gateway").exists()
