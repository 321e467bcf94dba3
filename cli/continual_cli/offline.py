"""Work without a cluster: a run folder is trained, evaluated, asked and corrected on this machine.

The folder is what `continual_workers.training.app` writes. Asking needs no torch: the folder's ONNX file is verified against its
manifest and run as a worker would run it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from continual_contract.errors import IntegrityError, NotFoundError, UnknownClassError

from continual_cli.asking import Answered
from continual_cli.correction import Correction
from continual_cli.output import Format, dump, print_table, progress
from continual_cli.pictures import Guess, read_pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from continual_contract.artifacts import CheckpointManifest
    from continual_workers.training.app import Evaluation, RunOptions
    from continual_workers.training.run import TrainingProgress

    from continual_cli.pictures import Pixels

FIT = "Letterbox"
LATER = "the run folder holds the corrected model; what it replaced is under versions/"
EVALUATION_HEADS = ("Part", "Class", "Accuracy", "Samples")


@dataclass(frozen=True, slots=True)
class Run:
    """A trained run folder; `onnx` are verified bytes."""

    folder: Path
    manifest: CheckpointManifest
    onnx: bytes


def open_run(folder: Path) -> Run:
    """Errors: NotFoundError when it is no run folder, IntegrityError when the model is not the manifest's."""
    from continual_contract.artifacts import CheckpointManifest
    from continual_contract.ids import sha256_digest
    from pydantic import ValidationError

    remedy = "train one: `continual train --out DIR`"
    try:
        manifest = CheckpointManifest.model_validate_json((folder / "manifest.json").read_bytes())
        onnx = (folder / "model.onnx").read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("not a run folder", field="RUNDIR", value=str(folder), remedy=remedy) from error
    except ValidationError as error:
        raise IntegrityError("does not parse", field=f"{folder}/manifest.json", remedy=remedy) from error
    if sha256_digest(onnx) != manifest.onnx.digest:
        raise IntegrityError(
            "is not the file the manifest names", field=f"{folder}/model.onnx", value=sha256_digest(onnx), remedy=remedy
        )
    return Run(folder, manifest, onnx)


def answers(run: Run, images: Sequence[Pixels]) -> list[Guess]:
    """What the run's model says of each image. Errors: UnsafeModelError."""
    import numpy as np
    from continual_clients.guard import check_model
    from continual_clients.onnxmodel import LoadedModel, decide, open_session

    check_model(run.onnx)
    engine = LoadedModel(open_session(run.onnx, run.manifest, "cpu"), run.manifest)
    best, confidence = decide(engine.logits(np.stack(images)))
    names = run.manifest.classes
    return [Guess(names[b], float(c)) for b, c in zip(best.tolist(), confidence.tolist(), strict=True)]


def predict(folder: Path, files: Sequence[Path]) -> list[Answered]:
    run = open_run(folder)
    images = [read_pixels(file, run.manifest.input, FIT) for file in files]
    name = run.manifest.digest().removeprefix("sha256:")[:12]
    found = answers(run, images)
    return [
        Answered(str(file), guess.class_name, guess.confidence, name) for file, guess in zip(files, found, strict=True)
    ]


def correct(folder: Path, file: Path, label: str) -> Correction:
    """Teach the run's model one image, in place. Errors: UnknownClassError, InvalidImageError, TrainingError."""
    run = open_run(folder)
    if label not in run.manifest.classes:
        remedy = f"classes: {', '.join(run.manifest.classes)}"
        raise UnknownClassError("the model has no such class", field="class", value=label, remedy=remedy)
    image = read_pixels(file, run.manifest.input, FIT)
    (before,) = answers(run, [image])
    if before.class_name == label:
        return Correction(str(file), label, before, before)
    from continual_workers.training.app import correct_local

    with reporting() as report:
        made = correct_local(folder, image.copy(), label, report)
    after = Guess(made.after, made.after_confidence)
    return Correction(str(file), label, before, after, digest=made.digest, then=LATER)


@dataclass(frozen=True, slots=True)
class TrainOptions:
    dataset: str
    data: Path | None
    architecture: str
    epochs: int
    out: Path
    seed: int
    pretrained: Path | None
    size: tuple[int, int, int] | None
    precision: Literal["float32", "int8"] = "float32"

    def for_trainer(self) -> RunOptions:
        from continual_contract.artifacts import InputShape
        from continual_workers.training.app import RunOptions

        shape = None
        if self.size is not None:
            shape = InputShape(height=self.size[0], width=self.size[1], channels=self.size[2])
        return RunOptions(
            self.dataset, self.out, self.data, self.architecture, self.epochs, self.seed, shape, self.pretrained,
            precision=self.precision,
        )  # fmt: skip


def train(options: TrainOptions, form: Format) -> None:
    from continual_workers.training.app import train_local

    with reporting() as report:
        result = train_local(options.for_trainer(), report)
    show({"train": result.train, "test": result.test}, form, {"run": str(result.run), "digest": result.digest})
    if form is Format.table:
        print(f"\n{result.run}: {', '.join(sorted(result.files))}")


def evaluate(folder: Path, dataset: str | None, data: Path | None, form: Format) -> None:
    open_run(folder)
    from continual_workers.training.app import evaluate_local

    show(evaluate_local(folder, dataset, data), form, {"run": str(folder)})


def show(parts: dict[str, Evaluation], form: Format, about: dict[str, Any]) -> None:
    """Accuracy of each part, then per class."""
    if form is not Format.table:
        print(dump(form, about | {name: asdict(part) for name, part in parts.items()}))
        return
    print_table(EVALUATION_HEADS, evaluation_rows(parts))


def evaluation_rows(parts: dict[str, Evaluation]) -> Iterator[tuple[object, ...]]:
    for name, part in parts.items():
        yield (name, "all", part.accuracy, part.samples)
        for class_name, accuracy in part.per_class.items():
            yield (name, class_name, accuracy, None)


@contextmanager
def reporting() -> Iterator[Callable[[TrainingProgress], None]]:
    """Progress of a training: a bar on a terminal, else one line per phase and epoch on stderr."""
    with progress() as bar:
        task = bar.add_task("loading", total=None)

        def report(told: TrainingProgress) -> None:
            words = spelled(told)
            bar.update(task, description=words, total=told.epochs or None, completed=told.epoch)
            if not sys.stderr.isatty():
                print(words, file=sys.stderr, flush=True)

        yield report


def spelled(told: TrainingProgress) -> str:
    """`learning 3/20, loss 0.0412, accuracy 0.981`."""
    epoch = f" {told.epoch}/{told.epochs}" if told.epochs else ""
    loss = f", loss {told.loss:.4f}" if told.loss is not None else ""
    accuracy = f", accuracy {told.accuracy:.3f}" if told.accuracy is not None else ""
    return f"{told.phase}{epoch}{loss}{accuracy}"
