"""The demo's figures and its verdict over itself: every miss must be a miss."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from continual_cli.demo import summary
from continual_cli.demo.ledger import Answered, Books, EpochTable, Sent, owner_version
from continual_cli.demo.story import Marks, adapt
from continual_contract.ids import EntryId, GroupName
from continual_contract.routing import Epoch

DECISIONS: tuple[dict[str, Any], ...] = (
    {
        "action": "Promote",
        "version": "v2",
        "baseline": "v1",
        "acted": True,
        "facts": {"gate": {}, "evidence": {"pairs": 112}},
    },
    {"action": "Rollback", "version": "v3", "acted": True, "facts": {"evidence": {"pairs": 31}}},
)


def _epochs() -> EpochTable:
    one = ((GroupName("v1@1"), 10_000),)
    two = ((GroupName("v1@1"), 9_000), (GroupName("v2@2"), 1_000))
    return EpochTable([Epoch(EntryId("0-0"), one, (), 0, "a"), Epoch(EntryId("2500-0"), two, (), 0, "b")])


def _books(table: EpochTable, wrong: range) -> Books:
    """4 000 score-only requests, one a millisecond, a thousand a second; `wrong` ones are answered wrongly."""
    books = Books()
    for n in range(1, 4001):
        sent = Sent(f"{n}-0", n, "3", b"k%d" % n, True, n / 1000)
        epoch = table.of(sent.request_id)
        assert epoch is not None
        books.book_request(sent)
        books.book_answer(
            Answered(sent.request_id, owner_version(epoch, sent), "owner", "8" if n in wrong else "3", n / 1000)
        )
    return books


@pytest.fixture
def good() -> summary.Outcome:
    """A run in which everything was reached: calm to 1 s, drift to 2.5 s, recovered from 3 s."""
    table = _epochs()
    marks = Marks(0.0, 1.0, "1000-0", "1040-0", 2.5, 3.0, 4.1, "v3", "v2", {"fixed": True})
    labelled = [f"{n}-0" for n in range(0, 4000, 2)]
    return summary.Outcome(
        _books(table, range(1001, 1600)), table, marks, labelled, DECISIONS, ("v1", "v2", "v3"), 0, 240.0, 900
    )


def missed(outcome: summary.Outcome) -> list[str]:
    return [check.name for check in summary.checks(summary.summarize(outcome), outcome) if not check.passed]


def test_a_good_run_misses_nothing(good: summary.Outcome) -> None:
    """All figures are in the summary and all bounds are kept."""
    figures = summary.summarize(good)
    assert missed(good) == []
    assert figures["accuracy_before_drift"] == 1.0
    assert figures["accuracy_after_drift"] == pytest.approx(0.6, abs=0.01)
    assert (figures["labels_to_detect_drift"], figures["labels_to_promote"], figures["labels_to_roll_back"]) == (
        20,
        112,
        31,
    )


def test_the_summary_holds_every_promised_figure(good: summary.Outcome) -> None:
    """The names that others read."""
    promised = (
        "requests predictions duplicates lost dead promotions rollbacks versions accuracy_before_drift accuracy_after_drift "
        "accuracy_after_recovery labels_to_detect_drift labels_to_promote labels_to_roll_back canary_share_expected "
        "canary_share_observed correction_fixed seconds"
    )
    assert set(promised.split()) <= summary.summarize(good).keys()


def test_a_lost_request_is_missed(good: summary.Outcome) -> None:
    """Mutation: one answer is taken away."""
    del good.books.answers["77-0"]
    assert missed(good) == ["requests lost"]


def test_a_duplicate_is_missed(good: summary.Outcome) -> None:
    """Mutation: one answer is published twice."""
    good.books.book_answer(good.books.answers["77-0"])
    assert missed(good) == ["duplicate predictions"]


def test_a_recovery_three_points_short_is_missed(good: summary.Outcome) -> None:
    """Mutation: 3 % of the answers after the promotion are wrong."""
    books = _books(good.table, range(3001, 3034))
    assert missed(dataclasses.replace(good, books=books)) == ["accuracy after recovery"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"decisions": DECISIONS[:1]}, "rollbacks"),
        ({"decisions": DECISIONS[1:]}, "promotions"),
        ({"seconds": 301.0}, "seconds"),
        ({"scored": 2000}, "score-only requests per accuracy"),
        ({"failure": "calm: waited 60 s"}, "the story ended"),
    ],
)
def test_what_was_not_reached_is_missed(good: summary.Outcome, change: dict[str, Any], name: str) -> None:
    """One bound each."""
    assert missed(dataclasses.replace(good, **change)) == [name]


def test_a_slow_machine_is_shown_and_fails_nothing(good: summary.Outcome) -> None:
    """Seconds are the machine's; everything else is the loop's."""
    slow = dataclasses.replace(good, seconds=301.0)
    (check,) = (c for c in summary.checks(summary.summarize(slow), slow) if not c.passed)
    assert (check.name, check.word, check.failed) == ("seconds", "slower", False)


def test_a_correction_that_failed_is_missed(good: summary.Outcome) -> None:
    """`fixed` must be true, not merely present."""
    good.marks.correction = {"fixed": False}
    assert missed(good) == ["correction learned"]


def test_a_story_that_never_began_is_all_missed() -> None:
    """No figure is invented: nulls, and no check passes by accident but the counts of nothing."""
    nothing = summary.Outcome(
        Books(), EpochTable([]), Marks(), [], [], [], 0, 3.0, 2000, "training v1: no redis-server"
    )
    figures = summary.summarize(nothing)
    assert figures["accuracy_before_drift"] is None
    assert figures["canary_share_observed"] is None
    assert {"the story ended", "promotions", "accuracy after recovery", "canary share off by"} <= set(missed(nothing))


def test_only_decisions_that_were_acted_on_count() -> None:
    """In mode Observe a verdict is recorded and nothing happens."""
    assert summary.count([{"action": "Promote", "acted": False}, {"action": "Promote"}], "Promote") == 1


def test_the_demo_trains_v1_from_600_digits_only() -> None:
    """The example's manifest is changed in four places and nowhere else."""
    spec: dict[str, Any] = {
        "retraining": {"triggers": [{"drift": {"falseAlarmEvery": 10000}}]},
        "rollout": {"gate": {"margin": 0.03}},
        "feedback": {},
        "bootstrap": {"dataset": {"name": "digits"}},
    }
    adapted = adapt({"spec": spec})["spec"]
    assert adapted["bootstrap"]["dataset"]["format"] == "npz"
    assert adapted["rollout"]["gate"]["margin"] == 0.03
    assert adapted["retraining"]["triggers"] == [{"drift": {"falseAlarmEvery": 10000, "minSamples": 500}}]
