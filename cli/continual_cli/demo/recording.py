"""What a run of the demo leaves behind: samples of the system every half second, happenings, and the books' results.

The report is drawn from this and nothing else, so it can be drawn again, and tested without a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from continual_cli.demo.ledger import Bin

Stage = Literal["stable", "shadow", "canary", "probation", "previous"]
FILE_NAME = "recording.json"


@dataclass(frozen=True, slots=True)
class VersionNow:
    """One live version at one moment. `weight` in percent of the stream; `accuracy` on its latest labels."""

    version: str
    stage: Stage
    weight: float
    accuracy: float | None
    labels: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The system at one moment, from its status, its report and the books."""

    second: float
    phase: str
    versions: tuple[VersionNow, ...]
    log_drift: float
    """Natural logarithm of the drift statistic; an alarm is raised at `log_threshold`."""
    log_threshold: float
    lag_seconds: float
    unanswered: int
    requests: int
    predictions: int
    labels: int
    training: str


@dataclass(frozen=True, slots=True)
class Happening:
    """Something worth a mark on the time axis. Kinds: world, fault, alarm, decision, training, correction."""

    second: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """One line of what the run had to reach."""

    name: str
    value: str
    bound: str
    passed: bool
    binding: bool = True
    """False: shown, but no reason to fail. A busy machine is slow; the loop is right all the same."""

    @property
    def failed(self) -> bool:
        return self.binding and not self.passed

    @property
    def word(self) -> str:
        return "reached" if self.passed else "MISSED" if self.binding else "slower"


@dataclass(frozen=True, slots=True)
class Recording:
    seed: int
    samples: tuple[Sample, ...]
    happenings: tuple[Happening, ...]
    bins: tuple[Bin, ...]
    bin_seconds: float
    summary: dict[str, Any]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    decisions: tuple[dict[str, Any], ...] = ()
    """The operator's own ledger: sequence, time, version, verdict, reason, message."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time in which one version was in one stage at one weight."""

    version: str
    stage: Stage
    weight: float
    start: float
    end: float

    @property
    def short(self) -> str:
        return f"{self.weight:.0f} %" if self.stage == "canary" else self.stage

    @property
    def label(self) -> str:
        return f"{self.version} {'canary ' if self.stage == 'canary' else ''}{self.short}"


def bands(samples: Iterable[Sample], stages: tuple[Stage, ...] = ("shadow", "canary", "probation")) -> list[Band]:
    """Contiguous stretches per version, stage and weight; a band ends where the next sample no longer shows it."""
    ordered = list(samples)
    found = [band for version in _names(ordered) for band in _bands_of(ordered, version) if band.stage in stages]
    return sorted(found, key=lambda band: (band.start, band.version))


def _names(samples: list[Sample]) -> list[str]:
    return sorted({now.version for sample in samples for now in sample.versions})


def _bands_of(samples: list[Sample], version: str) -> Iterator[Band]:
    ends = [sample.second for sample in samples[1:]] + [samples[-1].second] if samples else []

    def state(pair: tuple[Sample, float]) -> tuple[Stage, float] | None:
        return next(((v.stage, v.weight) for v in pair[0].versions if v.version == version), None)

    for key, run in groupby(zip(samples, ends, strict=True), key=state):
        stretch = list(run)
        if key is not None:
            yield Band(version, key[0], key[1], stretch[0][0].second, stretch[-1][1])


def encode(recording: Recording) -> str:
    return json.dumps(asdict(recording), indent=1, allow_nan=False)


def decode(text: str) -> Recording:
    """Read what `encode` wrote."""
    raw = json.loads(text)
    samples = tuple(
        Sample(**{**sample, "versions": tuple(VersionNow(**v) for v in sample["versions"])})
        for sample in raw["samples"]
    )
    return Recording(
        seed=raw["seed"],
        samples=samples,
        happenings=tuple(Happening(**h) for h in raw["happenings"]),
        bins=tuple(Bin(**b) for b in raw["bins"]),
        bin_seconds=raw["bin_seconds"],
        summary=raw["summary"],
        checks=tuple(Check(**c) for c in raw["checks"]),
        notes=tuple(raw["notes"]),
        decisions=tuple(raw["decisions"]),
    )


def save(recording: Recording, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(encode(recording), encoding="utf-8")


def load(folder: Path) -> Recording:
    return decode((folder / FILE_NAME).read_text(encoding="utf-8"))
