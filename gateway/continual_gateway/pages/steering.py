"""The verbs of the buttons: what each writes into the resource. The operator obeys; nothing here touches a version or a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from continual_contract.errors import NotFoundError, UsageError

from continual_gateway.auth import Principal
from continual_gateway.resources import Document, Resources, dig, ref_of
from continual_gateway.views.text import iso

PREFIX = "continual.dev/"


@dataclass(frozen=True, slots=True)
class Wish:
    """Annotations to merge in and fields of the spec to set; None removes a field."""

    annotations: Mapping[str, str]
    fields: Mapping[str, Any]


def wish(verb: str, version: str, now_ms: int) -> Wish:
    """What the command line writes for the same verb. Errors: UsageError for a verb that does not exist."""
    build = _VERBS.get(verb)
    if build is None:
        raise UsageError("is not a verb", field="verb", value=verb, remedy=f"use {', '.join(sorted(_VERBS))}")
    return build(version, iso(now_ms))


def _stamped(name: str) -> Callable[[str, str], Wish]:
    return lambda _, now: Wish({PREFIX + name: now}, {})


def _of_version(name: str) -> Callable[[str, str], Wish]:
    """The version and the time: asking again is a new wish."""
    return lambda version, now: Wish({PREFIX + name: f"{version}@{now}"}, {})


_VERBS: Mapping[str, Callable[[str, str], Wish]] = {
    "retrain": _stamped("retrain-requested-at"),
    "rollback": _stamped("rollback-requested-at"),
    "cancel": _stamped("cancel-training-requested-at"),
    "promote": _of_version("promote"),
    "approve": _of_version("approve"),
    "reject": _of_version("reject"),
    "readmit": _of_version("readmit"),
    "pin": lambda version, _: Wish({}, {"rollout.pinnedVersion": version}),
    "unpin": lambda _, __: Wish({}, {"rollout.pinnedVersion": None}),
    "suspend": lambda _, __: Wish({}, {"suspend": True}),
    "resume": lambda _, __: Wish({}, {"suspend": False}),
}
NEEDS_VERSION = frozenset({"promote", "approve", "reject", "pin"})


async def obey(resources: Resources, document: Document, verb: str, version: str, who: Principal, now_ms: int) -> None:
    """Write one wish. Errors: UsageError, NotFoundError naming the versions there are, and what the resources raise."""
    asked = wish(verb, version, now_ms)
    if verb in NEEDS_VERSION:
        _known(document, version)
    ref = ref_of(document)
    if asked.annotations:
        await resources.annotate(ref, {**asked.annotations, PREFIX + "requested-by": who.name})
    if asked.fields:
        await resources.patch_spec(ref, asked.fields)


def _known(document: Document, version: str) -> None:
    names = [str(record.get("version")) for record in dig(document, "status.versions", [])]
    if version not in names:
        listed = ", ".join(names) or "none yet: wait for the first training"
        raise NotFoundError("no such version", field="version", value=version, remedy=f"known: {listed}")
