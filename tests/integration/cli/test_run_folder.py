"""Train, evaluate, ask and correct from the command line, without a cluster: seeds C and D of the mission."""

from __future__ import annotations

import json
import shutil

import pytest


def test_a_run_folder_holds_model_history_plots_and_predictions(run_folder):
    """Pins seed C: what one training leaves."""
    names = {file.name for file in run_folder.iterdir()}
    assert names >= {"model.onnx", "manifest.json", "history.csv", "history.json", "curves.png", "per_class.png",
                     "predictions.csv", "evaluation.json"}  # fmt: skip
    scores = json.loads((run_folder / "evaluation.json").read_text())
    assert set(scores) == {"train", "test"}
    assert set(scores["test"]["per_class"]) == {str(d) for d in range(10)}


def test_evaluate_scores_without_training(run, run_folder):
    """Pins that the saved model is scored as it was, per class, on the run's own parts and on another file."""
    own = json.loads(run("train", "evaluate", str(run_folder), "-o", "json").stdout)
    saved = json.loads((run_folder / "evaluation.json").read_text())
    assert own["test"]["accuracy"] == pytest.approx(saved["test"]["accuracy"])
    other = run("train", "evaluate", str(run_folder), "--dataset", str(run_folder.parent / "digits.npz"), "-o", "json")
    assert json.loads(other.stdout)["test"]["samples"] == 1000


def test_a_wrong_answer_is_corrected_and_stays_corrected(run, run_folder, picture, digits, tmp_path):
    """Pins seed D: predict, correct, look again; the second correction finds nothing to do."""
    folder = tmp_path / "mine"
    shutil.copytree(run_folder, folder)
    files = {str(picture(index, rotate=70)): str(digits[1][index]) for index in range(12)}
    told = json.loads(run("predict", *files, "--checkpoint", str(folder), "-o", "json").stdout)
    path, label = next((one["file"], files[one["file"]]) for one in told if one["class"] != files[one["file"]])
    corrected = run("correct", path, "--label", label, "--checkpoint", str(folder), "-o", "json")
    assert corrected.exit_code == 0, corrected.output
    result = json.loads(corrected.stdout)
    assert (result["fixed"], result["after"]["class"]) == (True, label)
    [after] = json.loads(run("predict", path, "--checkpoint", str(folder), "-o", "json").stdout)
    assert (after["class"], after["version"]) == (label, result["digest"].removeprefix("sha256:")[:12])
    again = run("correct", path, "--label", label, "--checkpoint", str(folder))
    assert "already; nothing to correct\nfixed true" in again.stdout


def test_a_model_that_is_not_the_manifests_is_refused(run, run_folder, picture, tmp_path):
    """Pins exit 6 for one flipped byte."""
    folder = tmp_path / "mine"
    shutil.copytree(run_folder, folder)
    model = folder / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    result = run("predict", str(picture(1)), "--checkpoint", str(folder))
    assert result.exit_code == 6
    assert result.stderr.startswith(f"error: {model}: is not the file the manifest names")
