"""`python -m benchmarks.closedloop.floor`: would the floor have stood in the way of the versions that `make bench-closedloop` recorded?

Every version of a recording is asked again: on the truth of the calm, for what each class really lost against v1, and on the first data
set, as the trainer measures it, for the gate's verdict. Honest drift must not be refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from continual_contract.artifacts import HoldoutScores
from continual_operator import reasons
from continual_operator.judges import OfflineFacts, offline_gate
from continual_operator.spec import OfflineGate
from continual_workers.training.floor import Ask, lay, score_from_first
from continual_workers.training.runtime import OnnxClassifier
from continual_workers.training.samples import Samples, split_held_out
from continual_workers.training.scoring import score

from benchmarks.closedloop.scenarios import SCENARIOS
from benchmarks.closedloop.world import CALM, bootstrap_set, truth
from benchmarks.learning import worlds

BLIND = OfflineGate(max_drop=1.0, max_class_drop=1.0, max_negative_flips=1.0)
"""Only the floor judges."""


def lines(folder: Path, seed: int) -> Iterator[str]:
    """One line for each version after v1 of each recorded scenario."""
    calm = Samples(*truth(seed, CALM), worlds.DIGITS)
    for scenario in SCENARIOS:
        home = folder / scenario.name
        if not (home / "v1.onnx").is_file():
            continue
        train, own = split_held_out(Samples(*bootstrap_set(seed, scenario.without), worlds.DIGITS), 10.0)
        first = _asking(home / "v1.onnx")
        floor, told = lay(own, train, first), first(calm.images)
        for path in sorted(home.glob("v*.onnx"), key=lambda path: int(path.stem[1:]))[1:]:
            ask = _asking(path)
            scores = score(ask(calm.images), told, calm)
            facts = OfflineFacts(
                gate=BLIND, scores=scores, classes=len(worlds.DIGITS), finite_loss=True, parity_max_abs_diff=0.0,
                has_parent=True, first=score_from_first(floor, ask),
            )  # fmt: skip
            verdict = offline_gate(facts)
            said = verdict.message if verdict.reason == reasons.BELOW_FIRST else "not below the floor"
            yield f"{scenario.name} {path.stem}: a class lost {100 * _worst(scores):.1f} points of truth; {said}"


def _asking(path: Path) -> Ask:
    return OnnxClassifier(path.read_bytes()).positions


def _worst(scores: HoldoutScores) -> float:
    return max(scores.parent_per_class[name] - scores.per_class[name] for name in scores.per_class)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closedloop.floor", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench-closedloop"))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for line in lines(chosen.out, chosen.seed):
        print(line)


if __name__ == "__main__":
    main()
