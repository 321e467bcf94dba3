"""Labelled samples on their way into shards: what may train, what must wait, what never trains.

The unit of separation is the key `k`, or else the pixels' hash. A unit in the holdout never trains. A sample that an open
gate may count is *withheld*: it goes into a shard of its own that is listed only after the verdict. The same pixels with
the same label are taken once.

A shard closes after `shard_samples` samples or `shard_seconds`, in the time of the labels stream, never by a clock: so an
evaluator that was killed closes the same shards again, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from continual_contract.ids import canonical_json

from continual_workers.evaluation.table import Table

Kind = Literal["train", "holdout", "correction"]

CORRECTION_SECONDS = 2.0
"""Corrections are batched this long, so that somebody who corrects three images starts one training."""


def short_hash(data: bytes) -> str:
    """16 hex characters: the name of a unit or a content in the evaluator's tables."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image; `unit` is the short hash of its unit of separation."""

    request_id: str
    class_name: str
    event_time_ms: int
    source: str
    key_hex: str
    labeler: str
    metadata: str
    unit: str
    pixels: bytes

    @property
    def key(self) -> bytes:
        """The caller's `k`."""
        return bytes.fromhex(self.key_hex)

    @property
    def key_text(self) -> str:
        """`k` as a shard holds it."""
        return self.key.decode("utf-8", "replace")

    def encode(self) -> bytes:
        """A JSON line, then the raw pixels."""
        head = {name: getattr(self, name) for name in self.__slots__ if name != "pixels"}
        return canonical_json(head) + b"\n" + self.pixels


def decode_sample(raw: bytes) -> Sample:
    head, _, pixels = raw.partition(b"\n")
    return Sample(**json.loads(head), pixels=pixels)


@dataclass(frozen=True, slots=True)
class Bin:
    """Where a sample goes: its kind, and the gate it waits for (empty: none)."""

    kind: Kind
    gate: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}|{self.gate}"


@dataclass(frozen=True, slots=True)
class ClosedShard:
    """Samples ready to be written, in their order."""

    bin: Bin
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class Filling:
    """A bin that has samples: since when (stream time), and how many it ever got."""

    bin: Bin
    opened_ms: int
    names: list[str]


@dataclass(slots=True)
class Collector:
    """Open bins. The samples themselves lie in the table, by `<bin>/<place>`."""

    rows: Table[bytes]
    fillings: dict[str, Filling] = field(default_factory=dict)
    taken: int = 0

    def add(self, bin_: Bin, sample: Sample, time_ms: int) -> None:
        """Put a sample in its bin; a later correction of the same request by the same person replaces the earlier."""
        filling = self.fillings.setdefault(bin_.name, Filling(bin_, time_ms, []))
        self.taken += 1
        place = f"{sample.request_id}/{sample.labeler}" if bin_.kind == "correction" else f"{self.taken:012d}"
        name = f"{bin_.name}/{place}"
        if name not in self.rows:
            filling.names.append(name)
        self.rows.put(name, sample.encode())

    def due(self, time_ms: int, samples: int, seconds: float) -> list[ClosedShard]:
        """Close the bins that are full, or old at this stream time."""
        closed = []
        for filling in list(self.fillings.values()):
            patience = min(seconds, CORRECTION_SECONDS) if filling.bin.kind == "correction" else seconds
            if len(filling.names) >= samples or time_ms >= filling.opened_ms + patience * 1000:
                closed.append(self._close(filling))
        return closed

    def _close(self, filling: Filling) -> ClosedShard:
        samples = tuple(decode_sample(self.rows.rows[name]) for name in filling.names)
        for name in filling.names:
            self.rows.remove(name)
        del self.fillings[filling.bin.name]
        return ClosedShard(filling.bin, samples)

    def dump(self) -> dict[str, Any]:
        fillings = [[f.bin.kind, f.bin.gate, f.opened_ms, f.names] for f in self.fillings.values()]
        return {"taken": self.taken, "fillings": fillings}

    @classmethod
    def load(cls, state: Mapping[str, Any], rows: Table[bytes]) -> Collector:
        bins = [(Bin(kind, gate), opened, names) for kind, gate, opened, names in state["fillings"]]
        return cls(rows, {b.name: Filling(b, opened, list(names)) for b, opened, names in bins}, state["taken"])
