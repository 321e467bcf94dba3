"""The chaos test: everything that can happen to a stream, at once; afterwards one prediction per request, by its rightful version.

Each protection has a mutation: the same chaos with the protection removed must be found out.
"""

from __future__ import annotations

from typing import Any

import pytest
from streams_driver import Bench, Chaos, ChaosPlan, fleet

LONG_SEEDS = [2, 3, 4, 5, 6, 7]


def run_chaos(server: Any, plan: ChaosPlan, **crew: Any) -> list[str]:
    bench = Bench(server)
    with fleet(server, **crew) as workers:
        chaos = Chaos(bench, workers, plan)
        problems = chaos.run()
        print(f"seed {plan.seed}: {len(bench.accepted)} requests, {dict(chaos.counts)}, problems {problems}")
    return problems


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in LONG_SEEDS)])
def test_every_request_is_answered_once_by_its_rightful_version(loaded_redis: Any, seed: int) -> None:
    """20 000 requests under kill -9, SIGSTOP and routing changes: none lost, doubled, stuck or answered by the wrong version."""
    assert run_chaos(loaded_redis, ChaosPlan(seed)) == []
