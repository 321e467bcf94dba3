"""From a recording to figures: who was how good when, what was wrong, what was needless, and whether the goals were met."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from continual_cli.demo.world import Weather
from continual_contract.ids import id_key

from benchmarks.closedloop import policies
from benchmarks.closedloop.director import MARGIN
from benchmarks.closedloop.policies import Told
from benchmarks.closedloop.recording import Decision, Recording, load, load_stream
from benchmarks.closedloop.scenarios import Scenario
from benchmarks.closedloop.traffic import Item
from benchmarks.closedloop.world import Images, Labels, World, truth, weighed_accuracy

WITHIN = 0.02
"""Of joint retraining: recovered."""
BIN_SECONDS = 4.0
Curve = list[tuple[float, float]]


class Model(Protocol):
    def predict(self, images: Images) -> Labels: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the table. Accuracies are shares on the truth; seconds and labels count from the onset."""

    scenario: str
    detect_seconds: float | None
    detect_labels: int | None
    detected_by: str
    recover_seconds: float | None
    recover_labels: int | None
    lowest: float
    final: float
    mean: float
    joint_final: float
    seeds_lowest: float
    seeds_final: float
    seeds_mean: float
    trainings: int
    needless: int
    promotions: int
    wrong: int
    worst_gain: float | None
    """Of the promotions: the least true gain over what served before."""
    stopped: int
    """Candidates that the offline gate, the live gate or probation stopped."""
    labels: int
    lost: int
    seconds: float
    note: str = ""

    @property
    def checks(self) -> dict[str, bool]:
        """The goals, by name. A tie with the seeds' policy counts as held: under a sudden drift the same v1 is as low for both."""
        return {
            "no wrong promotion": self.wrong == 0,
            "within 2 points of joint": self.joint_final - self.final <= WITHIN,
            "final ≥ seeds": round(self.final - self.seeds_final, 4) >= 0,
            "lowest ≥ seeds": round(self.lowest - self.seeds_lowest, 4) >= 0,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures, and what the picture shows."""

    figures: Figures
    product: Curve
    seeds: Curve
    joint: Curve
    seen: Curve
    """Right answers as consumers read them, per four seconds."""
    events: list[tuple[float, str, str]]


class Truth:
    """How good a model is in a world; each is asked once."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._predicted: dict[tuple[str, Weather], tuple[Labels, Labels]] = {}

    def accuracy(self, name: str, model: Model, world: World) -> float:
        key = (name, world.weather)
        if key not in self._predicted:
            images, labels = truth(self._seed, world.weather)
            self._predicted[key] = model.predict(images), labels
        return weighed_accuracy(*self._predicted[key], world.mix)


class Judge:
    """One recording, its versions and the two other policies on its stream."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.run: Recording = load(folder)
        self.items, self.images = load_stream(folder)
        self.told: Told = policies.told(self.items, self.images)
        self.scenario, self.truth = scenario, Truth(self.run.seed)
        self.versions: dict[str, Model] = {v: policies.Served(folder / f"{v}.onnx") for v in self.run.versions}
        self.joint = policies.joint(self.told, len(self.told.labels), self.run.seed, scenario.without)
        self.swaps = policies.seeds_policy(policies.first_version(folder), self.told)

    def judged(self) -> Judged:
        product = [(s.second, self._served(s.weights, s.second)) for s in self.run.serving]
        seconds = [second for second, _ in product]
        joint = [(t, self._of("joint", self.joint, t)) for t in seconds]
        seeds = [(t, self._of_seeds(t)) for t in seconds]
        return Judged(self._figures(product, seeds, joint), product, seeds, joint, self._seen(), self._events())

    # -- accuracies

    def _of(self, name: str, model: Model, second: float) -> float:
        return self.truth.accuracy(name, model, self.run.world_at(max(second, self.run.turns[0].second)))

    def _version(self, version: str, second: float) -> float:
        return self._of(version, self.versions[version], second)

    def _served(self, weights: dict[str, float], second: float) -> float:
        """Of the stream: every version by its share."""
        return sum(w * self._version(v, second) for v, w in weights.items()) / sum(weights.values())

    def _of_seeds(self, second: float) -> float:
        place = max(i for i, (swapped, _) in enumerate(self.swaps) if swapped <= second)
        return self._of(f"seeds {place}", self.swaps[place][1], second)

    def _seen(self) -> Curve:
        bins: dict[int, list[bool]] = {}
        for item in self.items:
            answer = self.run.answers.get(item.request_id)
            if answer is not None and item.source != "correction":
                bins.setdefault(int(item.second // BIN_SECONDS), []).append(answer[1] == str(item.label))
        return [((place + 0.5) * BIN_SECONDS, sum(right) / len(right)) for place, right in sorted(bins.items())]

    # -- what happened

    def _events(self) -> list[tuple[float, str, str]]:
        told = [(m.second, m.kind, m.text) for m in self.run.marks]
        kinds = {"Train": "train", "Probation": "promote", "Rollback": "rollback", "Reject": "reject"}
        ledger = [
            (d.second, kinds[d.action], f"{d.version} {d.reason}".strip())
            for d in self.run.decisions
            if d.action in kinds and d.second > 0
        ]
        return sorted(told + ledger)

    def _figures(self, product: Curve, seeds: Curve, joint: Curve) -> Figures:
        run, onset = self.run, self.run.onset or 0.0
        detected = self._detected(onset)
        back = recovered(product, joint, onset)
        gains = [self._version(d.version, d.second) - self._version(d.baseline, d.second) for d in self._promoted()]
        trained = [d for d in run.decisions if d.action == "Train" and d.second > 0]
        after = [a for t, a in product if t >= onset]
        seeds_after = [a for t, a in seeds if t >= onset]
        return Figures(
            scenario=run.scenario,
            detect_seconds=detected[0], detect_labels=detected[1], detected_by=detected[2],
            recover_seconds=back, recover_labels=None if back is None else self._labels_from(onset, back),
            lowest=min(after), final=product[-1][1], mean=sum(after) / len(after), joint_final=joint[-1][1],
            seeds_lowest=min(seeds_after), seeds_final=seeds[-1][1], seeds_mean=sum(seeds_after) / len(seeds_after),
            trainings=len(trained), needless=sum(self._needless(d) for d in trained),
            promotions=len(gains), wrong=sum(gain < -MARGIN for gain in gains), worst_gain=min(gains, default=None),
            stopped=sum(d.action in {"Reject", "Rollback"} and d.acted for d in run.decisions),
            labels=len(self.told.labels), lost=run.lost, seconds=run.wall,
            note=self._note(),
        )  # fmt: skip

    def _promoted(self) -> list[Decision]:
        return [d for d in self.run.decisions if d.action == "Probation" and d.acted]

    def _detected(self, onset: float) -> tuple[float | None, int | None, str]:
        start = next((m.request_id for m in self.run.marks if m.kind == "onset"), "")
        for mark in self.run.marks:
            if mark.second < onset or mark.kind not in {"alarm", "flag"}:
                continue
            if mark.kind == "flag":
                if not _labelled_between(self.items, start, self.items[-1].request_id):  # signals are all there is
                    return mark.second - onset, 0, "signals"
                continue
            if id_key(mark.request_id) > id_key(start):
                return mark.second - onset, _labelled_between(self.items, start, mark.request_id), "labels"
        return None, None, ""

    def _labels_from(self, onset: float, seconds: float) -> int:
        return self.told.until(onset + seconds) - self.told.until(onset)

    def _needless(self, training: Decision) -> bool:
        """Nobody asked for it, and joint retraining on the same labels would have brought less than two points."""
        if training.trigger not in {"Drift", "Labels", "AccuracyBelow"}:
            return False
        now = min(self.run.serving, key=lambda s: abs(s.second - training.second))
        count = self.told.until(training.second)
        best = policies.joint(self.told, count, self.run.seed, self.scenario.without)
        return self._of(f"joint {count}", best, training.second) - self._served(now.weights, training.second) < WITHIN

    def _note(self) -> str:
        """What became of corrected images, and of the last candidate that was rolled back."""
        parts = [d.message for d in self.run.decisions if d.action == "Rollback"][-1:]
        corrected = [i for i, item in enumerate(self.items) if item.source == "correction"]
        if corrected:
            last = max(self.run.serving[-1].weights.items(), key=lambda share: share[1])[0]
            images = self.images[corrected]
            right = self.versions[last].predict(images) == [self.items[i].label for i in corrected]
            before = self.versions["v1"].predict(images) == [self.items[i].label for i in corrected]
            parts.append(
                f"of {len(corrected)} corrected images v1 had {int(before.sum())} right, {last} {int(right.sum())}"
            )
        return "; ".join(parts)


def _labelled_between(items: Sequence[Item], start: str, end: str) -> int:
    low, high = id_key(start), id_key(end)
    return sum(item.given >= 0 and low < id_key(item.request_id) <= high for item in items)


def recovered(product: Curve, joint: Curve, onset: float) -> float | None:
    """Seconds from the onset until the accuracy that fell is within two points of joint again; 0 when it never fell."""
    gaps = [(t, best - now) for (t, now), (_, best) in zip(product, joint, strict=True) if t >= onset]
    fell = next((t for t, gap in gaps if gap > WITHIN), None)
    if fell is None:
        return 0.0
    return next((t - onset for t, gap in gaps if t > fell and gap <= WITHIN), None)


def save(judged: Judged, folder: Path) -> None:
    (folder / "judged.json").write_text(json.dumps(asdict(judged)), encoding="utf-8")


def load_judged(folder: Path) -> Judged:
    raw = json.loads((folder / "judged.json").read_text(encoding="utf-8"))
    figures = Figures(**raw.pop("figures"))
    return Judged(figures, **{name: [tuple(entry) for entry in entries] for name, entries in raw.items()})
