"""Labelled samples at rest: one `.npz` per shard, named by the digest of its bytes.

`numpy.load` reads it, and so does `continual_clients.shards.decode_shard`, which trusts nothing: the names, types, dimensions
and lengths of all arrays are checked before memory is taken. The same samples give the same bytes (members stored
uncompressed, in a fixed order, with a fixed date), so that two evaluators that close the same shard write one object.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from continual_contract.artifacts import SHARD_FIELDS, StoreLayout
from continual_contract.errors import IntegrityError
from continual_contract.ids import Digest, sha256_digest
from numpy.lib import format as npy

from continual_clients.objectstore import ObjectStore

MAX_SHARD_BYTES = 2 << 30
_KINDS = {"image": "u", "label": "i", "event_time": "i"}
_EPOCH = (1980, 1, 1, 0, 0, 0)

ShardKind = Literal["shards", "holdout"]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """n labelled samples, arrays of equal length (see SHARD_FIELDS)."""

    image: npt.NDArray[np.uint8]
    """[n, H, W, C]"""
    label: npt.NDArray[np.int64]
    """[n], index into classes"""
    request_id: npt.NDArray[np.str_]
    event_time: npt.NDArray[np.int64]
    """[n], milliseconds"""
    source: npt.NDArray[np.str_]
    k: npt.NDArray[np.str_]
    labeler: npt.NDArray[np.str_]
    metadata: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.label)


def make_shard(
    image: npt.NDArray[np.uint8],
    label: npt.ArrayLike,
    *,
    request_id: Iterable[str] | None = None,
    event_time: npt.ArrayLike | None = None,
    source: Iterable[str] | None = None,
    k: Iterable[str] | None = None,
    labeler: Iterable[str] | None = None,
    metadata: Iterable[str] | None = None,
) -> Shard:
    """Build a shard from images uint8 [n, H, W, C] and labels [n]; what is left out becomes empty strings and zeros."""
    n = len(image)

    def text(values: Iterable[str] | None) -> npt.NDArray[np.str_]:
        return np.array([""] * n if values is None else [v.rstrip("\0") for v in values], dtype=np.str_).reshape(n)

    return Shard(
        image=np.ascontiguousarray(image, dtype=np.uint8),
        label=np.asarray(label, dtype=np.int64).reshape(n),
        request_id=text(request_id),
        event_time=np.zeros(n, np.int64) if event_time is None else np.asarray(event_time, np.int64).reshape(n),
        source=text(source),
        k=text(k),
        labeler=text(labeler),
        metadata=text(metadata),
    )


def concatenate(shards: Iterable[Shard]) -> Shard:
    """All samples of some shards of one input shape, in order; at least one shard."""
    parts = list(shards)
    return Shard(*(np.concatenate([getattr(part, name) for part in parts]) for name in SHARD_FIELDS))


def encode_shard(shard: Shard) -> bytes:
    """Deterministic `.npz` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for field in fields(shard):
            member = io.BytesIO()
            npy.write_array(member, np.ascontiguousarray(getattr(shard, field.name)), version=(1, 0))
            archive.writestr(zipfile.ZipInfo(f"{field.name}.npy", _EPOCH), member.getvalue())
    return buffer.getvalue()


def decode_shard(data: bytes) -> Shard:
    """Read a shard; `IntegrityError` when an array is missing, foreign, of another type or length."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {name: _read_member(archive, name) for name in SHARD_FIELDS}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError) as error:
        raise _bad(f"cannot be read: {error}") from error
    lengths = {array.shape[0] if array.ndim else -1 for array in arrays.values()}
    if len(lengths) != 1 or arrays["image"].ndim != 4 or any(a.ndim != 1 for n, a in arrays.items() if n != "image"):
        raise _bad(f"has arrays that do not fit together: {[(n, a.shape) for n, a in arrays.items()]}")
    return Shard(**arrays)


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """One array; its header must account for exactly the bytes that follow, so a lying header takes no memory."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_SHARD_BYTES:
        raise _bad(f"member {name} is compressed or longer than {MAX_SHARD_BYTES} bytes")
    raw = archive.read(info)
    stream = io.BytesIO(raw)
    if npy.read_magic(stream) != (1, 0):
        raise _bad(f"member {name} is not npy version 1.0")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    wanted = _KINDS.get(name, "U")
    if fortran or dtype.kind != wanted or (name in _KINDS and dtype.itemsize != (1 if wanted == "u" else 8)):
        raise _bad(f"member {name} has type {dtype}")
    if math.prod(shape) * dtype.itemsize != len(raw) - stream.tell():
        raise _bad(f"member {name} claims shape {shape} but holds {len(raw) - stream.tell()} bytes")
    if not dtype.itemsize:
        return np.empty(shape, dtype)
    return np.frombuffer(raw, dtype, offset=stream.tell()).reshape(shape)


def write_shard(store: ObjectStore, layout: StoreLayout, shard: Shard, kind: ShardKind) -> Digest:
    """Store a shard under `shards/` or `holdout/`; its name is its digest."""
    data = encode_shard(shard)
    digest = sha256_digest(data)
    store.put(_key(layout, digest, kind), data)
    return digest


def read_shard(store: ObjectStore, layout: StoreLayout, digest: str, kind: ShardKind) -> Shard:
    """Read a shard and check its digest; `IntegrityError` when the bytes are others, `NotFoundError` when gone."""
    data = store.get(_key(layout, digest, kind), limit=MAX_SHARD_BYTES)
    if sha256_digest(data) != digest:
        raise _bad(f"{digest} holds other bytes")
    return decode_shard(data)


def _key(layout: StoreLayout, digest: str, kind: ShardKind) -> str:
    return layout.shard(digest) if kind == "shards" else layout.holdout(digest)


def _bad(how: str) -> IntegrityError:
    return IntegrityError(how, field="shard", remedy="restore it from a backup, or remove it from the data list")
