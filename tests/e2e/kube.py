"""What a person at a terminal does with the cluster: kubectl and helm, with deadlines, and the outputs worth keeping."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import minio
import redis
from continual_clients.redis import connect_url
from control_plane import MODELS, ControlPlane, tool

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/continual"
VALUES = Path(__file__).with_name("values.yaml")
PATIENCE_SECONDS = 240.0
"""For one step on a busy machine; an idle one takes a tenth of it."""
POLL_SECONDS = 0.5


def until(
    claim: str, holds: Callable[[], object], seconds: float = PATIENCE_SECONDS, told: Callable[[], object] = str
) -> None:
    """Wait for the cluster; fails with the claim and with what `told` says at the end."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {claim}; {told()}"
        time.sleep(POLL_SECONDS)


@dataclass
class Kube:
    """One cluster and a folder for what it said."""

    plane: ControlPlane
    out: Path
    captures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Figures that belong under the table of steps."""

    def __post_init__(self) -> None:
        """A chart of its own: whoever works on the repository meanwhile changes nothing under an installed release."""
        self.chart = Path(shutil.copytree(CHART, self.plane.folder / "chart", dirs_exist_ok=True))

    def run(self, *command: str, seconds: float = 300, check: bool = True, stdin: str | None = None) -> str:
        """Standard output of one of our tools; a failure shows both outputs."""
        done = subprocess.run(
            [tool(command[0]), *command[1:]], env=self.environment, capture_output=True, text=True, timeout=seconds,
            check=False, input=stdin, cwd=ROOT,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done.stdout + ("" if check else done.stderr)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the user's own: no configuration, no cache."""
        return {
            "PATH": os.environ["PATH"], "KUBECONFIG": str(self.plane.kubeconfig), "HOME": str(self.plane.folder),
            **{f"HELM_{kind}_HOME": str(self.plane.folder / "helm" / kind) for kind in ("CACHE", "CONFIG", "DATA")},
        }  # fmt: skip

    @contextlib.contextmanager
    def watching(self, namespace: str) -> Iterator[Callable[[], str]]:
        """`kubectl get ctm --watch` while the block runs; what it gives says what was printed so far."""
        told = self.plane.folder / "watch.txt"
        with told.open("w") as out:
            command = [tool("kubectl"), "get", "ctm", "-n", namespace, "--watch"]
            watch = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)
            try:
                until("the watch prints", told.read_text, 30)
                yield told.read_text
            finally:
                watch.kill()
                watch.wait()

    def kubectl(self, *arguments: str, seconds: float = 300, check: bool = True, stdin: str | None = None) -> str:
        return self.run("kubectl", *arguments, seconds=seconds, check=check, stdin=stdin)

    def items(self, kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json"))["items"])

    def new_namespace(self, name: str) -> str:
        """One in which only pods of the restricted profile are admitted."""
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        return name

    def upgrade(self, release: str, namespace: str) -> None:
        """`helm upgrade` with nothing changed."""
        command = [
            "helm",
            "upgrade",
            release,
            str(self.chart),
            "-n",
            namespace,
            "-f",
            str(VALUES),
            "--wait",
            "--timeout",
            "240s",
        ]
        self.run(*command)

    def install(self, release: str, namespace: str, *more: str) -> str:
        """`helm install` with the values of these tests; returns what NOTES say."""
        command = [
            "helm",
            "install",
            release,
            str(CHART),
            "-n",
            namespace,
            "-f",
            str(VALUES),
            "--wait",
            "--timeout",
            "240s",
        ]
        return self.run(*command, *more)

    def secret(self, namespace: str, name: str, key: str) -> str:
        found = json.loads(self.kubectl("get", "secret", name, "-n", namespace, "-o", "json"))
        return base64.b64decode(found["data"][key]).decode()

    def service_address(self, namespace: str, name: str) -> str:
        return str(json.loads(self.kubectl("get", "service", name, "-n", namespace, "-o", "json"))["spec"]["clusterIP"])

    # ContinualModels -------------------------------------------------------------------------------------------------------

    def model(self, namespace: str, name: str) -> dict[str, Any]:
        """The resource; empty when there is none."""
        answer = self.plane.get(f"{MODELS.format(namespace=namespace)}/{name}")
        return answer.body if answer.ok else {}

    def status(self, namespace: str, name: str) -> dict[str, Any]:
        return dict(self.model(namespace, name).get("status") or {})

    def condition(self, namespace: str, name: str, kind: str = "Ready") -> tuple[str, str]:
        """(status, reason) of a condition."""
        found = [one for one in self.status(namespace, name).get("conditions", []) if one["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    def capture(self, what: str, namespace: str) -> None:
        """Keep what `kubectl get ctm` says at this moment."""
        self.keep(what, "kubectl get ctm", self.kubectl("get", "ctm", "-n", namespace))

    def keep(self, what: str, command: str, said: str) -> None:
        self.captures.append(f"# {what}\n$ {command}\n{said}")
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "get-ctm.txt").write_text("\n".join(self.captures))

    # Pods ------------------------------------------------------------------------------------------------------------------

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        return [pod for pod in self.items("pods", namespace, selector) if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, namespace: str, selector: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods(namespace, selector) if is_ready(pod)]

    def evict(self, namespace: str, pod: str) -> None:
        """Through the Eviction API, as `kubectl drain` does it; 429 would mean that a budget forbids it."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        answer = self.plane.create(f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)
        assert answer.ok, answer.message

    # What is in the servers ------------------------------------------------------------------------------------------------

    def redis(self, namespace: str, user: str, release: str = "continual") -> Callable[[], redis.Redis]:
        """Connections to the embedded Redis as one of the chart's users, through the service's address, from this machine."""
        secret = f"{release}-redis-{user}"
        password = self.plane.folder / f"{namespace}-{secret}"
        password.write_text(self.secret(namespace, secret, "password"))
        url = f"redis://{self.service_address(namespace, f'{release}-redis')}:6379/0"
        return lambda: connect_url(url, user, password)

    def keys(self, namespace: str, model: str, release: str = "continual") -> list[str]:
        """Redis keys of a model, as the operator sees them."""
        client = self.redis(namespace, "operator", release)()
        try:
            return sorted(key.decode() for key in client.scan_iter(match=f"ctm:{{{namespace}/{model}}}:*", count=1000))
        finally:
            client.close()

    def blobs(self, namespace: str, model: str, release: str = "continual") -> list[str]:
        """Objects of a model in the embedded store."""
        root = f"{release}-minio-root"
        client = minio.Minio(
            f"{self.service_address(namespace, f'{release}-minio')}:9000",
            access_key=self.secret(namespace, root, "user"), secret_key=self.secret(namespace, root, "password"),
            secure=False,
        )  # fmt: skip
        found = client.list_objects("continual", prefix=f"models/{namespace}/{model}/", recursive=True)
        return sorted(str(one.object_name) for one in found)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


# When a test fails ------------------------------------------------------------------------------------------------------------


def save_evidence(kube: Kube, folder: Path, logs: dict[str, str]) -> str:
    """Everything that may say why, in files; returns the ends that are worth reading first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in logs.items():
        (folder / f"node-{name}.log").write_text(text)
    asked = {
        "models": ("get", "ctm", "-A", "-o", "yaml"), "pods": ("get", "pods", "-A", "-o", "wide"),
        "events": ("get", "events", "-A", "--sort-by=.lastTimestamp"), "described": ("describe", "pods", "-A"),
        "all": ("get", "deployments,statefulsets,jobs,services,pvc,networkpolicies", "-A"),
    }  # fmt: skip
    told = {name: kube.kubectl(*arguments, check=False) for name, arguments in asked.items()}
    for name, text in told.items():
        (folder / f"{name}.txt").write_text(text)
    tails = [f"--- pods\n{told['pods']}", f"--- events\n{tail(told['events'], 12)}"]
    for pod in json.loads(kube.kubectl("get", "pods", "-A", "-o", "json"))["items"]:
        tails += save_logs(kube, pod, folder)
    return "\n".join(tails)


def save_logs(kube: Kube, pod: dict[str, Any], folder: Path) -> list[str]:
    """Logs of every container, also of the one before it; the end of the operator's and of those that are not ready."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    tails = []
    for container in pod["spec"]["containers"]:
        for suffix, flags in (("", ()), (".previous", ("--previous",))):
            text = kube.kubectl("logs", "-n", namespace, name, "-c", container["name"], *flags, check=False)
            (folder / f"{namespace}-{name}-{container['name']}{suffix}.log").write_text(text)
            if not suffix and (container["name"] == "operator" or not is_ready(pod)):
                tails.append(f"--- {namespace}/{name} {container['name']}\n{tail(text, 15)}")
    return tails


def tail(text: str, lines: int) -> str:
    return "\n".join(line[:400] for line in text.splitlines()[-lines:])
