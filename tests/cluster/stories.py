"""The life of one model, told on a real API server by an operator process that may be killed at any call.

    create → update → retrain → promote → rollback → delete

Real are the API server and its controllers, Redis, the object store, and the operator: `python -m continual_operator` with the token of its
own account, behind two proxies. Pods are played by kwok; this module plays who works in them: a training publishes through
the registry, an evaluator writes the report that its orders name. A killed operator is started again, as its Deployment would do it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from continual_clients.objectstore import open_store
from continual_clients.registry import Registry
from continual_contract.artifacts import InputShape, StoreLayout, TrainingInputs, TrainingOutcome
from continual_contract.config import EvaluatorConfig
from continual_contract.keys import ModelKeys
from continual_contract.report import ShardRef
from continual_operator.rehearsal import played_manifest, played_report, shard
from control_plane import MODELS, ControlPlane
from operators import ACCOUNT, PATHS, OperatorProcess, digits, objects, operator_account
from proxy import ApiProxy, Gate, Point, RedisProxy

CHAPTERS = ("create", "update", "retrain", "promote", "rollback", "delete")
QUIET_SECONDS = 1.5
"""A chapter is over when nothing was changed for so long."""
LOOKED_SECONDS = 5.0
"""What the first list and the first look of a new leader may take."""
PATIENCE_SECONDS = 90.0
SPEC: dict[str, Any] = {
    "serving": {"replicas": 1},
    "retraining": {"triggers": [{"labels": 1_000_000}], "cooldown": "0s"},
    "rollout": {
        "steps": [{"weight": 0, "hold": "0s"}, {"weight": 50, "hold": "0s"}],
        "gate": {"minDuration": "0s", "minLabels": 50},
        "probation": {"minDuration": "0s", "minLabels": 50},
    },
}
"""Nothing waits for time: every step follows from evidence. The Lease is a long one, because a machine under load may stand still for seconds."""


@dataclass
class End:
    """Where a story ended, in words that do not depend on when and in which namespace it was told."""

    state: dict[str, Any] = field(default_factory=dict)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(created | deleted, name) → how often, by the API server's audit log."""
    left: list[str] = field(default_factory=list)
    """Keys, blobs and children after the deletion."""


class Story:
    """One model in a namespace of its own. `plan`: where the operator is killed."""

    def __init__(
        self, plane: ControlPlane, redis: Any, folder: Path, plan: Iterable[Point] = (),
        command: tuple[str, ...] = ("-m", "continual_operator"), name: str = "digits", **environment: str,
    ) -> None:  # fmt: skip
        self.plane, self.folder, self.command = plane, folder, command
        self.name = name
        self.environment = {"CONTINUAL_LEASE_SECONDS": "60"} | environment
        self.redis, self.redis_port = redis.client(), redis.port
        self.namespace = plane.new_namespace(f"story-{secrets.token_hex(5)}")
        self.gate = Gate(plan, self._kill)
        self.operator: OperatorProcess | None = None
        self.starts, self._led = 0, 0.0
        self.keys = ModelKeys(self.namespace, name)
        self.store = open_store(f"file://{folder / 'store'}")
        self.registry = Registry(self.store, StoreLayout(self.namespace, name))
        self.path = f"{MODELS.format(namespace=self.namespace)}/{name}"
        self.shards: tuple[ShardRef, ...] = ()
        self.away: Callable[[], None] = lambda: None
        """What the world does while the operator is away."""
        self._reports = 0
        self._looks = 0

    def use_store(self, folder: Path) -> None:
        """Another folder than all other stories."""
        self.store = open_store(f"file://{folder}")
        self.registry = Registry(self.store, StoreLayout(self.namespace, self.name))

    def tell(self, chapters: Iterable[str] = CHAPTERS) -> End:
        """The whole story; returns its end."""
        end = End()
        with self.on_stage():
            for chapter in chapters:
                self.gate.chapter = chapter
                if chapter == "delete":
                    end.state = self.state()
                getattr(self, chapter)()
                self.settle()
            end.state = end.state or self.state()
            end.made, end.left = self._made(), self.left()
        assert not self.gate.plan, f"the operator never came to {self.gate.plan}"
        return end

    @contextlib.contextmanager
    def on_stage(self) -> Iterator[Self]:
        """Proxies and an account; the operator is started by the first wait, and gone afterwards with all models."""
        with contextlib.ExitStack() as stack:
            self.api = stack.enter_context(ApiProxy(self.plane, self.gate))
            self.data = stack.enter_context(RedisProxy(self.redis_port, self.gate))
            self.kubeconfig = operator_account(self.plane, self.namespace, proxy=self.api.url)
            stack.callback(self.plane.request, "DELETE", MODELS.format(namespace=self.namespace))
            stack.callback(self._close)
            yield self

    # The operator's lives ---------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        assert self.operator is not None
        self.operator.process.kill()
        self.operator.process.wait(20)

    def _close(self) -> None:
        if self.operator is not None:
            self.operator.close()

    def revive(self) -> None:
        """Start it, or start it again; what it left in its Lease would only cost waiting."""
        if self.operator is not None and self.operator.process.poll() is None:
            return
        if self.operator is not None:
            self.away()
        self.plane.request("DELETE", PATHS["Lease"].format(self.namespace) + "/continual-operator")
        self.starts += 1
        self.operator = OperatorProcess(
            f"{self.namespace}-{self.starts}", self.folder, self.kubeconfig, self.namespace, self.data.url, self.command,
            **self.environment,
        )  # fmt: skip

    def wait(
        self,
        claim: str,
        holds: Callable[[], Any],
        look: Callable[[], None] = lambda: None,
        patience: float = PATIENCE_SECONDS,
    ) -> Any:
        """The value, once it is true. Dead operators are followed by new ones; `look` is repeated meanwhile."""
        deadline, looked = time.monotonic() + patience, 0.0
        while True:
            self.revive()
            if value := holds():
                return value
            assert time.monotonic() < deadline, f"{claim}: {json.dumps(self.model().get('status'))[:3000]}"
            if time.monotonic() - looked > 0.4:
                look()
                looked = time.monotonic()
            time.sleep(0.05)

    def settle(self) -> None:
        """Until nothing was changed for a while; an operator that was killed has to lead again and to have looked."""
        self.wait("it settles", self._is_settled)

    def _is_settled(self) -> bool:
        now, operator = time.monotonic(), self.operator
        if operator is None or not operator.lines("leading"):
            self._led = now
        looked = self.starts == 1 or now - self._led > LOOKED_SECONDS
        return looked and now - max(self._led, self.gate.last_change) > QUIET_SECONDS

    # Chapters ---------------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        assert self.plane.apply(self.path, digits(self.name, **SPEC)).ok
        self.train()
        self.wait("v1 serves", lambda: self.condition("Ready") == "True")

    def update(self) -> None:
        """A template changes, a class is appended, the scale grows."""
        names = [str(i) for i in range(11)]
        assert self.plane.merge(self.path, {"spec": {"serving": {"batchSize": 32}, "model": {"classes": names}}}).ok
        self.wait("the template is rolled", lambda: self._batch_size() == "32")
        assert self.plane.merge(f"{self.path}/scale", {"spec": {"replicas": 2}}).ok
        self.wait("two pods are Ready", lambda: self._sizes("digits-v1") == [2, 2, 2])
        self.wait("it is told", lambda: self.status()["observedGeneration"] == self.model()["metadata"]["generation"])

    def retrain(self) -> None:
        self.ask_for_training(1)
        self.wait("v2 is judged", lambda: self.block("canary").get("since"), self.look)

    def promote(self) -> None:
        good = lambda: self.report(pairs=200, held=6.0)
        self.wait("v2 is stable", lambda: self.block("stable").get("version") == "v2", good)
        self.wait("probation is over", lambda: not self.block("probation"), good)
        self.wait("v1 is gone", lambda: "digits-v1" not in self.deployments(), self.look)

    def rollback(self) -> None:
        self.ask_for_training(2)
        self.wait("v3 is judged", lambda: self.block("canary").get("since"), self.look)
        self.wait("v3 is out", lambda: not self.block("canary"), lambda: self.report(pairs=200, worse=6.0))
        self.wait("v3 is gone", lambda: "digits-v3" not in self.deployments(), self.look)

    def delete(self) -> None:
        assert self.plane.request("DELETE", self.path).ok
        self.wait("nothing is left", lambda: not self.left())

    # Who works in the pods --------------------------------------------------------------------------------------------------

    def close_a_shard(self) -> None:
        """The evaluator has labelled samples that no training has seen."""
        self.shards = (*self.shards, shard(len(self.shards) + 1))
        self.report()

    def ask_for_training(self, number: int) -> None:
        self.close_a_shard()
        self.annotate("continual.dev/retrain-requested-at", str(number))
        self.train()

    def train(self, code: str = "0") -> None:
        """The training in flight publishes and its pod ends."""
        pod = self.wait("a training runs", self.trainer)
        inputs = TrainingInputs.model_validate(self.block("training")["inputs"])
        manifest = played_manifest(self.registry, inputs)
        digest = self.registry.publish(manifest)
        self.registry.put_outcome(TrainingOutcome(job=inputs.job_hash(), manifest=digest, scores=manifest.scores))
        ended = {"metadata": {"annotations": {"tests/exit": code}}}
        assert self.plane.merge(f"{PATHS['Pod'].format(self.namespace)}/{pod}", ended).ok
        self.wait("its end is known", lambda: self.block("training").get("state") == "Succeeded", self.look)

    def published(self) -> tuple[str, str]:
        """Key and digest of a checkpoint that any model may import."""
        inputs = TrainingInputs(
            namespace=self.namespace, model="elsewhere", mode="bootstrap", architecture="mlp",
            input=InputShape(height=8, width=8, channels=1), classes=tuple(map(str, range(10))),
        )  # fmt: skip
        registry = Registry(self.store, StoreLayout(self.namespace, "elsewhere"))
        digest = registry.publish(played_manifest(registry, inputs))
        return registry.layout.manifest(digest), digest

    def trainer(self) -> str:
        """Name of the running pod of the training in flight."""
        training = self.block("training")
        if training.get("state") not in {"Pending", "Running"}:
            return ""
        for pod in objects(self.plane, "Pod", self.namespace):
            marks = pod["metadata"]["labels"]
            if marks.get("continual.dev/job") == training["job"] and pod["status"].get("phase") == "Running":
                return str(pod["metadata"]["name"])
        return ""

    def report(self, **evidence: Any) -> None:
        """A report, and a look at it."""
        self.tell_report(**evidence)
        self.look()

    def tell_report(self, **evidence: Any) -> None:
        """What an evaluator with these orders would say now."""
        raw = self.redis.get(self.keys.config)
        if raw:
            self._reports += 1
            config = EvaluatorConfig.model_validate_json(raw)
            now = int(time.time() * 1000)
            said = played_report(config, self._reports, now, shards=self.shards, **evidence)
            self.redis.hset(self.keys.report, mapping={"seq": said.seq, "json": json.dumps(said.model_dump())})

    # Looking ----------------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Wake the operator: nothing else tells it of news in Redis before its next look."""
        self._looks += 1
        self.annotate("tests/look", str(self._looks))

    def annotate(self, name: str, value: str) -> None:
        self.plane.merge(self.path, {"metadata": {"annotations": {name: value}}})

    def model(self) -> dict[str, Any]:
        return self.plane.get(self.path).body

    def status(self) -> dict[str, Any]:
        return dict(self.model().get("status") or {})

    def block(self, name: str) -> dict[str, Any]:
        return dict(self.status().get(name) or {})

    def condition(self, kind: str) -> str:
        return str(self.whole_condition(kind).get("status", ""))

    def whole_condition(self, kind: str) -> dict[str, Any]:
        return next((c for c in self.status().get("conditions", ()) if c["type"] == kind), {})

    @property
    def account(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{ACCOUNT}"

    def changes(self) -> list[dict[str, Any]]:
        """What the operator changed so far, but for its Lease, by the audit log."""
        return [e for e in self.plane.mutations(self.account) if e["objectRef"]["resource"] != "leases"]

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {d["metadata"]["name"]: d for d in objects(self.plane, "Deployment", self.namespace)}

    def _sizes(self, name: str) -> list[int]:
        """Wanted, updated and Ready."""
        found = self.deployments()[name]
        return [
            found["spec"]["replicas"],
            *(found["status"].get(key, 0) for key in ("updatedReplicas", "readyReplicas")),
        ]

    def _batch_size(self) -> str:
        [container] = self.deployments()["digits-v1"]["spec"]["template"]["spec"]["containers"]
        return str(next(e["value"] for e in container["env"] if e["name"] == "CONTINUAL_BATCH_SIZE"))

    def state(self) -> dict[str, Any]:
        """What must be the same after every crash."""
        status, routing = self.status(), json.loads(self.redis.get(self.keys.routing) or b"{}")
        decided = [(d["action"], d["reason"], d.get("version", "")) for d in status["decisions"]]
        return {
            "decisions": decided,
            "ledger": [self._entry(sequence) for sequence in range(1, len(decided) + 1)],
            "versions": [(v["version"], v["phase"], v["reason"]) for v in status["versions"]],
            "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
            "stable": (status["stable"]["version"], status["stable"]["replicas"]),
            "in flight": [name for name in ("canary", "next", "probation", "waiting") if status.get(name)],
            "quarantine": len(status["quarantine"]),
            "trained": (status["trainedThrough"], status["retrained"]["failures"], len(status["retrained"]["attempted"])),
            "alpha": (status["alpha"]["started"], status["alpha"]["promotions"]),
            "routing": (routing["gen"], [g["serve"] for g in routing["groups"].values()], routing["epochs"][-1]["shares"]),
            "deployments": {n: d["spec"]["replicas"] for n, d in self.deployments().items()},
            "jobs": len(objects(self.plane, "Job", self.namespace)),
        }  # fmt: skip

    def _entry(self, sequence: int) -> tuple[str, str, str]:
        whole = json.loads(self.store.get(self.registry.layout.decision(sequence)))
        return whole["action"], whole["reason"], whole["version"]

    def _made(self) -> Counter[tuple[str, str]]:
        made: Counter[tuple[str, str]] = Counter()
        for event in self.plane.mutations(self.account):
            about, code = event["objectRef"], event["responseStatus"]["code"]
            name = f"{about['resource']} {about.get('name', '').partition('-train-')[0]}"
            if about["resource"] in {"events", "leases", "continualmodels"} or code >= 300:
                continue
            if code == 201:
                made["created", name] += 1
            if event["verb"] == "delete":
                made["deleted", name] += 1
        return made

    def left(self) -> list[str]:
        children = [
            f"{k} {o['metadata']['name']}"
            for k in ("Deployment", "Job", "Pod")
            for o in objects(self.plane, k, self.namespace)
        ]
        keys = [key.decode() for key in self.redis.scan_iter(match=f"{self.keys.prefix}*", count=1000)]
        blobs = [info.key for info in self.store.list(self.registry.layout.prefix)]
        roll = self.redis.hgetall(f"ctm-installation:{self.namespace}")
        return [*children, *keys, *blobs, *(f"roll {uid.decode()}" for uid in roll)]
