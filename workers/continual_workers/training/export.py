"""From weights to the one file that is served, and the proof that it computes what was trained.

The ONNX file takes uint8 NHWC (`image`, any batch) and gives float32 `logits`; normalisation is inside, so serving
cannot get it wrong. A full export costs seconds and imports half of onnxscript; when the architecture has not changed,
the new weights are written into the parent's graph under the same initializer names, which gives the same bytes.
Either way the file is run in ONNX Runtime and compared with torch before anybody sees it.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
from continual_contract.artifacts import InputShape, Normalization
from continual_contract.errors import IntegrityError, ParityError
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # stubs would be a dependency
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from continual_workers.training.models import Arrays
from continual_workers.training.runtime import OnnxClassifier
from continual_workers.training.samples import Images

INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest logit (at least 1)."""
_NET = "net."


class _Served(nn.Module):
    """The network with everything serving needs inside: uint8 NHWC in, logits out."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, net: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("pixel_mean", torch.tensor(normalization.mean).view(1, 1, 1, -1))
        self.register_buffer("pixel_std", torch.tensor(normalization.std).view(1, 1, 1, -1))

    def forward(self, image: Tensor) -> Tensor:
        scaled = (image.to(torch.float32) / 255 - self.pixel_mean) / self.pixel_std
        logits: Tensor = self.net(scaled.permute(0, 3, 1, 2))
        return logits


def export_onnx(net: nn.Module, shape: InputShape, normalization: Normalization) -> bytes:
    """Export anew. Unoptimised on purpose: initializers keep the names of the weights; ONNX Runtime optimises on load."""
    served = _Served(net.cpu(), normalization).eval()
    example = torch.zeros(2, shape.height, shape.width, shape.channels, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about itself; parity is what we check
        program = torch.onnx.export(
            served,
            (example,),
            dynamo=True,
            verbose=False,
            optimize=_is_foldable(net),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
            external_data=False,
        )
    assert program is not None
    return canonical(program.model_proto)


def _is_foldable(net: nn.Module) -> bool:
    """Whether optimising keeps the weights' names: folding batch norm into convolutions would lose them."""
    return not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())  # noqa: SLF001


def with_weights(parent: bytes, weights: Arrays) -> bytes | None:
    """The parent's graph with other weights; None when its initializers are not exactly these names and shapes."""
    try:
        model = onnx.load_model_from_string(parent)
    except DecodeError as error:
        raise IntegrityError(
            "the parent's ONNX file cannot be read", field="onnx", remedy="readmit the version"
        ) from error
    slots = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted = {_NET + name: array for name, array in weights.items() if not name.endswith("num_batches_tracked")}
    for name, array in wanted.items():
        if name not in slots or tuple(slots[name].dims) != array.shape:
            return None
    if any(name.startswith(_NET) and name not in wanted for name in slots):
        return None
    for name, array in wanted.items():
        slots[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return canonical(model)


def weights_in(model_bytes: bytes) -> dict[str, NDArray[np.generic]]:
    """Weights of an exported file by their names in the network: how a checkpoint without a state becomes a parent."""
    model = onnx.load_model_from_string(model_bytes)
    return {
        tensor.name.removeprefix(_NET): np.array(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name.startswith(_NET)
    }


def canonical(model: onnx.ModelProto) -> bytes:
    """Same graph, same bytes: no stack traces, no producer's paths, weights as raw bytes, fixed field order."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def check_parity(onnx_bytes: bytes, expected: NDArray[np.float32], images: Images, threads: int = 1) -> float:
    """Largest |torch - ONNX Runtime| over logits of `images`; `expected` are torch's, float32 [n, classes].

    Raises ParityError when it exceeds 0.1 % of the largest logit (at least of 1), or anything is not finite.
    """
    actual = OnnxClassifier(onnx_bytes, threads).logits(images)
    if actual.shape != expected.shape:
        raise ParityError(f"ONNX gives logits {actual.shape}, torch {expected.shape}", field="onnx")
    difference = float(np.abs(actual - expected).max(initial=0.0))
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if not np.isfinite(difference) or difference > allowed:
        raise ParityError(
            f"ONNX Runtime differs from torch by up to {difference:.2g}, allowed {allowed:.2g}",
            field="onnx",
            remedy="report the architecture: its export is not faithful",
        )
    logging.getLogger(__name__).info("parity checked", extra={"max_abs_diff": difference})
    return difference
