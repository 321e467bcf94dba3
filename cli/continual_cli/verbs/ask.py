"""Verbs for one image: what is it, what should it have been, learn it and look again."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from continual_contract.entries import LabelEntry
from continual_contract.errors import NotFoundError, TrainingError, UsageError

from continual_cli import asking, person, streams
from continual_cli.output import Format, OutputOption, emit, note, say
from continual_cli.target import ModelOption, Target

PREDICT_HEADS = ("File", "Class", "Confidence", "Version", "Role", "Request")
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Work without a cluster on a run folder of `continual train`.", metavar="RUNDIR"),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait.", min=0.1)]


class Source(StrEnum):
    truth = "truth"
    audit = "audit"
    correction = "correction"


def predict(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images: PNG, JPEG or WebP.")],
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    timeout: TimeoutOption = 15.0,
    output: OutputOption = Format.table,
) -> None:
    """Classify images: send them, wait for the answers, show class, confidence, version and request id.

    Another size is fitted as `model.input.fit` says (Letterbox, Stretch or Refuse). The request id is what a label refers to.

    Examples:
      continual predict seven.png
      continual predict scans/*.png -o json
      continual predict seven.png --checkpoint out/run     # without a cluster
    """
    if checkpoint is not None:
        from continual_cli import offline

        answers = offline.predict(checkpoint, files)
    else:
        answers = asking.predict(Target.open(model), files, timeout)
    emit(output, [answer.document() for answer in answers], PREDICT_HEADS, [answer.row() for answer in answers])


def label(
    reference: Annotated[
        str | None, typer.Option("--id", help="Request id from `predict` or `consume`, or key:<key it was sent under>.")
    ] = None,
    class_name: Annotated[str | None, typer.Option("--class", "-c", help="The true class.")] = None,
    source: Annotated[
        Source,
        typer.Option(
            help="truth: known for every request; audit: asked for at random; correction: somebody saw a mistake (trains, never judges)."
        ),
    ] = Source.truth,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Many labels: a file with columns id,class and optionally source,by.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who says so; one vote per labeler and request.")] = None,
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Say what an image really was, now or hours later.

    Labels judge candidates, show drift and train the next version. Repeating one changes nothing: the latest of a labeler counts.

    Examples:
      continual label --id 1732200000000-0 --class 7
      continual label --id key:scan-17 --class 7 --source audit
      continual label --csv labels.csv
    """
    target = Target.open(model)
    who = by or person.name()
    if table is not None:
        entries = list(csv_labels(table, target, source.value, who))
    elif reference is None or class_name is None:
        raise UsageError(
            "say which request and which class", field="label", remedy="give --id and --class, or --csv FILE"
        )
    else:
        entries = [label_of(target, reference, class_name, source.value, who)]
    sent, unknown = send_labels(target, entries)
    if unknown and len(entries) == 1:
        raise streams.unknown_request(unknown[0])
    say(
        output,
        f"{target.name}: {len(sent)} label(s) sent",
        {"model": target.name, "sent": len(sent), "unknown": unknown},
    )
    if unknown:
        raise NotFoundError(
            f"{len(unknown)} of {len(entries)} labels name requests that nobody knows; the others were sent",
            field="id",
            value=unknown[0],
            remedy="take ids from `continual consume`, within feedback.window",
        )


def label_of(target: Target, reference: str, class_name: str, source: str, by: str) -> LabelEntry:
    return LabelEntry(reference, target.class_named(class_name), by, Source(source).value)


def csv_labels(table: Path, target: Target, source: str, by: str) -> Iterator[LabelEntry]:
    """The rows of a CSV file. Errors: UsageError and UnknownClassError naming file and line, before anything is sent."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError("no such file", field="--csv", value=str(table), remedy="check the path") from error
    reader = csv.DictReader(text.splitlines())
    if not {"id", "class"} <= set(reader.fieldnames or ()):
        heads = ",".join(reader.fieldnames or ())
        raise UsageError("lacks a column", field=str(table), value=heads, remedy="begin it with the line: id,class")
    for row in reader:
        yield csv_label(f"{table}:{reader.line_num}", row, target, source, by)


def csv_label(where: str, row: dict[str, str | None], target: Target, source: str, by: str) -> LabelEntry:
    given = (row.get("source") or source).strip()
    if given not in set(Source):
        raise UsageError("not a label source", field=f"{where}: source", value=given, remedy=f"use {', '.join(Source)}")
    try:
        return label_of(target, (row["id"] or "").strip(), (row["class"] or "").strip(), given, row.get("by") or by)
    except UsageError as error:
        raise type(error)(
            error.message, field=f"{where}: {error.field}", value=error.value, remedy=error.remedy
        ) from error


def send_labels(target: Target, entries: Sequence[LabelEntry]) -> tuple[list[str], list[str]]:
    """Send what can be joined; returns the references sent and those of unknown requests."""
    sent: list[str] = []
    unknown: list[str] = []
    for entry in entries:
        try:
            streams.require_known(
                target.redis, target.keys, streams.resolve(target.redis, target.keys, entry.reference)
            )
        except NotFoundError:
            unknown.append(entry.reference)
            continue
        streams.send_label(target.redis, target.keys, entry)
        sent.append(entry.reference)
    return sent, unknown


def correct(
    file: Annotated[Path, typer.Argument(help="The image that was answered wrongly.")],
    class_name: Annotated[str, typer.Option("--label", "-l", help="What it is.")],
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    timeout: TimeoutOption = 180.0,
    output: OutputOption = Format.table,
) -> None:
    """Teach the model one image, at once, and look again.

    Sends the image and its label, follows the training Job that learns it without forgetting the rest, and runs the new checkpoint on the image: `fixed true` means learned; it goes live after the gate (`retraining.instantCorrections`).

    Examples:
      continual correct seven.png --label 7
      continual correct seven.png --label 7 --checkpoint out/run     # without a cluster; writes a new run folder beside it
    """
    if checkpoint is not None:
        from continual_cli import offline

        result = offline.correct(checkpoint, file, class_name)
    else:
        from continual_cli import correction

        result = correction.run(Target.open(model), file, class_name, timeout)
    say(output, result.sentence(), result.document())
    if not result.fixed:
        raise TrainingError(
            "the new checkpoint still answers otherwise",
            field="fixed",
            value=result.after.class_name,
            remedy="correct it again, or label more images like it; the candidate goes through the gate all the same",
        )
    note(result.next_step())
