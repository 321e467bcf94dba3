"""Seed B's photos from what is really at hand: tiles of scikit-learn's two photographs, each labelled with the region it was cut from.

Five regions of a palace by a lake and of a dahlia before leaves. A tile is 48 by 40 pixels, another size than the network's, as photos are.
By noon a tile is as photographed; in the evening its light is dim and warm, which a model that has only seen noon takes for
something else. Tiles overlap: this is a story to be told in a browser, not a benchmark.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

Light = Literal["noon", "evening"]
WIDTH, HEIGHT = 48, 40
PLACES: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "dahlia": ("flower.jpg", (190, 105, 425, 335)),
    "leaves": ("flower.jpg", (0, 0, 150, 427)),
    "palace": ("china.jpg", (95, 75, 330, 345)),
    "sky": ("china.jpg", (335, 0, 640, 130)),
    "trees": ("china.jpg", (345, 300, 640, 427)),
}
"""Region → photo, and the box (left, top, right, bottom) that its tiles lie in."""
REGIONS = tuple(PLACES)
EVENING = np.array([0.72, 0.52, 0.38])
"""What is left of red, green and blue."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture and what it is."""

    region: str
    photo: str
    left: int
    top: int
    pixels: np.ndarray
    """uint8 [HEIGHT, WIDTH, 3]."""

    @property
    def png(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG")
        return buffer.getvalue()

    def upload(self, name: str) -> dict[str, Any]:
        return {"name": name, "mimeType": "image/png", "buffer": self.png}


@cache
def photos() -> dict[str, np.ndarray]:
    """By file name, uint8 [427, 640, 3]."""
    found = load_sample_images()
    return {Path(name).name: image for name, image in zip(found.filenames, found.images, strict=True)}


def tiles(light: Light, seed: int) -> Iterator[Tile]:
    """Without end, one of each region in turn, at places that the seed decides."""
    rng = np.random.default_rng(seed)
    while True:
        for region, (photo, (left, top, right, bottom)) in PLACES.items():
            x, y = int(rng.integers(left, right - WIDTH)), int(rng.integers(top, bottom - HEIGHT))
            cut = photos()[photo][y : y + HEIGHT, x : x + WIDTH]
            lit = cut * EVENING if light == "evening" else cut * rng.uniform(0.9, 1.0)
            yield Tile(region, photo, x, y, lit.astype(np.uint8))


def bucket(key: str, count: int) -> dict[str, bytes]:
    """`count` tiles of noon as an image folder under `key` in the bucket."""
    numbered = zip(range(count), tiles("noon", 1), strict=False)
    return {f"{key}/{tile.region}/noon-{number}.png": tile.png for number, tile in numbered}


def folder_of(place: Path, light: Light, count: int, seed: int) -> Path:
    """`count` tiles as `<region>/<light>-<number>.png`."""
    for number, tile in zip(range(count), tiles(light, seed), strict=False):
        folder = place / tile.region
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{light}-{number}.png").write_bytes(tile.png)
    return place


def table_of(count: int, seed: int) -> str:
    """What seed B keeps of each post, as CSV: file, post id, photo and date."""
    rows = ["file,post id,photo,date"]
    for number, tile in zip(range(count), tiles("evening", seed), strict=False):
        rows.append(f"evening-{number}.png,{7000 + number},{tile.photo},2026-11-{number % 28 + 1:02d}")
    return "\n".join(rows)


def manifest(key: str) -> dict[str, Any]:
    """A model of the regions whose first version is trained on the folder of pictures under `key` in the bucket.

    Its holdout has a few tiles per class, of which one is a fifth: the offline gate only looks for disasters, the live one judges.
    """
    gate = {"margin": 0.03, "minLabels": 60, "minDuration": "5s"}
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": "regions"},
        "spec": {
            "model": {
                "architecture": "lenet5", "input": {"height": 32, "width": 32, "channels": 3}, "classes": list(REGIONS),
            },
            "bootstrap": {"dataset": {"objectKey": key, "format": "image-folder"}},
            "serving": {"replicas": 1},
            "feedback": {"window": "8s", "auditPercent": 100, "holdoutPercent": 10, "gateSources": ["audit"]},
            "retraining": {"strategy": "er", "triggers": [], "instantCorrections": "Promote", "cooldown": "1s", "timeout": "10m"},
            "rollout": {
                "steps": [{"weight": 0, "hold": "3s"}, {"weight": 10, "hold": "4s"}, {"weight": 50, "hold": "4s"}],
                "offlineGate": {"maxClassDrop": 0.5, "maxNegativeFlips": 0.2, "maxDropFromFirst": 0.5}, "gate": gate, "deadline": "5m", "probation": {"minDuration": "5s", "minLabels": 60, "deadline": "3m"},
            },
            "retention": {"requests": {"maxAge": "10m"}},
        },
    }  # fmt: skip
