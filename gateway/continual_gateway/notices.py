"""Notices to a webhook: drift, promotion, rollback, awaiting approval, failure; one CloudEvent each, sent once by whichever replica is first.

What is told is the operator's own ledger, read from the resource's status, so nothing is judged here. A replica claims a notice in
Redis before it sends; the receiver's refusal is tried again a few times, each later than the last, and then given up and counted: a notice is
a courtesy, the ledger is the record. The address may hold a secret, so it is never logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from continual_contract.errors import ContinualError

from continual_gateway.gateway import Gateway
from continual_gateway.reaching import reaching, replies
from continual_gateway.resources import Document, ModelRef, dig, ref_of

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("continual.gateway.notices")

LOOK_SECONDS = 2.0
TRIES, FIRST_PAUSE_SECONDS, TIMEOUT_SECONDS = 5, 1.0, 5.0
KINDS = {
    "DriftAlarm": "drift",
    "Promote": "promotion",
    "Force": "promotion",
    "Rollback": "rollback",
    "Restore": "rollback",
    "TrainingFailed": "failure",
    "Error": "failure",
    "Reject": "rejection",
}
"""Action of a decision → kind of notice; the rest is nobody's news."""
CLAIM_SECONDS = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Notice:
    """`key` is unique per model: the same event is the same notice, whoever sees it."""

    ref: ModelRef
    key: str
    kind: str
    time: str
    data: dict[str, Any]

    def cloud_event(self, installation: str) -> dict[str, Any]:
        """https://github.com/cloudevents/spec, JSON format 1.0."""
        return {
            "specversion": "1.0", "id": f"{self.ref.qualified}/{self.key}", "type": f"dev.continual.{self.kind}",
            "source": f"/continual/{installation}/{self.ref.namespace}/{self.ref.name}".replace("//", "/"),
            "time": self.time, "datacontenttype": "application/json", "data": {"model": self.ref.qualified, **self.data},
        }  # fmt: skip


def notices_of(document: Document) -> Iterator[Notice]:
    """All that a document gives rise to, oldest first; the same again at every look."""
    ref = ref_of(document)
    for line in dig(document, "status.decisions", []):
        kind = KINDS.get(str(line.get("action")))
        if kind is not None:
            said = {name: line.get(name) for name in ("action", "version", "reason", "message", "by", "sequence")}
            yield Notice(ref, f"decision-{line.get('sequence')}", kind, str(line.get("time", "")), said)
    canary = dig(document, "status.canary", {})
    if dig(canary, "evidence.reason") == "AwaitingApproval":
        said = {
            "version": canary.get("version"),
            "reason": "AwaitingApproval",
            "message": dig(canary, "evidence.message", ""),
        }
        key = f"approval-{canary.get('evidenceId')}"
        yield Notice(ref, key, "awaiting-approval", str(canary.get("stepSince", "")), said)


class Notifier:
    """Looks at all models every two seconds while there is an address."""

    def __init__(self, gateway: Gateway, url: str) -> None:
        self._gateway, self._url = gateway, url
        self._settled: set[str] = set()
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        import aiohttp  # noqa: PLC0415 -- half a second that a gateway without a webhook saves

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                await self._watch(session)
            finally:
                for task in self._sending:
                    task.cancel()

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        first: set[ModelRef] = set()
        while True:
            try:
                documents = await self._gateway.models.documents()
                for document in documents:
                    await self._look(session, document, is_first=ref_of(document) not in first)
                    first.add(ref_of(document))
            except ContinualError as error:
                log.info("notices wait", extra={"error": error.describe()})
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, session: aiohttp.ClientSession, document: Document, *, is_first: bool) -> None:
        """What a gateway finds when it first sees a model that nobody has claimed anything of is history, not news."""
        found = [notice for notice in notices_of(document) if self._name(notice) not in self._settled]
        if is_first and found and not await self._has_claims(found[0].ref):
            for notice in found:
                await self._claim(notice)
                self._settled.add(self._name(notice))
            return
        for notice in found:
            if await self._claim(notice):
                task = asyncio.create_task(self._send(session, notice))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            self._settled.add(self._name(notice))

    @staticmethod
    def _name(notice: Notice) -> str:
        return f"{notice.ref.qualified}/{notice.key}"

    async def _has_claims(self, ref: ModelRef) -> bool:
        async with reaching(self._gateway) as client:
            return bool(await replies(client.exists(_claims(ref))))

    async def _claim(self, notice: Notice) -> bool:
        """Whether this replica is the first. Errors: RedisUnavailableError."""
        async with reaching(self._gateway) as client:
            is_ours = await replies(client.hsetnx(_claims(notice.ref), notice.key, int(self._gateway.deps.clock())))
            await replies(client.expire(_claims(notice.ref), CLAIM_SECONDS))
        return bool(is_ours)

    async def _send(self, session: aiohttp.ClientSession, notice: Notice) -> None:
        body = notice.cloud_event(self._gateway.settings.installation)
        for attempt in range(TRIES):
            problem = await self._post(session, body)
            if not problem:
                self._gateway.metrics.notices.labels(notice.kind, "sent").inc()
                return
            log.warning("notice not taken", extra={"id": body["id"], "try": attempt + 1, "error": problem})
            if attempt + 1 < TRIES:
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        self._gateway.metrics.notices.labels(notice.kind, "given up").inc()

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> str:
        """What went wrong; empty when the receiver took it. Never the address: it may be a secret."""
        import aiohttp  # noqa: PLC0415

        headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
        try:
            async with session.post(self._url, json=body, headers=headers, allow_redirects=False) as answer:
                return "" if 200 <= answer.status < 300 else f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__


def _claims(ref: ModelRef) -> str:
    return f"ctm:{{{ref.namespace}/{ref.name}}}:notices"
