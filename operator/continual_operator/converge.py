"""What must be done so that the world is what the status says: a pure function from an observation to actions.

Nothing is decided here. Every action follows from the *recorded* status and is left out once the world agrees, so a pass that dies
anywhere is repeated by the next one with the same result. The order is the protocol's: children first, routes only to Ready versions, orders to the
evaluator, and last the pods of versions that no consumer group depends on any more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from continual_contract.artifacts import InputShape, TrainingInputs
from continual_contract.config import DriftWatch, EvaluatorConfig, PairUnderJudgement, ServedVersion
from continual_contract.routing import BASIS_POINTS

from continual_operator import labels
from continual_operator.children import (
    TRIES,
    disruption_budget,
    evaluator_deployment,
    inference_deployment,
    training_job,
)
from continual_operator.cluster import Manifest
from continual_operator.judges import canary_size
from continual_operator.ledger import LedgerEntry
from continual_operator.observation import Observation
from continual_operator.settings import OperatorSettings
from continual_operator.spec import Model
from continual_operator.status import Canary, Status, Training

DEFAULT_FALSE_ALARM_EVERY = 10_000
MIN_SHARD_SECONDS, MAX_SHARD_SECONDS = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class ApplyChild:
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class CreateJob:
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class DeleteChild:
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Route:
    """One call of the function `route`."""

    gen: int
    shares: tuple[tuple[str, int], ...]
    shadow: tuple[str, ...]
    shadow_bp: int
    salt: str
    heirs: tuple[tuple[str, str], ...]
    min_gen: int


@dataclass(frozen=True, slots=True)
class Wipe:
    """Delete what another resource of the same name left in Redis."""

    foreign_uid: str


@dataclass(frozen=True, slots=True)
class Configure:
    config: EvaluatorConfig


@dataclass(frozen=True, slots=True)
class ImportCheckpoint:
    job: str
    object_key: str
    digest: str


@dataclass(frozen=True, slots=True)
class WriteLedger:
    entry: LedgerEntry


Action = ApplyChild | CreateJob | DeleteChild | Wipe | Route | Configure | ImportCheckpoint | WriteLedger


def converge(obs: Observation, settings: OperatorSettings) -> tuple[Action, ...]:
    """Actions that bring the world to the recorded status, in the order in which they must happen."""
    if obs.foreign_uid:
        return (Wipe(obs.foreign_uid),)
    return (
        *_deployments(obs, settings),
        *_budgets(obs, settings),
        *_training(obs, settings),
        *_route(obs),
        *_orders(obs, settings),
        *_goodbyes(obs),
        *(WriteLedger(entry) for entry in obs.status.outbox if obs.store_ok),
    )


# Children -------------------------------------------------------------------------------------------------------------------


def stream_salt(uid: str) -> str:
    """Salt of audit and sample membership: one per resource, for ever, and not to be guessed from its name."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def replicas_of(model: Model, status: Status) -> dict[str, int]:
    """Desired pods of every live version. Stable and the warm previous one are never smaller than stable should be."""
    full = status.stable.replicas if status.stable else model.spec.serving.replicas
    sizes = {}
    for canary in (status.canary, status.next):
        if canary is not None:
            sizes[canary.version] = _canary_replicas(model, canary, full)
    if status.probation is not None:
        sizes[status.probation.previous] = full
    if status.stable is not None:
        sizes[status.stable.version] = full
    return sizes


def _canary_replicas(model: Model, canary: Canary, full: int) -> int:
    if canary.stage == "Promoting":
        return max(1, full)
    weight = model.spec.rollout.steps[min(canary.step, len(model.spec.rollout.steps) - 1)].weight
    return canary_size(full, weight, model.spec.rollout.shadow_percent)


def _deployments(obs: Observation, settings: OperatorSettings) -> list[Action]:
    model, status = obs.model, obs.status
    digests = {r.version: r.digest for r in status.versions}
    manifests = [
        inference_deployment(model, version, digests[version], replicas, stream_salt(model.uid), settings)
        for version, replicas in replicas_of(model, status).items()
        if version in digests
    ]
    return [
        ApplyChild(manifest)
        for manifest in (*manifests, evaluator_deployment(model, settings))
        if _differs(obs, manifest)
    ]


def _differs(obs: Observation, manifest: Manifest) -> bool:
    """Whether to apply it. A child of another owner is left alone until it is gone."""
    child = obs.deployments.get(manifest["metadata"]["name"])
    if child is None:
        return True
    wanted = manifest["metadata"]["annotations"][labels.MANIFEST_HASH]
    return child.ours and (child.manifest_hash != wanted or child.replicas != manifest["spec"]["replicas"])


def _budgets(obs: Observation, settings: OperatorSettings) -> list[Action]:
    """One for every live version, where somebody evicts pods."""
    if not settings.disruption_budgets:
        return []
    wanted = [disruption_budget(obs.model, version) for version in replicas_of(obs.model, obs.status)]
    return [ApplyChild(manifest) for manifest in wanted if _is_unlike(obs, manifest)]


def _is_unlike(obs: Observation, manifest: Manifest) -> bool:
    budget = obs.budgets.get(manifest["metadata"]["name"])
    wanted = manifest["metadata"]["annotations"][labels.MANIFEST_HASH]
    return budget is None or (budget.ours and budget.manifest_hash != wanted)


def _training(obs: Observation, settings: OperatorSettings) -> list[Action]:
    """The Job of the training in flight, once; Jobs that nobody waits for any more go."""
    training, actions = obs.status.training, list[Action]()
    current = training if training and training.in_flight else None
    waiting = current is not None and obs.outcome is None and obs.store_ok
    if current is not None and waiting and current.state == "Importing":
        source = obs.model.spec.bootstrap.checkpoint
        if source is not None:
            actions.append(ImportCheckpoint(current.job, source.object_key, source.digest))
    elif current is not None and waiting and _needs_a_job(obs, current):
        inputs = TrainingInputs.model_validate(current.inputs)
        actions.append(CreateJob(training_job(obs.model, inputs, settings, current.tries_used)))
    keep = training.job if training else ""
    actions += [
        DeleteChild("Job", job.name, job.uid) for job in obs.jobs.values() if job.ours and _is_over(obs, job.job, keep)
    ]
    return actions


def _needs_a_job(obs: Observation, training: Training) -> bool:
    return training.inputs is not None and training.job not in obs.jobs and training.tries_used < TRIES


def _is_over(obs: Observation, job: str, keep: str) -> bool:
    """A Job goes when its training is cancelled, or when a newer one has taken its place (the last stays, for its logs)."""
    training = obs.status.training
    cancelled = training is not None and training.job == job and training.state == "Cancelled"
    return cancelled or job != keep


# Routing --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DesiredRoute:
    shares: tuple[tuple[str, int], ...]
    shadow: tuple[str, ...] = ()
    shadow_bp: int = 0
    salt: str = ""


def desired_route(model: Model, status: Status) -> DesiredRoute | None:
    """Who shall answer: exact shares that always sum to the whole stream; None before there is a version."""
    stable, canary, probation = status.stable, status.canary, status.probation
    if stable is None:
        return None
    if probation is not None:
        shares = ((stable.version, BASIS_POINTS), (probation.previous, 0))
        return DesiredRoute(shares, (stable.version, probation.previous), _shadow_bp(model), probation.salt)
    if canary is None or canary.stage == "Starting" or (canary.stage == "Promoting" and canary.since is None):
        return DesiredRoute(((stable.version, BASIS_POINTS),))
    width = canary.weight * BASIS_POINTS // 100
    shares = ((stable.version, BASIS_POINTS - width), (canary.version, width))
    return DesiredRoute(shares, (stable.version, canary.version), _shadow_bp(model), canary.salt)


def _shadow_bp(model: Model) -> int:
    return round(model.spec.rollout.shadow_percent * BASIS_POINTS / 100)


def _route(obs: Observation) -> list[Action]:
    want = desired_route(obs.model, obs.status)
    if want is None or not obs.redis_ok:
        return []
    live = {version for version, _ in want.shares} | set(want.shadow)
    heir = want.shares[0][0]
    heirs = tuple((version, heir) for version in sorted(obs.served() - live))
    if _is_routed(obs, want) and not heirs:
        return []
    if not _may_route(obs, want):
        return []
    gen = obs.routing.gen if obs.routing else 0
    return [Route(gen, want.shares, want.shadow, want.shadow_bp, want.salt, heirs, obs.status.group_generation)]


def _is_routed(obs: Observation, want: DesiredRoute) -> bool:
    epoch = obs.last_epoch
    if epoch is None or obs.shares() != want.shares or set(obs.shadow()) != set(want.shadow):
        return False
    settled = len(want.shares) == 1 or epoch.salt == want.salt
    return settled and (not want.shadow or epoch.shadow_bp == want.shadow_bp)


def _may_route(obs: Observation, want: DesiredRoute) -> bool:
    """Only to Ready versions: whoever comes in, or gets a first share, must have a Ready pod."""
    before = dict(obs.shares())
    return all(
        obs.ready(version) > 0
        for version, share in want.shares
        if version not in before or (share > 0 and before[version] == 0)
    )


# The evaluator's orders -----------------------------------------------------------------------------------------------------


def _orders(obs: Observation, settings: OperatorSettings) -> list[Action]:
    if not obs.redis_ok:
        return []
    current = obs.config
    sequence = current.sequence if current else 0
    wanted = evaluator_config(obs.model, obs.status, settings.token, sequence)
    return [] if wanted == current else [Configure(wanted.model_copy(update={"sequence": sequence + 1}))]


def evaluator_config(model: Model, status: Status, token: int, sequence: int) -> EvaluatorConfig:
    """The evaluator's orders, from spec and status alone."""
    feedback, requests, shape = model.spec.feedback, model.spec.retention.requests, model.spec.model.input
    window = feedback.window.total_seconds()
    return EvaluatorConfig(
        uid=model.uid,
        token=token,
        sequence=sequence,
        classes=model.spec.model.classes,
        input=InputShape(height=shape.height, width=shape.width, channels=shape.channels),
        salt=stream_salt(model.uid),
        window_seconds=window,
        sample_percent=feedback.sample_percent,
        audit_percent=feedback.audit_percent,
        holdout_percent=feedback.holdout_percent,
        gate_sources=tuple(feedback.gate_sources),
        versions=_served_versions(status),
        pair=_pair(model, status),
        drift=_drift_watch(model, status),
        trained_through=status.trained_through,
        requests_max_age_seconds=requests.max_age.total_seconds(),
        requests_max_bytes=requests.max_bytes,
        predictions_max_age_seconds=requests.max_age.total_seconds(),
        archive=feedback.archive,
        shard_seconds=min(max(window / 4, MIN_SHARD_SECONDS), MAX_SHARD_SECONDS),
    )


def _served_versions(status: Status) -> tuple[ServedVersion, ...]:
    served = []
    if status.stable:
        served.append(ServedVersion(version=status.stable.version, digest=status.stable.digest, role="stable"))
    if status.canary and status.canary.since is not None:
        served.append(ServedVersion(version=status.canary.version, digest=status.canary.digest, role="canary"))
    if status.probation:
        previous = status.probation.previous
        served.append(ServedVersion(version=previous, digest=status.probation.previous_digest, role="probation"))
    return tuple(served)


def _pair(model: Model, status: Status) -> PairUnderJudgement | None:
    canary, probation, gate = status.canary, status.probation, model.spec.rollout.gate
    if probation is not None and probation.since is not None:
        return PairUnderJudgement(
            evidence_id=probation.evidence_id, purpose="probation", candidate=probation.version,
            baseline=probation.previous, since=probation.since, margin=0.0, worst_class_margin=gate.worst_class_margin,
        )  # fmt: skip
    if canary is not None and canary.since is not None:
        return PairUnderJudgement(
            evidence_id=canary.evidence_id, purpose="canary", candidate=canary.version, baseline=canary.baseline,
            since=canary.since, margin=gate.margin, worst_class_margin=gate.worst_class_margin,
        )  # fmt: skip
    return None


def _drift_watch(model: Model, status: Status) -> DriftWatch | None:
    stable = status.stable
    if stable is None or stable.drift_since is None:
        return None
    declared = next((t.drift for t in model.spec.retraining.triggers if t.drift), None)
    every = declared.false_alarm_every if declared else DEFAULT_FALSE_ALARM_EVERY
    return DriftWatch(version=stable.version, since=stable.drift_since, false_alarm_every=float(every))


# Pods that may go -----------------------------------------------------------------------------------------------------------


def _goodbyes(obs: Observation) -> list[Action]:
    """Deployments of versions that are not live and that no group is served by. Without a routing table nothing is known: nothing goes."""
    if not obs.redis_ok or (obs.routing is None and obs.status.stable is not None):
        return []
    needed = obs.served() | set(obs.status.live)
    gone = [
        DeleteChild("Deployment", child.name, child.uid)
        for child in obs.deployments.values()
        if child.ours and child.component == labels.INFERENCE and child.version not in needed
    ]
    budgets = [b for b in obs.budgets.values() if b.ours and b.version not in needed]
    return [*gone, *(DeleteChild("PodDisruptionBudget", b.name, b.uid) for b in budgets)]
