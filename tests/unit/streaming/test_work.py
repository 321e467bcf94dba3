"""Queues and leases between the threads."""

from __future__ import annotations

from continual_contract.entries import RequestEntry
from continual_contract.ids import EntryId, GroupName, RequestId
from continual_workers.streaming.duty import SHADOW, STABLE, Duty
from continual_workers.streaming.work import Batch, Job, Leases, Outbox, WorkQueue

GROUP = GroupName("v1@1")


def job(entry_id: str, duty: Duty = STABLE) -> Job:
    return Job(RequestEntry(EntryId(entry_id), RequestId(entry_id), b""), duty)


def batch(*entry_ids: str, duty: Duty = STABLE) -> Batch:
    return Batch(GROUP, tuple(job(i, duty) for i in entry_ids))


def test_owned_batches_come_before_shadow_batches() -> None:
    """However long the shadow work has been waiting."""
    queue = WorkQueue()
    dark, owned = batch("1-0", duty=SHADOW), batch("2-0")
    queue.put([dark])
    queue.put([owned])
    queue.close()
    assert [queue.take(), queue.take(), queue.take()] == [owned, dark, None]


def test_a_read_waits_for_room() -> None:
    """One waiting owned batch, or too many shadow ones, hold the reader back: a lease shall not age in a queue."""
    queue = WorkQueue(shadow_limit=2)
    assert queue.wait_for_room(0)
    queue.put([batch("1-0", duty=SHADOW)])
    assert queue.wait_for_room(0)
    queue.put([batch("2-0", duty=SHADOW)])
    assert not queue.wait_for_room(0)
    queue.take()
    queue.put([batch("3-0")])
    assert not queue.wait_for_room(0)


def test_behind_a_full_batch_a_second_one_may_wait() -> None:
    """A full read says that there is a backlog; what was only acknowledged counts as read. A third one never waits."""
    queue = WorkQueue(full=3)
    passed = Batch(GROUP, (job("1-0"),), acknowledged=(EntryId("2-0"), EntryId("3-0")))
    queue.put([passed])
    assert queue.wait_for_room(0)
    queue.put([batch("4-0", "5-0", "6-0")])
    assert not queue.wait_for_room(0)
    queue.take()
    assert queue.wait_for_room(0)
    queue.take()
    queue.put([batch("7-0", "8-0")])
    assert not queue.wait_for_room(0)


def test_a_closed_queue_finishes_what_it_has_unless_told_to_discard() -> None:
    """A stop finishes; a failure leaves the work pending in Redis."""
    finishing, failing = WorkQueue(), WorkQueue()
    for queue in (finishing, failing):
        queue.put([batch("1-0")])
    finishing.close()
    failing.close(discard=True)
    assert finishing.take() is not None
    assert finishing.take() is None
    assert failing.take() is None


def test_leases_last_from_the_read_to_the_reply() -> None:
    """What is held is known by id; what is due is known by age; empty means nothing in flight."""
    leases, one = Leases(), batch("1-0", "2-0")
    assert leases.wait_empty(0)
    leases.begin(one)
    assert leases.holds(GROUP) == {"1-0", "2-0"}
    assert leases.holds(GroupName("v2@2")) == set()
    assert (leases.due(0), leases.due(1000)) == ([one], [])
    assert not leases.wait_empty(0)
    leases.end(one)
    assert leases.wait_empty(0)


def test_entries_taken_over_leave_the_batch() -> None:
    """Neither handled nor renewed again."""
    one = batch("1-0", "2-0")
    one.lost.add(EntryId("1-0"))
    assert one.leased() == ["2-0"]
    assert [j.request.entry_id for j in one.live_jobs()] == ["2-0"]


def test_the_outbox_gives_everything_at_once() -> None:
    """What waits is sent together; done means closed and empty."""
    outbox = Outbox()
    first, second = batch("1-0"), batch("2-0")
    outbox.put(first)
    outbox.put(second)
    outbox.close()
    assert not outbox.is_done
    assert outbox.take_all(0) == [first, second]
    assert outbox.is_done
    assert outbox.take_all(0) == []
