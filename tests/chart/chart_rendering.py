"""The chart through the real helm binaries, 3 and 4: rendering, and looking things up in what was rendered."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from control_plane import ROOT, tool

CHART = ROOT / "charts/continual"
HELMS = ("helm", "helm3")
"""4 and 3."""
COMPONENTS = ("operator", "inference", "evaluator", "trainer", "gateway")
WORKERS = ("inference", "evaluator", "trainer")
Values = Mapping[str, Any]
Manifest = dict[str, Any]


class HelmError(Exception):
    """helm refused; the message is what it said."""


def helm(*arguments: str, binary: str = "helm", kubeconfig: Path | None = None, values: Values | None = None) -> str:
    """Standard output of one helm command; `HelmError` with its standard error when it fails."""
    command = [tool(binary), *arguments, *(["--values", "-"] if values else [])]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/nonexistent")}
    if kubeconfig is not None:
        environment |= {"KUBECONFIG": str(kubeconfig), "HELM_CACHE_HOME": str(kubeconfig.parent / "helm")}
    given = json.dumps(values) if values else None
    done = subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def template(
    values: Values | None = None, *, binary: str = "helm", namespace: str = "here", release: str = "continual"
) -> str:
    """What `helm template` prints. Once per set of values: what is generated stays the same within a test run."""
    return _template(json.dumps(values or {}, sort_keys=True), binary, namespace, release)


@cache
def _template(values: str, binary: str, namespace: str, release: str) -> str:
    return helm("template", release, str(CHART), "--namespace", namespace, binary=binary, values=json.loads(values))


def render(values: Values | None = None, **options: str) -> list[Manifest]:
    """The same as objects of the caller's own."""
    manifests: list[Manifest] = json.loads(_parsed(template(values, **options)))
    return manifests


@cache
def _parsed(text: str) -> str:
    return json.dumps([document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document])


def one(manifests: list[Manifest], kind: str, name: str, namespace: str | None = None) -> Manifest:
    found = [
        m
        for m in manifests
        if m["kind"] == kind and m["metadata"]["name"] == name and namespace in {None, m["metadata"].get("namespace")}
    ]
    assert len(found) == 1, f"{len(found)} of {kind}/{name}"
    return found[0]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] in kinds]


def secret_text(manifest: Manifest, key: str) -> str:
    return base64.b64decode(manifest["data"][key]).decode()


def pod_specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Pod specs by `Kind/name`."""
    found = {}
    for m in manifests:
        if m["kind"] in {"Deployment", "StatefulSet", "Job"}:
            found[f"{m['kind']}/{m['metadata']['name']}"] = m["spec"]["template"]["spec"]
        elif m["kind"] == "Pod":
            found[f"Pod/{m['metadata']['name']}"] = m["spec"]
    return found


def env_of(container: Manifest) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


PASSWORDS = {component: f"password-of-{component}" for component in COMPONENTS}
WITH_PASSWORDS: Values = {
    "redis": {"users": {component: {"password": PASSWORDS[component]} for component in COMPONENTS}}
}


def users_acl(values: Values | None = None) -> str:
    """The ACL file that the embedded Redis mounts."""
    return secret_text(one(render(values or WITH_PASSWORDS), "Secret", "continual-redis-acl"), "users.acl")
