"""The table of uploaded samples: which of their metadata become columns, and each row in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from continual_gateway.views import text
from continual_gateway.views.text import Tone

COLUMNS = 5
"""Metadata names with a column of their own, the commonest first; the rest is in the row's title."""


class Sample(Protocol):
    """What is known of one uploaded image."""

    @property
    def hash(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def by(self) -> str: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def values(self) -> Mapping[str, str]: ...
    @property
    def predicted(self) -> str: ...
    @property
    def confidence(self) -> float: ...
    @property
    def version(self) -> str: ...


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One line. `verdict` is right, wrong, or nothing where label or answer are missing."""

    hash: str
    id: str
    file: str
    label: str
    answer: str
    confidence: str
    version: str
    tone: Tone
    verdict: str
    time: str
    by: str
    values: tuple[str, ...]
    rest: str


@dataclass(frozen=True, slots=True)
class SampleTable:
    columns: tuple[str, ...]
    rows: tuple[SampleRow, ...]


def sample_table(samples: Sequence[Sample]) -> SampleTable:
    """The page's rows with the columns their metadata asks for."""
    seen = Counter(name for sample in samples for name in sample.values)
    columns = tuple(name for name, _ in seen.most_common(COLUMNS))
    return SampleTable(columns, tuple(_row(sample, columns) for sample in samples))


def _row(sample: Sample, columns: tuple[str, ...]) -> SampleRow:
    known = bool(sample.label and sample.predicted)
    is_right = sample.label == sample.predicted
    return SampleRow(
        hash=sample.hash,
        id=sample.id,
        file=sample.file,
        label=sample.label,
        answer=sample.predicted,
        confidence=text.percent(sample.confidence) if sample.predicted else "",
        version=sample.version,
        tone="idle" if not known else "good" if is_right else "bad",
        verdict="" if not known else "right" if is_right else "wrong",
        time=text.iso(sample.time_ms),
        by=sample.by,
        values=tuple(sample.values.get(name, "") for name in columns),
        rest=", ".join(f"{name}: {value}" for name, value in sample.values.items() if name not in columns),
    )
