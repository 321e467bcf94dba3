"""Makes `evaluator_driver` importable, and gives each test a world with one stable version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def world(redis_server: Any) -> Any:
    """A real Redis with the functions, and the route of v1."""
    from evaluator_driver import World

    redis_server.load_functions()
    made = World(redis_server.client())
    made.route([("v1", 10_000)])
    return made


@pytest.fixture
def evaluator(world: Any, redis_server: Any, tmp_path: Path) -> Any:
    """The real evaluator, stepped by the test; it reports at every step."""
    from continual_clients.objectstore import FileStore
    from continual_workers.evaluation.process import Evaluator

    made = Evaluator(redis_server.client(), FileStore(tmp_path / "store"), world.keys, reports_every_seconds=0.0)
    made.start()
    return made
