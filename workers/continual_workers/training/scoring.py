"""How good a candidate is on samples nobody trained on, beside its parent on the very same samples."""

from __future__ import annotations

import csv
import io

import numpy as np
from continual_contract.artifacts import HoldoutScores
from numpy.typing import NDArray

from continual_workers.training.runtime import softmax
from continual_workers.training.samples import Labels, Samples


def recall_per_class(predicted: Labels, labels: Labels, classes: tuple[str, ...]) -> dict[str, float]:
    """Share of each class's samples that were recognised; classes without a sample are absent."""
    present = [int(c) for c in np.unique(labels)]
    return {classes[c]: float((predicted[labels == c] == c).mean()) for c in present}


def share(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else 0.0


def score(candidate: Labels, parent: Labels | None, samples: Samples) -> HoldoutScores:
    """Scores of predicted positions int64 [n]. `negative_flips`: the parent was right and the candidate is wrong."""
    labels, classes = samples.labels, samples.classes
    right = candidate == labels
    counts = {classes[int(c)]: int((labels == c).sum()) for c in np.unique(labels)}
    scores = HoldoutScores(
        samples=len(labels),
        accuracy=share(right),
        per_class=recall_per_class(candidate, labels, classes),
        per_class_samples=counts,
    )
    if parent is None or not len(labels):
        return scores
    parent_right = parent == labels
    return scores.model_copy(
        update={
            "parent_accuracy": share(parent_right),
            "parent_per_class": recall_per_class(parent, labels, classes),
            "negative_flips": share(parent_right & ~right),
        }
    )


def predictions_csv(samples: Samples, logits: NDArray[np.float32], parent: Labels | None) -> bytes:
    """One line per holdout sample: request id, true class, predicted class, confidence, what the parent said."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sample", "request_id", "label", "predicted", "confidence", "parent_predicted"])
    chosen = logits.argmax(axis=1)
    confidence = softmax(logits).max(axis=1) if len(logits) else np.zeros(0)
    ids = samples.request_ids or ("",) * len(samples)
    for i, (label, position) in enumerate(zip(samples.labels, chosen, strict=True)):
        told = "" if parent is None else samples.classes[int(parent[i])]
        row = [i, ids[i], samples.classes[int(label)], samples.classes[int(position)], f"{confidence[i]:.4f}", told]
        writer.writerow(row)
    return out.getvalue().encode()
