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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from continual_clients.images import decode_image, raw_pixels
from continual_clients.registry import Registry
from continual_contract.artifacts import CheckpointManifest
from continual_contract.entries import RequestEntry
from continual_contract.errors import InvalidImageError, UnavailableError, UnsafeModelError

from continual_workers.inference.guard import check_model
from continual_workers.streaming.outcomes import Outcome, Predicted, Refused

Images = npt.NDArray[np.uint8]
Device = Literal["cpu", "cuda"]

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_RUNTIME_ERRORS = (
    ort.capi.onnxruntime_pybind11_state.EPFail,
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    ort.capi.onnxruntime_pybind11_state.NotImplemented,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
    UnicodeDecodeError,  # the runtime's own message held bytes of a damaged model
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model. Safe to call from one thread at a time."""

    session: ort.InferenceSession
    manifest: CheckpointManifest

    def logits(self, images: Images) -> npt.NDArray[np.float32]:
        """[n, classes] of images uint8 [n, H, W, C]."""
        (logits,) = self.session.run(["logits"], {"image": images})
        result: npt.NDArray[np.float32] = logits
        return result

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


def decide(logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Best class and its softmax probability, each [n]. The probability is NaN where a logit is not finite."""
    best = logits.argmax(axis=1)
    top = logits.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        confidence = 1 / np.exp(logits - top).sum(axis=1)
    return best, confidence


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
    manifest = registry.manifest(digest)
    data = registry.get_blob(manifest.onnx)
    check_model(data)
    return Engine(open_session(data, manifest, device), manifest)


def open_session(data: bytes, manifest: CheckpointManifest, device: Device) -> ort.InferenceSession:
    """A session over verified bytes whose input and output are the manifest's."""
    provider = _PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise UnavailableError(
            "is not available to the runtime",
            field="serving.device",
            value=device,
            remedy="use device cpu, or the GPU image on a node with a GPU",
        )
    try:
        session = ort.InferenceSession(data, session_options(), providers=[provider], enable_fallback=0)
    except _RUNTIME_ERRORS as error:
        raise UnsafeModelError(
            f"is refused by the runtime: {_first_line(error)}", field="ONNX model", remedy="export it again"
        ) from error
    if provider not in session.get_providers():
        raise UnavailableError(
            "did not start", field="serving.device", value=device, remedy="check the node's driver, or use device cpu"
        )
    _check_signature(session, manifest)
    return session


def session_options() -> ort.SessionOptions:
    """One thread, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _check_signature(session: ort.InferenceSession, manifest: CheckpointManifest) -> None:
    shape = manifest.input
    wanted_in = ("image", "tensor(uint8)", [shape.height, shape.width, shape.channels])
    wanted_out = ("logits", "tensor(float)", [len(manifest.classes)])
    for kind, found, wanted in (
        ("input", session.get_inputs(), wanted_in),
        ("output", session.get_outputs(), wanted_out),
    ):
        actual = [(node.name, node.type, list(node.shape)[1:]) for node in found]
        if actual != [wanted] or _is_fixed(found[0]):
            raise UnsafeModelError(
                f"has another {kind} than its manifest says",
                field="ONNX model",
                value=actual,
                remedy=f"export one {kind} {wanted[0]} {wanted[1]} [n, {', '.join(map(str, wanted[2]))}], n free",
            )


def _is_fixed(node: Any) -> bool:
    """Whether the batch dimension is a number."""
    return isinstance(node.shape[0], int)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
