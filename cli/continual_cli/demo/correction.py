"""One image, corrected the way a person does it: `continual correct FILE --label CLASS`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from continual_cli.demo.installation import MODEL, Installation
from continual_cli.demo.world import SIZE


def correct_one(cluster: Installation, pixels: bytes, true_class: str) -> dict[str, Any]:
    """Save the image as PNG and correct it; returns the command's JSON, with `fixed`."""
    from PIL import Image

    path = cluster.home.root / "mistaken.png"
    Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(SIZE, SIZE)).save(path)
    printed = cluster.verb("correct", str(path), "--label", true_class, "--model", MODEL, "-o", "json")
    result = json.loads(printed)
    return dict(result)
