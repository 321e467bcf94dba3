"""The report is drawn from the recording alone: no clock, no network, no run."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from continual_cli.demo import report
from continual_cli.demo.recording import Check, Recording, bands, decode, encode


def test_a_recording_survives_its_file(recording: Recording) -> None:
    """What was recorded can be drawn again later: encode and decode are inverse."""
    assert decode(encode(recording)) == recording


def test_the_page_asks_no_other_host(recording: Recording) -> None:
    """Self-contained: no script, no link, no address in it."""
    page = report.render(recording)
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_the_page_escapes_what_it_tells(recording: Recording) -> None:
    """Texts of the run are data, never markup."""
    page = report.render(recording)
    assert "&lt;after 37 labels&gt;" in page
    assert "<after" not in page


def test_bands_are_the_stretches_under_judgement(recording: Recording) -> None:
    """One band per version, stage and weight, in order of time; stable stretches have none."""
    named = [(band.label, round(band.start), round(band.end)) for band in bands(recording.samples)]
    assert named == [
        ("v2 shadow", 90, 120),
        ("v2 canary 10 %", 120, 132),
        ("v2 canary 50 %", 132, 145),
        ("v2 probation", 145, 170),
        ("v3 shadow", 190, 215),
    ]


def test_a_missed_check_is_said_on_top(recording: Recording) -> None:
    """Nobody has to scroll to learn that a run failed."""
    missed = dataclasses.replace(recording, checks=(Check("lost", "1", "0", False),))
    assert "something missed" in report.render(missed)
    assert "everything reached" in report.render(recording)


def test_three_files_are_written(recording: Recording, tmp_path: Path) -> None:
    """Page, picture and figures, each whole."""
    report.write(recording, tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").endswith("</html>")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "summary.json").read_text())["lost"] == 0


def test_a_run_that_recorded_nothing_still_draws(recording: Recording, tmp_path: Path) -> None:
    """A story that failed early leaves a page that says so."""
    report.write(dataclasses.replace(recording, samples=(), bins=(), happenings=(), decisions=()), tmp_path)
    assert (tmp_path / "report.html").exists()
