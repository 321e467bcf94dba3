"""`continual local up --detach` and the end of a home: processes of other sessions, found by lock and pidfile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from continual_contract.errors import ConflictError, ContinualError, UnavailableError, UsageError

from continual_cli.document import condition
from continual_cli.local.cluster import LocalCluster
from continual_cli.local.files import is_locked, read_json
from continual_cli.local.gateway import stop_gateway
from continual_cli.local.options import UpOptions, acquire
from continual_cli.local.paths import Home
from continual_cli.local.processes import has_ended, spawn
from continual_cli.local.redis import RedisServer
from continual_cli.local.runner import tail
from continual_cli.local.state import LocalState

POLL_SECONDS = 0.1
KILL_AFTER_SECONDS = 60.0
OWN_ENTRIES = ("objects", "events", "redis", "store", "logs", "run", "gateway", "endpoints.json", "token")


class UpFailedError(ContinualError):
    """`local up` ended before it was ready, with the exit code of its own error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def start_detached(options: UpOptions, timeout_seconds: float, environ: Mapping[str, str]) -> int:
    """Start `local up` in a session of its own; returns its pid once it is ready.

    Raises:
        UpFailedError: it ended with an error.
        UnavailableError: it is not ready in time; it goes on trying.
        ConflictError: another one runs on this home.
    """
    home = Home(options.home).create()
    os.close(acquire(home))
    home.up_state.unlink(missing_ok=True)
    output = home.logs / "up" / "up.log"
    output.parent.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "continual_cli.local"]
    command += ["up", "--redis-port", str(options.redis_port)] if options.redis_port else ["up"]
    variables = {**environ, "CONTINUAL_HOME": str(home.root)}
    command += ["--gateway-port", str(options.gateway_port)] if options.gateway_port else []
    command += [] if options.gateway else ["--no-gateway"]
    if options.redis_url:
        variables["CONTINUAL_LOCAL_REDIS_URL"] = options.redis_url  # may hold a password: never in argv
    pid = spawn(command, variables, output)
    wait_until(lambda: _is_ready(home, pid, output), timeout_seconds, "`local up` is not ready", str(output))
    return pid


def _is_ready(home: Home, pid: int, output: Path) -> bool:
    state = read_json(home.up_state) or {}
    if state.get("phase") == "ready" and state.get("pid") == pid:
        return True
    if has_ended(pid):
        raise UpFailedError(state.get("message") or tail(output), int(state.get("exit_code", 1)))
    return False


def wait_models(home: Home, names: list[str], timeout_seconds: float) -> None:
    """Wait until each model's condition Ready is True.

    Raises:
        UnavailableError: one is not in time; the message has its last reason.
    """
    state = LocalState(home)
    for name in names:
        claim, problem = partial(_is_model_ready, state, name), partial(_problem, state, name)
        wait_until(claim, timeout_seconds, problem, name)


def _is_model_ready(state: LocalState, name: str) -> bool:
    return condition(state.find_model(name) or {}, "Ready").get("status") == "True"


def _problem(state: LocalState, name: str) -> str:
    ready = condition(state.find_model(name) or {}, "Ready")
    return f"not ready: {ready.get('reason', 'NoStatus')} {ready.get('message', '')}".strip()


def wait_until(claim: Callable[[], bool], timeout_seconds: float, problem: str | Callable[[], str], where: str) -> None:
    """Poll a claim.

    Raises:
        UnavailableError: it did not become true in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not claim():
        if time.monotonic() > deadline:
            text = problem if isinstance(problem, str) else problem()
            raise UnavailableError(
                f"{text} after {timeout_seconds:.0f} s",
                field=where,
                remedy="see `continual local logs`, or wait longer with --timeout",
            )
        time.sleep(POLL_SECONDS)


# -- down


def stop_home(home: Home, environ: Mapping[str, str], timeout_seconds: float = KILL_AFTER_SECONDS) -> bool:
    """End `local up` and everything it started; returns whether there was anything.

    A `local up` that does not end in time is killed; what it leaves behind, or what one killed before has left, is ended here.
    """
    if not home.run.exists():
        return False
    was_up = _stop_up(home, timeout_seconds)
    lock = _acquire_patiently(home)
    try:
        return asyncio.run(_stop_leftovers(home, environ)) or was_up
    finally:
        os.close(lock)


def _stop_up(home: Home, timeout_seconds: float) -> bool:
    if not is_locked(home.up_lock):
        return False
    pid = int((read_json(home.up_state) or {}).get("pid", 0))
    if pid > 0:
        for number, patience in ((signal.SIGTERM, timeout_seconds), (signal.SIGKILL, 5.0)):
            _signal(pid, number)
            if _released(home, patience):
                break
    return True


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _released(home: Home, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while is_locked(home.up_lock):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _acquire_patiently(home: Home) -> int:
    """The lock of a home whose `local up` has just ended."""
    for _ in range(20):
        try:
            return acquire(home)
        except ConflictError:
            time.sleep(POLL_SECONDS)
    return acquire(home)


async def _stop_leftovers(home: Home, environ: Mapping[str, str]) -> bool:
    left = await stop_gateway(home)
    cluster = LocalCluster(LocalState(home), environ)
    left = bool(cluster.running()) or left
    await cluster.stop_all()
    server = RedisServer(home, None, environ)
    left = left or server.pid is not None
    await server.stop()
    return left


def purge(home: Home) -> None:
    """Remove everything local mode has made in this home.

    Raises:
        UsageError: the folder is not a home of ours.
    """
    if not home.root.exists():
        return
    if not (home.root / "objects").is_dir():
        raise UsageError(
            "is not a home of local mode", field="CONTINUAL_HOME", value=str(home.root), remedy="check the path"
        )
    for name in OWN_ENTRIES:
        path = home.root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(home.socket("x").parent, ignore_errors=True)
    if not any(home.root.iterdir()):
        home.root.rmdir()
