"""A real MinIO for the battery: built from its Go module once, started on 127.0.0.1 in a temporary folder."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from minio import Minio
from minio.error import MinioException

ROOT = Path(__file__).resolve().parents[2]
PORTS = itertools.cycle(itertools.chain(range(28_000 + os.getpid() % 1_000, 29_000), range(28_000, 29_000)))
"""Below those the kernel gives away itself, and one after the other: what was said to be free is nobody's before it is used."""
ACCESS, SECRET = "continual-test", "continual-test-secret"


@dataclass(frozen=True, slots=True)
class MinioServer:
    endpoint: str
    credentials_file: Path
    process: subprocess.Popen[bytes]

    def url(self, bucket: str) -> str:
        return f"s3://{bucket}?endpoint={self.endpoint}"


@pytest.fixture(scope="session")
def minio_binary() -> Path:
    """Loud when it cannot be had: a missing component is a failure, never a skip."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "hack/tools/build.py"), "minio"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"MinIO is needed for this test and cannot be had: {done.stderr}", pytrace=False)
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def minio_server(minio_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    folder = tmp_path_factory.mktemp("minio")
    credentials = folder / "credentials.json"
    credentials.write_text(json.dumps({"access_key": ACCESS, "secret_key": SECRET}))
    server = start_minio(minio_binary, folder, credentials)
    yield server
    server.process.kill()
    server.process.wait()


def start_minio(binary: Path, folder: Path, credentials: Path) -> MinioServer:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MINIO_ROOT_USER": ACCESS,
        "MINIO_ROOT_PASSWORD": SECRET,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "GOMAXPROCS": "1",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary), "server", "--address", f"127.0.0.1:{port}", str(folder / "data")],
            env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
        )  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not is_live(endpoint):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"MinIO did not start: {(folder / 'log').read_text()}", pytrace=False)
        time.sleep(0.1)
    return MinioServer(endpoint, credentials, process)


def is_live(endpoint: str, access: str = ACCESS, secret: str = SECRET) -> bool:
    """Whether it serves its owner: it calls itself ready earlier, and answers 503 until it knows its users."""
    with urllib3.PoolManager(timeout=5, retries=False) as pool:
        root = Minio(
            endpoint.removeprefix("http://"), access_key=access, secret_key=secret, secure=False, http_client=pool
        )
        try:
            root.list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError, OSError):
            return False
    return True


def die_with_parent() -> None:
    """The server ends even if the test run is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")
