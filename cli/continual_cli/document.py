"""Reading a ContinualModel as what it is on disk: nested dicts, any part of which may still be missing.

The status is written by the operator; the command line only shows it, and must show something sensible of a model that is one
second old. So every look goes through a path with a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def dig(document: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """`dig(model, "status.stable.version")`; `default` where any step is missing or null."""
    here: Any = document
    for step in path.split("."):
        if not isinstance(here, Mapping):
            return default
        here = here.get(step)
    return default if here is None else here


def condition(document: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or an empty one."""
    return next((dict(c) for c in dig(document, "status.conditions", []) if c.get("type") == kind), {})


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set (or with None remove) one field in place, making the objects on the way; returns the document."""
    *steps, last = path.split(".")
    here = document
    for step in steps:
        here = here.setdefault(step, {})
    if value is None:
        here.pop(last, None)
    else:
        here[last] = value
    return document


def seconds(text: str) -> float:
    """A duration as the resource writes it (`24h`, `1m30s`) in seconds; the operator has checked its form."""
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))
