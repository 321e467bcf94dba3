"""Two pictures per training: how accuracy evolved, and how each class fares. PNG bytes without a date in them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from continual_workers.training.learner import Row

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#718096"


def curves_png(rows: Sequence[Row], title: str) -> bytes:
    """Accuracy (left) and loss (right) over epochs."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    accuracy.plot(epochs, [100 * row.train_accuracy for row in rows], color=_BLUE, label="new samples, while training")
    held = [(row.epoch, 100 * row.holdout_accuracy) for row in rows if row.holdout_accuracy is not None]
    if held:
        accuracy.plot(*zip(*held, strict=True), color=_ORANGE, label="holdout, averaged weights")
    accuracy.set(xlabel="epoch", ylabel="accuracy, %", title=title)
    loss.plot(epochs, [row.loss for row in rows], color=_GREY)
    loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    if rows:
        accuracy.legend(loc="lower right", fontsize=8)
    return _png(figure)


def per_class_png(
    train: dict[str, float], test: dict[str, float], parent: dict[str, float], classes: Sequence[str], title: str
) -> bytes:
    """Recall per class on training samples and holdout, and the parent's on the holdout."""
    figure = Figure(figsize=(max(6.0, 0.55 * len(classes) + 2), 3.8), layout="constrained")
    axes = figure.subplots()
    series = [("train", train, _BLUE), ("holdout", test, _ORANGE), ("holdout, parent", parent, _GREY)]
    shown = [entry for entry in series if entry[1]]
    width = 0.8 / max(len(shown), 1)
    places = np.arange(len(classes))
    for i, (name, recall, color) in enumerate(shown):
        heights = [100 * recall.get(c, 0.0) for c in classes]
        axes.bar(places + (i - (len(shown) - 1) / 2) * width, heights, width, label=name, color=color)
    axes.set(ylabel="recall, %", ylim=(0, 105), title=title)
    axes.set_xticks(places, list(classes), rotation=45 if max(map(len, classes)) > 3 else 0)
    if shown:
        axes.legend(loc="lower left", fontsize=8)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()
