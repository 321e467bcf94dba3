"""What the literature calls the figures of lifelong learning, from accuracies over experiences.

`after[e][i]` is the accuracy on experience i's test images after experience e was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lifelong:
    """ACC: final average; AIA: average over time of the average so far (AAA); forgetting: Chaudhry 2018; BWT, FWT: Lopez-Paz 2017."""

    acc: float
    aia: float
    forgetting: float
    bwt: float
    fwt: float


def lifelong(after: Sequence[Sequence[float]], chance: float) -> Lifelong:
    """All of them from the full matrix [experiences, experiences]."""
    matrix: Floats = np.array(after)
    count = len(matrix)
    old = range(count - 1)
    return Lifelong(
        acc=float(matrix[-1].mean()),
        aia=float(np.mean([matrix[e, : e + 1].mean() for e in range(count)])),
        forgetting=float(np.mean([matrix[i:-1, i].max() - matrix[-1, i] for i in old])) if count > 1 else 0.0,
        bwt=float(np.mean([matrix[-1, i] - matrix[i, i] for i in old])) if count > 1 else 0.0,
        fwt=float(np.mean([matrix[i - 1, i] - chance for i in range(1, count)])) if count > 1 else 0.0,
    )


def worst_case_accuracy(trace: Sequence[tuple[int, Sequence[float]]], experiences: int) -> float:
    """WC-ACC at the end (De Lange et al. 2023, arXiv 2205.13452): the last accuracy of the newest, the lowest of each older.

    `trace` holds, after every batch, the experience being learned and the accuracies on the tests up to it.
    """
    newest = trace[-1][1][experiences - 1]
    lowest = [min(accuracies[i] for e, accuracies in trace if e > i) for i in range(experiences - 1)]
    return float(newest / experiences + (1 - 1 / experiences) * np.mean(lowest)) if lowest else float(newest)
