"""Verbs that steer write annotations and spec fields, exactly what kubectl would write."""

from __future__ import annotations

import json
import os
import re

import pytest

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.mark.parametrize(
    ("words", "annotation", "value"),
    [
        (("retrain",), "retrain-requested-at", STAMP),
        (("cancel",), "cancel-training-requested-at", STAMP),
        (("rollback",), "rollback-requested-at", STAMP),
        (("promote", "v8"), "promote", f"v8@{STAMP}"),
        (("approve", "v8"), "approve", f"v8@{STAMP}"),
        (("reject", "v8"), "reject", f"v8@{STAMP}"),
        (("readmit", "sha256:" + "8" * 64), "readmit", "sha256:" + "8" * 64 + f"@{STAMP}"),
    ],
)
def test_a_one_shot_verb_is_one_annotation(run, annotations, words, annotation, value):
    """Pins name and form of what the operator reads, and that it says who asked."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(value, annotations()[f"continual.dev/{annotation}"])
    assert annotations()["continual.dev/requested-by"]


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (("pin", "v6"), ("rollout", "pinnedVersion"), "v6"),
        (("rollback", "--to", "v6"), ("rollout", "pinnedVersion"), "v6"),
        (("suspend",), ("suspend",), True),
        (("resume",), ("suspend",), False),
    ],
)
def test_a_lasting_verb_is_one_field_and_twice_is_once(run, digits, words, path, value):
    """Pins the field, and that a repetition writes nothing (resourceVersion stays)."""
    assert run(*words).exit_code == 0
    once = digits.read_model("digits")
    found = once["spec"]
    for step in path:
        found = found[step]
    assert found == value
    assert run(*words).exit_code == 0
    assert digits.read_model("digits")["metadata"]["resourceVersion"] == once["metadata"]["resourceVersion"]


def test_unpin_removes_the_pin(run, digits):
    run("pin", "v6")
    assert run("unpin").exit_code == 0
    assert "pinnedVersion" not in digits.read_model("digits")["spec"].get("rollout", {})


def test_promoting_the_stable_version_changes_nothing(run, annotations):
    """Pins idempotence: what is so already is success without a request."""
    result = run("promote", "v7", "-o", "json")
    assert json.loads(result.stdout) == {"model": "digits", "verb": "promote", "version": "v7", "requested": False}
    assert annotations() == {}


@pytest.mark.parametrize(
    "words",
    [
        ("promote", "v9"),
        ("approve", "v9"),
        ("reject", "v9"),
        ("pin", "v9"),
        ("rollback", "--to", "v9"),
        ("compare", "v6", "v9"),
        ("export", "v9", "--out", "x"),
    ],
)
def test_an_unknown_version_is_named_with_the_known_ones(run, digits, words, tmp_path, monkeypatch):
    """Pins message and exit code, before any server is asked."""
    monkeypatch.chdir(tmp_path)
    if words[0] == "compare":
        words = ("compare", "v9", "v6")
    result = run(*words)
    assert result.exit_code == 3
    assert result.stderr == "error: version: no such version (got 'v9'); known: v6, v7, v8\n"


def test_a_digest_must_look_like_one(run, digits):
    result = run("readmit", "v8")
    assert result.exit_code == 2
    assert result.stderr == "error: digest: not a digest (got 'v8'); give sha256: and 64 hexadecimal digits\n"


def test_a_user_without_a_name_is_its_number(run, annotations, monkeypatch):
    """In a pod uid 10001 has no entry in /etc/passwd and no $USER; a verb works there all the same."""
    monkeypatch.setattr(
        "os.environ", {k: v for k, v in os.environ.items() if k not in {"USER", "LOGNAME", "LNAME", "USERNAME"}}
    )
    monkeypatch.setattr("os.getuid", lambda: 2_000_000_001)
    assert run("retrain").exit_code == 0
    assert annotations()["continual.dev/requested-by"] == "uid-2000000001"
