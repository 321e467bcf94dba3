"""Instant correction: somebody saw a mistake, and the model is to get this image right without losing anything.

Cross-entropy on the corrected images pulls; ten times the mean squared logit gap to the parent on replayed samples
holds everything else in place. It stops as soon as every correction is right with p > 0.9. What comes out is a candidate
like any other: the holdout gate judges it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from continual_contract.artifacts import Normalization
from continual_contract.errors import DivergedError
from torch import nn
from torch.nn import functional

from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.learner import CLIP, Row, freeze, normalized, pixels
from continual_workers.training.models import Arrays, arrays_of
from continual_workers.training.samples import Samples
from continual_workers.training.strategies import logit_gap

RATE = 0.01
HOLD = 10.0
POOL = 200
DRAW = 32
ENOUGH = 0.9
MOST_STEPS = 300
_REPORT_EVERY = 25


@dataclass(frozen=True, slots=True)
class Corrected:
    """Weights after the correction, the steps it took, the smallest p(right class) over the corrected images."""

    weights: Arrays
    steps: int
    confidence: float
    rows: tuple[Row, ...]


def correct(
    net: nn.Module,
    parent: nn.Module,
    corrections: Samples,
    buffer: ReplayBuffer,
    normalization: Normalization,
    seed: int,
    device: torch.device,
) -> Corrected:
    """Move `net` (at the parent's weights) until all corrections are right with p > 0.9, in at most 300 steps.

    Raises DivergedError when the loss stops being finite.
    """
    rng = np.random.default_rng([seed, 0xC0])
    net.to(device).eval()
    freeze(parent.to(device))
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    images = normalized(pixels(corrections.images, device), normalization)
    labels = torch.from_numpy(corrections.labels).to(device)
    pool = rng.choice(len(buffer), size=min(POOL, len(buffer)), replace=False) if len(buffer) else np.zeros(0, np.int64)
    past = normalized(pixels(buffer.images[pool], device), normalization)
    with torch.no_grad():
        target = parent(past) if len(pool) else None
    known = torch.from_numpy(np.flatnonzero(buffer.seen)).to(device)
    rows: list[Row] = []
    confidence, steps = 0.0, 0
    while True:
        logits = net(images)
        p = functional.softmax(logits.detach(), dim=1).gather(1, labels[:, None])
        confidence = float(p.min())
        if confidence > ENOUGH or steps == MOST_STEPS:
            break
        loss = functional.cross_entropy(logits, labels)
        if target is not None and len(known):
            drawn = torch.from_numpy(rng.choice(len(pool), size=min(DRAW, len(pool)), replace=False)).to(device)
            loss = loss + HOLD * logit_gap(net(past[drawn]), target[drawn], known)
        if not math.isfinite(float(loss.detach())):
            raise DivergedError("the correction's loss is not finite", field="learning rate", value=RATE)
        if steps % _REPORT_EVERY == 0:
            right = float((logits.detach().argmax(dim=1) == labels).float().mean())
            rows.append(Row(steps, float(loss.detach()), right, None, RATE, 0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        steps += 1
    return Corrected(arrays_of(net), steps, confidence, tuple(rows))
