"""The history that pictures are drawn from: written with the report, bounded, and gone with the resource it is of."""

from __future__ import annotations

from continual_contract.history import COARSE, FINE, HistoryPoint
from continual_workers.evaluation.process import Evaluator
from evaluator_driver import World, wait_for


def points(world: World, suffix: str) -> list[HistoryPoint]:
    found = world.client.xrange(world.keys.history(suffix))
    return [HistoryPoint.model_validate_json(fields[b"p"]) for _, fields in found]


def labelled(world: World, evaluator: Evaluator, requests: int) -> None:
    ids = world.ask(requests)
    world.answer({"v1": world.right})
    for request_id in ids:
        world.label(request_id, world.right(request_id))
    for _ in range(3):
        evaluator.step()


def test_each_stream_gets_a_point_when_its_time_has_come(world: World, evaluator: Evaluator) -> None:
    """Many reports within two seconds are one point of each; what it holds is what the report held."""
    world.configure(window_seconds=2.0)
    for _ in range(5):
        labelled(world, evaluator, 3)
    fine, coarse = points(world, FINE.suffix), points(world, COARSE.suffix)
    assert len(coarse) == 1
    spread = fine[-1].time_ms - fine[0].time_ms
    assert len(fine) <= 1 + spread // FINE.every_ms
    assert world.report().seq > len(fine)


def test_a_point_holds_the_counts_of_its_report(world: World, evaluator: Evaluator) -> None:
    """Cumulative counts, so that any window is a difference of two points."""
    world.configure(window_seconds=2.0)
    labelled(world, evaluator, 7)

    def counted() -> bool:
        evaluator._drawn_ms.clear()
        evaluator.step()
        return points(world, FINE.suffix)[-1].versions["v1"].labels == 7

    wait_for(counted)
    last, report = points(world, FINE.suffix)[-1], world.report()
    assert (last.versions["v1"].labels, last.versions["v1"].correct) == (7, report.versions["v1"].correct)
    assert last.time_ms == report.time_ms


def test_the_streams_are_bounded(world: World, evaluator: Evaluator) -> None:
    """A stream longer than its bound is cut by the next point; Redis cuts whole nodes of at most a hundred entries."""
    world.configure(window_seconds=2.0)
    key = world.keys.history(FINE.suffix)
    with world.client.pipeline(transaction=False) as pipe:
        for _ in range(FINE.points + 500):
            pipe.xadd(key, {b"p": b"{}"})
        pipe.execute()
    labelled(world, evaluator, 2)
    assert world.client.xlen(key) <= FINE.points + 100


def test_another_resource_of_the_name_begins_with_an_empty_history(world: World, evaluator: Evaluator) -> None:
    """The curves of a deleted model are not the curves of its successor."""
    world.configure(window_seconds=2.0)
    labelled(world, evaluator, 2)
    assert points(world, FINE.suffix)
    evaluator.snapshot.forget()
    assert points(world, FINE.suffix) == []
    assert points(world, COARSE.suffix) == []
