"""What a worker owes an entry: own, shadow, pass or leave alone; a table of situations and properties over all of them."""

from __future__ import annotations

import pytest
from continual_contract.entries import RequestEntry
from continual_contract.ids import EntryId, GroupName, RequestId, Version, id_key
from continual_contract.routing import Epoch, Group, Routing
from continual_workers.streaming.duty import (
    CANARY,
    HEIR,
    PASS,
    SHADOW,
    STABLE,
    UNKNOWN,
    batches_per_read,
    duties_of,
    duty_of,
    served_groups,
)
from hypothesis import given
from hypothesis import strategies as st

V1, V2 = GroupName("v1@1"), GroupName("v2@2")


def routing(
    shares: tuple[tuple[GroupName, int], ...],
    *,
    shadow: tuple[GroupName, ...] = (),
    v2_serves: str = "v2",
    after: str = "0-0",
) -> Routing:
    epoch = Epoch(EntryId(after), shares, shadow, 10_000 if shadow else 0, "s")
    groups = {V1: Group(Version("v1"), Version("v1")), V2: Group(Version("v2"), Version(v2_serves))}
    return Routing(1, "u", 1, (epoch,), groups, (id_key(after),))


def request(entry_id: str = "5-0") -> RequestEntry:
    return RequestEntry(EntryId(entry_id), RequestId(entry_id), b"", key=b"k")


ALL_V1 = ((V1, 10_000), (V2, 0))
ALL_V2 = ((V1, 0), (V2, 10_000))


@pytest.mark.parametrize(
    ("table", "group", "version", "duty"),
    [
        (routing(ALL_V1), V1, "v1", STABLE),
        (routing(ALL_V1), V2, "v2", PASS),
        (routing(ALL_V1, shadow=(V1, V2)), V2, "v2", SHADOW),
        (routing(ALL_V2, shadow=(V1, V2)), V2, "v2", CANARY),
        (routing(ALL_V2, shadow=(V1, V2)), V1, "v1", SHADOW),
        (routing(ALL_V2, v2_serves="v1"), V2, "v1", HEIR),
        (routing(ALL_V1, shadow=(V1, V2), v2_serves="v1"), V2, "v1", PASS),
        (routing(ALL_V1, after="5-0"), V1, "v1", UNKNOWN),
    ],
    ids=[
        "the owner publishes", "who owns nothing acknowledges", "a shadow answers in the dark", "a later share is the canary",
        "the stable version shadows what the canary owns", "an heir answers for the dead", "an heir never answers in the dark",
        "an entry without an epoch is left alone",
    ],
)  # fmt: skip
def test_duties(table: Routing, group: GroupName, version: str, duty: object) -> None:
    """One row per sentence of the protocol."""
    assert duty_of(table, group, version, request()) == duty


@given(width=st.integers(0, 10_000), number=st.integers(1, 10**13), shadow=st.booleans())
def test_every_request_has_exactly_one_owner_among_the_groups(width: int, number: int, shadow: bool) -> None:
    """Whatever the shares: one group publishes, the other shadows or acknowledges."""
    table = routing(((V1, 10_000 - width), (V2, width)), shadow=(V1, V2) if shadow else ())
    entry = RequestEntry(EntryId(f"{number}-0"), RequestId(f"{number}-0"), b"")
    kinds = sorted(duty_of(table, g, v, entry).kind for g, v in ((V1, "v1"), (V2, "v2")))
    assert kinds == (["own", "shadow"] if shadow else ["own", "pass"])


def test_the_group_to_wait_on_comes_last() -> None:
    """Inherited groups are read without waiting; the own open group blocks."""
    groups = {
        GroupName("v1@1"): Group(Version("v1"), Version("v1")),
        GroupName("v2@2"): Group(Version("v2"), Version("v1"), EntryId("9-0")),
        GroupName("v9@9"): Group(Version("v9"), Version("v1"), EntryId("9-0")),
        GroupName("v3@3"): Group(Version("v3"), Version("v3")),
    }
    assert served_groups(Routing(1, "u", 1, (), groups), "v1") == ["v2@2", "v9@9", "v1@1"]


@given(
    ids=st.lists(st.integers(1, 9), min_size=1, max_size=12).map(sorted),
    second=st.sampled_from([((V1, 10_000),), ((V2, 10_000),), ((V1, 6_000), (V2, 4_000))]),
    half=st.sampled_from([0, 5_000, 10_000]),
)
def test_a_batch_is_judged_as_its_entries_one_by_one(
    ids: list[int], second: tuple[tuple[GroupName, int], ...], half: int
) -> None:
    """The short cut for an undivided epoch changes no duty, also where the epoch changes within the batch."""
    first = Epoch(EntryId("2-0"), ((V1, 10_000),), (V2,), half, "s")
    later = Epoch(EntryId("5-0"), second, (V1, V2), half, "s")
    groups = {V1: Group(Version("v1"), Version("v1")), V2: Group(Version("v2"), Version("v2"))}
    table = Routing(1, "u", 1, (first, later), groups, (id_key(first.after), id_key(later.after)))
    requests = [request(f"{n}-0") for n in ids]
    for group, version in ((V1, "v1"), (V2, "v2")):
        assert duties_of(table, group, version, requests) == [duty_of(table, group, version, r) for r in requests]


@pytest.mark.parametrize(
    ("table", "group", "batches"),
    [
        (routing(((V1, 10_000),)), V1, 1),
        (routing(((V1, 9_000), (V2, 1_000))), V1, 1),
        (routing(((V1, 7_500), (V2, 2_500))), V2, 4),
        (routing(((V1, 9_000), (V2, 1_000))), V2, 8),
        (routing(ALL_V1), V2, 8),
        (routing(((V1, 9_000), (V2, 1_000)), shadow=(V1, V2)), V2, 1),
    ],
    ids=[
        "who owns all", "who owns most", "a quarter", "a tenth: the bound", "nothing yet", "who answers the rest in the dark",
    ],
)  # fmt: skip
def test_a_small_share_reads_several_batches_at_once(table: Routing, group: GroupName, batches: int) -> None:
    """So that what is left of a read is about one batch."""
    assert batches_per_read(table, group) == batches


def test_a_closed_group_reads_one_batch() -> None:
    """It owns everything up to its end."""
    table = routing(ALL_V1)
    table.groups[V2] = Group(Version("v2"), Version("v1"), EntryId("9-0"))
    assert batches_per_read(table, V2) == 1
