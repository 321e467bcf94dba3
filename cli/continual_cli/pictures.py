"""Image files into the pixels a model takes, and classes out of its ONNX file, on this machine.

The same decoding and fitting as everywhere else (`continual_clients.images`), the same verified, single-file loading as a worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from continual_contract.errors import InvalidImageError, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from continual_clients.images import Fit
    from continual_clients.registry import Registry
    from continual_contract.artifacts import InputShape
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Guess:
    class_name: str
    confidence: float


def read_bytes(path: Path) -> bytes:
    """Errors: NotFoundError for a missing file, InvalidImageError for a folder."""
    if path.is_dir():
        raise InvalidImageError("is a folder", field="file", value=str(path), remedy="name image files in it")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError("no such file", field="file", value=str(path), remedy="check the path") from error


def read_pixels(path: Path, shape: InputShape, fit: str) -> Pixels:
    """The image as uint8 [H, W, C]. Errors: InvalidImageError naming the file."""
    from continual_clients.images import decode_image

    data = read_bytes(path)
    try:
        return decode_image(data, "", shape, cast("Fit", fit))
    except InvalidImageError as error:
        where = f"{path}: {error.field}" if error.field else str(path)
        raise InvalidImageError(error.message, field=where, value=error.value, remedy=error.remedy) from error


def guesses(registry: Registry, digest: str, images: Sequence[Pixels]) -> list[Guess]:
    """What a published checkpoint says of each image, run here; the file is verified and judged as a worker does it.

    Errors: IntegrityError, UnsafeModelError, NotFoundError.
    """
    import numpy as np
    from continual_clients.onnxmodel import decide, load_model

    engine = load_model(registry, digest, "cpu")
    best, confidence = decide(engine.logits(np.stack(images)))
    names = engine.manifest.classes
    return [Guess(names[b], float(c)) for b, c in zip(best.tolist(), confidence.tolist(), strict=True)]
