"""What the product is held against, on the written-down stream: joint retraining, and the policy of the systems it replaces.

*Joint* is the ceiling: the product's own `joint` strategy, from scratch on the first data set and every label there was, with the same
augmentation. The *seeds' policy* is: every 1000 labels continue training on the last 1000, swap, ask nobody. Its training takes no time here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from continual_contract.artifacts import Normalization
from continual_operator.training import epochs_for
from continual_workers.training.learner import normalized, pixels, set_up_torch
from continual_workers.training.models import Arrays
from continual_workers.training.samples import Samples
from torch.nn import functional

from benchmarks.closedloop.traffic import Item
from benchmarks.closedloop.world import Images, Labels, bootstrap_set
from benchmarks.learning import lifelong, worlds

EVERY = 1000
"""As many labels as the product's own trigger waits for."""
EPOCHS, BATCH, RATE = 5, 32, 1e-3
NET = worlds.World("digits", 28, "mlp")
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Net:
    """Weights that can be asked."""

    weights: Arrays
    normalization: Normalization

    def predict(self, images: Images) -> Labels:
        return lifelong.predictions(NET, self.weights, self.normalization, images)


@dataclass(frozen=True, slots=True)
class Served:
    """A version as the product served it."""

    path: Path

    def predict(self, images: Images) -> Labels:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.path.read_bytes(), options, providers=["CPUExecutionProvider"])
        predicted: Labels = session.run(None, {"image": images})[0].argmax(axis=1)
        return predicted


@dataclass(frozen=True, slots=True)
class Told:
    """Labelled images in the order in which their labels came: `seconds` float64 [n], `images` uint8 [n, 28, 28, 1], `labels` int64 [n]."""

    seconds: np.ndarray[tuple[int], np.dtype[np.float64]]
    images: Images
    labels: Labels

    def until(self, second: float) -> int:
        """How many labels had come by then."""
        return int(np.searchsorted(self.seconds, second, side="right"))


def told(items: Sequence[Item], images: Images) -> Told:
    order = sorted((i for i, item in enumerate(items) if item.given >= 0), key=lambda i: items[i].label_second)
    seconds = np.array([items[i].label_second for i in order], dtype=np.float64)
    return Told(seconds, images[order], np.array([items[i].given for i in order], dtype=np.int64))


def joint(labels: Told, count: int, seed: int, without: tuple[int, ...]) -> Net:
    """From scratch on the first data set and the first `count` labels."""
    set_up_torch(1)
    images, first = bootstrap_set(seed, without)
    everything = Samples(
        np.concatenate([images, labels.images[:count]]), np.concatenate([first, labels.labels[:count]]), worlds.DIGITS
    )
    how = lifelong.recipe(NET, seed, {"epochs": epochs_for(len(everything))})
    version = lifelong.bootstrap(NET, how, everything, 0, longer=True)
    return Net(version.weights, version.normalization)


def first_version(folder: Path) -> Net:
    """v1 of the recording, as it may be trained further."""
    with np.load(folder / "v1.npz") as data:
        scale = Normalization(mean=tuple(data["norm.mean"].tolist()), std=tuple(data["norm.std"].tolist()))
        return Net({name: data[name] for name in data.files if not name.startswith("norm.")}, scale)


def seeds_policy(start: Net, labels: Told) -> list[tuple[float, Net]]:
    """(second, network) at every swap; Adam and its state live on, as they do in those systems."""
    set_up_torch(1)
    torch.manual_seed(0)
    net = lifelong.network(NET, 0, start.weights)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    swaps = [(0.0, start)]
    for end in range(EVERY, len(labels.labels) + 1, EVERY):
        inputs = normalized(pixels(labels.images[end - EVERY : end], CPU), start.normalization)
        classes = torch.from_numpy(labels.labels[end - EVERY : end])
        net.train()
        for _ in range(EPOCHS):
            for batch in torch.randperm(EVERY).split(BATCH):  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.zero_grad()
                functional.cross_entropy(net(inputs[batch]), classes[batch]).backward()  # type: ignore[no-untyped-call]  # torch's backward
                optimizer.step()
        net.eval()
        weights = {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}
        swaps.append((float(labels.seconds[end - 1]), Net(weights, start.normalization)))
    return swaps
