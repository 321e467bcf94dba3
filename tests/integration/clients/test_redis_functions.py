"""The function library on a real Redis: loaded when missing or different, and only then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from continual_clients.redis import check, connect_async, connect_url, ensure_functions, ensure_functions_async
from continual_contract.errors import RedisUnavailableError, UsageError
from continual_contract.functions import LIBRARY, library_source


def test_the_library_is_loaded_when_missing_or_different_and_only_then(redis_server: Any) -> None:
    """First use, a second one, after the functions were flushed, and over another build of the same name."""
    client = connect_url(redis_server.url)
    assert ensure_functions(client)
    assert not ensure_functions(client)
    client.flushall()
    client.function_flush()
    assert ensure_functions(client)
    client.function_load(library_source() + "\n-- another build\n", replace=True)
    assert ensure_functions(client)
    assert not ensure_functions(client)
    assert len(client.function_list(LIBRARY)) == 1
    client.close()


def test_the_operators_client_does_the_same(redis_server: Any) -> None:
    """The asyncio twin."""

    async def twice() -> list[bool]:
        client = connect_async(redis_server.url)
        try:
            return [await ensure_functions_async(client), await ensure_functions_async(client)]
        finally:
            await client.aclose()

    assert asyncio.run(twice()) == [True, False]


def test_a_wrong_password_is_one_sentence(redis_server: Any, tmp_path: Any) -> None:
    """Not a traceback, and the password is not in it."""
    redis_server.client().config_set("requirepass", "right")
    secret = tmp_path / "password"
    secret.write_text("wrong-one")
    client: redis.Redis = connect_url(redis_server.url, password_file=secret)
    with pytest.raises(RedisUnavailableError, match="correct its address and password") as caught:
        check(client, redis_server.url)
    assert "wrong-one" not in str(caught.value)
    client.close()


def test_a_url_of_another_kind_is_refused() -> None:
    """The message shows the form."""
    with pytest.raises(UsageError, match="redis://host:port/db"):
        connect_url("http://127.0.0.1")
