"""Small data in other systems' formats, made from scikit-learn's real digits: nothing is downloaded.

make_data.py cifar10 DIR [--count N]         DIR/cifar10/cifar-10-batches-bin/*.bin: digits drawn 32x32 in colour
make_data.py json DATA_DIR [--count N]       JSON lines {id, image: base64 float32, label} of a cifar10 folder's test part
make_data.py npz FILE_TRAIN FILE_TEST        arrays `image` uint8 [n, 28, 28] and `label` int64 [n]
make_data.py png FILE --digit 7 --tilt 30    one digit as an image; --index picks which of its kind
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from continual_cli.demo.world import Digits, Weather, draw, load_digits
from continual_contract.artifacts import DatasetRef
from continual_workers.training.datasets import load_dataset
from PIL import Image

Images = npt.NDArray[np.uint8]
PAPER = Weather(jitter_pixels=1.0, jitter_degrees=6.0)


def coloured(digits: Digits, indices: npt.NDArray[np.int64], rng: np.random.Generator) -> Images:
    """Digits in a random ink on random dark paper: uint8 [n, 32, 32, 3]."""
    images = np.zeros((len(indices), 32, 32, 3), np.uint8)
    for place, index in enumerate(indices):
        ink = np.pad(draw(digits.ink[index], PAPER, rng)[:, :, 0], 2)[:, :, None] / 255.0
        light, dark = rng.uniform(140, 255, 3), rng.uniform(0, 60, 3)
        images[place] = (dark + ink * (light - dark)).astype(np.uint8)
    return images


def write_cifar10(folder: Path, count: int) -> None:
    """The binary version of CIFAR-10: records of one label byte and 3x32x32 pixels; five training batches and a test batch."""
    digits, rng = load_digits(), np.random.default_rng(0)
    order = rng.permutation(len(digits.labels))[:count]
    images, labels = coloured(digits, order, rng), digits.labels[order]
    target = folder / "cifar10" / "cifar-10-batches-bin"
    target.mkdir(parents=True, exist_ok=True)
    records = np.concatenate(
        [labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(count, -1)], axis=1
    )
    parts = np.array_split(records, 6)
    for name, part in zip([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"], parts, strict=True):
        part.tofile(target / f"{name}.bin")


def write_json(folder: Path, count: int, name: str) -> None:
    """Messages as the CIFAR-10 producer sends them: image as base64 of float32 in 0..1, with its label and an id."""
    samples = load_dataset(DatasetRef(name="cifar10"), folder, None, split="test")
    for place in range(count):
        index = place % len(samples.labels)
        pixels = (samples.images[index].astype("<f4") / 255.0).tobytes()
        message = {
            "id": f"{name}-{place}",
            "image": base64.b64encode(pixels).decode(),
            "label": int(samples.labels[index]),
        }
        sys.stdout.write(json.dumps(message) + "\n")


def write_npz(train: Path, test: Path) -> None:
    """The 1 797 digits as two files, four fifths and one fifth."""
    digits, rng = load_digits(), np.random.default_rng(0)
    order = rng.permutation(len(digits.labels))
    cut = len(order) * 4 // 5
    for path, part in ((train, order[:cut]), (test, order[cut:])):
        images = np.stack([draw(digits.ink[i], PAPER, rng)[:, :, 0] for i in part])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, image=images, label=digits.labels[part])


def write_png(path: Path, digit: int, index: int, tilt: float) -> None:
    """One real digit, tilted: the kind of image a model answers wrongly."""
    digits = load_digits()
    chosen = np.flatnonzero(digits.labels == digit)[index]
    weather = Weather(tilt_degrees=tilt, jitter_pixels=0, jitter_degrees=0, jitter_contrast=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(digits.ink[chosen], weather, np.random.default_rng(0))[:, :, 0]).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    cifar = kinds.add_parser("cifar10")
    cifar.add_argument("folder", type=Path)
    cifar.add_argument("--count", type=int, default=1500)
    messages = kinds.add_parser("json")
    messages.add_argument("folder", type=Path)
    messages.add_argument("--count", type=int, default=200)
    messages.add_argument("--name", default="message")
    npz = kinds.add_parser("npz")
    npz.add_argument("train", type=Path)
    npz.add_argument("test", type=Path)
    png = kinds.add_parser("png")
    png.add_argument("file", type=Path)
    png.add_argument("--digit", type=int, default=7)
    png.add_argument("--index", type=int, default=0)
    png.add_argument("--tilt", type=float, default=0.0)
    options = parser.parse_args()
    if options.kind == "cifar10":
        write_cifar10(options.folder, options.count)
    elif options.kind == "json":
        write_json(options.folder, options.count, options.name)
    elif options.kind == "npz":
        write_npz(options.train, options.test)
    else:
        write_png(options.file, options.digit, options.index, options.tilt)


if __name__ == "__main__":
    main()
