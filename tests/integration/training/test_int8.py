"""`serving.precision: int8`: quantised after learning, judged as it will be served, and a parent like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from continual_clients.guard import check_model
from continual_clients.registry import blobs_of
from continual_contract.artifacts import CheckpointManifest, InputShape
from continual_contract.errors import ParityError, UsageError
from continual_workers.training import app, run
from continual_workers.training.export import weights_in, with_weights
from continual_workers.training.prepare import EXACT, Where, prepare
from continual_workers.training.quantize import check_agreement, quantized
from continual_workers.training.runtime import OnnxClassifier


def int8_retraining(school, **changes: object) -> CheckpointManifest:
    shard = school.lab.shard(school.new)
    return school.lab.manifest(
        school.lab.train(school.lab.retrain_inputs(school.parent, (shard,), precision="int8", **changes))
    )


def test_an_int8_candidate_is_as_good_and_a_third_of_the_size(school) -> None:
    """The served file has int8 weights, passes the serving guard, keeps within a point of float32 and its scores are its own."""
    lab = school.lab
    manifest = int8_retraining(school)
    served, exact = lab.registry.get_blob(manifest.onnx), lab.registry.get_blob(manifest.artifacts[EXACT])
    assert manifest.precision == "int8"
    assert {"QuantizeLinear", "DequantizeLinear"} <= check_model(served).operators
    assert len(served) < len(exact) / 2
    assert manifest.artifacts[EXACT] in blobs_of(manifest)
    tests = np.concatenate([school.old_test, school.new_test])
    small, large = (OnnxClassifier(m).logits(lab.images[tests]).argmax(axis=1) for m in (served, exact))
    assert (small == lab.labels[tests]).mean() >= (large == lab.labels[tests]).mean() - 0.01
    assert manifest.scores.samples > 20
    assert manifest.scores.accuracy >= 0.85


def test_calibration_sees_no_held_out_image(school, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate stays honest: no image that sets a range or proves agreement has a pixel-twin in the holdout."""
    seen: list[bytes] = []
    from continual_workers.training import quantize

    def spy(model: bytes, images: np.ndarray) -> bytes:
        seen.extend(image.tobytes() for image in images)
        return quantized(model, images)

    monkeypatch.setattr(quantize, "quantized", spy)
    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),), precision="int8", epochs=1)
    lab = school.lab
    held = prepare(inputs, Where(lab.store, lab.registry, lab.layout, None)).task.holdout
    lab.manifest(lab.train(inputs))
    assert len(seen) > 100
    assert set(seen).isdisjoint({image.tobytes() for image in held.images})


def test_the_gate_judges_the_int8_file(school, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check: an int8 file that answers otherwise changes the published scores; float32's are not published instead."""

    def ruined(_inputs: object, _prepared: object, exact: bytes, _threads: int) -> bytes:
        weights = weights_in(exact)
        other = with_weights(exact, {**weights, "head.weight": -weights["head.weight"]})
        assert other is not None
        return other

    monkeypatch.setattr(run, "in_precision", ruined)
    manifest = int8_retraining(school, epochs=1)
    assert manifest.scores.accuracy < 0.5


def test_an_int8_version_is_a_parent_and_float32_is_one_step_away(school) -> None:
    """Its child learns from the float32 state and graph; a correction in int8 is fixed in int8."""
    lab = school.lab
    first = int8_retraining(school, epochs=4)
    back = lab.manifest(lab.train(lab.retrain_inputs(first.digest(), (lab.shard(school.new[:50]),), epochs=1)))
    assert back.precision == "float32"
    assert EXACT not in back.artifacts
    predicted = lab.predict(first, lab.images[school.new_test])
    wrong = np.flatnonzero(predicted != lab.labels[school.new_test])[:1]
    shard = lab.shard(school.new_test[wrong])
    fixed = lab.manifest(lab.train(lab.retrain_inputs(first.digest(), (shard,), mode="correction", precision="int8")))
    assert (fixed.precision, fixed.correction_fixed) == ("int8", True)


def test_an_int8_import_without_its_float32_file_is_no_parent(school) -> None:
    """Weights cannot be read back from eight bits: the failure says what to import."""
    lab, first = school.lab, int8_retraining(school, epochs=1)
    bare = first.model_copy(update={"state": None, "state_meta": None, "artifacts": {}})
    outcome = lab.train(lab.retrain_inputs(lab.registry.publish(bare), (lab.shard(school.new),)))
    assert outcome.failure is not None
    assert outcome.failure.reason == UsageError.reason
    assert "import the float32 file" in outcome.failure.message


def test_int8_that_changes_answers_is_refused(school) -> None:
    """Agreement with float32 below 98 % of the training images is a ParityError that names the field."""
    lab = school.lab
    exact = lab.registry.get_blob(lab.registry.manifest(school.parent).onnx)
    weights = weights_in(exact)
    other = with_weights(exact, {**weights, "head.bias": weights["head.bias"][::-1].copy() + np.arange(10, dtype="f4")})
    assert other is not None
    assert check_agreement(exact, quantized(exact, lab.images[:200]), lab.images[:200]) >= 0.98
    with pytest.raises(ParityError, match=r"serving\.precision.*int8.*float32"):
        check_agreement(exact, other, lab.images[:200])


def test_a_run_folder_can_be_int8(tmp_path: Path) -> None:
    """`continual train --precision int8`, then a correction of the folder: both files are kept, the served one is int8."""
    shape = InputShape(height=8, width=8, channels=1)
    options = app.RunOptions("digits", tmp_path / "run", architecture="mlp", input=shape, precision="int8", epochs=5)
    result = app.train_local(options, lambda _: None)
    assert result.test.accuracy >= 0.9
    assert (options.out / EXACT).is_file()
    _, test = app.load_parts("digits", None, shape)
    answers = app.predict_local(options.out, test.images)
    wrong = next(i for i, (name, _) in enumerate(answers) if name != test.classes[test.labels[i]])
    corrected = app.correct_local(options.out, test.images[wrong], test.classes[test.labels[wrong]], lambda _: None)
    assert corrected.fixed
    assert app.load_run(options.out)[0].precision == "int8"
