"""What `continual doctor` looks at: the machine first, then the local cluster, then each model's workers.

A check says what it found and, when that is bad, what to do. What cannot be known because something before it is missing is neither
good nor bad: it prints as a dash, and does not fail the whole.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from continual_contract.errors import ContinualError
from continual_operator import labels

from continual_cli import streams
from continual_cli.document import condition
from continual_cli.local.files import is_locked
from continual_cli.local.paths import Home, default_home
from continual_cli.local.status import ProcessRow, read_status
from continual_cli.target import Target
from continual_cli.where import here
from continual_cli.world import LocalWorld, open_world

HEADS = ("Check", "Ok", "Found", "Remedy")
NEEDED_PYTHON = (3, 11)
NEEDED_BYTES = 1 << 30
SILENT_SECONDS = 60.0
"""A worker or evaluator that said nothing for longer is not well."""


@dataclass(frozen=True, slots=True)
class Check:
    """`ok`: None when it could not be looked at."""

    check: str
    ok: bool | None
    found: str
    remedy: str = ""

    def row(self) -> tuple[object, ...]:
        return (self.check, self.ok, self.found, "" if self.ok else self.remedy)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Check]:
    """All checks, in the order in which they depend on each other."""
    if here().kind == "kubernetes":
        return [python(), *kubernetes()]
    home = Home(default_home())
    return [python(), redis_server(), port(), *disk(home.root), *cluster(home)]


def python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= NEEDED_PYTHON, found, "install Python 3.11 or newer")


def kubernetes() -> Iterator[Check]:
    """The API server, the resource, and what the operator says of each model; Redis only where the user opened a way."""
    try:
        world = open_world()
        models = world.read_models()
    except ContinualError as error:
        yield Check("kubernetes", False, error.describe(), error.remedy)
        return
    yield Check("kubernetes", True, f"{len(models)} ContinualModel(s) in the namespace")
    if here().redis_url is not None:
        yield redis_pings(Target(world, "doctor", {}))
    for document in models:
        yield readiness(Target.of(world, document))


def redis_pings(target: Target) -> Check:
    try:
        with streams.reaching(target.redis):
            target.redis.ping()
    except ContinualError as error:
        return Check("redis", False, error.describe(), "check --redis-url, user and password")
    return Check("redis", True, str(here().redis_url))


def redis_server() -> Check:
    path = shutil.which("redis-server")
    if path is None:
        return Check("redis-server", False, "not on PATH", "install it: apt install redis-server; or `make setup`")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    version = next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), "0")
    fits = int(version.partition(".")[0] or 0) >= 7
    return Check("redis-server", fits, f"{version} at {path}", "install Redis 7.0 or newer, or Valkey")


def port() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            return Check("ports", True, f"127.0.0.1:{server.getsockname()[1]} is free")
    except OSError as error:
        return Check("ports", False, str(error), "allow listening on 127.0.0.1")


def disk(home: Path) -> Iterator[Check]:
    """The nearest folder that exists decides what is free and writable."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        probe = there / f".continual-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
        yield Check("home", True, str(home))
    except OSError as error:
        yield Check("home", False, f"{there}: {error.strerror}", "set CONTINUAL_HOME to a writable folder")
    free = shutil.disk_usage(there).free
    remedy = "free at least 1 GiB, or set CONTINUAL_HOME elsewhere"
    yield Check("disk", free >= NEEDED_BYTES, f"{free / (1 << 30):.1f} GiB free", remedy)


def cluster(home: Home) -> Iterator[Check]:
    """The cluster, then what stands on it; nothing further without endpoints."""
    running = is_locked(home.up_lock)
    remedy = "start it: `continual local up`"
    if not home.endpoints.exists():
        yield Check("local cluster", None, "never started here", remedy)
        return
    yield Check("local cluster", True if running else None, "running" if running else "not running", remedy)
    reached = redis_answers()
    yield reached
    if reached.ok:
        yield functions_loaded()
    yield store_works()
    world = LocalWorld.open()
    for document in world.read_models():
        yield from model(Target.of(world, document), home, reachable=bool(reached.ok), running=running)


def any_target() -> Target:
    """A target for checks that are of no particular model."""
    return Target(LocalWorld.open(), "doctor", {})


def redis_answers() -> Check:
    remedy = "see `continual local status` and `continual local logs redis`"
    try:
        target = any_target()
        url = target.world.redis_address().url
        with streams.reaching(target.redis):
            target.redis.ping()
            aof: Any = target.redis.config_get("appendonly")
    except ContinualError as error:
        return Check("redis", False, error.describe(), remedy)
    kept = aof.get("appendonly", aof.get(b"appendonly")) in {"yes", b"yes"}
    return Check("redis", kept, f"{url}, append-only file {'on' if kept else 'off'}", "set appendonly yes")


def functions_loaded() -> Check:
    from continual_contract.functions import LIBRARY

    target = any_target()
    with streams.reaching(target.redis):
        found: Any = target.redis.execute_command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY)  # type: ignore[no-untyped-call]  # redis-py has no annotation here
    said = LIBRARY if found else f"{LIBRARY} is missing"
    return Check("functions", bool(found), said, "the operator loads them: `continual local up`")


def store_works() -> Check:
    """Write, read and delete one object."""
    key, data = f"doctor/{uuid.uuid4().hex}", b"continual"
    try:
        target = any_target()
        store = target.store
        store.put(key, data)
        same = store.get(key) == data
        store.delete(key)
    except ContinualError as error:
        return Check("store", False, error.describe(), "check the disk, or the store's address and credentials")
    return Check("store", same, target.world.store_address().url, "it gives back other bytes: check the disk")


def model(target: Target, home: Home, *, reachable: bool, running: bool) -> Iterator[Check]:
    yield readiness(target, running=running)
    if reachable:
        yield evaluator_heartbeat(target, running=running)
        yield worker_heartbeat(target, home, running=running)


def readiness(target: Target, *, running: bool = True) -> Check:
    """What the operator says; of no meaning while it does not run."""
    ready = condition(target.document, "Ready")
    said = f"{ready.get('reason', 'no status yet')} {ready.get('message', '')}".strip()
    ok = ready.get("status") == "True" if running else None
    return Check(f"{target.name}: ready", ok, said, f"see `continual describe {target.name}`")


def evaluator_heartbeat(target: Target, *, running: bool) -> Check:
    with streams.reaching(target.redis):
        raw: Any = target.redis.hget(target.keys.report, "json")
    name, remedy = f"{target.name}: evaluator", "see `continual local logs`"
    if raw is None:
        return Check(name, None, "no report yet", remedy)
    age = time.time() - json.loads(raw)["time_ms"] / 1000
    return Check(name, age < SILENT_SECONDS if running else None, f"reported {age:.0f} s ago", remedy)


def worker_heartbeat(target: Target, home: Home, *, running: bool) -> Check:
    """Whether the inference workers say they are ready: a worker that lost Redis for 15 s is not."""
    name, remedy = f"{target.name}: workers", "see `continual local status` and `continual local logs`"
    pods = [pod for pod in read_status(home).processes if is_worker(pod, target.name)]
    if not pods:
        return Check(name, None, "none yet", remedy)
    ready = sum(pod.ready for pod in pods)
    return Check(name, ready == len(pods) if running else None, f"{ready} of {len(pods)} ready", remedy)


def is_worker(pod: ProcessRow, model: str) -> bool:
    """Whether this process answers requests of the model; `digits-v7-…` is one of digits."""
    return pod.component == labels.INFERENCE and re.match(rf"{re.escape(model)}-v[0-9]+-", pod.name) is not None
