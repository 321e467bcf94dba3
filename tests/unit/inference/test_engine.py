"""From requests to outcomes: the raw path, the encoded path, and every refusal with its sentence."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from continual_clients.onnxmodel import decide, open_session
from continual_contract.artifacts import CheckpointManifest, InputShape
from continual_contract.entries import RequestEntry
from continual_contract.errors import UnavailableError, UnsafeModelError
from continual_contract.ids import EntryId, RequestId
from continual_workers.inference.engine import Engine, best_cap, stack_raw, warm_up_sizes
from continual_workers.streaming.outcomes import Predicted, Refused
from onnx import ModelProto, TensorProto
from PIL import Image

Build = Callable[..., bytes]
Describe = Callable[..., CheckpointManifest]


@pytest.fixture
def engine(model: Build, manifest: Describe) -> Engine:
    data = model()
    return Engine(open_session(data, manifest(data), "cpu"), manifest(data))


def pixels(bright: int, value: int = 200) -> np.ndarray:
    image = np.zeros((4, 4, 1), np.uint8)
    image[0, bright, 0] = value
    return image


def request(data: bytes, encoding: str = "", n: int = 1) -> RequestEntry:
    return RequestEntry(EntryId(f"{n}-0"), RequestId(f"{n}-0"), data, encoding)


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(buffer, kind)
    return buffer.getvalue()


def test_a_raw_batch_is_answered_in_order(engine: Engine) -> None:
    """Class names come from the manifest, confidence is the softmax of the best logit."""
    outcomes = engine.answer([request(pixels(c).tobytes()) for c in (2, 0, 1, 2)])
    assert [o.class_name for o in outcomes if isinstance(o, Predicted)] == ["two", "zero", "one", "two"]
    first = outcomes[0]
    assert isinstance(first, Predicted)
    assert first.confidence == pytest.approx(1 / (1 + 2 * np.exp(-20.0)), abs=1e-6)


def test_raw_and_png_of_the_same_pixels_give_the_same_answer(engine: Engine) -> None:
    """The encoded path ends in the same pixels."""
    raw, encoded = engine.answer([request(pixels(1).tobytes()), request(png(pixels(1)), "png")])
    assert raw == encoded


REFUSALS = [
    (b"\0" * 15, "", "15 bytes", "16 raw uint8 bytes"),
    (b"", "", "0 bytes", "16 raw uint8 bytes"),
    (b"\0" * 17, "", "17 bytes", "set enc to png or jpeg"),
    (b"\0" * 16, "gif", "'gif'", "use png, jpeg or raw bytes"),
    (b"\0" * 16, "png", "is not PNG", "send a file of that type"),
    (png(np.zeros((5, 4, 1), np.uint8)), "png", "4x5", "resize it to 4x4"),
    (png(np.zeros((4, 4, 1), np.uint8), "JPEG"), "png", "is not PNG", "send a file of that type"),
    (png(pixels(1))[:-20], "png", "is damaged", "send the whole file again"),
]


@pytest.mark.parametrize(("data", "encoding", "value", "remedy"), REFUSALS)
def test_a_request_that_cannot_be_answered_is_refused_alone(
    engine: Engine, data: bytes, encoding: str, value: str, remedy: str
) -> None:
    """The message names value and remedy; its neighbours in the batch are answered."""
    good = request(pixels(2).tobytes())
    before, refused, after = engine.answer([good, request(data, encoding), good])
    assert isinstance(refused, Refused)
    assert refused.reason == "InvalidImage"
    assert value in refused.message
    assert remedy in refused.message
    assert before == after
    assert isinstance(before, Predicted)
    assert before.class_name == "two"


def test_a_batch_of_refusals_needs_no_model_run(engine: Engine) -> None:
    """No run over an empty batch."""
    assert all(isinstance(o, Refused) for o in engine.answer([request(b""), request(b"x")]))


def test_not_a_number_is_no_prediction(model: Build, manifest: Describe) -> None:
    """A diverged model's answer is refused, so that its error rate shows; it never becomes class 0."""

    def poison(m: ModelProto) -> None:
        weights = m.graph.initializer[0]
        values = np.frombuffer(weights.raw_data, np.float32).copy()
        values[:] = np.nan
        weights.raw_data = values.tobytes()

    data = model(poison)
    (outcome,) = Engine(open_session(data, manifest(data), "cpu"), manifest(data)).answer([request(bytes(16))])
    assert isinstance(outcome, Refused)
    assert outcome.reason == "NonFiniteOutput"


def test_the_raw_batch_is_one_view_without_a_copy_per_image(manifest: Describe) -> None:
    """One joined buffer, shaped [n, H, W, C]; a single odd request sends the batch to the slow path."""
    described = manifest(b"")
    batch = stack_raw([request(bytes([n] * 16)) for n in range(3)], described)
    assert batch is not None
    assert batch.shape == (3, 4, 4, 1)
    assert batch[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert not batch.flags.owndata
    assert stack_raw([request(bytes(16)), request(bytes(16), "png")], described) is None
    assert stack_raw([request(bytes(16)), request(bytes(15))], described) is None


def test_confidence_is_the_softmax_of_the_best_class() -> None:
    """Also for logits that overflow exp(); NaN or infinite logits give NaN."""
    logits = np.array([[0, 0, 0], [1000, 0, -1000], [np.nan, 1, 2], [np.inf, 1, 2]], np.float32)
    best, confidence = decide(logits)
    assert best[1] == 0
    assert confidence[0] == pytest.approx(1 / 3)
    assert confidence[1] == pytest.approx(1.0)
    assert np.isnan(confidence[2:]).all()


@pytest.mark.parametrize(
    ("cap", "sizes"), [(1, [1]), (2, [1, 2]), (24, [1, 2, 4, 8, 16, 24]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_warm_up_runs_powers_of_two_and_the_cap(cap: int, sizes: list[int]) -> None:
    """No batch that matters meets a cold runtime."""
    assert warm_up_sizes(cap) == sizes


@pytest.mark.parametrize(
    ("seconds", "cap"),
    [
        ({1: 0.0001, 8: 0.0005, 64: 0.004}, 64),  # a small network: reading costs more than waiting
        ({1: 0.009, 2: 0.017, 4: 0.0325, 8: 0.064, 64: 0.52}, 8),  # a slow one that gains nothing beyond
        ({1: 0.022, 2: 0.036, 4: 0.062, 8: 0.11, 16: 0.21}, 16),  # a slow one that still gains
        ({1: 0.5}, 1),
    ],
)
def test_a_batch_is_as_small_as_costs_nothing(seconds: dict[int, float], cap: int) -> None:
    """At least 50 ms long, and within 1 % of the best cost per image."""
    assert best_cap(seconds) == cap


def test_warm_up_returns_a_cap_it_has_run(engine: Engine) -> None:
    """For a tiny network the one that is allowed."""
    assert engine.warm_up(48) == 48


def fixed_batch(m: ModelProto) -> None:
    dimension = m.graph.input[0].type.tensor_type.shape.dim[0]
    dimension.ClearField("dim_param")
    dimension.dim_value = 1


def other_input(m: ModelProto) -> None:
    m.graph.input[0].name = m.graph.node[0].input[0] = "pixels"


def float_input(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize("mutate", [fixed_batch, other_input, float_input])
def test_a_model_of_another_signature_is_refused(
    model: Build, manifest: Describe, mutate: Callable[[ModelProto], None]
) -> None:
    """Input name, type and free batch dimension are checked before the first request."""
    data = model(mutate)
    with pytest.raises(UnsafeModelError, match=r"has another input.*export one input image"):
        open_session(data, manifest(data), "cpu")


def test_a_model_of_another_size_than_its_manifest_is_refused(model: Build, manifest: Describe) -> None:
    """Height, width, channels and the number of classes."""
    data = model()
    with pytest.raises(UnsafeModelError, match="another input"):
        open_session(data, manifest(data, input=InputShape(height=5, width=4, channels=1)), "cpu")
    with pytest.raises(UnsafeModelError, match="another output"):
        open_session(data, manifest(data, classes=("a", "b")), "cpu")


def test_what_the_runtime_refuses_is_a_typed_error(model: Build, manifest: Describe) -> None:
    """An operator that does not exist passes the guard and fails in the runtime: still UnsafeModelError."""

    def rename(m: ModelProto) -> None:
        m.graph.node[0].op_type = "NoSuchOperator"

    data = model(rename)
    with pytest.raises(UnsafeModelError, match="refused by the runtime"):
        open_session(data, manifest(data), "cpu")


def test_a_device_that_is_not_there_is_a_clear_error(
    model: Build, manifest: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuda without a CUDA runtime never falls back to the CPU in silence."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    data = model()
    with pytest.raises(UnavailableError, match=r"serving.device.*'cuda'.*use device cpu"):
        open_session(data, manifest(data), "cuda")
