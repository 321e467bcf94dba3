"""C6: against labels that are wrong all in one way for ever, the loss of a class is bounded by what the first version could do."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from continual_contract.artifacts import FirstScores, HoldoutScores
from continual_operator import judges
from continual_operator.judges import OfflineFacts
from continual_operator.ledger import LedgerEntry
from continual_operator.rehearsal import Rehearsal, minimal_model
from continual_operator.spec import OfflineGate
from hypothesis import given
from hypothesis import strategies as st

Stage = Callable[..., Rehearsal]
NO_FLOOR = OfflineGate(max_drop_from_first=1.0)


def beside(first: dict[str, list[bool]], now: dict[str, list[bool]]) -> HoldoutScores:
    """Scores by who was right on which sample of each class."""
    before, after = np.concatenate([*first.values()]), np.concatenate([*now.values()])
    return HoldoutScores(
        samples=len(after), accuracy=after.mean(), parent_accuracy=before.mean(),
        per_class={name: float(np.mean(right)) for name, right in now.items()},
        parent_per_class={name: float(np.mean(right)) for name, right in first.items()},
        per_class_samples={name: len(right) for name, right in now.items()},
        negative_flips=float((before & ~after).mean()),
    )  # fmt: skip


def right(count: int, of: int) -> list[bool]:
    return [i < count for i in range(of)]


def fallen(counts: dict[str, int], of: int) -> HoldoutScores:
    """Ten classes of so many samples each, the first version right on all of them, the candidate on all but some."""
    names = [f"c{i}" for i in range(10)]
    return beside({n: right(of, of) for n in names}, {n: right(of - counts.get(n, 0), of) for n in names})


EQUAL = fallen({}, 25)
"""A candidate and its parent on the whole holdout, where the wrong labels see nothing amiss."""


NOTHING = HoldoutScores(samples=0, accuracy=0.0, per_class={}, per_class_samples={})


def beside_first(held: HoldoutScores = NOTHING, learned: HoldoutScores = NOTHING) -> FirstScores:
    return FirstScores(held=held, learned=learned)


def facts(first: FirstScores | None, gate: OfflineGate | None = None, **changes: Any) -> OfflineFacts:
    values: dict[str, Any] = {
        "gate": gate or OfflineGate(), "scores": EQUAL, "classes": 10, "finite_loss": True, "parity_max_abs_diff": 0.0,
        "has_parent": True, "first": first,
    }  # fmt: skip
    return OfflineFacts(**(values | changes))


ALL = [f"c{i}" for i in range(10)]


def held(lost: dict[str, int], of: int = 25, gate: OfflineGate | None = None, **changes: Any) -> OfflineFacts:
    """A candidate that lost so many of each class's samples that were held out, and nothing of what was learned from."""
    return facts(beside_first(fallen(lost, of), fallen({}, 25)), gate, **changes)


def learned(lost: dict[str, int], of: int = 25, **changes: Any) -> OfflineFacts:
    return facts(beside_first(fallen({}, 5), fallen(lost, of)), **changes)


FLOOR: list[tuple[str, OfflineFacts, str, str]] = [
    ("as good as the first passes", held({}), "Pass", "OfflineGatePassed"),
    ("not measured is not judged", facts(None), "Pass", "OfflineGatePassed"),
    ("no sample is not judged", facts(beside_first()), "Pass", "OfflineGatePassed"),
    ("a class within the limit passes", held({"c3": 3}), "Pass", "OfflineGatePassed"),
    ("a class below it is refused", held({"c3": 4}), "Reject", "BelowFirstVersion"),
    ("two of five in a class may be chance", held({"c3": 2}, 5), "Pass", "OfflineGatePassed"),
    ("three of five are not", held({"c3": 3}, 5), "Reject", "BelowFirstVersion"),
    ("a class below it in what was learned from is refused", learned({"c3": 4}), "Reject", "BelowFirstVersion"),
    ("a class within the limit there passes", learned({"c3": 3}), "Pass", "OfflineGatePassed"),
    ("a little in every class passes", held(dict.fromkeys(ALL, 3)), "Pass", "OfflineGatePassed"),
    ("too much over all is refused, though no class stands out", held(dict.fromkeys(ALL, 4)), "Reject", "BelowFirstVersion"),
    ("a higher limit lets it through", held({"c3": 8}, gate=OfflineGate(max_drop_from_first=0.4)), "Pass", "OfflineGatePassed"),
    ("a strategy that keeps no image has no floor unless it is declared", held({"c3": 25}, replays=False), "Pass", "OfflineGatePassed"),
    ("declared, it has one", held({"c3": 25}, gate=OfflineGate(max_drop_from_first=0.2), replays=False), "Reject", "BelowFirstVersion"),
    ("no floor lets anything through", held({"c3": 25}, gate=NO_FLOOR), "Pass", "OfflineGatePassed"),
    ("Observe says so and lets it through", held({"c3": 8}, gate=OfflineGate(mode="Observe")), "Pass", "OfflineGateObserved"),
    ("what fails beside its parent is told first", held({"c3": 8}, scores=fallen({"c3": 4}, 25)), "Reject", "HoldoutClassDropped"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "given", "outcome", "reason"), FLOOR, ids=[row[0] for row in FLOOR])
def test_the_floor_stands_on_the_first_version(said: str, given: OfflineFacts, outcome: str, reason: str) -> None:
    """Per class and over all, beyond the limit and beyond chance."""
    verdict = judges.offline_gate(given)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


def test_the_refusal_names_class_figures_and_remedy() -> None:
    """A person reads what fell, how far, and what to do; the ledger's summary keeps 300 characters."""
    message = judges.offline_gate(held({"c3": 8})).message
    assert message.startswith(
        "class 'c3': 0.680 on the first data set's held-out samples, the first version 1.000, limit 0.15; "
    )
    assert "look for wrong labels" in message
    assert "rollout.offlineGate.maxDropFromFirst" in message
    assert len(judges.offline_gate(learned(dict.fromkeys(ALL, 8))).message) < 300


answers = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), min_size=1, max_size=6)
limits = st.floats(0.0, 1.0)


def measured(pairs: list[list[tuple[bool, bool]]]) -> HoldoutScores:
    return beside(
        {f"c{i}": [first for first, _ in pair] for i, pair in enumerate(pairs)},
        {f"c{i}": [now for _, now in pair] for i, pair in enumerate(pairs)},
    )


def passes(scores: HoldoutScores, limit: float) -> bool:
    return judges.offline_gate(facts(beside_first(scores), OfflineGate(max_drop_from_first=limit))).outcome == "Pass"


@given(answers, limits)
def test_who_answers_what_the_first_answered_right_is_never_below_it(
    pairs: list[list[tuple[bool, bool]]], limit: float
) -> None:
    """Whatever it has learned beside."""
    kept = [[(first, now or first) for first, now in pair] for pair in pairs]
    assert passes(measured(kept), limit)


@given(answers, limits, limits)
def test_a_higher_limit_refuses_nothing_more(pairs: list[list[tuple[bool, bool]]], one: float, other: float) -> None:
    """Raising it is the remedy that the message names; at 1 there is no floor."""
    scores = measured(pairs)
    assert passes(scores, max(one, other)) >= passes(scores, min(one, other))
    assert passes(scores, 1.0)


@given(answers, limits)
def test_no_class_that_is_within_the_limit_is_named(pairs: list[list[tuple[bool, bool]]], limit: float) -> None:
    """A refusal is true of what it names."""
    scores = measured(pairs)
    verdict = judges.offline_gate(facts(beside_first(scores), OfflineGate(max_drop_from_first=limit)))
    if verdict.outcome == "Reject" and verdict.message.startswith("class"):
        name = verdict.message.split("'")[1]
        assert scores.parent_per_class[name] - scores.per_class[name] > limit


def poisoned(gate: OfflineGate, retrainings: int, of: int) -> list[int]:
    """Samples of a class that the served version still knows, where each retraining loses one and the stream's labels agree with it."""
    known = [of]
    for _ in range(retrainings):
        candidate = max(0, known[-1] - 1)
        verdict = judges.offline_gate(held({"c3": of - candidate}, of, gate))
        known.append(candidate if verdict.outcome == "Pass" else known[-1])
    return known


@pytest.mark.parametrize(("of", "least"), [(5, 3), (25, 22), (110, 94), (410, 349)])
def test_slow_poisoning_ends_at_the_floor(of: int, least: int) -> None:
    """Mutation check in the same table: without the floor the class is gone, one step within every limit at a time."""
    assert min(poisoned(OfflineGate(), of, of)) == least
    assert min(poisoned(NO_FLOOR, of, of)) == 0


@pytest.mark.parametrize("of", [5, 25, 100])
def test_a_version_that_lost_a_little_of_each_class_is_hardly_ever_refused(of: int) -> None:
    """In twelve scenarios honest versions lost five points of a class at most (docs/decisions/0230); what of it is seen comes by chance."""
    rng, names, refused = np.random.default_rng(of), [f"c{i}" for i in range(10)], 0
    for _ in range(400):
        first = {name: list(rng.random(of) < 0.96) for name in names}
        now = {name: list(np.where(rng.random(of) < 0.05, False, first[name])) for name in names}
        refused += judges.offline_gate(facts(beside_first(beside(first, now)))).outcome == "Reject"
    assert refused <= 12


def test_what_was_recorded_before_the_floor_is_replayed_as_it_was() -> None:
    """C7: an entry that names neither the limit nor the first version's scores."""
    recorded = judges.dump_facts(facts(None))
    del recorded["first"], recorded["replays"], recorded["gate"]["max_drop_from_first"]
    entry = LedgerEntry(
        sequence=1, time=datetime(2026, 3, 2, tzinfo=UTC), namespace="default", model="digits", uid="u", generation=1,
        action="Accept", verdict="Pass", reason="", message="", judge="offline_gate", facts=json.loads(json.dumps(recorded)),
    )  # fmt: skip
    assert judges.replay(entry) == judges.offline_gate(facts(None))


def test_a_candidate_below_the_floor_never_goes_live(stage: Stage) -> None:
    """The operator reads it from the checkpoint, refuses it beside a parent it equals, and says why."""
    play = stage()
    play.serve_first()
    play.start_retraining()
    digest = play.end_training(first_scores=beside_first(fallen({"c3": 8}, 25)))
    play.settle()
    assert digest in play.status.quarantine
    assert play.shares == {"v1": 10_000}
    assert play.status.decisions[-1].reason == "BelowFirstVersion"
    assert "class 'c3': 0.680" in play.status.decisions[-1].message


def test_a_raised_limit_lets_the_next_one_in(stage: Stage) -> None:
    """The remedy works: the same loss under a higher limit is a candidate."""
    play = stage()
    play.serve_first()
    play.change_spec(rollout={"offlineGate": {"maxDropFromFirst": 0.4}})
    play.start_retraining()
    play.end_training(first_scores=beside_first(fallen({"c3": 8}, 25)))
    play.settle()
    assert play.status.canary is not None


@pytest.mark.parametrize(
    ("strategy", "refused"), [("der++", True), ("ewc", False), ("lwf", False), ("fine-tune", False)]
)
def test_the_operator_knows_which_strategies_replay(stage: Stage, strategy: str, refused: bool) -> None:
    """Honest drift costs those that keep no image a third of a class: a floor would keep the drifted model for ever."""
    play = stage()
    play.serve_first()
    play.start_retraining()
    digest = play.end_training(first_scores=beside_first(fallen({"c3": 8}, 25)), strategy=strategy)
    play.settle()
    assert (digest in play.status.quarantine) is refused


def test_an_imported_first_version_is_its_own_floor(stage: Stage) -> None:
    """What it had lost under another model is no matter here: it is the first accepted version of this one."""
    donor = stage()
    donor.serve_first()
    donor.start_retraining()
    digest = donor.end_training(first_scores=beside_first(fallen({"c3": 8}, 25)))
    donor.settle()
    model = minimal_model()
    key = donor.registry.layout.manifest(digest)
    model["spec"]["bootstrap"] = {"checkpoint": {"objectKey": key, "digest": digest}}
    play = stage(model)
    play.store.objects.update({k: v for k, v in donor.store.objects.items() if "/trainings/" not in k})
    play.settle()
    assert play.status.stable is not None
    assert play.status.stable.digest == digest
