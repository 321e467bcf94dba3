"""What the installed CRD must know before anything is done: a field it lacks is dropped by the API server without a word.

A status without a field is an operator that forgets: it would train twice, give a version number again, or bring back what was rejected. A
spec without one is a brake that a person believes to have set. So the fields are looked up in the API server's own
OpenAPI document, which everybody may read, and while one is missing no model is touched.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from continual_operator.status import Status

DOCUMENT = "/openapi/v3/apis/continual.dev/v1alpha1"
SCHEMA = "dev.continual.v1alpha1.ContinualModel"
BRAKES = (
    "suspend", "feedback.gateSources", "feedback.holdoutPercent", "retraining.maxPerDay", "retraining.maxFailures",
    "retraining.cooldown", "retraining.timeout", "retention.versions", "rollout.mode", "rollout.pinnedVersion",
    "rollout.steps", "rollout.shadowPercent", "rollout.deadline", "rollout.onInconclusive", "rollout.offlineGate.mode",
    "rollout.offlineGate.maxDrop", "rollout.offlineGate.maxClassDrop", "rollout.offlineGate.maxNegativeFlips",
    "rollout.offlineGate.maxDropFromFirst",
    "rollout.gate.margin", "rollout.gate.alpha", "rollout.gate.rollbackAlpha", "rollout.gate.classAlpha",
    "rollout.gate.maxLag", "rollout.gate.maxErrorRate", "rollout.gate.minLabels", "rollout.gate.minDuration",
    "rollout.gate.worstClassMargin", "rollout.gate.minCoverage", "rollout.gate.maxLatencyRatio",
    "rollout.gate.requireApproval", "rollout.probation.alpha", "rollout.probation.minLabels", "rollout.probation.minDuration",
)  # fmt: skip
"""Fields of the spec by which a person holds the loop back."""
INFORMS = {"replicas", "selector", "backlog", "decisions"}
"""Blocks of the status from which nothing is decided. (Conditions are not among them: they tell since when.)"""
NUMBERS = {"accuracy", "evidence", "labels", "message", "progress", "readyReplicas", "summary"}
"""Fields that only inform, wherever they are."""


def missing_fields(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths that an OpenAPI v3 document of our API group lacks, sorted; all of them where it does not know the kind."""
    schemas = (document.get("components") or {}).get("schemas") or {}
    whole: Mapping[str, Any] = schemas.get(SCHEMA) or {}
    required = [f"spec.{path}" for path in BRAKES] + [f"status.{path}" for path in remembered()]
    return tuple(sorted(path for path in required if not _knows(whole, path.split("."))))


def remembered() -> list[str]:
    """Paths of the status that decisions depend on."""
    return [
        path for path in _paths(Status) if path.partition(".")[0] not in INFORMS and not NUMBERS & {*path.split(".")}
    ]


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = prefix + str(field.alias or name)
        inner = _model_in(field.annotation)
        yield path
        if inner is not None:
            yield from _paths(inner, f"{path}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an optional, a tuple or an annotated type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Union, types.UnionType, tuple, Annotated}:
        return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
    return None


def _knows(schema: Mapping[str, Any], path: list[str]) -> bool:
    """Whether what lies at this path is kept: declared, item of a list that is, or below a part that keeps everything."""
    if not path or schema.get("x-kubernetes-preserve-unknown-fields"):
        return True
    if "items" in schema:
        return _knows(schema["items"], path)
    below = (schema.get("properties") or {}).get(path[0])
    return below is not None and _knows(below, path[1:])
