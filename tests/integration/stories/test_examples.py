"""The stories of the README run as written: one command each, real training, real Redis, no network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from continual_operator.spec import parse_model

EXAMPLES = Path(__file__).parents[3] / "examples"


@contextmanager
def killed_with_children(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever a story started ends with the test, also when it fails."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def tell(story: str, tmp_path: Path, seconds: float, **env: str) -> str:
    """Run one story into a folder of its own and return what it printed."""
    home = {"CONTINUAL_HOME": str(tmp_path / "home"), **env}
    process = subprocess.Popen(
        [str(EXAMPLES / story), "--out", str(tmp_path / "out")],
        env={**os.environ, **home}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with killed_with_children(process):
        printed, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, printed[-3000:]
    return printed


def test_seed_d_corrects_one_image_from_the_command_line(tmp_path: Path) -> None:
    """Predict, correct, check again: the image is answered rightly afterwards, and the digits are not forgotten."""
    printed = tell("seed_d.sh", tmp_path, 240, EPOCHS="4")
    assert "fixed true" in printed
    evaluation = json.loads((tmp_path / "out" / "run" / "evaluation.json").read_text())
    assert evaluation["test"]["accuracy"] > 0.9


def test_seed_c_trains_evaluates_and_runs_three_programs(tmp_path: Path) -> None:
    """A .npz becomes a run folder with plots; producer, classifier and consumer meet in one Redis and keep score."""
    printed = tell("seed_c.sh", tmp_path, 240, EPOCHS="4")
    files = {path.name for path in (tmp_path / "out" / "run").iterdir()}
    assert {"curves.png", "per_class.png", "history.csv", "predictions.csv", "model.onnx"} <= files
    score = next(line for line in printed.splitlines() if "right: accuracy" in line)
    right, _, seen = score.partition(" right")[0].split()
    assert int(seen) == 200
    assert int(right) > 150


def test_seed_a_answers_json_and_sends_nothing_twice(tmp_path: Path) -> None:
    """CIFAR-10 format, JSON with base64 float32: 300 answers with a running score; repeated ids enqueue nothing."""
    printed = tell("seed_a.sh", tmp_path, 300, SHORT="1")
    assert "0 requests, 20 known before" in printed
    assert "of 300 right" in printed


@pytest.mark.long
def test_seed_a_goes_on_learning_behind_a_gate(tmp_path: Path) -> None:
    """The retrained version is judged on live labels before it serves."""
    printed = tell("seed_a.sh", tmp_path, 500)
    assert "ShadowStarted" in printed
    assert "v2" in (tmp_path / "out" / "history.json").read_text()


@pytest.mark.parametrize("name", ["digits.yaml", "digits-fast.yaml", "cifar10.yaml"])
def test_every_example_manifest_is_valid(name: str) -> None:
    """What the README applies is accepted by the same parser as the operator's."""
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    manifest["metadata"] |= {"namespace": "default", "uid": "u"}
    assert parse_model(manifest).name == manifest["metadata"]["name"]
