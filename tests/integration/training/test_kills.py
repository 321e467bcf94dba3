"""kill -9 at each epoch, for every strategy: the training goes on where it was, and ends with the bytes of one never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import TrainingInputs
from continual_workers.training import run
from continual_workers.training.learner import LearnState
from continual_workers.training.state import decode_resume
from continual_workers.training.strategies import STRATEGIES

ALL = sorted(STRATEGIES)
EPOCHS = 3

Victim = Callable[[object, TrainingInputs], None]
"""Trains in a process of its own that is killed as soon as it has stored one more epoch."""


class Doomed(FileStore):
    """A store whose process is killed the moment a resume state is on disk."""

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        if key.endswith(run.RESUME):
            os.kill(os.getpid(), signal.SIGKILL)


DOOMED_COMMAND = """
import os, signal, sys
from continual_clients.objectstore import FileStore
from continual_workers.training.__main__ import main

def put(self, key, data, whole=FileStore.put):
    whole(self, key, data)
    if key.endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

FileStore.put = put
sys.exit(main(sys.argv[2:]))
"""


def killed_fork(lab, inputs: TrainingInputs) -> None:
    """A forked trainer: as real a death as any, without four seconds of imports."""
    child = os.fork()
    if child == 0:
        store = Doomed(lab.root)
        run.train(inputs, store, Registry(store, lab.layout), lambda _: None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def small_lesson(school, strategy: str) -> TrainingInputs:
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    shard = school.lab.shard(school.new[:120])
    return school.lab.retrain_inputs(school.parent, (shard,), strategy=strategy, epochs=EPOCHS, replay_capacity=100)


def stored(lab, inputs: TrainingInputs) -> LearnState:
    state = decode_resume(lab.store.get(lab.layout.training(inputs.job_hash(), run.RESUME)))
    assert state is not None
    return state


def undisturbed_bytes(school, inputs: TrainingInputs, folder: Path) -> str:
    return school.lab.copy(folder).train(inputs).model_dump_json()


def killed_at_each_epoch(school, inputs: TrainingInputs, victim: Victim) -> str:
    """Kill whenever something is stored, then let it end; the outcome. One that began anew would get no further than the one before."""
    reached = (0, 0)
    while reached[1] < EPOCHS:
        victim(school.lab, inputs)
        state = stored(school.lab, inputs)
        assert (state.attempt, state.epoch) > reached
        assert school.lab.registry.outcome(inputs.job_hash()) is None
        reached = (state.attempt, state.epoch)
    return school.lab.train(inputs).model_dump_json()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("strategy", ALL)
def test_killed_at_each_epoch_it_ends_bit_identical(school, tmp_path: Path, strategy: str) -> None:
    """A death after each of three epochs (and, for lwf, after its restart): the same manifest digest (weights, buffer, logits, importance, scores) as without any."""
    inputs = small_lesson(school, strategy)
    whole = undisturbed_bytes(school, inputs, tmp_path / "undisturbed")
    assert killed_at_each_epoch(school, inputs, killed_fork) == whole


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("part", ["ema", "weights"])
def test_the_kill_test_convicts_a_state_that_lost_a_part(
    school, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Mutation check: a resume state without its average or without its last iterate ends elsewhere."""
    inputs = small_lesson(school, "der++")
    whole = undisturbed_bytes(school, inputs, tmp_path / "undisturbed")
    lost = {"ema": lambda s: s.weights, "weights": lambda s: s.ema}[part]

    def forgetful(data: bytes) -> LearnState | None:
        state = decode_resume(data)
        return None if state is None else replace(state, **{part: lost(state)})

    monkeypatch.setattr(run, "decode_resume", forgetful)
    assert killed_at_each_epoch(school, inputs, killed_fork) != whole


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_the_kill_test_convicts_a_training_that_begins_anew(school, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check: with resume states never read, the second process stops at the first epoch again."""
    monkeypatch.setattr(run, "decode_resume", lambda _data: None)
    with pytest.raises(AssertionError):
        killed_at_each_epoch(school, small_lesson(school, "der++"), killed_fork)


def killed_process(lab, inputs: TrainingInputs) -> None:
    """The trainer's own command line."""
    environment = {**os.environ, settings.STORE_URL: f"file://{lab.root}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DOOMED_COMMAND, run.RESUME, "--inputs", inputs.model_dump_json()]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.parametrize("strategy", ALL)
def test_a_killed_command_ends_bit_identical_for_every_strategy(school, tmp_path: Path, strategy: str) -> None:
    """The same with the process a Job runs, started and killed three times, and once more to the end."""
    inputs = small_lesson(school, strategy)
    inputs = inputs.model_copy(update={"augmentation": inputs.augmentation.model_copy(update={"shift_pixels": 0.4})})
    whole = undisturbed_bytes(school, inputs, tmp_path / "undisturbed")
    assert killed_at_each_epoch(school, inputs, killed_process) == whole
    assert np.isfinite(school.lab.accuracy(school.lab.manifest(school.lab.train(inputs)), school.old_test))
