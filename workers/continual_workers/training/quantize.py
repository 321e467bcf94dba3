"""Static int8: the exported graph once more, with weights and activations in eight bits.

QDQ form (QuantizeLinear and DequantizeLinear around convolutions and matrix products), which needs standard operators only,
so the serving guard lets it through. Weights are scaled per output channel, activations by the range they had on calibration
images. Those are training images: the holdout stays unseen until the offline gate judges the quantised file, exactly as it
judges any other. (Jacob et al. 2018, arXiv 1712.05877; Wu et al. 2020, arXiv 2004.09602.)
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from continual_contract.errors import ParityError
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from continual_workers.training.export import canonical
from continual_workers.training.runtime import OnnxClassifier
from continual_workers.training.samples import Images

CALIBRATION = 256
"""Images whose activations set the ranges."""
AGREEMENT = 0.98
"""Least share of calibration images that must keep their class."""
OPERATORS = ["Conv", "Gemm", "MatMul"]
log = logging.getLogger(__name__)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
    """Feeds the images in batches, once."""

    def __init__(self, name: str, images: Images, size: int = 64) -> None:
        self._feeds = iter([{name: images[i : i + size]} for i in range(0, len(images), size)])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._feeds, None)


def quantized(model: bytes, calibration: Images) -> bytes:
    """The int8 file of an exported float32 one; `calibration` uint8 [n, H, W, C], n ≥ 1. Same bytes for the same input."""
    with tempfile.TemporaryDirectory(prefix="continual-int8-") as folder:
        given, folded, made = (Path(folder) / name for name in ("float32.onnx", "folded.onnx", "int8.onnx"))
        given.write_bytes(model)
        level = logging.getLogger().level
        try:
            quant_pre_process(str(given), str(folded), skip_symbolic_shape=True)  # folds batch norm into convolutions
            name = onnx.load(str(folded)).graph.input[0].name
            quantize_static(
                str(folded),
                str(made),
                _Calibration(name, calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False},
            )
        finally:
            logging.getLogger().setLevel(level)
        return canonical(_lean(onnx.load(str(made))))


def _lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the domains that the optimiser declares and no node uses: the serving guard refuses foreign ones."""
    used = {node.domain or "" for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def check_agreement(exact: bytes, small: bytes, images: Images, threads: int = 1) -> float:
    """Share of images whose class both files agree on. Raises ParityError below `AGREEMENT`, or when anything is not finite."""
    before, after = (OnnxClassifier(model, threads).logits(images) for model in (exact, small))
    share = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
    if not (np.isfinite(after).all() and share >= AGREEMENT):
        raise ParityError(
            f"int8 and float32 agree on {share:.1%} of {len(images)} images, needed {AGREEMENT:.0%}",
            field="serving.precision",
            value="int8",
            remedy="use float32 for this network",
        )
    log.info("quantised", extra={"agreement": share, "bytes": len(small), "bytes_float32": len(exact)})
    return share
