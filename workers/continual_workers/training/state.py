"""What outlives a training process: weights and buffer as safetensors, everything else as JSON. Nothing in it can run code when it is read.

Two kinds. A *checkpoint state* is two blobs of a version (arrays, and JSON beside them): the parent of the next
training. A *resume state* is one object of a Job that has not ended, replaced after every epoch; arrays and JSON travel
in one safetensors file, so that one atomic write keeps them together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from continual_contract.artifacts import DatasetRef
from continual_contract.errors import IntegrityError
from continual_contract.ids import canonical_json
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.learner import LearnState, Row

FORMAT = "continual.dev/state/v1"
_META = "continual"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Origin:
    """All data behind a version: the bootstrap's dataset and every shard since. Inherited, so that `joint` finds them."""

    dataset: DatasetRef | None = None
    shards: tuple[str, ...] = ()

    def with_shards(self, digests: tuple[str, ...]) -> Origin:
        return Origin(self.dataset, tuple(dict.fromkeys((*self.shards, *digests))))

    def fields(self) -> dict[str, Any]:
        return {"dataset": self.dataset and self.dataset.model_dump(), "shards": list(self.shards)}


@dataclass(frozen=True, slots=True)
class ParentState:
    """A parent as the next training needs it: averaged weights by name, its replay buffer, and what it ever learned from."""

    weights: Arrays
    buffer: ReplayBuffer
    origin: Origin
    importance: Arrays = field(default_factory=dict)
    """Of each parameter, by name; empty unless the parent's strategy measures it (ewc)."""


def encode_checkpoint(
    weights: Arrays, ema: Arrays, buffer: ReplayBuffer, fields: Mapping[str, Any], importance: Arrays
) -> tuple[bytes, bytes]:
    """(safetensors, JSON) of a finished training; `fields` are added to the JSON as they are."""
    arrays = {**_prefixed("weights", weights), **_prefixed("ema", ema), **buffer.tensors()}
    arrays |= _prefixed("importance", importance)
    meta = {"format": FORMAT, "capacity": buffer.capacity, "rng": buffer.rng.bit_generator.state, **fields}
    return _save(arrays), canonical_json(meta)


def decode_checkpoint(data: bytes, meta: bytes, capacity: int | None) -> ParentState:
    """The stored state; `capacity` None keeps the buffer's own. Raises IntegrityError when the blobs are not ours."""
    try:
        arrays, fields = load(data), json.loads(meta)
        buffer = ReplayBuffer.restore(fields["capacity"] if capacity is None else capacity, arrays, fields["rng"])
        dataset = fields["dataset"] and DatasetRef(**fields["dataset"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"the parent's state cannot be read: {error}", field="state", remedy="train from another version"
        ) from error
    origin = Origin(dataset, tuple(fields["shards"]))
    return ParentState(_without_prefix("ema", arrays), buffer, origin, _without_prefix("importance", arrays))


def encode_resume(state: LearnState) -> bytes:
    """A resume state as one safetensors file with its JSON in the header."""
    meta = asdict(state)
    del meta["weights"], meta["ema"]
    return _save({**_prefixed("weights", state.weights), **_prefixed("ema", state.ema)}, canonical_json(meta).decode())


def decode_resume(data: bytes) -> LearnState | None:
    """The stored state, or None when it is unreadable: then the training starts anew and ends with the same bytes."""
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = json.loads(header["__metadata__"][_META])
        rows = tuple(Row(**row) for row in meta.pop("rows"))
        return LearnState(
            **meta, rows=rows, weights=_without_prefix("weights", arrays), ema=_without_prefix("ema", arrays)
        )
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None


def _save(arrays: Arrays, meta: str | None = None) -> bytes:
    # One metadata key only: safetensors keeps them in a hash map, whose order is not stable.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, metadata=None if meta is None else {_META: meta})


def _prefixed(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _without_prefix(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
