"""What may not move: the diagonal of the Fisher information, and the pull that holds important parameters at the parent.

Kirkpatrick et al. 2017, arXiv 1612.00796, in the online form of Schwarz et al. 2018: one anchor (the parent) and one
running importance, instead of one of each per experience. Labels are drawn from the network's own answers: with the data's
labels a network that fits them well would find nothing important (Kunstner et al. 2019, arXiv 1905.12558).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from continual_workers.training.models import Arrays

SAMPLES = 512
"""Images the information is estimated on; more change the third digit."""

Importance = dict[str, NDArray[np.generic]]


class Anchor:
    """The parent's parameters and how strongly each is held."""

    def __init__(self, net: nn.Module, parent: nn.Module | None, importance: Arrays, device: torch.device) -> None:
        held = {} if parent is None else dict(parent.named_parameters())
        self._terms: list[tuple[str, Tensor, Tensor]] = []
        for name, parameter in net.named_parameters():
            if name in held and name in importance:
                rows = min(len(parameter), len(held[name]), len(importance[name]))
                weight = torch.from_numpy(np.array(importance[name][:rows], dtype=np.float32)).to(device)
                self._terms.append((name, held[name].detach()[:rows], weight))

    def drift(self, net: nn.Module) -> Tensor | None:
        """½·Σ F·(θ − θ_parent)², over the rows the parent had (appended classes are free); None when nothing is held."""
        if not self._terms:
            return None
        parameters = dict(net.named_parameters())
        moved = [(f * (parameters[name][: len(at)] - at) ** 2).sum() for name, at, f in self._terms]
        return 0.5 * torch.stack(moved).sum()


def fisher(net: nn.Module, images: Tensor, seed: int) -> Importance:
    """Diagonal Fisher information [shape of each parameter], mean over images [n, C, H, W] (normalised)."""
    net.eval()
    rng = np.random.default_rng([seed, 0xF15E])
    sums = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for image in images:
        logits = net(image[None])
        p = functional.softmax(logits.detach().double(), dim=1)[0].cpu().numpy()
        drawn = torch.tensor([rng.choice(len(p), p=p / p.sum())], device=logits.device)
        gradients = torch.autograd.grad(functional.cross_entropy(logits, drawn), list(net.parameters()))
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient.detach() ** 2
    return {name: (total / max(len(images), 1)).detach().cpu().numpy() for name, total in sums.items()}


def accumulated(before: Mapping[str, NDArray[np.generic]], now: Importance, decay: float) -> Importance:
    """decay·before + now; rows of appended classes had no importance before."""
    total: Importance = {}
    for name, array in now.items():
        summed = np.array(array, dtype=np.float32)
        if name in before:
            summed[: len(before[name])] += np.float32(decay) * np.asarray(before[name], dtype=np.float32)
        total[name] = summed
    return total
