"""The real `continual local` in a home of its own, as the demo handles it: started, killed with -9, started again, asked through the CLI.

Nothing is imported from the operator or the workers: this is what a person with a terminal can do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import redis
import yaml
from continual_clients.objectstore import open_store
from continual_clients.redis import connect_url
from continual_contract.errors import UnavailableError
from continual_contract.keys import ModelKeys

from continual_cli.local.paths import HOME_VARIABLE, NAMESPACE, Home
from continual_cli.local.state import LocalState
from continual_cli.where import TARGET_VARIABLE

MODEL = "digits"
BOOTSTRAP_KEY = "demo/bootstrap.npz"
VERB_SECONDS = 120.0


class VerbFailedError(Exception):
    """A `continual` command ended with another code than 0; the message is what it said."""


class Installation:
    """One home folder, one model, one `local up` process at a time."""

    def __init__(self, root: Path, log: Path) -> None:
        self.home = Home(root)
        self.state = LocalState(self.home)
        self.keys = ModelKeys(NAMESPACE, MODEL)
        self._log = log
        self._up: subprocess.Popen[bytes] | None = None

    # -- the operator's process

    def prepare(self, manifest: dict[str, Any], bootstrap: bytes) -> None:
        """Lay out the home: the manifest as a file, the first training set in the object store."""
        self.home.create()
        open_store(f"file://{self.home.store}").put(BOOTSTRAP_KEY, bootstrap)
        self._manifest.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")

    @property
    def _manifest(self) -> Path:
        return self.home.root / "demo.yaml"

    def start(self) -> None:
        """`continual local up -f …` in the foreground of its own session, its output in the log."""
        command = [sys.executable, "-m", "continual_cli", "local", "up", "-f", str(self._manifest)]
        with self._log.open("ab") as out:
            self._up = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self._env(), start_new_session=True
            )

    def running(self) -> bool:
        return self._up is not None and self._up.poll() is None

    def kill_operator(self) -> None:
        """SIGKILL, and nothing else: what it started stays behind."""
        assert self._up is not None
        self._up.kill()
        self._up.wait()

    def stop(self) -> None:
        """`continual local down`; whatever is left of `local up` is killed."""
        subprocess.run(
            [sys.executable, "-m", "continual_cli", "local", "down"],
            env=self._env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip
        if self._up is not None and self._up.poll() is None:
            self._up.kill()
            self._up.wait()

    def log_tail(self, lines: int = 15) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    # -- what a person does

    def verb(self, *words: str) -> str:
        """Run `continual <words>` and return what it printed.

        Raises:
            VerbFailedError: another exit code than 0.
        """
        done = subprocess.run(
            [sys.executable, "-m", "continual_cli", *words],
            env=self._env(), capture_output=True, text=True, timeout=VERB_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise VerbFailedError(f"continual {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def patch(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the spec as `kubectl edit` would."""

        def changed(model: dict[str, Any]) -> dict[str, Any]:
            change(model["spec"])
            return model

        self.state.update_model(MODEL, changed)

    def status(self) -> dict[str, Any]:
        """The model's status; empty until there is one."""
        model = self.state.find_model(MODEL)
        return dict((model or {}).get("status") or {})

    def decisions(self) -> list[dict[str, Any]]:
        """The whole ledger, oldest first, as it lies in the store."""
        folder = self.home.store / "models" / NAMESPACE / MODEL / "decisions"
        return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]

    def connect(self) -> redis.Redis:
        """A client of the cluster's Redis."""
        try:
            endpoints = self.state.endpoints()
        except UnavailableError as error:
            raise redis.ConnectionError(str(error)) from error
        password = Path(endpoints.redis_password_file) if endpoints.redis_password_file else None
        return connect_url(endpoints.redis_url, endpoints.redis_username or "", password)

    # -- chaos

    def kill_worker(self, version: str) -> int:
        """SIGKILL the inference worker of a version; returns its process id."""
        pid = self._worker_pid(version)
        if pid is None:
            raise VerbFailedError(f"no inference worker of {version} runs")
        os.kill(pid, signal.SIGKILL)
        return pid

    def _worker_pid(self, version: str) -> int | None:
        """The process whose environment names this home and this version, and whose command is an inference worker."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "continual_workers.inference" not in command:
                continue
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            store = environment.get("CONTINUAL_STORE_URL", "")
            if environment.get("CONTINUAL_VERSION") == version and str(self.home.root) in store:
                return int(process.pid)
        return None

    def _env(self) -> dict[str, str]:
        return {**os.environ, HOME_VARIABLE: str(self.home.root), TARGET_VARIABLE: "local", "OMP_NUM_THREADS": "1"}
