"""The process in which foreign images are decoded: bounded in memory and time, and worth nothing when it dies.

An image parser is the one place where a stranger's bytes meet C code. It runs here, with an address space of its own that cannot
grow, no secrets, no sockets, and a parent that kills it when it takes too long. Framing on standard input and output: eight
bytes of lengths (big-endian: JSON head, data), then both.

    request   {"do": "fit" | "keep" | "raw", "enc", "height", "width", "channels", "fit", "given"} + the file, or raw pixels
    reply     {} + pixels of the model's input (uint8 HWC)        for `fit` and `raw`
              {"pixels": n} + those pixels + a PNG to show        for `keep`
              {"ready": true}                                       once, at the start
              {"error": {message, field, value, remedy}}          what was wrong with it
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
from typing import Any, BinaryIO, cast

import numpy as np
from continual_clients.images import MAX_PIXELS, Fit, Pixels, decode_image, fit_image
from continual_contract.artifacts import InputShape
from continual_contract.errors import InvalidImageError
from PIL import Image

LENGTHS = struct.Struct(">II")
MEMORY_BYTES = 1 << 30
"""Address space: the libraries' own mappings, and the largest image twice over in four channels."""
SHOWN_PIXELS = 320
"""Longest side of the picture that is kept to be shown."""
_ENCODINGS = {"PNG", "JPEG", "WEBP"}


def main() -> int:
    warm_up()
    confine()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(frame({"ready": True}, b""))
    sink.flush()
    while (framed := read_frame(source)) is not None:
        sink.write(reply(*framed))
        sink.flush()
    return 0


def confine() -> None:
    """No more memory, no new files, no new processes, no core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def warm_up() -> None:
    """Load the codecs before files can no longer be opened."""
    Image.init()
    picture = Image.new("RGB", (2, 2))
    for encoding in sorted(_ENCODINGS):
        buffer = io.BytesIO()
        picture.save(buffer, encoding)
        decode_image(buffer.getvalue(), "", InputShape(height=2, width=2, channels=3), "Letterbox")


def read_frame(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """One request; None at the end."""
    lengths = source.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head, data = LENGTHS.unpack(lengths)
    return json.loads(source.read(head)), source.read(data)


def frame(head: dict[str, Any], data: bytes) -> bytes:
    spelled = json.dumps(head).encode()
    return LENGTHS.pack(len(spelled), len(data)) + spelled + data


def reply(head: dict[str, Any], data: bytes) -> bytes:
    try:
        return frame(*_done(head, data))
    except InvalidImageError as error:
        return _error(error)
    except MemoryError:
        return _error(InvalidImageError("takes too much memory", field="image", remedy="send a smaller image"))


def _error(error: InvalidImageError) -> bytes:
    value = None if error.value is None else repr(error.value)[:80]
    return frame(
        {"error": {"message": error.message, "field": error.field, "value": value, "remedy": error.remedy}}, b""
    )


def _done(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    shape = InputShape(height=head["height"], width=head["width"], channels=head["channels"])
    fit = cast("Fit", head["fit"])
    if head["do"] == "raw":
        return {}, fit_raw(data, tuple(head["given"]), shape, fit).tobytes()
    pixels = decode_image(data, head["enc"], shape, fit)
    if head["do"] == "fit":
        return {}, pixels.tobytes()
    return {"pixels": pixels.nbytes}, pixels.tobytes() + shown(data)


def fit_raw(data: bytes, given: tuple[int, ...], shape: InputShape, fit: Fit) -> Pixels:
    """Raw uint8 [h, w, c] of any size. Errors: InvalidImageError."""
    height, width, channels = given
    if channels not in {1, 3, 4} or min(given) < 1 or height * width > MAX_PIXELS:
        raise InvalidImageError(
            "is not the shape of an image", field="shape", value=list(given), remedy="send [height, width, channels]"
        )
    if height * width * channels != len(data):
        raise InvalidImageError(
            "does not fit its data", field="shape", value=list(given), remedy=f"{len(data)} bytes were sent"
        )
    return fit_image(np.frombuffer(data, np.uint8).reshape(given), shape, fit)


def shown(data: bytes) -> bytes:
    """The picture once more as a small PNG of our own making: nothing of the sent file is ever shown to anybody."""
    with Image.open(io.BytesIO(data), formats=sorted(_ENCODINGS)) as image:
        image.draft("RGB", (SHOWN_PIXELS, SHOWN_PIXELS))
        small = image.convert("RGBA" if image.has_transparency_data else "RGB" if image.mode not in {"L", "1"} else "L")
    small.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
