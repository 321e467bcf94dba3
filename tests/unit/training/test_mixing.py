"""Mixed images: shares that add up, labels that follow their images, and who mixes when nobody says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from continual_contract.artifacts import Augmentation, InputShape, Normalization
from continual_workers.training import models
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.learner import Task, learn
from continual_workers.training.mixing import Mixing
from continual_workers.training.samples import Samples
from continual_workers.training.strategies import skewed, strategy
from torch.nn import functional

SHAPE = InputShape(height=8, width=8, channels=1)
SMALL = Augmentation(shift_pixels=0.4)
CPU = torch.device("cpu")


def drawn(strength: float = 0.3, count: int = 200) -> Mixing:
    return Mixing.draw(strength, count, np.random.default_rng(0), CPU)


def test_an_image_keeps_at_least_half_of_itself() -> None:
    """The larger share is the image's own, so the label counted as right or wrong stays its own."""
    mixing = drawn()
    assert float(mixing.kept.min()) >= 0.5
    assert sorted(mixing.partners.tolist()) == list(range(200))


def test_a_strong_mixing_mixes_more() -> None:
    """Beta(α, α) with a small α leaves most images nearly whole."""
    assert float(drawn(0.1).kept.mean()) > float(drawn(1.0).kept.mean()) + 0.1


def test_labels_follow_their_images() -> None:
    """Images that are their class's number: the mixed pixel is the mean class of the mixed label."""
    labels = torch.arange(10).repeat(20)
    mixing = drawn()
    pixels = mixing.images(labels.to(torch.float32).view(-1, 1, 1, 1)).flatten()
    shares = mixing.labels(labels, 10)
    assert torch.allclose(shares.sum(dim=1), torch.ones(200))
    assert torch.allclose(shares @ torch.arange(10, dtype=torch.float32), pixels, atol=1e-5)


def test_the_loss_of_a_mixed_label_is_the_mixture_of_losses() -> None:
    """Cross-entropy is linear in the label: kept · CE(own) + (1 − kept) · CE(partner's)."""
    logits, labels = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)), torch.arange(10).repeat(20)
    mixing = drawn()
    own, other = (
        functional.cross_entropy(logits, chosen, reduction="none") for chosen in (labels, labels[mixing.partners])
    )
    expected = (mixing.kept * own + (1 - mixing.kept) * other).mean()
    assert float(functional.cross_entropy(logits, mixing.labels(labels, 10))) == pytest.approx(float(expected))


def test_skew_is_judged_among_the_classes_that_are_there() -> None:
    """Two equal classes of ten are not skewed; twice as many of one are; nothing at all is not."""
    assert not skewed(np.array([50, 50, 0, 0]))
    assert skewed(np.array([50, 25, 0, 0]))
    assert not skewed(np.zeros(4, dtype=np.int64))


def lesson(name: str, counts: tuple[int, ...], augmentation: Augmentation) -> Task:
    """Noise with labels: enough to tell one training from another by its bytes."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(1).integers(0, 255, (len(labels), 8, 8, 1), dtype=np.uint8)
    samples = Samples(images, labels, tuple("abcd"))
    return Task(
        net=models.build("mlp", SHAPE, 4, 0),
        parent=models.build("mlp", SHAPE, 4, 1),
        new=samples,
        buffer=ReplayBuffer.empty(10, SHAPE, 4, 0),
        holdout=samples.take([]),
        strategy=strategy(name),
        normalization=Normalization(mean=(0.5,), std=(0.5,)),
        augmentation=augmentation,
        epochs=1,
        rates=(0.2,),
    )


def weights(task: Task) -> dict[str, bytes]:
    fresh = models.build("mlp", SHAPE, 4, 0)
    return {name: a.tobytes() for name, a in learn(replace(task, net=fresh), None, lambda _: None).weights.items()}


@pytest.mark.parametrize(
    ("name", "counts", "augmentation", "expected"),
    [
        ("der++", (20, 20), Augmentation(), 0.3),  # replay without augmentation
        ("er", (20, 20), Augmentation(), 0.3),
        ("der++", (20, 20), SMALL, 0.0),  # declared augmentation does it already
        ("joint", (20, 20), Augmentation(), 0.0),  # the ceiling is not moved
        ("joint", (40, 10), Augmentation(), 0.3),  # rare classes, from scratch
        ("joint", (40, 10), SMALL, 0.3),
        ("gdumb", (40, 10), SMALL, 0.3),
        ("fine-tune", (40, 10), Augmentation(), 0.0),  # the baseline stays what it is
        ("lwf", (20, 20), Augmentation(), 0.0),
        ("ewc", (20, 20), Augmentation(), 0.0),
        ("er-ace", (20, 20), Augmentation(), 0.0),
    ],
)
def test_who_mixes_when_nobody_says(
    name: str, counts: tuple[int, ...], augmentation: Augmentation, expected: float
) -> None:
    """The default ends with the bytes of the explicit strength, and not with those of the other one."""
    task = lesson(name, counts, augmentation)
    assert weights(task) == weights(replace(task, mixup=expected))
    if name not in ("er-ace", "lwf", "ewc"):
        assert weights(task) != weights(replace(task, mixup=0.3 - expected))
