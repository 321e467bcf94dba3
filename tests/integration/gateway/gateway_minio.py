"""A real MinIO on 127.0.0.1, built from its Go module once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from continual_clients.objectstore import S3Store
from continual_contract.errors import StoreUnavailableError
from gateway_stand import die_with_parent, free_port

ROOT = Path(__file__).resolve().parents[3]
ACCESS, SECRET, BUCKET = "continual-test", "continual-test-secret", "gateway"
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Minio:
    url: str
    credentials: Path


@contextmanager
def minio(folder: Path) -> Iterator[Minio]:
    """Running, with an empty bucket; gone afterwards. A missing binary is a failure, never a skip."""
    built = subprocess.run(
        [sys.executable, str(ROOT / "hack/tools/build.py"), "minio"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    folder.mkdir()
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET,
        "MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "GOMAXPROCS": "1",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [built.stdout.strip().splitlines()[-1], "server", "--address", f"127.0.0.1:{port}", str(folder / "data")],
            env=environment, stdout=log, stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
    try:
        _await_bucket(process, f"http://127.0.0.1:{port}", folder)
        credentials = folder / "credentials.json"
        credentials.write_text(json.dumps({"access_key": ACCESS, "secret_key": SECRET}))
        yield Minio(f"s3://{BUCKET}?endpoint=http://127.0.0.1:{port}", credentials)
    finally:
        process.kill()
        process.wait()


def _await_bucket(process: subprocess.Popen[bytes], endpoint: str, folder: Path) -> None:
    """By making it: MinIO calls itself ready earlier, and answers 503 until it knows its users."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        with suppress(StoreUnavailableError):
            S3Store(endpoint, BUCKET, ACCESS, SECRET).ensure_bucket()
            return
        time.sleep(0.1)
