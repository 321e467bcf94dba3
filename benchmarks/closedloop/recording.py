"""What a run of a scenario leaves behind: the stream, who served when, the ledger, and the versions themselves.

Everything that is judged is judged from this folder, so a figure can be computed again without running the loop again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from continual_cli.demo.world import Weather

from benchmarks.closedloop.traffic import Item, Written
from benchmarks.closedloop.world import Images, World


@dataclass(frozen=True, slots=True)
class Turn:
    """From `second` on the world is this one."""

    second: float
    world: World


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened. Kinds: onset, alarm, flag, decision, note."""

    second: float
    kind: str
    text: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """Shares of the stream by version, in percent, at one moment."""

    second: float
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the operator's ledger; `second` of the stream."""

    second: float
    action: str
    reason: str
    message: str
    version: str
    baseline: str
    trigger: str
    acted: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """One run. `answers`: request id → version and class, as a consumer read them."""

    scenario: str
    seed: int
    code: str
    turns: tuple[Turn, ...]
    marks: tuple[Mark, ...]
    serving: tuple[Serving, ...]
    decisions: tuple[Decision, ...]
    versions: tuple[str, ...]
    answers: dict[str, tuple[str, str]]
    lost: int
    wall: float

    @property
    def onset(self) -> float | None:
        return next((mark.second for mark in self.marks if mark.kind == "onset"), None)

    @property
    def end(self) -> float:
        return self.serving[-1].second

    def world_at(self, second: float) -> World:
        return [turn.world for turn in self.turns if turn.second <= second][-1]


def save(recording: Recording, written: Written, folder: Path) -> None:
    """recording.json and stream.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.frombuffer(b"".join(written.pixels), np.uint8).reshape(len(written.pixels), -1)
    items = np.array([json.dumps(asdict(item)) for item in written.items])
    np.savez_compressed(folder / "stream.npz", pixels=pixels, items=items)
    (folder / "recording.json").write_text(json.dumps(asdict(recording), allow_nan=False), encoding="utf-8")


def load_stream(folder: Path) -> tuple[list[Item], Images]:
    """Items, and images [n, 28, 28, 1]."""
    with np.load(folder / "stream.npz") as data:
        items = [Item(**json.loads(str(text))) for text in data["items"]]
        side = int(data["pixels"].shape[1] ** 0.5)
        return items, data["pixels"].reshape(-1, side, side, 1)


def load(folder: Path) -> Recording:
    raw: dict[str, Any] = json.loads((folder / "recording.json").read_text(encoding="utf-8"))
    return Recording(
        **{**raw,
           "turns": tuple(Turn(t["second"], _world(t["world"])) for t in raw["turns"]),
           "marks": tuple(Mark(**m) for m in raw["marks"]),
           "serving": tuple(Serving(**s) for s in raw["serving"]),
           "decisions": tuple(Decision(**d) for d in raw["decisions"]),
           "versions": tuple(raw["versions"]),
           "answers": {name: (a[0], a[1]) for name, a in raw["answers"].items()}}
    )  # fmt: skip


def _world(raw: dict[str, Any]) -> World:
    return World(Weather(**raw["weather"]), tuple(raw["mix"]))
