"""The gateway beside plain FastAPI + ONNX Runtime: the same net, the same machine, the same run, 64 requests outstanding.

    python benchmarks/serving/gateway.py              five rounds, interleaved
    python benchmarks/serving/gateway.py --rounds 1 --seconds 3

Both take a raw binary body (3 072 bytes of uint8 for the CIFAR net) over keep-alive connections and run on uvloop and httptools. Plain FastAPI is
taken at its better setting of one or two processes, ONNX Runtime with one thread each. The gateway answers through the stream: Redis
with its append-only file on, fenced commits, one or two workers. The client costs both the same. Exit code 1 if the gateway is slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop
from gateway_app import TOKEN
from machine import Span, span
from nets import CLASSES, NETS, Net, onnx_of
from stand import HERE, Stand, die_with_parent, free_port, stand

OUTSTANDING = 64


@dataclass(slots=True)
class Load:
    """What the client saw."""

    answered: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        return median(self.latencies) * 1000

    @property
    def p99_ms(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)] * 1000


class Connection(asyncio.Protocol):
    """Sends the same request again as soon as its answer has come."""

    def __init__(self, requests: Sequence[bytes], load: Load, until: float) -> None:
        self._requests, self._load, self._until = requests, load, until
        self._buffer, self._sent, self._at = b"", 0, 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._at = time.perf_counter()
        self._transport.write(self._requests[self._sent % len(self._requests)])  # type: ignore[attr-defined]  # uvloop's transport
        self._sent += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return
        self._buffer = b""
        self._load.latencies.append(time.perf_counter() - self._at)
        self._load.answered += head.startswith(b"HTTP/1.1 200")
        self._load.failed += not head.startswith(b"HTTP/1.1 200")
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.done.done():
            self.done.set_result(None)


async def drive(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    """64 connections, each with one request outstanding."""
    load, loop, until = Load(), asyncio.get_running_loop(), time.perf_counter() + seconds
    opened = [
        await loop.create_connection(lambda: Connection(requests, load, until), "127.0.0.1", port)
        for _ in range(OUTSTANDING)
    ]
    await asyncio.gather(*(connection.done for _, connection in opened))
    return load


def requests_for(net: Net, path: str) -> list[bytes]:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {net.shape.nbytes}\r\n\r\n"
    ).encode()
    return [head + image.tobytes() for image in net.images(64)]


@contextmanager
def process(*command: str, port: int, inherit: Sequence[int] = ()) -> Iterator[None]:
    """A server that accepts connections on `port`; gone afterwards."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    popen = subprocess.Popen(
        [sys.executable, *command], env=env, pass_fds=inherit,
        preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
    )  # fmt: skip
    try:
        _accepts(popen, port)
        yield
    finally:
        popen.kill()
        popen.wait()


def _accepts(popen: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        if popen.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no server on port {port}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                if probe.recv(12):
                    return
        except OSError:
            time.sleep(0.05)


def measure(port: int, requests: Sequence[bytes], seconds: float) -> tuple[Load, Span]:
    with span() as taken:
        load = uvloop.run(drive(port, requests, seconds))
    return load, taken


@contextmanager
def plain(net: Net, server: Stand, processes: int) -> Iterator[int]:
    """Plain FastAPI in some processes that share one listening socket."""
    onnx_of(net, server.folder.parent / "nets")
    file = server.folder.parent / "nets" / f"{net.name}.onnx"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        listener.set_inheritable(True)
        port = int(listener.getsockname()[1])
        command = (str(HERE / "plain.py"), net.name, str(file), str(listener.fileno()))
        if processes == 1:
            with process(*command, port=port, inherit=[listener.fileno()]):
                yield port
        else:
            with (
                process(*command, port=port, inherit=[listener.fileno()]),
                process(*command, port=port, inherit=[listener.fileno()]),
            ):
                time.sleep(2.0)
                yield port


@contextmanager
def gateway(net: Net, server: Stand, workers: int) -> Iterator[int]:
    """The gateway, its Redis, and some workers."""
    server.reset()
    server.start_workers(net, workers)
    server.route([("v1", 10_000)])
    port = free_port()
    options = {
        "port": port, "redis": f"redis://127.0.0.1:{server.port}/0", "store": f"{server.folder}/store",
        "model": document_of(net),
    }  # fmt: skip
    with process(str(HERE / "gateway_app.py"), json.dumps(options), port=port):
        yield port


def document_of(net: Net) -> dict[str, object]:
    shape = net.shape
    return {
        "metadata": {"namespace": "bench", "name": "net"},
        "spec": {
            "model": {
                "architecture": net.name, "classes": list(CLASSES),
                "input": {"height": shape.height, "width": shape.width, "channels": shape.channels},
            },
        },
        "status": {"stable": {"version": "v1"}},
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--net", choices=list(NETS), default="cnn3")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    net = NETS[options.net]
    with tempfile.TemporaryDirectory(prefix="continual-bench-") as folder, stand(Path(folder) / "stand") as server:
        rates = rounds(net, server, options.rounds, options.seconds)
    best_plain = max(median(rates["plain 1"]), median(rates["plain 2"]))
    best = max(median(rates["gateway 1"]), median(rates["gateway 2"]))
    ratio = best / best_plain
    print(f"gateway / plain FastAPI + ORT, {net.title}, {OUTSTANDING} outstanding: {ratio:.2f} (wanted ≥ 1)")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gateway.json").write_text(json.dumps({"rates": rates, "ratio": ratio}, indent=1) + "\n")
    return 0 if ratio >= 1 else 1


def rounds(net: Net, server: Stand, count: int, seconds: float) -> dict[str, list[float]]:
    """Requests per second of each setting, interleaved."""
    settings: dict[str, Callable[[], object]] = {
        "plain 1": lambda: plain(net, server, 1), "plain 2": lambda: plain(net, server, 2),
        "gateway 1": lambda: gateway(net, server, 1), "gateway 2": lambda: gateway(net, server, 2),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in settings}
    for number in range(count):
        for name, start in settings.items():
            path = "/infer" if name.startswith("plain") else "/v2/models/net/infer"
            with start() as port:  # type: ignore[attr-defined]  # a context manager
                uvloop.run(drive(port, requests_for(net, path), 1.0))
                load, taken = measure(port, requests_for(net, path), seconds)
            if load.failed:
                raise RuntimeError(f"{name}: {load.failed} of {load.answered + load.failed} requests failed")
            rates[name].append(load.answered / taken.seconds)
            print(
                f"round {number + 1}  {name:<10} {load.answered / taken.seconds:7.0f}/s  p50 {load.p50_ms:6.1f} ms  "
                f"p99 {load.p99_ms:6.1f} ms  CPU {taken.own_cpu / load.answered * 1e6:4.0f} µs each  strangers {taken.foreign:.0%}",
                flush=True,
            )
    return rates


if __name__ == "__main__":
    sys.exit(main())
