"""From a trigger to a candidate: which training starts, what its Job is told, and what becomes of its result.

The Job's inputs are frozen into the status when the training is decided; its name is their hash. So a crash between decision and
creation, a deleted Job, or a second operator all end in the same one Job. A result is read once, judged by the offline gate, and gets its version
number only there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from continual_contract.artifacts import (
    WITHOUT_REPLAY,
    Augmentation,
    CheckpointManifest,
    DataList,
    DatasetRef,
    InputShape,
    Normalization,
    TrainingInputs,
)
from continual_contract.ids import canonical_json, sha256_digest
from continual_contract.report import Report, ShardRef

from continual_operator import judges, labels, reasons
from continual_operator.children import TRIES
from continual_operator.draft import Draft
from continual_operator.judges import OfflineFacts, RetrainingFacts, Verdict
from continual_operator.observation import JobFacts
from continual_operator.rollout import first_version
from continual_operator.status import MAX_ATTEMPTED, Retrained, Training, VersionRecord, Waiting

DAY = timedelta(hours=24)
EPOCHS, MIN_EPOCHS = 20, 3
VISITS = 40_000
"""Samples times epochs of one training."""
Mode = Literal["bootstrap", "retrain", "correction"]


# What became of it ----------------------------------------------------------------------------------------------------------


def collect(draft: Draft) -> Draft:
    """Take in the result of the training in flight, if it has ended."""
    training = draft.status.training
    if training is None or not training.in_flight:
        return draft
    outcome = draft.obs.outcome
    if outcome is not None and outcome.failure is not None:
        return _failed(draft, training, outcome.failure.reason, outcome.failure.message)
    if outcome is not None and outcome.manifest is not None:
        return _published(draft, training, outcome.manifest)
    job = draft.obs.jobs.get(training.job)
    if job is None or not job.ours:
        return _without_job(draft, training)
    if job.ended and draft.obs.store_ok:
        how = "the Job ended without an outcome" if job.succeeded else "the Job failed"
        said = "; ".join(filter(None, (job.reason or "no reason given", str(job.trouble))))
        return _failed(draft, training, reasons.JOB_FAILED, f"{how}: {said}")
    return draft.to(training=_counted(training, job))


def _counted(training: Training, job: JobFacts) -> Training:
    """It runs; what a Job of the same name before it used up stays used up."""
    seen = {"state": "Running", "job_uid": job.uid, "job_failures": job.failures}
    if training.job_uid not in {"", job.uid}:
        seen["spent"] = training.tries_used
    return training.model_copy(update=seen)


def _without_job(draft: Draft, training: Training) -> Draft:
    """It is made again, unless that happened too often."""
    if training.state == "Importing" or training.tries_used < TRIES or not draft.obs.store_ok:
        return draft
    return _failed(draft, training, reasons.JOB_FAILED, f"{TRIES} tries were used up, the last by deleting the Job")


def _failed(draft: Draft, training: Training, reason: str, message: str) -> Draft:
    ended = training.ended_as("Failed", reason, message, draft.now)
    retrained = _closed(draft, training, "failed").model_copy(update={"failures": draft.status.retrained.failures + 1})
    draft = draft.to(training=ended, retrained=retrained)
    return draft.record("TrainingFailed", Verdict("Error", reason, message), job=training.job, trigger=training.trigger)


def _published(draft: Draft, training: Training, digest: str) -> Draft:
    manifest = draft.obs.manifests.get(digest)
    if manifest is None:
        damage = draft.obs.damaged.get(digest)
        return draft if damage is None else _failed(draft, training, "Integrity", damage)
    retrained = _closed(draft, training, "ok")
    if manifest.mode == "retrain":
        through = max(retrained.trained_through, manifest.trained_through)
        retrained = retrained.model_copy(update={"trained_through": through})
    ended = training.ended_as("Succeeded", reasons.TRAINED, "", draft.now)
    return _judge(draft.to(training=ended, retrained=retrained), training, manifest, digest)


def _closed(draft: Draft, training: Training, how: str) -> Retrained:
    """Whatever alarm was raised until now is answered by this training; its data is not trained again unasked."""
    retrained = draft.status.retrained
    attempted = (*retrained.attempted, f"{data_key(training)}:{how}")[-MAX_ATTEMPTED:]
    alarm = _alarm(draft) or retrained.drift_evidence
    return retrained.model_copy(
        update={
            "ended": draft.now,
            "attempted": attempted,
            "drift_evidence": alarm,
            "drift_handled": alarm,
            "failures_generation": draft.obs.model.generation,
        }
    )


def data_key(training: Training) -> str:
    """Hash of what is learned from what: equal keys mean the same data on the same parent."""
    inputs = training.inputs or {}
    return _key(inputs.get("mode"), inputs.get("parent"), inputs.get("data") or inputs.get("dataset"))


def _key(mode: object, parent: object, data: object) -> str:
    """Nulls do not count: an API server drops them from a status, and what it gives back must have the key of what it was given."""
    if isinstance(data, Mapping):
        data = {name: value for name, value in data.items() if value is not None}
    return sha256_digest(canonical_json([mode, parent, data]))[7:19]


def _judge(draft: Draft, training: Training, manifest: CheckpointManifest, digest: str) -> Draft:
    facts = OfflineFacts(
        gate=draft.spec.rollout.offline_gate, scores=manifest.scores, classes=len(manifest.classes),
        finite_loss=manifest.finite_loss, parity_max_abs_diff=manifest.parity_max_abs_diff,
        has_parent=manifest.parent is not None,
        first=manifest.first_scores if draft.status.stable else None,
        replays=manifest.strategy not in WITHOUT_REPLAY,
    )  # fmt: skip
    verdict = judges.offline_gate(facts)
    about: dict[str, Any] = {
        "digest": digest, "parent": manifest.parent, "job": training.job, "trigger": training.trigger,
        "data": manifest.data, "trained_through": manifest.trained_through,
    }  # fmt: skip
    if digest in draft.status.quarantine:
        verdict = Verdict(
            "Reject", reasons.QUARANTINED, "this digest was rejected or rolled back before; readmit it by hand"
        )
        return _rejected(draft.record("Reject", verdict, **about), digest)
    if verdict.outcome == "Reject":
        return _rejected(draft.record("Reject", verdict, facts=facts, judge="offline_gate", **about), digest)
    return _accepted(draft, training, manifest, digest, facts, verdict)


def _rejected(draft: Draft, digest: str) -> Draft:
    retrained = draft.status.retrained
    return draft.quarantined(digest).to(retrained=retrained.model_copy(update={"failures": retrained.failures + 1}))


def _accepted(
    draft: Draft, training: Training, manifest: CheckpointManifest, digest: str, facts: OfflineFacts, verdict: Verdict
) -> Draft:
    """The candidate gets its number, and its place in the queue."""
    record = new_record(draft, manifest, digest, training.job, training.trigger)
    draft = draft.to(versions=(*draft.status.versions, record), last_version=draft.status.last_version + 1)
    draft = draft.record("Accept", verdict, record.version, facts=facts, judge="offline_gate", data=manifest.data)
    if draft.status.stable is None:
        return first_version(draft, record)
    direct = manifest.mode == "correction" and draft.spec.retraining.instant_corrections == "Promote"
    return enqueue(draft, record, direct=direct)


def new_record(draft: Draft, manifest: CheckpointManifest, digest: str, job: str, trigger: str) -> VersionRecord:
    return VersionRecord(
        version=f"v{draft.status.last_version + 1}", digest=digest, phase="Candidate", created=draft.now, job=job,
        trigger=trigger, parent=manifest.parent, accuracy=f"{manifest.scores.accuracy:.3f}",
        trained_through=manifest.trained_through,
    )  # fmt: skip


def enqueue(draft: Draft, record: VersionRecord, *, direct: bool = False, forced: bool = False) -> Draft:
    """Only the newest waits."""
    older = draft.status.waiting
    if older is not None and older.version != record.version:
        verdict = Verdict("Inconclusive", reasons.REPLACED, f"{record.version} is newer")
        draft = draft.phase(older.version, "Retired", reasons.REPLACED, verdict.message)
        draft = draft.record("Supersede", verdict, older.version)
    waiting = Waiting(
        version=record.version,
        digest=record.digest,
        since=draft.now,
        trigger=record.trigger,
        direct=direct,
        forced=forced,
    )
    return draft.to(waiting=waiting)


# Whether one starts ---------------------------------------------------------------------------------------------------------


def retrain(draft: Draft) -> Draft:
    """Start a training if one is due."""
    draft = _fresh_failures(draft)
    if draft.status.stable is None:
        return _bootstrap(draft)
    draft = _see_schedules(_see_corrections(_see_drift(draft)))
    facts = retraining_facts(draft)
    verdict = judges.retraining_due(facts)
    if verdict.outcome == "Due":
        return _start(draft, facts, verdict)
    if facts.manual and verdict.reason == reasons.NO_NEW_SAMPLES:
        draft = _handled_manual(draft)
        return draft.record(
            "Retrain",
            Verdict("NotDue", verdict.reason, "there is no labelled sample that was not trained on"),
            by="person",
        )
    return _skip_schedules(draft, verdict)


def _fresh_failures(draft: Draft) -> Draft:
    """A change of the spec is a new chance."""
    retrained, generation = draft.status.retrained, draft.obs.model.generation
    if retrained.failures == 0 or retrained.failures_generation == generation:
        return draft
    return draft.to(retrained=retrained.model_copy(update={"failures": 0, "failures_generation": generation}))


def retraining_facts(draft: Draft) -> RetrainingFacts:
    """What the triggers and their limits look at, now."""
    spec, status, report = draft.spec.retraining, draft.status, _report(draft)
    retrained = status.retrained
    scores = report.versions.get(status.stable.version) if report and status.stable else None
    since = retrained.correction_since
    return RetrainingFacts(
        triggers=spec.triggers,
        cooldown=spec.cooldown,
        max_per_day=spec.max_per_day,
        max_failures=spec.max_failures,
        now=draft.now,
        samples=sum(shard.samples for shard in new_shards(draft)),
        corrections_ready=since is not None and draft.now - since >= judges.CORRECTION_BATCH,
        corrections_allowed=spec.instant_corrections != "Off",
        manual=_manual(draft),
        drift_alarm=_is_unanswered(draft),
        drift_samples=sum(s.samples for s in new_shards(draft) if s.sequence > retrained.drift_sequence),
        recent_accuracy=scores.recent_accuracy if scores else None,
        recent_labels=scores.recent_labels if scores else 0,
        schedules=retrained.schedules,
        in_flight=status.training is not None and status.training.in_flight,
        candidate_waits=status.waiting is not None,
        starts_today=sum(draft.now - start < DAY for start in retrained.starts),
        ended=retrained.ended,
        failures=retrained.failures,
    )


def _report(draft: Draft) -> Report | None:
    report = draft.obs.report
    return report if report is not None and report.uid == draft.obs.model.uid else None


def new_shards(draft: Draft) -> tuple[ShardRef, ...]:
    """Released training shards that no ended training has seen, oldest first."""
    seen = max(draft.status.trained_through, draft.status.retrained.trained_through)
    return tuple(s for s in untrained_shards(draft) if s.sequence > seen)


def untrained_shards(draft: Draft) -> tuple[ShardRef, ...]:
    """Released training shards that are not in the stable version, oldest first."""
    report, through = _report(draft), draft.status.trained_through
    shards = [s for s in (report.shards if report else ()) if s.kind == "train" and s.sequence > through]
    return tuple(sorted(shards, key=lambda s: s.sequence))


def correction_shards(draft: Draft) -> tuple[ShardRef, ...]:
    """Correction shards that no training has seen."""
    report, done = _report(draft), set(draft.status.retrained.corrections)
    shards = [s for s in (report.shards if report else ()) if s.kind == "correction" and s.digest not in done]
    return tuple(sorted(shards, key=lambda s: s.sequence))


def _see_drift(draft: Draft) -> Draft:
    """Remember the first alarm that nothing has answered, and which shards were closed before it."""
    report, retrained, alarm = _report(draft), draft.status.retrained, _alarm(draft)
    if (
        report is None
        or not alarm
        or alarm == retrained.drift_evidence
        or _is_unanswered(draft)
        or _is_answering(draft)
    ):
        return draft
    newest = max((shard.sequence for shard in report.shards), default=0)
    update = {"drift_evidence": alarm, "drift_sequence": newest}
    draft = draft.to(retrained=retrained.model_copy(update=update))
    drift, stable = report.drift, draft.status.stable
    labels_seen = drift.last_alarm_labels or drift.labels if drift else 0
    said = Verdict("Due", reasons.DRIFT, f"alarm after {labels_seen} labels")
    return draft.record("DriftAlarm", said, stable.version if stable else "")


def _alarm(draft: Draft) -> str:
    """Name of the newest alarm for the stable version; empty without one."""
    report, stable = _report(draft), draft.status.stable
    drift = report.drift if report else None
    if drift is None or stable is None or drift.version != stable.version or not drift.alarms:
        return ""
    return f"{stable.version}/{stable.drift_since}/{drift.alarms}"


def _is_unanswered(draft: Draft) -> bool:
    """An alarm waits for its training: of this very stable version, or of an earlier one if this one learned nothing from since.

    A candidate of the calm that is promoted while the world drifts cannot raise the alarm again: its own baseline is the drifted error.
    """
    retrained, stable = draft.status.retrained, draft.status.stable
    if stable is None or not retrained.drift_evidence or retrained.drift_evidence == retrained.drift_handled:
        return False
    own = retrained.drift_evidence.startswith(f"{stable.version}/{stable.drift_since}/")
    return own or draft.status.trained_through <= retrained.drift_sequence


def _is_answering(draft: Draft) -> bool:
    """Alarms say nothing new while a training runs (its end answers them) and while a candidate that learned from the drift is judged."""
    status = draft.status
    if status.training is not None and status.training.in_flight:
        return True
    coming = {block.version for block in (status.canary, status.next, status.waiting) if block is not None}
    digest = status.stable.digest if status.stable else None
    return any(r.version in coming and r.trigger == reasons.DRIFT and r.parent == digest for r in status.versions)


def _see_corrections(draft: Draft) -> Draft:
    """Open a batch at the first new correction; it closes two seconds later."""
    digests = tuple(shard.digest for shard in correction_shards(draft))
    retrained = draft.status.retrained
    if digests == retrained.correction_seen:
        return draft
    since = (retrained.correction_since or draft.now) if digests else None
    return draft.to(retrained=retrained.model_copy(update={"correction_seen": digests, "correction_since": since}))


def _see_schedules(draft: Draft) -> Draft:
    """A schedule counts from when it was first seen; one that is no longer declared is forgotten."""
    declared = {judges.schedule_key(t) for t in draft.spec.retraining.triggers if t.schedule is not None}
    known = draft.status.retrained.schedules
    if declared == set(known):
        return draft
    schedules = {key: known.get(key, draft.now) for key in sorted(declared)}
    return draft.to(retrained=draft.status.retrained.model_copy(update={"schedules": schedules}))


def _skip_schedules(draft: Draft, verdict: Verdict) -> Draft:
    """A time that came and found nothing to learn from, or a training at work, is over: the next one counts."""
    if verdict.trigger != reasons.SCHEDULE:
        return draft
    return _handled_schedules(draft).record("Skip", verdict)


def _handled_schedules(draft: Draft) -> Draft:
    triggers, known = draft.spec.retraining.triggers, draft.status.retrained.schedules
    due = {judges.schedule_key(t): draft.now for t in triggers if judges.schedule_fires(t, known, draft.now)}
    return draft.to(retrained=draft.status.retrained.model_copy(update={"schedules": known | due})) if due else draft


def _manual(draft: Draft) -> bool:
    asked = draft.obs.model.annotations.get(labels.RETRAIN)
    return asked is not None and draft.status.handled.get(labels.RETRAIN) != asked


def _handled_manual(draft: Draft) -> Draft:
    asked = draft.obs.model.annotations.get(labels.RETRAIN, "")
    return draft.to(handled={**draft.status.handled, labels.RETRAIN: asked})


# What it is told ------------------------------------------------------------------------------------------------------------


def _bootstrap(draft: Draft) -> Draft:
    """The first version: trained from the declared data set, or imported."""
    status, spec = draft.status, draft.spec
    if (status.training is not None and status.training.in_flight) or status.waiting is not None:
        return draft
    retrained, manual = status.retrained, _manual(draft)
    if retrained.failures >= spec.retraining.max_failures and not manual:
        return draft
    pause = judges.back_off(spec.retraining.cooldown, retrained.failures)
    if retrained.failures and not manual and retrained.ended is not None and draft.now - retrained.ended < pause:
        return draft
    draft = _handled_manual(draft) if manual else draft
    if spec.bootstrap.checkpoint is not None:
        return _import(draft, spec.bootstrap.checkpoint.digest)
    dataset = spec.bootstrap.dataset
    assert dataset is not None, "a bootstrap is a data set or a checkpoint"
    ref = DatasetRef(name=dataset.name, object_key=dataset.object_key, format=dataset.format)
    attempt = _attempts(draft, _key("bootstrap", None, ref.model_dump(mode="json")))
    inputs = _inputs(draft, "bootstrap", reasons.BOOTSTRAP, attempt).model_copy(update={"dataset": ref})
    return _launched(draft, inputs, Verdict("Due", reasons.BOOTSTRAP, f"data set {dataset.name or dataset.object_key}"))


def _import(draft: Draft, digest: str) -> Draft:
    job = f"import-{digest.removeprefix('sha256:')[:10]}-{len(draft.status.retrained.attempted)}"
    training = Training(state="Importing", job=job, trigger=reasons.BOOTSTRAP, started=draft.now)
    verdict = Verdict("Due", reasons.BOOTSTRAP, f"import {digest}")
    return draft.to(training=training).record("Train", verdict, job=job, trigger=reasons.BOOTSTRAP, digest=digest)


def _start(draft: Draft, facts: RetrainingFacts, verdict: Verdict) -> Draft:
    correcting = verdict.trigger == reasons.CORRECTION
    data = correction_list(draft) if correcting else retrain_list(draft)
    digest = sha256_digest(canonical_json(data.model_dump(mode="json")))
    stable = draft.status.stable
    assert stable is not None, "a retraining has a parent"
    mode: Mode = "correction" if correcting else "retrain"
    key = _key(mode, stable.digest, digest)
    if verdict.trigger != reasons.MANUAL and f"{key}:ok" in draft.status.retrained.attempted:
        return _handled_schedules(draft)
    inputs = _inputs(draft, mode, verdict.trigger, _attempts(draft, key))
    inputs = inputs.model_copy(update={"parent": stable.digest, "data": digest, "epochs": epochs_for(facts.samples)})
    draft = _noted(draft, verdict.trigger, data).storing(data)
    draft = draft.to(retrained=_with_start(draft))
    return _launched(draft, inputs, verdict, facts)


def epochs_for(samples: int) -> int:
    """Twenty epochs for an experience of the usual size; fewer over much data, so that a Job's time stays bounded."""
    return max(MIN_EPOCHS, min(EPOCHS, VISITS // max(samples, 1)))


def _with_start(draft: Draft) -> Retrained:
    retrained = draft.status.retrained
    recent = tuple(start for start in retrained.starts if draft.now - start < DAY)
    return retrained.model_copy(update={"starts": (*recent, draft.now)})


def _noted(draft: Draft, trigger: str, data: DataList) -> Draft:
    """What asked for this training is answered by it."""
    if trigger == reasons.MANUAL:
        draft = _handled_manual(draft)
    retrained = draft.status.retrained
    update: dict[str, object] = {}
    if trigger == reasons.DRIFT:
        update["drift_handled"] = retrained.drift_evidence
    included = set(data.train)
    done = [s.digest for s in correction_shards(draft) if s.digest in included]
    if done:
        update |= {
            "corrections": (*retrained.corrections, *done)[-MAX_ATTEMPTED:], "correction_seen": (), "correction_since": None,
        }  # fmt: skip
    draft = draft.to(retrained=retrained.model_copy(update=update)) if update else draft
    return _handled_schedules(draft)


def _launched(draft: Draft, inputs: TrainingInputs, verdict: Verdict, facts: RetrainingFacts | None = None) -> Draft:
    training = Training(
        state="Pending",
        job=inputs.job_hash(),
        trigger=verdict.reason,
        started=draft.now,
        inputs=inputs.model_dump(mode="json"),
    )
    return draft.to(training=training).record(
        "Train", verdict, facts=facts, judge="retraining_due" if facts else "", job=training.job, trigger=verdict.reason,
        parent=inputs.parent, data=inputs.data,
        by="person" if verdict.reason == reasons.MANUAL else "operator",
    )  # fmt: skip


def _attempts(draft: Draft, key: str) -> int:
    """How often this data was trained on before: a repetition gets a name of its own."""
    return sum(entry.startswith(f"{key}:") for entry in draft.status.retrained.attempted)


def _inputs(draft: Draft, mode: Mode, trigger: str, attempt: int) -> TrainingInputs:
    model, spec = draft.obs.model, draft.spec
    shape, augmentation, normalization = spec.model.input, spec.retraining.augmentation, spec.model.normalization
    return TrainingInputs(
        namespace=model.namespace,
        model=model.name,
        mode=mode,
        architecture=spec.model.architecture,
        input=InputShape(height=shape.height, width=shape.width, channels=shape.channels),
        classes=spec.model.classes,
        normalization=Normalization(mean=normalization.mean, std=normalization.std) if normalization else None,
        pretrained=spec.model.pretrained.object_key if spec.model.pretrained else None,
        strategy=spec.retraining.strategy,
        replay_capacity=spec.retraining.replay_capacity,
        augmentation=Augmentation(
            shift_pixels=augmentation.shift_pixels, rotate_degrees=augmentation.rotate_degrees,
            scale_percent=augmentation.scale_percent,
        ),
        holdout_percent=spec.feedback.holdout_percent,
        precision=spec.serving.precision,
        device=spec.retraining.device,
        seed=attempt,
        trigger=trigger,
        attempt=attempt,
    )  # fmt: skip


def retrain_list(draft: Draft) -> DataList:
    """Everything released and not in stable yet, corrections included, beside the holdout as it is now."""
    report = _report(draft)
    through = draft.status.trained_through
    listed = report.shards if report else ()
    shards = sorted((s for s in listed if s.kind != "holdout" and s.sequence > through), key=lambda s: s.sequence)
    train = tuple(s.digest for s in shards)
    return DataList(
        train=train,
        holdout=_holdout(draft),
        corrections=tuple(s.digest for s in shards if s.kind == "correction"),
        trained_through=max((s.sequence for s in shards), default=through),
    )


def correction_list(draft: Draft) -> DataList:
    """Only the corrections: other samples keep their turn, so what was trained through does not move."""
    digests = tuple(shard.digest for shard in correction_shards(draft))
    return DataList(
        train=digests, holdout=_holdout(draft), corrections=digests, trained_through=draft.status.trained_through
    )


def _holdout(draft: Draft) -> tuple[str, ...]:
    """The held-out part of the bootstrap data first, then what the evaluator holds out."""
    report, stable = _report(draft), draft.status.stable
    parent = draft.obs.manifests.get(stable.digest) if stable else None
    first = (parent.bootstrap_holdout,) if parent and parent.bootstrap_holdout else ()
    newest = sorted((s for s in (report.shards if report else ()) if s.kind == "holdout"), key=lambda s: s.sequence)
    return (*first, *(s.digest for s in newest))
