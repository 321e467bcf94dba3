"""The battery every strategy passes: real digits, classes that come later, a process that dies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from continual_contract.artifacts import CheckpointManifest
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.state import decode_checkpoint
from continual_workers.training.strategies import STRATEGIES

REMEMBERING = ["der++", "er", "er-ace", "gdumb", "joint"]


def learned(school, strategy: str, **changes: object) -> CheckpointManifest:
    shard = school.lab.shard(school.new)
    inputs = school.lab.retrain_inputs(school.parent, (shard,), strategy=strategy, replay_capacity=200, **changes)
    return school.lab.manifest(school.lab.train(inputs))


def buffer_of(lab, manifest: CheckpointManifest) -> ReplayBuffer:
    registry = lab.registry
    assert manifest.state is not None
    assert manifest.state_meta is not None
    return decode_checkpoint(registry.get_blob(manifest.state), registry.get_blob(manifest.state_meta), None).buffer


@pytest.mark.parametrize("strategy", REMEMBERING)
def test_it_learns_new_classes_and_keeps_the_old(school, strategy: str) -> None:
    """Digits 5-9 arrive after 0-4: both halves are recognised on digits nobody trained on."""
    manifest = learned(school, strategy)
    assert school.lab.accuracy(manifest, school.new_test) >= 0.85
    assert school.lab.accuracy(manifest, school.old_test) >= 0.85


def test_joint_trains_on_everything_that_was_ever_stored(school) -> None:
    """With room for ten in the buffer, the bootstrap's data set and an earlier version's shard are found again."""
    lab, classes = school.lab, school.lab.labels[school.new]
    first, second = school.new[classes < 8], school.new[classes >= 8]
    between = lab.train(lab.retrain_inputs(school.parent, (lab.shard(first),), epochs=1, replay_capacity=10))
    inputs = lab.retrain_inputs(between.manifest, (lab.shard(second),), strategy="joint", replay_capacity=10)
    manifest = lab.manifest(lab.train(inputs))
    assert lab.accuracy(manifest, school.old_test) >= 0.9
    assert lab.accuracy(manifest, school.new_test) >= 0.85


@pytest.mark.parametrize("strategy", ["fine-tune", "lwf"])
def test_the_battery_convicts_a_strategy_that_forgets(school, strategy: str) -> None:
    """Mutation check: without replay the new classes are learned and the old ones are lost."""
    manifest = learned(school, strategy)
    assert school.lab.accuracy(manifest, school.new_test) >= 0.85
    assert school.lab.accuracy(manifest, school.old_test) < 0.5


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_it_respects_the_buffers_size_and_balance(school, strategy: str) -> None:
    """After the experience: exactly the capacity, the same of every class, half of the classes from each experience."""
    manifest = learned(school, strategy, epochs=1)
    buffer = buffer_of(school.lab, manifest)
    assert len(buffer) == 200
    assert buffer.class_counts().tolist() == [20] * 10
    assert set(buffer.experiences[buffer.labels < 5]) == {0}
    assert set(buffer.experiences[buffer.labels >= 5]) == {1}
    assert np.abs(buffer.logits).max() > 0


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("er", "er-ace", "fine-tune", "lwf", "joint")]


@pytest.mark.parametrize("strategy", ["der++", "gdumb", *LONG])
def test_same_inputs_same_bytes(school, tmp_path: Path, strategy: str) -> None:
    """Two trainings in two stores end with the same manifest, hence the same ONNX, state, plots and predictions."""
    other = type(school)(
        school.lab.copy(tmp_path / "twin"), school.parent, school.old, school.new, school.old_test, school.new_test
    )
    assert learned(school, strategy, epochs=1).digest() == learned(other, strategy, epochs=1).digest()


def test_another_seed_is_another_model(school) -> None:
    """What `same bytes` rests on is the inputs, not a lack of randomness."""
    a, b = (learned(school, "der++", epochs=1, seed=seed) for seed in (0, 1))
    assert a.onnx != b.onnx


def test_a_smaller_capacity_is_kept_to(school) -> None:
    """replayCapacity 50 after 200: the inherited buffer is cut, then shared."""
    shard = school.lab.shard(school.new)
    inputs = school.lab.retrain_inputs(school.parent, (shard,), replay_capacity=50, epochs=1)
    assert buffer_of(school.lab, school.lab.manifest(school.lab.train(inputs))).class_counts().tolist() == [5] * 10


def test_an_appended_class_leaves_the_first_ones_in_place(lab) -> None:
    """v1 knows ten names for five digits; v2 appends an eleventh: full export, longer logits, old classes kept."""
    first = np.flatnonzero(lab.labels < 5)
    parent = lab.train(lab.bootstrap_inputs(first[:300], classes=tuple("01234")))
    later = np.flatnonzero(lab.labels == 5)[:100]
    shard = lab.shard(later)
    inputs = lab.retrain_inputs(parent.manifest, (shard,), classes=tuple("012345"))
    manifest = lab.manifest(lab.train(inputs))
    assert lab.accuracy(manifest, first[400:]) >= 0.9
    assert lab.accuracy(manifest, np.flatnonzero(lab.labels == 5)[100:]) >= 0.9
    assert manifest.classes == tuple("012345")
