"""A real Kubernetes control plane of one test session: etcd and kube-apiserver with RBAC, kube-controller-manager when asked for.

    .venv/bin/python tests/cluster/control_plane.py     the same by hand: prints the KUBECONFIG line, ends with Ctrl-C

The binaries are built from pinned modules by hack/tools/build.py, or taken from CONTINUAL_TOOLS or KUBEBUILDER_ASSETS. There is no
kubelet: objects are validated, stored, watched and garbage-collected as anywhere, and no pod runs. Everything listens on 127.0.0.1 or
on a unix socket inside one temporary folder. Each process leads a group of its own that is killed at the end, and the kernel kills it
when the process that started it ends, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import urllib3
import yaml
from Crypto.PublicKey import RSA

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "crds/continualmodels.yaml"
STAGES = Path(__file__).with_name("stages.yaml")
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MODELS = "/apis/continual.dev/v1alpha1/namespaces/{namespace}/continualmodels"
ADMIN = "admin-of-the-tests"
ADMIN_USER = f'{ADMIN},admin,admin,"system:masters"'
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system", "system:masters", "system:apiserver"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}  # fmt: skip
"""Who did what, of service accounts only: the controllers and the tests themselves are noise."""
PROCESSES = ("etcd", "kube-apiserver", "kube-controller-manager")
"""Always; kube-scheduler and kwok where pods are played."""
START_SECONDS = 120
"""Generous: where other tests use all cores, a start takes thirty seconds instead of four."""
PORTS = itertools.cycle(itertools.chain(range(24_000 + os.getpid() % 4_000, 28_000), range(24_000, 28_000)))
"""Below those the kernel gives away itself, and one after the other: what was said to be free is nobody's before it is used."""
_LIBC = ctypes.CDLL(None)


class StartError(Exception):
    """A server did not come up; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said: the HTTP status, the object or its Status, and the warnings beside it."""

    code: int
    body: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.code < 300

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


def tool(name: str) -> str:
    """Path of a binary; loud when it cannot be had: a missing component is a failure, never a skip."""
    command = [sys.executable, str(ROOT / "hack/tools/build.py"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{name} is needed for the cluster tests and cannot be had: {done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def die_with_parent() -> None:
    """The server ends even if the test run is killed."""
    _LIBC.prctl(1, signal.SIGKILL)


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


@dataclass
class ControlPlane:
    """One control plane in one temporary folder."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="continual-k8s-")))
    port: int = 0
    address: str = "127.0.0.1"
    """Where the API server listens."""
    users: tuple[str, ...] = ()
    """More lines of the token file: `token,name,uid,"group"`."""
    apiserver_flags: tuple[str, ...] = ()
    controller_flags: tuple[str, ...] = ()
    """Said last, so they win."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _pool: urllib3.PoolManager | None = None

    # Its life --------------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        (self.folder / "service-account.key").write_bytes(RSA.generate(2048).export_key())
        (self.folder / "tokens.csv").write_text("\n".join((ADMIN_USER, *self.users, "")))
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        self._run("etcd", *self._etcd_flags())
        self._wait("etcd", (self.folder / "etcd.sock").exists)
        self._start_apiserver(attempts=3)
        self._pool = urllib3.PoolManager(ca_certs=str(self.ca), timeout=30, retries=False, maxsize=16)
        self.write_kubeconfig(self.kubeconfig, ADMIN)
        return self

    def _start_apiserver(self, attempts: int) -> None:
        """On a free port; somebody else may take it in between, then on another."""
        self.port = free_port()
        self._run("kube-apiserver", *self._apiserver_flags())
        try:
            self._wait("kube-apiserver", self._is_ready)
        except StartError:
            if attempts == 1 or "address already in use" not in self.log("kube-apiserver"):
                raise
            self._start_apiserver(attempts - 1)

    def start_controllers(self) -> None:
        """Deployments, Jobs, garbage collection, namespaces, service accounts."""
        if "kube-controller-manager" in self.processes:
            return
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}", "--use-service-account-credentials", "--leader-elect=false",
            f"--service-account-private-key-file={self.folder / 'service-account.key'}", f"--root-ca-file={self.ca}",
            "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400", *self.controller_flags,
        )  # fmt: skip
        default = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("kube-controller-manager", lambda: self.get(default).ok)

    def start_nodes(self) -> None:
        """A node whose pods kwok plays (`stages.yaml`), and kube-scheduler: pods become Ready, Jobs end when a test says how."""
        if "kwok" in self.processes:
            return
        self.start_controllers()
        self._run("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        self._run(
            "kwok", f"--kubeconfig={self.kubeconfig}", "--manage-all-nodes", f"--config={STAGES}",
            "--node-lease-duration-seconds=40",
        )  # fmt: skip
        node = {"metadata": {"name": "played", "labels": {"kubernetes.io/os": "linux"}}}
        assert self.create("/api/v1/nodes", node).ok
        self._wait("kwok", lambda: _is_ready_node(self.get("/api/v1/nodes/played").body))

    def new_namespace(self, name: str) -> str:
        """A namespace in which pods may be created: its default service account is there."""
        answer = self.create("/api/v1/namespaces", {"metadata": {"name": name}})
        assert answer.ok, answer.message
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self._wait("kube-controller-manager", lambda: self.get(account).ok)
        return name

    def stop(self) -> None:
        """Kill every process group, the API server before its store, and remove the folder."""
        for process in reversed(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()
        if self._pool is not None:
            self._pool.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def requests(self, user: str) -> list[dict[str, Any]]:
        """What a service account asked for so far and was not forbidden, as the API server's audit log has it, in order."""
        whole, _, _ = self.log("audit").rpartition("\n")  # the last line may be half there
        events = map(json.loads, whole.splitlines())
        return [
            e for e in events if e["user"]["username"] == user and e["responseStatus"].get("code") not in {401, 403}
        ]

    def mutations(self, user: str) -> list[dict[str, Any]]:
        """The requests that created, changed or deleted something."""
        return [event for event in self.requests(user) if event["verb"] not in {"get", "list", "watch"}]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # Talking to it ---------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "certs/apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", token: str = ADMIN
    ) -> Answer:
        """One request with a bearer token; never raises for an HTTP status."""
        assert self._pool is not None, "the control plane is not started"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type, "Accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        reply = self._pool.request(method, self.url + path, body=data, headers=headers)
        is_json = "json" in reply.headers.get("Content-Type", "")
        said = reply.json() if is_json else {"message": reply.data.decode(errors="replace")}
        return Answer(reply.status, said, tuple(reply.headers.getlist("Warning")))

    def get(self, path: str, token: str = ADMIN) -> Answer:
        return self.request("GET", path, token=token)

    def create(self, path: str, body: Any, *, dry_run: bool = False) -> Answer:
        """As `kubectl create` does it: unknown fields are refused."""
        query = "?fieldManager=tests&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.request("POST", path + query, body)

    def apply(self, path: str, body: Any, *, manager: str = "tests") -> Answer:
        """Server-side apply of a whole object; `path` ends with its name (and subresource)."""
        query = f"?fieldManager={manager}&fieldValidation=Strict"
        return self.request("PATCH", path + query, body, content_type="application/apply-patch+yaml")

    def merge(self, path: str, body: Any) -> Answer:
        """A JSON merge patch."""
        return self.request("PATCH", path, body, content_type="application/merge-patch+json")

    def kubectl(self, *arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[str]:
        """kubectl as the admin; `stdin` is dumped as JSON. Its cache of discovery stays in the folder."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            [tool("kubectl"), *arguments], input=None if stdin is None else json.dumps(stdin), env=environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def install_crd(self, text: str | None = None, group: str = "continual.dev") -> None:
        """Create the CRD (or a changed copy, for a mutation check) and wait until it is served."""
        answer = self.create(CRDS, yaml.safe_load(text or CRD.read_text()))
        assert answer.ok, answer.message
        assert not answer.warnings, answer.warnings
        served = MODELS.format(namespace="default").replace("continual.dev", group)
        deadline = time.monotonic() + 30
        while not self.get(served).ok:
            assert time.monotonic() < deadline, self.get(f"{CRDS}/{answer.body['metadata']['name']}").body["status"]
            time.sleep(0.05)

    def write_kubeconfig(self, path: Path, token: str, proxy: str = "") -> None:
        """For whoever holds `token`: the admin, or a service account; `proxy` is the address of one that stands before the server."""
        direct = {"server": self.url, "certificate-authority": str(self.ca)}
        cluster = {"server": proxy} if proxy else direct
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": "default"}}],
        }  # fmt: skip
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))

    # Its processes ---------------------------------------------------------------------------------------------------------

    def _etcd_flags(self) -> list[str]:
        """Clients come through a unix socket; the peer port is the kernel's choice and nobody's to call."""
        nobody, sock = "http://127.0.0.1:0", f"unix://{self.folder / 'etcd.sock'}"
        return [
            f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={sock}", f"--advertise-client-urls={nobody}",
            f"--listen-peer-urls={nobody}", f"--initial-advertise-peer-urls={nobody}", f"--initial-cluster=default={nobody}",
        ]  # fmt: skip

    def _apiserver_flags(self) -> list[str]:
        key = self.folder / "service-account.key"
        return [
            f"--etcd-servers=unix://{self.folder / 'etcd.sock'}", f"--cert-dir={self.folder / 'certs'}",
            f"--bind-address={self.address}", f"--secure-port={self.port}", "--endpoint-reconciler-type=none",
            "--authorization-mode=Node,RBAC", f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24",
            f"--audit-policy-file={self.folder / 'audit-policy.json'}", f"--audit-log-path={self.folder / 'audit.log'}",
            *self.apiserver_flags,
        ]  # fmt: skip

    def _run(self, name: str, *flags: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [tool(name), *flags], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
            )  # fmt: skip

    def _wait(self, name: str, is_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_up():
            ended = self.processes[name].poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"is not ready after {START_SECONDS} s"
                raise StartError(f"{name} {what}:\n{self.log(name)[-3000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """`/readyz` includes the roles of RBAC; until the certificate is there, nobody is asked."""
        if not self.ca.exists():
            return False
        with urllib3.PoolManager(ca_certs=str(self.ca), timeout=5, retries=False) as pool:
            try:
                answer = pool.request("GET", f"{self.url}/readyz", headers={"Authorization": f"Bearer {ADMIN}"})
            except (urllib3.exceptions.HTTPError, OSError):
                return False
            return answer.status == 200


def _is_ready_node(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@contextlib.contextmanager
def running() -> Iterator[ControlPlane]:
    """A started control plane, gone afterwards whatever happens in between."""
    plane = ControlPlane()
    try:
        yield plane.start()
    finally:
        plane.stop()


def main() -> int:
    """Start one with controllers and the CRD, and stay."""
    with running() as plane, contextlib.suppress(KeyboardInterrupt):
        plane.start_controllers()
        plane.install_crd()
        print(json.dumps({name: process.pid for name, process in plane.processes.items()}))
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
