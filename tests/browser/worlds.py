"""A real `continual local up` for the browser tests: a home, its models trained and serving, and everything gone afterwards."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from continual_clients.redis import connect_url
from continual_contract.keys import ModelKeys
from continual_contract.report import Report

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits-fast.yaml"
BOOTSTRAP_SECONDS = 240
PORTS = itertools.cycle(itertools.chain(range(29_000 + os.getpid() % 1_000, 30_000), range(29_000, 30_000)))
"""Below those the kernel gives away itself, and one after the other: what was said to be free is nobody's before it is used."""


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


def digits_manifest() -> dict[str, Any]:
    """digits-fast with a window long enough for a person to label in; images of another size than its own are refused."""
    found: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    spec = found["spec"]
    spec["model"]["input"]["fit"] = "Refuse"
    spec["feedback"]["window"] = "2m"
    spec["retraining"]["timeout"] = "15m"
    spec["rollout"]["deadline"] = "10m"
    spec["rollout"]["probation"]["deadline"] = "10m"
    return found


@dataclass(slots=True)
class World:
    """A home with a running `local up`; the verbs and looks are about `model`."""

    home: Home
    up: subprocess.Popen[bytes]
    log: Path
    model: str
    state: LocalState = field(init=False)

    def __post_init__(self) -> None:
        self.state = LocalState(self.home)

    def of(self, model: str) -> World:
        """The same home, about another model."""
        return World(self.home, self.up, self.log, model)

    @property
    def keys(self) -> ModelKeys:
        return ModelKeys("default", self.model)

    @property
    def path(self) -> str:
        """Of the model's page."""
        return f"/models/{self.model}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTINUAL_HOME": str(self.home.root), "OMP_NUM_THREADS": "1"}

    def verb(self, *words: str) -> str:
        """`continual <words>`, as a person types it."""
        done = subprocess.run(
            [sys.executable, "-m", "continual_cli", *words],
            env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"continual {' '.join(words)}: {done.stderr}"
        return done.stdout

    @contextmanager
    def producing(self, source: str, rate: float, *more: str) -> Iterator[None]:
        """`continual produce`, beside whatever happens meanwhile."""
        words = ["produce", source, "--rate", str(rate), "--model", self.model, *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "continual_cli", *words],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield
            assert process.poll() is None, f"`continual {' '.join(words)}` ended: {process.communicate()[1].decode()}"
        finally:
            process.terminate()
            process.communicate(timeout=30)

    def status(self) -> dict[str, Any]:
        return dict((self.state.find_model(self.model) or {}).get("status") or {})

    def spec(self) -> dict[str, Any]:
        return dict(self.state.read_model(self.model)["spec"])

    def patch(self, **values: Any) -> None:
        """Set fields, named like `rollout__offlineGate`, and apply the manifest as `continual apply` does."""
        manifest = self.state.read_model(self.model)
        spec = manifest["spec"]
        for name, value in values.items():
            *path, last = name.split("__")
            block = spec
            for part in path:
                block = block.setdefault(part, {})
            block[last] = value
        file = self.home.root / "patched.yaml"
        head = {"apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "metadata": {"name": self.model}}
        file.write_text(yaml.safe_dump({**head, "spec": spec}))
        self.verb("apply", "-f", str(file))

    def stable(self) -> str:
        return str((self.status().get("stable") or {}).get("version", ""))

    def phase(self, version: str) -> str:
        return next((r["phase"] for r in self.status().get("versions", ()) if r.get("version") == version), "")

    def wait(self, what: str, reached: Callable[[], object], seconds: float = 90.0) -> None:
        """Until it is so; the log's end when it never is."""
        deadline = time.monotonic() + seconds
        while not reached():
            tail = self.log.read_text(errors="replace")[-2000:]
            assert self.up.poll() is None, f"`local up` ended while waiting for {what}:\n{tail}"
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}, in vain:\n{tail}"
            time.sleep(0.2)

    def redis(self) -> Any:
        ends = self.state.endpoints()
        password = Path(ends.redis_password_file) if ends.redis_password_file else None
        return connect_url(ends.redis_url, ends.redis_username or "", password)

    def report(self) -> Report | None:
        raw = self.redis().hget(self.keys.report, "json")
        return Report.model_validate_json(raw) if raw else None

    def released(self) -> int:
        """Samples that a training may have."""
        report = self.report()
        return report.released_samples if report else 0

    def counted(self) -> int:
        report = self.report()
        return report.labels.counted if report else 0

    def settled(self) -> bool:
        status = self.status()
        return not any(status.get(name) for name in ("canary", "probation", "waiting"))


@contextmanager
def running(folder: Path, manifests: list[dict[str, Any]], files: Mapping[str, bytes] | None = None) -> Iterator[World]:
    """A home whose models serve; `files` lie in its object store before anything starts. The world is about the first model."""
    home = Home(folder / "home").create()
    for key, data in (files or {}).items():
        place = home.store / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    words = []
    for manifest in manifests:
        file = folder / f"{manifest['metadata']['name']}.yaml"
        file.write_text(yaml.safe_dump(manifest))
        words += ["-f", str(file)]
    log = folder / "up.log"
    with log.open("ab") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "continual_cli", "local", "up", *words],
            env={**os.environ, "CONTINUAL_HOME": str(home.root), "OMP_NUM_THREADS": "1"},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    worlds = [World(home, up, log, str(manifest["metadata"]["name"])) for manifest in manifests]
    try:
        for world in worlds:
            world.wait(f"{world.model} v1 to serve", lambda w=world: _serves(w), BOOTSTRAP_SECONDS)
        yield worlds[0]
    finally:
        _end(worlds[0])
        shutil.rmtree(folder, ignore_errors=True)


def _serves(world: World) -> bool:
    return bool((world.status().get("stable") or {}).get("readyReplicas"))


def _end(world: World) -> None:
    """In order if it can, by force if it must: nothing outlives the test."""
    world.up.send_signal(signal.SIGTERM)
    try:
        world.up.wait(40)
    except subprocess.TimeoutExpired:
        world.up.kill()
        world.up.wait()
    left = subprocess.run(["pgrep", "-f", str(world.home.root)], capture_output=True, text=True, check=False)
    for pid in left.stdout.split():
        if int(pid) != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
