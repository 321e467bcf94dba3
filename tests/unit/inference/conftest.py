"""Small ONNX models, built node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from continual_contract.artifacts import Blob, CheckpointManifest, HoldoutScores, InputShape, Normalization
from continual_contract.ids import sha256_digest
from onnx import TensorProto, helper, numpy_helper

SHAPE = InputShape(height=4, width=4, channels=1)
CLASSES = ("zero", "one", "two")


def build_model(mutate: Callable[[onnx.ModelProto], None] | None = None, classes: int = len(CLASSES)) -> bytes:
    """A linear classifier over uint8 NHWC pixels: the class of the brightest of the first pixels."""
    weights = np.zeros((SHAPE.nbytes, classes), np.float32)
    weights[np.arange(classes), np.arange(classes)] = 0.1
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SHAPE.height, SHAPE.width, SHAPE.channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if mutate is not None:
        mutate(model)
    data: bytes = model.SerializeToString()
    return data


def manifest_of(data: bytes, **changes: Any) -> CheckpointManifest:
    fields: dict[str, Any] = {
        "namespace": "default",
        "model": "digits",
        "job": "0123456789",
        "mode": "bootstrap",
        "architecture": "mlp",
        "input": SHAPE,
        "classes": CLASSES,
        "normalization": Normalization(mean=(0.0,), std=(1.0,)),
        "onnx": Blob(digest=sha256_digest(data), size=len(data)),
        "scores": HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}),
        "parity_max_abs_diff": 0.0,
    }
    return CheckpointManifest(**fields | changes)


@pytest.fixture
def model() -> Callable[..., bytes]:
    return build_model


@pytest.fixture
def manifest() -> Callable[..., CheckpointManifest]:
    return manifest_of
