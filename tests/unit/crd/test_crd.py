"""The CRD and what the operator reads, side by side.

The API server believes `crds/continualmodels.yaml`, the operator and `continual local` believe `continual_operator.spec`. A field, a
default or a bound that only one of them knows is a manifest that works here and not there. Both are flattened to `path -> facts` and compared.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from continual_operator.quantity import DURATION, QUANTITY, parse_duration, parse_quantity
from continual_operator.spec import ContinualModelSpec
from continual_operator.status import Status
from pydantic import TypeAdapter

Schema = dict[str, Any]
Facts = dict[str, dict[str, Any]]

ROOT = Path(__file__).resolve().parents[3]
CRD = ROOT / "crds/continualmodels.yaml"
BOUNDS = (
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "maxProperties",
    "pattern",
    "enum",
    "required",
)
FRACTIONS = re.compile(r"self >= ([0-9.]+) && self <= ([0-9.]+)")
TIGHTER = {("bootstrap.checkpoint.digest", "maxLength"): 71, ("rollout.pinnedVersion", "maxLength"): 10}
"""Lengths that follow from the pattern; the API server wants them spelled out to estimate what a rule costs."""
OPAQUE = {"training.inputs", "outbox[]"}
"""Parts of the status that are kept as they are: nobody reads them by field."""


@functools.cache
def parsed() -> Schema:
    return yaml.safe_load(CRD.read_text())


def version() -> Schema:
    return copy.deepcopy(parsed()["spec"]["versions"][0])


def declared(part: str) -> Schema:
    return version()["schema"]["openAPIV3Schema"]["properties"][part]


# What the CRD says -------------------------------------------------------------------------------------------------------------


def crd_facts(node: Schema, path: str = "") -> Facts:
    """`path -> facts` of a structural schema; `[]` is an item of a list, `{}` a value of a map."""
    found: Facts = {path: _crd_fact(node, path)} if path else {}
    for name, child in node.get("properties", {}).items():
        found |= crd_facts(child, f"{path}.{name}".lstrip("."))
    if "items" in node:
        found |= crd_facts(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        found |= crd_facts(node["additionalProperties"], f"{path}{{}}")
    return found


def _crd_fact(node: Schema, path: str) -> dict[str, Any]:
    kind = _crd_kind(node)
    fact = {"type": kind} | {key: node[key] for key in BOUNDS if key in node and kind not in {"duration", "quantity"}}
    for key, value in TIGHTER.items():
        if key[0] == path and fact.pop(key[1], None) != value:
            fact[key[1]] = "differs from what the pattern allows"
    for validation in node.get("x-kubernetes-validations", ()):
        if bounds := FRACTIONS.fullmatch(validation["rule"]):
            fact |= {"minimum": float(bounds[1]), "maximum": float(bounds[2])}
    if "required" in fact:
        fact["required"] = sorted(fact["required"])
    return fact | ({"default": plain(kind, node["default"])} if node.get("default", {}) != {} else {})


def _crd_kind(node: Schema) -> str:
    if node.get("x-kubernetes-int-or-string"):
        assert node["pattern"] == QUANTITY
        return "quantity"
    if node.get("format") == "duration":
        assert (node["pattern"], node["maxLength"]) == (DURATION, 16)
        return "duration"
    return str(node["type"])


# What the operator says --------------------------------------------------------------------------------------------------------


def our_facts(whole: Schema, node: Schema, path: str = "") -> Facts:
    """The same for the JSON schema of a pydantic model."""
    node = _resolved(whole, node)
    found: Facts = {path: _our_fact(node)} if path else {}
    if path in OPAQUE:
        return found
    for name, child in node.get("properties", {}).items():
        found |= our_facts(whole, child, f"{path}.{name}".lstrip("."))
    if "items" in node:
        found |= our_facts(whole, node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        found |= our_facts(whole, node["additionalProperties"], f"{path}{{}}")
    return found


def _resolved(whole: Schema, node: Schema) -> Schema:
    """Without references, and an optional field as the field it is."""
    choices = [choice for choice in node.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        node = {**node, **choices[0]}
    if "$ref" in node:
        node = {**whole["$defs"][node["$ref"].rpartition("/")[2]], **node}
    return node


def _our_fact(node: Schema) -> dict[str, Any]:
    kind = _our_kind(node)
    fact = {"type": kind} | {key: node[key] for key in BOUNDS if key in node and kind not in {"duration", "quantity"}}
    if "required" in fact:
        fact["required"] = sorted(fact["required"])
    default = node.get("default")
    has_default = kind != "object" and default is not None and default != []
    return fact | ({"default": plain(kind, default)} if has_default else {})


def _our_kind(node: Schema) -> str:
    if len(node.get("anyOf", ())) == 2 and {"type": "null"} not in node["anyOf"]:
        return "quantity"
    if node.get("type") == "integer" and "ge" in node:
        return "quantity"
    if node.get("format") == "duration":
        return "duration"
    return str(node["type"])


def plain(kind: str, default: Any) -> Any:
    """A default as a value: durations and quantities have many spellings."""
    if kind == "duration":
        iso = str(default).startswith("P")
        return TypeAdapter(timedelta).validate_python(default) if iso else parse_duration(default)
    if kind == "quantity":
        return int(parse_quantity(default))
    if isinstance(default, dict):
        return {key: plain("", value) for key, value in default.items() if value is not None}
    if isinstance(default, list):
        return [plain("", value) for value in default]
    return default


def model_schema(model: type[ContinualModelSpec | Status]) -> Schema:
    return model.model_json_schema(by_alias=True)


# Defaulting as the API server does it -------------------------------------------------------------------------------------------


def defaulted(node: Schema, value: Any) -> Any:
    if isinstance(value, list) and "items" in node:
        return [defaulted(node["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, child in node.get("properties", {}).items():
        if name not in filled and "default" in child:
            filled[name] = copy.deepcopy(child["default"])
        if name in filled:
            filled[name] = defaulted(child, filled[name])
    return filled


def pruned(value: Any) -> Any:
    """Without empty maps and lists that the CRD does not default, durations as the operator prints them."""
    if isinstance(value, dict):
        return {k: kept for k, v in value.items() if (kept := pruned(v)) not in ({}, None)}
    return [pruned(item) for item in value] if isinstance(value, list) else value


# The tests ---------------------------------------------------------------------------------------------------------------------


def test_spec_has_the_same_paths_types_enums_bounds_defaults_and_required_fields() -> None:
    """Each field of the CRD is a field of the operator's spec with the same facts, and the other way round."""
    schema = model_schema(ContinualModelSpec)
    ours, crd = our_facts(schema, schema), crd_facts(declared("spec"))
    assert sorted(crd) == sorted(ours)
    assert crd == ours
    assert sorted(declared("spec")["required"]) == sorted(schema["required"])


def test_the_operator_keeps_the_defaults_of_the_api_server() -> None:
    """A minimal manifest, defaulted by the schema, is a fixed point: the operator reads the same values from both."""
    minimal = {
        "model": {"architecture": "lenet5", "input": {"height": 28, "width": 28, "channels": 1}, "classes": ["0", "1"]},
        "bootstrap": {"dataset": {"name": "digits"}},
    }
    filled = defaulted(declared("spec"), minimal)
    read, bare = ContinualModelSpec.model_validate(filled), ContinualModelSpec.model_validate(minimal)
    assert read == bare
    dumped = pruned(json.loads(bare.model_dump_json(by_alias=True, exclude_none=True)))
    dumped["serving"]["scheduling"] = dumped["retraining"]["scheduling"] = {}
    dumped["retention"]["requests"]["maxBytes"] = "2Gi"
    assert pruned(dumped) == filled


def test_status_declares_every_field_the_operator_writes() -> None:
    """An undeclared field would be pruned by the API server: the operator would forget what it decided."""
    schema = model_schema(Status)
    ours = {path: fact["type"] for path, fact in our_facts(schema, schema).items()}
    crd = {path: fact["type"] for path, fact in crd_facts(declared("status")).items()}
    assert crd == ours


def test_status_refuses_no_value_of_a_newer_operator() -> None:
    """A refused status would stop an operator that is newer than the CRD: only the list of conditions is strict."""
    strict = {
        path: fact
        for path, fact in crd_facts(declared("status")).items()
        if fact.keys() - {"type"} and not path.startswith("conditions")
    }
    assert strict == {"versions[]": {"type": "object", "required": ["version"]}}


# fmt: off
MUTATIONS: dict[str, Callable[[Schema], Any]] = {
    "a field less": lambda spec: spec["properties"]["rollout"]["properties"].pop("supersede"),
    "a field more": lambda spec: spec["properties"]["rollout"]["properties"].update(template={"type": "object"}),
    "another default": lambda spec: spec["properties"]["serving"]["properties"]["replicas"].update(default=3),
    "another duration": lambda spec: spec["properties"]["feedback"]["properties"]["window"].update(default="25h"),
    "another choice": lambda spec: spec["properties"]["model"]["properties"]["input"]["properties"]["fit"]["enum"].append("Crop"),
    "another bound": lambda spec: spec["properties"]["serving"]["properties"]["batchSize"].update(maximum=2048),
    "another fraction": lambda spec: spec["properties"]["rollout"]["properties"]["gate"]["properties"]["margin"].update({"x-kubernetes-validations": []}),
    "not required": lambda spec: spec["properties"]["model"]["required"].remove("classes"),
}
# fmt: on


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_sees(name: str) -> None:
    """Each kind of difference turns the comparison red: it is not comparing nothing with nothing."""
    spec = declared("spec")
    MUTATIONS[name](spec)
    schema = model_schema(ContinualModelSpec)
    assert crd_facts(spec) != our_facts(schema, schema)


def nodes(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


def test_every_field_is_described() -> None:
    """`kubectl explain` teaches: a sentence for each field, with a full stop. `metadata` is the API server's to describe."""
    whole = version()["schema"]["openAPIV3Schema"]
    assert whole["properties"].pop("metadata") == {"type": "object"}
    silent = [
        path
        for path, node in nodes(whole, "")
        if not path.endswith(("[]", "{}")) and not re.search(r"\w.*[.]$", node.get("description", ""), re.DOTALL)
    ]
    assert silent == []


def test_every_string_list_and_map_of_the_spec_is_bounded() -> None:
    """The resource is an attack surface: nothing in the spec grows without limit."""
    limits = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "object": {"maxProperties", "properties"}}
    unbounded = [
        path
        for path, node in nodes(declared("spec"), "spec")
        if node.get("type") in limits
        and not limits[node["type"]] & node.keys()
        and "x-kubernetes-preserve-unknown-fields" not in node
    ]
    assert unbounded == []


def test_rules_speak_for_themselves() -> None:
    """Every CEL rule has a message of ours, and it says what is wrong and what to do."""
    whole = version()["schema"]["openAPIV3Schema"]
    rules = [rule for _, node in nodes(whole, "") for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 30
    assert [rule["message"] for rule in rules if "; " not in rule["message"]] == []


def test_it_stays_below_256_kb() -> None:
    """`kubectl apply` keeps a copy in an annotation, which may not be larger."""
    size = len(json.dumps(parsed()))
    assert max(size, CRD.stat().st_size) < 256_000


def test_columns_and_scale_point_at_declared_fields() -> None:
    """A column with a wrong path would print nothing, for ever; a wrong scale path breaks `kubectl scale`."""
    whole = version()
    columns = {column["name"]: column["jsonPath"] for column in whole["additionalPrinterColumns"]}
    assert {"Ready", "Stable", "Canary", "Weight", "Accuracy", "Labels", "Lag", "Training", "Age"} <= columns.keys()
    known = {path for path, _ in nodes(whole["schema"]["openAPIV3Schema"], "")} | {".metadata.creationTimestamp"}
    paths = [re.sub(r"\[(\?\(@\.type==\"\w+\"\)|-1:)\]", "[]", path) for path in columns.values()]
    assert [path for path in paths if path not in known] == []
    assert set(whole["subresources"]) == {"status", "scale"}
    assert [path for path in whole["subresources"]["scale"].values() if path not in known] == []


def test_conditions_and_versions_merge_by_their_name() -> None:
    """Two writers of different conditions do not overwrite each other."""
    status = declared("status")["properties"]
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert status["versions"]["x-kubernetes-list-map-keys"] == ["version"]


def test_the_reference_page_is_the_crd() -> None:
    """`docs/resource.md` is written from the CRD: `.venv/bin/python hack/reference.py > docs/resource.md`."""
    said = subprocess.run([sys.executable, str(ROOT / "hack/reference.py")], capture_output=True, text=True, check=True)
    assert said.stdout == (ROOT / "docs/resource.md").read_text()
