"""The battery every strategy passes: real digits, classes that come later, a process that dies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from continual_contract.artifacts import CheckpointManifest
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.learner import Task, learn
from continual_workers.training.prepare import Where, prepare
from continual_workers.training.state import ParentState, decode_checkpoint, decode_resume, encode_resume
from continual_workers.training.strategies import STRATEGIES

ALL = sorted(STRATEGIES)
KEPT = {"der++": 0.85, "er": 0.85, "er-ace": 0.85, "gdumb": 0.85, "joint": 0.85, "ewc": 0.3, "lwf": 0.3}
"""Least recall of digits 0-4 after 5-9 were learned. Without a past to look at (ewc, lwf) some is lost; fine-tuning keeps none."""
LEARNED = {"ewc": 0.6, "lwf": 0.35}
"""Least recall of digits 5-9, where it is not 0.85: what is held in place learns less."""


def learned(school, strategy: str, **changes: object) -> CheckpointManifest:
    shard = school.lab.shard(school.new)
    inputs = school.lab.retrain_inputs(school.parent, (shard,), strategy=strategy, replay_capacity=200, **changes)
    return school.lab.manifest(school.lab.train(inputs))


def state_of(lab, manifest: CheckpointManifest) -> ParentState:
    registry = lab.registry
    assert manifest.state is not None
    assert manifest.state_meta is not None
    return decode_checkpoint(registry.get_blob(manifest.state), registry.get_blob(manifest.state_meta), None)


def buffer_of(lab, manifest: CheckpointManifest) -> ReplayBuffer:
    return state_of(lab, manifest).buffer


@pytest.fixture(scope="session")
def graduates(nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, CheckpointManifest]]:
    """The nursery's pupil after one lesson (digits 5-9) by each method, taught when first asked for."""
    schools = {}

    def graduate(strategy: str) -> tuple[Any, CheckpointManifest]:
        if strategy not in schools:
            lab = nursery.lab.copy(tmp_path_factory.mktemp("graduate") / "store")
            schools[strategy] = (lab, learned(replace(nursery, lab=lab), strategy))
        return schools[strategy]

    return graduate


@pytest.mark.parametrize("strategy", ALL)
def test_it_learns_new_classes(graduates, nursery, strategy: str) -> None:
    """Digits 5-9 arrive after 0-4 and are recognised on digits nobody trained on."""
    lab, manifest = graduates(strategy)
    assert lab.accuracy(manifest, nursery.new_test) >= LEARNED.get(strategy, 0.85)


@pytest.mark.parametrize("strategy", sorted(KEPT))
def test_it_keeps_the_old_classes(graduates, nursery, strategy: str) -> None:
    """0-4 are still recognised: well by what replays or starts anew, in part by what only holds on."""
    lab, manifest = graduates(strategy)
    assert lab.accuracy(manifest, nursery.old_test) >= KEPT[strategy]


def test_the_battery_convicts_a_strategy_that_forgets(graduates, nursery) -> None:
    """Mutation check: with neither replay nor anchor the old classes are gone."""
    lab, manifest = graduates("fine-tune")
    assert lab.accuracy(manifest, nursery.old_test) < 0.15


@pytest.mark.parametrize("strategy", ALL)
def test_it_respects_the_buffers_size_and_balance(graduates, strategy: str) -> None:
    """After the experience: exactly the capacity, the same of every class, half of the classes from each experience."""
    buffer = buffer_of(*graduates(strategy))
    assert len(buffer) == 200
    assert buffer.class_counts().tolist() == [20] * 10
    assert set(buffer.experiences[buffer.labels < 5]) == {0}
    assert set(buffer.experiences[buffer.labels >= 5]) == {1}
    assert np.abs(buffer.logits).max() > 0


def lesson(school, strategy: str) -> Task:
    """A short training as a Job prepares it: three epochs at a fixed rate."""
    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new[:120]),), strategy=strategy)
    where = Where(school.lab.store, school.lab.registry, school.lab.layout, None)
    return replace(prepare(inputs, where).task, epochs=3, rates=(0.2,))


@pytest.mark.parametrize("strategy", ALL)
def test_it_resumes_bit_identical_after_a_kill_at_each_epoch(school, strategy: str) -> None:
    """From the bytes stored after every epoch, in a task prepared anew, it ends with the bytes of the run that never stopped."""
    stored: list[bytes] = []
    whole = learn(lesson(school, strategy), None, lambda state: stored.append(encode_resume(state)))
    assert len(stored) == 3
    for data in stored:
        resumed = learn(lesson(school, strategy), decode_resume(data), lambda _: None)
        assert encode_resume(resumed) == encode_resume(whole)


@pytest.mark.parametrize("strategy", ALL)
def test_it_survives_a_nan(school, strategy: str) -> None:
    """Logits that are NaN once, in the middle of an epoch: one restart at a quarter of the rate, finite weights at the end."""
    task, steps = lesson(school, strategy), 0

    def poison(_net: torch.nn.Module, _given: object, logits: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += int(task.net.training)
        return logits * float("nan") if task.net.training and steps == 4 else logits

    task.net.register_forward_hook(poison)
    state = learn(task, None, lambda _: None)
    assert (state.attempt, state.rate, state.epoch) == (1, 0.05, 3)
    assert all(np.isfinite(array).all() for array in state.ema.values())


def test_what_mattered_to_the_past_is_handed_on(graduates) -> None:
    """ewc only: one importance per parameter, none of them negative; other states carry none."""
    lab, manifest = graduates("ewc")
    importance = state_of(lab, manifest).importance
    assert set(importance) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "head.weight", "head.bias"}
    assert all((array >= 0).all() for array in importance.values())
    assert max(float(array.max()) for array in importance.values()) > 0
    assert state_of(*graduates("der++")).importance == {}


def test_joint_trains_on_everything_that_was_ever_stored(school) -> None:
    """With room for ten in the buffer, the bootstrap's data set and an earlier version's shard are found again."""
    lab, classes = school.lab, school.lab.labels[school.new]
    first, second = school.new[classes < 8], school.new[classes >= 8]
    between = lab.train(lab.retrain_inputs(school.parent, (lab.shard(first),), epochs=1, replay_capacity=10))
    inputs = lab.retrain_inputs(between.manifest, (lab.shard(second),), strategy="joint", replay_capacity=10)
    manifest = lab.manifest(lab.train(inputs))
    assert lab.accuracy(manifest, school.old_test) >= 0.9
    assert lab.accuracy(manifest, school.new_test) >= 0.85


@pytest.mark.parametrize("strategy", ALL)
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


def test_nothing_is_distilled_while_the_buffer_holds_everything(school, caplog: pytest.LogCaptureFixture) -> None:
    """A parent that kept all its images: der++ gives the bytes of er, and says so. With 200 of 450 kept they differ."""
    lab = school.lab
    parent = lab.train(lab.bootstrap_inputs(school.old[:200], epochs=1, replay_capacity=2000)).manifest
    shard = lab.shard(school.new)
    with caplog.at_level("INFO", logger="continual_workers.training.run"):
        whole, plain = (
            lab.manifest(lab.train(lab.retrain_inputs(parent, (shard,), strategy=name, epochs=1)))
            for name in ("der++", "er")
        )
    assert whole.onnx == plain.onnx
    assert caplog.text.count("this training is plain replay") == 1
    assert learned(school, "der++", epochs=1).onnx != learned(school, "er", epochs=1).onnx


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
    inputs = lab.retrain_inputs(parent.manifest, (shard,), classes=tuple("012345"), epochs=20)
    manifest = lab.manifest(lab.train(inputs))
    assert lab.accuracy(manifest, first[400:]) >= 0.9
    assert lab.accuracy(manifest, np.flatnonzero(lab.labels == 5)[100:]) >= 0.9
    assert manifest.classes == tuple("012345")
