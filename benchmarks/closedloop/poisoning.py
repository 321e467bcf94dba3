"""`python -m benchmarks.closedloop.poisoning`: twenty retrainings on labels of which one in twenty is wrong (C6), and on honest drift.

The trainer and the operator's offline gate as they are, one after the other in one process; the live gate is left out, so every
candidate that the offline gate lets through is promoted, which is worse than the product. The stream's holdout is poisoned like the
rest; what was held out of the first data set is not, and the floor stands on it. Each class is held against the *first* accepted version
on the truth that nobody can poison. `unguarded`: the same labels without replay or gate. The honest rows ask what the floor costs: it must
refuse nothing there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from continual_operator import reasons
from continual_operator.judges import OfflineFacts, Verdict, offline_gate
from continual_operator.spec import OfflineGate
from continual_workers.training.floor import Ask, Floor, lay, score_from_first
from continual_workers.training.learner import set_up_torch
from continual_workers.training.samples import Samples, split_held_out
from continual_workers.training.scoring import recall_per_class, score

from benchmarks.closedloop.policies import NET
from benchmarks.closedloop.traffic import Scene, said_of
from benchmarks.closedloop.world import CALM, DRIFTED, Deck, World, bootstrap_set, truth
from benchmarks.learning import lifelong, worlds

ROUNDS, LABELS, HELD = 20, 500, 10
SCENES = {
    "half of the threes are called eights": Scene(swap=(3, 8, 0.5)),
    "all threes are called eights": Scene(swap=(3, 8, 1.0)),
    "any label is wrong": Scene(noise=0.05),
    "honest: the world drifts": Scene(world=World(DRIFTED)),
    "honest: the world turns by 60 degrees": Scene(world=World(replace(CALM, tilt_degrees=60.0))),
}
"""5 %, 10 % and 5 % of all labels are wrong; in the honest ones none."""
HOLDOUTS = (10.0, 50.0)
"""Shares of the first 500 digits that are held out, in percent: the product's default, 5 of a class, and 25 of a class."""
NO_FLOOR = OfflineGate(max_drop_from_first=1.0)


@dataclass(frozen=True, slots=True)
class Arm:
    """How the labels are learned: `gate` None is fine-tune and swap, without replay."""

    name: str
    gate: OfflineGate | None
    holdout_percent: float = HOLDOUTS[0]


ARMS = (
    Arm("unguarded", None),
    *(
        Arm(f"{how}, {percent:g} % held out", gate, percent)
        for percent in HOLDOUTS
        for how, gate in (("without the floor", NO_FLOOR), ("with the floor", OfflineGate()))
    ),
)


@dataclass(frozen=True, slots=True)
class Round:
    """After one retraining: recall per class on the truth of the calm, accuracy in the world as it is now, and why the candidate was refused, if it was."""

    recalls: tuple[float, ...]
    now: float
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What judges: the first data set with the first version's answers, and the holdout: the bootstrap's, then the stream's."""

    floor: Floor
    holdout: list[Samples]


def shards(scene: Scene, seed: int) -> Iterator[Samples]:
    """Five hundred labelled images each."""
    deck, people = Deck(seed), np.random.default_rng([seed, 15])
    while True:
        drawn = [deck.draw(scene.world) for _ in range(LABELS)]
        labels = np.array([said_of(label, scene, people) for _, label, _ in drawn], dtype=np.int64)
        yield Samples(np.stack([image for _, _, image in drawn]), labels, worlds.DIGITS)


def rounds(scene: Scene, seed: int, count: int, arm: Arm, strategy: str = "der++") -> list[Round]:
    """v1, then `count` retrainings; guarded: the strategy behind the offline gate, else fine-tune and swap."""
    set_up_torch(1)
    train, own = split_held_out(Samples(*bootstrap_set(seed), worlds.DIGITS), arm.holdout_percent)
    how = lifelong.recipe(NET, seed, {"strategy": "fine-tune" if arm.gate is None else strategy})
    version = lifelong.bootstrap(NET, how, train, 2000, longer=True)
    shown = Shown(lay(own, train, _asking(version)), [own])
    done = [_round(version, scene, seed)]
    for shard, number in zip(shards(scene, seed), range(1, count + 1), strict=False):
        holdout, fresh = np.arange(LABELS) % HELD == 0, np.arange(LABELS) % HELD != 0
        shown.holdout.append(shard.take(np.flatnonzero(holdout)))
        step = lifelong.recipe(NET, seed + number, {"strategy": how.strategy.name})
        candidate = lifelong.next_version(NET, step, version, shard.take(np.flatnonzero(fresh)), [])
        verdict = None if arm.gate is None else _verdict(arm.gate, version, candidate, shown)
        refused = verdict.reason if verdict is not None and verdict.outcome == "Reject" else ""
        version = version if refused else candidate
        done.append(_round(version, scene, seed, refused))
    return done


def _verdict(gate: OfflineGate, parent: lifelong.Version, candidate: lifelong.Version, shown: Shown) -> Verdict:
    holdout = lifelong.together(shown.holdout)
    before, after = (_asking(version)(holdout.images) for version in (parent, candidate))
    facts = OfflineFacts(
        gate=gate, scores=score(after, before, holdout), classes=len(holdout.classes), finite_loss=True,
        parity_max_abs_diff=0.0, has_parent=True, first=score_from_first(shown.floor, _asking(candidate)),
    )  # fmt: skip
    return offline_gate(facts)


def _asking(version: lifelong.Version) -> Ask:
    return lambda images: lifelong.predictions(NET, version.weights, version.normalization, images)


def _round(version: lifelong.Version, scene: Scene, seed: int, refused: str = "") -> Round:
    then, now = (Samples(*truth(seed, weather), worlds.DIGITS) for weather in (CALM, scene.world.weather))
    recalls = recall_per_class(_asking(version)(then.images), then.labels, worlds.DIGITS)
    return Round(tuple(recalls.values()), float((_asking(version)(now.images) == now.labels).mean()), refused)


def summary(done: list[Round]) -> dict[str, Any]:
    """Losses in points of recall on the truth of the calm, of the class that lost most."""
    drops = 100 * (np.array(done[0].recalls) - np.array([each.recalls for each in done]))
    worst = drops.max(axis=0)
    return {
        "accuracy": [round(each.now, 4) for each in done],
        "refused": sum(bool(each.refused) for each in done),
        "by_the_floor": sum(each.refused == reasons.BELOW_FIRST for each in done),
        "largest_drop_of_a_class": round(float(worst.max()), 1),
        "class": int(worst.argmax()),
        "drop_at_the_end": round(float(drops[-1].max()), 1),
        "refusals": [each.refused for each in done],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closedloop.poisoning", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", default="der++", help="of the guarded ones; the floor stands whatever it is")
    parser.add_argument("--only", default="", help="scenes whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("out/bench-closedloop"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, scene in SCENES.items():
        for arm in ARMS if chosen.only in name else ():
            found[f"{name}, {arm.name}"] = told = summary(
                rounds(scene, chosen.seed, chosen.rounds, arm, chosen.strategy)
            )
            print(f"{name}, {arm.name}: {told}", flush=True)
    (chosen.out / "poisoning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
