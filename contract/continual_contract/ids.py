"""Strings that must not be mixed, and the order of stream entry ids.

A Redis stream id is `<milliseconds>-<sequence>`; as text it does not sort, as a pair of integers it does.
"""

from __future__ import annotations

import hashlib
import json
from typing import NewType

Digest = NewType("Digest", str)
"""`sha256:<64 hex>` of an artifact's bytes."""
RequestId = NewType("RequestId", str)
"""The stream entry id under which a request is published, answered and labelled."""
EntryId = NewType("EntryId", str)
"""A position in a stream. Equals the RequestId but for entries that were re-added (field `o`)."""
Version = NewType("Version", str)
"""`v7`: the number a candidate got when it passed the offline gate."""
GroupName = NewType("GroupName", str)
"""`<version>@<generation>`: a consumer group, never reused."""

ZERO_ID = EntryId("0-0")
HOUR_MS = 3_600_000


def id_key(entry_id: str) -> tuple[int, int]:
    """Sort key of a stream id; a missing sequence reads as 0."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def hour_of(request_id: str) -> int:
    """Hour bucket of a request: from its id, never from a clock."""
    return int(request_id.partition("-")[0]) // HOUR_MS


def sha256_digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def content_hash(pixels: bytes) -> str:
    """Names an image by what a model sees of it (uint8 HWC): two files that are the same to the model are one sample. 40 hex characters."""
    return hashlib.sha256(pixels).hexdigest()[:40]


def canonical_json(value: object) -> bytes:
    """One spelling for one value: sorted keys, no spaces, UTF-8. What digests and job hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def version_number(version: str) -> int:
    return int(version.removeprefix("v"))
