"""Who is measured and how each is started: the peers at several settings, Continual over Redis Streams and through its gateway.

`Setting.start` yields a function that runs the closed loop for some seconds; when the block ends nothing of the server is left.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import HERE, python_of
from load import FailedRequestError, Load, Streams, http_loop, stream_loop
from nets import Net, onnx_of
from stand import KEYS, Stand, free_port

from gateway import Ours, gateway, requests_for

START_SECONDS = 60.0
Loop = Callable[[float], Load]


@dataclass(frozen=True, slots=True)
class Stage:
    """What all contestants share: the network, its file, and the Redis of Continual's side."""

    net: Net
    stand: Stand
    folder: Path
    tries: int
    """How often a disturbed measure is taken at most."""

    @property
    def onnx(self) -> Path:
        folder = self.stand.folder.parent / "nets"
        onnx_of(self.net, folder)
        return folder / f"{self.net.name}.onnx"


@dataclass(frozen=True, slots=True)
class Setting:
    """One contestant at one setting. `options` go to its server as they are."""

    who: str
    options: Mapping[str, Any]

    @property
    def title(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.options.items())

    @contextmanager
    def start(self, stage: Stage) -> Iterator[Loop]:
        """Raises MissingPeerError where the peer cannot be installed, FailedRequestError where it does not start."""
        if self.who == "Continual":
            with _stream(stage, self.options) as loop:
                yield loop
        elif self.who == "Continual's gateway":
            with _gateway(stage, self.options) as loop:
                yield loop
        else:
            with _peer(self.who, self.options, stage) as loop:
                yield loop


@contextmanager
def _stream(stage: Stage, options: Mapping[str, int]) -> Iterator[Loop]:
    """The real workers, their Redis with its append-only file on, fenced commits and answers kept."""
    stage.stand.reset()
    stage.stand.route([("v1", 10_000)])
    stage.stand.start_workers(stage.net, options["workers"], batch=options["batch"])
    images = [image.tobytes() for image in stage.net.images(64)]
    at = Streams(stage.stand.port, KEYS.requests.encode(), KEYS.predictions.encode(), bool(options["transaction"]))
    yield lambda seconds: stream_loop(at, images, seconds)
    stage.stand.reset()


@contextmanager
def _gateway(stage: Stage, options: Mapping[str, int]) -> Iterator[Loop]:
    """The same behind our own HTTP API."""
    with gateway(stage.net, stage.stand, Ours(options["workers"], options["batch"])) as port:
        requests = requests_for(stage.net, "/v2/models/net/infer")
        yield lambda seconds: http_loop(port, requests, seconds)


@dataclass(frozen=True, slots=True)
class Peer:
    """A foreign server: its package, and what a request to it looks like by the setting `body`."""

    package: str
    bodies: Mapping[str, tuple[str, str, Callable[[bytes], bytes]]]
    """Path, content type, and how an image becomes a body."""


def _as_is(image: bytes) -> bytes:
    return image


def _v2(image: bytes) -> bytes:
    """The Open Inference Protocol with one base64 string."""
    data = [base64.b64encode(image).decode()]
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": data,
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _base64_list(image: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode()]}).encode()


BINARY, JSON = "application/octet-stream", "application/json"
PEERS: Mapping[str, Peer] = {
    "fastapi": Peer("fastapi", {"raw": ("/infer", BINARY, _as_is)}),
    "mlserver": Peer("mlserver", {"raw": ("/raw", BINARY, _as_is), "v2": ("/v2/models/net/infer", JSON, _v2)}),
    "litserve": Peer("litserve", {"raw": ("/infer", BINARY, _as_is)}),
    "bentoml": Peer("bentoml", {"raw": ("/raw/infer", BINARY, _as_is), "base64": ("/infer", JSON, _base64_list)}),
    "ray": Peer("ray", {"raw": ("/infer", BINARY, _as_is)}),
}


def _request(path: str, content_type: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def _peer(who: str, options: Mapping[str, object], stage: Stage) -> Iterator[Loop]:
    path, content_type, encode = PEERS[who].bodies[str(options["body"])]
    requests = [_request(path, content_type, encode(image.tobytes())) for image in stage.net.images(64)]
    shape = stage.net.shape
    folder = Path(tempfile.mkdtemp(prefix="peer-"))
    port = free_port()
    told = {
        "port": port, "onnx": str(stage.onnx), "shape": [shape.height, shape.width, shape.channels], "threads": 1,
        "folder": str(folder), **options,
    }  # fmt: skip
    script = HERE / f"serve_{who}.py"
    try:
        with kept([str(python_of(who)), str(script), json.dumps(told)], folder) as log:
            _wait(port, requests[0], log)
            yield lambda seconds: http_loop(port, requests, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1",
}  # fmt: skip


@contextmanager
def kept(command: Sequence[str], folder: Path) -> Iterator[Path]:
    """Run a server with everything it starts; all of it is gone afterwards. Yields its log."""
    log = folder / "log"
    own = {"PATH": f"{Path(command[0]).parent}:/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)}
    with log.open("wb") as file:
        keeper = subprocess.Popen(
            [sys.executable, str(HERE / "keeper.py"), *command], stdin=subprocess.PIPE, stdout=file, stderr=file,
            cwd=folder, env=ENVIRONMENT | own,
        )  # fmt: skip
    try:
        yield log
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(30)


def _wait(port: int, request: bytes, log: Path) -> None:
    """Until one request is answered."""
    deadline = time.monotonic() + START_SECONDS
    answer = b""
    while not answer.startswith(b"HTTP/1.1 200"):
        if time.monotonic() > deadline:
            raise FailedRequestError(f"no answer in {START_SECONDS:.0f} s: {answer[:200]!r}\n{log.read_text()[-2000:]}")
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as probe:
                probe.sendall(request)
                answer = probe.recv(4096)
        except OSError:
            time.sleep(0.1)
