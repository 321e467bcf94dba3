"""Verbs that train on this machine, without a cluster: a run folder in, a run folder out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from continual_contract.errors import UsageError

from continual_cli.output import Format, OutputOption
from continual_cli.verbs.stream import DataOption

train_app = typer.Typer(invoke_without_command=True)


class Architecture(StrEnum):
    mlp = "mlp"
    lenet5 = "lenet5"
    cnn3 = "cnn3"
    resnet18 = "resnet18"
    resnet50 = "resnet50"


class Precision(StrEnum):
    float32 = "float32"
    int8 = "int8"


DatasetOption = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="digits, mnist, fashion-mnist, cifar10, a .npz with image and label, or a folder <class>/<image>.",
    ),
]


@train_app.callback()
def train(
    context: typer.Context,
    dataset: DatasetOption = "digits",
    data: DataOption = None,
    arch: Annotated[Architecture, typer.Option("--arch", help="The network.")] = Architecture.lenet5,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.", min=1)] = 20,
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.", metavar="DIR")] = Path("out/run"),
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights to start from: a .safetensors file.", metavar="FILE")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--input", help="Size of the images as HxWxC; default: the dataset's own.", metavar="HxWxC"),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Numbers of the served file.")] = Precision.float32,
    output: OutputOption = Format.table,
) -> None:
    """Train a classifier and write a run folder: model, history, curves, per-class accuracy of train and test, predictions.

    The same code as a training Job. The folder is what `predict --checkpoint`, `correct --checkpoint` and `serve` take.

    Examples:
      continual train --dataset digits --out out/digits
      continual train --dataset fashion-mnist --data ~/datasets --epochs 5
      continual train --dataset mine.npz --arch cnn3 --out out/mine
      continual train evaluate out/mine --dataset test.npz
    """
    if context.invoked_subcommand is not None:
        return
    from continual_cli import offline

    options = offline.TrainOptions(
        dataset, data, arch.value, epochs, out, seed, pretrained, input_size(size), precision.value
    )
    offline.train(options, output)


def input_size(text: str | None) -> tuple[int, int, int] | None:
    """`28x28x1` as (height, width, channels). Errors: UsageError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError("is not a size", field="--input", value=text, remedy="write HEIGHTxWIDTHxCHANNELS: 28x28x1")
    height, width, channels = map(int, parts)
    return height, width, channels


@train_app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUNDIR", help="Run folder of `continual train`.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="What to evaluate on; default: the run's own, its test part.")
    ] = None,
    data: DataOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Score a trained model: accuracy, per class; no training.

    Examples:
      continual train evaluate out/run
      continual train evaluate out/run --dataset test.npz -o json
    """
    from continual_cli import offline

    offline.evaluate(run, dataset, data, output)
