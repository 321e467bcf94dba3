"""What the reader asks for, and how it cuts what it got."""

from __future__ import annotations

import pytest
from continual_contract.entries import RequestEntry, plain_request
from continual_contract.ids import EntryId, GroupName, Version
from continual_contract.keys import ModelKeys
from continual_contract.routing import Epoch, Group, Routing
from continual_workers.streaming.options import ConsumerOptions
from continual_workers.streaming.outcomes import Counters
from continual_workers.streaming.reader import Reader
from continual_workers.streaming.shared import Shared
from continual_workers.streaming.work import Batch

V1, V2 = GroupName("v1@1"), GroupName("v2@2")


def reader_of_v2(share: int, shadow: tuple[GroupName, ...] = ()) -> Reader:
    """A reader of version v2 with a cap of 32 that has this table and no Redis."""

    def connect() -> None:
        raise AssertionError("nothing is sent here")

    options = ConsumerOptions(batch_size=32)
    shared = Shared(connect, ModelKeys("n", "m"), "v2", "0123456789ab", "v2/a", options, Counters())  # type: ignore[arg-type]
    epoch = Epoch(EntryId("0-0"), ((V1, 10_000 - share), (V2, share)), shadow, 10_000, "s")
    groups = {V1: Group(Version("v1"), Version("v1")), V2: Group(Version("v2"), Version("v2"))}
    reader = Reader(shared)
    reader._routing = Routing(1, "u", 1, (epoch,), groups, ((0, 0),))
    return reader


def requests(number: int) -> list[RequestEntry]:
    return [plain_request(f"1790000000000-{n}".encode(), b"x" * 100) for n in range(number)]


def handed_out(reader: Reader) -> list[Batch]:
    """Everything that waits for the handler."""
    work = reader._shared.work
    work.close()
    return list(iter(work.take, None))


def test_what_is_owned_is_cut_to_the_cap() -> None:
    """A read for a small share that all became ours when the version was promoted in between."""
    reader = reader_of_v2(10_000)
    sent = requests(100)
    reader._dispatch(V2, [(request, 1) for request in sent])
    batches = handed_out(reader)
    assert [len(batch.jobs) for batch in batches] == [32, 32, 32, 4]
    assert [job.request for batch in batches for job in batch.jobs] == sent


@pytest.mark.parametrize("shadow", [(), (V1, V2)], ids=["acknowledged", "answered in the dark"])
def test_every_delivery_is_in_one_batch(shadow: tuple[GroupName, ...]) -> None:
    """Owned, dark, passed and hopeless entries: each once, owned batches first."""
    reader = reader_of_v2(3_000, shadow)
    reader._shared.options = ConsumerOptions(batch_size=32, max_lag_seconds=1e12)
    sent = requests(200)
    reader._dispatch(V2, [(request, 1 if n % 10 else 9) for n, request in enumerate(sent)])
    batches = handed_out(reader)
    assert sorted(i for batch in batches for i in batch.leased()) == sorted(request.entry_id for request in sent)
    assert max(len(batch.jobs) for batch in batches) <= 32
    kinds = [batch.is_shadow for batch in batches]
    assert kinds == sorted(kinds)
    assert any(kinds) == bool(shadow)
    assert {job.deliveries for batch in batches for job in batch.given_up} == {9}


@pytest.mark.parametrize(("size", "count"), [(100, 256), (20_000, 104), (300_000, 32)])
def test_a_read_for_a_small_share_stays_small_in_bytes(size: int, count: int) -> None:
    """Eight batches of small images, one of large ones; one before any was seen."""
    reader = reader_of_v2(1_000)
    assert reader._count(V2) == 32
    reader._take(V2, [[b"stream", [[b"1790000000000-1", [b"d", b"x" * size]]]]])
    assert reader._count(V2) == count
