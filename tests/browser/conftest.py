"""A real `continual local up`, its gateway, and Debian's Chromium: what a person has before them.

One world serves all tests of a module: the model is trained once, and ends with the module, as the browser's own event loop does, so that
no later test runs beside it. Every page is watched: an error on its console, an answer that is
neither success nor asked for, or a request to another host fails the test that opened it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from continual_cli.local.gateway import GatewayFiles, sign_in_url
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from continual_clients.redis import connect_url
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits-fast.yaml"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
BOOTSTRAP_SECONDS = 240
KEYS = ModelKeys("default", "digits")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", default="", help="folder for pictures of the pages (see `make screenshots`)")


# The world ------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class World:
    """A home with a running `local up`."""

    home: Home
    up: subprocess.Popen[bytes]
    log: Path
    state: LocalState = field(init=False)

    def __post_init__(self) -> None:
        self.state = LocalState(self.home)

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

    def status(self) -> dict[str, Any]:
        return dict((self.state.find_model("digits") or {}).get("status") or {})

    def stable(self) -> str:
        return str((self.status().get("stable") or {}).get("version", ""))

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

    def settled(self) -> bool:
        status = self.status()
        return not any(status.get(name) for name in ("canary", "probation", "waiting"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """digits-fast with a window long enough for a person to label in, trained and serving."""
    folder = tmp_path_factory.mktemp("browser")
    home = Home(folder / "home").create()
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["feedback"]["window"] = "2m"
    manifest["spec"]["retraining"]["timeout"] = "15m"
    manifest["spec"]["rollout"]["deadline"] = "10m"
    manifest["spec"]["rollout"]["probation"]["deadline"] = "10m"
    file = folder / "digits.yaml"
    file.write_text(yaml.safe_dump(manifest))
    log = folder / "up.log"
    with log.open("ab") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "continual_cli", "local", "up", "-f", str(file)],
            env={**os.environ, "CONTINUAL_HOME": str(home.root), "OMP_NUM_THREADS": "1"},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    found = World(home, up, log)
    try:
        found.wait("v1 to serve", lambda: (found.status().get("stable") or {}).get("readyReplicas"), BOOTSTRAP_SECONDS)
        yield found
    finally:
        _end(found)
        shutil.rmtree(folder, ignore_errors=True)


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
            os.kill(int(pid), signal.SIGKILL)


# People ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Door:
    """A gateway with three people."""

    url: str
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def door(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A second gateway on the same home, as a replica would be, with a viewer, a labeler and an admin."""
    folder = tmp_path_factory.mktemp("door")
    tokens = {role: secrets.token_urlsafe(24) for role in ("viewer", "labeler", "admin")}
    people = [
        {"name": f"{role}-person", "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for role, token in tokens.items()
    ]
    (folder / "tokens.json").write_text(json.dumps(people))
    (folder / "key").write_text(secrets.token_urlsafe(48))
    ends = world.state.endpoints()
    port = _free_port()
    environment = {
        **world.environment,
        "CONTINUAL_REDIS_URL": ends.redis_url,
        "CONTINUAL_REDIS_PASSWORD_FILE": str(ends.redis_password_file),
        "CONTINUAL_STORE_URL": ends.store_url,
        "CONTINUAL_GATEWAY_ADDRESS": f"127.0.0.1:{port}",
        "CONTINUAL_GATEWAY_TOKENS_FILE": str(folder / "tokens.json"),
        "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(folder / "key"),
    }
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "continual_cli.local.serve_gateway"], env=environment, stdout=out, stderr=out
        )
    try:
        world.wait(f"the second gateway (its log: {folder / 'log'})", lambda: process.poll() or _answers(port), 120)
        assert process.poll() is None, (folder / "log").read_text(errors="replace")[-2000:]
        yield Door(f"http://127.0.0.1:{port}", tokens)
    finally:
        process.terminate()
        process.wait(40)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    from continual_cli.local.gateway import answers

    return answers(port)


# The browser ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    assert Path(CHROMIUM).exists(), "chromium is not installed: run `hack/setup chromium`"
    found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield found
    found.close()


@dataclass(slots=True)
class Watch:
    """What went wrong on pages while nobody looked. `expected` are statuses a test asks for."""

    host: str
    faults: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)

    def over(self, page: Page) -> None:
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("request", lambda request: self._requested(request.url))
        page.on("response", lambda response: self._answered(response.status, response.url))

    def _said(self, kind: str, text: str) -> None:
        asked = any(f"status of {status}" in text for status in self.expected)
        if kind in {"error", "warning"} and not asked:
            self.faults.append(f"console: {text}")

    def _requested(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != self.host:
            self.faults.append(f"foreign request: {url}")

    def _answered(self, status: int, url: str) -> None:
        if status >= 400 and status not in self.expected:
            self.faults.append(f"{status}: {url}")


@dataclass(slots=True)
class Visitor:
    """Opens pages of one gateway, watched."""

    browser: Browser
    url: str
    watch: Watch
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, path: str = "/", *, width: int = 1280, dark: bool = False, script: bool = True) -> Page:
        """A page in a context of its own, not signed in."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light",
            java_script_enabled=script, base_url=self.url, locale="en-GB",
        )  # fmt: skip
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        self.watch.over(page)
        page.goto(path)
        return page

    def sign_in(self, token: str, **options: Any) -> Page:
        """Signed in by token, on the list of models."""
        page = self.open("/signin", **options)
        page.fill("#token", token)
        page.click("main button")
        page.wait_for_url(self.url + "/")
        return page


@pytest.fixture
def visitor(browser: Browser, door: Door) -> Iterator[Visitor]:
    watch = Watch(urlsplit(door.url).netloc)
    found = Visitor(browser, door.url, watch)
    yield found
    for context in found.contexts:
        context.close()
    assert watch.faults == []


@pytest.fixture
def as_role(visitor: Visitor, door: Door) -> Callable[..., Page]:
    """`as_role("admin", dark=True)`: a signed-in page."""
    return lambda role, **options: visitor.sign_in(door.tokens[role], **options)


@pytest.fixture
def owner(browser: Browser, world: World) -> Iterator[Page]:
    """The person of this machine on the gateway that `local up` runs, signed in as `continual dashboard` does it."""
    url = sign_in_url(world.home)
    watch = Watch(urlsplit(url).netloc)
    found = Visitor(browser, GatewayFiles(world.home).url, watch)
    yield found.open(urlsplit(url).path + "?" + urlsplit(url).query)
    for context in found.contexts:
        context.close()
    assert watch.faults == []


# Images ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Digit:
    """One of scikit-learn's real digits as a file."""

    label: str
    png: bytes

    @property
    def upload(self) -> dict[str, Any]:
        return {"name": f"{self.label}.png", "mimeType": "image/png", "buffer": self.png}


@pytest.fixture(scope="session")
def digits() -> Callable[..., Digit]:
    """`digits(index, tilt)`: a real digit, 28 by 28, turned by so many degrees."""
    data = load_digits()

    def make(index: int, tilt: float = 0.0) -> Digit:
        image = Image.fromarray((data.images[index] * 255 / 16).astype(np.uint8))
        turned = image.resize((28, 28), Image.Resampling.BILINEAR).rotate(tilt, Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        turned.save(buffer, "PNG")
        return Digit(str(data.target[index]), buffer.getvalue())

    return make


# Traffic --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traffic(world: World) -> None:
    """Two hundred labelled requests, counted by the evaluator."""
    world.verb("produce", "digits", "--rate", "60", "--count", "200", "--labels-after", "0.5")
    world.wait("the labels to be counted", lambda: _counted(world) >= 150)


def _counted(world: World) -> int:
    raw = world.redis().hget(KEYS.report, "json")
    return Report.model_validate_json(raw).labels.counted if raw else 0


@pytest.fixture
def asked(world: World) -> list[str]:
    """Request ids of thirty answered requests that nobody labels."""
    client = world.redis()
    end = client.xrevrange(KEYS.predictions, count=1)
    last = end[0][0].decode() if end else "0-0"
    world.verb("produce", "digits", "--rate", "60", "--count", "30", "--seed", str(secrets.randbelow(10_000)))
    world.wait("thirty answers", lambda: len(client.xrange(KEYS.predictions, f"({last}", "+")) >= 30)
    return [fields[b"r"].decode() for _, fields in client.xrange(KEYS.predictions, "-", "+")]
