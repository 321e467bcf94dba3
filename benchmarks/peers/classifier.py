"""The one classifier that every peer serves: the same ONNX file, uint8 pixels in, class and confidence out.

Runs inside the peers' environments, so it knows numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort


class Classifier:
    """An inference session with the settings that are best on few cores: no spinning, few threads."""

    def __init__(self, onnx: str, shape: Sequence[int], threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._shape = tuple(shape)
        self.many([bytes(int(np.prod(self._shape)))])

    def many(self, bodies: Sequence[bytes]) -> list[dict[str, object]]:
        """One answer per body of H·W·C bytes."""
        images = np.frombuffer(b"".join(bodies), np.uint8).reshape(len(bodies), *self._shape)
        (logits,) = self._session.run(["logits"], {"image": images})
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [{"class": f"class-{n}", "confidence": float(scores[i, n])} for i, n in enumerate(best)]

    def one(self, body: bytes) -> dict[str, object]:
        return self.many([body])[0]
