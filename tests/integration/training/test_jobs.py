"""Jobs from their inputs to their manifests: bootstrap, retraining, correction, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from continual_clients.shards import read_shard
from continual_contract.artifacts import InputShape, Normalization
from continual_contract.errors import IntegrityError, ParityError
from continual_contract.keys import ModelKeys
from continual_workers.training import app, models
from continual_workers.training.export import check_parity, export_onnx, weights_in, with_weights
from continual_workers.training.learner import predict_logits
from continual_workers.training.runtime import OnnxClassifier
from PIL import Image


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    turned = [np.asarray(Image.fromarray(i[..., 0]).rotate(degrees, Image.Resampling.BILINEAR)) for i in images]
    return np.stack(turned)[..., None]


def test_a_bootstrap_learns_digits_and_says_how_well(school) -> None:
    """v1 of the nursery: good on unseen digits; its manifest names the holdout shard, scores and artifacts."""
    lab, manifest = school.lab, school.lab.registry.manifest(school.parent)
    held = read_shard(lab.store, lab.layout, str(manifest.bootstrap_holdout), "holdout")
    assert lab.accuracy(manifest, school.old_test) >= 0.95
    assert manifest.scores.samples == len(held) > 20
    assert manifest.scores.accuracy == float((lab.predict(manifest, held.image) == held.label).mean())
    assert manifest.parent is None
    assert set(manifest.artifacts) == {"history.csv", "history.json", "predictions.csv", "curves.png", "per_class.png"}
    assert lab.registry.get_blob(manifest.artifacts["curves.png"]).startswith(b"\x89PNG")
    rows = json.loads(lab.registry.get_blob(manifest.artifacts["history.json"]))
    assert rows[-1]["loss"] < rows[0]["loss"]
    predictions = list(
        csv.DictReader(io.StringIO(lab.registry.get_blob(manifest.artifacts["predictions.csv"]).decode()))
    )
    assert len(predictions) == len(held)


def test_what_is_held_out_is_never_trained_on(school) -> None:
    """C5: a shard that smuggles holdout images in (same pixels) trains on none of them, and buffers none."""
    from continual_workers.training.state import decode_checkpoint

    lab = school.lab
    parent = lab.registry.manifest(school.parent)
    held = read_shard(lab.store, lab.layout, str(parent.bootstrap_holdout), "holdout").image
    smuggled = lab.shard(np.arange(len(held)), images=held)
    inputs = lab.retrain_inputs(school.parent, (lab.shard(school.new[:80]), smuggled), epochs=1, replay_capacity=1000)
    manifest = lab.manifest(lab.train(inputs))
    blobs = lab.registry.get_blob(manifest.state), lab.registry.get_blob(manifest.state_meta)
    kept = {image.tobytes() for image in decode_checkpoint(*blobs, None).buffer.images}
    assert kept.isdisjoint({image.tobytes() for image in held})
    only = lab.retrain_inputs(school.parent, (smuggled,))
    outcome = lab.train(only)
    assert outcome.failure is not None
    assert "no samples are left" in outcome.failure.message


def test_a_drifted_world_is_learned_and_compared_with_the_parent(school) -> None:
    """Digits turned by 40 degrees: the candidate recovers, keeps the upright ones, and is scored beside its parent."""
    lab = school.lab
    train, held, test = school.old[:350], school.old_test[:80], school.old_test[80:]
    turned = lab.shard(train, images=rotated(lab.images[train], 40))
    holdout = lab.shard(held, "holdout", images=rotated(lab.images[held], 40))
    manifest = lab.manifest(lab.train(lab.retrain_inputs(school.parent, (turned,), (holdout,), epochs=12)))
    drifted = (lab.predict(manifest, rotated(lab.images[test], 40)) == lab.labels[test]).mean()
    assert drifted >= 0.9
    assert lab.accuracy(manifest, test) >= 0.9
    scores = manifest.scores
    assert scores.parent_accuracy is not None
    assert scores.accuracy > scores.parent_accuracy + 0.1
    assert scores.negative_flips is not None
    assert scores.negative_flips <= 0.1
    assert set(scores.parent_per_class) == set(scores.per_class) == set("01234")


def test_an_instant_correction_fixes_its_image_and_costs_nothing(school) -> None:
    """Misclassified, corrected, checked again: every one fixed, the unseen digits lose at most half a point on average."""
    lab, parent = school.lab, school.lab.registry.manifest(school.parent)
    turned = rotated(lab.images[school.old_test], 25)
    wrong = np.flatnonzero(lab.predict(parent, turned) != lab.labels[school.old_test])[:4]
    assert len(wrong) == 4
    before, changes = lab.accuracy(parent, school.old_test), []
    for i in wrong:
        shard = lab.shard(school.old_test[i : i + 1], images=turned[i : i + 1])
        manifest = lab.manifest(lab.train(lab.retrain_inputs(school.parent, (shard,), mode="correction")))
        assert manifest.correction_fixed is True
        assert lab.predict(manifest, turned[i : i + 1]) == lab.labels[school.old_test[i]]
        changes.append(lab.accuracy(manifest, school.old_test) - before)
    assert np.mean(changes) >= -0.005


def test_the_parents_graph_takes_the_new_weights(school) -> None:
    """Retraining reuses the parent's ONNX graph: only weights differ, and it equals a full export byte for byte."""
    lab, parent = school.lab, school.lab.registry.manifest(school.parent)
    manifest = lab.manifest(lab.train(lab.retrain_inputs(school.parent, (lab.shard(school.new),), epochs=1)))
    onnx = lab.registry.get_blob(manifest.onnx)
    net = models.build("mlp", manifest.input, 10, 0)
    models.load_arrays(net, weights_in(onnx))
    assert export_onnx(net, manifest.input, manifest.normalization) == onnx
    assert onnx != lab.registry.get_blob(parent.onnx)


@pytest.mark.parametrize("name", ["lenet5", "cnn3", "resnet18"])
def test_writing_weights_into_a_graph_equals_a_full_export(name: str) -> None:
    """Also with batch norm; the file takes uint8 NHWC of any batch and agrees with torch."""
    shape = InputShape(height=28, width=28, channels=1)
    normalization = Normalization(mean=(0.4,), std=(0.3,))
    first, second = models.build(name, shape, 5, 0), models.build(name, shape, 5, 1)
    graph = export_onnx(first, shape, normalization)
    reused = with_weights(graph, models.arrays_of(second))
    assert reused == export_onnx(second, shape, normalization)
    assert reused is not None
    for count in (1, 3, 17):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
        expected = predict_logits(second, images, normalization, torch.device("cpu"))
        assert check_parity(reused, expected, images) < 1e-3


def test_another_architecture_is_not_written_into_the_graph() -> None:
    """More classes or other layers: None, and the trainer exports anew."""
    shape, normalization = InputShape(height=8, width=8, channels=1), Normalization(mean=(0.0,), std=(1.0,))
    graph = export_onnx(models.build("mlp", shape, 5, 0), shape, normalization)
    assert with_weights(graph, models.arrays_of(models.build("mlp", shape, 6, 0))) is None


def test_a_file_that_computes_something_else_is_refused(school) -> None:
    """Parity: one weight off by a tenth is a ParityError, as is a NaN."""
    lab, parent = school.lab, school.lab.registry.manifest(school.parent)
    onnx = lab.registry.get_blob(parent.onnx)
    images = lab.images[:20]
    honest = OnnxClassifier(onnx).logits(images)
    weights = weights_in(onnx)
    tampered = with_weights(onnx, {**weights, "head.bias": weights["head.bias"] + np.float32(0.1)})
    assert tampered is not None
    assert check_parity(onnx, honest, images) == 0
    with pytest.raises(ParityError, match="differs from torch"):
        check_parity(tampered, honest, images)
    with pytest.raises(ParityError):
        check_parity(onnx, honest * np.float32("nan"), images)


def test_an_imported_parent_lends_its_onnx_weights(school) -> None:
    """A checkpoint without a state: weights come from its graph, the buffer starts empty, the training works."""
    lab, parent = school.lab, school.lab.registry.manifest(school.parent)
    imported = lab.registry.publish(parent.model_copy(update={"state": None, "state_meta": None}))
    mixed = np.concatenate([school.new[:200], school.old[:200]])
    manifest = lab.manifest(lab.train(lab.retrain_inputs(imported, (lab.shard(mixed),))))
    assert lab.accuracy(manifest, school.new_test) >= 0.85


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "sgd"}, "retraining.strategy"),
        ({"architecture": "vgg"}, "model.architecture"),
        ({"classes": tuple("9876543210")}, "append-only"),
        ({"input": InputShape(height=9, width=8, channels=1)}, "model.input"),
        ({"device": "cuda"}, "retraining.device"),
    ],
)
def test_wrong_inputs_end_as_a_recorded_failure(school, changes: dict[str, object], message: str) -> None:
    """The outcome names field, value and remedy; trying again would not help, so the Job ends well."""
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        changes = {"strategy": "sgd"}
        message = "retraining.strategy"
    outcome = school.lab.train(school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),), **changes))
    assert outcome.manifest is None
    assert outcome.failure is not None
    assert message in outcome.failure.message


def test_a_missing_dataset_is_a_recorded_failure(lab) -> None:
    """The folder and the files expected are what the person reads."""
    from continual_contract.artifacts import DatasetRef

    outcome = lab.train(lab.inputs("bootstrap", dataset=DatasetRef(name="mnist")))
    assert outcome.failure is not None
    assert outcome.failure.reason == "MissingDataset"
    assert "MNIST/raw/train-images-idx3-ubyte" in outcome.failure.message


def test_a_damaged_parent_is_refused(school) -> None:
    """R3 in the trainer: a parent whose bytes are not its digest's is never trained from."""
    lab, parent = school.lab, school.lab.registry.manifest(school.parent)
    path = lab.root / lab.layout.blob(parent.state.digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    outcome = lab.train(lab.retrain_inputs(school.parent, (lab.shard(school.new),)))
    assert outcome.failure is not None
    assert outcome.failure.reason == IntegrityError.reason


def test_the_process_reports_its_progress_to_redis(school, redis_server) -> None:
    """`python -m continual_workers.training`: exit 0, an outcome, and a progress hash that expires."""
    from continual_contract import settings

    inputs = school.lab.retrain_inputs(school.parent, (school.lab.shard(school.new),), epochs=2)
    process = school.lab.start(inputs, **{settings.REDIS_URL: redis_server.url})
    assert process.wait() == 0
    client, key = redis_server.client(), ModelKeys("ns", "digits").progress(inputs.job_hash())
    fields = client.hgetall(key)
    assert fields[b"phase"] == b"done"
    assert set(fields) == {b"phase", b"epoch", b"epochs", b"loss", b"accuracy"}
    assert 0 < client.ttl(key) <= 3600
    assert school.lab.registry.outcome(inputs.job_hash()).manifest is not None


def test_wrong_arguments_are_a_usage_error(school) -> None:
    """Exit 2 and the field in the log, not a traceback."""
    process = school.lab.start(
        school.lab.inputs("bootstrap").model_dump_json().replace('"epochs":8', '"epochs":"many"')
    )
    _, log = process.communicate()
    assert process.returncode == 2
    assert b"epochs" in log
    assert b"Traceback" not in log


def test_a_run_folder_holds_all_that_seed_c_asks_for(tmp_path: Path) -> None:
    """train_local: model, history, curves, per-class accuracy of train and test, predictions; then evaluate and correct."""
    options = app.RunOptions(
        "digits", tmp_path / "run", architecture="mlp", input=InputShape(height=8, width=8, channels=1)
    )
    result = app.train_local(options, lambda _: None)
    assert result.test.accuracy >= 0.95
    assert set(result.train.per_class) == set(result.test.per_class) == set("0123456789")
    assert {path.name for path in options.out.iterdir()} == set(result.files)
    again = app.evaluate_local(options.out)
    assert again["test"] == result.test
    _, test = app.load_parts("digits", None, options.input)
    answers = app.predict_local(options.out, test.images)
    wrong = next(i for i, (name, _) in enumerate(answers) if name != test.classes[test.labels[i]])
    label = test.classes[test.labels[wrong]]
    corrected = app.correct_local(options.out, test.images[wrong], label, lambda _: None)
    assert (corrected.before, corrected.fixed, corrected.after) == (answers[wrong][0], True, label)
    assert corrected.holdout_after >= corrected.holdout_before - 0.01
    assert app.predict_local(options.out, test.images[wrong : wrong + 1])[0][0] == label
    assert len(list((options.out / "versions").iterdir())) == 1
