"""Images: exact pixels where they fit, bounded cost and one sentence where they do not."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from continual_clients.images import MAX_IMAGE_BYTES, Fit, decode_image, fit_image, raw_pixels
from continual_contract.artifacts import InputShape
from continual_contract.errors import InvalidImageError
from PIL import Image

GREY, RGB = InputShape(height=6, width=4, channels=1), InputShape(height=6, width=4, channels=3)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims any size, over almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (height * (1 + (width + 7) // 8)) if height * width < 1 << 28 else b"\0" * 1000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def ramp(channels: int) -> np.ndarray:
    return np.arange(24 * channels, dtype=np.uint8).reshape(6, 4, channels)


@pytest.mark.parametrize("fit", ["Refuse", "Letterbox", "Stretch"])
def test_an_image_of_the_right_size_keeps_its_pixels(fit: Fit) -> None:
    """Grey and colour, lossless formats, whatever the fit; the type is recognised when it is not told."""
    assert np.array_equal(decode_image(encoded(ramp(1)[:, :, 0]), "png", GREY, fit), ramp(1))
    assert np.array_equal(decode_image(encoded(ramp(3)), "", RGB, fit), ramp(3))
    assert np.array_equal(decode_image(encoded(ramp(3), "WEBP", lossless=True), "webp", RGB, fit), ramp(3))


def test_grey_and_colour_become_what_the_model_takes() -> None:
    """One channel from three and three from one."""
    assert decode_image(encoded(ramp(3)), "png", GREY).shape == (6, 4, 1)
    assert np.array_equal(decode_image(encoded(ramp(1)[:, :, 0]), "png", RGB), np.repeat(ramp(1), 3, axis=2))


def test_transparency_is_shown_on_white() -> None:
    """As a viewer shows it: a hidden colour does not come back."""
    layer = np.zeros((6, 4, 4), np.uint8)
    layer[0, 0] = (10, 20, 30, 255)
    pixels = decode_image(encoded(layer), "png", RGB)
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert (pixels[1:] == 255).all()


def test_sixteen_bit_greys_are_scaled_not_cut() -> None:
    """65535 is white."""
    image = Image.fromarray(np.full((6, 4), 65_535, np.uint16))
    assert (decode_image(encoded(image), "png", GREY) == 255).all()


def test_letterbox_keeps_the_aspect_and_stretch_does_not() -> None:
    """A white 4x4 square into 6x4: bars of black, or none."""
    square = encoded(np.full((8, 8), 255, np.uint8))
    boxed = decode_image(square, "png", GREY, "Letterbox")[:, :, 0]
    assert boxed[0].tolist() == [0] * 4
    assert boxed[-1].tolist() == [0] * 4
    assert (boxed[1:5] == 255).all()
    assert (decode_image(square, "png", GREY, "Stretch") == 255).all()
    assert np.array_equal(fit_image(np.full((8, 8, 1), 255, np.uint8), GREY, "Letterbox")[:, :, 0], boxed)


def test_a_photo_is_turned_upright_where_it_is_fitted() -> None:
    """EXIF orientation 6, as phones write it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    landscape = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 4, axis=0).repeat(3, axis=1))
    pixels = decode_image(encoded(landscape, "PNG", exif=exif), "png", GREY, "Stretch")[:, :, 0]
    assert pixels.shape == (6, 4)
    assert pixels[0].mean() < 50
    assert pixels[-1].mean() > 200


gif = [Image.fromarray(np.full((6, 4), v, np.uint8)) for v in (0, 99)]
photo = encoded(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8), "JPEG")

HOSTILE = {
    "nothing": (b"", "is not PNG"),
    "text": (b"<svg onload=alert(1)>", "is not PNG"),
    "gif": (encoded(gif[0], "GIF"), "is not PNG"),
    "animated webp": (encoded(gif[0], "WEBP", save_all=True, append_images=gif[1:]), "several frames"),
    "animated png": (encoded(gif[0], "PNG", save_all=True, append_images=gif[1:]), "several frames"),
    "half a jpeg": (photo[: len(photo) // 2], "is damaged"),
    "1-bit bomb": (bomb(9000, 9000), "too many pixels"),
    "gigapixels": (bomb(1 << 20, 1 << 20), "damaged|too many pixels"),
    "tiff": (encoded(gif[0], "TIFF"), "is not PNG"),
    "huge file": (b"\x89PNG" + b"\0" * MAX_IMAGE_BYTES, "too large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_costs_little_and_is_refused(name: str) -> None:
    """Judged from the header: no unpacking, a typed error, below 16 MiB of growth."""
    data, says = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidImageError, match=says):
            decode_image(data, "", RGB, "Letterbox")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_refuse_judges_the_size_before_unpacking() -> None:
    """The stream's path: a 16 Mpx image of another size is refused from its header."""
    tracemalloc.start()
    with pytest.raises(InvalidImageError, match=r"4000x4000.*resize it to 4x6"):
        decode_image(bomb(4000, 4000), "png", GREY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("encoding", ["gif", "svg", "PNG ", "image/png", "../png"])
def test_an_unknown_encoding_names_the_known_ones(encoding: str) -> None:
    """`enc` is a word of the wire format, not a MIME type."""
    with pytest.raises(InvalidImageError, match="use png, jpeg or raw bytes"):
        decode_image(encoded(ramp(3)), encoding, RGB)


def test_raw_bytes_are_a_view_of_exactly_the_right_length() -> None:
    """HWC order, no copy; another length names the one it must have."""
    assert np.array_equal(raw_pixels(ramp(3).tobytes(), RGB), ramp(3))
    with pytest.raises(InvalidImageError, match=r"d: .*6x4x3.*'71 bytes'.*send 72 raw uint8 bytes"):
        raw_pixels(bytes(71), RGB)


def test_two_channels_cannot_come_from_a_file() -> None:
    """Raw bytes can."""
    with pytest.raises(InvalidImageError, match="send raw bytes"):
        decode_image(encoded(ramp(3)), "png", InputShape(height=6, width=4, channels=2))
