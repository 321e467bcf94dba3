"""What a published checkpoint says of an image, at once: for the person who corrected it and waits.

The live answer changes only after the gate; this look runs the candidate's own ONNX file, from bytes whose digest was checked and whose graph
was judged, as a worker does it. Sessions are few and small, and kept by digest, because a page asks again every second.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from continual_clients.registry import Registry

if TYPE_CHECKING:
    from continual_clients.onnxmodel import LoadedModel

KEPT = 2


@dataclass(frozen=True, slots=True)
class Guess:
    class_name: str
    confidence: float


class Recheck:
    """Blocking: call it in a thread. One image at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()

    def guess(self, registry: Registry, digest: str, pixels: bytes) -> Guess:
        """Errors: IntegrityError, UnsafeModelError, NotFoundError, StoreUnavailableError."""
        from continual_clients.onnxmodel import decide  # noqa: PLC0415 -- the runtime, only where somebody corrects

        with self._lock:
            model = self._model(registry, digest)
            shape = model.manifest.input
            images = np.frombuffer(pixels, np.uint8).reshape(1, shape.height, shape.width, shape.channels)
            best, confidence = decide(model.logits(images))
        return Guess(model.manifest.classes[int(best[0])], round(float(confidence[0]), 4))

    def _model(self, registry: Registry, digest: str) -> LoadedModel:
        from continual_clients.onnxmodel import load_model  # noqa: PLC0415 -- as above

        if digest not in self._loaded:
            self._loaded[digest] = load_model(registry, digest, "cpu")
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
        return self._loaded[digest]
