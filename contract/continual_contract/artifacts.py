"""What lies in the object store, and what a training Job is told and tells back.

    models/<namespace>/<model>/
        blobs/sha256/<hex>                content-addressed: ONNX files, states, plots, data lists
        checkpoints/<hex>.json            CheckpointManifest; its digest is the sha256 of these bytes; written last
        shards/<hex>.npz  holdout/<hex>.npz   labelled samples (see SHARD_FIELDS)
        trainings/<job>.json              TrainingOutcome: the last write of a Job
        trainings/<job>/state/…           resumable state of a Job that has not ended
        evidence/<evidence id>/<n>.jsonl  ordered pairs behind a verdict
        decisions/<sequence>.json         the ledger, one entry each

Everything content-addressed is immutable. The pointer of record is the resource's status, never the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from continual_contract.ids import Digest, canonical_json, sha256_digest

SHARD_FIELDS = ("image", "label", "request_id", "event_time", "source", "k", "labeler", "metadata")
"""Arrays of a shard .npz: image uint8 [n,H,W,C]; label int64 [n] (index into classes); event_time int64 ms;
request_id, source, k, labeler, metadata fixed-width unicode [n]. Written without object arrays."""

STRATEGIES = ("der++", "er", "er-ace", "gdumb", "ewc", "lwf", "fine-tune", "joint")
WITHOUT_REPLAY = ("ewc", "lwf", "fine-tune")
"""Strategies that see no image of the past: in a world that has drifted they lose the old one honestly."""


class Frozen(BaseModel):
    """Data at rest: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Blob(Frozen):
    digest: str
    size: int = Field(ge=0)


class InputShape(Frozen):
    height: int
    width: int
    channels: int

    @property
    def nbytes(self) -> int:
        return self.height * self.width * self.channels


class Normalization(Frozen):
    """Per channel, on pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Augmentation(Frozen):
    shift_pixels: float = 0.0
    rotate_degrees: float = 0.0
    scale_percent: float = 0.0


class DatasetRef(Frozen):
    """A named torchvision set (`digits`, `mnist`, `fashion-mnist`, `cifar10`), or an object with its format."""

    name: str | None = None
    object_key: str | None = None
    format: Literal["npz", "image-folder"] | None = None


class DataList(Frozen):
    """The data of one training, frozen: stored as a blob, named by its digest in TrainingInputs."""

    train: tuple[str, ...] = ()
    """Digests of shards under `shards/`, oldest first."""
    holdout: tuple[str, ...] = ()
    """Digests under `holdout/`: bootstrap part first, then the newest."""
    corrections: tuple[str, ...] = ()
    """Those of `train` that only hold instant corrections (mode `correction`)."""
    trained_through: int = 0
    """Highest shard sequence number in `train` or in the parent's lineage."""


class TrainingInputs(Frozen):
    """Everything a Job's result depends on. Its job name is a hash of this document."""

    namespace: str
    model: str
    mode: Literal["bootstrap", "retrain", "correction"]
    architecture: str
    input: InputShape
    classes: tuple[str, ...]
    normalization: Normalization | None = None
    pretrained: str | None = None
    dataset: DatasetRef | None = None
    parent: str | None = None
    """Digest of the parent's manifest; None for a bootstrap."""
    data: str | None = None
    """Digest of the DataList blob; None for a bootstrap."""
    strategy: str = "der++"
    replay_capacity: int = 2000
    augmentation: Augmentation = Augmentation()
    holdout_percent: float = 10.0
    precision: Literal["float32", "int8"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    epochs: int = 20
    seed: int = 0
    trigger: str = ""
    """Reason the operator started it (`Bootstrap`, `Drift`, `Labels`, `Schedule`, `AccuracyBelow`, `Manual`, `Correction`)."""
    attempt: int = 0
    """Counts deliberate repetitions of the same inputs (a manual retrain), so that their job names differ."""

    def job_hash(self) -> str:
        return sha256_digest(canonical_json(self.model_dump(mode="json"))).removeprefix("sha256:")[:10]

    def job_name(self) -> str:
        return f"{self.model}-train-{self.job_hash()}"


class HoldoutScores(Frozen):
    """The candidate on the holdout, and its parent on the same samples."""

    samples: int
    accuracy: float
    per_class: dict[str, float]
    """Recall per class name; classes without a holdout sample are absent."""
    per_class_samples: dict[str, int]
    parent_accuracy: float | None = None
    parent_per_class: dict[str, float] = Field(default_factory=dict)
    negative_flips: float | None = None
    """Share of holdout samples the parent had right and the candidate has wrong."""


class FirstScores(Frozen):
    """The candidate on the first data set, which no label of the stream can touch; `parent_*` is the first accepted version."""

    held: HoldoutScores
    """On what was held out of it."""
    learned: HoldoutScores
    """On some of what the first version learned from."""


class CheckpointManifest(Frozen):
    """What a version is: written last, after all its blobs. No timings in it: same inputs, same bytes."""

    format: Literal["continual.dev/checkpoint/v1"] = "continual.dev/checkpoint/v1"
    namespace: str
    model: str
    job: str
    mode: Literal["bootstrap", "retrain", "correction"]
    architecture: str
    input: InputShape
    classes: tuple[str, ...]
    normalization: Normalization
    precision: Literal["float32", "int8"] = "float32"
    onnx: Blob
    """uint8 NHWC in (input name `image`, dynamic batch), logits float32 [n, classes] out (output name `logits`)."""
    state: Blob | None = None
    """safetensors: weights, EMA, optimizer, replay buffer; None for an imported checkpoint."""
    state_meta: Blob | None = None
    """JSON beside `state`: epoch, RNG, strategy fields."""
    parent: str | None = None
    data: str | None = None
    trained_through: int = 0
    bootstrap_holdout: str | None = None
    """Digest under `holdout/` of the held-out part of the bootstrap data; inherited by every descendant."""
    strategy: str = "der++"
    seed: int = 0
    trigger: str = ""
    scores: HoldoutScores
    first_scores: FirstScores | None = None
    """None: a first version, or trained before there were floors."""
    train_accuracy: float = 0.0
    train_per_class: dict[str, float] = Field(default_factory=dict)
    parity_max_abs_diff: float
    """Largest |torch - onnxruntime| over logits of the parity batch."""
    finite_loss: bool = True
    correction_fixed: bool | None = None
    artifacts: dict[str, Blob] = Field(default_factory=dict)
    """history.csv, history.json, curves.png, per_class.png, predictions.csv, first.npz, …"""

    def encode(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> Digest:
        return sha256_digest(self.encode())


class TrainingFailure(Frozen):
    reason: str
    message: str


class TrainingOutcome(Frozen):
    """`trainings/<job>.json`: either a manifest's digest or a failure."""

    job: str
    manifest: str | None = None
    failure: TrainingFailure | None = None
    scores: HoldoutScores | None = None


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Keys in the object store of one model."""

    namespace: str
    model: str

    @property
    def prefix(self) -> str:
        return f"models/{self.namespace}/{self.model}/"

    def blob(self, digest: str) -> str:
        return f"{self.prefix}blobs/sha256/{_hex(digest)}"

    def manifest(self, digest: str) -> str:
        return f"{self.prefix}checkpoints/{_hex(digest)}.json"

    def shard(self, digest: str) -> str:
        return f"{self.prefix}shards/{_hex(digest)}.npz"

    def holdout(self, digest: str) -> str:
        return f"{self.prefix}holdout/{_hex(digest)}.npz"

    def outcome(self, job: str) -> str:
        return f"{self.prefix}trainings/{job}.json"

    def training(self, job: str, name: str) -> str:
        return f"{self.prefix}trainings/{job}/{name}"

    def evidence(self, evidence_id: str, name: str) -> str:
        return f"{self.prefix}evidence/{evidence_id}/{name}"

    def sample(self, content_hash: str) -> str:
        """PNG of an uploaded or corrected image, made by the gateway, under the hash of its pixels."""
        return f"{self.prefix}samples/{content_hash}.png"

    def forgotten(self, content_hash: str) -> str:
        """Mark of a person's sample that must not train again, under the hash of its pixels."""
        return f"{self.all_forgotten}{content_hash}.json"

    @property
    def all_forgotten(self) -> str:
        """Prefix of all such marks."""
        return f"{self.prefix}forgotten/"

    def decision(self, sequence: int) -> str:
        return f"{self.prefix}decisions/{sequence:08d}.json"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
