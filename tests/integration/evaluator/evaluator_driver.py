"""A world for the evaluator: requests, answers and labels through the real functions, without inference workers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from continual_clients.objectstore import FileStore
from continual_clients.shards import read_shard
from continual_contract.artifacts import InputShape, StoreLayout
from continual_contract.config import DriftWatch, EvaluatorConfig, PairUnderJudgement, ServedVersion
from continual_contract.functions import Answered, Author, Section, commit_call, enqueue_call, parse_enqueue, route_call
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from continual_contract.routing import parse_routing

CLASSES = tuple(str(i) for i in range(10))
SHAPE = InputShape(height=4, width=4, channels=1)
Model = Callable[[str], str]
"""What a version answers, by request id."""


def image_of(number: int) -> bytes:
    """Sixteen pixels that differ from number to number."""
    return random.Random(number).randbytes(SHAPE.nbytes)


@dataclass
class World:
    """Versions are functions from request id to class; the truth is known to the test."""

    client: redis.Redis
    keys: ModelKeys = field(default_factory=lambda: ModelKeys("default", "digits"))
    truth: dict[str, str] = field(default_factory=dict)
    sequence: int = 0
    sent: int = 0
    labels: list[tuple[str, dict[Any, Any]]] = field(default_factory=list)

    def call(self, call: Any) -> Any:
        return self.client.execute_command(*call.command())

    def route(
        self, shares: Sequence[tuple[str, int]], shadow: Sequence[str] = (), heirs: Mapping[str, str] | None = None
    ) -> str:
        """Set the shares; returns the epoch's `after`."""
        raw = self.client.get(self.keys.routing)
        gen = parse_routing(raw).gen if raw else 0
        reply = self.call(
            route_call(self.keys, gen, 1, "uid", shares, shadow, 10_000 if shadow else 0, "salt", heirs or {})
        )
        return reply[1].decode()

    def configure(self, **changes: Any) -> EvaluatorConfig:
        self.sequence += 1
        base: dict[str, Any] = {
            "uid": "uid", "token": 1, "sequence": self.sequence, "classes": CLASSES, "input": SHAPE, "salt": "audit-salt",
            "window_seconds": 20.0, "audit_percent": 100.0, "holdout_percent": 10.0,
            "versions": (ServedVersion(version="v1", digest="sha256:1", role="stable"),),
        }  # fmt: skip
        config = EvaluatorConfig(**(base | changes))
        self.client.set(self.keys.config, config.model_dump_json())
        return config

    def judge(self, since: str, candidate: str = "v2", baseline: str = "v1", **changes: Any) -> EvaluatorConfig:
        """Orders with a pair under judgement."""
        pair = PairUnderJudgement(
            evidence_id=changes.pop("evidence_id", f"{candidate}-canary-1"), purpose="canary", candidate=candidate,
            baseline=baseline, since=since, margin=changes.pop("margin", 0.02), worst_class_margin=0.05,
        )  # fmt: skip
        versions = (
            ServedVersion(version=baseline, digest="sha256:1", role="stable"),
            ServedVersion(version=candidate, digest="sha256:2", role="canary"),
        )
        return self.configure(**({"pair": pair, "versions": versions} | changes))

    def watch(self, since: str = "0-0", version: str = "v1", **changes: Any) -> EvaluatorConfig:
        return self.configure(drift=DriftWatch(version=version, since=since, false_alarm_every=10_000.0), **changes)

    def ask(self, count: int, key: Callable[[int], bytes] | None = None, caller: bool = False) -> list[str]:
        """Enqueue requests; their truth is drawn from their number."""
        ids = []
        for _ in range(count):
            fields: dict[Any, Any] = {"d": image_of(self.sent)}
            if key is not None and key(self.sent):
                fields["k"] = key(self.sent)
            reply = self.call(enqueue_call(self.keys, fields, f"caller-{self.sent}" if caller else None, 0, 3600))
            request_id = parse_enqueue(reply).entry_id
            self.truth[request_id] = CLASSES[self.sent % 10]
            self.sent += 1
            ids.append(str(request_id))
        return ids

    def answer(self, models: Mapping[str, Model], count: int = 10_000) -> int:
        """Let each version's group read, answer what it owns, shadow the rest; returns how many were published."""
        raw = self.client.get(self.keys.routing)
        routing = parse_routing(raw)
        published = 0
        for group, info in routing.groups.items():
            version = info.serve
            if version not in models:
                continue
            found: Any = self.client.xreadgroup(group, f"{version}/test", {self.keys.requests: ">"}, count=count)
            answered, passed = [], []
            for entry_id, fields in found[0][1] if found else ():
                rid = entry_id.decode()
                epoch = routing.epoch_of(rid)
                owner = epoch.owner(rid, fields.get(b"k", b""))
                shadowed = group in epoch.shadow and epoch.is_shadowed(rid, fields.get(b"k", b""))
                if owner != group and not (shadowed and info.serve == info.version):
                    passed.append(rid)
                    continue
                why = ("owner" if info.serve == info.version else "heir") if owner == group else "shadow"
                role = "stable" if owner == group else "shadow"
                kind = "o" if owner == group else "s"
                answered.append(Section(kind, role, why, [Answered(rid, rid, models[version](rid), 0.9)]))
            if answered or passed:
                reply = self.call(commit_call(self.keys, group, Author(version, "abcdef", 100), answered, passed, 7200))
                published += int(reply[1])
        return published

    def label(
        self, request_id: str, class_name: str, by: str = "ann", source: str = "audit", at: str = "*", **more: Any
    ) -> str:
        fields: dict[Any, Any] = {"r": request_id, "c": class_name, "by": by, "src": source, **more}
        label_id = self.client.xadd(self.keys.labels, fields, id=at).decode()
        self.labels.append((label_id, fields))
        return str(label_id)

    def label_again(self) -> None:
        """Put back the labels that were trimmed behind an evaluator, under their ids."""
        self.client.delete(self.keys.labels)
        for label_id, fields in self.labels:
            self.client.xadd(self.keys.labels, fields, id=label_id)

    def report(self) -> Report:
        raw: Any = self.client.hget(self.keys.report, "json")
        return Report.model_validate_json(raw)

    def right(self, request_id: str) -> str:
        return self.truth[request_id]

    def wrong(self, request_id: str) -> str:
        return CLASSES[(int(self.truth[request_id]) + 1) % 10]

    def mistaken(self, share: float, salt: str) -> Model:
        """A version that errs on a share of requests; which ones follows from salt and number, in every run the same."""
        numbers = {rid: number for number, rid in enumerate(self.truth)}
        return lambda rid: (
            self.wrong(rid) if random.Random(f"{salt}/{numbers[rid]}").random() < share else self.right(rid)
        )


def comparable(report: Report) -> dict[str, Any]:
    """A report without what depends on when it was written."""
    document = json.loads(report.model_dump_json())
    for name in ("seq", "time_ms", "lag_seconds", "backlog", "config_sequence"):
        document.pop(name)
    return document


def forget_everything(world: World) -> None:
    """Remove the evaluator's memory and what it wrote; the streams are as they were before it read them."""
    names = list(world.client.scan_iter(world.keys.evaluator + ":*"))
    world.client.delete(world.keys.report, world.keys.dead, *names)
    world.label_again()


def samples_of(world: World, store: Path, report: dict[str, Any]) -> list[str]:
    """Request ids of all samples in the listed shards."""
    files, layout = FileStore(store), StoreLayout(world.keys.namespace, world.keys.model)
    ids: list[str] = []
    for ref in report["shards"]:
        shard = read_shard(files, layout, ref["digest"], "holdout" if ref["kind"] == "holdout" else "shards")
        ids += map(str, shard.request_id)
    return ids


def wait_for(claim: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
