"""One image, taught at once: ask, correct, follow the Job that learns it, and look again with what it made.

The label carries the image, so it trains even when the request is gone. The Job that counts is the one whose data hold this very
request: its list of correction shards is read, not guessed from times. The second look runs the new checkpoint's ONNX file
here; what the stream answers changes only after the gate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual_contract.entries import DeadLetter, LabelEntry, PredictionEntry
from continual_contract.errors import ConflictError, InvalidImageError, TrainingError, UnavailableError, UsageError
from continual_contract.routing import is_held_out, separation_unit

from continual_cli import person, streams
from continual_cli.asking import send_image
from continual_cli.document import condition, dig
from continual_cli.output import progress
from continual_cli.pictures import Guess, guesses, read_pixels
from continual_cli.target import Target

if TYPE_CHECKING:
    from continual_contract.artifacts import TrainingOutcome
    from rich.progress import Progress, TaskID

    from continual_cli.pictures import Pixels

POLL_SECONDS = 0.3
LIVE = {
    "Promote": "live after the offline gate, on probation",
    "Candidate": "live after the gate: see `continual get --watch`",
}


@dataclass(frozen=True, slots=True)
class Correction:
    """What came of it. `job` and `digest` are empty when the answer was right already."""

    file: str
    label: str
    before: Guess
    after: Guess
    request: str = ""
    job: str = ""
    digest: str = ""
    then: str = ""

    @property
    def fixed(self) -> bool:
        return self.after.class_name == self.label

    def sentence(self) -> str:
        was, now = (f"{guess.class_name} ({guess.confidence:.3f})" for guess in (self.before, self.after))
        if not self.digest:
            return f"{self.file}: {was} already; nothing to correct\nfixed true"
        return f"{self.file}: was {was}, now {now}\nfixed {str(self.fixed).lower()}"

    def document(self) -> dict[str, Any]:
        def spelled(guess: Guess) -> dict[str, Any]:
            return {"class": guess.class_name, "confidence": guess.confidence}

        return {
            "file": self.file,
            "label": self.label,
            "fixed": self.fixed,
            "before": spelled(self.before),
            "after": spelled(self.after),
            "request": self.request,
            "job": self.job,
            "digest": self.digest,
        }

    def next_step(self) -> str:
        return f"learned; {self.then}" if self.then else "nothing was trained"


def run(target: Target, file: Path, class_name: str, timeout: float) -> Correction:
    """Correct one image on the local cluster.

    Errors: UnknownClassError, InvalidImageError; UsageError when corrections are off, ConflictError when the model is suspended;
    TrainingError when the Job fails, UnavailableError when it does not end in time.
    """
    require_learning(target)
    label, image = target.class_named(class_name), read_pixels(file, target.input, target.fit)
    deadline = time.monotonic() + timeout
    request, before = ask(target, image, str(file), timeout)
    if before.class_name == label:
        return Correction(str(file), label, before, before, request)
    teach(target, request, label, image)
    with progress() as bar:
        job, outcome = follow(target, request, image, deadline, bar)
    if outcome.manifest is None:
        failure = outcome.failure
        told = f"{failure.reason}: {failure.message}" if failure else "no checkpoint"
        raise TrainingError(told, field="job", value=job, remedy="see `continual local logs`, then correct it again")
    (after,) = guesses(target.registry, outcome.manifest, [image])
    then = LIVE.get(str(dig(target.document, "spec.retraining.instantCorrections", "Candidate")), "")
    return Correction(str(file), label, before, after, request, job, outcome.manifest, then)


def require_learning(target: Target) -> None:
    mode = dig(target.document, "spec.retraining.instantCorrections", "Candidate")
    if mode == "Off":
        raise UsageError(
            "instant corrections are off",
            field="spec.retraining.instantCorrections",
            value=mode,
            remedy="set Candidate or Promote, or send `continual label --source correction`",
        )
    if dig(target.document, "spec.suspend", False):
        raise ConflictError(
            "training is suspended", field="spec.suspend", value=True, remedy="`continual resume` first"
        )


def ask(target: Target, image: Pixels, file: str, timeout: float) -> tuple[str, Guess]:
    """What the stream says now, as request id and guess."""
    start = streams.cursor(target.redis, target.keys)
    request = send_image(target, image)
    answer = streams.await_answers(target.redis, target.keys, [request], start, timeout).get(request)
    if isinstance(answer, PredictionEntry):
        return request, Guess(answer.class_name, answer.confidence)
    if isinstance(answer, DeadLetter):
        raise InvalidImageError(
            f"refused: {answer.message}", field=file, value=request, remedy="see `continual dead list`"
        )
    raise streams.no_answer(request, timeout)


def teach(target: Target, request: str, label: str, image: Pixels) -> None:
    now = int(time.time() * 1000)
    entry = LabelEntry(request, label, person.name(), "correction", now, image.tobytes())
    streams.send_label(target.redis, target.keys, entry)


def follow(target: Target, request: str, image: Pixels, deadline: float, bar: Progress) -> tuple[str, TrainingOutcome]:
    """(job, outcome) of the Job that learned this request, as soon as it has ended."""
    task = bar.add_task("waiting for the training", total=None)
    ours: set[str] = set()
    others: set[str] = set()
    while time.monotonic() < deadline:
        for job, data in jobs(target.fresh()):
            if job not in ours | others:
                (ours if holds(target, data, request) else others).add(job)
        for job in ours:
            show(target, job, bar, task)
            if (outcome := target.registry.outcome(job)) is not None:
                return job, outcome
        time.sleep(POLL_SECONDS)
    raise late(target.fresh(), bool(ours), image)


def jobs(target: Target) -> Iterator[tuple[str, str]]:
    """(job hash, digest of its data list) of the training in flight, if it is a correction."""
    training = dig(target.document, "status.training", {})
    inputs = training.get("inputs") or {}
    if inputs.get("mode") == "correction" and inputs.get("data"):
        from continual_contract.artifacts import TrainingInputs

        yield TrainingInputs.model_validate(inputs).job_hash(), str(inputs["data"])


def holds(target: Target, data: str, request: str) -> bool:
    """Whether the corrections of this data list contain the request."""
    from continual_clients.shards import read_shard

    listed = target.registry.data_list(data).corrections
    shards = (read_shard(target.store, target.layout, digest, "shards") for digest in listed)
    return any(request in shard.request_id for shard in shards)


def show(target: Target, job: str, bar: Progress, task: TaskID) -> None:
    """The Job's own progress; the bar has an end only while epochs are counted."""
    with streams.reaching(target.redis):
        raw: Any = target.redis.hgetall(target.keys.progress(job))
    told = {name.decode(): value.decode() for name, value in raw.items()}
    epochs = int(told.get("epochs") or 0)
    bar.update(
        task, description=told.get("phase", "starting"), total=epochs or None, completed=int(told.get("epoch") or 0)
    )


def late(target: Target, started: bool, image: Pixels) -> UnavailableError:
    """Why nothing came of it in time. An image that the holdout already has tests the versions and never trains."""
    percent = float(dig(target.document, "spec.feedback.holdoutPercent", 10))
    if not started and is_held_out(separation_unit(b"", image.tobytes()), percent):
        return UnavailableError(
            "no training has begun: these very pixels may be in the holdout, which tests every version and never trains",
            field="image",
            remedy="correct another picture of it (a crop, a new photo)",
        )
    state = condition(target.document, "Training")
    said = f"{state.get('reason', 'no training')} {state.get('message', '')}".strip()
    what = "the training did not end in time" if started else "no training has begun yet"
    return UnavailableError(
        f"{what}; the correction is kept and will be learned",
        field="status.training",
        value=said,
        remedy="see `continual get --watch`, or wait longer with --timeout",
    )
