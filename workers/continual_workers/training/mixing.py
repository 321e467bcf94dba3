"""Mixing of images (mixup, Zhang et al. 2018, arXiv 1710.09412): where there is too little to learn from.

Each image of a step takes up to half of another one of the same step, and its label takes the same share of the other's:
between a class of one image and its neighbours lies then a line instead of a point. New and replayed images mix with one
another; the frozen parent is asked about the mixed image. When it is done is the strategy's choice (`docs/decisions/0205`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Mixing:
    """Who is mixed with whom: partners int64 [n], and what each image keeps of itself, float32 [n] in ½..1."""

    partners: Tensor
    kept: Tensor

    @classmethod
    def draw(cls, strength: float, count: int, rng: np.random.Generator, device: torch.device) -> Mixing:
        """Partners by lot, shares from Beta(strength, strength); the larger share is always the image's own."""
        share: NDArray[np.float32] = rng.beta(strength, strength, size=count).astype(np.float32)
        kept = torch.from_numpy(np.maximum(share, 1 - share)).to(device)
        return cls(torch.from_numpy(rng.permutation(count)).to(device), kept)

    def images(self, x: Tensor) -> Tensor:
        """Float images [n, C, H, W], mixed."""
        kept = self.kept.view(-1, 1, 1, 1)
        return kept * x + (1 - kept) * x[self.partners]

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """Labels int64 [n] as shares float32 [n, classes]."""
        whole = functional.one_hot(labels, classes).to(torch.float32)
        kept = self.kept.view(-1, 1)
        return kept * whole + (1 - kept) * whole[self.partners]
