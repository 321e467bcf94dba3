"""O1 and O3: the operator process is killed before and after each call that changes something, and the story ends as an undisturbed one.

create, update, retrain, promote, rollback, delete: the calls to the API server and to Redis that carry the story are listed here by
name, and the list is held complete against an undisturbed run. `kill -9` comes from the proxy that sees the call (`proxy.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from proxy import Point
from stories import CHAPTERS, End, Story

CALLS = {
    "create": (
        "HSET", "apply deployments/digits-evaluator", "call configure", "status Train", "event Train", "create jobs",
        "status Accept+Promote", "event Accept", "event Promote", "apply deployments/digits-v1",
        "apply poddisruptionbudgets/digits-v1", "call route",
    ),
    "update": ("apply deployments/digits-v1", "call configure", "status"),
    "retrain": (
        "status Train", "event Train", "create jobs", "delete jobs/digits-train", "status Accept", "event Accept",
        "apply deployments/digits-v2", "apply poddisruptionbudgets/digits-v2", "call route", "status Shadow", "event Shadow",
        "call configure",
    ),
    "promote": (
        "status Step", "event Step", "call route", "status Promote", "event Promote", "status Probation", "event Probation",
        "call configure", "status Pass", "event Pass", "delete deployments/digits-v1",
        "delete poddisruptionbudgets/digits-v1",
    ),
    "rollback": (
        "status Train", "create jobs", "status Accept", "apply deployments/digits-v3", "status Shadow", "status Rollback",
        "event Rollback", "call route", "call configure", "delete deployments/digits-v3",
        "delete poddisruptionbudgets/digits-v3",
    ),
    "delete": ("UNLINK", "HDEL"),
}  # fmt: skip
POINTS: list[Point] = [
    (chapter, call, moment) for chapter in CHAPTERS for call in CALLS[chapter] for moment in ("before", "after")
]
AT_ONCE = 4
"""Stories at a time: they wait for controllers more than they compute."""
SHORT: tuple[tuple[Point, ...], ...] = (
    (
        ("create", "status Train", "after"), ("create", "apply deployments/digits-v1", "before"),
        ("retrain", "create jobs", "after"), ("promote", "call route", "before"), ("rollback", "status Rollback", "after"),
        ("delete", "UNLINK", "after"),
    ),
    (
        ("create", "create jobs", "before"), ("update", "apply deployments/digits-v1", "after"),
        ("retrain", "status Accept", "before"), ("promote", "status Probation", "after"),
        ("rollback", "delete deployments/digits-v3", "before"), ("delete", "HDEL", "before"),
    ),
)  # fmt: skip
"""Two lives with six deaths each: every chapter, every kind of call, both moments."""
MUTATIONS = str(Path(__file__).with_name("mutations.py"))
MOVED: Point = ("retrain", "create jobs", "after")
"""While the operator is away here, another shard of labels is closed."""

Told = tuple[Story, End]


class Teller:
    """Tells stories, a few at once."""

    def __init__(self, plane: ControlPlane, redis: Any, folder: Path) -> None:
        self.plane, self.redis, self.folder = plane, redis, folder

    def told(self, plan: Iterable[Point]) -> Told:
        story = Story(self.plane, self.redis, self.folder, plan)
        return story, story.tell()

    def told_in_a_moving_world(self, mutation: str) -> Told:
        command = (MUTATIONS, mutation) if mutation else ("-m", "continual_operator")
        story = Story(self.plane, self.redis, self.folder, [MOVED], command)
        story.away = story.close_a_shard
        return story, story.tell(("create", "retrain"))


@pytest.fixture(scope="module")
def teller(nodes: ControlPlane, redis_of_module: Any, tmp_path_factory: pytest.TempPathFactory) -> Teller:
    return Teller(nodes, redis_of_module, tmp_path_factory.mktemp("stories"))


@dataclass
class Lives:
    """What the short tests look at, told at the same time."""

    undisturbed: Told
    killed: list[Told]
    moved: Told
    mutated: Told


@pytest.fixture(scope="module")
def lives(teller: Teller) -> Lives:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        undisturbed, *killed = [pool.submit(teller.told, plan) for plan in ((), *SHORT)]
        moved = pool.submit(teller.told_in_a_moving_world, "")
        mutated = pool.submit(teller.told_in_a_moving_world, "acting_before_recording")
        return Lives(undisturbed.result(), [life.result() for life in killed], moved.result(), mutated.result())


def differences(wanted: End, found: End) -> dict[str, Any]:
    """What ended elsewhere, was made or removed another number of times, or was left behind."""
    here, there = wanted.state | dict(wanted.made), found.state | dict(found.made)
    differs = {key: (here.get(key), there.get(key)) for key in here | there if here.get(key) != there.get(key)}
    return differs | ({"left": found.left} if found.left else {})


def test_every_call_of_the_story_is_a_point(lives: Lives) -> None:
    """A call that the operator learns to make has to be listed: statuses that only bring numbers, and repeated words, are no points."""
    story, end = lives.undisturbed
    told = {(chapter, name) for chapter, name in story.gate.passed if not _only_informs(chapter, name)}
    assert told == {(chapter, call) for chapter in CHAPTERS for call in CALLS[chapter]}
    assert story.starts == 1
    assert end.left == []


def _only_informs(chapter: str, name: str) -> bool:
    again = (
        "event Train",
        "event Accept",
        "event Shadow",
        "delete jobs/digits-train",
        "apply poddisruptionbudgets/digits-v3",
    )
    return (name in {"status", "count"} and chapter != "update") or (chapter == "rollback" and name in again)


def test_killed_twelve_times_in_two_lives_both_end_as_the_undisturbed_one(lives: Lives) -> None:
    """Same status, ledger, routes and children; everything created and deleted as often; no key and no blob left."""
    for story, found in lives.killed:
        assert differences(lives.undisturbed[1], found) == {}
        assert story.starts == 7
    print(f"{sum(map(len, SHORT))} of {len(POINTS)} crash points: same end, same creates and deletes")


def test_one_training_makes_one_job_although_the_world_moves_while_the_operator_is_away(lives: Lives) -> None:
    """O3: what is learned was recorded before the Job was created, so new labels make no other Job of it."""
    story, end = lives.moved
    assert story.starts == 2
    assert end.made["created", "jobs digits"] == 2  # the bootstrap and one retraining


def test_acting_before_recording_would_make_two(lives: Lives) -> None:
    """Mutation check: an operator that creates the Job first and records it afterwards learns twice."""
    assert lives.mutated[1].made["created", "jobs digits"] == 3


@pytest.mark.long
def test_killed_once_at_each_point_every_story_ends_as_the_undisturbed_one(lives: Lives, teller: Teller) -> None:
    """One life per point."""
    assert len(POINTS) >= 40
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = list(pool.map(lambda point: teller.told([point]), POINTS))
    wanted = lives.undisturbed[1]
    wrong = {
        point: found for point, (_, end) in zip(POINTS, killed, strict=True) if (found := differences(wanted, end))
    }
    print(f"{len(POINTS)} crash points, {len(wrong)} ended elsewhere")
    assert wrong == {}
    assert {story.starts for story, _ in killed} == {2}
