"""The tables of docs/performance.md come from the benchmarks' files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import SECTION, SOURCES, number, renewed

PAGE = Path(__file__).resolve().parents[3] / "docs/performance.md"
TRAINING: Mapping[str, Any] = {
    "rows": [
        {"goal": "G18", "what": "LeNet", "value": 0.934, "wanted": "≥ 0.9", "met": True, "note": "2,500 samples/s"}
    ],
    "threads": {"1 thread": {"alone": 2994.2, "beside": 1192.0}},
}
TEXT = "before\n<!-- figures: training -->\nold\n<!-- end -->\nafter\n"


def test_a_section_gets_the_figures_of_its_file_and_the_rest_of_the_page_stays() -> None:
    """Figure, goal and verdict stand in the table; what is around it is untouched."""
    page = renewed(TEXT, {"out/bench-training/training.json": TRAINING}.get)
    assert "| G18 | LeNet | 0.93 | ≥ 0.9 | met | 2,500 samples/s |" in page
    assert "old" not in page
    assert page.startswith("before\n")
    assert page.endswith("<!-- end -->\nafter\n")


def test_writing_twice_changes_nothing() -> None:
    """The second run finds its own table and replaces it by the same."""
    once = renewed(TEXT, {"out/bench-training/training.json": TRAINING}.get)
    assert renewed(once, {"out/bench-training/training.json": TRAINING}.get) == once


def test_a_section_whose_benchmark_has_not_run_here_stays_as_it_is() -> None:
    """Neither a missing file nor a missing part of it empties a table."""
    assert renewed(TEXT, lambda _: None) == TEXT
    assert renewed(TEXT, lambda _: {"machine": {}}) == TEXT


def test_a_section_that_nobody_writes_is_an_error() -> None:
    """A misspelt name is not passed over in silence."""
    with pytest.raises(KeyError):
        renewed("<!-- figures: speed -->\n<!-- end -->", lambda _: None)


def test_the_page_has_a_section_for_every_table_and_none_besides() -> None:
    """A new benchmark that nobody shows, or a section that nobody fills, fails here."""
    assert sorted(found[2] for found in SECTION.finditer(PAGE.read_text())) == sorted(SOURCES)


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (12.345, "12.3"), (0.01234, "0.0123"), (100.0, "100")])
def test_numbers_have_the_digits_that_matter(value: float, text: str) -> None:
    """Thousands are apart, small ones keep three digits."""
    assert number(value) == text
