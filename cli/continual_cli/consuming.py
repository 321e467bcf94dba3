"""The printing consumer: predictions as they are published, and, asked to keep score, the labels that judge them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from continual_contract.entries import LabelEntry, PredictionEntry, decode_label
from continual_contract.errors import NotFoundError, UsageError

from continual_cli import streams
from continual_cli.output import Format, clock, json_line, printable

if TYPE_CHECKING:
    import redis
    from continual_contract.keys import ModelKeys

LAST = 20
REMEMBERED = 100_000
HEADS = ("TIME", "REQUEST", "VERSION", "ROLE", "CLASS", "CONFIDENCE")


@dataclass(frozen=True, slots=True)
class Options:
    follow: bool
    start: str | None
    count: int | None
    score: bool
    idle: float | None


@dataclass(slots=True)
class Score:
    """Right and wrong so far; a label counts once per request, whichever of the two came first."""

    right: int = 0
    seen: int = 0
    predicted: dict[str, PredictionEntry] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def predict(self, entry: PredictionEntry) -> bool | None:
        """Remember a prediction; its verdict if the label was here first."""
        self.predicted[entry.request_id] = entry
        forget_oldest(self.predicted)
        label = self.waiting.pop(entry.request_id, None)
        return self.judge(entry, label) if label is not None else None

    def label(self, request_id: str, class_name: str) -> bool | None:
        """Take a label; the verdict, or None when the prediction is not here yet or was judged before."""
        entry = self.predicted.get(request_id)
        if entry is None:
            self.waiting[request_id] = class_name
            forget_oldest(self.waiting)
            return None
        return self.judge(entry, class_name)

    def judge(self, entry: PredictionEntry, class_name: str) -> bool | None:
        if entry.request_id in self.done:
            return None
        self.done.add(entry.request_id)
        right = entry.class_name == class_name
        self.seen, self.right = self.seen + 1, self.right + right
        return right

    @property
    def accuracy(self) -> float:
        return self.right / self.seen if self.seen else 0.0


def forget_oldest(memory: dict[str, Any]) -> None:
    if len(memory) > REMEMBERED:
        memory.pop(next(iter(memory)))


def consume(client: redis.Redis, keys: ModelKeys, options: Options, form: Format) -> None:
    """Print until the options say it is enough."""
    if form is Format.yaml:
        raise UsageError("a stream is printed as table or json", field="--output", value="yaml", remedy="use -o json")
    printer = Printer(client, keys, form, Score() if options.score else None)
    printed = 0
    printer.head()
    try:
        for stream, fields in entries(client, keys, options):
            printed += printer.show(stream, fields)
            if printed == options.count:
                break
    finally:
        printer.foot()


def entries(client: redis.Redis, keys: ModelKeys, options: Options) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """(stream, fields) from the options' start on; with `follow` for ever, or until nothing came for `idle` seconds."""
    watched = [keys.predictions, keys.labels] if options.score else [keys.predictions]
    positions = {stream: starting(client, stream, options) for stream in watched}
    last = time.monotonic()
    while True:
        with streams.reaching(client):
            block = streams.BLOCK_MS if options.follow else None
            found: Any = client.xread(positions, count=streams.PAGE, block=block)  # type: ignore[arg-type]  # redis-py's dict is invariant
        for name, batch in found or ():
            for entry_id, fields in batch:
                positions[name.decode()] = entry_id.decode()
                yield name.decode(), fields
        if found:
            last = time.monotonic()
        elif not options.follow or (options.idle is not None and time.monotonic() - last >= options.idle):
            return


def starting(client: redis.Redis, stream: str, options: Options) -> str:
    """Position after which to read."""
    if options.start is not None:
        start = options.start if "-" in options.start else f"{options.start}-0"
        if not streams.is_entry_id(start):
            raise UsageError("not a stream id", field="--from", value=options.start, remedy="give 0 or 1732200000000-0")
        return start
    if options.follow:
        return streams.last_id(client, stream)
    with streams.reaching(client):
        newest: Any = client.xrevrange(stream, count=LAST + 1)
    return newest[LAST][0].decode() if len(newest) > LAST else "0-0"


@dataclass(slots=True)
class Printer:
    client: redis.Redis
    keys: ModelKeys
    form: Format
    score: Score | None

    def head(self) -> None:
        if self.form is Format.table:
            heads = (*HEADS, "LABEL", "RIGHT", "ACCURACY") if self.score else HEADS
            print(line(heads), flush=True)

    def show(self, stream: str, fields: dict[bytes, bytes]) -> int:
        """Print one entry; 1 if it was a prediction. What a stranger added and nobody can read is passed over."""
        if stream == self.keys.predictions:
            entry = streams.readable_prediction(fields)
            if entry is not None:
                self.prediction(entry)
            return int(entry is not None)
        self.label(decode_label(fields))
        return 0

    def prediction(self, entry: PredictionEntry) -> None:
        right = self.score.predict(entry) if self.score else None
        if self.form is Format.json:
            print(json_line(document(entry, right, self.score)), flush=True)
        else:
            print(line((*columns(entry), *self.verdict(None, right))), flush=True)

    def label(self, label: LabelEntry) -> None:
        """A label that came after its prediction: the prediction again, judged."""
        if self.score is None:
            return
        try:
            request = streams.resolve(self.client, self.keys, label.reference)
        except NotFoundError:
            return
        right = self.score.label(request, label.class_name)
        if right is None:
            return
        entry = self.score.predicted[request]
        if self.form is Format.json:
            print(json_line({**document(entry, right, self.score), "label": label.class_name}), flush=True)
        else:
            print(line((*columns(entry), *self.verdict(label.class_name, right))), flush=True)

    def verdict(self, label: str | None, right: bool | None) -> tuple[object, ...]:
        if self.score is None:
            return ()
        word = {True: "right", False: "wrong", None: ""}[right]
        return (label or "", word, f"{self.score.accuracy:.3f}" if self.score.seen else "")

    def foot(self) -> None:
        if self.score and self.form is Format.table:
            print(f"{self.score.right} of {self.score.seen} right: accuracy {self.score.accuracy:.3f}")


def columns(entry: PredictionEntry) -> tuple[object, ...]:
    return (
        clock(entry.time_ms),
        entry.request_id,
        entry.version,
        entry.role,
        entry.class_name,
        f"{entry.confidence:.3f}",
    )


WIDTHS = (9, 21, 8, 7, 12, 11, 12, 6)


def line(values: tuple[object, ...]) -> str:
    """Columns of fixed width: a stream cannot be measured before it ends."""
    padded = [
        printable(str(value)).ljust(width) for value, width in zip(values, (*WIDTHS, *(0,) * len(values)), strict=False)
    ]
    return " ".join(padded).rstrip()


def document(entry: PredictionEntry, right: bool | None, score: Score | None) -> dict[str, Any]:
    told = {
        "request": entry.request_id,
        "class": entry.class_name,
        "confidence": entry.confidence,
        "version": entry.version,
        "digest": entry.digest_prefix,
        "role": entry.role,
        "why": entry.why,
        "workerUs": entry.worker_us,
        "timeMs": entry.time_ms,
    }
    if score is not None and right is not None:
        told |= {"right": right, "accuracy": round(score.accuracy, 6), "scored": score.seen}
    return told
