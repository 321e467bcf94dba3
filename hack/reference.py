"""Write the reference of the resource from its CRD: what `kubectl explain` says, on one page.

    python hack/reference.py > docs/resource.md

The CRD is the source; a test holds the page equal to what this prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CRD = Path(__file__).resolve().parents[1] / "crds/continualmodels.yaml"
HEAD = """\
# ContinualModel

Written by `hack/reference.py` from `crds/continualmodels.yaml`; `kubectl explain ctm.spec.rollout` says the same in a terminal.
Names in bold are required. What is written in a manifest and not listed here is refused.
"""


def kind(node: dict[str, Any]) -> str:
    """What to write: one of the choices, or a type in a word or two."""
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if node["type"] == "array":
        return f"list of {kind(node['items'])}"
    if "additionalProperties" in node:
        return f"map to {kind(node['additionalProperties'])}"
    return {"date-time": "time", "duration": "duration"}.get(node.get("format", ""), str(node["type"]))


def bounds(node: dict[str, Any]) -> str:
    """The range in brackets, open where there is none; empty where there is no range at all."""
    low, high = node.get("minimum", ""), node.get("maximum", "")
    return f" {low} … {high}".rstrip() if low != "" or high != "" else ""


def default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value is None or value == {}:
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def row(name: str, node: dict[str, Any], required: list[str]) -> str:
    shown = f"**{name}**" if name in required else name
    said = [] if "properties" in inner(node) else [rule["message"] for rule in rules(node)]
    meaning = " ".join([node["description"], *(f"Else: “{message}”." for message in said)]).replace("|", "\\|")
    return f"| {shown} | {kind(node)}{bounds(node)} | {default(node)} | {meaning} |"


def rules(node: dict[str, Any]) -> list[dict[str, str]]:
    """CEL rules of a node and of its items."""
    found = [*node.get("x-kubernetes-validations", ()), *node.get("items", {}).get("x-kubernetes-validations", ())]
    return found + list(node.get("additionalProperties", {}).get("x-kubernetes-validations", ()))


def inner(node: dict[str, Any]) -> dict[str, Any]:
    """The object whose fields a node has: itself, or an item of it."""
    return node.get("items", node)


def sections(path: str, node: dict[str, Any]) -> Iterator[str]:
    """A heading and a table for an object, then the same for the objects in it."""
    fields = inner(node).get("properties", {})
    yield f"\n## {path}\n\n{node['description']}\n\n| field | value | default | meaning |\n|---|---|---|---|"
    for name, child in fields.items():
        yield row(name, child, inner(node).get("required", []))
    if rules(node):
        yield "\nWhat is said when a rule is broken:\n"
    for rule in rules(node):
        place = f"{path}{rule.get('fieldPath', '')}"
        yield f"- `{place}`: {rule['message']}"
    for name, child in fields.items():
        if "properties" in inner(child):
            yield from sections(f"{path}.{name}" + ("[]" if "items" in child else ""), child)


def reference() -> str:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = [HEAD, *sections("spec", schema["spec"]), *sections("status", schema["status"])]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
