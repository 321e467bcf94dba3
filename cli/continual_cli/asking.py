"""Ask the stream about images: send them as requests, wait for each answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual_contract.entries import DeadLetter, PredictionEntry
from continual_contract.errors import InvalidImageError

from continual_cli import streams
from continual_cli.document import dig, seconds
from continual_cli.pictures import read_pixels
from continual_cli.target import Target

if TYPE_CHECKING:
    from continual_cli.pictures import Pixels


@dataclass(frozen=True, slots=True)
class Answered:
    """One line of `predict`. Version and request are empty without a cluster."""

    file: str
    class_name: str
    confidence: float
    version: str = ""
    role: str = ""
    request: str = ""

    def row(self) -> tuple[object, ...]:
        return (self.file, self.class_name, self.confidence, self.version, self.role, self.request)

    def document(self) -> dict[str, Any]:
        fields = asdict(self)
        return {"file": fields.pop("file"), "class": fields.pop("class_name"), **fields}


def predict(target: Target, files: Sequence[Path], timeout: float) -> list[Answered]:
    """Errors: InvalidImageError before anything is sent; UnavailableError when an answer does not come in time."""
    images = [read_pixels(file, target.input, target.fit) for file in files]
    start = streams.cursor(target.redis, target.keys)
    sent = [send_image(target, image) for image in images]
    found = streams.await_answers(target.redis, target.keys, sent, start, timeout)
    return [answered(file, request, found.get(request), timeout) for file, request in zip(files, sent, strict=True)]


def send_image(target: Target, image: Pixels) -> str:
    window = seconds(str(dig(target.document, "spec.feedback.window", "24h")))
    return streams.enqueue(target.redis, target.keys, {"d": image.tobytes()}, window_seconds=window).request_id


def answered(file: Path, request: str, answer: PredictionEntry | DeadLetter | None, timeout: float) -> Answered:
    if answer is None:
        raise streams.no_answer(request, timeout)
    if isinstance(answer, DeadLetter):
        remedy = "see `continual dead list`; after the fix `continual dead replay`"
        raise InvalidImageError(
            f"refused: {answer.reason}: {answer.message}", field=str(file), value=request, remedy=remedy
        )
    return Answered(str(file), answer.class_name, answer.confidence, answer.version, answer.role, request)
