"""Several models on one Redis, as the product runs them: each has its own streams, checkpoint and worker process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import CheckpointManifest, HoldoutScores, StoreLayout
from continual_contract.functions import route_call
from continual_contract.keys import ModelKeys
from machine import cpu_seconds, span
from nets import CLASSES, Net, onnx_of
from stand import Stand, Worker, die_with_parent

DRAIN_SECONDS = 300.0


def side_by_side(stand: Stand, net: Net, models: int, count: int) -> dict[str, float]:
    """`models` backlogs of `count` requests, drained at the same time by one process each."""
    stand.reset()
    names = [f"m{number}" for number in range(models)]
    for name in names:
        call = route_call(ModelKeys("bench", name), 0, 1, "uid", [("v1", 10_000)])
        stand.client.execute_command(*call.command())
    stand.workers.extend(_start(stand, net, name, number) for number, name in enumerate(names))
    for worker in stand.workers:
        worker.wait_ready()
        worker.pause()
    _fill(stand, net, names, count)
    pids = [worker.popen.pid for worker in stand.workers]
    server = [int(stand.client.info("server")["process_id"])]
    with span() as taken:
        used, spent, began = cpu_seconds(pids), cpu_seconds(server), time.perf_counter()
        for worker in stand.workers:
            worker.resume()
        _wait(stand, names, count, began)
        seconds = time.perf_counter() - began
        used, spent = cpu_seconds(pids) - used, cpu_seconds(server) - spent
    memory = [psutil.Process(pid).memory_info().rss for pid in pids]
    total = models * count
    return {
        "rate": total / seconds, "worker_us": used / total * 1e6, "redis_us": spent / total * 1e6,
        "worker_mb": sum(memory) / len(memory) / 2**20, "foreign": taken.foreign,
    }  # fmt: skip


def _fill(stand: Stand, net: Net, names: list[str], count: int) -> None:
    images = [image.tobytes() for image in net.images(64)]
    for name in names:
        pipeline = stand.client.pipeline(transaction=False)
        for number in range(count):
            pipeline.xadd(ModelKeys("bench", name).requests, {"d": images[number % 64]})
        pipeline.execute()


def _wait(stand: Stand, names: list[str], count: int, began: float) -> None:
    waiting = [ModelKeys("bench", name).predictions for name in names]
    while waiting:
        if time.perf_counter() - began > DRAIN_SECONDS:
            raise RuntimeError(f"{len(waiting)} models are not done after {DRAIN_SECONDS:.0f} s")
        time.sleep(0.01)
        waiting = [key for key in waiting if not stand.client.exists(key) or _added(stand, key) < count]


def _added(stand: Stand, key: str) -> int:
    return int(stand.client.xinfo_stream(key)["entries-added"])


def _start(stand: Stand, net: Net, name: str, number: int) -> Worker:
    registry = Registry(FileStore(stand.folder / "store"), StoreLayout("bench", name))
    digest = registry.publish(
        CheckpointManifest(
            namespace="bench", model=name, job="0123456789", mode="bootstrap", architecture=net.name, input=net.shape,
            classes=CLASSES, normalization=net.normalization,
            onnx=registry.put_blob(onnx_of(net, stand.folder.parent / "nets")),
            scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}), parity_max_abs_diff=0.0,
        )
    )  # fmt: skip
    health, log = f"unix:{stand.folder}/{name}.sock", stand.folder / f"{name}.log"
    env = {
        "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", settings.NAMESPACE: "bench", settings.MODEL: name,
        settings.REDIS_URL: f"redis://127.0.0.1:{stand.port}/0", settings.STORE_URL: f"file://{stand.folder}/store",
        settings.VERSION: "v1", settings.CHECKPOINT: digest, settings.HEALTH_ADDRESS: health,
        settings.POD_NAME: f"pod-{number}", settings.TERMINATION_LOG: str(stand.folder / f"{name}.termination"),
    }  # fmt: skip
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "continual_workers.inference"], env=env, stdout=file, stderr=file,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
    return Worker(popen, health, log)
