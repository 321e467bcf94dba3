"""The operator dies around every mutating call: the next one ends where an undisturbed one ends (C8, O1, O3).

The world does not wait for it: while the operator is away another shard of labels is closed. Redis and its fences are real.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from continual_operator import converge as converge_module
from continual_operator import decide as decide_module
from continual_operator import reconcile as reconcile_module
from continual_operator.observation import Observation
from continual_operator.rehearsal import Crash, Rehearsal, broken_promises, shard

Stage = Callable[..., Rehearsal]


def story(play: Rehearsal) -> None:
    """Create, train, promote v2, roll v3 back in the canary, promote v4, roll it back in probation."""
    play.serve_first()
    play.reach_probation(1)
    play.end_probation()
    play.reach_shadow(2)
    play.report(pairs=20, worse=4.0)
    play.settle()
    play.pass_time(30)
    play.reach_probation(3)
    play.report(pairs=60, worse=6.0)
    play.settle()


def end_state(play: Rehearsal) -> dict[str, Any]:
    """What must be the same: status, children, routes. Times are the story's, so even they are."""
    status = copy.deepcopy(play.cluster.models[next(iter(play.cluster.models))]["status"])
    objects = {f"{kind}/{name}": o["spec"] for (kind, name), o in play.cluster.objects.items()}
    routing = play.routing
    assert routing is not None
    return {
        "status": status,
        "objects": objects,
        "shares": play.shares,
        "serve": {name: group.serve for name, group in routing.groups.items()},
        "ledger": sorted(key for key in play.store.objects if "/decisions/" in key),
    }


def crash_at(number: int, moment: str, broken: list[str], play: Rehearsal) -> None:
    """Die before or after the call of this number, once; after every call look at the promises."""
    seen = 0

    def hook(when: str, call: str) -> None:
        nonlocal seen
        if when == "before":
            seen += 1
        elif problems := broken_promises(play):
            broken.extend(f"after {call}: {problem}" for problem in problems)
        if when == moment and seen == number:
            seen += 1_000_000
            raise Crash(call)

    play.hooks.hook = hook


def reference(stage: Stage) -> tuple[dict[str, Any], list[str], int]:
    play = stage()
    story(play)
    return end_state(play), [c for c in play.hooks.calls if c.startswith(("create", "delete"))], len(play.hooks.calls)


def run_with_crash(stage: Stage, number: int, moment: str) -> tuple[dict[str, Any], list[str], list[str]]:
    play, broken = stage(), list[str]()
    crash_at(number, moment, broken, play)
    story(play)
    return end_state(play), sorted({c for c in play.hooks.calls if c.startswith(("create", "delete"))}), broken


def check_points(stage: Stage, points: Iterator[int]) -> None:
    wanted, calls, _ = reference(stage)
    for number in points:
        for moment in ("before", "after"):
            found, made, broken = run_with_crash(stage, number, moment)
            assert not broken, f"crash {moment} call {number}: {broken[:3]}"
            assert found == wanted, f"crash {moment} call {number} ends elsewhere"
            assert made == sorted(set(calls)), f"crash {moment} call {number}: other children were made"


def test_every_crash_point_ends_where_no_crash_ends(stage: Stage) -> None:
    """Each seventh call of the whole story (all of them in the long run): same status, children, routes, ledger."""
    total = reference(stage)[2]
    assert total >= 80, "the story has too few mutating calls to be a test"
    check_points(stage, iter(range(1, total + 1, 7)))


@pytest.mark.long
def test_every_single_crash_point_ends_where_no_crash_ends(stage: Stage) -> None:
    """All of them."""
    check_points(stage, iter(range(1, reference(stage)[2] + 1)))


def jobs_made(stage: Stage, number: int, moment: str) -> set[str]:
    """Names of Jobs created by one retraining when the operator dies there and labels go on coming."""
    play = stage()
    play.serve_first()
    before = set(play.hooks.calls)
    crash_at(number, moment, [], play)
    play.after_crash = lambda p: p.report(shards=(shard(1), shard(2)))
    play.start_retraining(1)
    return {c for c in set(play.hooks.calls) - before if c.startswith("create Job")}


def test_one_training_makes_one_job_wherever_the_operator_dies(stage: Stage) -> None:
    """O3: the inputs are frozen in the status before the Job exists, so new labels cannot make another."""
    for number in range(1, 8):
        for moment in ("before", "after"):
            assert len(jobs_made(stage, number, moment)) == 1, f"crash {moment} call {number}"


@contextmanager
def acting_before_recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mutation: a pass acts on what it just decided, before that is the recorded truth."""
    decide = decide_module.decide

    def hasty(obs: Observation, now: Any, settings: Any) -> decide_module.Plan:
        plan = decide(obs, now, settings)
        return replace(plan, actions=converge_module.converge(replace(obs, status=plan.status), settings))

    with monkeypatch.context() as patch:
        patch.setattr(reconcile_module, "decide", hasty)
        yield


def test_mutation_acting_before_recording_makes_two_jobs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the protection removed the check is red: some crash point makes a second Job."""
    with acting_before_recording(monkeypatch):
        counts = [len(jobs_made(stage, number, moment)) for number in range(1, 8) for moment in ("before", "after")]
    assert max(counts) > 1


def promises_broken(stage: Stage) -> list[str]:
    play, broken = stage(), list[str]()
    crash_at(0, "never", broken, play)
    try:
        story(play)
    except AssertionError as error:
        broken.append(f"the story does not end: {error}")
    return broken


def test_mutation_pods_that_go_while_they_serve_are_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `served` blind, a rolled-back version loses its pods before its heir has its groups: the check is red."""
    order = converge_module.converge

    def goodbyes_first(obs: Observation, settings: Any) -> tuple[converge_module.Action, ...]:
        actions = order(obs, settings)
        return tuple(sorted(actions, key=lambda a: not isinstance(a, converge_module.DeleteChild)))

    assert promises_broken(stage) == []
    monkeypatch.setattr(Observation, "served", lambda self: frozenset())
    monkeypatch.setattr(decide_module, "converge", goodbyes_first)
    assert any("is served and has no pods" in problem for problem in promises_broken(stage))


def test_promotion_is_one_step(stage: Stage) -> None:
    """C8: between two calls the stream is always shared out wholly; the promoting change is one call, from 50 to 100 percent."""
    play, seen = stage(), list[dict[str, int]]()

    def watch(when: str, _: str) -> None:
        if when == "after" and play.shares and (not seen or seen[-1] != play.shares):
            seen.append(play.shares)

    play.hooks.hook = watch
    play.serve_first()
    play.reach_probation()
    assert seen == [
        {"v1": 10_000},
        {"v1": 10_000, "v2": 0},
        {"v1": 9_000, "v2": 1_000},
        {"v1": 5_000, "v2": 5_000},
        {"v2": 10_000, "v1": 0},
    ]
