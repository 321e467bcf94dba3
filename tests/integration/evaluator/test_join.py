"""Labels meet answers: by id, by the caller's key, early, late, unknown."""

from __future__ import annotations

import time
from typing import Any

from continual_contract.config import ServedVersion

WINDOW_SECONDS = 2.0
"""Votes settle after a twentieth of it: 0.1 s."""


def settle(evaluator: Any, seconds: float = 0.25) -> Any:
    """Step until votes given so far have settled."""
    evaluator.step()
    time.sleep(seconds)
    evaluator.step()
    return evaluator.report


def test_labels_are_joined_with_answers_by_request_id(world: Any, evaluator: Any) -> None:
    """100 answered and labelled requests give a version's accuracy, recall and confusion."""
    world.configure(window_seconds=WINDOW_SECONDS)
    ids = world.ask(100)
    assert world.answer({"v1": lambda rid: world.wrong(rid) if rid in ids[:10] else world.right(rid)}) == 100
    for rid in ids:
        world.label(rid, world.right(rid))
    scores = settle(evaluator).versions["v1"]
    assert (scores.answers, scores.labels, scores.correct) == (100, 100, 90)
    assert scores.lower < 0.9 < scores.upper
    assert scores.confusion["0"] == {"0": 9, "1": 1}
    assert scores.worker_us_p95 == 100.0


def test_a_label_may_come_before_the_answer(world: Any, evaluator: Any) -> None:
    """A label of a request nobody has answered yet waits, and counts once the answer is there."""
    world.configure(window_seconds=60.0, versions=(ServedVersion(version="v1", digest="d", role="stable"),))
    (rid,) = world.ask(1)
    world.label(rid, world.right(rid), at="*")
    evaluator.step()
    evaluator.state.advance(evaluator.source.now_ms() + 10_000)
    evaluator.step()
    assert evaluator.report.labels.waiting == 1
    world.answer({"v1": world.right})
    evaluator.step()
    assert evaluator.report.labels.waiting == 0
    assert evaluator.report.versions["v1"].correct == 1


def test_a_label_may_name_the_callers_key(world: Any, evaluator: Any) -> None:
    """`key:<caller's key>` finds the request that was enqueued under it."""
    world.configure(window_seconds=WINDOW_SECONDS)
    (rid,) = world.ask(1, caller=True)
    world.answer({"v1": world.right})
    world.label("key:caller-0", world.right(rid))
    assert settle(evaluator).versions["v1"].labels == 1


def test_unknown_labels_become_dead_letters_with_a_reason(world: Any, evaluator: Any) -> None:
    """Labels of unknown requests, keys and classes are counted and kept, with a message that names value and remedy."""
    world.configure(window_seconds=WINDOW_SECONDS)
    (rid,) = world.ask(1)
    future = f"{evaluator.source.now_ms() + 500}-7"
    for reference, class_name in ((future, "1"), ("key:nobody", "1"), ("nonsense\n", "1"), (rid, "cat")):
        world.label(reference, class_name)
    report = settle(evaluator)
    assert report.labels.unknown == 4
    assert report.labels.received == 4
    letters = [fields for _, fields in world.client.xrange(world.keys.dead)]
    assert [letter[b"reason"] for letter in letters] == [b"UnknownRequest"] * 3 + [b"UnknownClass"]
    assert b"'cat'" in letters[3][b"message"]
    assert b"use one of 0, 1" in letters[3][b"message"]
    assert letters[3][b"l-by"] == b"ann"
    assert report.dead == 4


def test_a_label_later_than_the_window_is_counted_as_late(world: Any, evaluator: Any) -> None:
    """After feedback.window a gate label changes nothing."""
    world.configure(window_seconds=0.2)
    (rid,) = world.ask(1)
    world.answer({"v1": world.right})
    time.sleep(0.3)
    world.label(rid, world.wrong(rid))
    report = settle(evaluator)
    assert report.labels.late == 1
    assert report.versions["v1"].labels == 0


def test_one_vote_per_labeler_the_majority_decides_a_tie_does_not(world: Any, evaluator: Any) -> None:
    """Latest vote of each labeler, majority over labelers; a tie leaves the request unlabelled."""
    world.configure(window_seconds=WINDOW_SECONDS)
    first, second = world.ask(2)
    world.answer({"v1": world.right})
    for class_name, by in (
        ("9", "ann"),
        (world.right(first), "ann"),
        (world.right(first), "bob"),
        ("9", "eve"),
        ("9", "eve"),
    ):
        world.label(first, class_name, by=by)
    world.label(second, world.right(second), by="ann")
    world.label(second, "9", by="eve")
    scores = settle(evaluator).versions["v1"]
    assert (scores.labels, scores.correct) == (1, 1)


def test_a_request_outside_the_sample_is_not_scored(world: Any, evaluator: Any) -> None:
    """feedback.samplePercent bounds what can be labelled; such labels are counted apart."""
    world.configure(window_seconds=WINDOW_SECONDS, sample_percent=0.0)
    (rid,) = world.ask(1)
    world.answer({"v1": world.right})
    world.label(rid, world.right(rid))
    report = settle(evaluator)
    assert report.labels.unsampled == 1
    assert report.versions["v1"].labels == 0


def test_orders_of_a_former_operator_are_ignored(world: Any, evaluator: Any) -> None:
    """The fence: a lower token changes nothing, whatever its sequence."""
    world.configure(token=5, window_seconds=7.0)
    evaluator.step()
    world.configure(token=4, window_seconds=9.0)
    evaluator.step()
    assert evaluator.state.config.window_seconds == 7.0


def test_shards_hold_the_labelled_images(world: Any, evaluator: Any) -> None:
    """Every labelled image is in exactly one shard or in the holdout, with its label, request and labeler."""
    from continual_clients.shards import read_shard

    world.configure(window_seconds=WINDOW_SECONDS, shard_seconds=0.2)
    ids = world.ask(60)
    world.answer({"v1": world.right})
    for rid in ids:
        world.label(rid, world.right(rid))
    settle(evaluator)
    time.sleep(0.3)
    evaluator.step()
    refs = evaluator.report.shards
    shards = [(ref.kind, read_shard(evaluator.store, evaluator.layout, ref.digest, "holdout" if ref.kind == "holdout" else "shards"))
              for ref in refs]  # fmt: skip
    train = [shard for kind, shard in shards if kind == "train"]
    assert {kind for kind, _ in shards} == {"train", "holdout"}
    assert sorted(rid for _, shard in shards for rid in shard.request_id) == sorted(ids)
    assert evaluator.report.released_samples == sum(map(len, train))
    for shard in train:
        assert [world.truth[str(rid)] for rid in shard.request_id] == [str(label) for label in shard.label]
    world.configure(window_seconds=WINDOW_SECONDS, trained_through=max(ref.sequence for ref in refs))
    evaluator.step()
    assert {ref.kind for ref in evaluator.report.shards} == {"holdout"}
