"""What runs outlives `local up` killed with -9, is adopted by the next one, and nothing is ever started twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from continual_cli.local.cluster import LocalCluster
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from continual_operator.cluster import ModelRef

RUN = """
import asyncio, os, sys
from pathlib import Path
from continual_cli.local.cluster import LocalCluster
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState

cluster = LocalCluster(LocalState(Home(Path(sys.argv[1])).create()), os.environ)
asyncio.run(cluster.run(asyncio.Event()))
"""
REF = ModelRef("default", "digits")
LABELS = {"continual.dev/model": "digits"}


def deployment(script: str, replicas: int) -> dict[str, object]:
    container = {"name": "main", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "digits-v1", "labels": LABELS},
        "spec": {
            "replicas": replicas,
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }


@pytest.fixture
def home(tmp_path: Path):
    home = Home(tmp_path / "home").create()
    yield home
    asyncio.run(_clean(home))


async def _clean(home: Home) -> None:
    await LocalCluster(LocalState(home), os.environ).stop_all()


def put(home: Home, manifest: dict[str, object]) -> None:
    asyncio.run(LocalCluster(LocalState(home), os.environ).apply(manifest))


def supervisor(home: Home) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(home.root)], start_new_session=True)


def pods(home: Home) -> list[dict[str, object]]:
    cluster = LocalCluster(LocalState(home), os.environ)
    return [c for c in asyncio.run(cluster.children(REF)) if c["kind"] == "Pod"]


def alive(marks: Path) -> list[int]:
    """Pids that wrote themselves down and still live."""
    pids = [int(line) for line in marks.read_text().split()] if marks.exists() else []
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def wait_for(claim, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.05)


def kills(home: Home, marks: Path, seed: int, count: int, between=lambda: None, least: int = 2) -> None:
    """Kill the supervisor with -9 at random moments, then let one settle with so many processes at least."""
    draw = random.Random(seed)
    for _ in range(count):
        process = supervisor(home)
        time.sleep(draw.uniform(0.15, 1.2))
        process.kill()
        process.wait()
        between()
    process = supervisor(home)
    try:
        wait_for(lambda: len(alive(marks)) >= least)
        time.sleep(1.5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.long) for s in range(2, 6))])
def test_a_supervisor_killed_at_any_moment_starts_nothing_twice(home: Home, tmp_path: Path, seed: int) -> None:
    """Two replicas mean two processes ever, whenever the supervisor died; the mutation shows that the check sees a third."""
    marks = tmp_path / "marks"
    put(home, deployment(f"echo $$ >> {marks}; exec sleep 300", 2))
    kills(home, marks, seed, count=6)
    assert len(marks.read_text().split()) == 2
    assert len(alive(marks)) == 2


def test_without_the_records_of_running_processes_some_would_run_twice(home: Home, tmp_path: Path) -> None:
    """Mutation: pidfiles and locks taken away at once between two lives, the same scenario double-starts."""
    marks = tmp_path / "marks"
    put(home, deployment(f"echo $$ >> {marks}; exec sleep 300", 2))
    first = supervisor(home)
    wait_for(lambda: len(alive(marks)) == 2)
    before = alive(marks)
    try:
        kills(home, marks, seed=1, count=1, between=lambda: (home.run / "pods").rename(tmp_path / "taken"), least=3)
        assert len(marks.read_text().split()) > 2
    finally:
        first.kill()
        first.wait()
        for pid in alive(marks) or before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_an_adopted_process_that_ends_is_restarted_with_its_exit_code(home: Home, tmp_path: Path) -> None:
    """The new supervisor is not its parent, and still learns how it ended."""
    marks = tmp_path / "marks"
    put(home, deployment(f"echo $$ >> {marks}; exec sleep 300", 1))
    first = supervisor(home)
    wait_for(lambda: len(alive(marks)) == 1)
    first.kill()
    first.wait()
    os.kill(alive(marks)[0], signal.SIGKILL)  # ends while nobody looks
    second = supervisor(home)
    try:
        wait_for(lambda: len(marks.read_text().split()) == 2)
        wait_for(lambda: "running" in pods(home)[0]["status"]["containerStatuses"][0]["state"])
    finally:
        second.kill()
        second.wait()
    [pod] = pods(home)
    status = pod["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    ended = status["lastState"]["terminated"]
    assert (ended["exitCode"], ended["signal"], ended["reason"]) == (137, 9, "Error")


def test_a_process_whose_shim_was_killed_too_is_kept_and_its_end_is_noticed(home: Home, tmp_path: Path) -> None:
    """kill -9 of a random process may hit the small parent; the worker must go on and not be doubled."""
    marks = tmp_path / "marks"
    put(home, deployment(f"echo $$ >> {marks}; exec sleep 300", 1))
    process = supervisor(home)
    try:
        wait_for(lambda: len(alive(marks)) == 1)
        [pid] = alive(marks)
        shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGKILL)
        time.sleep(1.0)
        assert alive(marks) == [pid]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(marks.read_text().split()) == 2 and len(alive(marks)) == 1)
    finally:
        process.kill()
        process.wait()


def test_a_job_stopped_with_the_machine_goes_on_and_counts_no_failure(home: Home, tmp_path: Path) -> None:
    """Ending `local up` is no failure of a training; its Job is run again at the next start."""
    marks = tmp_path / "marks"
    script = f"echo $$ >> {marks}; [ $(wc -l < {marks}) -gt 1 ] || exec sleep 300"  # the first time long
    template = {"spec": {"restartPolicy": "Never", "containers": [{"command": ["sh", "-c", script]}]}}
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train", "labels": LABELS},
        "spec": {"template": template},
    }

    async def first_life() -> None:
        cluster = LocalCluster(LocalState(home), os.environ)
        await cluster.create(manifest)
        stop = asyncio.Event()
        task = asyncio.create_task(cluster.run(stop))
        while not marks.exists():  # noqa: ASYNC110 -- what is waited for is written by another process
            await asyncio.sleep(0.02)
        stop.set()
        await task
        await cluster.stop_all()

    async def second_life() -> dict[str, object]:
        cluster = LocalCluster(LocalState(home), os.environ)
        stop = asyncio.Event()
        task = asyncio.create_task(cluster.run(stop))
        status: dict[str, object] = {}

        async def over() -> bool:
            status.update((await cluster.children(REF))[0]["status"])
            return "conditions" in status

        while not await over():  # noqa: ASYNC110 -- what is waited for is in another's files
            await asyncio.sleep(0.05)
        stop.set()
        await task
        return status

    asyncio.run(asyncio.wait_for(first_life(), 60))
    status = asyncio.run(asyncio.wait_for(second_life(), 60))
    assert (status["succeeded"], status["failed"]) == (1, 0)
    assert len(marks.read_text().split()) == 2
