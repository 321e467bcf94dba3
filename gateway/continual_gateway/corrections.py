"""One image, taught at once: asked, corrected, its training followed, and looked at again with what the training made.

The label carries the image, so it trains even when the request is gone. The training that counts is the one whose data hold this very
request: its list of correction shards is read, not guessed from times. What is known of a correction lies in Redis, so that any
replica can go on telling it; each look moves it on by what the resource and the store say by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from continual_clients.registry import Registry
from continual_contract.artifacts import TrainingOutcome
from continual_contract.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from continual_contract.ids import content_hash
from continual_contract.routing import is_held_out, separation_unit

from continual_gateway import audit
from continual_gateway.auth import Principal
from continual_gateway.gateway import Gateway
from continual_gateway.inference import Context, ask
from continual_gateway.labelling import Label, check_class, send_labels
from continual_gateway.lookups import look_up, png_of, unknown
from continual_gateway.models import ModelFacts
from continual_gateway.reaching import in_store, reaching, replies
from continual_gateway.resources import Document, dig

State = Literal["right", "waiting", "training", "learned", "failed"]
FINAL = frozenset({"right", "learned", "failed"})
KEPT = 500
VERSIONS_SEARCHED = 5
LATER = {
    "Promote": "learned; live after the offline gate, on probation",
    "Candidate": "learned; live after the gate",
}
_TEXT = ("label", "by", "was", "was_version", "state", "job", "digest", "after", "message", "image")
_NUMBERS = ("was_confidence", "after_confidence")


@dataclass(frozen=True, slots=True)
class Progress:
    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    loss: str = ""
    accuracy: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """What is known of one correction."""

    id: str
    time_ms: int
    label: str
    by: str
    was: str
    was_confidence: float
    was_version: str
    state: State
    image: str = ""
    """Content hash of the picture kept under `samples/`."""
    job: str = ""
    digest: str = ""
    """Of the checkpoint that learned it."""
    after: str = ""
    after_confidence: float = 0.0
    message: str = ""
    version: str = ""
    """Number that the checkpoint got, once the gate let it in."""
    live: bool = False
    progress: Progress = field(default_factory=Progress)

    @property
    def fixed(self) -> bool:
        return self.state == "right" or (self.state == "learned" and self.after == self.label)

    @property
    def final(self) -> bool:
        return self.state in FINAL

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id, "state": self.state, "label": self.label, "by": self.by, "time_ms": self.time_ms,
            "before": {"class": self.was, "confidence": self.was_confidence, "version": self.was_version},
            "fixed": self.fixed, "message": self.message,
        }  # fmt: skip
        if self.job:
            found |= {"job": self.job, "progress": _document(self.progress)}
        if self.digest:
            after = {"class": self.after, "confidence": self.after_confidence}
            found |= {"digest": self.digest, "after": after, "version": self.version, "live": self.live}
        return found


def _document(progress: Progress) -> dict[str, Any]:
    return {name: getattr(progress, name) for name in progress.__slots__}


# Beginning ------------------------------------------------------------------------------------------------------------------------


async def correct(
    gateway: Gateway, facts: ModelFacts, principal: Principal, pixels: bytes, label: str, request_id: str = ""
) -> Correction:
    """Ask (unless `request_id` was asked already), and if the answer is not `label`, teach it.

    Errors: UnknownClassError; ConflictError when corrections are off or training is suspended; what asking and labelling raise.
    """
    require_learning(facts)
    check_class(facts, label)
    begun = await _asked(gateway, facts, principal, pixels, label, request_id)
    if begun.state == "right":
        return begun
    image = content_hash(pixels)
    begun = replace(begun, image=image)
    await in_store(gateway.deps.store.put, facts.layout.sample(image), png_of(pixels, facts.input))
    await _remember(gateway, facts, begun, pixels)
    taught = await send_labels(gateway, facts, principal, [Label(begun.id, label, "correction", image=pixels)])
    if taught[0].problem is not None:
        raise taught[0].problem
    await audit.record(gateway.deps.redis, principal, facts.ref, "correct", f"{begun.id} {begun.was} → {label}")
    return begun


def require_learning(facts: ModelFacts) -> None:
    """Errors: ConflictError naming the field that holds it back."""
    if facts.corrections == "Off":
        raise ConflictError(
            "instant corrections are off", field="spec.retraining.instantCorrections", value="Off",
            remedy="set Candidate or Promote, or send a label",
        )  # fmt: skip
    if facts.suspended:
        raise ConflictError("training is suspended", field="spec.suspend", value=True, remedy="resume it first")


async def _asked(
    gateway: Gateway, facts: ModelFacts, principal: Principal, pixels: bytes, label: str, request_id: str
) -> Correction:
    if request_id:
        known = await look_up(gateway, facts, request_id)
        was, confidence, version = known.class_name, known.confidence, known.version
    else:
        (answer,) = await ask(gateway, facts, [pixels], Context())
        request_id, was, confidence, version = answer.request_id, answer.class_name, answer.confidence, answer.version
    held_out = is_held_out(separation_unit(b"", pixels), facts.holdout_percent)
    state: State = "right" if was == label else "waiting"
    return Correction(
        request_id, int(gateway.deps.clock() * 1000), label, principal.name, was, confidence, version, state,
        message=_SAID["held-out" if held_out and state == "waiting" else state],
    )  # fmt: skip


_SAID: dict[str, str] = {
    "right": "the answer is right already; nothing to correct",
    "held-out": "waiting for the training; if these very pixels are in the holdout already, they test and never train: then correct another picture",
    "waiting": "waiting for the training",
}


async def _remember(gateway: Gateway, facts: ModelFacts, begun: Correction, pixels: bytes) -> None:
    key, seconds = facts.keys.correction(begun.id), int(facts.window.total_seconds()) + 3600
    async with reaching(gateway) as client:
        pipe = client.pipeline(transaction=False)
        fields: dict[Any, Any] = {**_fields(begun), "pixels": pixels, "time_ms": begun.time_ms}
        pipe.hset(key, mapping=fields)
        pipe.expire(key, max(seconds, 86_400))
        pipe.zadd(facts.keys.corrections, {begun.id: begun.time_ms})
        pipe.zremrangebyrank(facts.keys.corrections, 0, -KEPT - 1)
        await pipe.execute()


def _fields(correction: Correction) -> dict[Any, Any]:
    return {name: getattr(correction, name) for name in (*_TEXT, *_NUMBERS)}


# Following ------------------------------------------------------------------------------------------------------------------------


async def state_of(gateway: Gateway, facts: ModelFacts, request_id: str) -> Correction:
    """Where a correction is by now. Errors: NotFoundError for one nobody made; RedisUnavailableError."""
    known, pixels = await _recall(gateway, facts, request_id)
    document = await gateway.models.fresh(facts.ref.qualified)
    if not known.final:
        try:
            moved = await _moved_on(gateway, facts, document, known, pixels)
        except StoreUnavailableError:
            return known  # asked again in a moment
        if moved != known:
            await _write(gateway, facts, moved)
        known = moved
    return _placed(known, document)


async def history(gateway: Gateway, facts: ModelFacts, by: str, limit: int) -> list[Correction]:
    """Corrections of one person (empty: everybody's), newest first, as they were last looked at."""
    async with reaching(gateway) as client:
        ids: Any = await replies(client.zrevrange(facts.keys.corrections, 0, KEPT - 1))
        pipe = client.pipeline(transaction=False)
        for request_id in ids:
            pipe.hgetall(facts.keys.correction(request_id.decode()))
        found = await pipe.execute() if ids else []
    read = [_read(request_id.decode(), raw) for request_id, raw in zip(ids, found, strict=True) if raw]
    return [one for one in read if not by or one.by == by][:limit]


async def _recall(gateway: Gateway, facts: ModelFacts, request_id: str) -> tuple[Correction, bytes]:
    async with reaching(gateway) as client:
        raw: Any = await replies(client.hgetall(facts.keys.correction(request_id)))
    if not raw:
        raise unknown(request_id)
    return _read(request_id, raw), raw.get(b"pixels", b"")


def _read(request_id: str, raw: dict[bytes, bytes]) -> Correction:
    values: dict[str, Any] = {name: raw.get(name.encode(), b"").decode() for name in _TEXT}
    values |= {name: float(raw.get(name.encode(), b"0")) for name in _NUMBERS}
    return Correction(id=request_id, time_ms=int(raw.get(b"time_ms", b"0")), **values)


async def _write(gateway: Gateway, facts: ModelFacts, correction: Correction) -> None:
    async with reaching(gateway) as client:
        await replies(client.hset(facts.keys.correction(correction.id), mapping=_fields(correction)))


async def _moved_on(
    gateway: Gateway, facts: ModelFacts, document: Document, known: Correction, pixels: bytes
) -> Correction:
    registry = Registry(gateway.deps.store, facts.layout)
    job = known.job or await in_store(_job_of, gateway, registry, document, known.id)
    if not job:
        return known
    outcome = await in_store(registry.outcome, job)
    if outcome is None:
        progress = await _progress(gateway, facts, job)
        return replace(known, job=job, state="training", message="learning", progress=progress)
    return await _ended(gateway, facts, registry, replace(known, job=job), outcome, pixels)


async def _ended(
    gateway: Gateway, facts: ModelFacts, registry: Registry, known: Correction, outcome: TrainingOutcome, pixels: bytes
) -> Correction:
    if outcome.manifest is None:
        failure = outcome.failure
        said = f"{failure.reason}: {failure.message}" if failure else "the training left no checkpoint"
        return replace(known, state="failed", message=said)
    try:
        guess = await in_store(gateway.recheck.guess, registry, outcome.manifest, pixels)
    except (IntegrityError, NotFoundError, UsageError) as error:
        return replace(known, state="failed", digest=outcome.manifest, message=error.describe())
    fixed = guess.class_name == known.label
    said = LATER.get(facts.corrections, "learned") if fixed else "the training did not fix it: correct it again"
    return replace(
        known,
        state="learned",
        digest=outcome.manifest,
        after=guess.class_name,
        after_confidence=guess.confidence,
        message=said,
    )


async def _progress(gateway: Gateway, facts: ModelFacts, job: str) -> Progress:
    async with reaching(gateway) as client:
        raw: Any = await replies(client.hgetall(facts.keys.progress(job)))
    told = {name.decode(): value.decode() for name, value in raw.items()}
    epoch, epochs = (int(told[name]) if told.get(name, "").isdigit() else 0 for name in ("epoch", "epochs"))
    return Progress(told.get("phase", "starting"), epoch, epochs, told.get("loss", ""), told.get("accuracy", ""))


def _job_of(gateway: Gateway, registry: Registry, document: Document, request_id: str) -> str:
    """The training whose correction shards hold the request; empty while there is none. Blocking."""
    for job, data in _corrections_in(gateway, registry, document):
        if request_id in gateway.lineage.taught(registry, data):
            return job
    return ""


def _corrections_in(gateway: Gateway, registry: Registry, document: Document) -> Iterator[tuple[str, str]]:
    """(job, data list) of the training in flight and of the newest versions, as far as they learned corrections."""
    inputs = dig(document, "status.training.inputs", {})
    if inputs.get("mode") == "correction" and inputs.get("data"):
        yield str(dig(document, "status.training.job", "")), str(inputs["data"])
    for record in reversed(dig(document, "status.versions", [])[-VERSIONS_SEARCHED:]):
        manifest = gateway.lineage.manifest(registry, str(record.get("digest")))
        if manifest is not None and manifest.mode == "correction" and manifest.data:
            yield manifest.job, manifest.data


def _placed(known: Correction, document: Document) -> Correction:
    """With the number its checkpoint got, and whether that one serves."""
    if not known.digest:
        return known
    record: Document = next((r for r in dig(document, "status.versions", []) if r.get("digest") == known.digest), {})
    live = dig(document, "status.stable.digest", "") == known.digest
    return replace(known, version=str(record.get("version", "")), live=live)
