"""The same training from a laptop: a data set in, a run folder out, no cluster and no store.

    <run>/model.onnx            what is served
          state.safetensors     weights, average, replay buffer; state.json beside it
          manifest.json         the checkpoint's manifest, as a Job would publish it
          history.csv|json      loss and accuracy per epoch;  curves.png
          evaluation.json       accuracy and per-class accuracy of train and test;  per_class.png
          predictions.csv       every test sample: class, prediction, confidence
          holdout.npz           at most 2 000 test samples, by which corrections are judged
          run.json              the options it was trained with
          versions/<digest>/    what a correction replaced

A killed `train_local` continues after its last epoch when it is started again with the same options.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from continual_clients.shards import decode_shard, encode_shard, make_shard
from continual_contract.artifacts import (
    Augmentation,
    Blob,
    CheckpointManifest,
    DatasetRef,
    InputShape,
    TrainingInputs,
)
from continual_contract.errors import IntegrityError, MissingDatasetError, NotFoundError, UnknownClassError, UsageError
from continual_contract.ids import sha256_digest

from continual_workers.training import models
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.correction import correct
from continual_workers.training.datasets import (
    NAMED,
    Split,
    fitted,
    from_shard,
    load_dataset,
    local_files,
    read_image_folder,
    read_npz,
    translate,
)
from continual_workers.training.experience import bootstrap_epochs
from continual_workers.training.learner import LearnState, Task, device_of, learn, set_up_torch
from continual_workers.training.prepare import EXACT, Parent, Prepared, exact_file, frozen_parent
from continual_workers.training.run import (
    Finished,
    Learned,
    Progress,
    TrainingProgress,
    finish,
    learned_of,
    learning_progress,
    publishable,
)
from continual_workers.training.runtime import OnnxClassifier, softmax
from continual_workers.training.samples import Images, Samples, split_held_out, without
from continual_workers.training.scoring import recall_per_class, share
from continual_workers.training.state import Origin, decode_checkpoint, decode_resume, encode_resume
from continual_workers.training.stats import batches_of, normalization_of
from continual_workers.training.strategies import strategy

TEST_PERCENT = 20.0
"""Of a set without a test part of its own, by hash."""
HOLDOUT_SAMPLES = 2000
NAMESPACE = "local"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `continual train` is told."""

    dataset: str
    """`digits`, `mnist`, `fashion-mnist`, `cifar10`, a `.npz` file, or a folder `<class>/<image>`."""
    out: Path
    data_root: Path | None = None
    architecture: str = "lenet5"
    epochs: int = 20
    seed: int = 0
    input: InputShape | None = None
    """Omitted: the set's own size; an image folder needs one (default 28x28x1)."""
    pretrained: Path | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    replay_capacity: int = 2000
    device: str = "cpu"
    threads: int = 1
    precision: Literal["float32", "int8"] = "float32"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy of one part, as shares in 0..1; per class only where it has samples."""

    samples: int
    accuracy: float
    per_class: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave: where it lies, and how good it is."""

    run: Path
    manifest: CheckpointManifest
    digest: str
    train: Evaluation
    test: Evaluation
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CorrectionResult:
    """The image before and after its correction, and what it cost on the holdout."""

    before: str
    before_confidence: float
    after: str
    after_confidence: float
    fixed: bool
    steps: int
    holdout_before: float
    holdout_after: float
    digest: str


def train_local(options: RunOptions, progress: Progress) -> RunResult:
    """Train from scratch (or pretrained weights) and write the run folder; `manifest.json` last.

    Raises MissingDatasetError, UsageError, DivergedError, ParityError.
    """
    set_up_torch(options.threads)
    progress(TrainingProgress("loading"))
    train, test = load_parts(options.dataset, options.data_root, options.input)
    inputs = _inputs(options, train)
    prepared = _prepared(inputs, options, train, test)
    options.out.mkdir(parents=True, exist_ok=True)
    learned = _learn_in(options.out, inputs, prepared.task, progress)
    finished = finish(inputs, prepared, learned, progress, options.threads)
    return _write_run(options, inputs, prepared, finished, progress)


def load_parts(dataset: str, data_root: Path | None, shape: InputShape | None) -> tuple[Samples, Samples]:
    """(train, test): the set's own division, or a fifth of the samples by hash."""
    if dataset in ("mnist", "fashion-mnist", "cifar10"):
        train = _load(dataset, data_root, shape, None, "train")
        return train, _load(dataset, data_root, shape, None, "test")
    train, test = split_held_out(_load(dataset, data_root, shape, None, "all"), TEST_PERCENT)
    return without(train, test), test


def _load(
    dataset: str, data_root: Path | None, shape: InputShape | None, classes: tuple[str, ...] | None, split: Split
) -> Samples:
    if dataset in NAMED:
        return load_dataset(DatasetRef(name=dataset), data_root, None, shape, classes, split)
    path = Path(dataset).expanduser()
    if path.is_dir():
        raw = read_image_folder(local_files(path), str(path), shape)
    elif path.is_file():
        raw = read_npz(path.read_bytes(), path.name, classes)
    else:
        raise MissingDatasetError(
            "no such dataset, file or folder",
            field="dataset",
            value=dataset,
            remedy=f"use one of {', '.join(NAMED)}, a .npz file, or a folder <class>/<image>",
        )
    wanted = classes or raw.classes
    return Samples(fitted(raw.images, shape), translate(raw.labels, raw.classes, wanted), wanted, raw.k)


def _inputs(options: RunOptions, train: Samples) -> TrainingInputs:
    height, width, channels = train.images.shape[1:]
    return TrainingInputs(
        namespace=NAMESPACE,
        model=options.out.resolve().name,
        mode="bootstrap",
        architecture=options.architecture,
        input=InputShape(height=height, width=width, channels=channels),
        classes=train.classes,
        pretrained=None if options.pretrained is None else str(options.pretrained),
        dataset=DatasetRef(name=options.dataset),
        strategy="joint",
        replay_capacity=options.replay_capacity,
        augmentation=options.augmentation,
        precision=options.precision,
        device="cuda" if options.device == "cuda" else "cpu",
        epochs=options.epochs,
        seed=options.seed,
        trigger="Manual",
    )


def _prepared(inputs: TrainingInputs, options: RunOptions, train: Samples, test: Samples) -> Prepared:
    if not len(train):
        raise UsageError("no samples are left to train on", field="dataset", value=options.dataset)
    net = models.build(inputs.architecture, inputs.input, len(inputs.classes), inputs.seed)
    if options.pretrained is not None:
        if not options.pretrained.is_file():
            raise NotFoundError("no such file", field="pretrained", value=str(options.pretrained))
        weights = models.read_weights(options.pretrained.read_bytes(), options.pretrained.name)
        head = models.architecture(inputs.architecture).head
        models.load_arrays(net, models.adapt(weights, models.arrays_of(net), head))
    task = Task(
        net=net,
        parent=None,
        new=train,
        buffer=ReplayBuffer.empty(inputs.replay_capacity, inputs.input, len(inputs.classes), inputs.seed),
        holdout=test,
        strategy=strategy("joint"),
        normalization=normalization_of(batches_of(train.images), inputs.input.channels),
        augmentation=inputs.augmentation,
        seed=inputs.seed,
        device=device_of(inputs.device),
    )
    task = replace(task, epochs=bootstrap_epochs(inputs.epochs, len(train), task.new_batch))
    return Prepared(task, task.buffer, train, None, None, 0, 0, train.take([]), Origin(inputs.dataset))


def _learn_in(folder: Path, inputs: TrainingInputs, task: Task, progress: Progress) -> Learned:
    """Learn with a resume state in the folder; the state carries the job's hash, so other options start anew."""
    path = folder / f"resume-{inputs.job_hash()}.safetensors"
    resumed = decode_resume(path.read_bytes()) if path.is_file() else None
    progress(learning_progress(task.epochs, resumed))

    def save(state: LearnState) -> None:
        write_atomically(path, encode_resume(state))
        progress(learning_progress(task.epochs, state))

    return learned_of(learn(task, resumed, save))


def _write_run(
    options: RunOptions, inputs: TrainingInputs, prepared: Prepared, finished: Finished, progress: Progress
) -> RunResult:
    progress(TrainingProgress("publishing", accuracy=finished.scores.accuracy))
    train = Evaluation(len(prepared.task.new), finished.train_accuracy, finished.train_recall)
    test = Evaluation(finished.scores.samples, finished.scores.accuracy, finished.scores.per_class)
    run = options.out
    write_atomically(run / "holdout.npz", _holdout_bytes(prepared.task.holdout, options.seed))
    write_atomically(run / "evaluation.json", evaluation_json(train, test))
    write_atomically(run / "run.json", _options_json(options))
    files: list[str] = ["holdout.npz", "evaluation.json", "run.json"]
    manifest = publishable(inputs, prepared, finished, _writer(run, files))
    write_atomically(run / "manifest.json", manifest.encode())
    for leftover in run.glob("resume-*.safetensors"):
        leftover.unlink()
    progress(TrainingProgress("done", accuracy=test.accuracy))
    return RunResult(run, manifest, manifest.digest(), train, test, (*files, "manifest.json"))


def _writer(run: Path, files: list[str]) -> Callable[[str, bytes], Blob]:
    def put(name: str, data: bytes) -> Blob:
        write_atomically(run / name, data)
        files.append(name)
        return Blob(digest=sha256_digest(data), size=len(data))

    return put


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file or the old one, also across a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _holdout_bytes(test: Samples, seed: int) -> bytes:
    chosen = np.sort(np.random.default_rng([seed, 0x401D]).permutation(len(test))[:HOLDOUT_SAMPLES])
    part = test.take(chosen)
    return encode_shard(make_shard(part.images, part.labels, source=["holdout"] * len(part), k=part.k or None))


def evaluation_json(train: Evaluation, test: Evaluation) -> bytes:
    parts = {"train": train, "test": test}
    document = {n: {"samples": e.samples, "accuracy": e.accuracy, "per_class": e.per_class} for n, e in parts.items()}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _options_json(options: RunOptions) -> bytes:
    known = {"dataset": options.dataset, "data_root": str(options.data_root) if options.data_root else None}
    shape = options.input.model_dump() if options.input else None
    return json.dumps({**known, "input": shape, "epochs": options.epochs, "seed": options.seed}, indent=1).encode()


def load_run(run: Path) -> tuple[CheckpointManifest, bytes]:
    """The manifest and the verified ONNX bytes of a run folder.

    Raises NotFoundError when it is not a run folder, IntegrityError when a file is not what the manifest says.
    """
    if not (run / "manifest.json").is_file():
        raise NotFoundError(
            "no finished run here", field="run folder", value=str(run), remedy="train one with `continual train --out`"
        )
    try:
        manifest = CheckpointManifest.model_validate_json((run / "manifest.json").read_bytes())
    except ValueError as error:
        raise IntegrityError("manifest.json does not parse", field="run folder", value=str(run)) from error
    return manifest, _verified(run / "model.onnx", manifest.onnx)


def _verified(path: Path, blob: Blob | None) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    if blob is None or sha256_digest(data) != blob.digest:
        raise IntegrityError(f"{path.name} is not the file the manifest names", field="run folder", value=str(path))
    return data


def evaluate_local(run: Path, dataset: str | None = None, data_root: Path | None = None) -> dict[str, Evaluation]:
    """Score a saved model without training: `test` of a given set (all of it), or the run's own `train` and `test`."""
    manifest, onnx = load_run(run)
    classifier = OnnxClassifier(onnx)
    if dataset is not None:
        split: Split = "test" if dataset in ("mnist", "fashion-mnist", "cifar10") else "all"
        samples = _load(dataset, data_root, manifest.input, manifest.classes, split)
        return {"test": _evaluation(classifier, samples)}
    told = json.loads((run / "run.json").read_bytes())
    root = data_root or (Path(told["data_root"]) if told["data_root"] else None)
    shape = None if told["input"] is None else InputShape(**told["input"])
    train, test = load_parts(told["dataset"], root, shape)
    return {"train": _evaluation(classifier, train), "test": _evaluation(classifier, test)}


def _evaluation(classifier: OnnxClassifier, samples: Samples) -> Evaluation:
    predicted = classifier.logits(samples.images).argmax(axis=1)
    recall = recall_per_class(predicted, samples.labels, samples.classes)
    return Evaluation(len(samples), share(predicted == samples.labels), recall)


def predict_local(run: Path, images: Images) -> list[tuple[str, float]]:
    """(class, confidence) of each image uint8 [n, H, W, C] by the saved model."""
    manifest, onnx = load_run(run)
    return _answers(OnnxClassifier(onnx), images, manifest.classes)


def _answers(classifier: OnnxClassifier, images: Images, classes: tuple[str, ...]) -> list[tuple[str, float]]:
    p = softmax(classifier.logits(images))
    return [(classes[int(row.argmax())], float(row.max())) for row in p]


def correct_local(run: Path, image: Images, label: str, progress: Progress, threads: int = 1) -> CorrectionResult:
    """Teach the saved model one image uint8 [H, W, C] at once, hold the rest in place, and check the image again.

    The run folder then holds the corrected model; what it replaced lies under `versions/`.
    Raises UnknownClassError for a class the model does not have.
    """
    set_up_torch(threads)
    manifest, onnx = load_run(run)
    if label not in manifest.classes:
        remedy = f"use one of {', '.join(manifest.classes)}"
        raise UnknownClassError("the model has no such class", field="label", value=label, remedy=remedy)
    inputs, prepared = _correction_of(run, manifest, onnx, image, label)
    task = prepared.task
    assert task.parent is not None
    progress(TrainingProgress("learning"))
    made = correct(
        task.net, task.parent, prepared.corrections, task.buffer, task.normalization, task.seed, torch.device("cpu")
    )
    learned = Learned(made.weights, made.weights, made.rows, made.steps, made.rows[-1].rate if made.rows else 0.0)
    finished = finish(inputs, prepared, learned, progress, threads)
    new = _replace_run(run, manifest, inputs, prepared, finished)
    before = _answers(OnnxClassifier(onnx), image[None], manifest.classes)[0]
    after = _answers(OnnxClassifier(finished.onnx), image[None], manifest.classes)[0]
    return CorrectionResult(
        before[0],
        before[1],
        after[0],
        after[1],
        after[0] == label,
        made.steps,
        finished.scores.parent_accuracy or 0.0,
        finished.scores.accuracy,
        new.digest(),
    )


def _correction_of(
    run: Path, manifest: CheckpointManifest, onnx: bytes, image: Images, label: str
) -> tuple[TrainingInputs, Prepared]:
    state = decode_checkpoint(
        _verified(run / "state.safetensors", manifest.state), _verified(run / "state.json", manifest.state_meta), None
    )
    inputs = TrainingInputs(
        namespace=manifest.namespace,
        model=manifest.model,
        mode="correction",
        architecture=manifest.architecture,
        input=manifest.input,
        classes=manifest.classes,
        parent=manifest.digest(),
        strategy=manifest.strategy,
        replay_capacity=state.buffer.capacity,
        precision=manifest.precision,
        seed=manifest.seed,
        trigger="Correction",
    )
    exact = exact_file(manifest, onnx, lambda blob: _verified(run / EXACT, blob))
    parent = Parent(manifest, state, onnx, exact)
    corrections = Samples(image[None], np.array([manifest.classes.index(label)]), manifest.classes)
    task = Task(
        net=frozen_parent(parent),
        parent=frozen_parent(parent),
        new=corrections,
        buffer=state.buffer,
        holdout=without(from_shard(decode_shard((run / "holdout.npz").read_bytes()), manifest.classes), corrections),
        strategy=strategy("der++"),
        normalization=manifest.normalization,
        seed=manifest.seed,
    )
    experience = max(state.buffer.next_experience - 1, 0)
    return inputs, Prepared(
        task, task.buffer, corrections, parent, None, manifest.trained_through, experience, corrections, state.origin
    )


def _replace_run(
    run: Path, old: CheckpointManifest, inputs: TrainingInputs, prepared: Prepared, finished: Finished
) -> CheckpointManifest:
    kept = run / "versions" / old.digest().removeprefix("sha256:")[:12]
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "state.safetensors", "state.json", "manifest.json", *old.artifacts):
        shutil.copy2(run / name, kept / name)
    manifest = publishable(inputs, prepared, finished, _writer(run, []))
    write_atomically(run / "manifest.json", manifest.encode())
    return manifest
