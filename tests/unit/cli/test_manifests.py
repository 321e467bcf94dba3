"""`init`, `apply` and `delete`: a model as a file, judged before anything is written."""

from __future__ import annotations

import copy
from typing import get_args, get_origin

import pytest
import yaml
from continual_cli.app import app
from continual_operator.spec import ContinualModelSpec
from pydantic import BaseModel
from typer.testing import CliRunner


def test_what_init_prints_apply_takes(run, state):
    """Pins that the starting file is valid, whatever the name; and that applying twice changes nothing."""
    text = run("init", "scans").stdout
    assert run("apply", "-f", "-", stdin=text).stdout == "continualmodel.continual.dev/scans created\n"
    assert run("apply", "-f", "-", stdin=text).stdout == "continualmodel.continual.dev/scans unchanged\n"
    assert state.model_names() == ["scans"]


def test_init_does_not_overwrite_a_changed_file(run, tmp_path):
    target = tmp_path / "digits.yaml"
    assert run("init", "--out", str(target)).exit_code == 0
    assert run("init", "--out", str(target)).exit_code == 0
    target.write_text("mine")
    refused = run("init", "--out", str(target))
    assert (refused.exit_code, target.read_text()) == (2, "mine")
    assert "choose another name, or give --force" in refused.stderr


def changed(manifest, path, value):
    document = copy.deepcopy(manifest)
    *steps, last = path.split(".")
    here = document
    for step in steps:
        here = here.setdefault(step, {})
    here[last] = value
    return document


BAD = [
    ("apiVersion", "v1"),
    ("kind", "Pod"),
    ("metadata.name", "Digits!"),
    ("metadata.namespace", "prod"),
    ("spec.model.architecture", "LeNet 5"),
    ("spec.model.input.height", 0),
    ("spec.model.input.channels", "one"),
    ("spec.model.input.fit", "Crop"),
    ("spec.model.classes", ["only"]),
    ("spec.model.classes", ["a", "a"]),
    ("spec.model.normalization", {"mean": [0.5], "std": [0.5, 0.5]}),
    ("spec.bootstrap.dataset", {"name": "imagenet"}),
    ("spec.bootstrap.checkpoint", {"objectKey": "x", "digest": "sha256:" + "0" * 64}),
    ("spec.serving.replicas", -1),
    ("spec.serving.batchSize", 0),
    ("spec.serving.device", "tpu"),
    ("spec.serving.precision", "int4"),
    ("spec.serving.autoscaling", {"minReplicas": 3, "maxReplicas": 1}),
    ("spec.serving.image", "evil"),
    ("spec.feedback.window", "soon"),
    ("spec.feedback.auditPercent", 101),
    ("spec.feedback.gateSources", ["correction"]),
    ("spec.retraining.strategy", "hope"),
    ("spec.retraining.replayCapacity", 0),
    ("spec.retraining.triggers", [{"labels": 5, "schedule": "0 3 * * *"}]),
    ("spec.retraining.triggers", [{"schedule": "every night"}]),
    ("spec.retraining.instantCorrections", "Yes"),
    ("spec.retraining.cooldown", "10"),
    ("spec.rollout.steps", [{"weight": 50}, {"weight": 10}]),
    ("spec.rollout.gate.alpha", 0),
    ("spec.rollout.mode", "Dream"),
    ("spec.rollout.onInconclusive", "Shrug"),
    ("spec.rollout.probation.minLabels", 0),
    ("spec.rollout.pinnedVersion", "seven"),
    ("spec.retention.versions", 1),
    ("spec.retention.requests.maxBytes", "lots"),
    ("spec.suspend", "yes"),
    ("spec.colour", "red"),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=[f"{path}={value!r}"[:60] for path, value in BAD])
def test_each_wrong_field_is_named_with_its_remedy(run, state, manifest, path, value):
    """Pins for every field: exit code 2, a line that names the field and says what to do, nothing written."""
    result = run("apply", "-f", "-", stdin=yaml.safe_dump(changed(manifest("digits"), path, value)))
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert path.rpartition(".")[2] in result.stderr or path.rpartition(".")[0] in result.stderr
    assert all(";" in line for line in lines), f"no remedy in {result.stderr}"
    assert state.model_names() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "error: -: is empty; see `continual init`\n"),
        ("- 1\n", "error: -: is not an object (got [1]); see `continual init`\n"),
        ("a: [1", "is not YAML"),
    ],
)
def test_a_file_that_is_no_model_is_refused(run, text, message):
    result = run("apply", "-f", "-", stdin=text)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": "digits"}, "error: metadata: must be a mapping (got 'digits'); write name: digits\n"),
        (
            {"metadata": {"name": "digits", "labels": ["a"]}},
            "error: metadata.labels: must be a mapping (got ['a']); write key: value pairs\n",
        ),
        (
            {"metadata": {"name": "digits", "annotations": {"a": 1}}},
            "error: metadata.annotations.a: must be text (got 1); put it in quotes\n",
        ),
        (
            {"apiVersion": "v1"},
            "error: apiVersion: not a ContinualModel (got 'v1'); use continual.dev/v1alpha1 ContinualModel\n",
        ),
    ],
)
def test_what_stands_around_the_spec_is_judged_too(run, state, manifest, change, message):
    result = run("apply", "-f", "-", stdin=yaml.safe_dump(manifest("digits") | change))
    assert (result.exit_code, result.stderr) == (2, message)
    assert state.model_names() == []


def test_a_model_may_be_applied_before_the_first_up(tmp_path, monkeypatch, manifest):
    """Pins the remedy that `get` and `predict` name in an empty home: `apply` works in one that nothing has made yet."""
    monkeypatch.setenv("CONTINUAL_HOME", str(tmp_path / "new"))
    applied = CliRunner().invoke(app, ["apply", "-f", "-"], input=yaml.safe_dump(manifest("digits")))
    assert (applied.exit_code, applied.stdout) == (0, "continualmodel.continual.dev/digits created\n")


def test_a_missing_file_is_named(run):
    result = run("apply", "-f", "nowhere.yaml")
    assert (result.exit_code, result.stderr) == (
        3,
        "error: --file: no such file (got 'nowhere.yaml'); check the path\n",
    )


def test_delete_names_what_it_deleted_and_knows_what_is_gone(run, digits):
    assert run("delete", "digits").stdout == "continualmodel.continual.dev/digits deleted\n"
    assert digits.model_names() == []
    assert run("delete", "digits").exit_code == 3
    assert run("delete", "digits", "--ignore-not-found").exit_code == 0


def leaves(part, path="spec"):
    """Every field of the spec that is not an object itself, as a path; `[0]` is the first item of a list of objects."""
    for field in part.model_fields.values():
        here = f"{path}.{field.alias}"
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        inner = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if inner:
            yield from leaves(inner[0], here + ("[0]" if get_origin(field.annotation) is tuple else ""))
        else:
            yield here


def with_nonsense(document, path):
    """The manifest with an object where the field's value belongs."""
    *steps, last = path.split(".")
    here = document
    for step in steps:
        name, listed, _ = step.partition("[0]")
        here = here.setdefault(name, [{}])[0] if listed else here.setdefault(name, {})
    here[last] = {"nonsense": [True]}
    return document


@pytest.mark.parametrize("path", list(leaves(ContinualModelSpec)))
def test_every_field_of_the_spec_refuses_nonsense_by_name(run, state, manifest, path):
    """Pins that no field is left unjudged: an object where a value belongs is refused with the field's whole path."""
    document = with_nonsense(manifest("digits"), path)
    if path.startswith("spec.bootstrap.checkpoint"):
        del document["spec"]["bootstrap"]["dataset"]
    result = run("apply", "-f", "-", stdin=yaml.safe_dump(document))
    assert result.exit_code == 2, result.output
    assert any(line.startswith(f"error: {path}") for line in result.stderr.splitlines()), result.stderr
    assert state.model_names() == []
