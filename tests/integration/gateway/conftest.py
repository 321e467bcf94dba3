"""One stand for the tests that harm nobody, and a fresh one for each that does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway_stand import Stand, running


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Redis, a worker, the evaluator's orders, and the gateway; shared."""
    with running(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def fresh_stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """A stand of the test's own, with Redis and the model; nothing else runs yet."""
    made: list[Stand] = []

    def make(*redis_options: str, **spec: object) -> Stand:
        one = Stand(tmp_path)
        made.append(one)
        one.start_redis(*redis_options)
        one.apply(**spec)
        return one

    try:
        yield make
    finally:
        for one in made:
            one.close()


@pytest.fixture
def api(stand: Stand) -> Iterator[httpx.Client]:
    """An admin's program."""
    with stand.api() as client:
        yield client
