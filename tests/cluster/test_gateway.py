"""The gateway as its own service account on a real API server, with the rights that the chart gives it, and no others."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from control_plane import ROOT, ControlPlane, die_with_parent, free_port, tool
from operators import PATHS, digits, until

ACCOUNT, TOKEN = "continual-gateway", "t" * 40


def rights(namespace: str) -> list[dict[str, Any]]:
    """Account, role and binding as `helm install` of the chart would make them."""
    command = [
        tool("helm"), "template", "continual", str(ROOT / "charts/continual"), "--namespace", namespace,
        "--show-only", "templates/gateway/gateway.yaml",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [
        one
        for one in yaml.safe_load_all(done.stdout)
        if one and one["kind"] in {"ServiceAccount", "Role", "RoleBinding"}
    ]


@pytest.fixture
def account(control_plane: ControlPlane, tmp_path: Path) -> tuple[str, str, Path]:
    """(namespace, token, kubeconfig) of the gateway's account."""
    namespace = f"gateway-{secrets.token_hex(3)}"
    assert control_plane.create("/api/v1/namespaces", {"metadata": {"name": namespace}}).ok
    for manifest in rights(namespace):
        path = f"{PATHS[manifest['kind']].format(namespace)}/{manifest['metadata']['name']}"
        answer = control_plane.apply(path, manifest)
        assert answer.ok, answer.message
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = control_plane.create(f"{PATHS['ServiceAccount'].format(namespace)}/{ACCOUNT}/token", request)
    assert answer.ok, answer.message
    token = answer.body["status"]["token"]
    until("the role is in force", lambda: control_plane.get(PATHS["ContinualModel"].format(namespace), token).ok)
    file = tmp_path / "kubeconfig"
    control_plane.write_kubeconfig(file, token)
    return namespace, token, file


@pytest.fixture
def gateway(account: tuple[str, str, Path], redis_server: Any, tmp_path: Path) -> Iterator[httpx.Client]:
    """`python -m continual_gateway` for that namespace; the client is an admin's."""
    namespace, _, kubeconfig = account
    redis_server.load_functions()
    people = [{"name": "anna", "role": "admin", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}]
    (tmp_path / "tokens.json").write_text(json.dumps(people))
    (tmp_path / "key").write_text("k" * 48)
    port = free_port()
    env = {
        "PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), "CONTINUAL_REDIS_URL": redis_server.url,
        "CONTINUAL_STORE_URL": f"file://{tmp_path}/store", "CONTINUAL_WATCH_NAMESPACES": namespace,
        "CONTINUAL_GATEWAY_ADDRESS": f"127.0.0.1:{port}", "CONTINUAL_GATEWAY_TOKENS_FILE": str(tmp_path / "tokens.json"),
        "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(tmp_path / "key"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "continual_gateway"], env=env, stdout=log, stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
    headers = {"authorization": f"Bearer {TOKEN}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            until("the gateway is ready", lambda: _is_ready(client, process))
            yield client
    finally:
        process.kill()
        process.wait()


def _is_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/readyz").status_code == 200
    return False


def test_models_are_read_and_steered_on_the_api_server(control_plane, account, gateway):
    """Pins list, read, patch of the spec, annotations with who asked, events, and that a wrong spec is the API server's refusal."""
    namespace, *_ = account
    path = PATHS["ContinualModel"].format(namespace)
    assert control_plane.create(path, digits()).ok
    until("the model is listed", lambda: gateway.get("/v1/models").json()["models"])
    assert gateway.get("/v1/models/digits").json()["input"] == {
        "height": 8,
        "width": 8,
        "channels": 1,
        "fit": "Letterbox",
    }
    assert gateway.post("/v1/models/digits/verbs/suspend").status_code == 202
    assert control_plane.get(f"{path}/digits").body["spec"]["suspend"] is True
    assert gateway.post("/v1/models/digits/verbs/resume").status_code == 202
    assert gateway.post(f"/v1/models/{namespace}.digits/verbs/retrain").status_code == 202
    written = control_plane.get(f"{path}/digits").body
    assert written["spec"]["suspend"] is False
    assert written["metadata"]["annotations"]["continual.dev/requested-by"] == "anna"
    assert "continual.dev/retrain-requested-at" in written["metadata"]["annotations"]
    managers = {entry["manager"] for entry in written["metadata"]["managedFields"]}
    assert "continual-gateway" in managers
    status = {
        "status": {
            "versions": [{"version": "v1", "digest": "sha256:0", "phase": "Stable", "created": "2026-01-01T00:00:00Z"}]
        }
    }
    assert control_plane.merge(f"{path}/digits/status", status).ok
    until(
        "the version is known",
        lambda: gateway.post("/v1/models/digits/verbs/pin", json={"version": "v1"}).status_code == 202,
    )
    assert control_plane.get(f"{path}/digits").body["spec"]["rollout"]["pinnedVersion"] == "v1"
    assert gateway.post("/v1/models/digits/verbs/unpin").status_code == 202
    assert "pinnedVersion" not in control_plane.get(f"{path}/digits").body["spec"]["rollout"]
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e1", "namespace": namespace}, "type": "Normal",
        "reason": "AccuracyHeld", "message": "Promote v1", "count": 2, "lastTimestamp": "2026-11-21T18:00:00Z",
        "involvedObject": {"kind": "ContinualModel", "name": "digits", "namespace": namespace},
    }  # fmt: skip
    assert control_plane.create(PATHS["Event"].format(namespace), event).ok
    told = gateway.get("/v1/models/digits/history").json()
    assert [(one["reason"], one["count"]) for one in told["events"]] == [("AccuracyHeld", 2)]
    assert [one["verb"] for one in told["changes"]][:2] == ["unpin", "pin"]


def test_the_account_may_do_nothing_else(control_plane, account):
    """Pins the rights: no secrets, no pods, no other namespace, no deletion, no status."""
    namespace, token, _ = account
    forbidden = [
        ("GET", f"/api/v1/namespaces/{namespace}/secrets"),
        ("GET", f"/api/v1/namespaces/{namespace}/pods"),
        ("GET", PATHS["ContinualModel"].format("default")),
        ("DELETE", PATHS["ContinualModel"].format(namespace) + "/digits"),
        ("POST", PATHS["ContinualModel"].format(namespace)),
        ("PATCH", PATHS["ContinualModel"].format(namespace) + "/digits/status"),
        ("GET", "/api/v1/namespaces"),
    ]
    for method, path in forbidden:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = control_plane.request(
            method, path, {} if method in {"PATCH", "POST"} else None, content_type=kind, token=token
        )
        assert answer.code == 403, (method, path, answer.message)
    assert control_plane.get(PATHS["ContinualModel"].format(namespace), token).ok


def test_an_api_server_that_is_away_is_503_and_the_last_models_serve(control_plane, account, gateway):
    """Pins that predictions need no API server: what was read last is used, and a change is refused at once. Last, as it removes the rights."""
    namespace, *_ = account
    assert control_plane.create(PATHS["ContinualModel"].format(namespace), digits()).ok
    until("the model is listed", lambda: gateway.get("/v1/models").json()["models"])
    binding = PATHS["RoleBinding"].format(namespace) + f"/{ACCOUNT}"
    assert control_plane.request("DELETE", binding).ok
    until("the rights are gone", lambda: gateway.post("/v1/models/digits/verbs/suspend").status_code in {403, 503})
    assert gateway.get("/v1/models/digits").status_code == 200
    assert gateway.get("/v2/models/digits").json()["inputs"][0]["shape"] == [-1, 8, 8, 1]
