"""From an image file to the pixels a model takes, at bounded cost.

An image is foreign: 9.9 kB of PNG can unpack to hundreds of megabytes, `verify()` accepts half a JPEG, and a GIF hides 60 frames.
So the bytes, the format, the frame count and the pixel count are judged from the header, before anything is unpacked, and
`load()` is what proves that the file is whole. Everything wrong is an `InvalidImageError`.
"""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from continual_contract.artifacts import InputShape
from continual_contract.errors import InvalidImageError
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_IMAGE_BYTES = 10 << 20
MAX_PIXELS = 1 << 24
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Fit = Literal["Refuse", "Letterbox", "Stretch"]
Pixels = npt.NDArray[np.uint8]

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def decode_image(data: bytes, encoding: str, shape: InputShape, fit: Fit = "Refuse") -> Pixels:
    """Decode a file to uint8 [H, W, C] of `shape`.

    Args:
        data: the file, at most 10 MiB.
        encoding: `png`, `jpeg`, `webp`, or empty to recognise one of them by its content.
        shape: what the model takes.
        fit: what to do with another size; `Refuse` is judged before unpacking.

    Raises:
        InvalidImageError: too large, not of this type, several frames, damaged, or of another size under `Refuse`.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImageError(
            "is too large", field="image bytes", value=len(data), remedy=f"send at most {MAX_IMAGE_BYTES} bytes"
        )
    image = _opened(data, _formats(encoding))
    _judge_header(image, shape, fit)
    mode = _mode(shape)
    try:
        image.load()
        upright = image if fit == "Refuse" else ImageOps.exif_transpose(image)
        flat = _converted(upright, mode)
    except _DAMAGE as error:
        raise InvalidImageError(f"is damaged: {error}", field="image", remedy="send the whole file again") from error
    return _as_pixels(_resized(flat, shape, fit), shape)


def fit_image(pixels: Pixels, shape: InputShape, fit: Fit) -> Pixels:
    """Bring uint8 [h, w, c] pixels to `shape` (channels included)."""
    squeezed = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(squeezed))
    if fit == "Refuse" and image.size != (shape.width, shape.height):
        raise _wrong_size(image, shape)
    return _as_pixels(_resized(_converted(image, _mode(shape)), shape, fit), shape)


def raw_pixels(data: bytes, shape: InputShape) -> Pixels:
    """View raw uint8 HWC bytes as pixels; `InvalidImageError` names the length they must have."""
    if len(data) != shape.nbytes:
        raise wrong_length(len(data), shape)
    return np.frombuffer(data, np.uint8).reshape(shape.height, shape.width, shape.channels)


def wrong_length(length: int, shape: InputShape) -> InvalidImageError:
    return InvalidImageError(
        f"has the wrong length for {_spelled(shape)}",
        field="d",
        value=f"{length} bytes",
        remedy=f"send {shape.nbytes} raw uint8 bytes (height, width, channels), or set enc to png or jpeg",
    )


def _formats(encoding: str) -> list[str]:
    if not encoding:
        return list(FORMATS.values())
    if encoding not in FORMATS:
        raise InvalidImageError("is not supported", field="enc", value=encoding, remedy="use png, jpeg or raw bytes")
    return [FORMATS[encoding]]


def _opened(data: bytes, formats: list[str]) -> Image.Image:
    """Read the header only. Pillow's own bomb warning is an error here, whatever the process's filters say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        kinds = " or ".join(formats)
        raise InvalidImageError(
            f"is not {kinds}", field="image", value=data[:12], remedy="send a file of that type"
        ) from error
    except _DAMAGE as error:
        raise InvalidImageError(f"is damaged: {error}", field="image", remedy="send the whole file again") from error


def _judge_header(image: Image.Image, shape: InputShape, fit: Fit) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidImageError(
            "has too many pixels",
            field="image size",
            value=f"{image.width}x{image.height}",
            remedy=f"send at most {MAX_PIXELS} pixels",
        )
    if getattr(image, "n_frames", 1) != 1:
        raise InvalidImageError("has several frames", field="image", remedy="send one frame")
    if fit == "Refuse" and image.size != (shape.width, shape.height):
        raise _wrong_size(image, shape)


def _wrong_size(image: Image.Image, shape: InputShape) -> InvalidImageError:
    return InvalidImageError(
        "has another size than the model's input",
        field="image size",
        value=f"{image.width}x{image.height}",
        remedy=f"resize it to {shape.width}x{shape.height} (width x height), or let the client fit it",
    )


def _mode(shape: InputShape) -> str:
    if shape.channels not in MODES:
        raise InvalidImageError(
            "cannot come from an image file", field="channels", value=shape.channels, remedy="send raw bytes"
        )
    return MODES[shape.channels]


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """To `mode`; transparency is shown on white, as every viewer shows it; 16-bit greys are scaled, not cut."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if mode != "RGBA" and image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, shape: InputShape, fit: Fit) -> Image.Image:
    size = (shape.width, shape.height)
    if image.size == size:
        return image
    if fit == "Stretch":
        return image.resize(size, Image.Resampling.BILINEAR)
    return ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=0)


def _as_pixels(image: Image.Image, shape: InputShape) -> Pixels:
    return np.asarray(image, np.uint8).reshape(shape.height, shape.width, shape.channels)


def _spelled(shape: InputShape) -> str:
    return f"{shape.height}x{shape.width}x{shape.channels}"
