"""Model state for those who watch: one look a second per model, however many watch it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from continual_contract.errors import ContinualError, UnavailableError
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from pydantic import ValidationError

from continual_gateway.gateway import Gateway
from continual_gateway.reaching import reaching, replies
from continual_gateway.resources import Document, ModelRef, dig, ref_of
from continual_gateway.sse import event

LOOK_SECONDS = 1.0
MOST_WATCHERS = 200


class Watch:
    """Those who watch one model; looks while there is anybody."""

    def __init__(self, gateway: Gateway, ref: ModelRef) -> None:
        self._gateway, self._ref = gateway, ref
        self._watchers: set[asyncio.Queue[str]] = set()
        self._task: asyncio.Task[None] | None = None
        self._last = ""

    async def events(self) -> AsyncIterator[bytes]:
        """The state now, and whenever it changes. Errors: UnavailableError when too many watch."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise UnavailableError("too many watch this model here", field="events", remedy="retry a little later")
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
        self._watchers.add(queue)
        if self._task is None or self._task.done():
            self._last = ""
            self._task = asyncio.create_task(self._look(), name=f"watch {self._ref.qualified}")
        elif self._last:
            queue.put_nowait(self._last)
        try:
            while True:
                yield event("state", await queue.get())
        finally:
            self._watchers.discard(queue)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while self._watchers:
            said = json.dumps(await self._state(), ensure_ascii=False)
            if said != self._last:
                self._last = said
                for queue in self._watchers:
                    while queue.full():
                        queue.get_nowait()
                    queue.put_nowait(said)
            await asyncio.sleep(LOOK_SECONDS)

    async def _state(self) -> dict[str, Any]:
        try:
            document = await self._gateway.models.document(self._ref.qualified)
            return await state_of(self._gateway, document)
        except ContinualError as error:
            return {"model": self._ref.qualified, "problem": error.describe()}


async def state_of(gateway: Gateway, document: Document) -> dict[str, Any]:
    """What a page needs to redraw itself: versions and their roles, training with progress, the newest decision, live numbers."""
    ref = ref_of(document)
    found: dict[str, Any] = {
        "model": ref.qualified,
        "generation": dig(document, "metadata.generation", 0),
        "stable": dig(document, "status.stable"),
        "canary": dig(document, "status.canary"),
        "probation": dig(document, "status.probation"),
        "waiting": dig(document, "status.waiting"),
        "training": _training(dig(document, "status.training")),
        "versions": [
            {name: record.get(name) for name in ("version", "phase", "accuracy", "reason")}
            for record in dig(document, "status.versions", [])
        ],
        "decisions": dig(document, "status.decisions", [])[-5:],
        "conditions": [
            {name: one.get(name) for name in ("type", "status", "reason", "message")}
            for one in dig(document, "status.conditions", [])
        ],
    }
    try:
        found |= await _live(gateway, ModelKeys(ref.namespace, ref.name), dig(document, "status.training.job", ""))
    except ContinualError as error:
        found["problem"] = error.describe()
    return found


def _training(training: Document | None) -> Document | None:
    """Without its inputs: a page of classes and digests that no watcher needs."""
    return None if training is None else {name: value for name, value in training.items() if name != "inputs"}


async def _live(gateway: Gateway, keys: ModelKeys, job: str) -> dict[str, Any]:
    async with reaching(gateway) as client:
        raw: Any = await replies(client.hget(keys.report, "json"))
        told: Any = await replies(client.hgetall(keys.progress(job))) if job else {}
    found: dict[str, Any] = {"progress": {name.decode(): value.decode() for name, value in told.items()}}
    try:
        report = Report.model_validate_json(raw) if raw else None
    except ValidationError:
        report = None
    if report is not None:
        found |= {
            "backlog": report.backlog, "dead": report.dead, "lag_seconds": report.lag_seconds,
            "scores": {
                name: {"labels": one.labels, "accuracy": one.accuracy, "recent": one.recent_accuracy}
                for name, one in report.versions.items()
            },
        }  # fmt: skip
    return found
