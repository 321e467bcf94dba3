"""The ground under the cluster tests: it authorises, it controls, and nothing of it outlives a test run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from control_plane import MODELS, PROCESSES, ControlPlane, StartError, tool

SCRIPT = Path(__file__).with_name("control_plane.py")


def until(claim: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for another process; fails with the claim."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, claim
        time.sleep(0.05)


def service_account_token(plane: ControlPlane, namespace: str, name: str) -> str:
    """A real token of a service account, as a pod would get it."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    assert plane.create(accounts, {"metadata": {"name": name}}).ok
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    answer = plane.create(f"{accounts}/{name}/token", body)
    assert answer.ok, answer.message
    return str(answer.body["status"]["token"])


def test_a_service_account_may_do_what_its_role_says_and_nothing_else(
    control_plane: ControlPlane, namespace: str
) -> None:
    """RBAC is on: without a role everything is forbidden, with one exactly its verbs are allowed, in its namespace."""
    token = service_account_token(control_plane, namespace, "operator")
    models = MODELS.format(namespace=namespace)
    who = f'User "system:serviceaccount:{namespace}:operator" cannot list resource "continualmodels"'
    answer = control_plane.get(models, token=token)
    assert answer.code == 403
    assert who in answer.message
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rules = [{"apiGroups": ["continual.dev"], "resources": ["continualmodels"], "verbs": ["get", "list"]}]
    assert control_plane.create(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": rules}).ok
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    assert control_plane.create(f"{rbac}/rolebindings", binding).ok
    until("the role is in force", lambda: control_plane.get(models, token=token).ok)
    assert control_plane.request("POST", models, {}, token=token).code == 403
    assert control_plane.get(MODELS.format(namespace="default"), token=token).code == 403
    assert control_plane.get("/api/v1/secrets", token=token).code == 403


def test_nobody_comes_in_without_a_token(control_plane: ControlPlane) -> None:
    """An unknown token is not a guest."""
    assert control_plane.get(MODELS.format(namespace="default"), token="guess").code == 401


def deployment(name: str, owner: dict[str, str]) -> dict[str, object]:
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    reference = {**owner, "controller": True}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "ownerReferences": [reference]},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod},
    }


def test_controllers_make_pods_and_collect_what_lost_its_owner(controllers: ControlPlane, namespace: str) -> None:
    """A Deployment owned by a model gets pods; when the model goes, all of it goes."""
    manifest = {
        "apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "metadata": {"name": "digits"},
        "spec": {
            "model": {"architecture": "mlp", "input": {"height": 8, "width": 8, "channels": 1}, "classes": ["a", "b"]},
            "bootstrap": {"dataset": {"name": "digits"}},
        },
    }  # fmt: skip
    model = f"{MODELS.format(namespace=namespace)}/digits"
    made = controllers.apply(model, manifest).body
    owner = {"apiVersion": made["apiVersion"], "kind": made["kind"], "name": "digits", "uid": made["metadata"]["uid"]}
    answer = controllers.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("digits-v1", owner))
    assert answer.ok, answer.message
    pods = f"/api/v1/namespaces/{namespace}/pods"
    until("two pods exist", lambda: len(controllers.get(pods).body["items"]) == 2)
    assert controllers.request("DELETE", model).ok
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    until("the Deployment is collected", lambda: controllers.get(deployments).body["items"] == [])
    until("its pods are collected", lambda: controllers.get(pods).body["items"] == [])


def is_alive(pid: int) -> bool:
    """Running, not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_server_outlives_a_killed_test_run() -> None:
    """kill -9 of the process that started them: etcd, the API server and the controllers end with it."""
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert run.stdout is not None
        pids = json.loads(run.stdout.readline())
        folder = Path(run.stdout.readline().strip().removeprefix("export KUBECONFIG=")).parent
        assert tuple(pids) == PROCESSES
        assert all(is_alive(pid) for pid in pids.values())
        run.kill()
        run.wait(20)
        until("all servers are gone", lambda: not any(is_alive(pid) for pid in pids.values()), 20)
        shutil.rmtree(folder)
    finally:
        run.kill()
        run.communicate()


def test_a_server_that_does_not_start_says_why() -> None:
    """The end of its log is in the error, and what had started is gone."""
    plane = ControlPlane()
    try:
        (plane.folder / "etcd").write_text("a file where a folder belongs")
        with pytest.raises(StartError, match="etcd ended"):
            plane.start()
        assert all(process.poll() is not None for process in plane.processes.values())
    finally:
        plane.stop()
    assert not plane.folder.exists()


def test_a_missing_binary_is_a_failure_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No compiler, nothing cached: loud, never a skip."""
    for name, value in {
        "PATH": "/nonexistent",
        "XDG_CACHE_HOME": str(tmp_path),
        "CONTINUAL_TOOLS": "",
        "KUBEBUILDER_ASSETS": "",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match="install Go"):
        tool("etcd")
