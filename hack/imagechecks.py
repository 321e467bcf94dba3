"""Run an image once as a pod would run it: uid 10001, read-only root, no capability, no network, /tmp the only writable folder.

A Dockerfile that builds proves little; what breaks in a cluster is a library that wants to write beside itself, a missing shared
library, a folder that only root can read. Each image says here what it must be able to do, and runc holds it to that.
"""

# ruff: noqa: S108 -- the folders named here are those of the container, in a mount namespace of its own
from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UID = 10001
NO_INSTALLER = "import importlib.util as u; assert u.find_spec('pip') is None, 'pip is in the image'"
NO_TORCH = "import importlib.util as u; assert u.find_spec('torch') is None, 'torch is in the image'"
MINIO = """
import subprocess, time, urllib.request, urllib.error
server = subprocess.Popen(["minio", "server", "--address", "127.0.0.1:9000", "/tmp/data"])
for _ in range(600):
    try:
        urllib.request.urlopen("http://127.0.0.1:9000/minio/health/ready", timeout=1)
        break
    except (urllib.error.URLError, ConnectionError):
        time.sleep(0.1)
else:
    raise SystemExit("minio was not ready within a minute")
server.terminate()
server.wait(60)
"""
REDIS = """
redis-server --dir /tmp --daemonize yes --appendonly yes --unixsocket /tmp/redis.sock --port 0 &&
until redis-cli -s /tmp/redis.sock ping; do sleep 0.1; done &&
redis-cli -s /tmp/redis.sock shutdown
"""
"""A daemon is told of before it listens; who waits for ever is ended by the check's own limit."""
CUDA = """
import ctypes, glob, subprocess, sys
library, = glob.glob(sys.prefix + "/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so")
said = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
missing = [line.strip() for line in said.splitlines() if "not found" in line and "libcuda.so" not in line]
assert "libcublas" in said and not missing, missing or said
ctypes.CDLL("libcudnn.so.9")
"""
TORCH = "import torch, torchvision, matplotlib.pyplot, onnxruntime, continual_workers.training.app; assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum() == 8"


class CheckError(Exception):
    """An image builds but cannot do its work as a pod."""


@dataclass(frozen=True, slots=True)
class Check:
    """A command, its expected exit status, and a word it must print."""

    arguments: tuple[str, ...]
    status: int = 0
    prints: str = ""


def _python(code: str) -> Check:
    return Check(("python", "-c", code))


def _refuses(module: str) -> Check:
    """A process that was told nothing names the variable it misses, and stops."""
    return Check(("python", "-m", module), status=2, prints="CONTINUAL_")


CHECKS: dict[str, tuple[Check, ...]] = {
    "operator": (_python(NO_INSTALLER), _python(NO_TORCH), _refuses("continual_operator")),
    "inference": (
        _python(NO_INSTALLER),
        _python(NO_TORCH),
        _python(
            "import continual_workers.inference.engine, continual_workers.evaluation.process, numpy.testing, scipy.stats"
        ),
        _refuses("continual_workers.inference"),
        _refuses("continual_workers.evaluation"),
    ),
    "inference-gpu": (_python(NO_INSTALLER), _python(NO_TORCH), _python(CUDA), _refuses("continual_workers.inference")),
    "gateway": (_python(NO_INSTALLER), _python(NO_TORCH), _refuses("continual_gateway")),
    "trainer": (_python(NO_INSTALLER), _python(TORCH)),
    "redis": (Check(("sh", "-c", REDIS), prints="PONG"),),
    "minio": (Check(("python3", "-c", MINIO)),),
}


def check(image: str, root: Path) -> None:
    """Raise CheckError with the command's output if the image under `root` cannot do what `CHECKS` says."""
    for one in CHECKS[image]:
        done = contained(root, one.arguments)
        output = done.stdout + done.stderr
        if done.returncode != one.status or one.prints not in output:
            raise CheckError(
                f"in image {image}, `{' '.join(one.arguments)[:200]}` ended with {done.returncode} instead of {one.status}"
                f"{f' or did not print {one.prints}' if one.prints else ''}: {output.strip()[-2000:]}"
            )


def contained(root: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The command in the image under `root`, by runc."""
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder, "hosts")
        hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
        Path(folder, "config.json").write_text(json.dumps(specification(root, hosts, arguments)))
        name = f"continual-check-{uuid.uuid4().hex[:12]}"
        runc = shutil.which("runc") or "/usr/sbin/runc"
        try:
            return subprocess.run(
                [runc, "run", "--bundle", folder, name],
                check=False,
                capture_output=True,
                text=True,
                timeout=180,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            subprocess.run([runc, "delete", "--force", name], check=False, capture_output=True)
            raise CheckError(f"`{' '.join(arguments)[:200]}` did not end within 180 s") from None


def specification(root: Path, hosts: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    """The OCI runtime specification of one restricted container."""
    environment = {
        "PATH": "/opt/continual/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": "/tmp/matplotlib", "MPLBACKEND": "agg", "USER": "continual", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": "/opt/continual/nvidia/cu13/lib:/opt/continual/nvidia/cudnn/lib",
    }  # fmt: skip
    kinds = ("pid", "network", "ipc", "uts", "mount")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": UID, "gid": UID},
            "args": list(arguments),
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "ambient")},
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777"],
            },
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/etc/hosts", "type": "bind", "source": str(hosts), "options": ["bind", "ro"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }
