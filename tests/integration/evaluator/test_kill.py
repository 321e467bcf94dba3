"""C-state: an evaluator that is killed with -9 again and again ends with the report of one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from continual_contract import settings
from evaluator_driver import World, comparable, forget_everything, samples_of, wait_for

ROOT = Path(__file__).parents[3]
WINDOW = 3.0


@contextmanager
def evaluator_process(world: World, server: Any, store: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real process; killed when the test leaves."""
    paths = [str(ROOT / part) for part in ("contract", "clients", "workers")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        settings.NAMESPACE: world.keys.namespace,
        settings.MODEL: world.keys.model,
        settings.REDIS_URL: server.url,
        settings.STORE_URL: f"file://{store}",
        settings.HEALTH_ADDRESS: f"unix:{store}.sock",
        "OMP_NUM_THREADS": "1",
    }
    with (server.dir / "evaluator.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "continual_workers.evaluation"], env=env, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def send(world: World, count: int, seed: int) -> None:
    """Requests with answers of both versions, a fifth with a key, and one label each, three quarters of them at once."""
    ids = world.ask(count, key=lambda n: b"" if n % 5 else f"clip-{n // 15}".encode())
    world.answer({"v1": world.mistaken(0.2, "old"), "v2": world.mistaken(0.1, "new")})
    chooser = random.Random(seed)
    for rid in ids:
        world.label(rid, world.mistaken(0.03, "ann")(rid), by=chooser.choice(("ann", "bob")))
    world.label("key:nobody", "1")
    world.label(ids[0], "unheard-of")


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 7))])
def test_a_killed_evaluator_reports_what_an_unkilled_one_reports(
    world: World, redis_server: Any, tmp_path: Path, seed: int
) -> None:
    """Kill -9 at random moments while labels pour in; then read the same streams once without kills: the same report."""
    chooser = random.Random(seed)
    print("seed", seed)
    since = world.route([("v1", 5000), ("v2", 5000)], shadow=["v1", "v2"])
    world.judge(since, window_seconds=WINDOW, shard_seconds=1.0)
    sent = 0
    for _ in range(4):
        with evaluator_process(world, redis_server, tmp_path / "store"):
            for _ in range(3):
                send(world, 40, seed)
                sent += 40
                time.sleep(chooser.uniform(0.0, 0.5))
            time.sleep(chooser.uniform(0.0, 2.0))
    settled = time.monotonic() + 2.5 * WINDOW
    killed = final_report(world, redis_server, tmp_path / "store", settled)
    kept = samples_of(world, tmp_path / "store", killed)
    forget_everything(world)
    world.judge(since, window_seconds=WINDOW, shard_seconds=1.0)
    unkilled = final_report(world, redis_server, tmp_path / "second", 0.0)
    assert killed["labels"]["counted"] == sent == len(kept)
    assert killed["labels"]["unknown"] == 24
    assert killed == unkilled
    assert killed["pair"]["pairs"] > 300
    assert len(set(kept)) == len(kept)


def final_report(world: World, server: Any, store: Path, not_before: float) -> dict[str, Any]:
    """Run an evaluator until its report has stood still; the verdict is then given, so that all samples are released."""
    with evaluator_process(world, server, store):
        wait_for(lambda: world.client.hexists(world.keys.report, "json"))
        while time.monotonic() < not_before:
            time.sleep(0.1)
        stand_still(world)
        judged = comparable(world.report())
        world.configure(window_seconds=WINDOW, shard_seconds=1.0)
        wait_for(lambda: world.report().pair is None)
        stand_still(world)
        released = comparable(world.report())
    return judged | {"shards": released["shards"], "released_samples": released["released_samples"]}


def stand_still(world: World) -> None:
    """Wait until 1.2 s pass without a change of the report."""
    last, since = None, time.monotonic()
    deadline = since + 40
    while time.monotonic() - since < 1.2:
        assert time.monotonic() < deadline, "the report does not come to rest"
        now = comparable(world.report())
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)
