"""Stream entries as they are on the wire: short text fields that a stranger with redis-cli can write.

Public formats are in `docs/wire-format.md`. Encoders return flat dicts for XADD; decoders take what redis returns (bytes).
What exists once per image is a NamedTuple: a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from continual_contract.ids import EntryId, RequestId, Version

Role = Literal["stable", "canary", "shadow"]
Why = Literal["owner", "heir", "shadow"]
LabelSource = Literal["audit", "truth", "correction"]

MAX_METADATA_BYTES = 2048
MAX_DELIVERIES = 5
ISOLATE_AFTER_DELIVERIES = 3
UNSAMPLED = b"-"
"""What `answers` holds for a request outside `feedback.samplePercent`: answered, but not joinable."""
DEAD = b"!"
"""What `answers` holds for a request that became a dead letter: settled, so that the audit does not add it again."""

Fields = dict[bytes, bytes]
_ENTRY_ID = re.compile(rb"\d{1,15}-\d{1,20}")
"""An id as Redis gives it; anything else in `o` is ignored, here and in `functions.lua`."""


def _milliseconds(fields: Fields) -> int | None:
    """Field `t`; what is not a number of at most 15 digits reads as absent."""
    raw = fields.get(b"t", b"")
    return int(raw) if raw.isdigit() and len(raw) <= 15 else None


class RequestEntry(NamedTuple):
    """`d` raw uint8 HWC bytes, or with `enc` (png | jpeg) the encoded file."""

    entry_id: EntryId
    request_id: RequestId
    data: bytes
    encoding: str = ""
    key: bytes = b""
    event_time_ms: int | None = None
    metadata: bytes = b""


def plain_request(entry_id: bytes, data: bytes) -> RequestEntry:
    """The common request: raw pixels and nothing else."""
    sid: Any = entry_id.decode()
    return RequestEntry(sid, sid, data)


def decode_request(entry_id: bytes | str, fields: Fields) -> RequestEntry:
    """Read one request; fields `d enc k t m o`, all but `d` optional. A missing `d` reads as empty: the worker refuses it."""
    sid = EntryId(entry_id.decode() if isinstance(entry_id, bytes) else entry_id)
    original = fields.get(b"o", b"")
    return RequestEntry(
        entry_id=sid,
        request_id=RequestId(original.decode() if original and _ENTRY_ID.fullmatch(original) else sid),
        data=fields.get(b"d", b""),
        encoding=fields.get(b"enc", b"").decode("utf-8", "replace"),
        key=fields.get(b"k", b""),
        event_time_ms=_milliseconds(fields),
        metadata=fields.get(b"m", b""),
    )


class Answer(NamedTuple):
    """What one version said of one request: the value in `answers`, and the source of the published prediction."""

    version: Version
    digest_prefix: str
    role: Role
    why: Why
    class_name: str
    confidence: float
    worker_us: int
    """Worker time per image, microseconds (batch time / batch size)."""


def decode_answer(raw: bytes) -> Answer | None:
    """`<version> <digest prefix> <role> <why> <confidence> <us> <class>`, the class last because it may hold spaces; None for UNSAMPLED and DEAD."""
    if raw in (UNSAMPLED, DEAD):
        return None
    version, prefix, role, why, confidence, us, name = raw.decode().split(" ", 6)
    return Answer(Version(version), prefix, role, why, name, float(confidence), int(us))  # type: ignore[arg-type]  # our own writer


@dataclass(frozen=True, slots=True)
class PredictionEntry:
    """Published prediction: fields `r v dg role why c p us t`."""

    request_id: RequestId
    version: Version
    digest_prefix: str
    role: Role
    why: Why
    class_name: str
    confidence: float
    worker_us: int
    time_ms: int


def decode_prediction(fields: Fields) -> PredictionEntry:
    text = {k.decode(): v.decode() for k, v in fields.items()}
    return PredictionEntry(
        RequestId(text["r"]), Version(text["v"]), text["dg"], text["role"], text["why"],  # type: ignore[arg-type]  # our own writer
        text["c"], float(text["p"]), int(text.get("us", "0")), int(text["t"]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """A label: fields `r c by src t d enc`. `r` is a request id or `key:<caller's key>`."""

    reference: str
    class_name: str
    labeler: str
    source: LabelSource
    time_ms: int | None = None
    image: bytes = b""
    encoding: str = ""


def encode_label(label: LabelEntry) -> dict[str, bytes | str | int]:
    fields: dict[str, bytes | str | int] = {
        "r": label.reference, "c": label.class_name, "by": label.labeler, "src": label.source,
    }  # fmt: skip
    if label.time_ms is not None:
        fields["t"] = label.time_ms
    if label.image:
        fields["d"] = label.image
    if label.encoding:
        fields["enc"] = label.encoding
    return fields


def decode_label(fields: Fields) -> LabelEntry:
    """Defaults: labeler `anonymous`, source `correction` (the one that never judges)."""
    source = fields.get(b"src", b"correction").decode("utf-8", "replace")
    return LabelEntry(
        reference=fields.get(b"r", b"").decode("utf-8", "replace"),
        class_name=fields.get(b"c", b"").decode("utf-8", "replace"),
        labeler=fields.get(b"by", b"anonymous").decode("utf-8", "replace")[:128],
        source=source if source in ("audit", "truth", "correction") else "correction",  # type: ignore[arg-type]  # checked here
        time_ms=_milliseconds(fields),
        image=fields.get(b"d", b""),
        encoding=fields.get(b"enc", b"").decode("utf-8", "replace"),
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request nobody could answer: fields `r reason message deliveries v t` and the request's own fields prefixed `x-`."""

    entry_id: EntryId
    request_id: RequestId
    reason: str
    message: str
    deliveries: int
    version: Version
    time_ms: int
    request: Fields
