"""Declared augmentation: small shifts, turns and scalings of a batch. Nothing is done that the owner did not declare."""

from __future__ import annotations

import functools

import numpy as np
import torch
from continual_contract.artifacts import Augmentation
from torch import Tensor
from torch.nn import functional


def is_declared(augmentation: Augmentation) -> bool:
    return augmentation != Augmentation()


def augment(images: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Float images [n, C, H, W], each moved by its own draw; uncovered corners repeat the border.

    Bounds are ± `shift_pixels` (pixels), ± `rotate_degrees`, ± `scale_percent`, uniform and independent.
    """
    if not is_declared(augmentation):
        return images
    height, width = images.shape[2:]
    draws = rng.uniform(-1, 1, size=(4, len(images)))
    angle = np.deg2rad(augmentation.rotate_degrees) * draws[0]
    zoom = 1 / (1 + augmentation.scale_percent / 100 * draws[1])
    shift = augmentation.shift_pixels * draws[2:] * np.array([[2 / width], [2 / height]])
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    aspect = height / width
    rows = np.stack([cos, -sin * aspect, shift[0], sin / aspect, cos, shift[1]], axis=1)
    theta = torch.from_numpy(rows.reshape(-1, 2, 3).astype(np.float32)).to(images.device)
    grid = torch.matmul(_pixel_places(height, width).to(images.device), theta.transpose(1, 2))
    return functional.grid_sample(
        images, grid.view(-1, height, width, 2), mode="bilinear", padding_mode="border", align_corners=False
    )


@functools.lru_cache(maxsize=8)
def _pixel_places(height: int, width: int) -> Tensor:
    """Homogeneous coordinates [H·W, 3] of pixel centres in -1..1: `affine_grid`'s base, made once instead of every step."""
    rows, columns = ((2 * torch.arange(n, dtype=torch.float32) + 1) / n - 1 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)
