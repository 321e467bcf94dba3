"""A stage on which the operator core can be rehearsed: a cluster and a store in memory, time by hand, a real Redis.

The fakes are small and honest: `MemoryCluster` keeps the promises of the protocol (idempotent apply, create-only Jobs, uid preconditions, conflicts on
stale status writes) and nothing happens in it unless a scene says so. Routing and its fences stay real, because what matters about them
belongs to Redis. Evidence is written as the evaluator would write it, for the pair that the operator's orders name.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from continual_clients.objectstore import ObjectInfo
from continual_clients.redis import connect_async
from continual_clients.registry import Registry
from continual_contract.artifacts import (
    CheckpointManifest,
    HoldoutScores,
    InputShape,
    Normalization,
    StoreLayout,
    TrainingFailure,
    TrainingInputs,
    TrainingOutcome,
)
from continual_contract.config import EvaluatorConfig
from continual_contract.errors import ConflictError, IntegrityError, NotFoundError
from continual_contract.keys import ModelKeys
from continual_contract.report import DriftState, PairEvidence, Report, ShardRef, VersionScores
from continual_contract.routing import BASIS_POINTS, Routing, parse_routing

from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.deps import Deps
from continual_operator.reconcile import reconcile
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.status import Status, parse_status

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
REF = ModelRef("default", "digits")
CLASSES = ("a", "b", "c", "d")


Hook = Callable[[str, str], None]
"""Told (`before` | `after`, call) around every mutating call; what it raises ends the operator there."""


class Crash(BaseException):
    """The operator dies here: nothing may catch it."""


class Hooks:
    """Where tests look in, or pull the plug, around every mutating call."""

    def __init__(self) -> None:
        self.hook: Hook | None = None
        self.calls: list[str] = []

    @contextmanager
    def around(self, call: str) -> Iterator[None]:
        if self.hook:
            self.hook("before", call)
        self.calls.append(call)
        yield
        if self.hook:
            self.hook("after", call)


class HookedRedis:
    """The operator's client; function calls pass the hooks."""

    def __init__(self, client: redis.asyncio.Redis, hooks: Hooks) -> None:
        self._client, self._hooks = client, hooks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def execute_command(self, *command: Any) -> Any:
        if command[0] != "FCALL":
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # unannotated in redis-py
        with self._hooks.around(str(command[1])):
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # unannotated in redis-py


class MemoryStore:
    """An ObjectStore in a dict."""

    def __init__(self, now: Callable[[], datetime], hooks: Hooks) -> None:
        self._now, self._hooks = now, hooks
        self.objects: dict[str, tuple[bytes, datetime]] = {}

    def unhooked(self) -> MemoryStore:
        """The same objects, as other processes write them."""
        other = MemoryStore(self._now, Hooks())
        other.objects = self.objects
        return other

    def get(self, key: str, limit: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFoundError("is not in the store", field="key", value=key)
        data = self.objects[key][0]
        if limit is not None and len(data) > limit:
            raise IntegrityError("is longer than allowed", field="key", value=key)
        return data

    def put(self, key: str, data: bytes) -> None:
        with self._hooks.around(f"put {key.rpartition('/')[0].rpartition('/')[2]}"):
            self.objects[key] = (data, self._now())

    def exists(self, key: str) -> bool:
        return key in self.objects

    def size(self, key: str) -> int:
        return len(self.get(key))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in sorted(k for k in self.objects if k.startswith(prefix)):
            data, modified = self.objects[key]
            yield ObjectInfo(key, len(data), modified)


@dataclass(slots=True)
class MemoryCluster:
    """Models, Deployments, Jobs and events in dicts."""

    hooks: Hooks

    models: dict[ModelRef, Manifest] = field(default_factory=dict)
    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    changed: asyncio.Queue[ModelRef] = field(default_factory=asyncio.Queue)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def list_models(self) -> list[ModelRef]:
        return list(self.models)

    async def get_model(self, ref: ModelRef) -> Manifest | None:
        return copy.deepcopy(self.models.get(ref))

    async def children(self, ref: ModelRef) -> list[Manifest]:
        own = (o for o in self.objects.values() if o["metadata"]["labels"].get(labels.MODEL) == ref.name)
        return [copy.deepcopy(o) for o in own if o["metadata"]["namespace"] == ref.namespace]

    async def apply(self, manifest: Manifest) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        with self.hooks.around(f"apply {key[0]}/{key[1]}"):
            new, old = copy.deepcopy(manifest), self.objects.get(key)
            new["metadata"]["uid"] = old["metadata"]["uid"] if old else f"uid-{next(self.numbers)}"
            new["status"] = old.get("status", {}) if old else {}
            self.objects[key] = new

    async def create(self, manifest: Manifest) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        with self.hooks.around(f"create {key[0]}/{key[1]}"):
            if key not in self.objects:
                self.objects[key] = copy.deepcopy(manifest)
                self.objects[key]["metadata"]["uid"] = f"uid-{next(self.numbers)}"

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        with self.hooks.around(f"delete {kind}/{name}"):
            found = self.objects.get((kind, name))
            if found and found["metadata"]["uid"] == uid and found["metadata"]["namespace"] == namespace:
                del self.objects[kind, name]

    async def write_status(self, ref: ModelRef, status: Manifest, resource_version: str) -> None:
        with self.hooks.around("write_status"):
            model = self.models[ref]
            if model["metadata"]["resourceVersion"] != resource_version:
                raise ConflictError("the model changed", field="resourceVersion", value=resource_version)
            model["status"] = copy.deepcopy(status)
            self.touch(ref)

    async def annotate(self, ref: ModelRef, annotations: dict[str, str | None]) -> None:
        marks = self.models[ref]["metadata"].setdefault("annotations", {})
        for name, value in annotations.items():
            if value is None:
                marks.pop(name, None)
            else:
                marks[name] = value
        self.touch(ref)

    async def record_event(self, ref: ModelRef, type_: str, reason: str, message: str) -> None:
        self.events.append((type_, reason, f"{ref}: {message}"))

    async def changes(self) -> AsyncIterator[ModelRef]:
        while True:
            yield await self.changed.get()

    def touch(self, ref: ModelRef) -> None:
        self.models[ref]["metadata"]["resourceVersion"] = str(next(self.numbers))

    def deployments(self, component: str = labels.INFERENCE) -> dict[str, Manifest]:
        """Version (or name) → Deployment."""
        found = (o for (kind, _), o in self.objects.items() if kind == "Deployment")
        return {
            o["metadata"]["labels"].get(labels.VERSION, o["metadata"]["name"]): o
            for o in found
            if o["metadata"]["labels"][labels.COMPONENT] == component
        }

    def jobs(self) -> list[Manifest]:
        return [o for (kind, _), o in self.objects.items() if kind == "Job"]


def minimal_model(**parts: Any) -> Manifest:
    """A ContinualModel with short times; `parts` replace sections of its spec."""
    spec: Manifest = {
        "model": {"architecture": "mlp", "input": {"height": 8, "width": 8, "channels": 1}, "classes": list(CLASSES)},
        "bootstrap": {"dataset": {"name": "digits"}},
        "serving": {"replicas": 2},
        "feedback": {"window": "20s", "auditPercent": 100},
        "retraining": {"triggers": [{"labels": 100}], "cooldown": "5s"},
        "rollout": {
            "steps": [{"weight": 0, "hold": "5s"}, {"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "10s"}],
            "gate": {"minDuration": "10s", "minLabels": 50},
            "deadline": "120s",
            "probation": {"minDuration": "10s", "minLabels": 50, "deadline": "60s"},
        },
    }
    for name, part in parts.items():
        spec[name] = {**spec.get(name, {}), **part} if isinstance(part, dict) else part
    metadata = {
        "namespace": REF.namespace,
        "name": REF.name,
        "uid": "uid-model",
        "generation": 1,
        "resourceVersion": "1",
    }
    return {"apiVersion": labels.API_VERSION, "kind": labels.KIND, "metadata": metadata, "spec": spec}


def rehearsal_settings(token: int = 1) -> OperatorSettings:
    command = ComponentSettings(("worker",))
    return OperatorSettings(token, "redis://localhost", "file:///store", command, command, command)


class Rehearsal:
    """One model on the stage; every method is one thing that happens."""

    def __init__(self, redis_url: str, model: Manifest | None = None, token: int = 1) -> None:
        self.time = START
        self.loop = asyncio.new_event_loop()
        self.hooks = Hooks()
        self.cluster = MemoryCluster(self.hooks)
        self.store = MemoryStore(lambda: self.time, self.hooks)
        self.redis = redis.Redis.from_url(redis_url, protocol=2)
        self._client = connect_async(redis_url)
        self.deps = self._new_deps(token)
        self.keys = ModelKeys(REF.namespace, REF.name)
        self.registry = Registry(self.store.unhooked(), StoreLayout(REF.namespace, REF.name))
        self.cluster.models[REF] = model or minimal_model()
        self._sequence = itertools.count(1)
        self.capacity = 0
        """Pods stable had when all was last at rest: what a rollout must never take away."""
        self.after_crash: Callable[[Rehearsal], None] = lambda _: None
        """What the world does while the operator is away."""

    def close(self) -> None:
        self.loop.run_until_complete(self._client.aclose())
        self.loop.close()
        self.redis.close()

    def wait_for(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def restart(self, token: int | None = None) -> None:
        """A new operator process: everything it only remembered is gone."""
        self.deps = self._new_deps(token if token is not None else self.deps.settings.token)

    def _new_deps(self, token: int) -> Deps:
        client: Any = HookedRedis(self._client, self.hooks)
        return Deps(self.cluster, client, self.store, rehearsal_settings(token), now=lambda: self.time)

    # -- looking -------------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        return parse_status(self.cluster.models[REF].get("status"))

    @property
    def routing(self) -> Routing | None:
        raw: Any = self.redis.get(self.keys.routing)
        return parse_routing(raw) if raw else None

    @property
    def shares(self) -> dict[str, int]:
        """Version → basis points of the newest epoch."""
        routing = self.routing
        return {routing.groups[g].version: bp for g, bp in routing.epochs[-1].shares} if routing else {}

    @property
    def config(self) -> EvaluatorConfig | None:
        raw: Any = self.redis.get(self.keys.config)
        return EvaluatorConfig.model_validate_json(raw) if raw else None

    # -- acting --------------------------------------------------------------------------------------------------------------

    def look(self) -> timedelta | None:
        """One pass of the operator."""
        again: timedelta | None = self.wait_for(reconcile(REF, self.deps))
        return again

    def settle(self, passes: int = 30) -> None:
        """Passes with all pods Ready, until nothing is decided and nothing is left to be done."""
        for _ in range(passes):
            self.make_ready()
            try:
                again = self.look()
            except Crash:
                self.restart()
                self.after_crash(self)
                continue
            if again is None or again >= self.deps.settings.busy_interval:
                self.capacity = self.status.stable.replicas if self.status.stable else 0
                return
        raise AssertionError(f"the operator does not come to rest: {self.hooks.calls[-20:]}")

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def make_ready(self, version: str | None = None, ready: int | None = None) -> None:
        """Pods of one version, or of all, become Ready."""
        for component in (labels.INFERENCE, labels.EVALUATOR):
            for name, deployment in self.cluster.deployments(component).items():
                if version in {None, name}:
                    wanted = deployment["spec"]["replicas"] if ready is None else ready
                    deployment["status"] = {"readyReplicas": wanted}

    def change_spec(self, **parts: Any) -> None:
        model = self.cluster.models[REF]
        for name, part in parts.items():
            old = model["spec"].get(name)
            model["spec"][name] = {**(old or {}), **part} if isinstance(part, dict) else part
        model["metadata"]["generation"] += 1
        self.cluster.touch(REF)

    def annotate(self, name: str, value: str) -> None:
        self.wait_for(self.cluster.annotate(REF, {name: value}))

    # -- what the Job does ---------------------------------------------------------------------------------------------------

    def end_training(
        self, accuracy: float = 0.9, parent_accuracy: float = 0.9, failure: str = "", **changes: Any
    ) -> str:
        """The Job in flight publishes a checkpoint of this holdout accuracy (or a failure); returns its digest."""
        training = self.status.training
        assert training is not None, "no training is in flight"
        assert training.inputs is not None, "an import has no Job"
        inputs = TrainingInputs.model_validate(training.inputs)
        if failure:
            said = TrainingFailure(reason=failure, message=failure)
            self.registry.put_outcome(TrainingOutcome(job=training.job, failure=said))
            return ""
        manifest = self._manifest(inputs, accuracy, parent_accuracy).model_copy(update=changes)
        digest = self.registry.publish(manifest)
        self.registry.put_outcome(TrainingOutcome(job=training.job, manifest=digest, scores=manifest.scores))
        return digest

    def _manifest(self, inputs: TrainingInputs, accuracy: float, parent_accuracy: float) -> CheckpointManifest:
        return played_manifest(self.registry, inputs, accuracy, parent_accuracy)

    # -- what the evaluator does ---------------------------------------------------------------------------------------------

    def report(
        self,
        pairs: int = 0,
        held: float = 0.0,
        worse: float = 0.0,
        *,
        shards: tuple[ShardRef, ...] = (),
        evidence_id: str | None = None,
        drift_alarms: int = 0,
        age: float = 0.0,
        **evidence: Any,
    ) -> None:
        """Publish a report on the pair that the orders name. `held`, `worse`: log wealth for and against the candidate."""
        config = self.config
        assert config is not None, "the evaluator has no orders"
        report = played_report(
            config, next(self._sequence), int((self.time.timestamp() - age) * 1000), pairs, held, worse, shards=shards,
            evidence_id=evidence_id, drift_alarms=drift_alarms, **evidence,
        )  # fmt: skip
        self.redis.hset(self.keys.report, mapping={"seq": report.seq, "json": json.dumps(report.model_dump())})

    # -- short cuts ----------------------------------------------------------------------------------------------------------

    def serve_first(self) -> None:
        """v1 trained, accepted, Ready and routed."""
        self.settle()
        self.end_training()
        self.settle()

    def start_retraining(self, sequence: int = 1) -> None:
        """Enough labels for the trigger: a Job is created."""
        self.pass_time(10)
        self.report(shards=(shard(sequence),))
        self.settle()

    def reach_shadow(self, sequence: int = 1) -> str:
        """The next version is trained, accepted, Ready and shadow-answers; returns it."""
        self.start_retraining(sequence)
        self.end_training()
        self.settle()
        canary = self.status.canary
        assert canary is not None, "no canary"
        return canary.version

    def reach_probation(self, sequence: int = 1) -> str:
        """The next version passes every step of the gate; returns it."""
        version = self.reach_shadow(sequence)
        for _ in range(3):
            self.pass_time(12)
            self.report(pairs=200, held=6.0)
            self.settle()
        assert self.status.probation is not None, "not promoted"
        return version

    def end_probation(self) -> None:
        self.pass_time(12)
        self.report(pairs=200)
        self.settle()


def played_manifest(
    registry: Registry, inputs: TrainingInputs, accuracy: float = 0.9, parent_accuracy: float = 0.9
) -> CheckpointManifest:
    """What a training of these inputs would have published: its one blob is in the registry, the manifest is not yet."""
    onnx = registry.put_blob(f"onnx of {inputs.job_hash()}".encode())
    data = registry.data_list(inputs.data) if inputs.data else None
    has_parent = inputs.parent is not None
    return CheckpointManifest(
        namespace=inputs.namespace, model=inputs.model, job=inputs.job_hash(), mode=inputs.mode,
        architecture=inputs.architecture, input=InputShape(height=8, width=8, channels=1), classes=inputs.classes,
        normalization=Normalization(mean=(0.5,), std=(0.5,)), onnx=onnx, parent=inputs.parent, data=inputs.data,
        trained_through=data.trained_through if data else 0, parity_max_abs_diff=1e-6,
        scores=HoldoutScores(
            samples=400, accuracy=accuracy, per_class=dict.fromkeys(inputs.classes, accuracy),
            per_class_samples=dict.fromkeys(inputs.classes, 100),
            parent_accuracy=parent_accuracy if has_parent else None,
            parent_per_class=dict.fromkeys(inputs.classes, parent_accuracy) if has_parent else {},
            negative_flips=0.0 if has_parent else None,
        ),
    )  # fmt: skip


def played_report(
    config: EvaluatorConfig,
    sequence: int,
    time_ms: int,
    pairs: int = 0,
    held: float = 0.0,
    worse: float = 0.0,
    *,
    shards: tuple[ShardRef, ...] = (),
    evidence_id: str | None = None,
    drift_alarms: int = 0,
    **evidence: Any,
) -> Report:
    """A report on the pair that these orders name. `held`, `worse`: log wealth for and against the candidate."""
    pair = None
    if config.pair is not None:
        pair = PairEvidence(
            **{
                "evidence_id": evidence_id or config.pair.evidence_id, "purpose": config.pair.purpose,
                "candidate": config.pair.candidate, "baseline": config.pair.baseline, "margin": config.pair.margin,
                "worst_class_margin": config.pair.worst_class_margin, "pairs": pairs, "requests": pairs, "mean_gain": 0.0,
                "gain_lower": -0.01, "gain_upper": 0.01, "log_wealth_not_inferior": held, "log_wealth_worse": worse,
                "log_wealth_class_veto": 0.0, "wins": 5, "losses": 5, "coverage_percent": 100.0, **evidence,
            }
        )  # fmt: skip
    drift = None
    if config.drift is not None:
        drift = DriftState(version=config.drift.version, armed=True, labels=500, alarms=drift_alarms)
    return Report(
        seq=sequence, time_ms=time_ms, config_sequence=config.sequence, uid=config.uid,
        versions={v.version: VersionScores(version=v.version) for v in config.versions}, pair=pair, drift=drift,
        shards=shards, released_samples=sum(s.samples for s in shards if s.kind == "train"),
    )  # fmt: skip


def shard(sequence: int, samples: int = 100, kind: Any = "train") -> ShardRef:
    return ShardRef(digest=f"sha256:{sequence:064x}", sequence=sequence, samples=samples, kind=kind)


def broken_promises(play: Rehearsal) -> list[str]:
    """What must hold after every single call, whatever happened before; empty when it does."""
    routing, status = play.routing, play.status
    deployments, broken = play.cluster.deployments(), list[str]()
    if routing is not None and routing.epochs:
        epoch = routing.epochs[-1]
        if sum(width for _, width in epoch.shares) != BASIS_POINTS:
            broken.append(f"shares sum to {sum(width for _, width in epoch.shares)}")
        served = {group.serve for group in routing.groups.values()}
        broken += [f"{version} is served and has no pods" for version in sorted(served - set(deployments))]
        broken += [
            f"{name} is served by {group.serve}, which is not live"
            for name, group in routing.groups.items()
            if name in dict(epoch.shares) and group.serve != group.version
        ]
    stable = status.stable
    if stable is not None and stable.version in play.shares:
        pods, floor = (
            deployments.get(stable.version, {}).get("spec", {}).get("replicas", 0),
            min(stable.replicas, play.capacity),
        )
        if pods < floor:
            broken.append(f"stable {stable.version} has {pods} of {floor} pods")
    by_hand = {c.version for c in (status.canary, status.next) if c is not None and c.forced}
    convicted = {r.version for r in status.versions if r.digest in status.quarantine} - by_hand
    broken += [
        f"{version} is in quarantine and live"
        for version in sorted(convicted & {c.version for c in (status.canary, status.next) if c})
    ]
    if len([job for job in play.cluster.jobs() if (job.get("status") or {}).get("active")]) > 1:
        broken.append("two Jobs at once")
    numbers = [record.version for record in status.versions]
    if len(set(numbers)) != len(numbers):
        broken.append(f"a version number was given twice: {numbers}")
    return broken
