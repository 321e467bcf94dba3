"""The networks: from pixels to logits, and how a network's head grows when classes are appended.

All take float32 [n, C, H, W] and give logits float32 [n, classes]; normalisation is the exporter's business. Other
packages add architectures under the entry-point group `continual.architectures` (an `Architecture` each).
Weights travel as plain named arrays (safetensors or a state-dict `.npz`), never as pickles.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

import numpy as np
import torch
from continual_contract.artifacts import InputShape
from continual_contract.errors import UsageError
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

ENTRY_POINTS = "continual.architectures"
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of networks: `build(shape, classes)`, and the name of its last linear layer, whose rows are classes."""

    name: str
    build: Callable[[InputShape, int], nn.Module]
    head: str = "head"
    smallest: int = 8
    """Fewest pixels per side it can take."""


class Mlp(nn.Module):
    """pixels-100-100-classes, ReLU."""

    def __init__(self, shape: InputShape, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.nbytes, 100)
        self.fc2 = nn.Linear(100, 100)
        self.head = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.head(functional.relu(self.fc2(x)))
        return logits


class Lenet5(nn.Module):
    """LeCun et al. 1998 with ReLU and max-pooling: conv 6-16 (5x5), fc 120-84-classes."""

    def __init__(self, shape: InputShape, classes: int) -> None:
        super().__init__()
        height, width = shape.height // 2, shape.width // 2
        self.conv1 = nn.Conv2d(shape.channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * ((height - 4) // 2) * ((width - 4) // 2), 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2))
        x = functional.relu(self.fc2(functional.relu(self.fc1(x.flatten(1)))))
        logits: Tensor = self.head(x)
        return logits


class Cnn3(nn.Module):
    """The CIFAR-10 network of the broker classifier it replaces: conv 32-64-64 (3x3), max-pool between, fc 64-classes."""

    def __init__(self, shape: InputShape, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape.channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 64, 3)
        height, width = (((side - 2) // 2 - 2) // 2 - 2 for side in (shape.height, shape.width))
        self.fc1 = nn.Linear(64 * height * width, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2))
        x = functional.relu(self.conv3(x))
        logits: Tensor = self.head(functional.relu(self.fc1(x.flatten(1))))
        return logits


def _resnet(name: str, shape: InputShape, classes: int) -> nn.Module:
    """Torchvision's ResNet for any number of channels; below 64 pixels a 3x3 stem without max-pool keeps the resolution."""
    from torchvision import models  # noqa: PLC0415 -- three seconds that only the ResNets need

    net: nn.Module = getattr(models, name)(weights=None, num_classes=classes)
    if min(shape.height, shape.width) < 64:
        net.conv1 = nn.Conv2d(shape.channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif shape.channels != 3:
        net.conv1 = nn.Conv2d(shape.channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return net


BUILT_IN = (
    Architecture("mlp", Mlp, smallest=1),
    Architecture("lenet5", Lenet5, smallest=12),
    Architecture("cnn3", Cnn3, smallest=18),
    Architecture("resnet18", functools.partial(_resnet, "resnet18"), head="fc"),
    Architecture("resnet50", functools.partial(_resnet, "resnet50"), head="fc"),
)


def architectures() -> dict[str, Architecture]:
    """Every known architecture by name: ours, then what other packages register."""
    known = {a.name: a for a in BUILT_IN}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in known:
            known[point.name] = point.load()
    return known


def architecture(name: str) -> Architecture:
    """Raises UsageError when nobody registered `name`."""
    known = {a.name: a for a in BUILT_IN}
    found = known.get(name) or architectures().get(name)
    if found is None:
        names = ", ".join(sorted(architectures()))
        raise UsageError("unknown architecture", field="model.architecture", value=name, remedy=f"use one of {names}")
    return found


def build(name: str, shape: InputShape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised network; the seed alone decides its weights."""
    kind = architecture(name)
    if min(shape.height, shape.width) < kind.smallest:
        raise UsageError(
            f"{name} needs at least {kind.smallest}x{kind.smallest} pixels",
            field="model.input",
            value=f"{shape.height}x{shape.width}",
            remedy="use larger inputs or architecture mlp",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.build(shape, classes)


def arrays_of(net: nn.Module) -> dict[str, NDArray[np.generic]]:
    """The network's state as named arrays, copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}


def load_arrays(net: nn.Module, arrays: Arrays) -> None:
    """Put named arrays into the network; every name and shape must fit (see `grow_head`, `adapt`)."""
    net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


def grow_head(arrays: Arrays, fresh: Arrays, head: str) -> dict[str, NDArray[np.generic]]:
    """The parent's arrays with the head's new rows taken from `fresh`: appended classes leave old rows as they are.

    Raises UsageError when the parent knows more classes than `fresh`: classes are append-only.
    """
    grown = dict(arrays)
    for name in (f"{head}.weight", f"{head}.bias"):
        old, new = arrays[name], fresh[name]
        if len(old) > len(new):
            raise UsageError("classes are append-only", field="model.classes", value=f"{len(old)} → {len(new)}")
        grown[name] = np.concatenate([old, new[len(old) :]])
    return grown


def adapt(arrays: Arrays, fresh: Arrays, head: str) -> dict[str, NDArray[np.generic]]:
    """Pretrained arrays fitted to `fresh`: another head starts anew, the first convolution is cut and averaged to fit.

    Raises UsageError naming the first array that is missing or does not fit.
    """
    fitted: dict[str, NDArray[np.generic]] = {}
    for name, target in fresh.items():
        given = arrays.get(name)
        if given is not None and given.shape == target.shape:
            fitted[name] = np.asarray(given, dtype=target.dtype)
        elif name.startswith(f"{head}.") or name.endswith("num_batches_tracked"):
            fitted[name] = target
        elif given is not None and _is_stem_of(given, target):
            fitted[name] = _fit_stem(given, target)
        else:
            found = "nothing" if given is None else str(given.shape)
            raise UsageError(
                f"pretrained array {name} should have shape {target.shape}, found {found}",
                field="model.pretrained",
                remedy="give a state dict of the same architecture",
            )
    return fitted


def _is_stem_of(given: NDArray[np.generic], target: NDArray[np.generic]) -> bool:
    """Whether a convolution can be cut to fit: as many filters, kernels at least as large."""
    same_rank = given.ndim == target.ndim == 4
    return same_rank and len(given) == len(target) and given.shape[2] >= target.shape[2] <= given.shape[3]


def _fit_stem(given: NDArray[np.generic], target: NDArray[np.generic]) -> NDArray[np.generic]:
    """Centre-crop the kernel; average over input channels when their number differs, keeping the response's scale."""
    rows, columns = target.shape[2:]
    top, left = (given.shape[2] - rows) // 2, (given.shape[3] - columns) // 2
    kernel = np.asarray(given[:, :, top : top + rows, left : left + columns], dtype=np.float32)
    if kernel.shape[1] != target.shape[1]:
        mean = kernel.mean(axis=1, keepdims=True) * (kernel.shape[1] / target.shape[1])
        kernel = np.repeat(mean, target.shape[1], axis=1)
    return kernel.astype(target.dtype)


def read_weights(data: bytes, name: str) -> dict[str, NDArray[np.generic]]:
    """Named arrays of a `.safetensors` or `.npz` file. Raises UsageError for anything else: pickles are refused."""
    from safetensors import SafetensorError  # noqa: PLC0415 -- only when weights are given
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        if name.endswith(".npz"):
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        return dict(load(data))
    except (SafetensorError, ValueError, OSError) as error:
        raise UsageError(
            f"not a readable weight file: {error}",
            field="model.pretrained",
            value=name,
            remedy="give a .safetensors file or a .npz of named arrays",
        ) from error
