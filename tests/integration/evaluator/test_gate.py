"""The canary's evidence from real streams: order, sources, clusters, coverage, floods, replay.

Every protection is also taken away, and the test then sees the verdict move.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from continual_contract.config import EvaluatorConfig
from continual_contract.report import PairEvidence
from continual_contract.routing import is_audited
from continual_workers.evaluation.evidence import digest_of, parse_observation, replay

LEVEL = math.log(20)
WINDOW = 4.0


def begin(world: Any, **changes: Any) -> str:
    """A canary that shadows everything; returns where its epoch begins."""
    world.ask(1)
    world.answer({"v1": world.right})
    since = world.route([("v1", 5000), ("v2", 5000)], shadow=["v1", "v2"])
    world.judge(since, **({"window_seconds": WINDOW} | changes))
    return str(since)


def run(evaluator: Any, seconds: float = WINDOW * 1.2) -> PairEvidence:
    """Read all there is, then step over a window."""
    last = evaluator.client.xrevrange(evaluator.keys.labels, count=1)
    evaluator.step()
    while last and evaluator.offsets["labels"] != last[0][0].decode():
        evaluator.step()
    time.sleep(seconds)
    evaluator.step()
    return evaluator.report.pair


def test_a_better_candidate_gathers_evidence(world: Any, evaluator: Any) -> None:
    """300 labelled pairs of an equal candidate whose baseline errs in a tenth: promotion is supported, rollback is not."""
    begin(world)
    ids = world.ask(300)
    world.answer({"v1": world.mistaken(0.1, "old"), "v2": world.right})
    for rid in ids:
        world.label(rid, world.right(rid))
    pair = run(evaluator, 0.3)
    assert pair.pairs == 300
    assert pair.losses == 0
    assert pair.wins > 15
    assert pair.log_wealth_not_inferior > LEVEL
    assert pair.log_wealth_worse < 0
    assert pair.gain_lower <= pair.mean_gain <= pair.gain_upper


def test_a_worse_candidate_is_convicted(world: Any, evaluator: Any) -> None:
    """A candidate that errs in a tenth where its baseline is right: R crosses its level, and names the class that lost."""
    begin(world)
    ids = world.ask(300)
    bad = {rid for rid in ids if world.truth[rid] == "3"}
    world.answer({"v1": world.right, "v2": lambda rid: world.wrong(rid) if rid in bad else world.right(rid)})
    for rid in ids:
        world.label(rid, world.right(rid))
    pair = run(evaluator, 0.3)
    assert pair.log_wealth_worse > LEVEL
    assert pair.log_wealth_class_veto > LEVEL
    assert pair.classes["3"].mean_gain == -1.0
    assert pair.classes["4"].log_wealth < 0


def test_replayed_evidence_is_the_same_bit_for_bit(world: Any, evaluator: Any) -> None:
    """C7: the pairs in the store give the report's numbers again, and its digest."""
    begin(world)
    ids = world.ask(120, key=lambda n: b"" if n % 3 else f"frame-{n // 6}".encode())
    world.answer({"v1": world.mistaken(0.2, "old"), "v2": world.mistaken(0.1, "new")})
    for rid in ids:
        world.label(rid, world.right(rid))
    world.ask(1)
    world.answer({"v1": world.right, "v2": world.right})
    pair = run(evaluator)
    lines = b"".join(evaluator.store.get(name) for name in pair.evidence_objects).splitlines()
    observations = [parse_observation(line) for line in lines]
    again = replay(observations, pair.margin, pair.worst_class_margin, class_count=10)
    assert len(observations) == pair.pairs > 60
    assert digest_of(observations) == pair.evidence_digest
    names = ("mean_gain", "gain_lower", "gain_upper", "log_wealth_not_inferior", "log_wealth_worse",
             "log_wealth_class_veto", "classes", "wins", "losses", "pairs", "requests")  # fmt: skip
    assert [getattr(again, name) for name in names] == [getattr(pair, name) for name in names]
    assert digest_of(observations[::-1]) != pair.evidence_digest


def test_unlabelled_requests_are_waited_for_and_lower_coverage(world: Any, evaluator: Any) -> None:
    """Rule 1: pairs count in request order behind the oldest open audited request; after the window it is skipped."""
    begin(world)
    ids = world.ask(40)
    world.answer({"v1": world.right, "v2": world.right})
    for rid in ids[:10] + ids[20:]:
        world.label(rid, world.right(rid))
    assert run(evaluator, 0.3).pairs == 10
    pair = run(evaluator, WINDOW * 1.2)
    assert pair.pairs == 30
    assert pair.coverage_percent == pytest.approx(75.0)


def test_corrections_and_labels_outside_the_audit_never_judge(world: Any, evaluator: Any) -> None:
    """Rule 2: only audited requests count; an audit label elsewhere is a correction."""
    begin(world, audit_percent=30.0)
    ids = world.ask(200)  # which of them are audited is drawn by their ids, which hold the time
    world.answer({"v1": world.right, "v2": world.wrong})
    audited = [rid for rid in ids if is_audited(rid, "audit-salt", 30.0)]
    for rid in ids:
        world.label(rid, world.right(rid), source="audit" if rid not in audited[:3] else "correction")
    pair = run(evaluator, WINDOW * 1.2)
    assert 10 < len(audited) < 120
    assert pair.pairs == len(audited) - 3
    assert pair.coverage_percent == pytest.approx(100 * (len(audited) - 3) / len(audited))


def test_a_cluster_is_one_observation(world: Any, evaluator: Any) -> None:
    """Rule 3: ten frames of one key count once, with their mean; members after a window are ignored."""
    begin(world)
    ids = world.ask(40, key=lambda n: f"video-{(n - 1) // 10}".encode())
    world.answer({"v1": world.right, "v2": lambda rid: world.wrong(rid) if rid in ids[:5] else world.right(rid)})
    for rid in ids:
        world.label(rid, world.right(rid))
    world.ask(1, key=lambda n: b"video-0")
    world.answer({"v1": world.right, "v2": world.right})
    pair = run(evaluator)
    assert (pair.pairs, pair.requests) == (4, 40)
    assert pair.mean_gain == pytest.approx(-0.5 / 4)


def test_answers_of_an_heir_are_no_evidence(world: Any, evaluator: Any) -> None:
    """Substitutes are left out and count against coverage."""
    begin(world)
    ids = world.ask(200)
    world.answer({"v1": world.right})
    world.route([("v1", 10_000)], heirs={"v2": "v1"})
    world.answer({"v1": world.right})
    for rid in ids:
        world.label(rid, world.right(rid))
    pair = run(evaluator)
    assert pair.pairs == 0
    assert pair.substituted > 10
    assert pair.coverage_percent < 80


def test_a_changed_margin_starts_new_evidence(world: Any, evaluator: Any) -> None:
    """C2: nothing of the old wealth is reused; the requests since the pair's beginning are counted anew."""
    since = begin(world)
    ids = world.ask(30)
    world.answer({"v1": world.right, "v2": world.right})
    for rid in ids:
        world.label(rid, world.right(rid))
    before = run(evaluator, 0.3)
    world.judge(since, window_seconds=WINDOW, margin=0.05)
    after = run(evaluator, 0.3)
    assert (before.pairs, after.pairs) == (30, 30)
    assert after.log_wealth_not_inferior > before.log_wealth_not_inferior
    world.judge(world.client.xinfo_stream(world.keys.requests)["last-generated-id"].decode(), evidence_id="v3-canary-1",
                window_seconds=WINDOW)  # fmt: skip
    fresh = run(evaluator, 0.0)
    assert (fresh.pairs, fresh.log_wealth_not_inferior) == (0, 0.0)


def test_no_label_is_neither_pass_nor_fail(world: Any, evaluator: Any) -> None:
    """C3: without labels every wealth stays at 1 and coverage says so."""
    begin(world)
    world.ask(30)
    world.answer({"v1": world.right, "v2": world.right})
    pair = run(evaluator)
    assert (pair.pairs, pair.log_wealth_not_inferior, pair.log_wealth_worse) == (0, 0.0, 0.0)
    assert pair.coverage_percent == 0.0


def flooded(world: Any, evaluator: Any, flood: Callable[[list[str]], None]) -> PairEvidence:
    """The evidence on 200 requests with two honest labelers each, and a flood before them."""
    begin(world, labeler_quota_per_hour=5000, window_seconds=20.0)
    ids = world.ask(200)
    world.answer({"v1": world.mistaken(0.1, "old"), "v2": world.right})
    flood(ids)
    for rid in ids:
        world.label(rid, world.right(rid), by="ann")
        world.label(rid, world.right(rid), by="bob")
    return run(evaluator, 1.2)


def flood_of(world: Any) -> Callable[[list[str]], None]:
    """One account: 10 000 labels, against the candidate, on every request, again and again, and on ids nobody knows."""

    def pour(ids: list[str]) -> None:
        pipe = world.client.pipeline(transaction=False)
        for number in range(10_000):
            rid = ids[number % 200] if number % 10 else f"{number + 1}-9"
            pipe.xadd(world.keys.labels, {"r": rid, "c": world.wrong(ids[number % 200]), "by": "eve", "src": "audit"})
        pipe.execute()

    return pour


def test_a_label_flood_does_not_steer_the_verdict(world: Any, evaluator: Any) -> None:
    """C4: 10 000 wrong labels of one account leave the evidence as it would be without them."""
    pair = flooded(world, evaluator, flood_of(world))
    assert pair.pairs == 200
    assert pair.losses == 0
    assert pair.log_wealth_not_inferior > LEVEL
    report = evaluator.report
    assert report.labels.top_throttled == ("eve",)
    assert report.labels.throttled > 3000
    expected = [int(world.mistaken(0.1, "old")(rid) != world.right(rid)) for rid in list(world.truth)[1:]]
    assert pair.wins == sum(expected)


def test_mutation_without_one_vote_per_labeler_the_flood_wins(
    world: Any, evaluator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same flood turns the verdict round when every label is a vote."""
    from continual_workers.evaluation.state import State

    plain = State._vote

    def every_label_votes(self: Any, label: Any, source: str, request: Any, time_ms: int) -> None:
        from dataclasses import replace

        plain(self, replace(label, labeler=f"{label.labeler}{self.labels.received}"), source, request, time_ms)

    monkeypatch.setattr(State, "_vote", every_label_votes)
    pair = flooded(world, evaluator, flood_of(world))
    assert pair.losses > 2 * pair.wins
    assert pair.log_wealth_worse > LEVEL


@pytest.mark.parametrize(("quota", "pairs", "convicted"), [(20, 120, False), (1_000_000, 400, True)])
def test_a_quota_bounds_what_one_account_labels_alone(
    world: Any, evaluator: Any, quota: int, pairs: int, convicted: bool
) -> None:
    """One account confirms whatever the old version says where nobody else labels. The second row is the mutation: quotas off."""
    begin(world, labeler_quota_per_hour=quota)
    ids = world.ask(400)
    old = world.mistaken(0.3, "old")
    world.answer({"v1": old, "v2": world.right})
    for rid in ids[:100]:
        world.label(rid, world.right(rid), by=f"person-{rid}")
    for rid in ids[100:]:
        world.label(rid, old(rid), by="eve")
    pair = run(evaluator)
    assert pair.pairs == pairs
    assert (pair.log_wealth_worse > LEVEL) == convicted
    assert (pair.log_wealth_not_inferior > LEVEL) != convicted


def test_orders_are_complete(world: Any) -> None:
    """The driver writes what the operator writes: a whole EvaluatorConfig."""
    assert isinstance(world.judge("0-0"), EvaluatorConfig)
