"""The operator of the cluster tests: its own service account, and `python -m continual_operator` as a process."""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from control_plane import MODELS, ROOT, ControlPlane, die_with_parent, free_port, tool

CHART = ROOT / "charts/continual"
ACCOUNT = "continual-operator"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "Event": "/api/v1/namespaces/{}/events",
    "ContinualModel": MODELS.replace("{namespace}", "{}"),
}


def until(claim: str, holds: Callable[[], Any], seconds: float = 60) -> Any:
    """The value, once another process has made it true; fails with the claim."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, claim
        time.sleep(0.1)
    return value


async def farewells() -> None:
    """Wait for the end of TLS: a loop that closes before leaves sockets to the garbage collector, which warns."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # nothing public tells
    deadline = time.monotonic() + 10
    while len(selector.get_map()) > 1:  # its own wake-up pipe
        assert time.monotonic() < deadline, "sockets stay open"
        await asyncio.sleep(0.01)


def objects(plane: ControlPlane, kind: str, namespace: str) -> list[dict[str, Any]]:
    answer = plane.get(PATHS[kind].format(namespace))
    assert answer.ok, answer.message
    return list(answer.body["items"])


@functools.cache
def chart_rights(namespace: str, *settings: str) -> tuple[dict[str, Any], ...]:
    """Account, roles and bindings of the operator as `helm install` of the chart would make them."""
    values = [word for setting in settings for word in ("--set", setting)]
    command = [
        tool("helm"), "template", "continual", str(CHART), "--namespace", namespace,
        "--show-only", "templates/operator/rbac.yaml", *values,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(filter(None, yaml.safe_load_all(done.stdout)))


def operator_account(
    plane: ControlPlane, namespace: str, role: Callable[[dict[str, Any]], None] | None = None, proxy: str = "",
    settings: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Create the chart's account with its rights in `namespace` (changed by `role`); returns a kubeconfig with its token, through `proxy`."""
    rules: list[dict[str, Any]] = []
    for manifest in copy.deepcopy(chart_rights(namespace, *settings)):
        if manifest["kind"] == "Role" and role is not None:
            role(manifest)
        rules += manifest.get("rules", ())
        path = f"{PATHS[manifest['kind']].format(namespace)}/{manifest['metadata']['name']}"
        answer = plane.apply(path, manifest)
        assert answer.ok, answer.message
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = plane.create(f"{PATHS['ServiceAccount'].format(namespace)}/{ACCOUNT}/token", request)
    assert answer.ok, answer.message
    token = answer.body["status"]["token"]
    file = plane.folder / f"kubeconfig-{namespace}"
    plane.write_kubeconfig(file, token, proxy)
    until("the role is in force", lambda: is_allowed(plane, namespace, rules[0]))
    return file


def is_allowed(plane: ControlPlane, namespace: str, rule: dict[str, Any]) -> bool:
    """Whether the operator's account may do what a rule gives it; nothing is asked in its name."""
    about = {
        "namespace": namespace, "verb": rule["verbs"][0], "group": rule["apiGroups"][0], "resource": rule["resources"][0],
    }  # fmt: skip
    user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
    review = {"spec": {"user": user, "resourceAttributes": about}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(
        plane.create(path, {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", **review}).body[
            "status"
        ]["allowed"]
    )


def digits(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """A small model that the CRD takes."""
    whole = {
        "model": {
            "architecture": "mlp",
            "input": {"height": 8, "width": 8, "channels": 1},
            "classes": [str(i) for i in range(10)],
        },
        "bootstrap": {"dataset": {"name": "digits"}},
    }
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": name},
        "spec": whole | spec,
    }


class OperatorProcess:
    """One `python -m continual_operator`."""

    def __init__(
        self, name: str, folder: Path, kubeconfig: Path, namespace: str, redis_url: str,
        command: tuple[str, ...] = ("-m", "continual_operator"), **env: str,
    ) -> None:  # fmt: skip
        self.name, self.log_file, self.port = name, folder / f"operator-{name}.log", free_port()
        (folder / "store").mkdir(exist_ok=True)
        images = {f"CONTINUAL_{part}_IMAGE": "continual-test" for part in ("INFERENCE", "EVALUATOR", "TRAINER")}
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "KUBECONFIG": str(kubeconfig),
            "CONTINUAL_OPERATOR_NAMESPACE": namespace,
            "CONTINUAL_INSTALLATION": namespace,
            "CONTINUAL_REDIS_URL": redis_url,
            "CONTINUAL_STORE_URL": f"file://{folder / 'store'}",
            "CONTINUAL_POD": name,
            "CONTINUAL_LIVENESS_URL": f"http://127.0.0.1:{self.port}/healthz",
            **images,
            **env,
        }
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=log, stderr=log, cwd=folder,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
            )  # fmt: skip

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        whole, _, _ = self.log().rpartition("\n")  # the last line may be half there
        parsed = (json.loads(line) for line in whole.splitlines() if line.startswith("{"))
        return [line for line in parsed if line["message"] == message]

    def leads(self) -> bool:
        assert self.process.poll() is None, self.log()[-3000:]
        return bool(self.lines("leading"))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(20)
