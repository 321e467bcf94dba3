"""The gateway beside plain FastAPI + ONNX Runtime: the same net, the same machine, the same run, 64 requests outstanding.

    python benchmarks/serving/gateway.py              five rounds, interleaved
    python benchmarks/serving/gateway.py --rounds 1 --seconds 3

Both take a raw binary body (3 072 bytes of uint8 for the CIFAR net) over keep-alive connections with TCP_NODELAY and run on uvloop and httptools.
Plain FastAPI is taken at its best setting: one, two or three processes, one or two threads of ONNX Runtime, in the event loop or in the thread
pool. The gateway answers through the stream: Redis with its append-only file on, fenced commits, one or two workers, batches of at most 32 or 64. All
settings are tried once, each side's two fastest enter the rounds. The client costs both the same. Exit code 1 if the gateway is slower.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import uvloop
from gateway_app import TOKEN
from machine import FOREIGN_LIMIT, Span, span
from nets import CLASSES, NETS, Net, onnx_of
from stand import HERE, Stand, die_with_parent, free_port, stand

OUTSTANDING = 64
TRIES = 3


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


@dataclass(frozen=True, slots=True)
class Plain:
    """How plain FastAPI is run."""

    processes: int
    threads: int = 1
    """Of ONNX Runtime, each."""
    pool: bool = False
    """The network runs in Starlette's thread pool instead of the event loop."""

    @property
    def name(self) -> str:
        return f"plain {self.processes}x{self.threads}{' pool' if self.pool else ''}"


@dataclass(frozen=True, slots=True)
class Ours:
    """How the model behind the gateway is run."""

    workers: int
    batch: int = 64
    """`spec.serving.batchSize`."""

    @property
    def name(self) -> str:
        return f"gateway {self.workers}x{self.batch}"


PLAIN = (Plain(1), Plain(2), Plain(3), Plain(1, threads=2), Plain(1, pool=True), Plain(2, pool=True))
OURS = (Ours(1), Ours(1, batch=32), Ours(2), Ours(2, batch=32))


@contextmanager
def plain(net: Net, server: Stand, setting: Plain) -> Iterator[int]:
    """Plain FastAPI in some processes that share one listening socket."""
    onnx_of(net, server.folder.parent / "nets")
    with socket.socket() as listener, ExitStack() as running:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        listener.set_inheritable(True)
        port = int(listener.getsockname()[1])
        options = {
            "net": net.name, "onnx": str(server.folder.parent / "nets" / f"{net.name}.onnx"), "listener": listener.fileno(),
            "threads": setting.threads, "pool": setting.pool,
        }  # fmt: skip
        for _ in range(setting.processes):
            running.enter_context(
                process(str(HERE / "plain.py"), json.dumps(options), port=port, inherit=[listener.fileno()])
            )
        time.sleep(2.0 if setting.processes > 1 else 0.0)  # the port answers as soon as one of them does
        yield port


@contextmanager
def gateway(net: Net, server: Stand, setting: Ours) -> Iterator[int]:
    """The gateway, its Redis, and some workers."""
    server.reset()
    server.start_workers(net, setting.workers, batch=setting.batch)
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
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--net", choices=list(NETS), default="cnn3")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    net = NETS[options.net]
    with tempfile.TemporaryDirectory(prefix="continual-bench-") as folder, stand(Path(folder) / "stand") as server:
        runs = Runs(net, server, options.seconds)
        samples = interleaved(runs, best_settings(runs), options.rounds)
    ratio = ratio_of(samples)
    print(f"gateway / plain FastAPI + ORT, {net.title}, {OUTSTANDING} outstanding: {ratio:.2f} (wanted ≥ 1)")
    options.out.mkdir(parents=True, exist_ok=True)
    document = {"ratio": ratio, "samples": {name: [asdict(one) for one in each] for name, each in samples.items()}}
    (options.out / "gateway.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if ratio >= 1 else 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one setting."""

    rate: float
    """Requests per second."""
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Of everything of ours, the client included, per request."""
    foreign: float


@dataclass(frozen=True, slots=True)
class Runs:
    """Starts a setting, warms it, loads it for some seconds, and ends it."""

    net: Net
    server: Stand
    seconds: float

    def of(self, name: str, start: Callable[[], AbstractContextManager[int]], path: str) -> Sample:
        requests = requests_for(self.net, path)
        with start() as port:
            uvloop.run(drive(port, requests, 1.0))
            load, taken = measure(port, requests, self.seconds)
        if load.failed:
            raise RuntimeError(f"{name}: {load.failed} of {load.answered + load.failed} requests failed")
        sample = Sample(
            load.answered / taken.seconds, load.p50_ms, load.p99_ms, taken.own_cpu / load.answered * 1e6, taken.foreign
        )
        print(
            f"{name:<15} {sample.rate:7.0f}/s  p50 {sample.p50_ms:6.1f} ms  p99 {sample.p99_ms:6.1f} ms  "
            f"CPU {sample.cpu_us:4.0f} µs each  strangers {sample.foreign:.0%}",
            flush=True,
        )
        return sample

    def undisturbed(self, setting: Plain | Ours) -> Sample:
        """One of three runs in which strangers used little of the machine, or the least disturbed of them."""
        samples: list[Sample] = []
        while len(samples) < TRIES and not any(sample.foreign <= FOREIGN_LIMIT for sample in samples):
            samples.append(self.start(setting))
        return min(samples, key=lambda sample: sample.foreign)

    def start(self, setting: Plain | Ours) -> Sample:
        if isinstance(setting, Plain):
            return self.of(setting.name, lambda: plain(self.net, self.server, setting), "/infer")
        return self.of(setting.name, lambda: gateway(self.net, self.server, setting), "/v2/models/net/infer")


def best_settings(runs: Runs) -> list[Plain | Ours]:
    """The two fastest of each side's, each run once: which of them is best is left to the rounds. What strangers took is counted as free."""
    found: list[Plain | Ours] = []
    for side in (PLAIN, OURS):
        samples = {setting: runs.start(setting) for setting in side}
        rates = {setting: sample.rate / (1 - sample.foreign) for setting, sample in samples.items()}
        found += sorted(rates, key=lambda setting: -rates[setting])[:2]
    return found


def interleaved(runs: Runs, settings: Sequence[Plain | Ours], rounds: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {}
    for number in range(rounds):
        print(f"round {number + 1}")
        for setting in settings:
            samples.setdefault(setting.name, []).append(runs.undisturbed(setting))
    return samples


def best_of(samples: Mapping[str, Sequence[Sample]], side: str) -> tuple[str, Sequence[Sample]]:
    """The setting with the best median rate."""
    return max(
        ((name, runs) for name, runs in samples.items() if name.startswith(side)),
        key=lambda pair: median(run.rate for run in pair[1]),
    )


def ratio_of(samples: Mapping[str, Sequence[Sample]]) -> float:
    """Of the medians of the best setting of each side; tells them, too."""
    (_, ours), (_, theirs) = best = best_of(samples, "gateway"), best_of(samples, "plain")
    for name, runs in best:
        fields = ("rate", "p50_ms", "p99_ms", "cpu_us", "foreign")
        told = {field: median(getattr(run, field) for run in runs) for field in fields}
        print(
            f"{name}: {told['rate']:.0f}/s, p50 {told['p50_ms']:.1f} ms, p99 {told['p99_ms']:.1f} ms, "
            f"CPU {told['cpu_us']:.0f} µs each, strangers {told['foreign']:.0%}"
        )
    return median(run.rate for run in ours) / median(run.rate for run in theirs)


if __name__ == "__main__":
    sys.exit(main())
