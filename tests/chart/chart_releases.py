"""A release of the chart on the API server of the tests."""

from __future__ import annotations

import json
from typing import Any

from chart_rendering import CHART, Values, helm
from control_plane import CRDS, ControlPlane

CRD = f"{CRDS}/continualmodels.continual.dev"
SMALL: Values = {
    "redis": {"embedded": {"persistence": {"enabled": False}}},
    "objectStore": {"embedded": {"persistence": {"enabled": False}}},
}
"""No volumes: nothing provides any here."""


class Release:
    """One release of the chart, gone after the test with the CRD it may have brought."""

    def __init__(self, plane: ControlPlane, namespace: str, binary: str = "helm", name: str = "continual") -> None:
        self.plane, self.namespace, self.binary, self.name = plane, namespace, binary, name

    def helm(self, verb: str, *arguments: str, values: Values | None = None) -> str:
        return helm(
            verb,
            self.name,
            *arguments,
            "--namespace",
            self.namespace,
            binary=self.binary,
            kubeconfig=self.plane.kubeconfig,
            values=values,
        )

    def install(self, values: Values | None = None) -> str:
        return self.helm("install", str(CHART), values=values or SMALL)

    def upgrade(self, values: Values | None = None) -> str:
        return self.helm("upgrade", str(CHART), values=values or SMALL)

    def objects(self, kind: str, api: str = "/api/v1") -> list[dict[str, Any]]:
        answer = self.plane.get(f"{api}/namespaces/{self.namespace}/{kind}")
        assert answer.ok, answer.message
        return [item for item in answer.body["items"] if not item["metadata"]["name"].startswith("sh.helm.release")]

    def secrets(self) -> dict[str, dict[str, str]]:
        return {s["metadata"]["name"]: s["data"] for s in self.objects("secrets")}

    def workloads(self) -> dict[str, tuple[int, str]]:
        """Generation and pod template of every workload: what a change of either restarts."""
        found = self.objects("deployments", "/apis/apps/v1") + self.objects("statefulsets", "/apis/apps/v1")
        return {
            o["metadata"]["name"]: (o["metadata"]["generation"], json.dumps(o["spec"]["template"], sort_keys=True))
            for o in found
        }
