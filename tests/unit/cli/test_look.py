"""What `get`, `describe` and `history` show of a status."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest
import yaml
from continual_cli.output import age, cell, duration
from continual_cli.world import STOPPED


def columns(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_get_prints_the_columns_of_kubectl(run, digits):
    """Pins heads, order and values of one line per model."""
    result = run("get")
    assert result.exit_code == 0, result.output
    heads, row = columns(result.stdout)
    assert heads == ["NAME", "READY", "STABLE", "CANARY", "WEIGHT", "ACCURACY", "LABELS", "LAG", "TRAINING", "AGE"]
    assert row[:9] == ["digits", "True", "v7", "v8", "10", "0.953", "412", "3", "Running"]


def test_get_of_one_model_as_json_is_the_whole_object(run, digits):
    """Pins that -o json gives programs the object, not the table."""
    document = json.loads(run("get", "digits", "-o", "json").stdout)
    assert (document["kind"], document["status"]["stable"]["version"]) == ("ContinualModel", "v7")


def test_get_of_all_models_as_yaml_is_a_list(run, digits):
    assert [m["metadata"]["name"] for m in yaml.safe_load(run("get", "-o", "yaml").stdout)] == ["digits"]


def test_get_without_models_says_so_and_succeeds(run):
    """Pins that an empty list is no error, as with kubectl."""
    result = run("get")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to show" in result.stderr


@pytest.mark.parametrize("words", [("get",), ("describe",), ("retrain",), ("suspend",)])
def test_a_stopped_cluster_is_told_of_and_a_running_one_is_not(run, digits, home, words):
    """Pins the line on stderr: without `local up` Ready is as it was, and what is asked for waits."""
    stopped = run(*words)
    assert (stopped.exit_code, stopped.stderr) == (0, f"{STOPPED}\n")
    home.up_state.write_text(json.dumps({"pid": os.getpid()}))
    assert run(*words).stderr == ""


def test_a_model_of_one_second_prints_dashes(run, state, manifest):
    """Pins that a missing status is shown, not stumbled over."""
    state.create_or_replace(manifest("young"))
    assert columns(run("get").stdout)[1][:9] == ["young", *"--------"]


def test_describe_tells_versions_conditions_and_events(run, digits):
    digits.record_event("digits", "Normal", "Promoted", "v7 is stable")
    text = run("describe").stdout
    for part in (
        "architecture: lenet5",
        "Ready=True Serving: 1 of 1",
        "accuracy.lower: 0.931",
        "Promoted  v7 is stable",
    ):
        assert part in text


def test_history_shows_where_each_version_came_from(run, digits):
    rows = columns(run("history").stdout)
    assert rows[1][:5] == ["v6", "Retired", "Bootstrap", "-", "0.940"]
    assert rows[3][:6] == ["v8", "Canary", "Drift", "7" * 12, "0.949", "-"]


def test_the_model_may_be_left_out_only_while_there_is_one(run, digits, manifest):
    """Pins the choice of the model and its two errors."""
    digits.create_or_replace(manifest("letters"))
    several = run("describe")
    assert several.exit_code == 2
    assert (
        several.stderr
        == "error: model: there are several ContinualModels (got ['digits', 'letters']); say which one with --model\n"
    )
    missing = run("describe", "nope")
    assert missing.exit_code == 3
    assert missing.stderr == "error: model: no such ContinualModel (got 'nope'); known: digits, letters\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")],
)
def test_an_age_reads_as_kubectl_writes_it(seconds, shown):
    assert duration(seconds) == shown


def test_an_age_is_measured_from_utc():
    assert age("2026-01-01T00:00:00Z", datetime(2026, 1, 1, 0, 5, tzinfo=UTC)) == "5m"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), ("", "-"), (True, "true"), (0, "0"), (0.5, "0.500"), ("x", "x")]
)
def test_a_cell_never_prints_none(value, shown):
    assert cell(value) == shown
