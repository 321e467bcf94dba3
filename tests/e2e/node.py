"""A one-node Kubernetes on this machine: control plane, kubelet, kube-proxy, containerd and cluster DNS, gone without a trace.

    .venv/bin/python tests/e2e/node.py     the same by hand (`make e2e-node`): prints the KUBECONFIG line, ends with Ctrl-C

The control plane runs on the host, as in the cluster tests. Everything of the node runs in PID, mount and network namespaces of its own
(`inside.py`), tied to the host by one virtual cable with private addresses: a containerd, a kubelet or a packet filter that the machine
has of its own is not touched, and when the node's first process dies the kernel takes all of it down. That process dies with this one,
so a killed run leaves only files and empty control groups, which the next start removes. Images stay in a store under the user's cache
folder. One node per machine: a lock says who holds it. Needs root and what `hack/setup e2e` installs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import configs
import urllib3

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cluster"))
from control_plane import Answer, ControlPlane, StartError, die_with_parent, tool

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "continual"
NEEDED = ("containerd", "runc", "ctr", "nft", "ip", "conntrack", "unshare", "nsenter", "mount", "openssl", "go")
VOLUMES = 6
CPU_SHARES = 8192
"""Of all pods together, where one process of the host has 1024 (cgroup v1)."""
START_SECONDS = 180
"""Generous, as for the control plane: other tests may use all cores."""
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def path_with_sbin() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def require_programs() -> None:
    """Loud: a missing component is a failure, never a skip."""
    if os.geteuid():
        raise StartError("a node with containers needs root; run `sudo make e2e`")
    missing = [name for name in NEEDED if shutil.which(name, path=path_with_sbin()) is None]
    if missing or not Path(configs.CNI_PLUGINS, "ptp").exists():
        raise StartError(f"{', '.join(missing) or 'CNI plugins'} missing; run `hack/setup e2e`")


class NodePlane(ControlPlane):
    """On the port that network policies expect, of an address that nobody else has."""

    def _start_apiserver(self, attempts: int) -> None:
        self.port = 6443
        self._run("kube-apiserver", *self._apiserver_flags())
        self._wait("kube-apiserver", self._is_ready)


@dataclass
class Node:
    """One node and its control plane; `state` and `store` are made if they are not there."""

    state: Path = CACHE / "e2e" / "run"
    store: Path = CACHE / "e2e" / "store"
    plane: NodePlane = field(init=False)
    _lock: IO[str] | None = None
    _inside: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.folders = configs.Folders(self.state, self.store)
        users = tuple(f'{token_of(who)},{name},{who},"system:nodes"' if who == "node" else f"{token_of(who)},{name},{who}"
                      for who, name in configs.TOKENS.items())  # fmt: skip
        certificate = self.state / "kubelet-client"
        self.plane = NodePlane(
            folder=self.state / "plane", address=configs.HOST, users=users,
            apiserver_flags=(
                f"--advertise-address={configs.HOST}", "--endpoint-reconciler-type=lease",
                f"--service-cluster-ip-range={configs.SERVICES}", "--enable-admission-plugins=NodeRestriction",
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={certificate}.crt", f"--kubelet-client-key={certificate}.key",
            ),
        )  # fmt: skip

    # Its life --------------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Up and Ready, with storage and DNS; what a killed run left is removed before."""
        os.environ["PATH"] = path_with_sbin()
        require_programs()
        self._take_lock()
        self._clean()
        make_control_groups()
        self._write_files()
        self._enter()
        self._start_containerd()
        self.plane.start()
        self._prepare_objects()
        self._start_services()
        return self

    def stop(self) -> None:
        """Control plane first, then the namespaces with all that lives in them, then the files."""
        self.plane.stop()
        if self._inside is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._inside.pid, signal.SIGKILL)
            self._inside.wait()
            assert self._inside.stdin is not None
            assert self._inside.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._inside.stdin.close()
            self._inside.stdout.close()
            self._inside = None
        if self._lock is not None:
            self._clean()
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        """One node per machine; who comes second is told who is first."""
        self.state.parent.mkdir(parents=True, exist_ok=True)
        lock = (self.state.parent / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise StartError(f"another end-to-end cluster runs on this machine: {holder}") from error
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}: {' '.join(sys.argv)}\n")
        lock.flush()
        self._lock = lock

    def _clean(self) -> None:
        """Empty control groups and files: all that can be left of a node whose first process is dead."""
        until("the control groups of the node are empty", remove_control_groups, seconds=20)
        shutil.rmtree(self.state, ignore_errors=True)

    def _write_files(self) -> None:
        for folder in ("logs", "cni", "pods", "plugins", "kubelet", "plane", *(f"volumes/{n}" for n in range(VOLUMES))):
            (self.state / folder).mkdir(parents=True)
        self.store.mkdir(parents=True, exist_ok=True)
        certificate(self.state / "kubelet-client")
        files: dict[str, str] = {
            "containerd.toml": configs.containerd(self.folders),
            "cni/pods.conflist": json.dumps(configs.cni()),
            "kubelet.yaml": json.dumps(configs.kubelet(self.folders, self.state / "kubelet-client.crt")),
            "proxy.yaml": json.dumps(configs.kube_proxy(self.folders)),
            "Corefile": configs.corefile(self.folders),
            "resolv.conf": f"nameserver {configs.NODE}\n",
        }
        for name, text in files.items():
            (self.state / name).write_text(text)

    def _enter(self) -> None:
        """Start the node's first process and wait until its mounts and its network are made."""
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        with (self.state / "logs/inside.log").open("wb") as log:
            self._inside = subprocess.Popen(
                [*command, sys.executable, "-I", str(Path(__file__).with_name("inside.py"))], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
            )  # fmt: skip
        self._tell(
            folder=str(self.state), cable=configs.CABLE, host=configs.HOST, node=configs.NODE,
            networks=[configs.PODS, configs.SERVICES],
        )  # fmt: skip
        assert self._inside.stdout is not None
        if not self._inside.stdout.readline():
            raise StartError(f"the node's namespaces cannot be made: {self.log('inside')}")

    def _tell(self, **order: Any) -> None:
        assert self._inside is not None
        assert self._inside.stdin is not None
        self._inside.stdin.write(json.dumps(order) + "\n")
        self._inside.stdin.flush()

    # Its services ----------------------------------------------------------------------------------------------------------

    def _start_containerd(self) -> None:
        """With what is in the store; containers of an earlier run are forgotten before anything looks at them."""
        self._run_containerd()
        old = self.ctr("containers", "list", "--quiet").split()
        if old:
            self.ctr("containers", "delete", *old)
            self._tell(stop="containerd")
            self.folders.containerd_socket.unlink()
            self._run_containerd()
        self._provide_pause()

    def _run_containerd(self) -> None:
        self._tell(name="containerd", command=["containerd", "--config", str(self.state / "containerd.toml")])
        self._wait("containerd", lambda: "linux" in self.ctr("plugins", "list", check=False) and self._has_cri())

    def _has_cri(self) -> bool:
        lines = self.ctr("plugins", "list", check=False).splitlines()
        return any(line.split()[1:2] == ["cri"] and line.split()[-1] == "ok" for line in lines)

    def _start_services(self) -> None:
        config, state = "--kubeconfig={}", self.state
        plane = self.plane
        plane.start_controllers()
        scheduler = config.format(self.folders.kubeconfig("scheduler"))
        plane._run("kube-scheduler", scheduler, "--leader-elect=false", "--secure-port=0")
        self._service("coredns", "-conf", str(state / "Corefile"))
        self._service("kube-proxy", f"--config={state / 'proxy.yaml'}")
        self._service(
            "kubelet", f"--config={state / 'kubelet.yaml'}", config.format(self.folders.kubeconfig("node")),
            f"--root-dir={state / 'kubelet'}", f"--node-ip={configs.NODE}", f"--hostname-override={configs.NODE_NAME}",
        )  # fmt: skip
        enforcer = [
            sys.executable,
            "-I",
            str(Path(__file__).with_name("policies.py")),
            str(self.folders.kubeconfig("policies")),
        ]
        self._tell(name="policies", command=[*enforcer, configs.NODE, configs.HOST])
        self._wait("kubelet", lambda: is_ready(plane.get(f"/api/v1/nodes/{configs.NODE_NAME}")))
        self._wait("coredns", lambda: answers(f"http://{configs.NODE}:8181/ready"))
        self._wait("kube-proxy", lambda: answers(f"http://{configs.NODE}:10256/healthz"))

    def _service(self, name: str, *flags: str) -> None:
        self._tell(name=name, command=[tool(name), *flags])

    def _wait(self, name: str, is_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_up():
            if time.monotonic() > deadline or (self._inside is not None and self._inside.poll() is not None):
                raise StartError(f"{name} is not ready:\n{self.log(name)[-3000:]}")
            time.sleep(0.1)

    def log(self, name: str) -> str:
        """What a service of the node said."""
        path = self.state / f"logs/{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # Its objects -----------------------------------------------------------------------------------------------------------

    def _prepare_objects(self) -> None:
        """Who may talk to the API server, and volumes to claim."""
        for who in configs.TOKENS:
            self.plane.write_kubeconfig(self.folders.kubeconfig(who), token_of(who))
        roles, bindings = zip(*configs.roles(), strict=True)
        wanted = {
            f"{RBAC}/clusterroles": roles, f"{RBAC}/clusterrolebindings": bindings,
            "/apis/storage.k8s.io/v1/storageclasses": [configs.storage_class()],
            "/api/v1/persistentvolumes": [configs.volume(n, self.state / f"volumes/{n}") for n in range(VOLUMES)],
        }  # fmt: skip
        for path, objects in wanted.items():
            for one in objects:
                answer = self.plane.create(path, one)
                assert answer.ok, answer.message

    def _provide_pause(self) -> None:
        """The image of every sandbox: one static program of our own."""
        if configs.PAUSE in self.ctr("images", "list", "--quiet").split():
            return
        archive = self.state / "pause.tar"
        archive.write_bytes(pause_archive(self.state / "pause"))
        self.ctr("images", "import", str(archive))

    def ctr(self, *arguments: str, check: bool = True) -> str:
        command = ["ctr", "--address", str(self.folders.containerd_socket), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise StartError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout


def token_of(who: str) -> str:
    """Good for one run on private addresses of this machine."""
    return f"{who}-of-the-tests"


def until(claim: str, holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise StartError(f"not within {seconds:.0f} s: {claim}")
        time.sleep(0.1)


def control_groups() -> list[Path]:
    """The node's own group in every hierarchy of cgroup v1, or the one of v2."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top / configs.CGROUP]
    return [path / configs.CGROUP for path in top.iterdir() if path.is_dir() and not path.is_symlink()]


def make_control_groups() -> None:
    for group in control_groups():
        group.mkdir(exist_ok=True)
        controllers = group.parent / "cgroup.controllers"
        if controllers.exists():
            (group.parent / "cgroup.subtree_control").write_text(
                " ".join(f"+{c}" for c in controllers.read_text().split())
            )
        if (group / "cpu.shares").exists():
            (group / "cpu.shares").write_text(str(CPU_SHARES))
        elif group.parent.name == "cpuset":
            for name in ("cpuset.cpus", "cpuset.mems"):
                (group / name).write_text((group.parent / name).read_text())


def remove_control_groups() -> bool:
    """True when none is left; a group with a dying process stays until the next look."""
    roots = control_groups()
    for root in roots:
        for folder, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    return not any(root.exists() for root in roots)


def certificate(stem: Path) -> None:
    """A certificate that vouches for itself: the API server shows it to kubelet, which trusts this one only."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/O=system:masters/CN=apiserver-of-the-tests"]
    subprocess.run([*command, *names, "-keyout", f"{stem}.key", "-out", f"{stem}.crt"], check=True, capture_output=True)


def pause_archive(binary: Path) -> bytes:
    """A docker archive with one layer that holds one static program."""
    source = ROOT / "hack/e2e/pause.go"
    environment = os.environ | {"CGO_ENABLED": "0"}
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(binary), str(source)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    layer = tar({"pause": binary.read_bytes()})
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [configs.PAUSE], "Layers": ["layer.tar"]}]
    return tar(
        {"config.json": json.dumps(config).encode(), "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    )


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def is_ready(node: Answer) -> bool:
    conditions = node.body["status"].get("conditions", []) if node.ok else []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def answers(url: str) -> bool:
    with urllib3.PoolManager(timeout=2, retries=False) as pool:
        try:
            return pool.request("GET", url).status == 200
        except (urllib3.exceptions.HTTPError, OSError):
            return False


@contextlib.contextmanager
def running() -> Iterator[Node]:
    """A started node, gone afterwards whatever happens in between."""
    node = Node()
    try:
        yield node.start()
    finally:
        node.stop()


def provide_images(node: Node) -> None:
    """Our images, as hack/images.py built them; what the store has already is not imported again."""
    command = [sys.executable, str(ROOT / "hack/images.py"), "import", "--address", str(node.folders.containerd_socket)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"the images cannot be had: {done.stderr}; build them with `make images`")
    forget_old_images(node)


def forget_old_images(node: Node) -> None:
    """What containerd keeps under a bare digest, and no name means any more, would fill the disk build by build."""
    rows = [line.split() for line in node.ctr("images", "list").splitlines()[1:]]
    named = {digest for name, _, digest, *_ in rows if not name.startswith("sha256:")}
    old = [name for name, _, digest, *_ in rows if name.startswith("sha256:") and digest not in named]
    if old:
        node.ctr("images", "delete", *old)


def main() -> int:
    """Start one and stay."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with running() as node, contextlib.suppress(KeyboardInterrupt):
            print(f"export KUBECONFIG={node.plane.kubeconfig}", flush=True)
            signal.pause()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
