"""The three networks that are measured, exported by the trainer's own code with random weights: speed does not ask what they know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from continual_contract.artifacts import InputShape, Normalization

CLASSES = tuple(f"class-{n}" for n in range(10))


@dataclass(frozen=True, slots=True)
class Net:
    """A network with the image it takes; `drain` is how many requests one drained run holds (about three seconds)."""

    name: str
    title: str
    shape: InputShape
    drain: int

    @property
    def normalization(self) -> Normalization:
        return Normalization(mean=(0.5,) * self.shape.channels, std=(0.25,) * self.shape.channels)

    def images(self, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
        """uint8 [count, H, W, C]"""
        shape = (count, self.shape.height, self.shape.width, self.shape.channels)
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


NETS = {
    net.name: net
    for net in (
        Net("cnn3", "CIFAR net", InputShape(height=32, width=32, channels=3), 40_000),
        Net("lenet5", "LeNet", InputShape(height=28, width=28, channels=1), 80_000),
        Net("resnet18", "ResNet-18", InputShape(height=32, width=32, channels=3), 6_000),
    )
}


def onnx_of(net: Net, folder: Path) -> bytes:
    """The exported file, kept in `folder` because an export takes seconds."""
    path = folder / f"{net.name}.onnx"
    if not path.exists():
        from continual_workers.training.export import export_onnx  # noqa: PLC0415 -- torch, only when it is needed
        from continual_workers.training.models import build  # noqa: PLC0415

        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(export_onnx(build(net.name, net.shape, len(CLASSES), 0), net.shape, net.normalization))
    return path.read_bytes()
