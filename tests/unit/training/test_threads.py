"""How many threads a training gets of its CPUs."""

from __future__ import annotations

import pytest
from continual_workers.training.__main__ import threads_for


@pytest.mark.parametrize(
    ("architecture", "cpus", "threads"),
    [
        ("mlp", 4, 1),
        ("lenet5", 2, 1),
        ("cnn3", 2, 1),
        ("resnet18", 2, 2),
        ("resnet50", 3.5, 3),
        ("resnet18", 0.5, 1),
        ("somebodys-net", 2, 2),
    ],
)
def test_small_networks_stay_on_one_thread(architecture: str, cpus: float, threads: int) -> None:
    """A second thread costs a small network more than it brings; others use whole CPUs, at least one."""
    assert threads_for(architecture, cpus) == threads
