"""Which requests were labelled by anybody: the labels stream, read on from where we were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

KEPT = 50_000


@dataclass(slots=True)
class SeenLabels:
    """Request ids that labels of any client named, the newest fifty thousand."""

    position: bytes = b"0-0"
    ids: dict[str, None] = field(default_factory=dict)

    def add(self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
        for entry_id, fields in entries:
            self.ids[fields.get(b"r", b"").decode("utf-8", "replace")] = None
            self.position = entry_id
        while len(self.ids) > KEPT:
            del self.ids[next(iter(self.ids))]
