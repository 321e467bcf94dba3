"""Two shapes that an API server sends and that people here read otherwise: an item of a list, and an event."""

from __future__ import annotations

from typing import Any

API_VERSION, KIND = "continual.dev/v1alpha1", "ContinualModel"


def typed(model: dict[str, Any]) -> dict[str, Any]:
    """Items of a list come without their kind; managedFields are nobody's business."""
    model["metadata"].pop("managedFields", None)
    return {"apiVersion": API_VERSION, "kind": KIND, **model}


def plain_event(item: dict[str, Any]) -> dict[str, Any]:
    """An event of the core API, whichever of its ways of counting it uses, as local mode keeps one."""
    series = item.get("series") or {}
    last = series.get("lastObservedTime") or item.get("lastTimestamp") or item.get("eventTime") or ""
    return {
        "type": item.get("type", "Normal"),
        "reason": item.get("reason", ""),
        "message": item.get("message", ""),
        "count": series.get("count") or item.get("count") or 1,
        "firstTimestamp": item.get("firstTimestamp") or item.get("eventTime") or last,
        "lastTimestamp": last,
    }
