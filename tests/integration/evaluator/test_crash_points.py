"""No crash point loses or doubles a label or a sample: before and after every write to the store and every commit.

The same as `test_kill`, in one process, so that the crash falls exactly between two writes; and with the protection taken
away: positions that are committed apart from the state.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from continual_clients.objectstore import FileStore
from continual_workers.evaluation import codec
from continual_workers.evaluation.process import Evaluator
from continual_workers.evaluation.snapshot import Snapshot
from continual_workers.evaluation.state import State
from evaluator_driver import World, comparable, forget_everything, samples_of

WINDOW = 4.0
"""Several times what asking and labelling takes: a label that comes later counts as late."""


class CrashError(Exception):
    """The process ends here."""


class Tripwire:
    """Crashes at the n-th write, before or after it."""

    def __init__(self) -> None:
        self.left, self.crashes, self.after = -1, 0, False

    def arm(self, writes: int, after: bool) -> None:
        self.left, self.after = writes, after

    def around(self, write: Any, *arguments: Any) -> Any:
        self.left -= 1
        trips = self.left == 0
        if trips:
            self.crashes += 1
        if trips and not self.after:
            raise CrashError
        result = write(*arguments)
        if trips:
            raise CrashError
        return result


class TrippingStore(FileStore):
    """A real store whose puts pass the tripwire."""

    def __init__(self, root: Path, wire: Tripwire) -> None:
        super().__init__(root)
        self.wire = wire

    def put(self, key: str, data: bytes) -> None:
        self.wire.around(super().put, key, data)


class TrippingSnapshot(Snapshot):
    """Real commits that pass the tripwire."""

    wire: Tripwire

    def save(self, *arguments: Any) -> None:
        self.wire.around(super().save, *arguments)


def evaluate(
    world: World, server: Any, store: FileStore, wire: Tripwire, chooser: random.Random | None, unlabelled: list[str]
) -> dict[str, Any]:
    """Label and step until everything is over, crashing at random writes; then give the verdict and release all samples."""
    evaluator = started(world, server, store, wire)
    end = time.monotonic() + 2.2 * WINDOW
    while time.monotonic() < end:
        if chooser is not None and wire.left <= 0:
            wire.arm(chooser.randrange(1, 6), chooser.random() < 0.5)
        for rid in [unlabelled.pop(0) for _ in range(min(8, len(unlabelled)))]:
            world.label(rid, world.mistaken(0.03, "ann")(rid))
        try:
            evaluator.step()
        except CrashError:
            evaluator = started(world, server, store, wire)
        time.sleep(0.02)
    wire.arm(-1, after=False)
    judged = comparable(started_and_stepped(world, server, store, wire))
    world.configure(window_seconds=WINDOW, shard_seconds=0.4)
    released = comparable(started_and_stepped(world, server, store, wire))
    return judged | {"shards": released["shards"], "released_samples": released["released_samples"]}


def started(world: World, server: Any, store: FileStore, wire: Tripwire) -> Evaluator:
    evaluator = Evaluator(server.client(), store, world.keys, reports_every_seconds=0.0)
    snapshot = TrippingSnapshot(evaluator.client, world.keys)
    snapshot.wire = wire
    evaluator.snapshot = snapshot
    evaluator.start()
    return evaluator


def started_and_stepped(world: World, server: Any, store: FileStore, wire: Tripwire) -> Any:
    evaluator = started(world, server, store, wire)
    for _ in range(3):
        evaluator.step()
        time.sleep(0.05)
    return evaluator.report


def compare(world: World, server: Any, tmp_path: Path, seed: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Reports with and without crashes, and how many crashes there were."""
    print("seed", seed)
    chooser, wire = random.Random(seed), Tripwire()
    since = world.route([("v1", 5000), ("v2", 5000)], shadow=["v1", "v2"])
    orders = {"window_seconds": WINDOW, "shard_seconds": 0.4}
    world.judge(since, **orders)
    ids = world.ask(150, key=lambda n: b"" if n % 5 else f"clip-{n // 15}".encode())
    world.answer({"v1": world.mistaken(0.2, "old"), "v2": world.mistaken(0.1, "new")})
    world.label("key:nobody", "1")
    crashed = evaluate(world, server, TrippingStore(tmp_path / "store", wire), wire, chooser, list(ids))
    assert sorted(samples_of(world, tmp_path / "store", crashed)) == sorted(ids)
    forget_everything(world)
    world.judge(since, **orders)
    calm = evaluate(world, server, FileStore(tmp_path / "second"), Tripwire(), None, [])
    return crashed, calm, wire.crashes


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 7))])
def test_a_crash_between_any_two_writes_changes_nothing(
    world: World, redis_server: Any, tmp_path: Path, seed: int
) -> None:
    """State, positions, dead labels and report move together: the report is that of a run without crashes."""
    crashed, calm, crashes = compare(world, redis_server, tmp_path, seed)
    assert crashes >= 8
    assert crashed == calm
    assert crashed["labels"]["unknown"] == crashed["dead"] == 1


def test_mutation_positions_committed_apart_lose_labels(
    world: World, redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where positions are written ahead of the state, a crash between the two loses what was read."""
    plain = Snapshot.save
    crashed: set[str] = set()

    def apart(self: Snapshot, state: Any, offsets: Any, letters: Any, report: Any, points: Any) -> None:
        if not crashed and offsets["labels"] != "0-0":
            crashed.add("once")
            self.client.set(self.key("head"), codec.encode_head(State(), offsets))
            raise CrashError
        plain(self, state, offsets, letters, report, points)

    monkeypatch.setattr(Snapshot, "save", apart)
    with pytest.raises(AssertionError):
        test_a_crash_between_any_two_writes_changes_nothing(world, redis_server, tmp_path, 1)
