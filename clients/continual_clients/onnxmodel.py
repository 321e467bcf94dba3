"""A published ONNX file as something that answers: verified bytes, a judged graph, one thread.

Shared by the serving worker and by those who look at a checkpoint once (the gateway's re-check). What is loaded here was read whole,
has the digest its manifest names, and passed the guard; the runtime is never given a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from continual_contract.artifacts import CheckpointManifest
from continual_contract.errors import UnavailableError, UnsafeModelError

from continual_clients.guard import check_model
from continual_clients.registry import Registry

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
class LoadedModel:
    """Safe to call from one thread at a time."""

    session: ort.InferenceSession
    manifest: CheckpointManifest

    def logits(self, images: Images) -> npt.NDArray[np.float32]:
        """[n, classes] of images uint8 [n, H, W, C]."""
        (logits,) = self.session.run(["logits"], {"image": images})
        result: npt.NDArray[np.float32] = logits
        return result


def load_model(registry: Registry, digest: str, device: Device) -> LoadedModel:
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
    return LoadedModel(open_session(data, manifest, device), manifest)


def decide(logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Best class and its softmax probability, each [n]. The probability is NaN where a logit is not finite."""
    best = logits.argmax(axis=1)
    top = logits.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        confidence = 1 / np.exp(logits - top).sum(axis=1)
    return best, confidence


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
