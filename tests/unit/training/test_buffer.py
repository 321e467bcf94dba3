"""The replay buffer never overflows, and its policies keep who they promise to keep."""

from __future__ import annotations

import numpy as np
import pytest
from continual_contract.artifacts import InputShape
from continual_contract.errors import UsageError
from continual_workers.training.buffer import POLICIES, ReplayBuffer, fill_evenly
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = InputShape(height=2, width=2, channels=1)
EXPERIENCES = st.lists(st.lists(st.integers(0, 4), min_size=0, max_size=40), min_size=1, max_size=5)


def images_of(labels: list[int], start: int = 0) -> np.ndarray:
    """Images that carry their own number, so that one is recognisable after any shuffling."""
    numbers = np.arange(start, start + len(labels), dtype=np.uint32)
    return numbers.view(np.uint8).reshape(-1, 2, 2, 1)


def filled(experiences: list[list[int]], capacity: int, policy: str, seed: int = 0) -> ReplayBuffer:
    buffer = ReplayBuffer.empty(capacity, SHAPE, 5, seed)
    start = 0
    for number, labels in enumerate(experiences):
        buffer.offer(images_of(labels, start), np.array(labels, dtype=np.int64), number, POLICIES[policy])
        start += len(labels)
    return buffer


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(EXPERIENCES, st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_buffer_keeps_at_most_its_capacity_of_what_it_was_offered(
    policy: str, experiences: list[list[int]], capacity: int
) -> None:
    """Size, pairing of image and label, no duplicates, and the count of what was ever seen."""
    buffer = filled(experiences, capacity, policy)
    everything = [label for labels in experiences for label in labels]
    numbers = np.ascontiguousarray(buffer.images.reshape(-1, 4)).view(np.uint32).ravel()
    assert len(buffer) == min(capacity, len(everything))
    assert len(set(numbers.tolist())) == len(buffer)
    assert [everything[n] for n in numbers] == buffer.labels.tolist()
    assert buffer.seen.tolist() == np.bincount(everything, minlength=5).tolist()
    assert len(buffer.logits) == len(buffer.experiences) == len(buffer)


@given(EXPERIENCES, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_class_quotas_differ_by_one_unless_a_class_has_no_more(experiences: list[list[int]], capacity: int) -> None:
    """No class holds two more than another that still had samples on offer (of the first experience: nothing lost yet)."""
    buffer = filled(experiences[:1], capacity, "class-quota")
    offered = np.bincount(experiences[0], minlength=5)
    held = buffer.class_counts()
    hungry = [c for c in range(5) if held[c] < offered[c]]
    assert all(held.max() - held[c] <= 1 for c in hungry)


def test_a_rare_class_keeps_all_it_has() -> None:
    """At 20:1 with a capacity of 100, the quota keeps all six of the rarest class; a reservoir keeps about 0.8."""
    labels = [0] * 760 + [1] * 6
    assert filled([labels], 100, "class-quota").class_counts()[1] == 6
    assert filled([labels], 100, "class-balanced-reservoir").class_counts()[1] == 6
    kept = [filled([labels], 100, "reservoir", seed).class_counts()[1] for seed in range(40)]
    assert np.mean(kept) == pytest.approx(6 * 100 / 766, abs=0.5)


def test_experiences_share_a_class_equally() -> None:
    """Within a class every experience keeps the same, though the later one offered ten times as much."""
    buffer = filled([[0] * 20, [0] * 200], 20, "class-quota")
    assert np.bincount(buffer.experiences).tolist() == [10, 10]


def test_a_reservoir_is_fair_to_early_and_late() -> None:
    """Algorithm R: an early sample survives as often as a late one."""
    early = [int((filled([[0] * 50, [0] * 50], 20, "reservoir", s).experiences == 0).sum()) for s in range(200)]
    assert np.mean(early) == pytest.approx(10, abs=0.6)


def test_same_seed_same_buffer() -> None:
    """All randomness is the buffer's own generator."""
    a, b = (filled([[0, 1, 2] * 20], 10, "class-quota", seed=3) for _ in range(2))
    assert a.images.tobytes() == b.images.tobytes()


def test_a_stored_buffer_goes_on_where_it_stopped() -> None:
    """Restored from its arrays and generator state it makes the same choices as the one that was never stored."""
    buffer = filled([[0, 1, 2] * 20], 10, "reservoir")
    copy = ReplayBuffer.restore(10, buffer.tensors(), buffer.rng.bit_generator.state)
    for each in (buffer, copy):
        each.offer(images_of([3] * 30, 500), np.full(30, 3), 1, POLICIES["reservoir"])
    assert buffer.images.tobytes() == copy.images.tobytes()


def test_a_smaller_capacity_cuts_by_class_quota() -> None:
    """A stored buffer that no longer fits keeps the classes equal."""
    buffer = filled([[0] * 10 + [1] * 10], 20, "class-quota")
    assert ReplayBuffer.restore(6, buffer.tensors(), buffer.rng.bit_generator.state).class_counts().tolist() == [
        3,
        3,
        0,
        0,
        0,
    ]


def test_new_classes_extend_logits_and_counts() -> None:
    """An appended class leaves what is stored as it is: its logits are 0, none of it was seen."""
    buffer = filled([[0, 1]], 4, "class-quota")
    buffer.grow_classes(7)
    assert buffer.logits.shape == (2, 7)
    assert buffer.seen.tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_a_negative_capacity_is_refused() -> None:
    """The message names the field and the value."""
    with pytest.raises(UsageError, match=r"replayCapacity.*-1"):
        ReplayBuffer.empty(-1, SHAPE, 2, 0)


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 60))
def test_filling_evenly_is_exact_and_fair(sizes: list[int], capacity: int) -> None:
    """All of the capacity is used, nobody gets more than it has, nobody two more than one that wanted more."""
    takes = fill_evenly(sizes, capacity)
    assert sum(takes) == min(capacity, sum(sizes))
    assert all(take <= size for take, size in zip(takes, sizes, strict=True))
    wanting = [take for take, size in zip(takes, sizes, strict=True) if take < size]
    assert not wanting or max(takes) - min(wanting) <= 1
