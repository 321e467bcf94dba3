"""What every process needs first: its environment, its logs, its health."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from continual_clients import logs
from continual_clients import redis as redis_client
from continual_clients.environment import WorkerEnvironment
from continual_clients.health import HealthServer, probe
from continual_contract import settings
from continual_contract.errors import AddressInUseError, RedisUnavailableError, UsageError
from prometheus_client import CollectorRegistry, Counter

ENV = {
    settings.NAMESPACE: "default",
    settings.MODEL: "digits",
    settings.REDIS_URL: "redis://127.0.0.1:6379/0",
    settings.STORE_URL: "file:///store",
}


def test_four_variables_are_enough() -> None:
    """The rest has defaults; the pod's name falls back to the host's."""
    env = WorkerEnvironment.from_env(ENV)
    assert env.keys.requests == "ctm:{default/digits}:requests"
    assert (env.batch_size, env.device, env.processes, env.answers_ttl_seconds) == (64, "cpu", 1, 90_000)
    assert env.pod == socket.gethostname()


@pytest.mark.parametrize("name", ENV)
def test_a_missing_variable_is_named(name: str) -> None:
    """The message says which to set."""
    with pytest.raises(UsageError, match=f"set the environment variable {name}"):
        WorkerEnvironment.from_env({**ENV, name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (settings.BATCH_SIZE, "0"),
        (settings.BATCH_SIZE, "many"),
        (settings.SAMPLE_PERCENT, "101"),
        (settings.CPUS, "nan"),
        (settings.DEVICE, "tpu"),
        (settings.ANSWERS_TTL, "-1"),
    ],
)
def test_a_wrong_value_names_variable_value_and_remedy(name: str, value: str) -> None:
    """No traceback of float()."""
    with pytest.raises(UsageError) as caught:
        WorkerEnvironment.from_env({**ENV, name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "; use " in str(caught.value)


@pytest.mark.parametrize(("cpus", "processes"), [("0.5", 1), ("1", 1), ("1.9", 1), ("2", 2), ("7.5", 7)])
def test_one_process_per_whole_core(cpus: str, processes: int) -> None:
    """floor(CPU), never none."""
    assert WorkerEnvironment.from_env({**ENV, settings.CPUS: cpus}).processes == processes


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_log_line_is_one_json_object_with_its_fields(root_logger: logging.Logger) -> None:
    """Constant message, fields beside it, exceptions inside it; values JSON does not know are printed."""
    stream = io.StringIO()
    logs.configure("inference", stream=stream)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("a.b").exception("batch failed", extra={"entries": 64, "path": Path("/x")})
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document["message"] == "batch failed"
    assert (document["component"], document["logger"], document["level"]) == ("inference", "a.b", "error")
    assert (document["entries"], document["path"]) == (64, "/x")
    assert "ValueError: no" in document["exception"]
    assert document["time"].endswith("Z")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_health_answers_on_both_kinds_of_address(kind: str, tmp_path: Path) -> None:
    """Alive at once, ready by the process's own word, metrics as text; other paths are not found."""
    ready: list[bool] = [False]
    registry = CollectorRegistry()
    Counter("continual_test", "A test", registry=registry).inc(3)
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/h.sock"
    with HealthServer(address, lambda: ready[0], registry) as server:
        where = f"127.0.0.1:{server.port}" if kind == "tcp" else address
        assert probe(where, "/healthz") == (200, b"alive\n")
        assert probe(where) == (503, b"not ready\n")
        ready[0] = True
        assert probe(where) == (200, b"ready\n")
        metrics = probe(where, "/metrics")
        assert metrics is not None
        assert b"continual_test_total 3.0" in metrics[1]
        assert (probe(where, "/etc/passwd") or (0,))[0] == 404
    assert probe(where) is None


def test_a_taken_address_is_a_clear_error_and_a_stale_socket_is_not(tmp_path: Path) -> None:
    """A killed process's socket file is taken over; a living one's is not."""
    path = tmp_path / "h.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with (
        HealthServer(f"unix:{path}", lambda: True) as server,
        pytest.raises(AddressInUseError, match="HEALTH_ADDRESS"),
    ):
        HealthServer(server.address, lambda: True).start()
    with (
        HealthServer("127.0.0.1:0", lambda: True) as tcp,
        pytest.raises(AddressInUseError, match="choose another address"),
    ):
        HealthServer(f"127.0.0.1:{tcp.port}", lambda: True).start()


@pytest.mark.parametrize("address", ["nonsense", "host:port", "1.2.3.4:99999"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    """The message shows both forms."""
    with pytest.raises(UsageError, match="use host:port or unix:/path"):
        HealthServer(address, lambda: True).start()


def test_redis_that_is_not_there_is_one_sentence() -> None:
    """Address and remedy, no traceback, no retries."""
    client: Any = redis_client.connect_url("redis://127.0.0.1:9/0")
    with pytest.raises(RedisUnavailableError, match=r"redis://127.0.0.1:9/0.*start Redis"):
        redis_client.check(client, "redis://127.0.0.1:9/0")
    client.close()
    assert client.connection_pool.connection_kwargs["retry"].get_retries() == 0


def test_a_password_comes_from_its_file_only(tmp_path: Path) -> None:
    """Trailing newline removed; a file that is not there is named."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    client: Any = redis_client.connect_url("redis://127.0.0.1:9", "worker", secret)
    assert client.connection_pool.connection_kwargs["password"] == "s3cret"
    assert client.connection_pool.connection_kwargs["username"] == "worker"
    client.close()
    with pytest.raises(UsageError, match="mount the secret"):
        redis_client.connect_url("redis://127.0.0.1:9", "worker", tmp_path / "nothing")
