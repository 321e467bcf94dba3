"""From a Job's inputs to a learning task: what to start from, what to learn, what to hold out.

Everything is read through verified digests. What is held out stays held out on every path: samples that share a key or
pixels with the holdout leave the new data and the replay buffer before anything is learned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from continual_clients.objectstore import ObjectStore
from continual_clients.registry import Registry
from continual_clients.shards import encode_shard, make_shard, read_shard
from continual_contract.artifacts import Blob, CheckpointManifest, DataList, Normalization, StoreLayout, TrainingInputs
from continual_contract.errors import NotFoundError, UsageError
from continual_contract.ids import content_hash, sha256_digest
from torch import nn

from continual_workers.training import models
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.datasets import from_shard, load_dataset
from continual_workers.training.experience import Past, Recipe, bootstrap_epochs, first_task, following_task, let_go
from continual_workers.training.export import weights_in
from continual_workers.training.floor import FIRST, Floor, decode_floor
from continual_workers.training.learner import Task, device_of
from continual_workers.training.models import Arrays
from continual_workers.training.samples import Samples, concatenate, split_held_out, without
from continual_workers.training.state import Origin, ParentState, decode_checkpoint
from continual_workers.training.stats import batches_of, normalization_of
from continual_workers.training.strategies import strategy

EXACT = "float32.onnx"
"""Artifact of an int8 version: the float32 file it was quantised from, whose graph its descendants reuse."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Where:
    """Where a training reads and writes."""

    store: ObjectStore
    registry: Registry
    layout: StoreLayout
    data_root: Path | None


@dataclass(frozen=True, slots=True)
class Parent:
    """The version a training starts from: manifest, network with its weights, replay buffer, the file it serves."""

    manifest: CheckpointManifest
    state: ParentState
    onnx: bytes
    exact: bytes
    """The float32 file behind `onnx`: the same, unless int8 is served; empty when an import brought only the int8 file."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task, and what its manifest will say of where it came from."""

    task: Task
    buffer: ReplayBuffer
    """The parent's buffer, to which `fresh` is offered when the training has ended."""
    fresh: Samples
    """The samples this training adds to the replay buffer."""
    parent: Parent | None
    bootstrap_holdout: str | None
    trained_through: int
    experience: int
    corrections: Samples
    origin: Origin
    own: Samples | None = None
    """What the bootstrap held out; None where no floor is kept (a bootstrap, a run on a laptop)."""
    floor: Floor | None = None
    """As the parent hands it down; None: the parent is the first."""


def prepare(inputs: TrainingInputs, where: Where) -> Prepared:
    """Raises UsageError (or a kind of it) when the inputs cannot be trained on, IntegrityError for damaged objects."""
    return _prepare_bootstrap(inputs, where) if inputs.mode == "bootstrap" else _prepare_descendant(inputs, where)


def _prepare_bootstrap(inputs: TrainingInputs, where: Where) -> Prepared:
    if inputs.dataset is None:
        raise UsageError("a bootstrap needs a dataset", field="bootstrap.dataset", remedy="name a dataset or an object")
    samples = load_dataset(inputs.dataset, where.data_root, where.store, inputs.input, inputs.classes)
    train, held = split_held_out(samples, inputs.holdout_percent)
    train = without(train, held)
    _require_samples(train, "bootstrap.dataset")
    normalization = inputs.normalization or normalization_of(batches_of(train.images), inputs.input.channels)
    _check_channels(normalization, inputs)
    digest = write_holdout(where, held)
    buffer = ReplayBuffer.empty(inputs.replay_capacity, inputs.input, len(inputs.classes), inputs.seed)
    task = first_task(recipe_of(inputs), _start(inputs, where), train, held, buffer, normalization)
    longer = replace(task, epochs=bootstrap_epochs(inputs.epochs, len(train), task.new_batch))
    return Prepared(longer, buffer, train, None, digest, 0, 0, train.take([]), Origin(inputs.dataset))


def write_holdout(where: Where, held: Samples) -> str:
    """Store the held-out part of the bootstrap data as a holdout shard; its digest."""
    n = len(held)
    data = encode_shard(make_shard(held.images, held.labels, source=["bootstrap"] * n, k=held.k or None))
    digest = sha256_digest(data)
    where.store.put(where.layout.holdout(digest), data)
    return digest


def _prepare_descendant(inputs: TrainingInputs, where: Where) -> Prepared:
    if inputs.parent is None or inputs.data is None:
        raise UsageError(f"a {inputs.mode} needs a parent and a data list", field="parent", value=inputs.parent)
    parent = load_parent(inputs, where)
    data = where.registry.data_list(inputs.data)
    forgotten = load_forgotten(where)
    own, later = load_holdout(inputs, where, data, parent.manifest.bootstrap_holdout)
    own = remembered(own, forgotten)
    holdout = concatenate([own, remembered(later, forgotten)], inputs.input, inputs.classes)
    chosen = (data.corrections or data.train) if inputs.mode == "correction" else data.train
    fresh = without(remembered(load_shards(inputs, where, chosen), forgotten), holdout)
    _require_samples(fresh, "data.train")
    buffer = parent.state.buffer
    buffer.grow_classes(len(inputs.classes))
    _drop_held_out(buffer, holdout)
    _drop_forgotten(buffer, forgotten)
    recipe = let_go(recipe_of(inputs), buffer)
    method, is_correction = recipe.strategy, inputs.mode == "correction"
    net = _start(inputs, where, parent if method.starts_from_parent else None)
    past = Past(frozen_parent(parent), buffer, parent.state.importance)
    task = following_task(
        recipe, net, past, fresh, holdout, parent.manifest.normalization,
        lambda: remembered(_everything(inputs, where, parent, fresh, holdout), forgotten),
    )  # fmt: skip
    if not method.starts_from_parent:
        task = replace(task, epochs=bootstrap_epochs(inputs.epochs, len(task.new), task.new_batch))
    experience = max(buffer.next_experience - 1, 0) if is_correction else buffer.next_experience
    return Prepared(
        task,
        buffer,
        fresh,
        parent,
        parent.manifest.bootstrap_holdout,
        max(data.trained_through, parent.manifest.trained_through),
        experience,
        fresh if is_correction else fresh.take([]),
        parent.state.origin.with_shards(chosen),
        own,
        inherited_floor(inputs, where, parent.manifest, forgotten),
    )


def load_parent(inputs: TrainingInputs, where: Where) -> Parent:
    """The parent's manifest, weights and buffer. An imported version without a state lends its ONNX weights only."""
    manifest = where.registry.manifest(str(inputs.parent))
    if inputs.classes[: len(manifest.classes)] != manifest.classes:
        raise UsageError(
            "classes are append-only and keep their order",
            field="model.classes",
            value=list(inputs.classes),
            remedy=f"begin with {list(manifest.classes)}",
        )
    if inputs.input != manifest.input:
        raise UsageError("the input's shape cannot change", field="model.input", value=inputs.input.model_dump())
    onnx = where.registry.get_blob(manifest.onnx)
    exact = exact_file(manifest, onnx, where.registry.get_blob)
    if manifest.state is None or manifest.state_meta is None:
        empty = ReplayBuffer.empty(inputs.replay_capacity, inputs.input, len(manifest.classes), inputs.seed)
        return Parent(manifest, ParentState(_imported_weights(manifest, exact), empty, Origin()), onnx, exact)
    blobs = where.registry.get_blob(manifest.state), where.registry.get_blob(manifest.state_meta)
    return Parent(manifest, decode_checkpoint(*blobs, capacity=inputs.replay_capacity), onnx, exact)


def exact_file(manifest: CheckpointManifest, onnx: bytes, read: Callable[[Blob], bytes]) -> bytes:
    """The float32 file of a version: what it serves, or what an int8 version keeps beside it."""
    if manifest.precision == "float32":
        return onnx
    blob = manifest.artifacts.get(EXACT)
    return b"" if blob is None else read(blob)


def _imported_weights(manifest: CheckpointManifest, exact: bytes) -> Arrays:
    if not exact:
        raise UsageError(
            "an int8 version without its state and float32 file cannot be trained further",
            field="parent",
            value=manifest.digest(),
            remedy="import the float32 file it was made from",
        )
    return weights_in(exact)


def load_shards(inputs: TrainingInputs, where: Where, digests: tuple[str, ...]) -> Samples:
    shards = [read_shard(where.store, where.layout, digest, "shards") for digest in digests]
    return concatenate([from_shard(shard, inputs.classes) for shard in shards], inputs.input, inputs.classes)


def load_holdout(
    inputs: TrainingInputs, where: Where, data: DataList, bootstrap: str | None
) -> tuple[Samples, Samples]:
    """(the bootstrap's own holdout even if the list forgot it, all other holdout shards of the list)."""

    def read(digests: list[str]) -> Samples:
        shards = [read_shard(where.store, where.layout, digest, "holdout") for digest in digests]
        return concatenate([from_shard(shard, inputs.classes) for shard in shards], inputs.input, inputs.classes)

    own = [] if bootstrap is None else [bootstrap]
    return read(own), read([digest for digest in data.holdout if digest not in own])


def inherited_floor(
    inputs: TrainingInputs, where: Where, parent: CheckpointManifest, forgotten: frozenset[str]
) -> Floor | None:
    """What a lineage hands on of its first version. An import starts a lineage: what it brings of another model's is left."""
    blob = parent.artifacts.get(FIRST)
    if blob is None or (parent.namespace, parent.model) != (inputs.namespace, inputs.model):
        return None
    floor = decode_floor(where.registry.get_blob(blob), inputs.classes)
    return Floor(*(part.keep(lambda samples: not_among(samples, forgotten)) for part in (floor.held, floor.learned)))


def _everything(inputs: TrainingInputs, where: Where, parent: Parent, fresh: Samples, holdout: Samples) -> Samples:
    """All data behind the parent that is stored, what only its buffer remembers, and the fresh samples."""
    buffer, origin = parent.state.buffer, parent.state.origin
    parts = [_bootstrap_part(inputs, where, origin), load_shards(inputs, where, origin.shards)]
    remembered = Samples(buffer.images, buffer.labels, inputs.classes)
    everything = concatenate([*parts, remembered, fresh], inputs.input, inputs.classes)
    return without(_unique(everything), holdout)


def _bootstrap_part(inputs: TrainingInputs, where: Where, origin: Origin) -> Samples:
    ref = inputs.dataset or origin.dataset
    if ref is None:
        return concatenate([], inputs.input, inputs.classes)
    return load_dataset(ref, where.data_root, where.store, inputs.input, inputs.classes)


def _unique(samples: Samples) -> Samples:
    """The last sample of each image: the newest label wins."""
    last = {image.tobytes(): i for i, image in enumerate(samples.images)}
    return samples.take(sorted(last.values()))


def _drop_held_out(buffer: ReplayBuffer, holdout: Samples) -> None:
    held = {image.tobytes() for image in holdout.images}
    keep = [i for i, image in enumerate(buffer.images) if image.tobytes() not in held]
    if len(keep) < len(buffer):
        buffer.keep(np.array(keep, dtype=np.int64))


def load_forgotten(where: Where) -> frozenset[str]:
    """Content hashes of the samples that people asked to be forgotten, as of now: what is forgotten later stays out of the next training."""
    marks = where.store.list(where.layout.all_forgotten)
    return frozenset(mark.key.rpartition("/")[2].removesuffix(".json") for mark in marks)


def remembered(samples: Samples, forgotten: frozenset[str]) -> Samples:
    """The samples without those that were asked to be forgotten."""
    if not forgotten:
        return samples
    keep = not_among(samples, forgotten)
    return samples if len(keep) == len(samples) else samples.take(keep)


def not_among(samples: Samples, forgotten: frozenset[str]) -> list[int]:
    return [i for i, image in enumerate(samples.images) if content_hash(image.tobytes()) not in forgotten]


def _drop_forgotten(buffer: ReplayBuffer, forgotten: frozenset[str]) -> None:
    keep = (
        [i for i, image in enumerate(buffer.images) if content_hash(image.tobytes()) not in forgotten]
        if forgotten
        else []
    )
    if forgotten and len(keep) < len(buffer):
        buffer.keep(np.array(keep, dtype=np.int64))


def _start(inputs: TrainingInputs, where: Where, parent: Parent | None = None) -> nn.Module:
    """The network at its start: the parent's weights with a grown head, pretrained weights, or fresh ones."""
    net = models.build(inputs.architecture, inputs.input, len(inputs.classes), inputs.seed)
    head = models.architecture(inputs.architecture).head
    fresh = models.arrays_of(net)
    if parent is not None and parent.manifest.architecture == inputs.architecture:
        given = {**{n: a for n, a in fresh.items() if n.endswith("num_batches_tracked")}, **parent.state.weights}
        models.load_arrays(net, models.grow_head(given, fresh, head))
    elif inputs.pretrained is not None:
        models.load_arrays(net, models.adapt(_pretrained(inputs.pretrained, where), fresh, head))
    return net


def _pretrained(key: str, where: Where) -> models.Arrays:
    """Weights by object key, else by file below the data folder."""
    if where.store.exists(key):
        return models.read_weights(where.store.get(key), key)
    path = where.data_root / key if where.data_root is not None else None
    if path is not None and path.is_file():
        return models.read_weights(path.read_bytes(), path.name)
    raise NotFoundError(
        "pretrained weights are neither in the store nor in the data folder",
        field="model.pretrained.objectKey",
        value=key,
        remedy="upload the .safetensors or .npz file",
    )


def recipe_of(inputs: TrainingInputs) -> Recipe:
    """How the inputs want to learn. Corrections have a loop of their own and look at no strategy's data."""
    method = strategy("fine-tune" if inputs.mode == "correction" else inputs.strategy)
    return Recipe(method, inputs.epochs, inputs.augmentation, inputs.seed, device_of(inputs.device))


def frozen_parent(parent: Parent) -> nn.Module:
    manifest = parent.manifest
    net = models.build(manifest.architecture, manifest.input, len(manifest.classes), manifest.seed)
    counters = {n: a for n, a in models.arrays_of(net).items() if n.endswith("num_batches_tracked")}
    models.load_arrays(net, {**counters, **parent.state.weights})
    return net


def _require_samples(samples: Samples, field: str) -> None:
    if not len(samples):
        raise UsageError(
            "no samples are left to train on", field=field, remedy="send labelled samples that are not held out"
        )


def _check_channels(normalization: Normalization, inputs: TrainingInputs) -> None:
    if not len(normalization.mean) == len(normalization.std) == inputs.input.channels:
        raise UsageError(
            f"needs one mean and one std per channel, {inputs.input.channels} of each",
            field="model.normalization",
            value=normalization.model_dump(),
        )
