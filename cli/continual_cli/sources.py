"""Where a producer's images come from: a named dataset, a `.npz`, a folder of images, or lines of JSON as other systems send them.

Every source yields the same items, in an order that depends on the seed alone. The JSON shape (`{"id": …, "image": base64 of
float32, "label": …}`) is converted here and nowhere else: beyond this point an image is raw uint8 HWC.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from continual_contract.entries import MAX_METADATA_BYTES
from continual_contract.errors import (
    InvalidImageError,
    MissingDatasetError,
    NotFoundError,
    UnknownClassError,
    UsageError,
)

if TYPE_CHECKING:
    from continual_contract.artifacts import InputShape
    from continual_workers.training.samples import Samples

    from continual_cli.pictures import Pixels

OURS = ("id", "image", "label", "k", "t")
NAMED = ("digits", "mnist", "fashion-mnist", "cifar10")


class Shape(StrEnum):
    dataset = "dataset"
    json_base64_float32 = "json-base64-float32"


@dataclass(frozen=True, slots=True)
class Item:
    """One image to send: raw uint8 HWC bytes, its true class if known, its position or id in the source."""

    data: bytes
    class_name: str | None
    key: str
    more: tuple[tuple[str, bytes | int], ...] = ()
    """Further fields of the request: `k` partition key, `t` event time in ms, `m` metadata as JSON."""


def dataset_items(
    source: str, shape: InputShape | None, classes: Sequence[str], data_root: Path | None, seed: int
) -> Iterator[Item]:
    """The samples of a dataset, shuffled by the seed, again and again in new orders; keys are `<source>-<round>-<index>`.

    Images of another size are letterboxed; without `shape` and `classes` the dataset's own hold.

    Errors: MissingDatasetError when it is not there, UnknownClassError for a class that the model does not have.
    """
    import numpy as np

    samples = load(source, shape, classes, data_root)
    name = Path(source).stem
    for epoch in itertools.count():
        for index in np.random.default_rng((seed, epoch)).permutation(len(samples)):
            label = samples.classes[int(samples.labels[index])]
            more = (("k", samples.k[index].encode()),) if samples.k and samples.k[index] else ()
            yield Item(samples.images[index].tobytes(), label, f"{name}-{epoch}-{index}", more)


def load(source: str, shape: InputShape | None, classes: Sequence[str], data_root: Path | None) -> Samples:
    """`digits`, `x.npz` or a folder `<class>/<image>`, all of it."""
    from continual_contract.artifacts import DatasetRef
    from continual_workers.training.datasets import load_dataset

    if source in NAMED:
        return load_dataset(DatasetRef(name=source), data_root, None, shape, tuple(classes) or None)
    path = Path(source).expanduser()
    if not path.exists():
        remedy = f"use {', '.join(NAMED)}, a .npz file, or a folder <class>/<image>"
        raise MissingDatasetError("no such dataset, file or folder", field="dataset", value=source, remedy=remedy)
    return load_path(path, shape, tuple(classes) or None)


def load_path(path: Path, shape: InputShape | None, classes: tuple[str, ...] | None) -> Samples:
    """A `.npz` file or a folder, letterboxed to `shape`. Nothing is written beside it."""
    import numpy as np
    from continual_clients.images import fit_image
    from continual_workers.training.datasets import local_files, read_image_folder, read_npz, translate
    from continual_workers.training.samples import Samples

    raw = (
        read_image_folder(local_files(path), str(path), shape)
        if path.is_dir()
        else read_npz(path.read_bytes(), str(path), classes)
    )
    images = raw.images
    if shape is not None and images.shape[1:] != (shape.height, shape.width, shape.channels):
        images = np.stack([fit_image(image, shape, "Letterbox") for image in images])
    names = classes or raw.classes
    return Samples(images, translate(raw.labels, raw.classes, names), names, raw.k)


def json_items(source: str, shape: InputShape, classes: Sequence[str]) -> Iterator[Item]:
    """Lines of `{"id", "image", "label"}` from a file, or from stdin for `-`; blank lines are skipped.

    Optional `k` (partition key) and `t` (event time, ms); whatever else a line holds travels along as metadata.

    Errors: UsageError, InvalidImageError and UnknownClassError naming the line.
    """
    with lines(source) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield json_item(f"{source}:{number}", line, shape, classes)


@contextmanager
def lines(source: str) -> Iterator[IO[str]]:
    if source == "-":
        yield sys.stdin
        return
    try:
        with Path(source).open(encoding="utf-8") as stream:
            yield stream
    except FileNotFoundError as error:
        raise NotFoundError(
            "no such file", field="source", value=source, remedy="name a file of JSON lines, or - for stdin"
        ) from error


def json_item(where: str, line: str, shape: InputShape, classes: Sequence[str]) -> Item:
    try:
        document: Any = json.loads(line)
        identity, image = str(document["id"]), document["image"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidImageError(
            "is not a JSON object with id and image",
            field=where,
            value=line[:40],
            remedy='send {"id": …, "image": base64, "label": …}',
        ) from error
    label = json_label(where, document.get("label"), classes)
    return Item(float32_pixels(where, str(image), shape), label, identity, further_fields(where, document))


def further_fields(where: str, document: dict[str, Any]) -> tuple[tuple[str, bytes | int], ...]:
    """`k`, `t` and, of all that is not ours, `m`. Errors: UsageError."""
    found: list[tuple[str, bytes | int]] = []
    if document.get("k"):
        found.append(("k", str(document["k"]).encode()))
    if (moment := document.get("t")) is not None:
        if not isinstance(moment, int) or moment < 0:
            raise UsageError("is not a time", field=f"{where}: t", value=moment, remedy="give milliseconds since 1970")
        found.append(("t", moment))
    rest = {name: value for name, value in document.items() if name not in OURS}
    metadata = json.dumps(rest, ensure_ascii=False, separators=(",", ":")).encode() if rest else b""
    if len(metadata) > MAX_METADATA_BYTES:
        remedy = f"leave fields out: at most {MAX_METADATA_BYTES} bytes travel with a request"
        raise UsageError("is too much metadata", field=where, value=f"{len(metadata)} bytes", remedy=remedy)
    return (*found, ("m", metadata)) if metadata else tuple(found)


def json_label(where: str, label: object, classes: Sequence[str]) -> str | None:
    """A label is a class name or its position in the model's classes."""
    if label is None:
        return None
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, int) and 0 <= label < len(classes) and str(label) not in classes:
        return classes[label]
    if str(label) in classes:
        return str(label)
    raise UnknownClassError(
        "the model has no such class",
        field=f"{where}: label",
        value=label,
        remedy=f"use a name, or 0 to {len(classes) - 1}",
    )


def float32_pixels(where: str, text: str, shape: InputShape) -> bytes:
    """Base64 of little-endian float32 [H, W, C] in 0..1 as raw uint8 bytes, rounded."""
    import numpy as np

    field = f"{where}: image"
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise InvalidImageError(
            "is not base64 of float32", field=field, value=text[:20], remedy="encode the array's bytes"
        ) from error
    if values.size != shape.nbytes:
        wanted = f"{shape.height}x{shape.width}x{shape.channels}"
        raise InvalidImageError(
            "has the wrong length", field=field, value=values.size, remedy=f"send {shape.nbytes} values ({wanted})"
        )
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        extent = [float(values.min()), float(values.max())]
        raise InvalidImageError(
            "has values outside 0..1", field=field, value=extent, remedy="divide pixels by 255 before sending"
        )
    pixels: Pixels = np.rint(values * 255).astype(np.uint8)
    return pixels.tobytes()
