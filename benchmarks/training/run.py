"""The trainer's epoch beside a bare torch loop with the same network, batch and augmentation, and what a second core brings (G18).

    python benchmarks/training/run.py               `make bench-training`, two minutes
    python benchmarks/training/run.py --rounds 1 --scale 0.2

Both loops run in this process in turn, each epoch beside its counterpart; an epoch during which strangers used more than 8 % of the cores is
taken again. Prints a table, writes training.json. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serving"))

import numpy as np
import torch
from bare import bare_epoch
from continual_contract.artifacts import Augmentation, InputShape, Normalization
from continual_workers.training.buffer import POLICIES, ReplayBuffer
from continual_workers.training.learner import LearnState, Task, learn, set_up_torch
from continual_workers.training.models import build
from continual_workers.training.samples import Samples, empty_samples
from continual_workers.training.strategies import strategy
from machine import FOREIGN_LIMIT, Quiet, Span, span
from rich.console import Console
from rich.table import Table
from rows import Row
from stand import Process

GOAL, RATE, BUFFER = 0.9, 0.05, 500
CLASSES = tuple(f"class-{n}" for n in range(10))
WAITS = {
    "default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 2 000": {"GOMP_SPINCOUNT": "2000"}, "spin 20 000": {"GOMP_SPINCOUNT": "20000"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A training to time."""

    title: str
    architecture: str
    side: int
    channels: int
    samples: int
    """Of one epoch, so that it takes about a second."""
    replays: bool = False
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 -- frozen

    def task(self, scale: float) -> Task:
        shape = InputShape(height=self.side, width=self.side, channels=self.channels)
        new, buffer = _samples(shape, max(160, int(self.samples * scale)), 0), ReplayBuffer.empty(BUFFER, shape, 10, 0)
        parent = None
        if self.replays:
            old = _samples(shape, BUFFER, 1)
            buffer.offer(old.images, old.labels, 0, POLICIES["class-quota"])
            buffer.store_logits(np.zeros((len(buffer), len(CLASSES)), np.float32))
            parent = build(self.architecture, shape, len(CLASSES), 1)
        return Task(
            net=build(self.architecture, shape, len(CLASSES), 0), parent=parent, new=new, buffer=buffer,
            holdout=empty_samples(shape, CLASSES), strategy=strategy("der++" if self.replays else "joint"),
            normalization=Normalization(mean=(0.5,) * self.channels, std=(0.25,) * self.channels),
            augmentation=self.augmentation, epochs=2, rates=(RATE,),
        )  # fmt: skip


MOVED = Augmentation(shift_pixels=2, rotate_degrees=10)
CASES = (
    Case("MLP, 8x8", "mlp", 8, 1, 24_000),
    Case("LeNet, 28x28", "lenet5", 28, 1, 6_000),
    Case("LeNet, augmented", "lenet5", 28, 1, 4_000, augmentation=MOVED),
    Case("LeNet, DER++ with replay", "lenet5", 28, 1, 2_000, replays=True),
    Case("CIFAR net, 32x32x3", "cnn3", 32, 3, 1_600),
    Case("CIFAR net, augmented", "cnn3", 32, 3, 1_600, augmentation=MOVED),
    Case("CIFAR net, DER++ with replay", "cnn3", 32, 3, 640, replays=True),
)


def _samples(shape: InputShape, count: int, seed: int) -> Samples:
    """Noise, brighter from class to class: an epoch of it descends, or the trainer would stop it as diverged."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    noise = rng.integers(0, 64, (count, shape.height, shape.width, shape.channels), np.uint8)
    return Samples(noise + (20 * labels).astype(np.uint8)[:, None, None, None], labels, CLASSES)


# Measures -------------------------------------------------------------------------------------------------------------------------


def trainer(case: Case, scale: float) -> Callable[[], tuple[float, Span]]:
    """Samples per second of the trainer's second epoch: what comes before every training is not part of it."""

    def run() -> tuple[float, Span]:
        task, moments = case.task(scale), list[float]()

        def save(_: LearnState) -> None:
            moments.append(time.perf_counter())

        with span() as taken:
            learn(task, None, save)
        return len(task.new) / (moments[1] - moments[0]), taken

    return run


def bare(case: Case, scale: float) -> Callable[[], tuple[float, Span]]:
    def run() -> tuple[float, Span]:
        task = case.task(scale)
        with span() as taken:
            bare_epoch(task, RATE, 0)
            began = time.perf_counter()
            bare_epoch(task, RATE, 1)
            seconds = time.perf_counter() - began
        return len(task.new) / seconds, taken

    return run


def against_bare(quiet: Quiet, rounds: int, scale: float, tell: Callable[[str], None]) -> list[Row]:
    rows = []
    for case in CASES:
        pairs = []
        rates = []
        for number in range(rounds):
            tell(f"{case.title} ({number + 1}/{rounds})")
            ours, theirs = quiet.measure(trainer(case, scale)), quiet.measure(bare(case, scale))
            pairs.append(ours / theirs)
            rates.append((ours, theirs))
        ours, theirs = (median(values) for values in zip(*rates, strict=True))
        note = f"{ours:,.0f} samples/s, bare {theirs:,.0f}"
        rows.append(Row("G18", case.title, median(pairs), "≥", GOAL, tuple(pairs), note))
    return rows


def second_core(rounds: int, scale: float, tell: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Samples per second of one epoch with one thread and with two, alone and beside a busy stranger, by how threads wait."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for beside in (False, True):
            busy = Process.start("busy.py") if beside else None
            try:
                for threads, waits in ((1, "default"), *((2, name) for name in WAITS)):
                    title = "1 thread" if threads == 1 else f"2 threads, {waits}"
                    tell(f"{title}{', beside a stranger' if beside else ''} ({number + 1}/{rounds})")
                    place = found.setdefault(title, {}).setdefault("beside" if beside else "alone", [])
                    place.append(_probe(threads, WAITS[waits], scale))
            finally:
                if busy:
                    busy.close()
    return {title: {where: median(rates) for where, rates in places.items()} for title, places in found.items()}


def _probe(threads: int, waits: dict[str, str], scale: float) -> float:
    """In a process of its own: how threads wait is decided when libgomp is loaded."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--probe", str(threads), "--scale", str(scale)]
    done = subprocess.run(command, env=environment | waits, capture_output=True, text=True, check=True)
    return float(done.stdout)


# Showing --------------------------------------------------------------------------------------------------------------------------


def _show(rows: Sequence[Row], threads: dict[str, dict[str, float]], quiet: Quiet) -> None:
    table = Table("goal", "one epoch ÷ a bare torch loop", "figure", "wanted", "", "rounds (min … max)", "note")
    for row in rows:
        spread = f"{min(row.samples):.2f} … {max(row.samples):.2f}"
        verdict = "[green]met[/]" if row.is_met else "[red]MISSED[/]"
        table.add_row(row.goal, row.what, f"{row.value:.2f}", f"{row.sign} {row.limit:g}", verdict, spread, row.note)
    cores = Table("CIFAR net, samples/s", "alone", "beside a busy process")
    for title, places in threads.items():
        cores.add_row(title, f"{places['alone']:,.0f}", f"{places['beside']:,.0f}")
    console = Console(width=140)
    console.print(table)
    console.print(cores)
    print(
        f"{quiet.rejected} runs rejected (strangers above {FOREIGN_LIMIT:.0%}), {quiet.disturbed} figures from disturbed runs"
    )


def _document(rows: Sequence[Row], threads: dict[str, dict[str, float]], quiet: Quiet) -> dict[str, object]:
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "rejected": quiet.rejected, "disturbed": quiet.disturbed, "threads": threads,
        "rows": [
            {"goal": r.goal, "what": r.what, "value": r.value, "wanted": f"{r.sign} {r.limit:g}", "met": r.is_met,
             "samples": r.samples, "note": r.note} for r in rows
        ],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples of an epoch")
    parser.add_argument("--out", type=Path, default=Path("out/bench-training"))
    parser.add_argument(
        "--only", choices=("ratio", "cores"), help="one half; the other is kept as training.json has it"
    )
    parser.add_argument("--tries", type=int, default=3, help="how often a disturbed epoch is taken at most")
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        set_up_torch(options.probe)
        print(trainer(CASES[4], options.scale)()[0])
        return 0
    set_up_torch(1)
    quiet = Quiet(options.tries)
    with Console(stderr=True).status("starting") as status:
        rows = [] if options.only == "cores" else against_bare(quiet, options.rounds, options.scale, status.update)
        threads = {} if options.only == "ratio" else second_core(min(options.rounds, 3), options.scale, status.update)
    _show(rows, threads, quiet)
    document = _document(rows, threads, quiet)
    file = options.out / "training.json"
    if options.only and file.exists():
        kept = json.loads(file.read_text())
        document |= {name: kept[name] for name in ("rows", "threads") if not document[name]}
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
