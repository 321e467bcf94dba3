"""What the guard refuses, and that it agrees with the real parser on everything it lets through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
import pytest
from continual_clients import guard
from continual_clients.guard import check_model
from continual_contract.errors import UnsafeModelError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Build = Callable[..., bytes]


def test_a_plain_model_passes_and_is_counted(model: Build) -> None:
    """Three nodes, one tensor, the operators by name."""
    facts = check_model(model())
    assert (facts.nodes, facts.tensors) == (3, 1)
    assert facts.operators == {"Cast", "Flatten", "MatMul"}


def external(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


def external_entry(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")


def external_in_node(m: onnx.ModelProto) -> None:
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    m.graph.node.append(helper.make_node("Constant", [], ["x"], value=tensor))


def external_in_sparse(m: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    values.external_data.add(key="location", value="x")
    m.graph.sparse_initializer.add(values=values, indices=numpy_helper.from_array(np.zeros(1, np.int64), "i"), dims=[1])


def foreign_domain(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "evil.ops"


def microsoft_node(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "com.microsoft"


def foreign_import(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("evil.ops", 1))


def local_function(m: onnx.ModelProto) -> None:
    m.functions.append(
        helper.make_function("", "f", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], m.opset_import)
    )


def control_flow(m: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    m.graph.node.append(helper.make_node("Loop", ["n", "c"], ["x"], body=body))


def training(m: onnx.ModelProto) -> None:
    m.training_info.add()


REFUSED = [
    (external, "external_data=False"),
    (external_entry, "external_data=False"),
    (external_in_node, "external_data=False"),
    (external_in_sparse, "external_data=False"),
    (foreign_domain, "evil.ops"),
    (microsoft_node, "com.microsoft"),
    (foreign_import, "evil.ops"),
    (local_function, "local functions"),
    (control_flow, "Loop"),
    (training, "training graph"),
]


@pytest.mark.parametrize(("mutate", "says"), REFUSED, ids=[m.__name__ for m, _ in REFUSED])
def test_an_unsafe_model_is_refused_with_its_reason(
    model: Build, mutate: Callable[[onnx.ModelProto], None], says: str
) -> None:
    """Each case differs from a passing model by one thing; the message names the thing or the remedy."""
    with pytest.raises(UnsafeModelError, match=says):
        check_model(model(mutate))


@pytest.mark.parametrize("data", [b"", b"\x00", b"GIF89a", b"\xff" * 64, b"\x3a\xff\xff\xff\xff\x7f", b"\x0b"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    """Never an IndexError, never a pass."""
    with pytest.raises(UnsafeModelError):
        check_model(data)


@given(cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), max_size=3))
@settings(max_examples=300, deadline=None)
def test_damage_ends_in_a_verdict(cut: int, flips: list[tuple[int, int]]) -> None:
    """Any truncation and any bit flips: a pass or an UnsafeModelError, nothing else escapes."""
    data = bytearray(WHOLE)
    for position, bit in flips:
        data[position % len(data)] ^= 1 << bit
    with suppress(UnsafeModelError):
        check_model(bytes(data[: max(0, len(data) - cut)] if cut < len(data) else data))


@given(
    location=st.sampled_from([TensorProto.DEFAULT, TensorProto.EXTERNAL]),
    domain=st.sampled_from(["", "ai.onnx", "ai.onnx.ml", "x"]),
    extra=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_guard_agrees_with_the_real_parser(location: int, domain: str, extra: int) -> None:
    """`onnx` reads the same file; the guard passes it exactly when the parsed model is harmless."""
    parsed = onnx.load_model_from_string(WHOLE)
    parsed.graph.initializer[0].data_location = location
    parsed.graph.node[1].domain = domain
    for n in range(extra):
        parsed.graph.node.append(helper.make_node("Relu", ["float"], [f"r{n}"]))
    harmless = location == TensorProto.DEFAULT and domain != "x"
    data = parsed.SerializeToString()
    if not harmless:
        with pytest.raises(UnsafeModelError):
            check_model(data)
        return
    assert check_model(data).nodes == len(parsed.graph.node)


def test_size_bounds_hold(model: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, nodes and tensors each have a limit."""
    data = model()
    for name, limit in (("MAX_MODEL_BYTES", len(data) - 1), ("MAX_NODES", 2), ("MAX_TENSORS", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(guard, name, limit)
            with pytest.raises(UnsafeModelError):
                check_model(data)
    check_model(data)


def _whole() -> bytes:
    weights = numpy_helper.from_array(np.ones((16, 3), np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 4, 4, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return data


WHOLE = _whole()


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("lenet5", (28, 28, 1)),
        pytest.param("mlp", (28, 28, 1), marks=pytest.mark.long),
        pytest.param("cnn3", (32, 32, 3), marks=pytest.mark.long),
        pytest.param("resnet18", (32, 32, 3), marks=pytest.mark.long),
        pytest.param("resnet50", (64, 64, 3), marks=pytest.mark.long),
    ],
)
def test_the_guard_passes_what_we_export(architecture: str, shape: tuple[int, int, int]) -> None:
    """The trainer's own exports: no guard without its models."""
    from continual_contract.artifacts import InputShape, Normalization
    from continual_workers.training.export import export_onnx
    from continual_workers.training.models import build

    height, width, channels = shape
    input_shape = InputShape(height=height, width=width, channels=channels)
    normalization = Normalization(mean=(0.5,) * channels, std=(0.5,) * channels)
    assert check_model(export_onnx(build(architecture, input_shape, 10, 0), input_shape, normalization)).nodes > 5
