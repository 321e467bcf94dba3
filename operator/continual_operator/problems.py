"""What pydantic found wrong, in the words of the person who wrote the manifest: field, value, remedy."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def describe_problems(errors: Sequence[Any], root: type[BaseModel]) -> list[str]:
    """One line per wrong field: `spec.rollout.gate.margin: must be at most 0.5 (got 1.0); …`."""
    places = [tuple(error["loc"]) for error in errors]
    lines = [_describe(error, root) for error in errors if not _is_echo(error, places)]
    return sorted(dict.fromkeys(lines))


def _is_echo(error: Any, places: Sequence[tuple[str | int, ...]]) -> bool:
    """A list is called too short when its items are wrong: the items are what a person should read."""
    place = tuple(error["loc"])
    return error["type"] == "too_short" and any(p != place and p[: len(place)] == place for p in places)


def _describe(error: Any, root: type[BaseModel]) -> str:
    problem, remedy = _words(error, root)
    value, path = error["input"], _path(error["loc"])
    field, _, rest = problem.partition(": ")
    if error["type"] == "value_error" and rest and _FIELD.fullmatch(field):
        path, problem, value = f"{path}.{field}", rest, _value_at(value, field)
    got = (
        ""
        if error["type"] == "missing" or value is None or isinstance(value, (dict, list))
        else f" (got {_short(value)})"
    )
    return f"{path}: {problem}{got}; {remedy}"


_FIELD = re.compile(r"[a-zA-Z]+(\.[a-zA-Z]+)*")


def _value_at(value: Any, field: str) -> Any:
    """What the manifest has at a dotted field below the object a rule is about."""
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _path(location: Sequence[str | int]) -> str:
    text = "spec"
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in {"str", "int"}:
            text += f".{part}"
    return text


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _words(error: Any, root: type[BaseModel]) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        return "is not a field of the resource", _did_you_mean(error["loc"], root)
    if kind == "value_error":
        problem, _, remedy = str(context["error"]).partition("; ")
        return problem, remedy or "correct it"
    if kind in _BOUNDS:
        problem, remedy, name = _BOUNDS[kind]
        return f"{problem} {context[name]}", remedy
    return _TYPES.get(kind, (str(error["msg"]), "correct it"))


_BOUNDS = {
    "literal_error": ("must be one of", "choose one", "expected"),
    "greater_than_equal": ("must be at least", "raise it", "ge"),
    "less_than_equal": ("must be at most", "lower it", "le"),
    "too_short": ("needs more items, at least", "add some", "min_length"),
    "too_long": ("has too many items, at most", "remove some", "max_length"),
    "string_too_short": ("is too short, characters needed:", "lengthen it", "min_length"),
    "string_too_long": ("is too long, characters allowed:", "shorten it", "max_length"),
    "string_pattern_mismatch": ("must match", "correct it", "pattern"),
}
_TYPES = {
    "missing": ("is required", "add it"),
    "string_type": ("must be text", "put it in quotes"),
    "int_type": ("must be a whole number", "write it without quotes or fraction"),
    "int_from_float": ("must be a whole number", "write it without quotes or fraction"),
    "float_type": ("must be a number", "write it without quotes"),
    "finite_number": ("must be a finite number", "change the value"),
    "bool_type": ("must be true or false", "write it without quotes"),
    "tuple_type": ("must be a list", "write it as a list"),
    "list_type": ("must be a list", "write it as a list"),
    "dict_type": ("must be a mapping", "write key: value pairs"),
    "model_type": ("must be a mapping", "write key: value pairs"),
    "model_attributes_type": ("must be a mapping", "write key: value pairs"),
}


def _did_you_mean(location: Sequence[str | int], root: type[BaseModel]) -> str:
    owner = _model_at(location[:-1], root)
    names = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "remove it"


def _model_at(location: Sequence[str | int], root: type[BaseModel]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        field = next((f for name, f in current.model_fields.items() if part in {f.alias, name}), None)
        current = _model_in(field.annotation) if field else None
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Union, types.UnionType, tuple, Annotated}:
        return next((found for a in get_args(annotation) if (found := _model_in(a)) is not None), None)
    return None
