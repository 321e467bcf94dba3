"""From requests to outcomes with one verified model.

The common request is raw uint8 of exactly the model's size. A batch of those becomes one array with one `frombuffer` over one
`join`, and one run of the graph (normalisation is inside it). Everything else takes the slow path per request: encoded files
are decoded at bounded cost, and what does not fit is refused with a sentence, never padded or cut.

The runtime gets one thread and never spins: a pod has one process per core, and several threads per process cost several
times the throughput.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from continual_clients.images import decode_image, raw_pixels
from continual_clients.onnxmodel import Device, Images, LoadedModel, decide, load_model
from continual_clients.registry import Registry
from continual_contract.artifacts import CheckpointManifest
from continual_contract.entries import RequestEntry
from continual_contract.errors import InvalidImageError

from continual_workers.streaming.outcomes import Outcome, Predicted, Refused


@dataclass(frozen=True, slots=True)
class Engine(LoadedModel):
    """A loaded model that answers requests. Safe to call from one thread at a time."""

    def warm_up(self, batch_size: int) -> None:
        """Run every batch size the runtime plans memory for: powers of two up to the cap, and the cap."""
        shape = self.manifest.input
        for n in warm_up_sizes(batch_size):
            self.logits(np.zeros((n, shape.height, shape.width, shape.channels), np.uint8))

    def answer(self, entries: Sequence[RequestEntry]) -> list[Outcome]:
        """One outcome per request, in order: a class with its confidence, or a refusal with its reason."""
        images = stack_raw(entries, self.manifest)
        if images is not None:
            return self._predict(images)
        decoded = [self._decode(entry) for entry in entries]
        good = [pixels for pixels in decoded if not isinstance(pixels, Refused)]
        predicted = iter(self._predict(np.stack(good)) if good else ())
        return [item if isinstance(item, Refused) else next(predicted) for item in decoded]

    def _predict(self, images: Images) -> list[Outcome]:
        classes = self.manifest.classes
        best, confidence = decide(self.logits(images))
        return [
            Predicted(classes[c], p) if p == p else _NOT_FINITE  # noqa: PLR0124 -- only NaN differs from itself
            for c, p in zip(best.tolist(), confidence.tolist(), strict=True)
        ]

    def _decode(self, entry: RequestEntry) -> Images | Refused:
        shape = self.manifest.input
        try:
            return decode_image(entry.data, entry.encoding, shape) if entry.encoding else raw_pixels(entry.data, shape)
        except InvalidImageError as error:
            return Refused(error.reason, str(error))


_NOT_FINITE: Outcome = Refused(
    "NonFiniteOutput", "logits: the model answered NaN for this image; roll this version back, its training diverged"
)


def stack_raw(entries: Sequence[RequestEntry], manifest: CheckpointManifest) -> Images | None:
    """The whole batch as one uint8 [n, H, W, C] array without a copy per image; None if any request is not plain raw."""
    shape = manifest.input
    size = shape.nbytes
    if any(entry.encoding or len(entry.data) != size for entry in entries):
        return None
    joined = b"".join([entry.data for entry in entries])
    return np.frombuffer(joined, np.uint8).reshape(-1, shape.height, shape.width, shape.channels)


def warm_up_sizes(batch_size: int) -> list[int]:
    return sorted({min(1 << power, batch_size) for power in range(batch_size.bit_length() + 1)})


def load_engine(registry: Registry, digest: str, device: Device) -> Engine:
    """Read, verify, judge and load the checkpoint with this manifest digest.

    Raises:
        NotFoundError, StoreUnavailableError: manifest or model are not there, or the store is not.
        IntegrityError: bytes that are not what their digest says.
        UnsafeModelError: a file the guard refuses, or a graph that does not take and give what the manifest says.
        UnavailableError: the device is not there.
    """
    loaded = load_model(registry, digest, device)
    return Engine(loaded.session, loaded.manifest)
