"""The arithmetic of the closed-loop benchmark: what counts as recovered, as wrong, as met, and what a labeler says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.closedloop import report
from benchmarks.closedloop.judge import Figures, Judged, load_judged, recovered, save
from benchmarks.closedloop.policies import told
from benchmarks.closedloop.report import row
from benchmarks.closedloop.scenarios import SCENARIOS
from benchmarks.closedloop.traffic import Item, Scene, said_of
from benchmarks.closedloop.world import CALM, EVEN, Deck, World, bootstrap_set, parts, truth, weighed_accuracy

GOOD = Figures(
    scenario="sudden", detect_seconds=2.0, detect_labels=20, detected_by="labels", recover_seconds=40.0,
    recover_labels=1200, lowest=0.5, final=0.96, mean=0.9, joint_final=0.97, seeds_lowest=0.5, seeds_final=0.95,
    seeds_mean=0.9, trainings=3, needless=1, promotions=2, wrong=0, worst_gain=0.01, stopped=1, labels=3000, lost=0,
    seconds=150.0,
)  # fmt: skip


def test_the_parts_are_disjoint_and_are_all_digits() -> None:
    """What is judged by was never streamed and never trained on."""
    dealt = parts(0)
    everything = np.concatenate([dealt.bootstrap, dealt.streamed, dealt.truth])
    assert sorted(everything) == list(range(1797))


def test_a_class_that_is_to_come_later_is_not_in_the_first_set() -> None:
    """v1 cannot know what the new class looks like."""
    assert 9 not in bootstrap_set(0, without=(9,))[1]
    assert 9 in bootstrap_set(0)[1]


def test_accuracy_weighs_classes_by_how_often_they_come() -> None:
    """A model that only knows zeros is right in nine of ten where nine of ten are zeros; what never comes counts nothing."""
    labels = np.arange(10)
    only_zeros = np.zeros(10, np.int64)
    assert weighed_accuracy(only_zeros, labels, EVEN) == pytest.approx(0.1)
    assert weighed_accuracy(only_zeros, labels, (9.0, 1.0) + (0.0,) * 8) == pytest.approx(0.9)


def test_the_truth_is_the_same_for_everybody_and_no_image_is_drawn_twice() -> None:
    """Policies are compared on equal images; the stream repeats no pixels."""
    assert np.array_equal(truth(0, CALM)[0], truth.__wrapped__(0, CALM)[0])
    deck = Deck(0)
    images = [deck.draw(World())[2].tobytes() for _ in range(200)]
    assert len(set(images)) == 200


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (Scene(), {3}),
        (Scene(labelled=0.0), {None}),
        (Scene(off_by=3), {6}),
        (Scene(swap=(3, 8, 1.0)), {8}),
        (Scene(swap=(4, 8, 1.0)), {3}),
        (Scene(noise=1.0), set(range(10)) - {3}),
    ],
)
def test_a_labeler_says_what_the_scene_lets_them(scene: Scene, expected: set[int | None]) -> None:
    """Honest, silent, off, poisoning one class, noisy: noise never says the truth by chance."""
    rng = np.random.default_rng(0)
    assert {said_of(3, scene, rng) for _ in range(300)} == expected


def test_labels_count_in_the_order_in_which_they_come() -> None:
    """Two requests labelled in reverse; a third never: nobody trains on what was never said."""
    items = [
        Item("1-0", 0.0, 1, 1, 5.0, "audit"),
        Item("2-0", 1.0, 2, 7, 2.0, "audit"),
        Item("3-0", 2.0, 3, -1, 3.0, "audit"),
    ]
    images = np.zeros((3, 28, 28, 1), np.uint8)
    said = told(items, images)
    assert said.labels.tolist() == [7, 1]
    assert (said.until(1.9), said.until(2.0), said.until(9.0)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.9, 0.9, 0.9, 0.9], 0.0),
        ([0.9, 0.5, 0.6, 0.87], None),
        ([0.9, 0.5, 0.89, 0.5], 2.0),
        ([0.5, 0.5, 0.5, 0.5], None),
    ],
)
def test_recovered_is_within_two_points_of_joint_after_having_fallen(
    accuracies: list[float], expected: float | None
) -> None:
    """0 when it never fell, None when it never came back, else seconds from the onset."""
    product = list(enumerate(accuracies))
    joint = [(second, 0.9) for second in range(len(accuracies))]
    assert recovered(product, joint, 0.0) == expected


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, set()),
        ({"wrong": 1}, {"no wrong promotion"}),
        ({"final": 0.9499}, {"within 2 points of joint", "final ≥ seeds"}),
        ({"lowest": 0.49}, {"lowest ≥ seeds"}),
    ],
)
def test_each_goal_is_missed_by_its_own_figure(change: dict[str, float], missed: set[str]) -> None:
    """A tie with the seeds' policy holds; anything below does not."""
    line = replace(GOOD, **change)
    assert {name for name, holds in line.checks.items() if not holds} == missed
    assert row(line)[-1] == ("met" if not missed else "missed: " + ", ".join(n for n in line.checks if n in missed))


def test_a_judgement_is_read_back_as_it_was_written(tmp_path) -> None:
    """`--cached` prints what the run printed."""
    judged = Judged(GOOD, [(0.0, 0.9)], [(0.0, 0.8)], [(0.0, 0.95)], [(2.0, 0.9)], [(1.0, "onset", "drift")])
    save(judged, tmp_path)
    assert load_judged(tmp_path) == judged


def test_there_are_the_twelve_scenarios() -> None:
    """As many as were asked for, each by its own name and with its own words."""
    assert len({scenario.name for scenario in SCENARIOS}) == len({scenario.told for scenario in SCENARIOS}) == 12


def test_publishing_replaces_the_table_and_keeps_the_words(tmp_path: Path) -> None:
    """The page is written by people around a table that is measured."""
    for folder in ("benchmarks", "images"):
        (tmp_path / folder).mkdir()
    page, picture = tmp_path / "benchmarks" / "closedloop.md", tmp_path / "measured.png"
    page.write_text("Before.\n\n| scenario | old |\n|---|---|\n| sudden | 1 |\n\nAfter.\n", encoding="utf-8")
    picture.write_bytes(b"png")
    report.publish([GOOD, replace(GOOD, scenario="no-labels", recover_seconds=None, final=0.9)], picture, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n\n| scenario | detected |")
    assert text.endswith("| within 2 points of joint; final ≥ seeds |\n\nAfter.\n")
    assert "| sudden | 2 s, 20 | 40 s, 1200 | 50.0 (50.0) | 96.0 (95.0) | 97.0 | 2, 0 | 1 | 3, 1 | – |" in text
    assert (tmp_path / "images" / "closedloop.png").read_bytes() == b"png"
    assert (tmp_path / "benchmarks" / "closedloop.csv").read_text(encoding="utf-8").count("\n") == 3
