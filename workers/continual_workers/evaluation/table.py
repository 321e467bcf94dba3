"""A dictionary that remembers what changed, so that a snapshot writes only that.

The evaluator's state is a small head, written whole, and a few tables that may hold many rows. Each step commits the head,
the rows that changed and the positions in the streams in one transaction: what a killed evaluator finds is one moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Changes(Generic[V]):
    """Rows to write and names to delete since the last drain."""

    written: Mapping[str, V]
    removed: tuple[str, ...]


@dataclass(slots=True)
class Table(Generic[V]):
    """Rows by name. Change a row by `put`: a value changed in place is not noticed."""

    rows: dict[str, V] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def get(self, name: str) -> V | None:
        return self.rows.get(name)

    def put(self, name: str, value: V) -> None:
        self.rows[name] = value
        self._touched.add(name)

    def remove(self, name: str) -> None:
        if self.rows.pop(name, None) is not None:
            self._touched.add(name)

    def clear(self) -> None:
        self._touched.update(self.rows)
        self.rows.clear()

    def drain(self) -> Changes[V]:
        """What changed since the last drain; the caller writes it."""
        touched, self._touched = self._touched, set()
        return Changes(
            {name: self.rows[name] for name in sorted(touched) if name in self.rows},
            tuple(sorted(name for name in touched if name not in self.rows)),
        )
