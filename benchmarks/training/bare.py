"""The loop anybody would write with torch: what the trainer's epoch is measured against.

The same network in the same memory layout, batch size, normalisation, augmentation and rate, in one thread; no clipping, no averaged
weights, no history, nothing that could be resumed. For a retraining it replays and distils as DER++ does.
"""

from __future__ import annotations

import numpy as np
import torch
from continual_workers.training.augment import augment
from continual_workers.training.learner import Task, freeze, pixels
from torch.nn import functional


def bare_epoch(task: Task, rate: float, seed: int) -> None:
    """One epoch over `task.new`, with replay where the task has a buffer and a parent."""
    net = task.net.to(memory_format=torch.channels_last).train()
    parent = None if task.parent is None else freeze(task.parent.to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (task.normalization.mean, task.normalization.std))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(task.new))
    for first in range(0, len(order), task.new_batch):
        chosen = order[first : first + task.new_batch]
        n, images, labels = len(chosen), task.new.images[chosen], task.new.labels[chosen]
        if parent is not None:
            old = rng.choice(len(task.buffer), task.replay_batch, replace=False)
            images = np.concatenate([images, task.buffer.images[old]])
            labels = np.concatenate([labels, task.buffer.labels[old]])
        x = (augment(pixels(images, task.device), task.augmentation, rng) - mean) / std
        y = torch.from_numpy(labels)
        logits = net(x)
        loss = functional.cross_entropy(logits[:n], y[:n])
        if parent is not None:
            with torch.no_grad():
                held = parent(x[n:])
            loss = loss + functional.cross_entropy(logits[n:], y[n:]) + 0.3 * functional.mse_loss(logits[n:], held)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
