"""The step of the training loop takes all parameters at once; its arithmetic is that of torch's own functions."""

from __future__ import annotations

import pytest
import torch
from continual_contract.artifacts import InputShape
from continual_workers.training.learner import CLIP, _descend
from continual_workers.training.models import build
from torch import nn
from torch.nn import functional

SHAPE = InputShape(height=28, width=28, channels=1)
RATE = 0.2


def loss_of(net: nn.Module, scale: float) -> torch.Tensor:
    images = torch.linspace(-1, 1, 4 * 28 * 28).view(4, 1, 28, 28)
    return scale * functional.cross_entropy(net(images), torch.tensor([0, 3, 5, 9]))


@pytest.mark.parametrize("scale", [1e-3, 300.0], ids=["gradient inside the bound", "gradient beyond the bound"])
def test_a_step_moves_the_weights_bit_for_bit_as_torch_does(scale: float) -> None:
    """Clipped SGD by `clip_grad_norm_` and `torch.optim.SGD` gives the same bytes, so versions trained before stay reproducible."""
    ours, theirs = (build("lenet5", SHAPE, 10, 0) for _ in range(2))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=RATE, foreach=False)
    loss_of(theirs, scale).backward()
    norm = nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)
    optimizer.step()
    _descend(tuple(ours.parameters()), RATE, loss_of(ours, scale))
    assert (float(norm) > CLIP) is (scale > 1)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
