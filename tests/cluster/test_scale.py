"""Who decides how many pods there are: `kubectl scale`, the backlog, and nobody else; and no two of them fight.

One model is served once, by an operator process and pods that kwok plays; its chapters are the ways to change its size.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from continual_contract.config import EvaluatorConfig
from continual_operator.rehearsal import played_report
from control_plane import ControlPlane
from operators import PATHS
from stories import Story

SETTLED_SECONDS = 2.5
"""Longer than the operator sleeps between two looks at a model that moves."""
NAME = "digits-v1"


@dataclass
class Sizes:
    """What was seen."""

    scaled: Any = None
    """The scale subresource after `kubectl scale`."""
    said: str = ""
    refused: str = ""
    grown: list[int] = field(default_factory=list)
    after_hand: list[int] = field(default_factory=list)
    declared_again: list[int] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)
    corrections: int = 0
    zero: Any = None
    back: list[int] = field(default_factory=list)


class Scaled(Story):
    """The chapters."""

    seen: Sizes

    def by_hand(self) -> None:
        """`kubectl scale`, as a person or a HorizontalPodAutoscaler does it."""
        self.seen = Sizes()
        done = self._kubectl("--replicas=3", "--current-replicas=1")
        assert done.returncode == 0, done.stderr
        self.seen.said = done.stdout
        self.wait("three pods", lambda: self._sizes(NAME) == [3, 3, 3])
        self.wait("they are told of", lambda: self._scale()["status"]["replicas"] == 3, self.report)
        self.seen.scaled = self._scale()
        self.seen.refused = self._kubectl("--replicas=9", "--current-replicas=1").stderr

    def by_backlog(self) -> None:
        """minReplicas, maxReplicas and targetBacklog win over spec.serving.replicas while they are there."""
        auto = {"minReplicas": 1, "maxReplicas": 4, "targetBacklog": 10}
        self._serving({"autoscaling": auto})
        self.wait("the backlog makes four", lambda: self._sizes(NAME) == [4, 4, 4], lambda: self.backlog(1000))
        self.seen.grown = self._sizes(NAME)
        assert self._kubectl("--replicas=1").returncode == 0
        self._settled(lambda: self.backlog(35))
        self.seen.after_hand = self._sizes(NAME)
        self._serving({"autoscaling": None})
        self.wait("what is declared counts again", lambda: self._sizes(NAME) == [1, 1, 1])
        self.seen.declared_again = self._sizes(NAME)

    def by_others(self) -> None:
        """Somebody scales the Deployment, past the model."""
        before = self._applies()
        assert self.plane.merge(f"{PATHS['Deployment'].format(self.namespace)}/{NAME}", {"spec": {"replicas": 3}}).ok
        self.wait("it is put right", lambda: self._applies() > before and self._sizes(NAME) == [1, 1, 1])
        self._settled(self.look)
        self.seen.foreign, self.seen.corrections = self._sizes(NAME), self._applies() - before

    def to_zero(self) -> None:
        assert self._kubectl("--replicas=0").returncode == 0
        self.wait("no pod", lambda: self._sizes(NAME) == [0, 0, 0])
        self.wait("it says so", lambda: self._ready()[1] == "ScaledToZero", self.look)
        self.seen.zero = self._ready()
        assert self._kubectl("--replicas=1").returncode == 0
        self.wait("it serves again", lambda: self._ready()[0] == "True", self.look)
        self.seen.back = self._sizes(NAME)

    # What happens and what is seen ------------------------------------------------------------------------------------------

    def backlog(self, waiting: int) -> None:
        """What the evaluator would say of so many requests that nobody has answered."""
        config = EvaluatorConfig.model_validate_json(self.redis.get(self.keys.config))
        self._reports += 1
        said = played_report(config, self._reports, int(time.time() * 1000)).model_copy(update={"backlog": waiting})
        self.redis.hset(self.keys.report, mapping={"seq": said.seq, "json": json.dumps(said.model_dump())})
        self.look()

    def _settled(self, look: Any) -> None:
        until = time.monotonic() + SETTLED_SECONDS
        self.wait("some looks", lambda: time.monotonic() > until, look)

    def _serving(self, changes: dict[str, Any]) -> None:
        assert self.plane.merge(self.path, {"spec": {"serving": changes}}).ok

    def _kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.plane.kubectl("scale", "-n", self.namespace, *arguments, "ctm/digits")

    def _scale(self) -> dict[str, Any]:
        return dict(self.plane.get(f"{self.path}/scale").body)

    def _ready(self) -> tuple[str, str]:
        found = next(c for c in self.status()["conditions"] if c["type"] == "Ready")
        return found["status"], found["reason"]

    def _applies(self) -> int:
        about = [
            e["objectRef"] for e in self.plane.mutations(f"system:serviceaccount:{self.namespace}:continual-operator")
        ]
        return sum((ref["resource"], ref.get("name")) == ("deployments", NAME) for ref in about)

    def state(self) -> dict[str, Any]:
        return {}  # compared with no other life

    def sizes(self) -> Sizes:
        """Tell it all."""
        self.tell(("create", "by_hand", "by_backlog", "by_others", "to_zero"))
        return self.seen


@pytest.fixture(scope="module")
def seen(nodes: ControlPlane, redis_of_module: Any, tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    return Scaled(nodes, redis_of_module, tmp_path_factory.mktemp("scale")).sizes()


def test_kubectl_scale_changes_the_number_of_pods_and_sees_them(seen: Sizes) -> None:
    """The subresource reads and writes what the operator obeys; its selector finds the pods, as a HorizontalPodAutoscaler needs it."""
    assert "scaled" in seen.said
    assert seen.scaled["spec"] == {"replicas": 3}
    assert seen.scaled["status"] == {
        "replicas": 3,
        "selector": "continual.dev/model=digits,continual.dev/component=inference,continual.dev/version=v1",
    }


def test_a_scale_that_expects_another_size_is_refused(seen: Sizes) -> None:
    """`--current-replicas` is a precondition that works."""
    assert "Expected replicas to be 1, was 3" in seen.refused


def test_the_backlog_makes_pods_up_to_the_maximum(seen: Sizes) -> None:
    """A thousand waiting requests, ten to a pod, at most four pods."""
    assert seen.grown == [4, 4, 4]


def test_while_the_backlog_decides_a_scale_by_hand_changes_nothing(seen: Sizes) -> None:
    """One decides at a time: autoscaling until it is removed, then what is declared; nothing swings between the two."""
    assert seen.after_hand == [4, 4, 4]
    assert seen.declared_again == [1, 1, 1]


def test_a_deployment_scaled_past_its_model_is_put_right_once(seen: Sizes) -> None:
    """One write answers one write: no fight."""
    assert (seen.foreign, seen.corrections) == ([1, 1, 1], 1)


def test_no_pods_are_told_as_such_and_come_back(seen: Sizes) -> None:
    """Zero is a size like any other: requests wait, Ready says why."""
    assert seen.zero == ("False", "ScaledToZero")
    assert seen.back == [1, 1, 1]
