"""Killed, doubled, poisoned: a training ends with the same bytes, or with a reason (R1, R2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry, blobs_of
from continual_contract import settings
from continual_contract.artifacts import (
    Blob,
    CheckpointManifest,
    InputShape,
    Normalization,
    StoreLayout,
    TrainingInputs,
)
from continual_contract.errors import DivergedError, IntegrityError, NotFoundError
from continual_contract.ids import Digest, sha256_digest
from continual_workers.training import learner, models, run
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.learner import Task, learn
from continual_workers.training.samples import Samples
from continual_workers.training.state import decode_resume, encode_resume
from continual_workers.training.strategies import strategy

SHAPE = InputShape(height=8, width=8, channels=1)


def state_key(lab, inputs: TrainingInputs) -> str:
    return lab.layout.training(inputs.job_hash(), run.RESUME)


def reached(lab, inputs: TrainingInputs, epoch: int) -> bool:
    if not lab.store.exists(state_key(lab, inputs)):
        return False
    state = decode_resume(lab.store.get(state_key(lab, inputs)))
    return state is not None and state.epoch >= epoch


LINGERING_COMMAND = """
import sys, time
from continual_clients.objectstore import FileStore
from continual_workers.training.__main__ import main

def put(self, key, data, whole=FileStore.put):
    whole(self, key, data)
    if key.endswith(sys.argv[1]):
        time.sleep(0.5)

FileStore.put = put
sys.exit(main(sys.argv[2:]))
"""
"""Half a second after each stored epoch: else sixty of them may be over before anybody has sent a signal."""


def lingering(lab, inputs: TrainingInputs) -> subprocess.Popen[bytes]:
    environment = {**os.environ, settings.STORE_URL: f"file://{lab.root}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LINGERING_COMMAND, run.RESUME, "--inputs", inputs.model_dump_json()]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    lab.children.append(child)
    return child


def test_a_killed_process_resumes_and_ends_bit_identical(school, tmp_path: Path, wait_for) -> None:
    """kill -9 of the real process in the middle; the second one continues after the last epoch; same manifest."""
    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),), epochs=60)
    undisturbed = school.lab.copy(tmp_path / "undisturbed").train(inputs)
    first = lingering(school.lab, inputs)
    wait_for(lambda: reached(school.lab, inputs, 3), 120)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert school.lab.registry.outcome(inputs.job_hash()) is None
    phases: list[int] = []
    resumed = school.lab.train(inputs, lambda p: phases.append(p.epoch) if p.phase == "learning" else None)
    assert phases[0] >= 3
    assert resumed == undisturbed
    assert not school.lab.store.exists(state_key(school.lab, inputs))


def test_sigterm_ends_a_training_that_can_go_on(school, wait_for) -> None:
    """An eviction: exit code 143, the last epoch's state is there, no outcome."""
    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),), epochs=60)
    process = lingering(school.lab, inputs)
    wait_for(lambda: reached(school.lab, inputs, 1), 120)
    process.terminate()
    assert process.wait() == 143
    assert school.lab.registry.outcome(inputs.job_hash()) is None


def test_two_copies_of_a_training_give_one_result(school) -> None:
    """R2: both processes at once in one store; both succeed, one digest, and it verifies."""
    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),))
    copies = [school.lab.start(inputs) for _ in range(2)]
    assert [copy.wait() for copy in copies] == [0, 0]
    outcome = school.lab.registry.outcome(inputs.job_hash())
    assert outcome is not None
    assert school.lab.manifest(outcome).digest() == outcome.manifest
    assert len(school.lab.registry.digests()) == 2


class Mortal(FileStore):
    """A store whose process dies at its n-th call: before the call, so that the one before it is the last that happened."""

    def __init__(self, root: Path, calls: int) -> None:
        super().__init__(root)
        self.left = calls

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os._exit(137)

    def get(self, key: str, limit: int | None = None) -> bytes:
        self._count()
        return super().get(key, limit)

    def put(self, key: str, data: bytes) -> None:
        self._count()
        super().put(key, data)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)

    def exists(self, key: str) -> bool:
        self._count()
        return super().exists(key)

    def list(self, prefix: str):
        self._count()
        return super().list(prefix)


class Hasty(Registry):
    """The mutation: the manifest is written before its blobs are there."""

    def __init__(self, store: FileStore, layout: StoreLayout) -> None:
        super().__init__(store, layout)
        self.late: list[bytes] = []

    def put_blob(self, data: bytes) -> Blob:
        self.late.append(data)
        return Blob(digest=sha256_digest(data), size=len(data))

    def publish(self, manifest: CheckpointManifest) -> Digest:
        self.store.put(self.layout.manifest(manifest.digest()), manifest.encode())
        for data in self.late:
            super().put_blob(data)
        return manifest.digest()


def broken_versions(registry: Registry) -> list[str]:
    """Digests of visible versions that are not whole."""
    broken = []
    for digest in registry.digests():
        try:
            for blob in blobs_of(registry.manifest(digest)):
                registry.get_blob(blob)
        except (IntegrityError, NotFoundError):
            broken.append(digest)
    return broken


def dies_at(lab, inputs: TrainingInputs, calls: int, registry_class: type[Registry]) -> bool:
    """Train in a forked process that dies at the given store call; whether it died."""
    child = os.fork()
    if child == 0:
        store = Mortal(lab.root, calls)
        run.train(inputs, store, registry_class(store, lab.layout), lambda _: None)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 137)
    return code == 137


def small_training(lab, parent: str) -> TrainingInputs:
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    return lab.retrain_inputs(parent, (lab.shard(np.arange(60)),), epochs=1, replay_capacity=50)


def store_calls(lab, inputs: TrainingInputs) -> int:
    """How many store calls an undisturbed training makes."""
    store = Mortal(lab.root, 10**6)
    run.train(inputs, store, Registry(store, lab.layout), lambda _: None)
    return 10**6 - store.left


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_version_is_visible_only_when_whole(school, tmp_path: Path) -> None:
    """R1: killed at every store call in turn, the store never shows a version with a missing or wrong blob."""
    inputs = small_training(school.lab, school.parent)
    undisturbed = school.lab.copy(tmp_path / "undisturbed")
    total = store_calls(undisturbed, inputs)
    call = 0
    while dies_at(school.lab, inputs, call, Registry):
        assert broken_versions(school.lab.registry) == [], call
        call += 1
    assert total > 20
    assert total - 3 <= call <= total  # a resumed run writes fewer resume states
    assert school.lab.train(inputs) == undisturbed.registry.outcome(inputs.job_hash())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_the_kill_test_convicts_a_manifest_written_first(school, tmp_path: Path) -> None:
    """Mutation check of R1: with the manifest before its blobs a death among the last calls shows a broken version."""
    inputs = small_training(school.lab, school.parent)
    lab = school.lab.copy(tmp_path / "hasty")
    total = store_calls(school.lab.copy(tmp_path / "undisturbed"), inputs)
    seen = []
    for call in range(total - 16, total - 10):
        if dies_at(lab, inputs, call, Hasty):
            seen += broken_versions(lab.registry)
    assert seen


class Poisoned(torch.nn.Module):
    """A network whose logits are NaN in its first `doses` training steps."""

    def __init__(self, doses: int) -> None:
        super().__init__()
        self.doses = doses
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.doses > 0:
            self.doses -= 1
            return self.head(x.flatten(1)) * float("nan")
        return self.head(x.flatten(1))


def task_of(lab, net: torch.nn.Module, **changes) -> Task:
    samples = Samples(lab.images[:200], lab.labels[:200], tuple("0123456789"))
    empty = ReplayBuffer.empty(10, SHAPE, 10, 0)
    task = Task(net, None, samples, empty, samples.take([]), strategy("joint"), Normalization(mean=(0.3,), std=(0.4,)))
    return replace(task, rates=(0.2,), epochs=3, **changes)


def test_one_nan_restarts_at_a_quarter_of_the_rate(lab) -> None:
    """A loss that is not finite ends the attempt; the second, slower one finishes from the same start."""
    state = learn(task_of(lab, Poisoned(1)), None, lambda _: None)
    assert (state.attempt, state.rate, state.epoch) == (1, 0.05, 3)
    assert all(np.isfinite(array).all() for array in state.ema.values())


def test_nan_for_ever_fails_with_a_reason(lab) -> None:
    """The second attempt's NaN is the end, and says what to look at."""
    with pytest.raises(DivergedError, match="diverged twice: the loss is not finite"):
        learn(task_of(lab, Poisoned(10**6)), None, lambda _: None)


def test_a_loss_above_its_start_for_an_epoch_is_divergence(lab) -> None:
    """A rate of 100 000: finite thanks to clipping, but worse than guessing for a whole epoch, twice."""
    net = models.build("mlp", SHAPE, 10, 0)
    with pytest.raises(DivergedError, match="above"):
        learn(replace(task_of(lab, net), rates=(1e5,)), None, lambda _: None)


@pytest.mark.parametrize(("name", "times"), [("der++", 2), ("lwf", 2), ("ewc", 2), ("er", 1), ("joint", 1)])
def test_what_holds_a_network_back_may_cost_as_much_as_the_data(lab, name: str, times: int) -> None:
    """It is nil at the start, where the network is its parent: der++ ended as diverged on 300 honest images of an evening (4.3 above 3.7)."""
    net = models.build("mlp", SHAPE, 10, 0)
    task = replace(task_of(lab, net), parent=models.build("mlp", SHAPE, 10, 0), strategy=strategy(name))
    state = learn(replace(task, epochs=1), None, lambda _: None)
    assert state.start_loss == pytest.approx(times * max(np.log(10), learner._loss_at_start(task)), rel=0.05)


def test_divergence_is_a_recorded_failure(lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered architecture that only gives NaN: the outcome carries the reason, nothing is published."""

    class Point:
        name = "poisoned"

        def load(self) -> models.Architecture:
            return models.Architecture("poisoned", lambda _shape, _classes: Poisoned(10**6))

    monkeypatch.setattr(models, "entry_points", lambda group: [Point()] if group == "continual.architectures" else [])
    outcome = lab.train(lab.bootstrap_inputs(np.arange(100), architecture="poisoned", epochs=2))
    assert outcome.failure is not None
    assert outcome.failure.reason == "Diverged"
    assert lab.registry.digests() == []


def test_resume_is_bit_identical_after_every_epoch(lab) -> None:
    """From each stored state, through its bytes, the run ends with the same weights as the one that never stopped."""
    stored: list[bytes] = []
    whole = learn(task_of(lab, models.build("mlp", SHAPE, 10, 0)), None, lambda s: stored.append(encode_resume(s)))
    for data in stored:
        resumed = learn(task_of(lab, models.build("mlp", SHAPE, 10, 0)), decode_resume(data), lambda _: None)
        assert encode_resume(resumed) == encode_resume(whole)


def test_the_resume_test_convicts_a_forgotten_average(lab) -> None:
    """Mutation check: resuming with the last iterate in place of the average ends elsewhere."""
    stored: list[learner.LearnState] = []
    whole = learn(task_of(lab, models.build("mlp", SHAPE, 10, 0)), None, stored.append)
    forgetful = replace(stored[0], ema=stored[0].weights)
    resumed = learn(task_of(lab, models.build("mlp", SHAPE, 10, 0)), forgetful, lambda _: None)
    assert encode_resume(resumed) != encode_resume(whole)


def test_a_damaged_resume_state_starts_anew() -> None:
    """Bytes that are no state are no state: the training begins again instead of failing for ever."""
    assert decode_resume(b"") is None
    assert decode_resume(b"\x08\0\0\0\0\0\0\0{}      ") is None


def test_an_outcome_is_never_trained_twice(school) -> None:
    """A finished Job that is started again returns what it found, without learning."""
    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),), epochs=1)
    first = school.lab.train(inputs)
    seen: list[str] = []
    assert school.lab.train(inputs, lambda p: seen.append(p.phase)) == first
    assert seen == []
