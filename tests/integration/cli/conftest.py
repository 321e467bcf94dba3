"""A trained run folder, a home with a model and a real Redis, and the command as a process of its own."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from continual_cli.app import app
from continual_cli.local.paths import Home
from continual_cli.local.state import Endpoints, LocalState
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

LIBC = ctypes.CDLL(None)


def die_with_parent() -> None:
    LIBC.prctl(1, signal.SIGKILL)


@dataclass(frozen=True)
class Process:
    """A running `continual`; `stop` sends a signal and returns (exit code, stdout, stderr)."""

    popen: subprocess.Popen[str]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err


@pytest.fixture
def spawn() -> Iterator[Callable[..., Process]]:
    """Start `continual` as a process; it is gone when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **env: str) -> Process:
        popen = subprocess.Popen(
            [sys.executable, "-m", "continual_cli", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **env}, preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl, no Python locks
        )  # fmt: skip
        started.append(popen)
        return Process(popen)

    yield start
    for popen in started:
        popen.kill()
        popen.communicate()


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run `continual` with these words, in this process."""

    def call(*words: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(app, list(words), input=stdin)

    return call


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real digits as uint8 [1797, 28, 28, 1], and their labels."""
    raw, labels = load_digits(return_X_y=True)
    small = np.rint(raw.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    scaled = [np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR)) for image in small]
    return np.stack(scaled)[..., None], labels


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, np.ndarray]) -> Path:
    """What `continual train` makes of 1 000 digits in a `.npz`: the real thing, a small net."""
    folder = tmp_path_factory.mktemp("trained")
    np.savez(folder / "digits.npz", image=digits[0][:1000], label=digits[1][:1000])
    words = [
        "train",
        "--dataset",
        str(folder / "digits.npz"),
        "--arch",
        "mlp",
        "--epochs",
        "3",
        "--out",
        str(folder / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "continual_cli", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CONTINUAL_HOME", str(tmp_path / "home"))
    for name in ("CONTINUAL_DATA", "CONTINUAL_TARGET"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path / "home").create()


MODEL = {
    "apiVersion": "continual.dev/v1alpha1",
    "kind": "ContinualModel",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {
            "architecture": "mlp",
            "input": {"height": 28, "width": 28, "channels": 1, "fit": "Letterbox"},
            "classes": [str(d) for d in range(10)],
        },
        "bootstrap": {"dataset": {"name": "digits"}},
    },
}


@pytest.fixture
def model(home: Home, redis_server: Any) -> LocalState:
    """The model `digits` in a home whose endpoints are a real Redis with functions and a store on disk."""
    redis_server.load_functions()
    state = LocalState(home)
    state.write_endpoints(Endpoints(redis_server.url, None, None, f"file://{home.store}", managed_redis=False))
    state.create_or_replace(MODEL)
    return state


@pytest.fixture
def serving(model: LocalState, redis_server: Any, run_folder: Path, spawn: Callable[..., Process]) -> Process:
    """The model `digits`, answered by a real worker on the trained run folder."""
    process = spawn("serve", str(run_folder), "--redis-url", redis_server.url, "-m", "digits")
    client, deadline = redis_server.client(), time.monotonic() + 60
    while not client.exists("ctm:{default/digits}:routing"):
        assert process.popen.poll() is None, process.popen.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.fixture
def picture(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> Callable[..., Path]:
    """A digit as a PNG file of any size."""

    def draw(index: int, size: tuple[int, int] = (28, 28), rotate: float = 0) -> Path:
        path = tmp_path / f"digit-{index}-{size[0]}x{size[1]}-{rotate:g}.png"
        Image.fromarray(digits[0][index, :, :, 0]).rotate(rotate).resize(size).save(path)
        return path

    return draw


@pytest.fixture
def as_json_lines(digits: tuple[np.ndarray, np.ndarray]) -> Callable[[range], str]:
    """Digits in the JSON shape of a Python producer: base64 of float32 in 0..1."""

    def encode(indices: range) -> str:
        rows = (
            {
                "id": f"row-{i}",
                "image": base64.b64encode((digits[0][i] / 255).astype("<f4").tobytes()).decode(),
                "label": int(digits[1][i]),
            }
            for i in indices
        )
        return "".join(json.dumps(row) + "\n" for row in rows)

    return encode
