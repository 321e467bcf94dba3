"""From requests to outcomes with one verified model.

The common request is raw uint8 of exactly the model's size. A batch of those becomes one array with one `frombuffer` over one
`join`, and one run of the graph (normalisation is inside it). Everything else takes the slow path per request: encoded files
are decoded at bounded cost, and what does not fit is refused with a sentence, never padded or cut.

The runtime gets one thread and never spins: a pod has one process per core, and several threads per process cost several
times the throughput.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from continual_clients.images import decode_image, raw_pixels
from continual_clients.onnxmodel import Device, Images, LoadedModel, decide, load_model
from continual_clients.registry import Registry
from continual_contract.artifacts import CheckpointManifest
from continual_contract.entries import RequestEntry
from continual_contract.errors import InvalidImageError

from continual_workers.streaming.outcomes import Outcome, Predicted, Refused

LONG_BATCH_SECONDS = 0.05
"""What surrounds a batch (reading, committing, waking) takes about half a millisecond."""
WORSE_THAN_BEST = 1.01


@dataclass(frozen=True, slots=True)
class Engine(LoadedModel):
    """A loaded model that answers requests. Safe to call from one thread at a time."""

    def warm_up(self, batch_size: int) -> int:
        """Run every batch size the runtime plans memory for, powers of two up to the cap and the cap; returns the cap worth reading."""
        return best_cap({n: self._seconds(n) for n in warm_up_sizes(batch_size)})

    def _seconds(self, n: int) -> float:
        """CPU seconds of a batch of `n`, planned by the first of two runs; a slow one is timed as it is."""
        shape = self.manifest.input
        images = np.zeros((n, shape.height, shape.width, shape.channels), np.uint8)
        taken = 0.0
        for _ in range(2):
            began = time.thread_time()
            self.logits(images)
            taken = time.thread_time() - began
            if taken >= LONG_BATCH_SECONDS:
                break
        return taken

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
        best, confidence = decide(self.logits(images))
        names = map(self.manifest.classes.__getitem__, best.tolist())
        said: list[Outcome] = list(map(Predicted, names, confidence.tolist()))
        for n in np.flatnonzero(np.isnan(confidence)):
            said[n] = _NOT_FINITE
        return said

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


def best_cap(seconds: Mapping[int, float]) -> int:
    """The smallest batch that is long enough to make reading it cheap and costs no more per image than the best.

    A slow network gains nothing from 64 images at once, and holds them all until the last is done: they answer late, keep a stopping
    worker from leaving, and leave another one idle at the end of a backlog. `seconds`: CPU seconds by batch size (a GPU's time is not
    seen by it, so there the largest stays).
    """
    best = min(taken / n for n, taken in seconds.items())
    fitting = [n for n, taken in seconds.items() if taken >= LONG_BATCH_SECONDS and taken / n <= WORSE_THAN_BEST * best]
    return min(fitting, default=max(seconds))


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
