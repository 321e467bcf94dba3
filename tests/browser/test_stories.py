"""Seed B told whole: a folder of photos, each once, a training, and its promotion and rollback watched live."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from playwright.sync_api import Page, expect

AsRole = Callable[..., Page]
TRAINING_MS = 420_000


@pytest.fixture
def album(tmp_path: Path, digits: Any) -> Path:
    """A folder as seed B has it: one folder per class, a table with post id, date and country, one picture twice, one file that is none."""
    folder = tmp_path / "album"
    rows = ["file,post id,date,country"]
    for index in range(400, 430):
        one = digits(index, 20.0)
        place = folder / one.label
        place.mkdir(parents=True, exist_ok=True)
        (place / f"post-{index}.png").write_bytes(one.png)
        rows.append(f"post-{index}.png,{index},2026-11-{index % 28 + 1:02d},{('Japan', 'Peru', 'Kenya')[index % 3]}")
    twin = next(folder.glob("*/post-400.png"))
    (twin.parent / "same-again.png").write_bytes(twin.read_bytes())
    (twin.parent / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "album.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.long
@pytest.mark.timeout(900)
def test_seed_b_a_folder_becomes_samples_a_training_and_a_new_version(
    as_role: AsRole, album: Path, world: Any, digits: Any
) -> None:
    """Upload a folder → each picture once → browse and filter by country → retrain → watch the candidate → promote → it answers →
    roll it back, live on the page."""
    page = as_role("admin")
    page.goto("/models/digits/samples")
    page.set_input_files("#folder", str(album))
    page.set_input_files("#metadata", str(album.parent / "album.csv"))
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_have_text(
        re.compile(r"30\s*new\s*1\s*known already\s*1\s*refused\s*30\s*with a label")
    )
    expect(page.locator("#report li")).to_contain_text("broken.png")
    page.goto("/models/digits/samples?text=Japan")
    expect(page.locator("#samples tbody tr")).to_have_count(10)
    expect(page.locator("#samples thead")).to_contain_text("country")
    upload_again(page, album)
    before = world.stable()
    world.wait("the samples to be released", lambda: released(world) >= 20, 90)
    page.goto("/models/digits")
    page.click("#head-retrain")
    watch_promotion(page, world, before)
    page.goto("/models/digits/try")
    page.set_input_files("#image", digits(431).upload)
    expect(page.locator("#said")).to_have_text(digits(431).label)
    expect(page.locator(".said .version")).to_have_text(world.stable())
    watch_rollback(page, world, before)


def upload_again(page: Page, album: Path) -> None:
    """As an archive this time: nothing is new."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(album.rglob("*.png")):
            archive.write(file, str(file.relative_to(album.parent)))
    page.goto("/models/digits/samples")
    page.set_input_files("#archive", {"name": "album.zip", "mimeType": "application/zip", "buffer": buffer.getvalue()})
    page.click("#upload button")
    expect(page.locator("#report .counts")).to_have_text(re.compile(r"0\s*new\s*31\s*known already\s*1\s*refused"))


def released(world: Any) -> int:
    raw = world.redis().hget(ModelKeys("default", "digits").report, "json")
    return Report.model_validate_json(raw).released_samples if raw else 0


def watch_promotion(page: Page, world: Any, before: str) -> None:
    """From the button to the new version's probation, without loading the page again."""
    expect(page.locator(".figure", has_text="Training").locator(".note")).to_have_text("Manual", timeout=TRAINING_MS)
    expect(page.locator("#rollout .stops")).to_be_visible(timeout=TRAINING_MS)
    expect(page.locator("#rollout .stops .now")).to_have_text(re.compile("Shadow"), timeout=60_000)
    expect(page.locator(".checks tr", has_text="Labelled pairs")).to_contain_text("at least 100")
    candidate = page.locator("#rollout .lead").inner_text().split()[0]
    page.click(f"#rollout-promote-{candidate}")
    page.locator("#confirm button", has_text="Go ahead").click()
    expect(page.locator("#rollout .lead")).to_have_text(f"{candidate} on probation", timeout=60_000)
    expect(page.locator(".figure", has_text="Stable version").locator(".value")).to_have_text(candidate)
    expect(page.locator("#ledger .ledger").first).to_contain_text("by hand")
    assert world.stable() == candidate != before


def watch_rollback(page: Page, world: Any, before: str) -> None:
    page.goto("/models/digits")
    page.click("#head-rollback")
    page.locator("#confirm button", has_text="Go ahead").click()
    expect(page.locator(".figure", has_text="Stable version").locator(".value")).to_have_text(before, timeout=60_000)
    expect(page.locator("#versions tbody tr").first.locator(".pill")).to_contain_text("Rolled back")
    assert world.stable() == before
