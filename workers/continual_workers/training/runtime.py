"""ONNX Runtime as the trainer's judge: what is scored here is what will be served, byte for byte.

The serving worker has its own session with its own tuning; this one only has to be deterministic.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from continual_workers.training.samples import Images, Labels

_BATCH = 256


class OnnxClassifier:
    """Runs an exported file on the CPU; one thread gives the same bits every time."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.classes = int(self._session.get_outputs()[0].shape[1])

    def logits(self, images: Images) -> NDArray[np.float32]:
        """Logits float32 [n, classes] of uint8 [n, H, W, C]."""
        parts = [
            self._session.run(None, {self._input: np.ascontiguousarray(images[i : i + _BATCH])})[0]
            for i in range(0, len(images), _BATCH)
        ]
        return np.concatenate([np.zeros((0, self.classes), dtype=np.float32), *parts])

    def positions(self, images: Images) -> Labels:
        """The answers int64 [n] to them."""
        answers: Labels = self.logits(images).argmax(axis=1)
        return answers


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
