"""The Lease against a real API server: never two holders, and always one again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from continual_contract.errors import FencedError
from continual_operator.kubernetes.api import Api, configuration, connect
from continual_operator.kubernetes.lease import Lease, LeaseTimes, boot_clock
from control_plane import ControlPlane
from operators import PATHS, farewells

TIMES = LeaseTimes(duration=6.0)
"""A machine under load may stand still for a second or two."""


@dataclass
class Candidate:
    """One holder-to-be, and why it would have ended its process."""

    lease: Lease
    ends: list[str]

    def acts(self) -> bool:
        try:
            self.lease.assert_held()
        except FencedError:
            return False
        return True


def candidate(api: Api, namespace: str, holder: str, clock: Callable[[], float] = boot_clock) -> Candidate:
    ends: list[str] = []
    return Candidate(Lease(api, namespace, "continual-operator", holder, TIMES, clock, ends.append), ends)


@asynccontextmanager
async def api_of(plane: ControlPlane) -> AsyncIterator[Api]:
    found = await configuration({"KUBECONFIG": str(plane.kubeconfig)})
    async with connect(found) as api:
        yield api
    await farewells()


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


async def takeover(api: Api, namespace: str, first: Candidate, second: Candidate) -> tuple[list[float], float]:
    """The first leads and falls silent; returns when both could act, and how long until the second did."""
    token = await first.lease.acquire()
    began, together = time.monotonic(), []
    following = asyncio.create_task(second.lease.acquire())
    while not following.done():
        await asyncio.sleep(0.01)
        if first.acts() and second.acts():
            together.append(time.monotonic() - began)
    assert following.result() > token
    return together, time.monotonic() - began


def test_a_silent_leader_has_stopped_before_another_begins(control_plane: ControlPlane, namespace: str) -> None:
    """The old one may act until its renew deadline, the new one after the duration; nobody compares clocks (O4)."""

    async def scene() -> None:
        async with api_of(control_plane) as api:
            first, second = candidate(api, namespace, "a"), candidate(api, namespace, "b")
            together, took = await takeover(api, namespace, first, second)
            assert together == []
            assert TIMES.duration <= took < 4 * TIMES.duration
            assert first.ends == ["not renewed in time"]
            assert second.acts()
            await second.lease.release()

    play(scene())


def test_without_the_deadline_there_would_be_two(control_plane: ControlPlane, namespace: str) -> None:
    """Mutation check: a leader whose clock stands still goes on acting beside its successor."""

    async def scene() -> None:
        async with api_of(control_plane) as api:
            frozen = boot_clock()
            first, second = candidate(api, namespace, "a", lambda: frozen), candidate(api, namespace, "b")
            await takeover(api, namespace, first, second)
            assert first.acts()
            assert second.acts()
            await first.lease.release()
            await second.lease.release()

    play(scene())


def test_a_leader_that_renews_stays_and_one_that_leaves_is_followed_at_once(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Longer than the duration; then released, so that an upgrade does not wait for it."""

    async def scene() -> None:
        async with api_of(control_plane) as api:
            first, second = candidate(api, namespace, "a"), candidate(api, namespace, "b")
            token = await first.lease.acquire()
            keeping = asyncio.create_task(first.lease.keep())
            following = asyncio.create_task(second.lease.acquire())
            await asyncio.sleep(TIMES.duration + 1)
            assert first.acts()
            assert not following.done()
            keeping.cancel()
            await first.lease.release()
            assert not first.acts()
            assert await asyncio.wait_for(following, 0.9 * TIMES.duration) == token + 1
            assert first.ends == []
            await second.lease.release()

    play(scene())


def test_a_leader_whose_lease_is_taken_or_deleted_ends(control_plane: ControlPlane, namespace: str) -> None:
    """And tokens grow although the Lease was deleted: Redis would refuse the successor else."""

    async def scene() -> None:
        async with api_of(control_plane) as api:
            first, second = candidate(api, namespace, "a"), candidate(api, namespace, "b")
            token = await first.lease.acquire()
            control_plane.request("DELETE", PATHS["Lease"].format(namespace) + "/continual-operator")
            with pytest.raises(FencedError):
                await asyncio.wait_for(first.lease.keep(), TIMES.duration)
            assert first.ends[0].startswith("taken or deleted")
            await asyncio.sleep(1)
            assert await second.lease.acquire() > token
            await second.lease.release()

    play(scene())
