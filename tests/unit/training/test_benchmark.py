"""The learning benchmark's own arithmetic: figures of lifelong learning, goals that can be missed, a cache that knows its code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import cache as cache_module
from benchmarks.learning.cache import Cache, fingerprint
from benchmarks.learning.measures import lifelong, worst_case_accuracy
from benchmarks.learning.report import publish, table, write
from benchmarks.learning.rows import ROWS, Line, Plan, Unit
from benchmarks.learning.worlds import World, long_tailed, parts, shifted, stream, union

MATRIX = [[0.9, 0.1, 0.1], [0.6, 0.8, 0.2], [0.5, 0.7, 0.9]]


def test_the_figures_are_those_of_the_literature() -> None:
    """Worked by hand: ACC .7; forgetting (.4 + .1)/2; BWT its negative here; FWT (.1 + .2)/2 − .1; AIA (.9 + .7 + .7)/3."""
    figures = lifelong(MATRIX, chance=0.1)
    assert figures.acc == pytest.approx(0.7)
    assert figures.forgetting == pytest.approx(0.25)
    assert figures.bwt == pytest.approx(-0.25)
    assert figures.fwt == pytest.approx(0.05)
    assert figures.aia == pytest.approx((0.9 + 0.7 + 0.7) / 3)


def test_the_worst_case_counts_every_dip_of_what_was_learned_before() -> None:
    """WC-ACC = (newest + Σ lowest of the older since they were learned)/k: a dip counts although it has healed."""
    trace = [(0, [0.9]), (1, [0.2, 0.5]), (1, [0.8, 0.9]), (2, [0.7, 0.6, 0.3]), (2, [0.8, 0.9, 0.95])]
    assert worst_case_accuracy(trace, 3) == pytest.approx((0.95 + 0.2 + 0.6) / 3)


def test_the_division_never_changes() -> None:
    """1257 and 540 real digits, the same for ever; validation is a part of the first and touches no test image."""
    train, test = parts(World())
    smaller, validation = parts(World(validation=True))
    assert (len(train), len(test), len(smaller), len(validation)) == (1257, 540, 1005, 252)
    held = {image.tobytes() for image in validation.images}
    assert held <= {image.tobytes() for image in train.images}
    assert np.bincount(test.labels).min() >= 50


def test_streams_show_what_they_promise() -> None:
    """class: every class once; corr and rot: every training image in each of five experiences."""
    classes = [set(e.train.labels.tolist()) for e in stream(World(), "class", 3)]
    assert sorted(c for pair in classes for c in pair) == list(range(10))
    assert all(len(pair) == 2 for pair in classes)
    for kind in ("corr", "rot"):
        experiences = stream(World(), kind, 0)
        assert [len(e.train) for e in experiences] == [1257] * 5
        assert len({e.train.images.tobytes() for e in experiences}) == 5
        assert len(union(experiences)) == 5 * 1257


def test_a_long_tail_has_its_ratio() -> None:
    """20:1 keeps all of one class and a twentieth of another; another seed chooses other classes."""
    train, _ = parts(World())
    counts = np.sort(long_tailed(train, 20.0, 0).counts())
    assert counts[-1] / counts[0] == pytest.approx(20, abs=2)
    assert (long_tailed(train, 20.0, 0).counts() != long_tailed(train, 20.0, 1).counts()).any()


def test_a_shift_brings_in_black() -> None:
    """One pixel down: the first row is black, the rest is what was above it."""
    images = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    assert shifted(images, 1, 0)[0, :, :, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert shifted(images, 0, -1)[0, :, :, 0].tolist() == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]


def results_of(accuracy: float, restarts: int = 0):
    """A source of results in which every training ends with one accuracy."""
    return lambda _unit: {"acc": accuracy, "forgetting": 0.0, "restarts": restarts, "wc_acc": accuracy}


@pytest.mark.parametrize(
    ("name", "bad"), [("job-class", 0.96), ("job-class-plain", 0.95), ("job-rot", 0.95), ("online", 0.8)]
)
def test_a_goal_can_be_missed(name: str, bad: float) -> None:
    """Perfect figures meet every goal of the row, figures just below meet none of its strictest."""
    (row,) = [row for row in ROWS if row.name == name]
    assert all(line.holds for line in row.lines(Plan(), results_of(1.0)))
    assert any(line.holds is False for line in row.lines(Plan(), results_of(bad)))


def test_one_divergence_fails_its_row() -> None:
    """100 seeds of five trainings; a restart that healed is counted too."""
    (row,) = [row for row in ROWS if row.name == "divergence"]
    assert len(row.units(Plan())) == 100
    assert [line.holds for line in row.lines(Plan(), results_of(1.0, restarts=1))] == [False]


def test_a_figure_outlives_a_comment_and_not_a_change_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint reads syntax trees: comments and docstrings do not count, a number does."""
    module = tmp_path / "worlds.py"
    monkeypatch.setattr(cache_module, "__file__", str(tmp_path / "cache.py"))
    monkeypatch.setattr(cache_module, "HERE", ("worlds",))
    prints = []
    for text in ('"""A."""\nX = 1\n', '"""B."""\nX = 1  # why\n', '"""A."""\nX = 2\n'):
        module.write_text(text)
        prints.append(fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_the_cache_forgets_what_other_code_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept across processes under the same fingerprint, unknown under another."""
    unit = Unit("job", World(), 0, (("kind", "class"),))
    Cache(tmp_path / "cache.jsonl").put(unit, {"acc": 0.5})
    assert Cache(tmp_path / "cache.jsonl").get(unit) == {"acc": 0.5}
    assert unit not in Cache(tmp_path / "cache.jsonl", fresh=True)
    first = fingerprint()
    monkeypatch.setattr(cache_module, "fingerprint", lambda: "other")
    assert unit not in Cache(tmp_path / "cache.jsonl")
    assert unit in Cache(tmp_path / "cache.jsonl", code=first)


@pytest.mark.parametrize(("now", "carried"), [(0.5, True), (0.5 + 1e-12, False)])
def test_older_figures_count_only_where_one_seed_ends_exactly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: float, carried: bool
) -> None:
    """`--carry`: seed 0 is measured anew; the last digit decides whether seeds 1 and 2 are taken over. Another option is another group."""
    units = [Unit("job", World(), seed, (("kind", "class"),)) for seed in range(3)]
    other = Unit("job", World(), 1, (("kind", "rot"),))
    before = Cache(tmp_path / "cache.jsonl")
    for unit in (*units, other):
        before.put(unit, {"acc": 0.5})
    monkeypatch.setattr(cache_module, "fingerprint", lambda: "other")
    measured: list[int] = []
    monkeypatch.setattr(Unit, "run", lambda unit: measured.append(unit.seed) or {"acc": now})
    after = Cache(tmp_path / "cache.jsonl")
    after.carry([*units, other])
    assert measured == [0]
    assert [unit in after for unit in units] == [True, carried, carried]
    assert other not in after


def test_the_table_is_the_same_in_every_form(tmp_path: Path) -> None:
    """Text, CSV and JSON hold every line; a missed goal is said in words."""
    lines = [
        Line("a", "met", 98.0, 0.5, 97.0, 10, ">= 97.5", True),
        Line("b", "missed", 50.0, 9.0, 40.0, 10, ">= 60", False),
    ]
    write(lines, tmp_path)
    assert "FAILS" in table(lines)
    assert (tmp_path / "table.txt").read_text().count("ok") == 1
    assert [entry["holds"] for entry in json.loads((tmp_path / "table.json").read_text())] == [True, False]
    assert (tmp_path / "table.csv").read_text().splitlines()[1] == "a,met,98.0,0.5,97.0,10,>= 97.5,True,"


def test_the_published_page_counts_what_was_missed(tmp_path: Path) -> None:
    """CSV, page and pictures land where the documentation looks for them; a missed goal is counted and said."""
    lines = [
        Line("a", "met", 98.0, 0.5, 97.0, 10, ">= 97.5", True),
        Line("b", "missed", 50.0, 9.0, 40.0, 10, ">= 60", False),
    ]
    write(lines, tmp_path)
    (tmp_path / "drift.png").write_bytes(b"picture")
    publish(lines, tmp_path, [tmp_path / "drift.png"], tmp_path / "docs", "0123abcd")
    page = (tmp_path / "docs/benchmarks/learning.md").read_text()
    assert "1 goals met, 1 missed. Measured by code `0123abcd`" in page
    assert "| b | missed | 50 | 9.00 | 40 | 10 | >= 60 | FAILS |" in page
    assert (tmp_path / "docs/benchmarks/learning.csv").read_text() == (tmp_path / "table.csv").read_text()
    assert (tmp_path / "docs/images/learning-drift.png").read_bytes() == b"picture"
