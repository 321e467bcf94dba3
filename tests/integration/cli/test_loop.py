"""The verbs on a whole running loop: `continual local` with its operator, evaluator, trainer and workers, all real."""

from __future__ import annotations

import json
import time

import pytest

YAML = """
apiVersion: continual.dev/v1alpha1
kind: ContinualModel
metadata: {name: digits}
spec:
  model: {architecture: mlp, input: {height: 28, width: 28, channels: 1}, classes: ["0","1","2","3","4","5","6","7","8","9"]}
  bootstrap: {dataset: {name: digits}}
  serving: {replicas: 1}
  feedback: {window: 20s, auditPercent: 100}
  retraining: {instantCorrections: Promote, cooldown: 1s}
  rollout:
    steps: [{weight: 0, hold: 2s}]
    offlineGate: {mode: Observe}
    gate: {margin: 0.05, minLabels: 50, minDuration: 5s}
    deadline: 120s
    probation: {minDuration: 5s, minLabels: 50, deadline: 60s}
"""


@pytest.fixture
def cluster(home, tmp_path, spawn):
    """`continual local up` in a home of its own; ended with `local down` whatever happens."""
    (tmp_path / "digits.yaml").write_text(YAML)
    up = spawn("local", "up", "-f", str(tmp_path / "digits.yaml"))
    yield up
    down = spawn("local", "down", "--purge")
    down.popen.communicate(timeout=90)


def until(look, seconds: float):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.3)
    return found


def status(run) -> dict:
    return json.loads(run("get", "digits", "-o", "json").stdout or "{}").get("status", {})


@pytest.mark.timeout(300)
def test_the_verbs_carry_a_model_from_its_first_answer_to_a_corrected_version(run, cluster, picture, digits, tmp_path):
    """Pins predict → correct (followed, re-checked, fixed) → history, compare, export, decisions replay, doctor on real parts.

    The image is rotated until v1 is wrong about it, so that there is something to correct.
    """
    until(lambda: status(run).get("stable"), 120)
    until(lambda: run("doctor").exit_code == 0, 60)
    wrong = until(lambda: misclassified(run, picture, digits), 60)
    path, label = wrong
    fixed = run("correct", str(path), "--label", label, "-o", "json")
    assert fixed.exit_code == 0, fixed.output
    told = json.loads(fixed.stdout)
    assert (told["fixed"], told["after"]["class"], told["before"]["class"] != label) == (True, label, True)
    assert "live after the offline gate" in fixed.stderr
    until(lambda: [v for v in status(run).get("versions", []) if v["trigger"] == "Correction"], 60)
    until(lambda: status(run)["stable"]["version"] == "v2", 60)
    assert json.loads(run("predict", str(path), "-o", "json").stdout)[0]["class"] == label
    rows = run("compare", "v1", "v2", "-o", "json")
    assert json.loads(rows.stdout)["v2"]["parent"] == json.loads(rows.stdout)["v1"]["digest"]
    out = tmp_path / "exported"
    assert run("export", "v2", "--out", str(out)).exit_code == 0
    assert {"model.onnx", "manifest.json", "history.csv"} <= {file.name for file in out.iterdir()}
    replayed = run("decisions", "replay", "-o", "json")
    assert replayed.exit_code == 0, replayed.output
    assert {one["judge"] for one in json.loads(replayed.stdout)} >= {"offline_gate", "retraining_due"}
    again = run("correct", str(path), "--label", label, "-o", "json")
    assert (again.exit_code, json.loads(again.stdout)["job"]) == (0, "")


def misclassified(run, picture, digits):
    """(file, label) of a rotated digit that the stream answers wrongly."""
    files = [(picture(index, rotate=70), str(digits[1][index])) for index in range(12)]
    told = json.loads(run("predict", *(str(path) for path, _ in files), "-o", "json").stdout)
    wrong = [file for file, answer in zip(files, told, strict=True) if answer["class"] != file[1]]
    return wrong[0] if wrong else None
