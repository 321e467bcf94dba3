"""The ContinualModel as a user writes it: names, defaults and rules; the only place where its dict is trusted to be anything.

`parse_model` turns a whole object into a frozen `Model`, or raises one InvalidSpecError that lists every wrong field with its value and
a remedy. The API server enforces the same rules from the CRD; this one also holds where no API server is.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from continual_contract.errors import InvalidSpecError
from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.problems import describe_problems
from continual_operator.quantity import format_duration, parse_duration, parse_quantity
from continual_operator.timezones import known_zone

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]
"""`1h30m`: the pattern of the CRD, a timedelta in code."""

ObjectKey = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9!_.*'()/-]+$")]
DigestText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Alpha = Annotated[float, Field(ge=1e-6, le=0.5)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Count = Annotated[int, Field(ge=0, le=10_000_000)]
Strategy = Literal["der++", "er", "er-ace", "gdumb", "ewc", "lwf", "fine-tune", "joint"]


class SpecPart(BaseModel):
    """Immutable, camelCase outside, unknown fields refused, no guessing of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False,
        validate_default=False, strict=True,
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        """`serving:` with nothing behind it means its default: the API server drops nulls, and so does one machine."""
        if not isinstance(data, dict):
            return data
        ours = {field.alias for field in cls.model_fields.values()}
        return {name: value for name, value in data.items() if value is not None or name not in ours}


def _quantity(value: object) -> int:
    return int(parse_quantity(value))


Bytes = Annotated[int, BeforeValidator(_quantity), Field(ge=1)]


def _class_name(value: str) -> str:
    if unicodedata.normalize("NFC", value) != value:
        raise ValueError("must be in Unicode normal form C; write it composed (NFC)")
    if not value.strip() or any(unicodedata.category(c) == "Cc" for c in value):
        raise ValueError("must have a visible character and no control characters; give the class a plain name")
    return value


ClassName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_class_name)]


class Input(SpecPart):
    height: int = Field(ge=1, le=1024)
    width: int = Field(ge=1, le=1024)
    channels: int = Field(ge=1, le=4)
    fit: Literal["Refuse", "Letterbox", "Stretch"] = "Letterbox"


class NormalizationSpec(SpecPart):
    mean: Annotated[tuple[Share, ...], Field(min_length=1, max_length=4, strict=False)]
    std: Annotated[
        tuple[Annotated[float, Field(ge=1e-4, le=10.0)], ...], Field(min_length=1, max_length=4, strict=False)
    ]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError("std: needs as many values as mean, one per channel; give both the same length")
        return self


class Pretrained(SpecPart):
    object_key: ObjectKey


class ModelSection(SpecPart):
    architecture: str = Field(max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*$")
    input: Input
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=1000, strict=False)]
    normalization: NormalizationSpec | None = None
    pretrained: Pretrained | None = None

    @model_validator(mode="after")
    def _classes_once(self) -> Self:
        seen: set[str] = set()
        twice = next((c for c in self.classes if c in seen or seen.add(c)), None)  # type: ignore[func-returns-value]  # add returns None: the idiom
        if twice is not None:
            raise ValueError(f"classes: name {twice!r} twice; name each class once")
        if self.normalization and len(self.normalization.mean) != self.input.channels:
            raise ValueError(
                "normalization.mean: needs one value per input channel; omit normalization to compute it from the data"
            )
        return self


class Dataset(SpecPart):
    name: Literal["digits", "mnist", "fashion-mnist", "cifar10"] | None = None
    object_key: ObjectKey | None = None
    format: Literal["npz", "image-folder"] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.name is None) == (self.object_key is None):
            raise ValueError("needs exactly one of name and objectKey; remove one, or add one")
        if (self.object_key is None) != (self.format is None):
            raise ValueError("format: goes with objectKey; set both or neither")
        return self


class Checkpoint(SpecPart):
    object_key: ObjectKey
    digest: DigestText


class Bootstrap(SpecPart):
    dataset: Dataset | None = None
    checkpoint: Checkpoint | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.dataset is None) == (self.checkpoint is None):
            raise ValueError("needs exactly one of dataset and checkpoint; remove one, or add one")
        return self


class Autoscaling(SpecPart):
    min_replicas: int = Field(1, ge=1, le=1000)
    max_replicas: int = Field(ge=1, le=1000)
    target_backlog: int = Field(256, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas: must not exceed maxReplicas; lower one or raise the other")
        return self


def _checked_quantity(value: object) -> object:
    parse_quantity(value)
    return value


Quantity = Annotated[str | int, BeforeValidator(_checked_quantity)]


class Resources(SpecPart):
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _limits_cover_requests(self) -> Self:
        for name, request in self.requests.items():
            limit = self.limits.get(name)
            if limit is not None and parse_quantity(limit) < parse_quantity(request):
                raise ValueError(
                    f"limits.{name}: is below requests.{name} {request}; raise the limit or lower the request"
                )
        return self


class Toleration(SpecPart):
    key: str | None = Field(None, max_length=316)
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = Field(None, max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Scheduling(SpecPart):
    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = Field(
        default_factory=dict
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32, strict=False)] = ()
    topology_spread_constraints: Annotated[tuple[dict[str, Any], ...], Field(max_length=8, strict=False)] = ()
    priority_class_name: str | None = Field(None, max_length=253)
    runtime_class_name: str | None = Field(None, max_length=253)


Marks = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=32)]


class Serving(SpecPart):
    replicas: int = Field(2, ge=0, le=1000)
    autoscaling: Autoscaling | None = None
    batch_size: int = Field(64, ge=1, le=1024)
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "int8"] = "float32"
    resources: Resources = Resources()
    scheduling: Scheduling = Scheduling()
    pod_labels: Marks = Field(default_factory=dict)
    pod_annotations: Marks = Field(default_factory=dict)


class Feedback(SpecPart):
    window: Duration = timedelta(hours=24)
    sample_percent: Percent = 100.0
    audit_percent: Percent = 5.0
    archive: bool = False
    holdout_percent: Annotated[float, Field(ge=1.0, le=50.0)] = 10.0
    gate_sources: Annotated[tuple[Literal["audit", "truth"], ...], Field(min_length=1, max_length=2, strict=False)] = (
        "audit", "truth",
    )  # fmt: skip

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.window <= timedelta(0):
            raise ValueError("window: must be longer than 0s; give labels some time to come")
        if self.archive:
            raise ValueError("archive: is not built yet; leave it out, and let a label that comes late carry its image")
        return self


class DriftTrigger(SpecPart):
    false_alarm_every: int = Field(10_000, ge=100, le=10_000_000)
    min_samples: int = Field(200, ge=1, le=1_000_000)


def _five_fields(schedule: str) -> None:
    """CronSim also reads seconds; a schedule of ours has none."""
    if len(schedule.split()) != 5:
        raise CronSimError("Wrong number of fields")


TRIGGER_KINDS = ("labels", "schedule", "drift", "accuracy_below")


class Trigger(SpecPart):
    """Exactly one kind of reason to retrain."""

    labels: int | None = Field(None, ge=1, le=10_000_000)
    schedule: str | None = Field(None, max_length=100)
    time_zone: str | None = Field(None, max_length=64)
    drift: DriftTrigger | None = None
    accuracy_below: Share | None = None
    over_labels: int | None = Field(None, ge=10, le=1_000_000)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in TRIGGER_KINDS) != 1:
            raise ValueError("is not exactly one of labels, schedule, drift, accuracyBelow; split it into several")
        if self.time_zone is not None and self.schedule is None:
            raise ValueError("timeZone: goes with schedule; remove it")
        if (self.accuracy_below is None) != (self.over_labels is None):
            raise ValueError("accuracyBelow: goes with overLabels; set both or neither")
        return self

    @model_validator(mode="after")
    def _schedule_reads(self) -> Self:
        if self.schedule is not None:
            try:
                _five_fields(self.schedule)
                CronSim(self.schedule, datetime(2026, 1, 1))  # noqa: DTZ001 -- only parsed, never iterated
            except CronSimError as error:
                raise ValueError(
                    f"schedule: is not a cron expression of five fields ({error}); write e.g. 0 3 * * *"
                ) from None
        if self.time_zone is not None and not known_zone(self.time_zone):
            raise ValueError("timeZone: is not in the time zone database; write e.g. Europe/Berlin")
        return self


DEFAULT_TRIGGERS = (Trigger(labels=500), Trigger(drift=DriftTrigger()))
"""The loop closes without a word: on new labels, and sooner when the world drifts. An empty list switches it off."""


class AugmentationSpec(SpecPart):
    shift_pixels: Annotated[float, Field(ge=0.0, le=64.0)] = 0.0
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    scale_percent: Annotated[float, Field(ge=0.0, le=90.0)] = 0.0


class Retraining(SpecPart):
    strategy: Strategy = "der++"
    replay_capacity: int = Field(2000, ge=1, le=1_000_000)
    augmentation: AugmentationSpec = AugmentationSpec()
    triggers: Annotated[tuple[Trigger, ...], Field(max_length=16, strict=False)] = DEFAULT_TRIGGERS
    instant_corrections: Literal["Off", "Candidate", "Promote"] = "Candidate"
    cooldown: Duration = timedelta(minutes=10)
    max_per_day: int = Field(24, ge=0, le=10_000)
    max_failures: int = Field(3, ge=1, le=100)
    timeout: Duration = timedelta(hours=1)
    device: Literal["cpu", "cuda"] = "cpu"
    resources: Resources = Resources()
    scheduling: Scheduling = Scheduling()


class Step(SpecPart):
    weight: int = Field(ge=0, le=100)
    hold: Duration = timedelta(0)


class OfflineGate(SpecPart):
    mode: Literal["Enforce", "Observe"] = "Enforce"
    max_drop: Share = 0.02
    max_class_drop: Share = 0.05
    max_negative_flips: Share = 0.05
    max_drop_from_first: Share | None = None


class Gate(SpecPart):
    margin: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    alpha: Alpha = 0.05
    rollback_alpha: Alpha = 0.05
    class_alpha: Alpha = 0.05
    max_lag: Duration = timedelta(seconds=30)
    max_error_rate: Share = 0.01
    min_labels: int = Field(100, ge=1, le=1_000_000)
    min_duration: Duration = timedelta(hours=24)
    cycle: Duration = timedelta(0)
    worst_class_margin: Share = 0.05
    min_coverage: Percent = 95.0
    max_latency_ratio: Annotated[float, Field(ge=1.0, le=100.0)] = 1.5
    require_approval: bool = False


class Probation(SpecPart):
    alpha: Alpha = 0.01
    min_duration: Duration = timedelta(hours=24)
    min_labels: int = Field(300, ge=1, le=1_000_000)
    deadline: Duration = timedelta(hours=168)


DEFAULT_STEPS = (
    Step(weight=0),
    Step(weight=10, hold=timedelta(minutes=1)),
    Step(weight=50, hold=timedelta(minutes=1)),
)
VersionText = Annotated[str, Field(pattern=r"^v[1-9][0-9]{0,8}$")]


class Rollout(SpecPart):
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=20, strict=False)] = DEFAULT_STEPS
    shadow_percent: Percent = 100.0
    offline_gate: OfflineGate = OfflineGate()
    gate: Gate = Gate()
    mode: Literal["Act", "Observe"] = "Act"
    deadline: Duration = timedelta(hours=168)
    on_inconclusive: Literal["Rollback", "Wait", "Promote"] = "Rollback"
    probation: Probation = Probation()
    supersede: Literal["Queue", "Replace"] = "Queue"
    pinned_version: VersionText | None = None

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError("steps: weights must increase from step to step; sort them and drop repetitions")
        if self.deadline <= timedelta(0):
            raise ValueError("deadline: must be longer than 0s; set onInconclusive: Wait to have none")
        return self


class RequestRetention(SpecPart):
    max_age: Duration = timedelta(hours=48)
    max_bytes: Bytes = 2 << 30


class Retention(SpecPart):
    versions: int = Field(10, ge=2, le=1000)
    requests: RequestRetention = RequestRetention()


class ContinualModelSpec(SpecPart):
    """`spec` of a ContinualModel."""

    model: ModelSection
    bootstrap: Bootstrap
    serving: Serving = Serving()
    feedback: Feedback = Feedback()
    retraining: Retraining = Retraining()
    rollout: Rollout = Rollout()
    retention: Retention = Retention()
    suspend: bool = False

    @model_validator(mode="after")
    def _labels_can_come(self) -> Self:
        window = self.feedback.window
        if self.rollout.on_inconclusive != "Wait" and self.rollout.deadline < window:
            raise ValueError(
                "rollout.deadline: ends before feedback.window, labels that arrive later could never be counted; "
                "lengthen it, or set rollout.onInconclusive: Wait"
            )
        if self.retention.requests.max_age < window:
            raise ValueError(
                "retention.requests.maxAge: is shorter than feedback.window, a late label needs its image; lengthen it"
            )
        return self


@dataclass(frozen=True, slots=True)
class Model:
    """One ContinualModel, read and checked. `status` is the raw dict: `status.Status` reads it."""

    ref: ModelRef
    uid: str
    generation: int
    resource_version: str
    spec: ContinualModelSpec
    annotations: dict[str, str]
    status: Manifest

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def namespace(self) -> str:
        return self.ref.namespace


NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")


def parse_model(obj: Manifest) -> Model:
    """Read a whole ContinualModel object.

    Raises:
        InvalidSpecError: lists every wrong field, its value and what to do; `problems` holds one line each.
    """
    metadata = obj.get("metadata") or {}
    problems = _identity_problems(obj, metadata)
    spec: ContinualModelSpec | None = None
    try:
        spec = ContinualModelSpec.model_validate(obj.get("spec") if obj.get("spec") is not None else {})
    except ValidationError as error:
        problems += describe_problems(error.errors(), ContinualModelSpec)
    status = obj.get("status") or {}
    if spec is not None:
        problems += _class_problems(spec.model.classes, tuple(status.get("classes") or ()))
    if problems or spec is None:
        raise invalid_spec(problems)
    return Model(
        ref=ModelRef(metadata.get("namespace") or "default", metadata["name"]),
        uid=str(metadata.get("uid") or ""),
        generation=int(metadata.get("generation") or 0),
        resource_version=str(metadata.get("resourceVersion") or ""),
        spec=spec,
        annotations={str(k): str(v) for k, v in (metadata.get("annotations") or {}).items()},
        status=status,
    )


def check_change(before: Manifest, after: Manifest) -> None:
    """What must stay as it is for the life of a model, in the words of the CRD; both objects were valid by themselves.

    Raises:
        InvalidSpecError: lists every field that may not change.
    """
    old, new = before["spec"], after["spec"]
    was, now = ModelSection.model_validate(old["model"]), ModelSection.model_validate(new["model"])
    problems = _class_problems(now.classes, was.classes)
    if now.architecture != was.architecture:
        problems.append(_immutable("spec.model.architecture", now.architecture))
    for name in ("height", "width", "channels"):
        if (value := getattr(now.input, name)) != getattr(was.input, name):
            problems.append(_immutable(f"spec.model.input.{name}", value))
    if Bootstrap.model_validate(new["bootstrap"]) != Bootstrap.model_validate(old["bootstrap"]):
        problems.append("spec.bootstrap: is immutable, the first version came from it; create another ContinualModel")
    if problems:
        raise invalid_spec(problems)


def _immutable(field: str, value: object) -> str:
    return f"{field}: is immutable (got {value!r}); create another ContinualModel"


def invalid_spec(problems: list[str]) -> InvalidSpecError:
    return InvalidSpecError("\n".join(problems))


def _identity_problems(obj: Manifest, metadata: Manifest) -> list[str]:
    problems = []
    if obj.get("apiVersion") != labels.API_VERSION:
        problems.append(f"apiVersion: is unknown (got {obj.get('apiVersion')!r}); write {labels.API_VERSION}")
    if obj.get("kind") != labels.KIND:
        problems.append(f"kind: is not ours (got {obj.get('kind')!r}); write {labels.KIND}")
    name = metadata.get("name")
    if not isinstance(name, str) or len(name) > 40 or not NAME.fullmatch(name):
        problems.append(
            f"metadata.name: must be a lower-case DNS label that starts with a letter, at most 40 characters (got {name!r}); "
            "rename the model"
        )
    return problems


def _class_problems(classes: tuple[str, ...], accepted: tuple[str, ...]) -> list[str]:
    """Classes are append-only: their order is the order of the model's outputs."""
    if classes[: len(accepted)] == accepted:
        return []
    index = next((i for i, name in enumerate(accepted) if i >= len(classes) or classes[i] != name), 0)
    got = classes[index] if index < len(classes) else None
    return [
        (
            f"spec.model.classes[{index}]: classes are append-only, their order is the model's output order (got {got!r}); "
            f"put {accepted[index]!r} back and add new classes at the end"
        )
    ]
