"""The peers' servers leave nothing behind, whatever ends the benchmark."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

KEEPER = Path(__file__).resolve().parents[3] / "benchmarks/peers/keeper.py"
SERVER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{child.pid} {os.getpid()} done")
sys.exit() if sys.argv[2] == "leaves" else time.sleep(60)
"""
DEADLINE_SECONDS = 60.0
SECONDS_TO_DIE = 20.0
SECONDS_TO_STAY = 3.0


@pytest.mark.parametrize("server", ["stays", "leaves"])
@pytest.mark.parametrize("end", ["closes", "dies"])
def test_detached_processes_of_a_server_are_gone_when_the_benchmark_is(server: str, end: str, tmp_path: Path) -> None:
    """A grandchild in a session of its own is killed after the pipe was closed or its owner killed, also if its parent had left it."""
    assert is_gone_after(KEEPER, server, end, tmp_path)


def test_without_adopting_orphans_one_would_stay(tmp_path: Path) -> None:
    """The mutation check: a keeper that is no reaper does not find what its command has left."""
    mutant = tmp_path / "keeper.py"
    adopting = "ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)"
    assert adopting in KEEPER.read_text()
    mutant.write_text(KEEPER.read_text().replace(adopting, "ctypes.CDLL(None)"))
    assert not is_gone_after(mutant, "leaves", "closes", tmp_path, SECONDS_TO_STAY)


def is_gone_after(keeper: Path, server: str, end: str, folder: Path, seconds: float = SECONDS_TO_DIE) -> bool:
    """Whether the detached process ended with its keeper in so many seconds; it is killed in any case."""
    noted = folder / "pid"
    command = [sys.executable, str(keeper), sys.executable, "-c", SERVER, str(noted), server]
    hold = f"import subprocess, time; subprocess.Popen({command!r}, stdin=subprocess.PIPE); time.sleep(60)"
    started = [sys.executable, "-c", hold] if end == "dies" else command
    with subprocess.Popen(started, stdin=subprocess.PIPE) as owner:
        child, parent = _pids(noted)
        detached = psutil.Process(child)
        if server == "leaves":
            _until("the server leaves its child", lambda: detached.ppid() != parent)
        if end == "dies":
            owner.kill()
        assert owner.stdin is not None
        owner.stdin.close()
        owner.wait(DEADLINE_SECONDS)
        gone, alive = psutil.wait_procs([detached], seconds)
        for process in alive:
            process.kill()
    return bool(gone)


def _pids(noted: Path) -> list[int]:
    """Of the detached process and of the server that started it."""
    _until("the server starts", lambda: noted.exists() and noted.read_text().endswith("done"))
    return [int(word) for word in noted.read_text().split()[:2]]


def _until(claim: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, claim
        time.sleep(0.02)
