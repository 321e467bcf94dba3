"""JSON schemas for kubeconform, written from what a running API server says of itself: no schema is fetched from anywhere.

    python hack/kubernetes_schemas.py FOLDER < openapi-v2.json

    kubectl get --raw /openapi/v2 | python hack/kubernetes_schemas.py schemas
    kubeconform -strict -schema-location 'schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json' manifest.yaml

One file per kind and version, whole in itself. They are strict: an object with named fields takes no others, as `kubectl apply
--validate=strict` refuses them. CustomResourceDefinitions that the server serves are among them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
KIND = "x-kubernetes-group-version-kind"
PREFIX = "#/definitions/"
LOOSE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}
"""Types of which OpenAPI v2 can only say `string`."""
OPEN = "x-kubernetes-preserve-unknown-fields"


def strict(schema: Any) -> Any:
    """The same schema; objects with named fields take no others."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A schema of schemas has fields named like keywords: what stands under `properties` are names, not keywords.
    made = {
        key: {name: strict(part) for name, part in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
    }
    if "properties" in made and "additionalProperties" not in made and not made.get(OPEN):
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["string", "integer"]
    return made


def references(node: Any) -> set[str]:
    """Names of the definitions that a schema points at."""
    if isinstance(node, list):
        return set().union(*map(references, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(references, node.values())) if node else set()
    target = node.get("$ref")
    return found | {target.removeprefix(PREFIX)} if isinstance(target, str) else found


def closure(name: str, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """A definition and everything it needs."""
    held: dict[str, Schema] = {}
    open_names = {name}
    while open_names:
        current = open_names.pop()
        held[current] = definitions[current]
        open_names |= references(definitions[current]) - set(held)
    return held


def schemas(document: Schema) -> dict[str, Schema]:
    """File name → schema, for every kind the server knows."""
    definitions = {name: strict(schema) for name, schema in document["definitions"].items()} | LOOSE
    written = {}
    for name, schema in definitions.items():
        for kind in schema.get(KIND, ()) if "metadata" in schema.get("properties", {}) else ():
            # kubeconform's KindSuffix: the first part of the group
            group = f"{kind['group'].partition('.')[0]}-" if kind["group"] else ""
            file = f"{kind['kind'].lower()}-{group}{kind['version']}.json"
            written[file] = {"$ref": PREFIX + name, "definitions": closure(name, definitions)}
    return written


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for file, schema in schemas(json.load(sys.stdin)).items():
        (folder / file).write_text(json.dumps(schema))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
