"""Real servers for tests: on 127.0.0.1, on a free port, in a temporary folder, gone whatever happens to the test."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from continual_contract.functions import library_source
from hypothesis import HealthCheck, settings
from redis.backoff import NoBackoff
from redis.retry import Retry

settings.register_profile("continual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("continual")
"""How fast a shared machine makes examples is no claim of ours: the first text on a fresh clone alone takes seconds."""

PORTS = itertools.cycle(itertools.chain(range(20_000 + os.getpid() % 2_000, 22_000), range(20_000, 22_000)))
"""Below those the kernel gives away itself, and one after the other: what was said to be free is nobody's before it is used."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends, however it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


class RedisServer:
    """A redis-server of one test: append-only file, fsync every second."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []
        self._extra: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *extra: str) -> None:
        """Start, or start again on the same port and folder; `extra` are further redis-server options."""
        binary = shutil.which("redis-server")
        assert binary, "redis-server is not installed: run `make setup`"
        self._extra = extra or self._extra
        with (self.dir / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.dir), "--save", "",
                 "--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning", *self._extra],
                stdout=log, stderr=log, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
            )  # fmt: skip
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        with redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, (self.dir / "redis.log").read_text()
                    time.sleep(0.02)

    def load_functions(self, source: str | None = None) -> None:
        """Load the function library (or a changed copy, for a mutation check)."""
        self.client().function_load(source or library_source(), replace=True)

    def connect(self) -> redis.Redis:
        """A client of the caller's own: bytes, RESP2, no retries. Fit as a consumer's `connect`, also in another process."""
        return redis.Redis(port=self.port, protocol=2, socket_timeout=10, retry=Retry(NoBackoff(), 0))

    def client(self) -> redis.Redis:
        """A client that is closed when the test ends."""
        client = self.connect()
        self._clients.append(client)
        return client

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def restart(self, *, kill9: bool = False) -> None:
        """Down and up again with the same data; with `kill9` without a farewell."""
        self.kill9() if kill9 else self.stop()
        self.start()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)
            self.kill9()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A fresh redis-server without functions; call `load_functions()` where they are wanted."""
    yield from _running(tmp_path / "redis")


@pytest.fixture(scope="module")
def redis_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The same for all tests of a module."""
    yield from _running(tmp_path_factory.mktemp("module") / "redis")


def _running(folder: Path) -> Iterator[RedisServer]:
    folder.mkdir()
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()
