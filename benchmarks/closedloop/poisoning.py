"""`python -m benchmarks.closedloop.poisoning`: twenty retrainings on labels of which one in twenty is wrong (C6).

The trainer and the operator's offline gate as they are, one after the other in one process; the live gate is left out, so every
candidate that the offline gate lets through is promoted, which is worse than the product. The holdout is poisoned like the rest. Each
class is held against the *first* accepted version on the truth that nobody can poison. `unguarded`: the same labels without replay or gate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from continual_operator.judges import OfflineFacts, offline_gate
from continual_operator.spec import OfflineGate
from continual_workers.training.learner import set_up_torch
from continual_workers.training.samples import Samples
from continual_workers.training.scoring import recall_per_class, score

from benchmarks.closedloop.policies import NET
from benchmarks.closedloop.traffic import Scene, said_of
from benchmarks.closedloop.world import CALM, Deck, World, bootstrap_set, truth
from benchmarks.learning import lifelong, worlds

ROUNDS, LABELS, HELD = 20, 500, 10
SCENES = {
    "half of the threes are called eights": Scene(swap=(3, 8, 0.5)),
    "any label is wrong": Scene(noise=0.05),
}
"""Both are 5 % of all labels."""


@dataclass(frozen=True, slots=True)
class Round:
    """After one retraining: recall per class on the truth, and whether the gate let the candidate through."""

    recalls: tuple[float, ...]
    accepted: bool


def shards(scene: Scene, seed: int) -> Iterator[Samples]:
    """Five hundred labelled images each."""
    deck, people = Deck(seed), np.random.default_rng([seed, 15])
    while True:
        drawn = [deck.draw(World()) for _ in range(LABELS)]
        labels = np.array([said_of(label, scene, people) for _, label, _ in drawn], dtype=np.int64)
        yield Samples(np.stack([image for _, _, image in drawn]), labels, worlds.DIGITS)


def rounds(scene: Scene, seed: int, count: int, *, guarded: bool) -> list[Round]:
    """v1, then `count` retrainings; guarded: der++ behind the offline gate, else fine-tune and swap."""
    set_up_torch(1)
    images, labels = bootstrap_set(seed)
    how = lifelong.recipe(NET, seed, {"strategy": "der++" if guarded else "fine-tune"})
    version = lifelong.bootstrap(NET, how, Samples(images, labels, worlds.DIGITS), 2000, longer=True)
    done, held = [_round(version, seed, accepted=True)], list[Samples]()
    for shard, number in zip(shards(scene, seed), range(1, count + 1), strict=False):
        holdout, fresh = np.arange(LABELS) % HELD == 0, np.arange(LABELS) % HELD != 0
        held.append(shard.take(np.flatnonzero(holdout)))
        step = lifelong.recipe(NET, seed + number, {"strategy": how.strategy.name})
        candidate = lifelong.next_version(NET, step, version, shard.take(np.flatnonzero(fresh)), [])
        accepted = not guarded or _passes(version, candidate, lifelong.together(held))
        version = candidate if accepted else version
        done.append(_round(version, seed, accepted=accepted))
    return done


def _passes(parent: lifelong.Version, candidate: lifelong.Version, holdout: Samples) -> bool:
    before, after = (
        lifelong.predictions(NET, version.weights, version.normalization, holdout.images)
        for version in (parent, candidate)
    )
    facts = OfflineFacts(
        gate=OfflineGate(), scores=score(after, before, holdout), classes=len(holdout.classes), finite_loss=True,
        parity_max_abs_diff=0.0, has_parent=True,
    )  # fmt: skip
    return offline_gate(facts).outcome == "Pass"


def _round(version: lifelong.Version, seed: int, *, accepted: bool) -> Round:
    images, labels = truth(seed, CALM)
    predicted = lifelong.predictions(NET, version.weights, version.normalization, images)
    return Round(tuple(recall_per_class(predicted, labels, worlds.DIGITS).values()), accepted)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closedloop.poisoning", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench-closedloop"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, scene in SCENES.items():
        for guarded in (True, False):
            told = f"{name}, {'der++ and the offline gate' if guarded else 'unguarded'}"
            done = rounds(scene, chosen.seed, chosen.rounds, guarded=guarded)
            first, drops = np.array(done[0].recalls), np.array([each.recalls for each in done])
            worst = 100 * (first - drops).max(axis=0)
            found[told] = {
                "accuracy": [round(float(np.mean(each.recalls)), 4) for each in done],
                "refused": sum(not each.accepted for each in done),
                "largest_drop_of_a_class": round(float(worst.max()), 1),
                "class": int(worst.argmax()),
                "drop_at_the_end": round(float(100 * (first - drops[-1]).max()), 1),
            }
            print(f"{told}: {found[told]}", flush=True)
    (chosen.out / "poisoning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
