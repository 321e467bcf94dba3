"""The managed Redis: what it acknowledged stays, its port stays, and whatever prevents it is said in one sentence."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from continual_cli.local.paths import Home
from continual_cli.local.redis import RedisServer, check_external, find_server, split_credentials
from continual_clients.redis import connect_url
from continual_contract.errors import AddressInUseError, NotFoundError, RedisUnavailableError, UsageError


@pytest.fixture
def home(tmp_path: Path):
    home = Home(tmp_path / "h").create()
    yield home
    asyncio.run(RedisServer(home, None, os.environ).stop())


class ForgetfulServer(RedisServer):
    """Mutation: no append-only file."""

    def _configure(self) -> None:
        super()._configure()
        path = self._home.redis / "redis.conf"
        path.write_text(path.read_text().replace("appendonly yes", "appendonly no"))


async def killed_while_writing(server: RedisServer, kills: int = 2) -> tuple[set[bytes], set[bytes]]:
    """(acknowledged ids, ids that are there after the last restart)."""
    await server.start()
    stop = asyncio.Event()
    guard = asyncio.create_task(server.supervise(stop))
    client = connect_url(server.url, password_file=server.password_file)
    acknowledged: set[bytes] = set()

    async def write(over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                acknowledged.add(await asyncio.to_thread(client.xadd, "s", {"a": "b"}))
            except (redis.ConnectionError, redis.TimeoutError):
                await asyncio.sleep(0.05)

    for _ in range(kills):
        over = asyncio.Event()
        writing = asyncio.create_task(write(over))
        await more(acknowledged, 60)
        # A running fsync may hold back what `everysec` has acknowledged: from here on each write is on disk before its reply.
        await asyncio.to_thread(client.config_set, "appendfsync", "always")
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)
        await more(acknowledged, 60)
        over.set()
        await writing
    there = {entry for entry, _ in await asyncio.to_thread(read_back, client)}
    stop.set()
    await guard
    client.close()
    return acknowledged, there


async def more(acknowledged: set[bytes], count: int) -> None:
    """Until so many have come to those that are acknowledged."""
    wanted, deadline = len(acknowledged) + count, time.monotonic() + 60
    while len(acknowledged) < wanted:
        assert time.monotonic() < deadline, "nothing is acknowledged any more"
        await asyncio.sleep(0.01)


def read_back(client: redis.Redis) -> list:
    for _ in range(100):
        try:
            return client.xrange("s")
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(0.1)
    raise AssertionError("Redis did not come back in 10 s")


def test_a_killed_redis_comes_back_with_everything_it_acknowledged(home: Home) -> None:
    """S11 locally: 0 acknowledged lost, on the same port, within the producer's patience."""
    acknowledged, there = asyncio.run(killed_while_writing(RedisServer(home, None, os.environ)))
    assert len(acknowledged) > 100
    assert acknowledged <= there


def test_without_the_append_only_file_acknowledged_entries_would_be_lost(home: Home) -> None:
    """Mutation of the test above: the same ledger check fails."""
    acknowledged, there = asyncio.run(killed_while_writing(ForgetfulServer(home, None, os.environ)))
    assert not acknowledged <= there


def run(home: Home, scene: Callable[[RedisServer], Awaitable[None]], port: int | None = None) -> None:
    asyncio.run(scene(RedisServer(home, port, os.environ)))


def test_a_running_server_is_adopted_and_not_started_again(home: Home) -> None:
    async def scene(server: RedisServer) -> None:
        await server.start()
        pid = server.pid
        other = RedisServer(home, None, os.environ)
        await other.start()
        assert other.pid == pid

    run(home, scene)


def test_only_the_owner_on_this_machine_gets_in(home: Home) -> None:
    """127.0.0.1 and a password that is in no argv and no world-readable file."""

    async def scene(server: RedisServer) -> None:
        await server.start()
        password = server.password_file.read_text().strip()
        with pytest.raises(redis.AuthenticationError):
            connect_url(server.url).ping()
        assert password.encode() not in command_line(server)
        for file in (server.password_file, home.redis / "redis.conf"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        client = connect_url(server.url, password_file=server.password_file)
        for name, value in {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}.items():
            assert client.config_get(name)[name] == value
        client.close()

    run(home, scene)


def command_line(server: RedisServer) -> bytes:
    return Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_a_port_in_use_names_port_and_remedy(home: Home) -> None:
    async def scene(server: RedisServer) -> None:
        with pytest.raises(AddressInUseError, match=r"--redis-port.*give another port"):
            await server.start()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run(home, scene, port=taken.getsockname()[1])


def test_the_port_of_last_time_is_kept(home: Home) -> None:
    """Workers that were adopted know it."""

    async def scene(server: RedisServer) -> None:
        await server.start()
        port = server.port
        await server.stop()
        await server.start()
        assert server.port == port

    run(home, scene)


def test_another_port_is_refused_while_the_server_runs(home: Home) -> None:
    async def scene(server: RedisServer) -> None:
        await server.start()
        with pytest.raises(UsageError, match="already runs on port"):
            await RedisServer(home, 1, os.environ).start()

    run(home, scene)


def test_a_missing_redis_server_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"make setup.*--redis-url"):
        find_server(str(tmp_path))


def test_a_server_that_cannot_start_is_explained_by_its_own_last_words(home: Home) -> None:
    async def scene(server: RedisServer) -> None:
        (home.redis / "appendonlydir").write_text("a file where a folder must be")
        with pytest.raises(RedisUnavailableError, match=r"ended with exit code 1: .*"):
            await server.start()

    run(home, scene)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://h:1/0", ("redis://h:1/0", "", "")),
        ("redis://:p%40ss@h:1/2", ("redis://h:1/2", "", "p@ss")),
        ("rediss://u:p@h:1", ("rediss://h:1", "u", "p")),
    ],
)
def test_credentials_leave_the_url(given: str, expected: tuple[str, str, str]) -> None:
    """They go into a 0600 file; the bare URL may be shown."""
    assert split_credentials(given) == expected


def test_a_url_that_is_none_is_refused_without_showing_a_password() -> None:
    with pytest.raises(UsageError) as caught:
        split_credentials("http://me:secret@h:1/0")
    assert "secret" not in str(caught.value)


def test_an_external_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(RedisUnavailableError, match=r"redis://127\.0\.0\.1:1/0"):
        check_external("redis://127.0.0.1:1/0", "", None)
