"""`make screenshots`: each page of the guide, photographed during one real run; without a folder it only looks that all are there."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from regions import folder_of, table_of, tiles
from worlds import World

MAX_BYTES = 200_000
TRAINING_MS = 420_000
POSTS = 60
STEPS = [{"weight": 0, "hold": "3s"}, {"weight": 10, "hold": "20s"}, {"weight": 50, "hold": "5s"}]
"""Long enough at 10 % for its pictures."""
Camera = Callable[..., None]
LOADED = """() => Promise.all([document.fonts.ready, ...[...document.images].map((image) => {
  image.loading = "eager";
  return image.decode().catch(() => 0);
})])"""


@pytest.fixture
def camera(request: pytest.FixtureRequest, tmp_path: Path) -> Camera:
    """`camera(page, name, height)`: the page as docs/images/dashboard-<name>.png, in at most 200 kB."""
    folder = Path(str(request.config.getoption("--screenshots")) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, height: int = 0, part: str = "") -> None:
        """`height`: only so much from the top of the page, 0 is all of it; `part`: only that element."""
        page.mouse.move(0, 0)
        page.evaluate(LOADED)
        raw = page.locator(part).screenshot() if part else page.screenshot(full_page=True, clip=clip_of(page, height))
        data = small(Image.open(io.BytesIO(raw)).convert("RGB"))
        assert len(data) <= MAX_BYTES, f"{name}: {len(data)} bytes"
        (folder / f"dashboard-{name}.png").write_bytes(data)

    return take


def small(picture: Image.Image) -> bytes:
    """As PNG: as it is, else with fewer colours."""
    for colours in (0, 256, 128, 64):
        buffer = io.BytesIO()
        (fewer(picture, colours) if colours else picture).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()


def fewer(picture: Image.Image, colours: int) -> Image.Image:
    """Surfaces and texts keep their very colours: half of the palette are the commonest ones, the rest is spread over what is left."""
    pixels = np.asarray(picture)
    found, where, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    common = found[np.argsort(-counts)[: colours // 2]]
    spread = picture.quantize(colours - len(common), Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = np.concatenate([common, np.array(spread[: 3 * (colours - len(common))], np.uint8).reshape(-1, 3)])
    nearest = np.concatenate([
        ((part[:, None].astype(np.int32) - palette[None]) ** 2).sum(axis=2).argmin(axis=1)
        for part in np.array_split(found, max(1, len(found) // 2000))
    ])  # fmt: skip
    made = Image.fromarray(nearest[where.ravel()].astype(np.uint8).reshape(pixels.shape[:2]), "P")
    made.putpalette(palette.ravel().tolist())
    return made


def clip_of(page: Page, height: int) -> Any:
    width = page.evaluate("innerWidth")
    return {"x": 0, "y": 0, "width": width, "height": height} if height else None


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_pictures_of_every_page_from_one_real_run(
    visitor: Any, as_role: Callable[..., Page], camera: Camera, world: World, photos: World, digits: Any, tmp_path: Path
) -> None:
    """Sign in, list, samples with their table, the label queue, a canary under judgement, probation, an answer, a correction fixed."""
    photos.patch(rollout__steps=STEPS, feedback__window="15s")
    camera(visitor.open("/signin"), "signin", 480)
    page = as_role("admin")
    evening = folder_of(tmp_path / "stream", "evening", 400, seed=5)
    noon = folder_of(tmp_path / "noon", "noon", 400, seed=6)
    with world.producing("digits", 5.0, "--labels-after", "2"):
        with photos.producing(str(noon), 20.0, "--labels-after", "1", "--label-source", "audit"):
            album(page)
            camera(page, "samples", 1420)
            page.wait_for_timeout(25_000)  # the curves need a past
        with photos.producing(str(evening), 20.0, "--labels-after", "1", "--label-source", "audit"):
            queue(page, camera)
            photos.wait("the samples to be released", lambda: photos.released() >= POSTS * 0.7, 120)
            candidate = canary(page, as_role, camera)
            expect(page.locator("#rollout .lead")).to_have_text(f"{candidate} on probation", timeout=TRAINING_MS)
            page.wait_for_timeout(4_000)
            camera(page, "probation", part="#rollout")
            photos.wait("the end of the probation", photos.settled, 240)
            camera(page, "ledger", part="#ledger")
    correction(page, digits, camera)
    dark = as_role("admin", dark=True)
    dark.goto("/models/regions")
    expect(dark.locator("[data-chart=accuracy] canvas")).to_be_visible()
    dark.wait_for_timeout(1_500)
    camera(dark, "dark", 1400)


def album(page: Page) -> None:
    """Photos with what is known about them, as seed B has them."""
    some = list(zip(range(POSTS), tiles("evening", seed=49), strict=False))
    rows = "\n".join(
        f"{line},{tile.region}" for line, (_, tile) in zip(table_of(POSTS, 49).split("\n")[1:], some, strict=True)
    )
    table = f"file,post id,photo,date,label\n{rows}"
    page.goto("/models/regions/samples")
    page.set_input_files("#files", [tile.upload(f"evening-{number}.png") for number, tile in some])
    page.set_input_files("#metadata", {"name": "posts.csv", "mimeType": "text/csv", "buffer": table.encode()})
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_contain_text(f"{POSTS}new")


def queue(page: Page, camera: Camera) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("/models/regions/queue")
    expect(page.locator("#item")).to_be_visible()
    page.keyboard.press("3")
    expect(page.locator("#queue")).to_contain_text("last: palace")
    camera(page, "queue", 680)


def canary(page: Page, as_role: Callable[..., Page], camera: Camera) -> str:
    """Retrain by hand, and look while the gate judges at half of the stream; the candidate's name."""
    page.goto("/models/regions")
    page.click("#head-retrain")
    expect(page.locator("#rollout .stops .now")).to_have_text(re.compile("10 %"), timeout=TRAINING_MS)
    candidate = page.locator("#rollout .lead").inner_text().split()[0]
    page.goto("/models/regions")
    expect(page.locator("[data-chart=evidence] canvas")).to_be_visible()
    page.wait_for_timeout(1_000)
    camera(page, "overview", 1240)
    camera(page, "evidence", part="#rollout")
    camera(page, "curves", part="#charts")
    camera(page, "classes", part="#classes")
    camera(page, "versions", part="#versions")
    phone = as_role("viewer", width=390)
    phone.goto("/models/regions")
    expect(phone.locator("[data-chart=accuracy] canvas")).to_be_visible()
    camera(phone, "phone", 1500)
    page.context.new_page().goto("/")
    listed = page.context.pages[-1]
    expect(listed.locator("svg.spark").first).to_be_visible()
    camera(listed, "models", 330)
    listed.close()
    return candidate


def correction(page: Page, digits: Any, camera: Camera) -> None:
    """Seed D: first a photo's answer, then a digit that is corrected and learned."""
    page.goto("/models/regions/try")
    page.set_input_files(
        "#image", next(tile for tile in tiles("evening", 41) if tile.region == "palace").upload("photo.png")
    )
    expect(page.locator("#said")).to_be_visible()
    camera(page, "photo", 620)
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
    camera(page, "correction", 720)
