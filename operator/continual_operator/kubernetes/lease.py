"""Who may act: one Lease, one holder, and a holder that ends itself rather than act for longer than it may.

A holder may act until `renew_deadline` after it *began* its last renewal that succeeded; a follower takes over once it has seen no renewal for
`duration`, by its own clock, which begins later. What is left between the two is as long as a request may take, so that a call begun in
the last moment has ended too. Nothing compares clocks of two machines. A thread of its own ends the process at the deadline, whatever
the event loop does; after SIGSTOP and SIGCONT it is the first thing that happens, and `assert_held` refuses until it has.

`leaseTransitions` is the fencing token: it grows with every holder, and every process is a new one. A Lease that is made anew starts at the
seconds since 2020, so that tokens grow although somebody deleted it (they fit in its 32 bits until 2088).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from continual_contract.errors import ConflictError, ContinualError, FencedError, NotFoundError

from continual_operator.cluster import Manifest
from continual_operator.kubernetes.api import LEASE, Api

log = logging.getLogger(__name__)

EPOCH_2020 = 1_577_836_800


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. `duration - renew_deadline` is the longest a write may take."""

    duration: float = 15.0

    @property
    def renew_deadline(self) -> float:
        return self.duration * 2 / 3

    @property
    def request_timeout(self) -> float:
        return self.duration - self.renew_deadline

    @property
    def retry(self) -> float:
        return self.duration / 8


def boot_clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def end_process(why: str) -> None:
    """At once, without clean-up and without the locks of logging: somebody else may act from now on."""
    os.write(2, f'{{"level": "error", "component": "operator", "message": "lease lost", "why": "{why}"}}\n'.encode())
    os._exit(1)


class Lease:
    """One candidate. `holder` must be unique to the process."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        times: LeaseTimes = LeaseTimes(),
        clock: Callable[[], float] = boot_clock,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._api, self._namespace, self._name, self._holder = api, namespace, name, holder
        self._times, self._clock, self._end = times, clock, end
        self._version = ""
        self._held_until = float("-inf")
        self._seen: tuple[str, float] = ("", 0.0)
        self._over = threading.Event()

    def assert_held(self) -> None:
        """Raises `FencedError` where acting could no longer be ours to do."""
        if self._clock() >= self._held_until:
            raise FencedError("this process does not lead", field=f"lease {self._namespace}/{self._name}")

    async def acquire(self) -> int:
        """Wait until the Lease is ours; returns the fencing token."""
        log.info("waiting for the lease", extra={"lease": self._name, "holder": self._holder})
        while (token := await self._attempt()) is None:  # noqa: ASYNC110 -- the other side is a server
            await asyncio.sleep(self._times.retry)
        threading.Thread(target=self._watchdog, name="lease watchdog", daemon=True).start()
        log.info("leading", extra={"lease": self._name, "holder": self._holder, "token": token})
        return token

    async def keep(self) -> None:
        """Renew for ever; ends the process when somebody else leads."""
        while True:
            await asyncio.sleep(self._times.retry)
            try:
                await self._renew()
            except (ConflictError, NotFoundError) as error:
                self._end(f"taken or deleted: {type(error).__name__}")
                raise FencedError("somebody else leads", field=f"lease {self._namespace}/{self._name}") from error
            except ContinualError as error:
                log.warning("lease not renewed", extra={"error": str(error)})

    async def release(self) -> None:
        """Let the next one in at once; failing costs it the duration."""
        if self._held_until == float("-inf"):
            return
        self._over.set()
        self._held_until = float("-inf")
        try:
            await self._write({"holderIdentity": "", "leaseDurationSeconds": 1})
        except ContinualError as error:
            log.warning("lease not released", extra={"error": str(error)})

    async def _attempt(self) -> int | None:
        began = self._clock()
        try:
            found = await self._api.get(LEASE, self._namespace, self._name)
            token = await self._create() if found is None else await self._take(found)
        except ConflictError:
            return None
        except ContinualError as error:
            log.warning("lease not acquired", extra={"error": str(error)})
            return None
        if token is not None:
            self._held_until = began + self._times.renew_deadline
        return token

    async def _create(self) -> int:
        token = int(time.time()) - EPOCH_2020
        metadata = {"namespace": self._namespace, "name": self._name}
        made = await self._api.create(
            LEASE,
            {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": self._claim(token)},
        )
        self._version = made["metadata"]["resourceVersion"]
        return token

    async def _take(self, found: Manifest) -> int | None:
        """Take a Lease that is free, or whose holder was silent for its duration while we watched."""
        spec, version = found.get("spec") or {}, found["metadata"]["resourceVersion"]
        if spec.get("holderIdentity") and not self._is_silent(version, float(spec.get("leaseDurationSeconds") or 0)):
            return None
        self._version = version
        token = int(spec.get("leaseTransitions") or 0) + 1
        await self._write(self._claim(token))
        return token

    def _is_silent(self, version: str, declared: float) -> bool:
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] >= max(declared, self._times.duration)

    async def _renew(self) -> None:
        began = self._clock()
        try:
            await self._write({"renewTime": _now()})
        except ConflictError:
            found = await self._api.get(LEASE, self._namespace, self._name)
            if found is None or (found.get("spec") or {}).get("holderIdentity") != self._holder:
                raise
            self._version = found["metadata"]["resourceVersion"]  # touched, but still ours
            await self._write({"renewTime": _now()})
        self._held_until = max(self._held_until, began + self._times.renew_deadline)

    async def _write(self, spec: Manifest) -> None:
        patch = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        written = await self._api.merge(LEASE, self._namespace, self._name, patch)
        self._version = written["metadata"]["resourceVersion"]

    def _claim(self, token: int) -> Manifest:
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": int(self._times.duration),
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": token,
        }

    def _watchdog(self) -> None:
        """Look often, sleep shortly: a process that was stopped must find out by itself."""
        while not self._over.wait(min(1.0, max(0.01, self._held_until - self._clock()))):
            if self._clock() >= self._held_until and not self._over.is_set():
                self._end("not renewed in time")
                return


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
