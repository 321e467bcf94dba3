"""A correction as the person who made it follows it: sent, learned, checked again, live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from continual_gateway.views import text
from continual_gateway.views.overview import IN_FLIGHT
from continual_gateway.views.snapshot import Snapshot
from continual_gateway.views.text import Tone


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a correction, as far as it is shown. `after` is the new checkpoint's own answer."""

    state: str
    was: str
    label: str
    message: str = ""
    job: str = ""
    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    digest: str = ""
    after: str = ""
    after_confidence: float = 0.0
    version: str = ""
    live: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """The live version's answer for the same image."""

    class_name: str
    confidence: float
    version: str


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    note: str
    state: Literal["done", "now", "ahead", "failed"]

    @property
    def tone(self) -> Tone:
        tones: dict[str, Tone] = {"done": "good", "now": "busy", "ahead": "idle", "failed": "bad"}
        return tones[self.state]


@dataclass(frozen=True, slots=True)
class Progress:
    """The page of a correction. `over` means that nothing will change any more; `fixed` is None until then."""

    steps: tuple[Step, ...]
    epoch: int
    epochs: int
    over: bool
    fixed: bool | None


def progress(snapshot: Snapshot, told: Told, again: Again | None) -> Progress:
    """How far it has come."""
    steps = (
        Step("Correction sent", f"{told.was} is really {told.label}", "done"),
        _training_step(snapshot, told),
        _check_step(told),
        _serving_step(snapshot, told),
        _again_step(told, again),
    )
    over = again is not None or steps[1].state == "failed" or steps[3].state == "failed"
    fixed = again.class_name == told.label if again else False if over else None
    return Progress(steps, told.epoch, told.epochs, over, fixed)


@dataclass(frozen=True, slots=True)
class Newest:
    """The answer of the newest that was asked about the image since; nameless until there is one."""

    when: str
    name: str = ""
    confidence: str = ""
    version: str = ""
    tone: Tone = "idle"


def newest_answer(told: Told, again: Again | None) -> Newest:
    """The live answer, else the new checkpoint's own."""
    if again is not None:
        tone: Tone = "good" if again.class_name == told.label else "bad"
        return Newest("Now, live", again.class_name, text.percent(again.confidence), again.version, tone)
    if told.after:
        tone = "good" if told.after == told.label else "bad"
        confidence = text.percent(told.after_confidence)
        return Newest("The new checkpoint", told.after, confidence, told.version, tone)
    return Newest("After retraining", confidence=f"should be {told.label}")


def _training_step(snapshot: Snapshot, told: Told) -> Step:
    name = "Used for retraining"
    if told.state == "failed" and not told.after:
        return Step(name, told.message, "failed")
    if told.digest:
        return Step(name, "replayed samples kept their answers, so the rest is not forgotten", "done")
    if told.job:
        return Step(name, f"Job {told.job}: {told.phase or 'starting'}", "now")
    return Step(name, _why_waiting(snapshot, told), "now")


def _why_waiting(snapshot: Snapshot, told: Told) -> str:
    if snapshot.spec("suspend", False):
        return "the model is suspended: it is learned when somebody resumes it"
    if snapshot.status("training.state") in IN_FLIGHT and snapshot.status("training.inputs.mode") != "correction":
        return "another training runs first"
    condition = snapshot.condition("Training")
    if condition.get("reason") in {"DailyLimit", "TooManyFailures", "BackOff"}:
        return f"{text.words(str(condition['reason']))}: {condition.get('message', '')}"
    return told.message or "waiting for the training"


def _check_step(told: Told) -> Step:
    """The new checkpoint itself, asked by the gateway before anything goes live."""
    name = "Checked again"
    if not told.after:
        return Step(name, "the new checkpoint on the same image, before anything goes live", "ahead")
    said = f"the new checkpoint says {told.after} with {text.percent(told.after_confidence)}"
    if told.after == told.label:
        return Step(name, said, "done")
    return Step(name, f"{said}: correct it again, or label more images like it", "failed")


def _serving_step(snapshot: Snapshot, told: Told) -> Step:
    name, version = "Live", told.version
    if told.live:
        on_probation = snapshot.status("probation.version") == version
        return Step(name, f"{version} serves" + (", on probation" if on_probation else ""), "done")
    record: Mapping[str, object] = next((r for r in snapshot.status("versions", ()) if r.get("version") == version), {})
    phase = str(record.get("phase", ""))
    if phase in {"Rejected", "RolledBack", "Failed", "Retired"}:
        why = record.get("message") or text.words(str(record.get("reason", "")))
        return Step(name, f"{version} is {text.words(phase).lower()}: {why}", "failed")
    if told.digest and told.digest in snapshot.status("quarantine", ()):
        return Step(name, "the offline gate rejected it: the rest would have suffered", "failed")
    if version:
        return Step(name, f"{version} goes through the gate: {text.words(phase).lower()}", "now")
    if told.digest:
        return Step(name, "the offline gate looks at it", "now")
    direct = snapshot.spec("retraining.instantCorrections", "Candidate") == "Promote"
    return Step(
        name, "after the offline gate, on probation" if direct else "after the gate, like any candidate", "ahead"
    )


def _again_step(told: Told, again: Again | None) -> Step:
    name = "Asked again, live"
    if again is None:
        return Step(name, "a moment" if told.live else "as soon as it is live", "now" if told.live else "ahead")
    said = f"{again.class_name} with {text.percent(again.confidence)} by {again.version}"
    return Step(name, said, "done" if again.class_name == told.label else "failed")
