"""One training Job from its inputs to its outcome; killed anywhere, started twice, it ends with the same bytes.

    outcome already there? ── yes ──> return it
      │ no
    prepare ─> learn (resume state after every epoch) ─> export ─> parity ─> score the exported file on the holdout
      ─> blobs (ONNX, state, history, plots, predictions) ─> manifest ─> outcome, the last write

A version becomes visible with its manifest only, and the manifest is written when everything it names is there. What a
person or an input got wrong ends as a recorded failure; what the other side lacks just now (store, disk) is raised, so
that the Job is tried again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from continual_clients.objectstore import ObjectStore
from continual_clients.registry import Registry
from continual_contract.artifacts import (
    Blob,
    CheckpointManifest,
    FirstScores,
    HoldoutScores,
    StoreLayout,
    TrainingFailure,
    TrainingInputs,
    TrainingOutcome,
)
from continual_contract.errors import ContinualError, IntegrityError, NotFoundError, TrainingError, UsageError

from continual_workers.training import models
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.correction import correct
from continual_workers.training.experience import importance_after, remember
from continual_workers.training.export import check_parity, export_onnx, with_weights
from continual_workers.training.floor import FIRST, Floor, encode_floor, lay, score_from_first
from continual_workers.training.learner import LearnState, Row, learn, predict_logits, set_up_torch
from continual_workers.training.prepare import EXACT, Prepared, Where, frozen_parent, prepare, recipe_of
from continual_workers.training.runtime import OnnxClassifier
from continual_workers.training.samples import Images, Labels, Samples
from continual_workers.training.scoring import predictions_csv, recall_per_class, score, share
from continual_workers.training.state import decode_resume, encode_checkpoint, encode_resume

RESUME = "state/last.safetensors"
_SCORED_TRAIN_SAMPLES = 5000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training is. Phases: loading, learning, exporting, scoring, publishing, done."""

    phase: str
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    accuracy: float | None = None
    """On the holdout where there is one, else on the new samples; a share in 0..1."""


Progress = Callable[[TrainingProgress], None]
PutBlob = Callable[[str, bytes], Blob]
"""Stores bytes, given a file name for people."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What came out of learning: served weights, last iterate, history."""

    served: models.Arrays
    weights: models.Arrays
    rows: tuple[Row, ...]
    steps: int
    rate: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate in memory, measured: everything that is published."""

    onnx: bytes
    """What is served and was scored."""
    exact: bytes
    """The float32 file behind it, which agreed with torch."""
    parity: float
    learned: Learned
    buffer: ReplayBuffer
    importance: models.Arrays
    scores: HoldoutScores
    first_scores: FirstScores | None
    floor: Floor | None
    """To be handed on."""
    train_recall: dict[str, float]
    train_accuracy: float
    correction_fixed: bool | None
    predictions: bytes


def train(
    inputs: TrainingInputs,
    store: ObjectStore,
    registry: Registry,
    progress: Progress,
    data_root: Path | None = None,
    threads: int = 1,
) -> TrainingOutcome:
    """Run the Job and record its outcome.

    Raises:
        UnavailableError: the store does not answer; run again, it continues after its last epoch.
    """
    job = inputs.job_hash()
    where = Where(store, registry, StoreLayout(inputs.namespace, inputs.model), data_root)
    standing = registry.outcome(job)
    if standing is not None:
        store.delete(where.layout.training(job, RESUME))
        return standing
    try:
        digest, scores = _run(inputs, where, progress, threads)
    except (TrainingError, UsageError, IntegrityError) as error:
        outcome = TrainingOutcome(job=job, failure=_failure(error))
    else:
        outcome = TrainingOutcome(job=job, manifest=digest, scores=scores)
    stands = registry.put_outcome(outcome)
    store.delete(where.layout.training(job, RESUME))
    progress(TrainingProgress("done" if stands.manifest else "failed"))
    return stands


def _failure(error: ContinualError) -> TrainingFailure:
    log.warning("training failed", extra={"reason": error.reason, "error": str(error)})
    return TrainingFailure(reason=error.reason, message=str(error))


def _run(inputs: TrainingInputs, where: Where, progress: Progress, threads: int) -> tuple[str, HoldoutScores]:
    set_up_torch(threads)
    progress(TrainingProgress("loading"))
    prepared = prepare(inputs, where)
    if inputs.mode == "retrain" and prepared.task.strategy.name != inputs.strategy:
        log.info(
            "the buffer holds all that was ever seen: nothing to distil, this training is plain replay",
            extra={"strategy": inputs.strategy, "held": len(prepared.buffer)},
        )
    finished = finish(inputs, prepared, _learn(inputs, prepared, where, progress), progress, threads)
    progress(TrainingProgress("publishing", accuracy=finished.scores.accuracy))
    manifest = publishable(inputs, prepared, finished, lambda _name, data: where.registry.put_blob(data))
    return where.registry.publish(manifest), finished.scores


def _learn(inputs: TrainingInputs, prepared: Prepared, where: Where, progress: Progress) -> Learned:
    task = prepared.task
    if inputs.mode == "correction":
        progress(TrainingProgress("learning"))
        assert task.parent is not None
        corrected = correct(
            task.net, task.parent, prepared.corrections, task.buffer, task.normalization, task.seed, task.device
        )
        rate = corrected.rows[-1].rate if corrected.rows else 0.0
        return Learned(corrected.weights, corrected.weights, corrected.rows, corrected.steps, rate)
    key = where.layout.training(inputs.job_hash(), RESUME)
    resumed = _stored_state(where.store, key)
    progress(learning_progress(task.epochs, resumed))

    def save(state: LearnState) -> None:
        where.store.put(key, encode_resume(state))
        progress(learning_progress(task.epochs, state))

    return learned_of(learn(task, resumed, save))


def learned_of(state: LearnState) -> Learned:
    return Learned(state.ema, state.weights, state.rows, state.steps, state.rate)


def _stored_state(store: ObjectStore, key: str) -> LearnState | None:
    try:
        return decode_resume(store.get(key))
    except NotFoundError:
        return None


def learning_progress(epochs: int, state: LearnState | None) -> TrainingProgress:
    if state is None or not state.rows:
        return TrainingProgress("learning", 0, epochs)
    row = state.rows[-1]
    seen = row.train_accuracy if row.holdout_accuracy is None else row.holdout_accuracy
    return TrainingProgress("learning", state.epoch, epochs, row.loss, seen)


def finish(
    inputs: TrainingInputs, prepared: Prepared, learned: Learned, progress: Progress, threads: int = 1
) -> Finished:
    """Export, prove parity, fill the buffer and score the exported file. Raises ParityError."""
    progress(TrainingProgress("exporting"))
    task = prepared.task
    models.load_arrays(task.net, learned.served)
    net = task.net.cpu().to(memory_format=torch.contiguous_format)
    onnx = exported(inputs, prepared, learned.served)
    batch = parity_batch(inputs, prepared)
    expected = predict_logits(net, batch, task.normalization, torch.device("cpu"))
    parity = check_parity(onnx, expected, batch, threads)
    progress(TrainingProgress("scoring"))
    return _scored(inputs, prepared, learned, (onnx, in_precision(inputs, prepared, onnx, threads)), parity, threads)


def in_precision(inputs: TrainingInputs, prepared: Prepared, exact: bytes, threads: int) -> bytes:
    """The file to serve: the exact one, or its int8 form. Raises ParityError when int8 changes too many answers.

    Ranges come from training and replayed images: what is held out stays unseen until the gate judges the int8 file.
    """
    if inputs.precision == "float32":
        return exact
    from continual_workers.training.quantize import CALIBRATION, check_agreement, quantized  # noqa: PLC0415 -- only int8

    task, rng = prepared.task, np.random.default_rng([inputs.seed, 0x18])
    seen = np.concatenate([task.new.images, task.buffer.images])
    chosen = seen[np.sort(rng.permutation(len(seen))[: 2 * CALIBRATION])]
    small = quantized(exact, chosen[::2])
    check_agreement(exact, small, chosen, threads)
    return small


def exported(inputs: TrainingInputs, prepared: Prepared, weights: models.Arrays) -> bytes:
    """The parent's graph with the new weights where the architecture is the same, else a full export."""
    parent = prepared.parent
    if parent is not None and parent.manifest.architecture == inputs.architecture:
        reused = with_weights(parent.exact, weights) if parent.exact else None
        if reused is not None:
            return reused
    return export_onnx(prepared.task.net, inputs.input, prepared.task.normalization)


def parity_batch(inputs: TrainingInputs, prepared: Prepared) -> Images:
    """Holdout, training and noise images: at most 80."""
    shape = inputs.input
    rng = np.random.default_rng([inputs.seed, 0x9A])
    noise = rng.integers(0, 256, size=(16, shape.height, shape.width, shape.channels), dtype=np.uint8)
    return np.concatenate([prepared.task.holdout.images[:32], prepared.task.new.images[:32], noise])


def _scored(
    inputs: TrainingInputs,
    prepared: Prepared,
    learned: Learned,
    files: tuple[bytes, bytes],
    parity: float,
    threads: int,
) -> Finished:
    exact, onnx = files
    task, classifier = prepared.task, OnnxClassifier(onnx, threads)
    floor = _floor(prepared, threads)
    buffer = remember(prepared.buffer, prepared.fresh, prepared.experience, classifier.logits)
    logits = classifier.logits(task.holdout.images)
    parent = _parent_predictions(prepared, threads)
    trained = _some(task.new, inputs.seed)
    predicted = classifier.logits(trained.images).argmax(axis=1)
    corrected = prepared.corrections
    fixed = classifier.logits(corrected.images).argmax(axis=1) == corrected.labels
    return Finished(
        onnx=onnx,
        exact=exact,
        parity=parity,
        learned=learned,
        buffer=buffer,
        importance=_importance(inputs, prepared),
        scores=score(logits.argmax(axis=1), parent, task.holdout),
        first_scores=score_from_first(floor, classifier.positions) if floor else None,
        floor=floor,
        train_recall=recall_per_class(predicted, trained.labels, trained.classes),
        train_accuracy=share(predicted == trained.labels),
        correction_fixed=bool(fixed.all()) if inputs.mode == "correction" else None,
        predictions=predictions_csv(task.holdout, logits, parent),
    )


def _importance(inputs: TrainingInputs, prepared: Prepared) -> models.Arrays:
    """A correction hands on what it found: a handful of images says nothing of what matters."""
    if inputs.mode == "correction":
        return prepared.parent.state.importance if prepared.parent else {}
    return importance_after(prepared.task, prepared.task.net, recipe_of(inputs))


def _parent_predictions(prepared: Prepared, threads: int) -> Labels | None:
    if prepared.parent is None:
        return None
    logits = OnnxClassifier(prepared.parent.onnx, threads).logits(prepared.task.holdout.images)
    predicted: Labels = logits.argmax(axis=1)
    return predicted


def _floor(prepared: Prepared, threads: int) -> Floor | None:
    """As it was handed down; the first descendant asks its parent. Only a bootstrap's buffer holds nothing that a stream brought."""
    parent = prepared.parent
    if prepared.own is None or parent is None:
        return None
    if prepared.floor is not None:
        return prepared.floor
    buffer, classes = prepared.buffer, prepared.own.classes
    learned = Samples(buffer.images, buffer.labels, classes)
    learned = learned if parent.manifest.mode == "bootstrap" else learned.take([])
    return lay(prepared.own, learned, OnnxClassifier(parent.onnx, threads).positions)


def _some(samples: Samples, seed: int) -> Samples:
    if len(samples) <= _SCORED_TRAIN_SAMPLES:
        return samples
    chosen = np.random.default_rng([seed, 0x5C]).choice(len(samples), _SCORED_TRAIN_SAMPLES, replace=False)
    return samples.take(np.sort(chosen))


def publishable(
    inputs: TrainingInputs, prepared: Prepared, finished: Finished, put_blob: PutBlob
) -> CheckpointManifest:
    """Hand every blob to `put_blob` and name them in a manifest, which is not yet written."""
    learned, task = finished.learned, prepared.task
    fields = {
        "epoch": learned.rows[-1].epoch if learned.rows else 0,
        "steps": learned.steps,
        "rate": learned.rate,
        "optimizer": {"name": "sgd", "momentum": 0.0},
        "strategy": inputs.strategy,
        "seed": inputs.seed,
        "experience": prepared.experience,
        **prepared.origin.fields(),
    }
    state, meta = encode_checkpoint(learned.weights, learned.served, finished.buffer, fields, finished.importance)
    return CheckpointManifest(
        namespace=inputs.namespace,
        model=inputs.model,
        job=inputs.job_hash(),
        mode=inputs.mode,
        architecture=inputs.architecture,
        input=inputs.input,
        classes=inputs.classes,
        normalization=task.normalization,
        precision=inputs.precision,
        onnx=put_blob("model.onnx", finished.onnx),
        state=put_blob("state.safetensors", state),
        state_meta=put_blob("state.json", meta),
        parent=inputs.parent,
        data=inputs.data,
        trained_through=prepared.trained_through,
        bootstrap_holdout=prepared.bootstrap_holdout,
        strategy=inputs.strategy,
        seed=inputs.seed,
        trigger=inputs.trigger,
        scores=finished.scores,
        first_scores=finished.first_scores,
        train_accuracy=finished.train_accuracy,
        train_per_class=finished.train_recall,
        parity_max_abs_diff=finished.parity,
        finite_loss=all(np.isfinite(row.loss) for row in learned.rows),
        correction_fixed=finished.correction_fixed,
        artifacts={**_artifacts(inputs, finished, put_blob), **_exact(inputs, finished, put_blob)},
    )


def _exact(inputs: TrainingInputs, finished: Finished, put_blob: PutBlob) -> dict[str, Blob]:
    return {} if inputs.precision == "float32" else {EXACT: put_blob(EXACT, finished.exact)}


def _artifacts(inputs: TrainingInputs, finished: Finished, put_blob: PutBlob) -> dict[str, Blob]:
    files = artifact_files(inputs, finished, plots=inputs.mode != "correction")
    return {name: put_blob(name, data) for name, data in files.items()}


def artifact_files(inputs: TrainingInputs, finished: Finished, *, plots: bool) -> dict[str, bytes]:
    """History, predictions, the floor and, where wanted, the two pictures, by file name. No timings in any of them."""
    rows = finished.learned.rows
    files = {
        "history.csv": history_csv(rows),
        "history.json": json.dumps([asdict(row) for row in rows], indent=1).encode(),
        "predictions.csv": finished.predictions,
    }
    if finished.floor:
        files[FIRST] = encode_floor(finished.floor)
    if plots:
        from continual_workers.training.plots import curves_png, per_class_png  # noqa: PLC0415 -- seconds, when plotting

        scores, title = finished.scores, f"{inputs.model}: {inputs.mode} ({inputs.trigger or inputs.strategy})"
        parent = scores.parent_per_class
        files["curves.png"] = curves_png(rows, title)
        files["per_class.png"] = per_class_png(finished.train_recall, scores.per_class, parent, inputs.classes, title)
    return files


def history_csv(rows: tuple[Row, ...]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Row.__slots__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue().encode()


__all__ = ["Learned", "Progress", "TrainingProgress", "finish", "frozen_parent", "train"]
