"""The Redis server of local mode: real, on this machine only, with its data on disk.

It listens on 127.0.0.1, writes an append-only file (fsync every second), never evicts, and wants a password that lies in a file of
mode 0600, never in argv. Like every process here it outlives `local up`, is adopted by the next one, and is restarted when killed. Its port stays the
same for the life of the home, since running processes know it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import redis
from continual_clients.redis import check, connect_url
from continual_contract.errors import AddressInUseError, NotFoundError, RedisUnavailableError, UsageError

from continual_cli.local.files import write_atomic
from continual_cli.local.paths import Home
from continual_cli.local.pods import backoff_seconds
from continual_cli.local.processes import Command, Exited, NotStarted, Running, Slot
from continual_cli.local.runner import rotate, tail

log = logging.getLogger("continual.local")

READY_SECONDS = 60.0
"""An append-only file of a few GB takes that long to load."""
STOP_SECONDS = 15.0
POLL_SECONDS = 0.1
WATCH_SECONDS = 0.2


class RedisServer:
    """The managed server of one home."""

    def __init__(self, home: Home, port: int | None, environ: Mapping[str, str]) -> None:
        self._home, self._wanted_port = home, port
        self._path = environ.get("PATH", os.defpath)
        self._slot = Slot(home.run / "redis")
        self._log = home.logs / "redis" / "redis.log"
        self._failed_starts = 0

    @property
    def password_file(self) -> Path:
        return self._home.redis / "password"

    @property
    def port(self) -> int:
        return int((self._home.redis / "port").read_text())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        seen = self._slot.observe(self._slot.latest())
        return seen.pid if isinstance(seen, Running) else None

    async def start(self) -> None:
        """Adopt the running server, or start one; returns when it answers.

        Raises:
            NotFoundError: redis-server is not installed.
            AddressInUseError: the port belongs to somebody else.
            RedisUnavailableError: it ended or did not answer in time.
        """
        attempt = self._slot.latest()
        if isinstance(self._slot.observe(attempt), NotStarted | Exited):
            binary = find_server(self._path)
            self._choose_port()
            self._configure()
            attempt += 1
            self._slot.trim(attempt - 1)
            command = Command(
                (binary, str(self._home.redis / "redis.conf")), {"PATH": self._path}, self._home.redis, self._log
            )
            self._slot.start(attempt, command)
            log.info("redis-server started", extra={"port": self.port})
        else:
            self._refuse_other_port()
            log.info("redis-server adopted", extra={"port": self.port})
        await self._answering(attempt)

    async def supervise(self, stop: asyncio.Event) -> None:
        """Start it again whenever it ends."""
        while not stop.is_set():
            seen = self._slot.observe(self._slot.latest())
            if isinstance(seen, Exited):
                await self._restart(seen)
            rotate(self._log)
            await asyncio.sleep(WATCH_SECONDS)

    async def stop(self) -> None:
        """Ask it to save and end; kill it when it does not."""
        attempt = self._slot.latest()
        self._slot.signal(attempt, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while isinstance(self._slot.observe(attempt), Running):
            if time.monotonic() > deadline:
                self._slot.signal(attempt, signal.SIGKILL)
            await asyncio.sleep(POLL_SECONDS)

    async def _restart(self, seen: Exited) -> None:
        """At once; after a start that failed, ever later."""
        log.warning("redis-server ended, starting it again", extra={"exit_code": seen.exit_code, "reason": seen.reason})
        await asyncio.sleep(backoff_seconds(self._failed_starts))
        try:
            await self.start()
        except (AddressInUseError, RedisUnavailableError) as error:
            self._failed_starts += 1
            log.error("redis-server does not start", extra={"error": str(error)})  # noqa: TRY400 -- told once per try, with its cause
        else:
            self._failed_starts = 0

    async def _answering(self, attempt: int) -> None:
        """Wait until it has loaded its data and answers."""
        client = connect_url(self.url, password_file=self.password_file)
        deadline = time.monotonic() + READY_SECONDS
        try:
            while True:
                seen = self._slot.observe(attempt)
                if isinstance(seen, Exited):
                    raise _ended(seen, self._log)
                try:
                    await asyncio.to_thread(client.ping)
                except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                    if time.monotonic() > deadline:
                        raise _ended(None, self._log) from None
                else:
                    return
                await asyncio.sleep(POLL_SECONDS)
        finally:
            client.close()

    def _choose_port(self) -> None:
        """The port given, else the one of last time, else a free one."""
        file = self._home.redis / "port"
        port = self._wanted_port or (self.port if file.exists() else free_port())
        check_free(port, "--redis-port", "Redis")
        write_atomic(file, str(port).encode())

    def _refuse_other_port(self) -> None:
        if self._wanted_port not in {None, self.port}:
            raise UsageError(
                f"the Redis of this home already runs on port {self.port}",
                field="--redis-port",
                value=self._wanted_port,
                remedy="leave it out, or run `continual local down` first",
            )

    def _configure(self) -> None:
        if not self.password_file.exists():
            write_atomic(self.password_file, secrets.token_urlsafe(24).encode())
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password_file.read_text().strip(),
            "dir": f'"{self._home.redis}"',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "tcp-keepalive": "60",
        }
        text = "".join(f"{name} {value}\n" for name, value in lines.items())
        write_atomic(self._home.redis / "redis.conf", text.encode())


def _ended(seen: Exited | None, log_file: Path) -> RedisUnavailableError:
    what = f"ended with exit code {seen.exit_code}" if seen else f"did not answer within {READY_SECONDS:.0f} s"
    last = tail(log_file).splitlines()
    return RedisUnavailableError(
        f"redis-server {what}: {last[-1] if last else 'no output'}", field="redis", remedy=f"read {log_file}"
    )


def find_server(path: str) -> str:
    """The redis-server binary.

    Raises:
        NotFoundError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=path):
            return found
    raise NotFoundError(
        "redis-server is not installed",
        field="PATH",
        value=path,
        remedy="run `make setup` (Debian/Ubuntu: `apt-get install redis-server`), or give --redis-url",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_free(port: int, option: str, who: str) -> None:
    """Raises `AddressInUseError` when somebody else listens on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise AddressInUseError(
                f"{who} cannot listen on 127.0.0.1:{port}: {error.strerror}",
                field=option,
                value=port,
                remedy="end what listens there (`ss -ltnp`), or give another port",
            ) from error


def split_credentials(url: str) -> tuple[str, str, str]:
    """(URL without credentials, username, password) of a Redis URL.

    Raises:
        UsageError: it is no Redis URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise UsageError("is no Redis URL", field="--redis-url", value=_masked(url), remedy="write redis://host:port/0")
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, unquote(parts.username or ""), unquote(parts.password or "")


def _masked(url: str) -> str:
    head, at, tail_ = url.rpartition("@")
    return f"…@{tail_}" if at and head else url


def check_external(url: str, username: str, password_file: Path | None) -> None:
    """Whether the given server answers, and is one that keeps what it is given.

    Raises:
        RedisUnavailableError: it does not answer.
        UsageError: it refuses the credentials.
    """
    client = connect_url(url, username, password_file)
    try:
        check(client, url)
    except redis.AuthenticationError as error:
        raise UsageError(
            f"Redis refuses the credentials: {error}",
            field="--redis-url",
            value=url,
            remedy="write redis://user:password@host:port/0",
        ) from error
    finally:
        client.close()
