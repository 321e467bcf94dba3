"""Seed B told whole, with real photographs: a folder of pictures, each once, a training, and what the gate makes of it, watched live.

Nobody promotes and nobody rolls back: the page shows how the gate decides on labelled traffic, and is never
loaded again. Traffic is `continual produce` beside the browser.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from regions import REGIONS, folder_of, table_of, tiles
from worlds import World

AsRole = Callable[..., Page]
TRAINING_MS = 420_000
ROLLOUT_MS = 120_000
POSTS, RATE = 100, 40.0
AUDIT = ("--labels-after", "0.5", "--label-source", "audit")


@pytest.fixture(scope="package")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stream shows: tiles of the evening, other ones than anybody uploads."""
    return folder_of(tmp_path_factory.mktemp("stream"), "evening", 400, seed=5)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder as seed B has it: one folder per region, a table of posts beside it, one picture twice, one file that is none."""
    folder = folder_of(tmp_path / "album", "evening", POSTS, seed=9)
    (folder / "sky" / "same-again.png").write_bytes((folder / "sky" / "evening-3.png").read_bytes())
    (folder / "sky" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "album.csv").write_text(table_of(POSTS, seed=9))
    return folder


@pytest.mark.timeout(900)
def test_seed_b_a_folder_becomes_samples_a_training_and_a_version_that_its_gate_promotes(
    as_role: AsRole, album: Path, evening: Path, photos: World, door: Any
) -> None:
    """Upload a folder → each picture once → browse by its table → retrain → the candidate proves itself on labelled traffic and is
    promoted, live on the page and told to the webhook → a picture that was taken for something else gets its region."""
    page = as_role("admin")
    before = photos.stable()
    upload_folder(page, album)
    upload_again(page, album)
    forget_one(page)
    picture = mistaken(page)
    photos.wait("the samples to be released", lambda: photos.released() >= POSTS * 0.7, 90)
    with photos.producing(str(evening), RATE, *AUDIT):
        candidate = watch_promotion(page, before)
    assert photos.stable() == candidate != before
    photos.wait("the notice", lambda: told(door, "promotion", candidate), 60)
    page.goto("/models/regions/try")
    page.set_input_files("#image", picture.upload("again.png"))
    expect(page.locator("#said")).to_have_text(picture.region)
    expect(page.locator(".said .version")).to_have_text(candidate)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_version_that_learned_wrong_labels_is_rolled_back_by_its_gate(
    as_role: AsRole, evening: Path, photos: World, door: Any, tmp_path: Path
) -> None:
    """Somebody uploads a folder under the wrong names, without replay and without an offline gate: the page shows how the candidate
    loses on labelled traffic and leaves, while stable goes on."""
    page = as_role("admin")
    with photos.producing(str(evening), RATE, *AUDIT):
        photos.wait("an end of what is judged", photos.settled, 120)
        before, known, had = photos.stable(), len(photos.status()["versions"]), photos.released()
        photos.patch(retraining__strategy="fine-tune", rollout__offlineGate__mode="Observe")
        upload_misnamed(page, tmp_path)
        photos.wait("the wrong labels to be released", lambda: photos.released() > had, 90)
        candidate = watch_rollback(page)
    assert len(photos.status()["versions"]) == known + 1
    assert (photos.stable(), photos.phase(candidate)) == (before, "RolledBack")
    photos.wait("the notice", lambda: told(door, "rollback", candidate), 20)
    photos.patch(retraining__strategy="er", rollout__offlineGate__mode="Enforce")


def upload_folder(page: Page, album: Path) -> None:
    page.goto("/models/regions/samples")
    page.set_input_files("#folder", str(album))
    page.set_input_files("#metadata", str(album.parent / "album.csv"))
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_have_text(
        re.compile(rf"{POSTS}\s*new\s*1\s*known already\s*1\s*refused\s*{POSTS}\s*with a label")
    )
    expect(page.locator("#report li")).to_contain_text("broken.png")
    page.fill("input[name=text]", "flower.jpg")
    page.click(".filters button")
    expect(page.locator("#samples tbody tr")).to_have_count(POSTS * 2 // len(REGIONS))
    expect(page.locator("#samples thead")).to_contain_text("post id")


def upload_again(page: Page, album: Path) -> None:
    """As an archive this time: nothing is new."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(album.rglob("*.png")):
            archive.write(file, str(file.relative_to(album.parent)))
    page.goto("/models/regions/samples")
    page.set_input_files("#archive", {"name": "album.zip", "mimeType": "application/zip", "buffer": buffer.getvalue()})
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_have_text(
        re.compile(rf"0\s*new\s*{POSTS + 1}\s*known already\s*1\s*refused")
    )


def forget_one(page: Page) -> None:
    """An admin forgets the newest: it leaves the table."""
    page.goto("/models/regions/samples")
    forgotten = page.locator("#samples tbody tr").first.locator("th").inner_text()
    page.locator("#samples tbody tr").first.get_by_role("button", name="Forget").click()
    page.locator("#confirm button", has_text="Go ahead").click()
    expect(page.locator(".told")).to_contain_text("Forgotten")
    expect(page.locator("#samples")).not_to_contain_text(forgotten)


def upload_misnamed(page: Page, folder: Path) -> None:
    """Every region under the name of the next one."""
    for number, tile in zip(range(100), tiles("evening", seed=77), strict=False):
        wrong = folder / "misnamed" / REGIONS[(REGIONS.index(tile.region) + 1) % len(REGIONS)]
        wrong.mkdir(parents=True, exist_ok=True)
        (wrong / f"night-{number}.png").write_bytes(tile.png)
    page.goto("/models/regions/samples")
    page.set_input_files("#folder", str(folder / "misnamed"))
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_contain_text("100new")


def mistaken(page: Page) -> Any:
    """A picture of the evening sky that the model, which has only seen noon, takes for another region."""
    evening = (tile for _, tile in zip(range(150), tiles("evening", seed=31), strict=False))
    for tile in (tile for tile in evening if tile.region == "sky"):
        page.goto("/models/regions/try")
        page.set_input_files("#image", tile.upload("evening.png"))
        if page.locator("#said").inner_text() != tile.region:
            return tile
    raise AssertionError("thirty pictures of the evening sky were all answered rightly by a model of noon")


def watch_promotion(page: Page, before: str) -> str:
    """From the button to the new version's probation, on one page that is never loaded again; the candidate's name."""
    page.goto("/models/regions")
    page.click("#head-retrain")
    expect(page.locator(".told")).to_be_visible()
    page.evaluate(WATCH)
    expect(page.locator(".figure", has_text="Training").locator(".note")).to_have_text("Manual", timeout=TRAINING_MS)
    expect(page.locator("#rollout .stops .now")).to_have_text(re.compile("Shadow"), timeout=TRAINING_MS)
    candidate = page.locator("#rollout .lead").inner_text().split()[0]
    expect(page.locator(".checks tr", has_text="Labelled pairs")).to_contain_text("at least 60")
    expect(page.locator("[data-chart=evidence] canvas")).to_be_visible()
    expect(page.locator("#rollout .lead")).to_have_text(f"{candidate} on probation", timeout=ROLLOUT_MS)
    expect(page.locator(".figure", has_text="Stable version").locator(".value")).to_have_text(candidate)
    expect(page.locator("#ledger .ledger").first).to_contain_text("Accuracy held")
    made = page.locator("#versions tbody tr", has=page.locator("th", has_text=candidate))
    expect(made.locator(".version")).to_have_text([candidate, before])
    expect(made.locator("code")).to_have_text(re.compile("^[0-9a-f]{12}$"))
    seen = page.evaluate("window.seen")
    assert [stop for stop in seen if stop in {"Shadow", "10 %", "50 %"}] == ["Shadow", "10 %", "50 %"], seen
    assert "by hand" not in page.locator("#ledger .ledger").first.locator("li", has_text="Promote").first.inner_text()
    return candidate


def watch_rollback(page: Page) -> str:
    """From the button until the candidate has left, on one page that is never loaded again; the candidate's name."""
    page.goto("/models/regions")
    page.click("#head-retrain")
    expect(page.locator(".told")).to_be_visible()
    page.evaluate(WATCH)
    expect(page.locator("#rollout .stops .now")).to_have_text(re.compile("Shadow"), timeout=TRAINING_MS)
    candidate = page.locator("#rollout .lead").inner_text().split()[0]
    gone = page.locator("#versions tbody tr", has_text=candidate).first
    expect(gone.locator(".pill")).to_contain_text("Rolled back", timeout=ROLLOUT_MS)
    expect(page.locator("#rollout .stops")).to_have_count(0)
    line = page.locator("#ledger .ledger").first.locator("li", has_text="Rollback").first
    expect(line).to_contain_text(candidate)
    expect(line).not_to_contain_text("by hand")
    assert page.evaluate("window.seen")[0] == "Shadow"
    return candidate


def told(door: Any, kind: str, version: str) -> bool:
    """Whether the webhook was told, exactly once."""
    found = [n for n in door.notices if n["type"] == f"dev.continual.{kind}" and n["data"]["version"] == version]
    assert len(found) <= 1, "a notice is sent once"
    return bool(found)


WATCH = """() => {
  window.seen = [];
  setInterval(() => {
    const stop = document.querySelector("#rollout .stops .now .stop")?.textContent;
    if (stop && window.seen.at(-1) !== stop && stop !== "Pods") window.seen.push(stop);
  }, 100);
}"""
