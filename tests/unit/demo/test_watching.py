"""What the tracker makes of a status, and what the view shows of a sample."""

from __future__ import annotations

import dataclasses
import io

import pytest
from continual_cli.demo.recording import Recording, Sample
from continual_cli.demo.tracker import stage_of, training_text, versions_now
from continual_cli.demo.view import drift_bar, page, plain_line, spark
from continual_contract.ids import EntryId, GroupName
from continual_contract.report import Report, VersionScores
from continual_contract.routing import Epoch

STATUS = {"stable": {"version": "v2"}, "canary": {"version": "v3"}}


@pytest.mark.parametrize(
    ("status", "version", "weight", "stage"),
    [
        (STATUS, "v2", 90.0, "stable"),
        (STATUS, "v3", 0.0, "shadow"),
        (STATUS, "v3", 10.0, "canary"),
        ({"stable": {"version": "v3"}, "probation": {"version": "v3", "previous": "v2"}}, "v3", 100.0, "probation"),
        ({"stable": {"version": "v3"}, "probation": {"version": "v3", "previous": "v2"}}, "v2", 0.0, "previous"),
        ({}, "v1", 100.0, "previous"),
    ],
)
def test_a_version_is_in_the_stage_its_block_says(
    status: dict[str, object], version: str, weight: float, stage: str
) -> None:
    """The stage comes from the status, the weight from the routing table."""
    assert stage_of(status, version, weight) == stage


def test_weights_are_those_of_the_routing_table() -> None:
    """Shares of the newest epoch in percent; who only shadows has 0; accuracy comes from the report."""
    shares = ((GroupName("v2@4"), 9000), (GroupName("v3@5"), 1000))
    epoch = Epoch(EntryId("7-0"), shares, (GroupName("v2@4"), GroupName("v3@5")), 10_000, "s")
    scores = {"v2": VersionScores(version="v2", labels=500, recent_accuracy=0.96)}
    report = Report(seq=1, time_ms=0, config_sequence=1, uid="u", versions=scores)
    live = versions_now(STATUS, report, epoch)
    assert [(v.version, v.stage, v.weight, v.accuracy) for v in live] == [
        ("v2", "stable", 90.0, 0.96),
        ("v3", "canary", 10.0, None),
    ]
    assert versions_now(STATUS, report, None) == ()


def test_only_a_training_in_flight_is_told() -> None:
    """A finished training is no news."""
    running = {"state": "Running", "trigger": "Drift", "progress": {"phase": "learning", "epoch": 3, "epochs": 20}}
    assert training_text({"training": running}) == "Drift learning epoch 3/20"
    assert training_text({"training": {**running, "state": "Succeeded"}}) == ""
    assert training_text({}) == ""


def test_a_line_without_a_terminal_says_it_all(recording: Recording) -> None:
    """Versions with stage, share and accuracy, requests, labels, drift: greppable in a log."""
    line = plain_line(next(s for s in recording.samples if s.second == 125.0))
    assert "v1 stable 90% 95.0  v2 canary 10% 90.0" in line
    assert "15000 requests" in line


def test_the_page_draws_at_any_moment(recording: Recording) -> None:
    """Before the first sample, before the first version, and in the middle of a rollout."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=110)
    empty = dataclasses.replace(recording.samples[0], versions=())
    for samples in ([], [empty], list(recording.samples[:260])):
        console.print(page(samples, list(recording.happenings)))
    assert "no version yet" in out.getvalue()
    assert "a worker is killed" in out.getvalue()


def test_bars_stay_inside_their_width() -> None:
    """A statistic far beyond its threshold fills the bar and no more."""
    sample = Sample(0, "", (), 99.0, 9.2, 0, 0, 0, 0, 0, "")
    assert drift_bar(sample, 10) == "█" * 10
    assert drift_bar(dataclasses.replace(sample, log_threshold=0.0), 10) == "·" * 10
    assert spark([-5, 0, 10, 50], 0, 10) == "▁▁██"
