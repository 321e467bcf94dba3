"""The demo's books: losses, duplicates, accuracy and shares, each on a case small enough to count by hand."""

from __future__ import annotations

import math

import pytest
from continual_cli.demo import ledger
from continual_contract.ids import EntryId, GroupName
from continual_contract.routing import Epoch
from hypothesis import given
from hypothesis import strategies as st


def _epoch(after: str, canary_bp: int, salt: str = "s") -> Epoch:
    shares = ((GroupName("v1@1"), 10_000 - canary_bp), (GroupName("v2@2"), canary_bp))
    return Epoch(EntryId(after), shares if canary_bp else shares[:1], (), 0, salt)


def _books(requests: int, epoch: Epoch, *, keys: int | None = None) -> ledger.Books:
    """Requests 1-0, 2-0, … answered by exactly their owners, all correctly."""
    books = ledger.Books()
    for n in range(1, requests + 1):
        key = b"k%d" % (n % keys if keys else n)
        sent = ledger.Sent(f"{n}-0", n, "3", key, n % 2 == 0, float(n))
        books.book_request(sent)
        version = ledger.owner_version(epoch, sent)
        books.book_answer(ledger.Answered(sent.request_id, version, "owner", "3", n + 0.1))
    return books


def test_a_second_answer_is_a_duplicate_and_the_first_one_counts() -> None:
    """Exactly one visible prediction per request: the books see the second one."""
    books = _books(3, _epoch("0-0", 0))
    books.book_answer(ledger.Answered("2-0", "v9", "owner", "8", 9.0))
    assert (books.duplicates, books.answers["2-0"].version) == (1, "v1")


def test_an_accepted_request_without_answer_is_named() -> None:
    """A loss is shown by its request id, oldest first, in the order of stream ids and not of text."""
    books = _books(12, _epoch("0-0", 0))
    del books.answers["10-0"], books.answers["9-0"]
    assert books.unanswered() == ["9-0", "10-0"]


def test_accuracy_counts_score_only_requests_of_the_window_alone() -> None:
    """Labelled requests never enter an accuracy figure of the summary."""
    books = _books(10, _epoch("0-0", 0))
    books.answers["4-0"] = ledger.Answered("4-0", "v1", "owner", "8", 4.1)
    assert ledger.score_only(books, 2, 7) == ledger.Score(3, 2)
    assert math.isnan(ledger.score_only(books, 100, 200).accuracy)


def test_bins_split_accuracy_by_time_and_version() -> None:
    """Requests 2, 4, 6, 8, 10 are score-only: widths of five seconds hold 2, 2 and 1 of them."""
    counted = [(b.second, b.version, b.requests) for b in ledger.bins(_books(10, _epoch("0-0", 0)), 5.0)]
    assert counted == [(0.0, "v1", 2), (5.0, "v1", 2), (10.0, "v1", 1)]


def test_owners_hold_their_share_within_four_deviations() -> None:
    """Answers by owner reproduce the share: 3 000 keys at 10 %."""
    epoch = _epoch("0-0", 1000)
    share = ledger.canary_share(_books(3000, epoch), ledger.EpochTable([epoch]))
    assert share.requests == 3000
    assert share.expected == pytest.approx(0.1)
    assert abs(share.z) < 4


def test_a_wrong_share_is_noticed() -> None:
    """Mutation: the canary answers a tenth although the table gives it a half."""
    books = _books(3000, _epoch("0-0", 1000))
    table = ledger.EpochTable([_epoch("0-0", 5000)])
    assert ledger.canary_share(books, table).z < -4
    assert len(ledger.wrong_owners(books, table)) > 1000


def test_repeated_keys_widen_the_deviation() -> None:
    """Thirty keys are thirty draws, however often they come: the deviation does not shrink with requests."""
    epoch = _epoch("0-0", 1000)
    few = ledger.canary_share(_books(3000, epoch, keys=30), ledger.EpochTable([epoch]))
    assert abs(few.z) < 4
    assert few.z == pytest.approx((few.observed - 0.1) / math.sqrt(0.09 / 30), rel=1e-6)


def test_draws_of_one_rollout_are_nested() -> None:
    """A key seen once at 10 % and once at 50 % under one salt: variance .09 + .25 + 2(.1 − .05), not .34."""
    table = ledger.EpochTable([_epoch("0-0", 1000), _epoch("1-0", 5000)])
    books = ledger.Books()
    for n in (1, 2):
        books.book_request(ledger.Sent(f"{n}-0", n, "3", b"k", False, float(n)))
        books.book_answer(ledger.Answered(f"{n}-0", "v1", "owner", "3", float(n)))
    assert ledger.canary_share(books, table).z == pytest.approx(-0.6 / math.sqrt(0.44))


def test_an_heir_is_no_wrong_owner() -> None:
    """After a rollback the stable version finishes the dead version's requests: that is the protocol."""
    epoch = _epoch("0-0", 5000)
    books = _books(50, epoch)
    taken = next(r for r in books.sent.values() if ledger.owner_version(epoch, r) == "v2")
    books.answers[taken.request_id] = ledger.Answered(taken.request_id, "v1", "heir", "3", 1.0)
    assert ledger.wrong_owners(books, ledger.EpochTable([epoch])) == []


@given(st.lists(st.integers(1, 400), min_size=1, unique=True), st.integers(0, 400))
def test_an_epoch_begins_after_its_id(starts: list[int], asked: int) -> None:
    """`after` is exclusive: a request equal to it belongs to the epoch before."""
    table = ledger.EpochTable([_epoch(f"{start}-0", 0) for start in starts])
    epoch = table.of(f"{asked}-0")
    earlier = [start for start in starts if start < asked]
    assert (epoch.after if epoch else None) == (f"{max(earlier)}-0" if earlier else None)


def test_labels_are_counted_between_two_requests() -> None:
    """Labels to detect = labelled requests after the drift began, up to the request that raised the alarm."""
    assert ledger.labels_between(["5-0", "9-0", "10-0", "11-0"], "5-0", "10-0") == 2
