"""One redis-server for all rehearsals of this folder; every rehearsal starts with an empty one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from continual_operator.rehearsal import Rehearsal


@pytest.fixture
def stage(redis_server: Any) -> Iterator[Callable[..., Rehearsal]]:
    """Build rehearsals on a real, empty Redis."""
    made: list[Rehearsal] = []

    def build(model: dict[str, Any] | None = None, token: int = 1) -> Rehearsal:
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushall()
        made.append(Rehearsal(redis_server.url, model, token))
        return made[-1]

    yield build
    for rehearsal in made:
        rehearsal.close()
