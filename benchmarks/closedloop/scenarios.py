"""The twelve scenarios. Each is a short script of what the world and its people do; the stream runs on by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.closedloop.director import Director
from benchmarks.closedloop.world import CALM, CLASSES, DRIFTED, World

CALM_SECONDS = 20.0
"""600 labels: the detector's baseline needs 300."""
DRIFT = World(DRIFTED)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`change`: what of the common settings the scenario is about; `without`: classes v1 has never seen."""

    name: str
    told: str
    play: Callable[[Director], None]
    change: Callable[[dict[str, Any]], None] | None = None
    without: tuple[int, ...] = ()
    changed: str = ""
    """`change` in words."""


def sudden(run: Director) -> None:
    run.hold(CALM_SECONDS)
    run.show(DRIFT)
    run.onset("light and tilt change")
    run.hold(80)


def gradual(run: Director) -> None:
    run.hold(CALM_SECONDS)
    run.onset("the camera begins to turn")
    for step in range(1, 13):
        run.show(World(replace(CALM, tilt_degrees=3.0 * step)))
        run.hold(4)
    run.hold(80)


def recurring(run: Director) -> None:
    run.hold(CALM_SECONDS)
    run.show(DRIFT)
    run.onset("light and tilt change")
    run.hold(55)
    for world in (World(), DRIFT):
        run.show(world)
        run.note("back" if world == DRIFT else "calm again")
        run.hold(20)


def new_class(run: Director) -> None:
    nines = tuple(0.0 if c == 9 else 1.0 for c in range(CLASSES))
    run.show(World(CALM, nines))
    run.hold(CALM_SECONDS)
    run.show(World())
    run.onset("nines appear")
    run.hold(85)


def class_prior(run: Director) -> None:
    run.hold(CALM_SECONDS)
    run.show(World(CALM, (8.0, 8.0, 8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)))
    run.onset("three digits become eight times as frequent")
    run.hold(70)


def label_noise(run: Director) -> None:
    run.hold(CALM_SECONDS)
    run.show(noise=0.2)
    run.onset("every fifth label is wrong")
    run.hold(75)


def corrections(run: Director) -> None:
    """Sixty hard images, each corrected by somebody, within three seconds; the stream's own labels go on."""
    run.hold(CALM_SECONDS)
    run.onset("sixty corrections in three seconds")
    hard = World(replace(CALM, tilt_degrees=30.0))
    run.traffic.play(world=hard, rate=20.0, source="correction")
    run.hold(3)
    run.traffic.play(world=World(), rate=30.0, source="audit")
    run.hold(85)


def poisoning(run: Director) -> None:
    """Threes are called eights: none, then more and more, up to half of them (5 % of all labels)."""
    run.hold(CALM_SECONDS)
    run.onset("threes begin to be called eights")
    for step in range(1, 11):
        run.show(swap=(3, 8, 0.05 * step))
        run.hold(7)
    run.hold(15)


def no_labels(run: Director) -> None:
    """The calm is long enough for the label-free signals' reference of 1 000 predictions."""
    run.hold(2 * CALM_SECONDS)
    run.show(DRIFT, labelled=0.0)
    run.onset("the world drifts and nobody labels any more")
    run.hold(50)


def late_labels(run: Director) -> None:
    run.show(delay=(8.0, 18.0))
    run.hold(CALM_SECONDS + 10)
    run.show(DRIFT)
    run.onset("the world drifts; labels come 8 to 18 s late")
    run.hold(125)


def drift_in_canary(run: Director) -> None:
    """A candidate of the calm is under judgement when the world changes."""
    run.hold(CALM_SECONDS - 6)
    run.cluster.verb("retrain")
    run.until("a canary to be judged", run.judging, 60)
    run.hold(2)
    run.show(DRIFT)
    run.onset("the world drifts while a canary is judged")
    run.hold(80)


def worse_canary(run: Director) -> None:
    """A night shift imports wrong labels; somebody has switched replay and the offline gate off; only the live gate is left."""
    run.hold(CALM_SECONDS)
    run.cluster.patch(_careless)
    run.onset("wrong labels, no replay, the offline gate only observes")
    run.show(off_by=3)
    run.hold(14)
    run.cluster.verb("retrain")
    run.until("the training", lambda: run.block("training").get("trigger") == "Manual", 30)
    run.show(off_by=0)
    run.until("a canary to be judged", run.judging, 60)
    run.note("the worse canary answers in the shadow")
    run.until("its end", lambda: not run.block("canary"), 60)
    run.cluster.patch(_careful)
    run.hold(35)


def _careless(spec: dict[str, Any]) -> None:
    spec["rollout"]["offlineGate"] = {"mode": "Observe"}
    spec["retraining"]["strategy"] = "fine-tune"


def _careful(spec: dict[str, Any]) -> None:
    del spec["rollout"]["offlineGate"], spec["retraining"]["strategy"]


def _patient(spec: dict[str, Any]) -> None:
    spec["feedback"]["window"] = "20s"
    spec["rollout"]["deadline"] = "90s"


SCENARIOS = (
    Scenario("sudden", "light and tilt change at once", sudden),
    Scenario("gradual", "the camera turns by 36° in 48 s", gradual),
    Scenario("recurring", "drifted, calm again, drifted again", recurring),
    Scenario("new-class", "v1 has never seen a nine", new_class, without=(9,)),
    Scenario("class-prior", "three classes become eight times as frequent", class_prior),
    Scenario("label-noise", "every fifth label is wrong, the world stays", label_noise),
    Scenario("corrections", "sixty corrections of tilted images in 3 s", corrections),
    Scenario("poisoning", "up to half of the threes are called eights", poisoning),
    Scenario("no-labels", "the world drifts and no label comes", no_labels),
    Scenario(
        "late-labels", "drift, labels 8 to 18 s late", late_labels, _patient, changed="feedback.window 20s, rollout.deadline 90s"
    ),
    Scenario("drift-in-canary", "the world drifts while a canary is judged", drift_in_canary),
    Scenario(
        "worse-canary", "a model of wrong labels reaches the canary", worse_canary,
        changed="for that one training: strategy fine-tune, offlineGate Observe",
    ),
)  # fmt: skip
