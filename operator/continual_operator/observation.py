"""One frozen picture of a model: everything a decision may depend on, and nothing that could still change.

`observe` gathers it; `converge` and `decide` read it. What could not be read is None with its flag down, never a default that
looks like a value: a decision can tell "no" from "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from continual_contract.artifacts import CheckpointManifest, TrainingOutcome
from continual_contract.config import EvaluatorConfig
from continual_contract.report import Report
from continual_contract.routing import Epoch, Routing

from continual_operator.children import deployment_name
from continual_operator.spec import Model
from continual_operator.status import Progress, Status
from continual_operator.troubles import NO_TROUBLE, Trouble


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    name: str
    uid: str
    component: str
    version: str
    replicas: int
    ready: int
    manifest_hash: str
    pods: int = 0
    """There are, Ready or not."""
    ours: bool = True
    """Controlled by this very resource (its uid), not by an earlier one of the same name."""
    trouble: Trouble = NO_TROUBLE
    """Why its pods do not start or keep dying."""


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """A PodDisruptionBudget."""

    name: str
    uid: str
    version: str
    manifest_hash: str
    ours: bool = True


@dataclass(frozen=True, slots=True)
class JobFacts:
    name: str
    uid: str
    job: str
    active: bool
    succeeded: bool
    failed: bool
    reason: str = ""
    ours: bool = True
    failures: int = 0
    """Pods that failed by themselves."""
    trouble: Trouble = NO_TROUBLE

    @property
    def ended(self) -> bool:
        return self.succeeded or self.failed


@dataclass(frozen=True, slots=True)
class Observation:
    model: Model
    status: Status
    deployments: Mapping[str, DeploymentFacts] = field(default_factory=dict)
    """By name."""
    budgets: Mapping[str, BudgetFacts] = field(default_factory=dict)
    """By name."""
    jobs: Mapping[str, JobFacts] = field(default_factory=dict)
    """By job hash."""
    redis_ok: bool = True
    routing: Routing | None = None
    foreign_uid: str = ""
    """Another resource (of the same name, gone) still owns the keys: they are wiped first."""
    config: EvaluatorConfig | None = None
    report: Report | None = None
    progress: Progress | None = None
    store_ok: bool = True
    outcome: TrainingOutcome | None = None
    """Of the training in flight; None while there is none, or when the store is down."""
    manifests: Mapping[str, CheckpointManifest] = field(default_factory=dict)
    """By digest: stable's and the candidates'."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Digest → why its manifest cannot be used."""
    problem: str = ""
    """What kept us from looking (Redis or store), in words."""

    def ready(self, version: str) -> int:
        child = self.deployment(version)
        return child.ready if child else 0

    def pods(self, version: str) -> int:
        child = self.deployment(version)
        return child.pods if child else 0

    def deployment(self, version: str) -> DeploymentFacts | None:
        child = self.deployments.get(deployment_name(self.model.name, version))
        return child if child and child.ours else None

    @property
    def last_epoch(self) -> Epoch | None:
        return self.routing.epochs[-1] if self.routing and self.routing.epochs else None

    def shares(self) -> tuple[tuple[str, int], ...]:
        """(version, basis points) of the newest epoch, in order."""
        epoch, routing = self.last_epoch, self.routing
        if epoch is None or routing is None:
            return ()
        return tuple((routing.groups[group].version, share) for group, share in epoch.shares if group in routing.groups)

    def shadow(self) -> tuple[str, ...]:
        """Versions that shadow-answer in the newest epoch."""
        epoch, routing = self.last_epoch, self.routing
        if epoch is None or routing is None:
            return ()
        return tuple(routing.groups[group].version for group in epoch.shadow if group in routing.groups)

    def served(self) -> frozenset[str]:
        """Versions that some group still depends on: their pods must stay."""
        return frozenset(group.serve for group in self.routing.groups.values()) if self.routing else frozenset()

    def joined_after(self, version: str) -> str | None:
        """`after` of the first epoch in which the version's open group takes part."""
        if self.routing is None:
            return None
        open_groups = {name for name, g in self.routing.groups.items() if g.version == version and g.until is None}
        for epoch in self.routing.epochs:
            if open_groups & ({group for group, _ in epoch.shares} | set(epoch.shadow)):
                return epoch.after
        return None
