"""The Open Inference Protocol v2 (REST) as values: what a body asks, and how the answers are spelled.

https://github.com/kserve/open-inference-protocol, with the binary tensor data extension that Triton and its client speak: a JSON head whose
length the header `Inference-Header-Content-Length` gives, then the tensors' bytes. A model takes one input, `image`, either raw
pixels (UINT8, [n, height, width, channels]) or n image files (BYTES), and gives for each image `class`, `confidence`, `version` (which
answered: during a rollout not all come from one) and `request_id`, the name under which a label may come later.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from continual_contract.artifacts import InputShape
from continual_contract.entries import PredictionEntry
from continual_contract.errors import InvalidImageError, UsageError

from continual_gateway.errors import TooLargeError

INPUT = "image"
HEADER_LENGTH = "inference-header-content-length"
MAX_IMAGES = 256
MAX_JSON_BYTES = 4 << 20
"""Numbers in JSON take ten times their size in memory; more of them come as a binary tensor."""

OUTPUTS = ("class", "confidence", "version", "request_id")
_DATATYPES = {"class": "BYTES", "confidence": "FP32", "version": "BYTES", "request_id": "BYTES"}
_VALUES: dict[str, Callable[[PredictionEntry], Any]] = {
    "class": lambda p: p.class_name,
    "confidence": lambda p: p.confidence,
    "version": lambda p: p.version,
    "request_id": lambda p: p.request_id,
}
_text, _ascii = json.encoder.encode_basestring, json.encoder.encode_basestring_ascii
"""A string in JSON, quotes included; a stranger's may hold what no encoding can spell, so it is escaped."""
_SPELLINGS: dict[str, Callable[[Any], str]] = {name: repr if name == "confidence" else _text for name in OUTPUTS}
_OPENINGS = {name: f'{{"name":"{name}","datatype":"{kind}","shape":' for name, kind in _DATATYPES.items()}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class RawImages:
    """Pixels as sent: `data` is uint8 of `shape` [n, h, w, c]."""

    shape: tuple[int, int, int, int]
    data: bytes


@dataclass(frozen=True, slots=True)
class ImageFiles:
    files: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OutputWish:
    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    images: RawImages | ImageFiles
    id: str
    outputs: tuple[OutputWish, ...]
    parameters: dict[str, Any]


def parse_infer(body: bytes, head_length: int | None, shape: InputShape) -> InferRequest:
    """What a body asks.

    Args:
        body: all of it.
        head_length: of the JSON head where binary tensors follow it; None: all is JSON; 0: all is the one tensor.
        shape: what the model takes; only a body without a head is cut by it.

    Errors: UsageError, InvalidImageError naming the field.
    """
    if head_length == 0:
        return InferRequest(raw_images(body, shape), "", wishes(None, all_binary=False), {})
    document = _document(body if head_length is None else body[:head_length])
    images = _input(document, memoryview(b"" if head_length is None else body[head_length:]))
    parameters = _parameters(document)
    outputs = wishes(document.get("outputs"), all_binary=parameters.get("binary_data_output") is True)
    request_id = document.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > 256:
        raise _wrong("id", request_id, "send text of at most 256 characters")
    return InferRequest(images, request_id, outputs, parameters)


def raw_images(body: bytes, shape: InputShape) -> RawImages:
    """A body that is nothing but pixels of the model's size. Errors: InvalidImageError naming the length it must have."""
    count, rest = divmod(len(body), shape.nbytes)
    if rest or not 1 <= count <= MAX_IMAGES:
        raise InvalidImageError(
            f"has the wrong length for {shape.height}x{shape.width}x{shape.channels}", field="body",
            value=f"{len(body)} bytes", remedy=f"send {shape.nbytes} uint8 bytes per image, or an image/png body",
        )  # fmt: skip
    return RawImages((count, shape.height, shape.width, shape.channels), body)


def head_length_of(header: str | None) -> int | None:
    """Errors: UsageError."""
    if header is None:
        return None
    if not header.isdigit() or int(header) > MAX_JSON_BYTES:
        raise _wrong("Inference-Header-Content-Length", header, "send the length of the JSON head in bytes")
    return int(header)


def _document(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_JSON_BYTES:
        raise TooLargeError(
            "is too large for JSON", field="body", value=len(text), remedy="send a binary tensor or image files"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError("is not a JSON object", field="body", remedy='send {"inputs": [{"name": "image", …}]}')
    return document


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _wrong("parameters", parameters, "send an object")
    return parameters


def _input(document: dict[str, Any], binary: memoryview) -> RawImages | ImageFiles:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong("inputs", None, f"send one input named {INPUT}")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != INPUT:
        raise _wrong("inputs[0].name", tensor.get("name"), f"name it {INPUT}")
    shape = _shape(tensor.get("shape"))
    data = _binary_part(tensor, binary)
    if tensor.get("datatype") == "UINT8":
        return _pixels(tensor, shape, data)
    if tensor.get("datatype") == "BYTES":
        return _files(tensor, shape, data)
    raise _wrong("inputs[0].datatype", tensor.get("datatype"), "send UINT8 pixels, or BYTES of image files")


def _shape(value: Any) -> tuple[int, ...]:
    sound = isinstance(value, list) and 1 <= len(value) <= 4 and all(type(n) is int and 0 < n <= 1 << 24 for n in value)
    if not sound:
        raise _wrong("inputs[0].shape", value, "send [n, height, width, channels], or [n] for image files")
    return tuple(value)


def _binary_part(tensor: dict[str, Any], binary: memoryview) -> bytes | None:
    """The tensor's bytes behind the head; None when its data are in the JSON. Errors: UsageError."""
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if len(binary):
            raise _wrong("inputs[0].parameters.binary_data_size", None, "say how many bytes follow the JSON head")
        return None
    if type(size) is not int or size != len(binary) or "data" in tensor:
        raise _wrong("inputs[0].parameters.binary_data_size", size, f"{len(binary)} bytes follow the JSON head")
    return bytes(binary)


def _pixels(tensor: dict[str, Any], shape: tuple[int, ...], data: bytes | None) -> RawImages:
    if len(shape) == 3:
        shape = (1, *shape) if shape[2] in {1, 3, 4} else (*shape, 1)
    if len(shape) != 4:
        raise _wrong("inputs[0].shape", list(shape), "send [n, height, width, channels]")
    n, height, width, channels = shape
    if n > MAX_IMAGES:
        raise _wrong("inputs[0].shape", list(shape), f"send at most {MAX_IMAGES} images at once")
    pixels = _numbers(tensor.get("data")) if data is None else data
    if len(pixels) != n * height * width * channels:
        raise InvalidImageError(
            f"has {len(pixels)} values", field="inputs[0].data", value=list(shape),
            remedy=f"send {n * height * width * channels} for this shape",
        )  # fmt: skip
    return RawImages((n, height, width, channels), pixels)


def _numbers(data: Any) -> bytes:
    """Whole numbers 0 to 255, flat or nested in any regular way. Errors: InvalidImageError."""
    try:
        values = np.asarray(data)
    except ValueError:
        values = np.empty(0, object)
    if values.dtype.kind not in "iu" or values.size == 0 or values.min() < 0 or values.max() > 255:
        raise InvalidImageError(
            "is not pixels",
            field="inputs[0].data",
            remedy="send whole numbers from 0 to 255, flat or nested like the shape",
        )
    return values.astype(np.uint8).tobytes()


def _files(tensor: dict[str, Any], shape: tuple[int, ...], data: bytes | None) -> ImageFiles:
    count = math.prod(shape)
    if count > MAX_IMAGES:
        raise _wrong("inputs[0].shape", list(shape), f"send at most {MAX_IMAGES} images at once")
    files = _base64(tensor.get("data")) if data is None else _length_prefixed(data)
    if len(files) != count:
        raise InvalidImageError(
            f"has {len(files)} elements", field="inputs[0].data", value=list(shape), remedy=f"send {count}"
        )
    return ImageFiles(tuple(files))


def _base64(data: Any) -> list[bytes]:
    """Base64 text, flat or nested: JSON has no bytes of its own."""
    if isinstance(data, str):
        data = [data]
    flat: list[Any] = list(data) if isinstance(data, list) else []
    while flat and all(isinstance(part, list) for part in flat):
        flat = [item for part in flat for item in part]
    try:
        return [base64.b64decode(item, validate=True) for item in flat if isinstance(item, str)]
    except (binascii.Error, ValueError):
        raise InvalidImageError(
            "is not base64", field="inputs[0].data", remedy="send image files as base64 text"
        ) from None


def _length_prefixed(data: bytes) -> list[bytes]:
    """Elements with their length in four bytes, little-endian, before each."""
    files, position = [], 0
    while position < len(data):
        if position + _LENGTH.size > len(data):
            raise InvalidImageError(
                "is cut short", field="inputs[0]", remedy="send each element with its length before it"
            )
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if position + length > len(data):
            raise InvalidImageError(
                "is cut short", field="inputs[0]", remedy="send each element with its length before it"
            )
        files.append(data[position : position + length])
        position += length
    return files


def wishes(asked: Any, *, all_binary: bool) -> tuple[OutputWish, ...]:
    """Which outputs, and how. Errors: UsageError naming one that there is not."""
    if asked is None or asked == []:
        return tuple(OutputWish(name, all_binary) for name in OUTPUTS)
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise _wrong("outputs", None, f"list objects with a name of {', '.join(OUTPUTS)}")
    found = []
    for index, one in enumerate(asked):
        if one.get("name") not in OUTPUTS:
            raise _wrong(f"outputs[{index}].name", one.get("name"), f"use {', '.join(OUTPUTS)}")
        found.append(OutputWish(one["name"], _parameters(one).get("binary_data", all_binary) is True))
    return tuple(found)


def spell(model: str, request: InferRequest, answers: Sequence[PredictionEntry]) -> tuple[bytes, int | None]:
    """Body of the response, and the length of its JSON head when binary tensors follow it.

    Spelled by hand, because `json.dumps` would take a tenth of the time of a whole request; a test holds it against `json.loads`.
    """
    outputs: list[str] = []
    binary: list[bytes] = []
    for wish in request.outputs:
        values = [_VALUES[wish.name](answer) for answer in answers]
        if wish.binary:
            binary.append(_packed(wish.name, values))
            data = f'"parameters":{{"binary_data_size":{len(binary[-1])}}}'
        else:
            data = f'"data":[{",".join(map(_SPELLINGS[wish.name], values))}]'
        outputs.append(f"{_OPENINGS[wish.name]}[{len(answers)}],{data}}}")
    asked = f',"id":{_ascii(request.id)}' if request.id else ""
    names = f'{{"model_name":{_ascii(model)},"model_version":{_text(answers[0].version)}'
    head = f'{names},"outputs":[{",".join(outputs)}]{asked}}}'.encode()
    return (b"".join([head, *binary]), len(head)) if binary else (head, None)


def _packed(name: str, values: Sequence[Any]) -> bytes:
    if _DATATYPES[name] == "FP32":
        return np.asarray(values, "<f4").tobytes()
    encoded = [str(value).encode() for value in values]
    return b"".join(_LENGTH.pack(len(one)) + one for one in encoded)


def metadata_of(name: str, versions: Sequence[str], shape: InputShape) -> dict[str, Any]:
    """`GET /v2/models/{m}`: what the model takes and gives."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": "continual_onnx",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, shape.height, shape.width, shape.channels]}],
        "outputs": [{"name": each, "datatype": _DATATYPES[each], "shape": [-1]} for each in OUTPUTS],
    }


def _wrong(field: str, value: object, remedy: str) -> UsageError:
    return UsageError("is missing" if value is None else "is wrong", field=field, value=value, remedy=remedy)
