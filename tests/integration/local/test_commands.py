"""`continual local up|down|status|logs` as a person uses them, and what they say when something is in the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml


class Terminal:
    """A shell with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {**os.environ, "CONTINUAL_HOME": str(home)}

    def run(self, *words: str, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "continual_cli", "local", *words],
            env=self.env | env, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def processes(self) -> dict[str, int | None]:
        done = subprocess.run(
            [sys.executable, "-m", "continual_cli", "local", "status", "-o", "json"],
            env=self.env, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return {row["name"]: row["pid"] for row in json.loads(done.stdout)["processes"]}

    def living(self) -> list[str]:
        """Command lines of processes that name this home."""
        return [
            " ".join(p.info["cmdline"])
            for p in psutil.process_iter(["cmdline"])
            if any(str(self.home) in word for word in p.info["cmdline"] or ())
        ]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path / "h")
    yield terminal
    terminal.run("down", "--purge", "--timeout", "20")
    assert terminal.living() == []
    assert not terminal.home.exists()


def test_the_life_of_a_home(terminal: Terminal) -> None:
    """Up in the background, looked at, killed with -9, taken over, ended, ended again."""
    said = terminal.run("up", "--detach", "--timeout", "120")
    assert "continual is up" in said
    assert "next:" in said
    before = terminal.processes()

    assert f"pid {before['local up']}" in terminal.run("up", code=5)
    assert "Ready to accept connections" in terminal.run("logs", "redis")
    assert "name one of" in terminal.run("logs", "nothing", code=3)

    os.kill(before["local up"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while "`local up` is not running" not in (said := terminal.run("status")):
        assert time.monotonic() < deadline, said
    terminal.run("up", "--detach", "--timeout", "120")
    after = terminal.processes()
    assert after["redis-server"] == before["redis-server"]
    assert after["local up"] != before["local up"]

    assert terminal.run("down").strip() == "stopped"
    assert terminal.living() == []
    assert terminal.run("down").strip() == "nothing was running"


def test_down_ends_what_a_dead_up_has_left(terminal: Terminal) -> None:
    terminal.run("up", "--detach", "--timeout", "120")
    os.kill(terminal.processes()["local up"], signal.SIGKILL)
    assert terminal.run("down").strip() == "stopped"
    assert terminal.living() == []


def test_the_line_for_redis_cli_works_when_pasted_and_shows_no_password(terminal: Terminal) -> None:
    terminal.run("up", "--detach", "--timeout", "120")
    line = next(line for line in terminal.run("status").splitlines() if line.startswith("redis  REDISCLI"))
    command = line.removeprefix("redis  ")
    done = subprocess.run(["bash", "-c", f"{command} PING"], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "PONG"
    assert (terminal.home / "redis" / "password").read_text().strip() not in terminal.run("status", "-o", "json")


def test_sigterm_ends_everything_in_order(terminal: Terminal) -> None:
    """What a service manager sends; Ctrl-C is the same."""
    process = subprocess.Popen(
        [sys.executable, "-m", "continual_cli", "local", "up"], env=terminal.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if " ready " in line:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "stopped" in rest
    assert terminal.living() == []


def test_a_wrong_model_is_refused_before_anything_is_started(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    document = {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": "digits"},
        "spec": {},
    }
    file.write_text(yaml.safe_dump(document))
    assert "spec.model" in terminal.run("up", "-f", str(file), code=2)
    assert "spec.model" in terminal.run("up", "-f", str(file), "--detach", code=2)
    assert "no such file" in terminal.run("up", "-f", str(tmp_path / "missing.yaml"), code=3)
    assert not terminal.home.exists()


@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_a_port_in_use_is_one_sentence_with_a_remedy(terminal: Terminal, detach: tuple[str, ...]) -> None:
    """The exit code of the background process is the command's own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = terminal.run("up", "--redis-port", str(port), *detach, code=4)
    assert str(port) in said
    assert "give another port" in said
    assert "Traceback" not in said


def test_no_redis_server_is_one_sentence_with_a_remedy(terminal: Terminal, tmp_path: Path) -> None:
    said = terminal.run("up", code=3, PATH=str(tmp_path))
    assert "redis-server is not installed" in said
    assert "make setup" in said


def test_an_external_redis_is_used_and_left_alone(terminal: Terminal, redis_server) -> None:
    """Its password, had it one, would lie in a file; `down` does not touch it."""
    terminal.run("up", "--detach", "--timeout", "120", "--redis-url", redis_server.url)
    assert "redis-server" not in terminal.processes()
    assert redis_server.client().execute_command("FUNCTION", "LIST")
    terminal.run("down")
    assert redis_server.client().ping()


def test_an_unreachable_redis_is_one_sentence(terminal: Terminal) -> None:
    assert "redis://127.0.0.1:1/0" in terminal.run("up", "--redis-url", "redis://:secret@127.0.0.1:1/0", code=4)


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    said = Terminal(blocked / "h").run("up", code=4)
    assert "CONTINUAL_HOME" in said
    assert "name a writable folder" in said
