"""How the cost of a request grows: with the batch, with the image, with the number of models; what memory and Redis hold; int8.

    python benchmarks/serving/growth.py               `make bench-growth`, about five minutes
    python benchmarks/serving/growth.py --only batch  one part; the others are kept as growth.json has them

Every point is a drained backlog through the real worker processes. CPU microseconds are those of the workers, by their own clocks, so they
hardly depend on what else the machine does; Redis' own are given beside them. Writes growth.json and growth.png; there are no goals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
import psutil
from continual_contract.artifacts import InputShape
from fleet import side_by_side
from machine import cpu_seconds
from nets import CLASSES, NETS, Net, onnx_of
from rich.console import Console
from rich.table import Table
from stand import KEYS, Stand, stand

Point = dict[str, float]
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIDES = (16, 32, 64, 128, 224)
MODELS = (1, 2, 5, 10, 20)
ALL = 10_000
RUNTIME_SECONDS = 0.3


@dataclass(slots=True)
class Context:
    stand: Stand
    scale: float
    tell: Callable[[str], None]

    def count(self, full: int) -> int:
        return max(128, int(full * self.scale))


def drained(context: Context, net: Net, count: int, workers: int = 1, batch: int = 64) -> Point:
    """One backlog: images/s, CPU of the workers and of Redis per image, memory of a worker, foreign share."""
    stand = context.stand
    stand.reset()
    stand.route([("v1", ALL)])
    started = stand.start_workers(net, workers, batch=batch)
    for worker in started:
        worker.pause()
    stand.fill(net, count)
    server = [int(stand.client.info("server")["process_id"])]
    before = cpu_seconds(server)
    result = stand.drain(count)
    spent = cpu_seconds(server) - before
    memory = max(psutil.Process(worker.popen.pid).memory_info().rss for worker in started)
    return {
        "rate": result.rate, "worker_us": result.cpu_us, "redis_us": spent / count * 1e6,
        "worker_mb": memory / 2**20, "foreign": result.span.foreign,
    }  # fmt: skip


# Parts ----------------------------------------------------------------------------------------------------------------------------


def batches(context: Context) -> list[Point]:
    """The CIFAR net, one worker, the most requests at once from 1 to 256."""
    points = []
    for batch in BATCHES:
        context.tell(f"batch {batch}")
        points.append({"batch": batch, **drained(context, NETS["cnn3"], context.count(6_000), batch=batch)})
    return points


def payloads(context: Context) -> list[Point]:
    """From 0.8 kB to 150 kB: an MLP, whose first matrix grows with the image; the runtime's own part is measured beside it."""
    points = []
    for side in SIDES:
        net = Net("mlp", f"MLP {side}", InputShape(height=side, width=side, channels=3), 0)
        context.tell(f"{net.shape.nbytes / 1000:.1f} kB")
        context.stand.digests.pop(net.name, None)
        (context.stand.folder.parent / "nets" / "mlp.onnx").unlink(missing_ok=True)
        count = context.count(min(8_000, 120_000_000 // net.shape.nbytes))
        alone = runtime_us(onnx_of(net, context.stand.folder.parent / "nets"), net)
        points.append({"kilobytes": net.shape.nbytes / 1000, "runtime_us": alone, **drained(context, net, count)})
    return points


def runtime_us(onnx: bytes, net: Net) -> float:
    """CPU microseconds per image of the runtime alone, on one thread and full batches."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = ort.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])
    images, runs = net.images(64), 0
    session.run(["logits"], {"image": images})
    began = time.process_time()
    while time.process_time() - began < RUNTIME_SECONDS:
        session.run(["logits"], {"image": images})
        runs += 1
    return (time.process_time() - began) / runs / len(images) * 1e6


def models(context: Context) -> list[Point]:
    """1 to 20 models on one Redis, one worker process each, LeNet, all drained at the same time."""
    points = []
    for number in MODELS:
        context.tell(f"{number} models")
        count = context.count(24_000) // number
        points.append({"models": number, **side_by_side(context.stand, NETS["lenet5"], number, count)})
    return points


def int8(context: Context) -> list[Point]:
    """Static QDQ int8 beside float32, through the real worker."""
    from continual_workers.training.quantize import quantized  # noqa: PLC0415 -- only this part

    points = []
    for net in NETS.values():
        exact = onnx_of(net, context.stand.folder.parent / "nets")
        count, key = context.count(net.drain // 6), net.name
        context.tell(f"{net.title}, float32")
        point: Point = {f"float32_{name}": value for name, value in drained(context, net, count).items()}
        file = context.stand.folder.parent / "nets" / f"{key}.onnx"
        context.tell(f"{net.title}, int8")
        try:
            file.write_bytes(quantized(exact, net.images(128)))
            context.stand.digests.pop(key, None)
            point |= {f"int8_{name}": value for name, value in drained(context, net, count).items()}
        finally:
            file.write_bytes(exact)
            context.stand.digests.pop(key, None)
        points.append({"net": net.title, **point})  # type: ignore[dict-item]  # one name among numbers
    return points


def memory(context: Context) -> list[Point]:
    """What Redis holds after some requests of 0.8 kB and 3 kB, answered, and what that is for a million."""
    points = []
    for name in ("lenet5", "cnn3"):
        net, stand = NETS[name], context.stand
        context.tell(f"memory, {net.title}")
        stand.reset()
        stand.route([("v1", ALL)])
        stand.start_workers(net, 1)
        before = int(stand.client.info("memory")["used_memory"])
        count = context.count(20_000)
        stand.fill(net, count)
        while stand.published() < count:
            time.sleep(0.05)
        held = int(stand.client.info("memory")["used_memory"]) - before
        stream = int(stand.client.memory_usage(KEYS.requests, samples=0) or 0)
        points.append(
            {"image_bytes": net.shape.nbytes, "bytes_per_request": held / count, "requests_stream": stream / count,
             "gb_per_million": held / count / 1000}
        )  # fmt: skip
    return points


PARTS: Mapping[str, Callable[[Context], list[Point]]] = {
    "batch": batches,
    "payload": payloads,
    "models": models,
    "int8": int8,
    "memory": memory,
}


# Showing --------------------------------------------------------------------------------------------------------------------------


def show(document: Mapping[str, list[Point]]) -> None:
    for part in PARTS:
        points = document.get(part) or []
        if points:
            table = Table(*points[0], title=part)
            for point in points:
                table.add_row(*(value if isinstance(value, str) else f"{value:,.4g}" for value in point.values()))
            Console(width=160).print(table)


def plot(document: Mapping[str, list[Point]], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 -- slow to import, wanted at the end only

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    curves = (("batch", "batch", "batch cap"), ("payload", "kilobytes", "image, kB"), ("models", "models", "models"))
    figure, all_axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for axes, (part, x, label) in zip(all_axes, curves, strict=True):
        points = document.get(part) or []
        for figure_name, title in (("worker_us", "workers"), ("runtime_us", "of them runtime"), ("redis_us", "Redis")):
            if not points or figure_name not in points[0]:
                continue
            axes.plot([p[x] for p in points], [p[figure_name] for p in points], marker="o", label=title)
        axes.set(xlabel=label, xscale="log", ylim=(0, None))
    all_axes[0].set_ylabel("CPU µs per request")
    all_axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full backlogs")
    parser.add_argument("--out", type=Path, default=Path("out/bench-growth"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # blocks end as they do at Ctrl-C
    file = options.out / "growth.json"
    document = json.loads(file.read_text()) if options.only and file.exists() else {}
    document["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "classes": len(CLASSES)}
    with (
        tempfile.TemporaryDirectory(prefix="continual-bench-") as folder,
        Console(stderr=True).status("starting") as status,
        stand(Path(folder) / "stand") as server,
    ):
        context = Context(server, options.scale, status.update)
        for part in options.only or PARTS:
            document[part] = PARTS[part](context)
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    show(document)
    plot(document, options.out / "growth.png")
    print(f"written: {file}, {options.out}/growth.png")


if __name__ == "__main__":
    main()
