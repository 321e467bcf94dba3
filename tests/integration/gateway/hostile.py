"""Images that mean harm: each is small, and would be expensive, false, or something else altogether."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int = 9000, height: int = 9000) -> bytes:
    """A valid PNG of one bit per pixel that compresses to ten kilobytes."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes((width + 7) // 8)) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def lying_png() -> bytes:
    """A header of 60 000 x 60 000 before two bytes of data."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", b"xx") + _chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A small picture with a compressed comment of sixty megabytes."""
    head = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
    comment = b"note\0\0" + zlib.compress(bytes(60 << 20), 9)
    rows = zlib.compress((b"\0" + bytes(28)) * 28)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (_chunk(b"IHDR", head), _chunk(b"zTXt", comment), _chunk(b"IDAT", rows), _chunk(b"IEND", b""))
    )


def _noise(size: tuple[int, int] = (200, 200)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def _saved(encoding: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    _noise().save(buffer, encoding, **options)
    return buffer.getvalue()


def _with_comment(data: bytes, comment: bytes) -> bytes:
    """Behind the header, which is always 33 bytes long."""
    return data[:33] + _chunk(b"tEXt", comment) + data[33:]


def frames(encoding: str, count: int = 60) -> bytes:
    buffer = io.BytesIO()
    parts = [Image.new("RGB", (64, 64), (n, n, n)) for n in range(count)]
    parts[0].save(buffer, encoding, save_all=True, append_images=parts[1:])
    return buffer.getvalue()


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

CORPUS: dict[str, bytes] = {
    "a bomb of one bit per pixel": png_bomb(),
    "a header that lies": lying_png(),
    "a comment that is a bomb": text_bomb(),
    "sixty frames of GIF": frames("GIF"),
    "sixty frames of WEBP": frames("WEBP"),
    "sixty frames of APNG": frames("PNG"),
    "half a JPEG": (jpeg := _saved("JPEG"))[: len(jpeg) // 2],
    "half a PNG": (png := _saved("PNG"))[: len(png) // 2],
    "half a WEBP": (webp := _saved("WEBP"))[: len(webp) // 2],
    "an SVG": SVG,
    "an HTML page": b"<!doctype html><script>alert(1)</script>",
    "a TIFF": _saved("TIFF"),
    "a BMP": _saved("BMP"),
    "an ICO": _saved("ICO"),
    "a PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
    "a zip": b"PK\x03\x04" + bytes(1000),
    "an executable": b"\x7fELF" + bytes(1000),
    "nothing but a signature": b"\x89PNG\r\n\x1a\n",
    "one byte": b"\0",
}
"""Each must be refused with 4xx."""

POLYGLOTS: dict[str, bytes] = {
    "a JPEG that goes on as a zip": _saved("JPEG") + b"PK\x03\x04" + bytes(500),
    "a PNG that goes on as HTML": _saved("PNG") + b"<script>alert(1)</script>",
    "a PNG with a script in its comment": _with_comment(_saved("PNG"), b"x\0<script>alert(1)</script>"),
}
"""Each is an image too: it may be answered, but nothing of what was sent may be given out again."""
