"""A real `continual local up`, its gateway, and Debian's Chromium: what a person has before them.

One world serves all tests of this folder: two models are trained once, side by side, and end with the folder, as the browser's own event
loop does, so that no later test runs beside it. Every page is watched: an error on its console, an answer that is
neither success nor asked for, or a request to another host fails the test that opened it.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from continual_cli.local.gateway import GatewayFiles, sign_in_url
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent))

import regions
from worlds import World, digits_manifest, free_port, running

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", default="", help="folder for pictures of the pages (see `make screenshots`)")


# The world ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """digits, and regions that has only seen noon: trained and serving."""
    models = [digits_manifest(), regions.manifest("photos/noon")]
    with running(tmp_path_factory.mktemp("browser"), models, regions.bucket("photos/noon", 200)) as found:
        yield found


@pytest.fixture(scope="package")
def photos(world: World) -> World:
    """The same home, about the model of regions."""
    return world.of("regions")


# People ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Door:
    """A gateway with three people; `notices` are what its webhook was told."""

    url: str
    tokens: dict[str, str]
    notices: list[dict[str, Any]]


@pytest.fixture(scope="package")
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real receiver on 127.0.0.1: its address, and the events it took."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/told", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="package")
def door(
    world: World, webhook: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
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
    port = free_port()
    environment = {
        **world.environment,
        "CONTINUAL_REDIS_URL": ends.redis_url,
        "CONTINUAL_REDIS_PASSWORD_FILE": str(ends.redis_password_file),
        "CONTINUAL_STORE_URL": ends.store_url,
        "CONTINUAL_GATEWAY_ADDRESS": f"127.0.0.1:{port}",
        "CONTINUAL_GATEWAY_TOKENS_FILE": str(folder / "tokens.json"),
        "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(folder / "key"),
        "CONTINUAL_GATEWAY_WEBHOOK_URL": webhook[0],
    }
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "continual_cli.local.serve_gateway"], env=environment, stdout=out, stderr=out
        )
    try:
        world.wait(f"the second gateway (its log: {folder / 'log'})", lambda: process.poll() or _answers(port), 120)
        assert process.poll() is None, (folder / "log").read_text(errors="replace")[-2000:]
        yield Door(f"http://127.0.0.1:{port}", tokens, webhook[1])
    finally:
        process.terminate()
        process.wait(40)


def _answers(port: int) -> bool:
    from continual_cli.local.gateway import answers

    return answers(port)


# The browser ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def traffic(world: World) -> None:
    """Two hundred labelled requests, counted by the evaluator."""
    world.verb("produce", "digits", "--model", "digits", "--rate", "60", "--count", "200", "--labels-after", "0.5")
    world.wait("the labels to be counted", lambda: world.counted() >= 150)


@pytest.fixture
def asked(world: World) -> list[str]:
    """Request ids of thirty answered requests that nobody labels."""
    client = world.redis()
    end = client.xrevrange(world.keys.predictions, count=1)
    last = end[0][0].decode() if end else "0-0"
    world.verb(
        "produce",
        "digits",
        "--model",
        "digits",
        "--rate",
        "60",
        "--count",
        "30",
        "--seed",
        str(secrets.randbelow(10_000)),
    )
    world.wait("thirty answers", lambda: len(client.xrange(world.keys.predictions, f"({last}", "+")) >= 30)
    return [fields[b"r"].decode() for _, fields in client.xrange(world.keys.predictions, "-", "+")]
