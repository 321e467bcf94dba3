"""`make screenshots`: each page of the guide, photographed during one real run; without a folder it only looks that all are there."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

MAX_BYTES = 200_000
TRAINING_MS = 420_000


@pytest.fixture
def camera(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """`camera(page, name, height)`: the page as docs/images/dashboard-<name>.png, in at most 200 kB."""
    folder = Path(str(request.config.getoption("--screenshots")) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, height: int = 0) -> None:
        """`height`: only so much from the top of the page; 0 is all of it."""
        page.mouse.move(0, 0)
        page.wait_for_function("[...document.images].every((image) => image.loading !== 'lazy' || image.complete)")
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip_of(page, height)))).convert("RGB")
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        for colours in (256, 128, 64):
            if buffer.tell() <= MAX_BYTES:
                break
            buffer = io.BytesIO()
            fewer = picture.quantize(
                colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )  # keeps rare colours
            fewer.save(buffer, "PNG", optimize=True)
        assert buffer.tell() <= MAX_BYTES, f"{name}: {buffer.tell()} bytes"
        (folder / f"dashboard-{name}.png").write_bytes(buffer.getvalue())

    return take


def clip_of(page: Page, height: int) -> Any:
    width = page.evaluate("innerWidth")
    return {"x": 0, "y": 0, "width": width, "height": height} if height else None


@pytest.fixture
def stream(world: Any) -> Iterator[None]:
    """Fifteen labelled requests a second for as long as the test runs."""
    command = [sys.executable, "-m", "continual_cli", "produce", "digits", "--rate", "15", "--labels-after", "2"]
    process = subprocess.Popen(command, env=world.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield
    process.terminate()
    process.wait(30)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_pictures_of_every_page_from_one_real_run(
    visitor: Any,
    as_role: Callable[..., Page],
    camera: Callable[..., None],
    world: Any,
    digits: Any,
    stream: None,
) -> None:
    """Sign in, list, a canary under judgement, probation, an answer, a correction fixed, samples with their table, the label queue."""
    camera(visitor.open("/signin"), "signin", 420)
    page = as_role("admin")
    album(page, digits)
    page.set_viewport_size({"width": 1280, "height": 1500})  # pictures far below are loaded only when they come near
    camera(page, "samples")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("/models/digits/queue")
    expect(page.locator("#item")).to_be_visible()
    camera(page, "queue", 600)
    page.goto("/models/digits")
    page.wait_for_timeout(40_000)  # the curves need a past
    page.click("#head-retrain")
    expect(page.locator("#rollout .stops .now")).to_have_text(re.compile("10 %"), timeout=TRAINING_MS)
    page.wait_for_timeout(9_000)
    page.goto("/models/digits")
    expect(page.locator("[data-chart=evidence] canvas")).to_be_visible()
    camera(page, "overview", 1180)
    camera(page, "canary")
    page.goto("/")
    expect(page.locator("svg.spark")).to_be_visible()
    camera(page, "models", 300)
    small = as_role("viewer", width=390, dark=True)
    small.goto("/models/digits")
    expect(small.locator("[data-chart=accuracy] canvas")).to_be_visible()
    small.wait_for_timeout(1_000)
    camera(small, "phone", 1500)
    promote(page)
    camera(page, "probation")
    world.wait("the end of the probation", world.settled, 240)
    correction(page, digits, camera)
    dark = as_role("admin", dark=True)
    dark.goto("/models/digits")
    expect(dark.locator("[data-chart=accuracy] canvas")).to_be_visible()
    dark.wait_for_timeout(1_000)
    camera(dark, "dark", 1180)


def album(page: Page, digits: Any) -> None:
    """Photos with what is known about them, as seed B has them."""
    rows, files = ["file,label,post id,date,country"], []
    for index in range(600, 612):
        one = digits(index, 24.0)
        files.append({"name": f"post-{index}.png", "mimeType": "image/png", "buffer": one.png})
        rows.append(
            f"post-{index}.png,{one.label},{index},2026-11-{index % 28 + 1:02d},{('Japan', 'Peru', 'Kenya')[index % 3]}"
        )
    page.goto("/models/digits/samples")
    page.set_input_files("#files", files)
    page.set_input_files("#metadata", {"name": "posts.csv", "mimeType": "text/csv", "buffer": "\n".join(rows).encode()})
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_contain_text("12new")


def promote(page: Page) -> None:
    page.goto("/models/digits")
    candidate = page.locator("#rollout .lead").inner_text().split()[0]
    page.click(f"#rollout-promote-{candidate}")
    page.locator("#confirm button", has_text="Go ahead").click()
    expect(page.locator("#rollout .lead")).to_have_text(f"{candidate} on probation", timeout=60_000)
    expect(page.locator("[data-chart=accuracy] canvas")).to_be_visible()
    page.wait_for_timeout(5_000)


def correction(page: Page, digits: Any, camera: Callable[..., None]) -> None:
    for index in range(900, 1100):
        one = digits(index, 34.0)
        page.goto("/models/digits/try")
        page.set_input_files("#image", one.upload)
        if page.locator("#said").inner_text() != one.label:
            break
    camera(page, "try")
    page.locator(f".choices input[value='{one.label}']").check(force=True)
    page.click("text=Use for retraining")
    expect(page.locator("#fixed")).to_be_visible(timeout=TRAINING_MS)
    camera(page, "correction")
