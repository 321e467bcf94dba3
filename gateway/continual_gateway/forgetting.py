"""Forget a person's sample: what can be removed now is removed, what cannot is named, with the moment at which it goes.

Removed at once: the picture and the row that the gateway keeps, and the record of a correction. A mark under the hash of its pixels keeps it out
of every later training, out of the shards, the holdout and the replay buffer alike. Not touched: entries of the streams, which
leave by their age (taking one out of the middle would break the audit that finds lost requests), shards already written, and
weights that have learned it: a model cannot unlearn one sample, only be trained again without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from continual_contract.entries import decode_request
from continual_contract.errors import NotFoundError, UsageError
from continual_contract.ids import content_hash

from continual_gateway.gateway import Gateway
from continual_gateway.lookups import REQUEST_ID, pixels_of_request, unknown
from continual_gateway.models import ModelFacts
from continual_gateway.reaching import in_store, reaching, replies

PAGE = 200
SCANNED = 100_000
MOST = 10_000
REMAINS = (
    "entries of the requests and labels streams: they leave after retention.requests.maxAge and feedback.window",
    "shards already written: later trainings leave the sample out of them",
    "versions that have learned it: retrain, and roll back to none of them",
)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was found, and what was removed of it."""

    requests: tuple[str, ...]
    hashes: tuple[str, ...]
    pictures: int
    rows: int
    corrections: int

    def document(self) -> dict[str, Any]:
        return {
            "requests": list(self.requests), "marked": list(self.hashes),
            "removed": {"pictures": self.pictures, "rows": self.rows, "corrections": self.corrections},
            "remains": list(REMAINS),
        }  # fmt: skip


async def forget(gateway: Gateway, facts: ModelFacts, request_id: str, key: str) -> Forgotten:
    """By request id, or by the partition key of all of a person's requests.

    Errors: UsageError without either; NotFoundError when nothing of it is known any more; RedisUnavailableError, StoreUnavailableError.
    """
    if bool(request_id) == bool(key):
        raise UsageError("is missing", field="id", remedy="send id (a request) or key (a person's partition key)")
    if request_id and not REQUEST_ID.fullmatch(request_id):
        raise unknown(request_id)
    ids = [request_id] if request_id else await _requests_of(gateway, facts, key.encode())
    hashes = await _hashes_of(gateway, facts, ids)
    if not hashes:
        raise NotFoundError(
            "nothing of it is kept any more", field="id" if request_id else "key", value=(request_id or key)[:80],
            remedy="images leave after retention.requests.maxAge",
        )  # fmt: skip
    now_ms = int(gateway.deps.clock() * 1000)
    for one in hashes:
        mark = json.dumps({"hash": one, "time_ms": now_ms}).encode()
        await in_store(gateway.deps.store.put, facts.layout.forgotten(one), mark)
    pictures = sum([await _remove_picture(gateway, facts, one) for one in hashes])
    rows, corrections = await _remove_records(gateway, facts, ids, hashes)
    return Forgotten(tuple(ids), tuple(hashes), pictures, rows, corrections)


async def _requests_of(gateway: Gateway, facts: ModelFacts, key: bytes) -> list[str]:
    """Ids of the requests with this partition key that are still in the stream."""
    found: list[str] = []
    start: str | bytes = "-"
    for _ in range(SCANNED // PAGE):
        async with reaching(gateway) as client:
            entries: Any = await replies(client.xrange(facts.keys.requests, start, "+", count=PAGE))
        requests = (decode_request(entry_id, fields) for entry_id, fields in entries)
        found += [request.request_id for request in requests if request.key == key]
        if len(entries) < PAGE or len(found) > MOST:
            break
        start = b"(" + entries[-1][0]
    return list(dict.fromkeys(found))


async def _hashes_of(gateway: Gateway, facts: ModelFacts, ids: Sequence[str]) -> list[str]:
    """Content hashes of the requests' images, from the stream or from what the gateway keeps of them."""
    found: list[str] = []
    for request_id in ids:
        try:
            found.append(content_hash(await pixels_of_request(gateway, facts, request_id)))
        except NotFoundError:
            found += await _kept_hash(gateway, facts, request_id)
    return list(dict.fromkeys(found))


async def _kept_hash(gateway: Gateway, facts: ModelFacts, request_id: str) -> list[str]:
    async with reaching(gateway) as client:
        image: Any = await replies(client.hget(facts.keys.correction(request_id), "image"))
        if image:
            return [image.decode()]
        rows: Any = await replies(client.hvals(facts.keys.ingested_rows))
    return [str(row["hash"]) for raw in rows if (row := json.loads(raw))["id"] == request_id]


async def _remove_picture(gateway: Gateway, facts: ModelFacts, content: str) -> int:
    key = facts.layout.sample(content)
    there = await in_store(gateway.deps.store.exists, key)
    await in_store(gateway.deps.store.delete, key)
    return int(there)


async def _remove_records(
    gateway: Gateway, facts: ModelFacts, ids: Sequence[str], hashes: Sequence[str]
) -> tuple[int, int]:
    async with reaching(gateway) as client:
        pipe = client.pipeline(transaction=False)
        pipe.hdel(facts.keys.ingested_rows, *hashes)
        pipe.zrem(facts.keys.ingested, *hashes)
        pipe.zrem(facts.keys.corrections, *ids)
        for request_id in ids:
            pipe.delete(facts.keys.correction(request_id))
        rows, _, corrections, *_ = await pipe.execute()
    return int(rows), int(corrections)
