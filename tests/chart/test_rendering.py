"""What the chart renders, by helm 3 and helm 4: valid for a real API server's schemas, restricted, and telling what is wrong with values."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import (
    CHART,
    COMPONENTS,
    HELMS,
    WORKERS,
    HelmError,
    Manifest,
    env_of,
    helm,
    of_kind,
    one,
    pod_specs,
    render,
    secret_text,
    template,
    users_acl,
)
from continual_operator.kubernetes.environment import read_installation
from control_plane import CRD, tool

VALUES: dict[str, Path | None] = {
    "default": None,
    **{path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))},
}
"""The chart as it is, and with every file of values in ci/."""
OPTIONAL_KINDS = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which no plain cluster serves."""


def values_of(case: str) -> dict[str, Any]:
    path = VALUES[case]
    return dict(yaml.safe_load(path.read_text())) if path else {}


# For machines ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("binary", HELMS)
def test_helm_lint_finds_nothing(binary: str, case: str) -> None:
    """`helm lint --strict`: warnings are errors."""
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), binary=binary, values=values_of(case))


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("binary", HELMS)
def test_every_manifest_is_valid_for_a_real_api_server(schemas: Path, tmp_path: Path, binary: str, case: str) -> None:
    """`helm template | kubeconform -strict`; the schemas are the API server's own, nothing is fetched."""
    assert kubeconform(schemas, template(values_of(case), binary=binary), tmp_path) == ""


def test_kubeconform_sees_a_wrong_field(schemas: Path, tmp_path: Path) -> None:
    """The mutation check of the test above."""
    rendered = template()
    assert "additional properties" in kubeconform(
        schemas, rendered.replace("serviceAccountName:", "serviceAcountName:"), tmp_path
    )
    assert "got string, want integer" in kubeconform(
        schemas, rendered.replace("replicas: 1", 'replicas: "1"'), tmp_path
    )


def kubeconform(schemas: Path, rendered: str, folder: Path) -> str:
    """What it finds wrong; empty when nothing is."""
    manifest = folder / "rendered.yaml"
    manifest.write_text(rendered)
    location = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    done = subprocess.run(
        [tool("kubeconform"), "-strict", "-schema-location", location, "-skip", ",".join(OPTIONAL_KINDS), str(manifest)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (done.stdout == ""), done
    return done.stdout


@pytest.mark.parametrize("case", VALUES)
def test_both_helms_render_the_same(case: str) -> None:
    """Apart from what is generated."""

    def without_secrets(binary: str) -> list[Manifest]:
        return sorted((m for m in render(values_of(case), binary=binary) if m["kind"] != "Secret"), key=json.dumps)

    assert without_secrets("helm") == without_secrets("helm3")


def test_the_chart_carries_the_crd_of_the_repository() -> None:
    """A copy, because a chart cannot reach out of its folder; helm adds labels and the annotation that keeps it."""
    assert (CHART / "files/continualmodels.yaml").read_text() == CRD.read_text(), "run `make chart`"
    rendered = one(render(), "CustomResourceDefinition", "continualmodels.continual.dev")
    wanted = yaml.safe_load(CRD.read_text())
    assert rendered["spec"] == wanted["spec"]
    assert rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    let_go = render({"crds": {"keep": False}})
    kept_nowhere = one(let_go, "CustomResourceDefinition", "continualmodels.continual.dev")["metadata"]
    assert "helm.sh/resource-policy" not in kept_nowhere.get("annotations", {})
    assert not of_kind(render({"crds": {"enabled": False}}), "CustomResourceDefinition")


def test_the_readme_is_what_helm_docs_makes_of_the_values(tmp_path: Path) -> None:
    """`make chart` writes it; a value without its row would be found by nobody."""
    copy = tmp_path / "charts/continual"
    shutil.copytree(CHART, copy)
    (copy / "README.md").unlink()
    command = [
        tool("helm-docs"),
        "--log-level",
        "warning",
        "--chart-search-root",
        "charts",
        "--sort-values-order",
        "file",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (copy / "README.md").read_text() == (CHART / "README.md").read_text(), "run `make chart`"


# For people -----------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"operator": {"replica": 2}}, "additional properties 'replica' not allowed"),
    ({"operator": {"replicas": "two"}}, "/operator/replicas"),
    ({"redis": {"mode": "sentinel"}}, "value must be one of 'embedded', 'external'"),
    ({"redis": {"external": {"url": "redis://user:pw@host:6379"}}}, "/redis/external/url"),
    ({"redis": {"embedded": {"maxMemory": "512MiB"}}}, "/redis/embedded/maxMemory"),
    ({"redis": {"mode": "external"}}, "redis.external.url is empty; with redis.mode=external set it"),
    ({"redis": {"users": {"operator": {"existingSecret": "mine"}}}}, "set redis.embedded.existingAclSecret"),
    ({"objectStore": {"mode": "external"}}, "objectStore.external.endpoint is empty"),
    (
        {"objectStore": {"mode": "external", "external": {"endpoint": "https://s3.example.com"}}},
        "has no key pair; with objectStore.mode=external set existingSecret, or accessKey and secretKey",
    ),
    ({"objectStore": {"external": {"endpoint": "s3.example.com"}}}, "/objectStore/external/endpoint"),
    ({"images": {"operator": {"tag": "a b"}}}, "/images/operator/tag"),
    ({"modelNamespaces": ["Team_A"]}, "/modelNamespaces/0"),
    ({"workers": {"trainer": {"resources": {"limits": {"cpu": "two"}}}}}, "/workers/trainer/resources/limits/cpu"),
    ({"gateway": {"tokens": [{"name": "ann", "role": "owner"}]}}, "/gateway/tokens/0/role"),
    ({"gateway": {"trustedProxies": ["proxy.example"]}}, "/gateway/trustedProxies/0"),
    ({"gateway": {"backlog": 0}}, "/gateway/backlog"),
    ({"gateway": {"answerSeconds": 0}}, "/gateway/answerSeconds"),
    ({"networkPolicy": {"apiServer": {"ports": []}}}, "/networkPolicy/apiServer/ports"),
    ({"unheard": 1}, "additional properties 'unheard' not allowed"),
]


@pytest.mark.parametrize(("values", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_wrong_values_are_refused_with_a_message_that_says_where_or_what_to_do(
    values: dict[str, Any], told: str
) -> None:
    """By the schema or by a template; never rendered into something that fails later."""
    with pytest.raises(HelmError) as raised:
        template(values)
    assert told in str(raised.value)


def test_every_value_has_a_place_in_the_schema_and_a_schema_has_no_more() -> None:
    """values.yaml and values.schema.json name the same fields, level by level."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    def walk(values: Any, node: dict[str, Any], path: str) -> None:
        known = resolved(node).get("properties")
        if not isinstance(values, dict) or known is None:
            return
        assert set(known) - {"global", "claims"} == set(values), path
        assert resolved(node)["additionalProperties"] is False, path
        for name, value in values.items():
            walk(value, known[name], f"{path}.{name}")

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "values")


# For attackers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VALUES)
def test_every_pod_keeps_to_the_restricted_profile_and_bounds_itself(case: str) -> None:
    """Not root, seccomp, nothing dropped in, read-only root, probes and limits; a token only where the API server is asked."""
    for name, pod in pod_specs(render(values_of(case))).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        speaks = name.endswith(("-operator", "-gateway"))
        assert pod["automountServiceAccountToken"] is speaks, name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            wanted = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["securityContext"] == wanted, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            if not name.startswith("Pod/"):
                assert {"livenessProbe", "readinessProbe"} <= set(container), name


@pytest.mark.parametrize("case", VALUES)
def test_rights_name_what_they_are_for_and_never_secrets(case: str) -> None:
    """No wildcard anywhere, no verb on secrets, no exec, no roles."""
    roles = of_kind(render(values_of(case)), "Role", "ClusterRole")
    assert roles
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in json.dumps(rule), role["metadata"]["name"]
            assert not {"secrets", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"]


MOUNTS = {
    "Deployment/continual-operator": {"continual-redis-operator", "continual-store-operator"},
    "Deployment/continual-gateway": {"continual-redis-gateway", "continual-store-gateway", "continual-gateway"},
    "StatefulSet/continual-redis": {"continual-redis-acl"},
    "StatefulSet/continual-minio": {"continual-minio-root", *(f"continual-store-{c}" for c in COMPONENTS)},
    "Pod/continual-test-prediction": {"continual-gateway-test"},
}
"""MinIO's pod makes the key pairs, so it holds them; everybody else holds their own."""


def test_each_pod_mounts_its_own_secrets_and_no_other() -> None:
    """Nor takes one from the environment, where a crash report would print it."""
    pods = pod_specs(render())
    assert {name: mounted_secrets(pod) for name, pod in pods.items()} == MOUNTS
    for name, pod in pods.items():
        for container in pod["containers"]:
            assert "envFrom" not in container, name
            assert not [e for e in container.get("env", ()) if "secretKeyRef" in e.get("valueFrom", {})], name
    minio = {
        c["name"]: {m["name"] for m in c["volumeMounts"]} for c in pods["StatefulSet/continual-minio"]["containers"]
    }
    assert "users" not in minio["minio"]


def mounted_secrets(pod: Manifest) -> set[str]:
    found = set()
    for volume in pod.get("volumes", ()):
        found |= {volume["secret"]["secretName"]} if "secret" in volume else set()
        for source in volume.get("projected", {}).get("sources", ()):
            found |= {source["secret"]["name"]} if "secret" in source else set()
    return found


def test_the_acl_file_holds_hashes_and_no_password() -> None:
    """One line per component; the default user is off (its rights are for replaying the append-only file); nobody else may do everything."""
    acl = users_acl()
    lines = acl.splitlines()
    assert lines[0] == "user default off ~* &* +@all"
    assert [line.split()[1] for line in lines[1:]] == ["probe", *COMPONENTS]
    assert "password-of-" not in acl
    for line in lines[2:]:
        assert re.match(r"user \w+ on #[0-9a-f]{64} resetchannels -@all ", line)
        assert "+@" not in line
        assert "~* " not in line
        assert "allkeys" not in line
        assert "nopass" not in line


def test_the_secrets_of_workers_lie_where_their_pods_run() -> None:
    """In every namespace of models; the operator's and the gateway's only in the release's."""
    manifests = render({"modelNamespaces": ["team-a", "team-b"]}, namespace="system")
    where: dict[str, set[str]] = {}
    for secret in of_kind(manifests, "Secret"):
        where.setdefault(secret["metadata"]["name"], set()).add(secret["metadata"]["namespace"])
    for component in WORKERS:
        assert where[f"continual-redis-{component}"] == {"team-a", "team-b"}
        assert where[f"continual-store-{component}"] == {"team-a", "team-b", "system"}
    assert {
        n
        for name, n in where.items()
        if name not in {f"continual-{k}-{c}" for k in ("redis", "store") for c in WORKERS}
        for n in n
    } == {"system"}
    passwords = {
        secret_text(s, "password")
        for s in of_kind(manifests, "Secret")
        if s["metadata"]["name"] == "continual-redis-trainer"
    }
    assert len(passwords) == 1


# For the other parts --------------------------------------------------------------------------------------------------------


class Told(dict[str, str]):
    """An environment that remembers what was asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("case", VALUES)
def test_the_operator_takes_every_variable_that_the_chart_gives_it(case: str) -> None:
    """A name that one side misspells would be silence; extraEnv is the installer's business."""
    values = values_of(case)
    [operator] = one(render(values), "Deployment", "continual-operator")["spec"]["template"]["spec"]["containers"]
    told = Told(env_of(operator))
    installation = read_installation(told)
    assert set(told) - told.asked == {e["name"] for e in values.get("operator", {}).get("extraEnv", ())}
    assert installation.lease_name == "continual-operator"
    assert installation.settings.installation == values.get("installation", "here/continual")
    assert installation.namespaces == (() if values.get("clusterWide") else ("here",))
    for component in WORKERS:
        settings = getattr(installation.settings, component)
        users = values.get("redis", {}).get("users", {}).get(component, {})
        assert settings.redis_username == users.get("username", component)
        assert settings.redis_secret == users.get("existingSecret", f"continual-redis-{component}")
        assert (
            settings.image.partition("@")[0]
            .rpartition(":")[0]
            .endswith(f"continual-{'trainer' if component == 'trainer' else 'inference'}")
        )
        assert settings.resources.limits


def test_images_take_a_registry_a_tag_or_a_digest() -> None:
    """Default tag: the chart's appVersion."""

    def images(values: dict[str, Any]) -> set[str]:
        return {c["image"] for pod in pod_specs(render(values)).values() for c in pod["containers"]}

    assert "continual-operator:0.1.0" in images({})
    assert "registry.example.com/ml/continual-redis:0.1.0" in images({"imageRegistry": "registry.example.com/ml/"})
    digest = "sha256:" + "0" * 64
    assert f"mine/op@{digest}" in images({"images": {"operator": {"repository": "mine/op", "tag": digest}}})


def test_redis_rolls_when_its_rules_change_and_not_with_a_password() -> None:
    """The pod template carries a digest of the rules only."""

    def annotation(values: dict[str, Any]) -> str:
        pod = one(render(values), "StatefulSet", "continual-redis")["spec"]["template"]
        return str(pod["metadata"]["annotations"]["continual.dev/acl-rules"])

    assert annotation({}) == annotation({"redis": {"users": {"trainer": {"password": "other"}}}})
    assert annotation({}) != annotation({"redis": {"users": {"trainer": {"username": "other"}}}})
