"""Makes `streams_driver` importable for the tests of this folder, and gives them a loaded Redis."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def loaded_redis(redis_server: Any) -> Any:
    """A real redis-server with the function library."""
    redis_server.load_functions()
    return redis_server
