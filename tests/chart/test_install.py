"""`helm install` on a real API server: into namespaces that enforce the restricted profile, by helm 3 and helm 4."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from chart_releases import CRD, SMALL, Release
from chart_rendering import CHART, COMPONENTS, HELMS, WORKERS, HelmError, helm
from chart_tools import new_namespace, until
from control_plane import CRDS, ROOT, ControlPlane


@pytest.mark.parametrize("binary", HELMS)
def test_install_and_upgrade_without_a_change(clean: ControlPlane, namespace: str, binary: str) -> None:
    """Every pod is admitted under the restricted profile; an upgrade without a change changes no Secret and no pod template; uninstall leaves the CRD."""
    release = Release(clean, namespace, binary)
    release.install()
    wanted = {"continual-operator", "continual-gateway", "continual-redis", "continual-minio"}
    until(
        "all pods are admitted",
        lambda: (
            {p["metadata"]["labels"]["app.kubernetes.io/component"] for p in release.objects("pods")}
            == {w.removeprefix("continual-") for w in wanted}
        ),
    )
    secrets, workloads = release.secrets(), release.workloads()
    assert set(workloads) == wanted
    assert len({json.dumps(s, sort_keys=True) for s in secrets.values()}) == len(secrets)
    release.upgrade()
    assert release.secrets() == secrets
    assert release.workloads() == workloads
    release.upgrade(SMALL | {"operator": {"replicas": 2}})
    assert release.secrets() == secrets
    changed = {name for name, (_, template) in release.workloads().items() if template != workloads[name][1]}
    assert changed == set()
    release.helm("uninstall")
    until(
        "everything is gone", lambda: not release.secrets() and not release.workloads() and not release.objects("pods")
    )
    for kind, api in (
        ("services", "/api/v1"),
        ("networkpolicies", "/apis/networking.k8s.io/v1"),
        ("roles", "/apis/rbac.authorization.k8s.io/v1"),
        ("serviceaccounts", "/api/v1"),
        ("poddisruptionbudgets", "/apis/policy/v1"),
    ):
        assert [o["metadata"]["name"] for o in release.objects(kind, api) if o["metadata"]["name"] != "default"] == []
    assert clean.get(CRD).ok


def test_passwords_survive_and_follow_into_new_namespaces(clean: ControlPlane, namespace: str) -> None:
    """A namespace added later gets copies of the worker's secrets, not new ones; the operator's role follows too."""
    team = new_namespace(clean, f"{namespace}-team")
    release = Release(clean, namespace)
    release.install()
    before = release.secrets()
    release.upgrade(SMALL | {"modelNamespaces": [namespace, team]})
    assert release.secrets() == before
    copies = Release(clean, team).secrets()
    assert set(copies) == {f"continual-{kind}-{worker}" for kind in ("redis", "store") for worker in WORKERS}
    assert all(before[name] == data for name, data in copies.items())
    models = f"/apis/continual.dev/v1alpha1/namespaces/{team}/continualmodels"
    token = clean.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/continual-operator/token", {"spec": {}}).body[
        "status"
    ]["token"]
    until("the role is in force", lambda: clean.get(models, token=token).ok)
    assert clean.get(f"/api/v1/namespaces/{team}/secrets", token=token).code == 403


def test_a_deleted_secret_is_made_anew_and_the_others_stay(clean: ControlPlane, namespace: str) -> None:
    """How the guide rotates a password: the Secret, its hash in the ACL file, and nothing else changes."""
    release = Release(clean, namespace)
    release.install()
    before = release.secrets()
    assert clean.request("DELETE", f"/api/v1/namespaces/{namespace}/secrets/continual-redis-gateway").ok
    release.upgrade()
    after = release.secrets()
    assert {name for name in before if before[name] != after[name]} == {
        "continual-redis-gateway",
        "continual-redis-acl",
    }
    old, new = (base64.b64decode(s["continual-redis-acl"]["users.acl"]).decode().splitlines() for s in (before, after))
    assert [line.split()[1] for line, was in zip(new, old, strict=True) if line != was] == ["gateway"]


def test_a_cluster_wide_release_serves_every_namespace_and_reads_no_secret(clean: ControlPlane, namespace: str) -> None:
    """A ClusterRole with the same rules, and the namespaces and CRDs that its watches need; the Lease stays in its own namespace."""
    release = Release(clean, namespace)
    release.install(SMALL | {"clusterWide": True})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    token = clean.create(f"{accounts}/continual-operator/token", request).body["status"]["token"]
    until("the role is in force", lambda: clean.get("/apis/continual.dev/v1alpha1/continualmodels", token=token).ok)
    for path in ("/api/v1/namespaces", CRDS, "/apis/apps/v1/deployments", "/api/v1/pods"):
        assert clean.get(path, token=token).ok, path
    for path in (
        "/api/v1/secrets",
        f"/api/v1/namespaces/{namespace}/secrets",
        "/api/v1/nodes",
        "/apis/coordination.k8s.io/v1/leases",
    ):
        assert clean.get(path, token=token).code == 403, path
    gateway = clean.create(f"{accounts}/continual-gateway/token", request).body["status"]["token"]
    until("its role too", lambda: clean.get("/apis/continual.dev/v1alpha1/continualmodels", token=gateway).ok)
    assert clean.get("/apis/apps/v1/deployments", token=gateway).code == 403
    release.helm("uninstall")
    left = clean.get("/apis/rbac.authorization.k8s.io/v1/clusterroles").body["items"]
    assert not [role for role in left if "continual" in role["metadata"]["name"]]


def test_a_second_release_in_another_namespace_shares_the_crd(clean: ControlPlane, namespace: str) -> None:
    """It must be told that the CRD is there already, and says so itself; then both stand side by side with secrets of their own."""
    first, second = Release(clean, namespace), Release(clean, new_namespace(clean, f"{namespace}-two"))
    first.install()
    with pytest.raises(
        HelmError, match=rf"belongs to a release in namespace {namespace}: install this one with crds.enabled=false"
    ):
        second.install()
    second.install(SMALL | {"crds": {"enabled": False}})
    assert set(first.secrets()) == set(second.secrets())
    assert not {json.dumps(s) for s in first.secrets().values()} & {json.dumps(s) for s in second.secrets().values()}
    second.helm("uninstall")
    assert clean.get(CRD).ok
    assert first.workloads()


def test_a_release_without_the_crd_says_so_in_its_notes(clean: ControlPlane, namespace: str) -> None:
    """crds.enabled=false where no release has brought it."""
    notes = Release(clean, namespace).install(SMALL | {"crds": {"enabled": False}})
    assert "WARNING: the CRD continualmodels.continual.dev is missing in this cluster" in notes
    assert "WARNING" not in Release(clean, namespace).upgrade(SMALL)


def test_an_editor_of_one_namespace_installs_a_further_release(clean: ControlPlane, namespace: str) -> None:
    """No look at anything outside of the namespace is needed; and an editor may write ContinualModels, a viewer only read them."""
    team = new_namespace(clean, f"{namespace}-own")
    Release(clean, namespace).install()
    people = f"/api/v1/namespaces/{team}/serviceaccounts"
    tokens = {}
    for person, roles in {"ann": ("admin", f"{namespace}-grants"), "bob": ("view",)}.items():
        clean.create(people, {"metadata": {"name": person}})
        tokens[person] = clean.create(f"{people}/{person}/token", {"spec": {}}).body["status"]["token"]
        for role in roles:
            bind(clean, team, person, role)
    rules = [
        {"apiGroups": ["continual.dev"], "resources": ["continualmodels/status"], "verbs": ["patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "patch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ]
    role = {"metadata": {"name": f"{namespace}-grants"}, "rules": rules}
    assert clean.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).ok
    models = f"/apis/continual.dev/v1alpha1/namespaces/{team}/continualmodels"
    until("both see models", lambda: all(clean.get(models, token=token).ok for token in tokens.values()))
    assert clean.get(CRD, token=tokens["ann"]).code == 403
    assert clean.request("POST", models, {}, token=tokens["bob"]).code == 403
    until("an editor may write", lambda: clean.request("POST", models, {}, token=tokens["ann"]).code in {400, 422})
    config = clean.folder / f"kubeconfig-{team}"
    clean.write_kubeconfig(config, tokens["ann"])
    values = SMALL | {"crds": {"enabled": False}}
    assert "WARNING" not in helm(
        "install", "continual", str(CHART), "--namespace", team, kubeconfig=config, values=values
    )
    helm("upgrade", "continual", str(CHART), "--namespace", team, kubeconfig=config, values=values)


def bind(plane: ControlPlane, namespace: str, account: str, role: str) -> None:
    """Give a service account of the namespace a cluster role within it."""
    binding = {
        "metadata": {"name": f"{account}-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    answer = plane.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", binding)
    assert answer.ok, answer.message


def test_the_commands_of_the_notes_work_when_pasted(clean: ControlPlane, namespace: str) -> None:
    """Each line of the notes is run as it stands, made finite where it would wait for pods that never start here."""
    release = Release(clean, namespace)
    notes = release.install()
    commands = [
        line.strip()
        for line in notes.splitlines()
        if line.startswith("   ") and line.strip().startswith(("kubectl", "helm"))
    ]
    assert len(commands) == 8, commands
    for command in commands:
        words = command.partition(" | ")[0].removeprefix("kubectl ").split()
        if "port-forward" in words:
            service, ports = words[-2], words[-1]
            [found] = [s for s in release.objects("services") if f"service/{s['metadata']['name']}" == service]
            assert found["spec"]["ports"][0]["port"] == int(ports.partition(":")[2])
        elif words[0] == "helm":
            assert words[1:] == ["-n", namespace, "test", "continual"]
        else:
            finite = {"rollout": ["--watch=false"], "apply": ["--dry-run=server"]}.get(words[2], [])
            pasted = [word.strip("'") for word in words if word != "--watch"]
            done = clean.kubectl(*[str(ROOT / w) if w.startswith("examples/") else w for w in pasted], *finite)
            assert done.returncode == 0, (command, done.stderr)
            if "secret" in words:
                assert base64.b64decode(done.stdout) == base64.b64decode(
                    release.secrets()["continual-gateway-admin"]["token"]
                )


@pytest.mark.parametrize("account", ["operator", "gateway"])
def test_rights_are_those_of_the_snapshot(clean: ControlPlane, namespace: str, account: str) -> None:
    """`kubectl auth can-i --list` as the chart's service accounts, without what every account may do."""
    Release(clean, namespace).install()
    everybody = _rights(clean, namespace, "default")
    snapshot = Path(__file__).with_name(f"rights-{account}.txt").read_text().splitlines()
    with suppress(AssertionError):  # of `until`: the difference says more
        until(
            "they are in force",
            lambda: sorted(_rights(clean, namespace, f"continual-{account}") - everybody) == snapshot,
        )
    rights = _rights(clean, namespace, f"continual-{account}") - everybody
    assert sorted(rights) == snapshot
    assert not [line for line in rights if "*" in line or "secrets" in line]


def _rights(plane: ControlPlane, namespace: str, account: str) -> set[str]:
    """Lines of the table with single blanks; columns are resources, non-resource URLs, names, verbs."""
    listed = plane.kubectl(
        "auth", "can-i", "--list", "-n", namespace, "--as", f"system:serviceaccount:{namespace}:{account}"
    )
    assert listed.returncode == 0, listed.stderr
    return {re.sub(r"\s+", " ", line).strip() for line in listed.stdout.splitlines()[1:]}


def test_every_component_has_credentials_of_its_own(clean: ControlPlane, namespace: str) -> None:
    """No two generated passwords or key pairs are the same, and the ACL file has the hash of each."""
    import hashlib

    release = Release(clean, namespace)
    release.install()
    held = {
        name: {k: base64.b64decode(v).decode() for k, v in data.items()} for name, data in release.secrets().items()
    }
    acl = held["continual-redis-acl"]["users.acl"]
    passwords = [held[f"continual-redis-{component}"]["password"] for component in COMPONENTS]
    pairs = [json.loads(held[f"continual-store-{component}"]["credentials"]) for component in COMPONENTS]
    assert (
        len(set(passwords))
        == len({p["access_key"] for p in pairs})
        == len({p["secret_key"] for p in pairs})
        == len(COMPONENTS)
    )
    for component, password in zip(COMPONENTS, passwords, strict=True):
        assert f"user {component} on #{hashlib.sha256(password.encode()).hexdigest()} " in acl
        assert len(password) == 40
    tokens = json.loads(held["continual-gateway"]["tokens.json"])
    assert {(t["name"], t["role"]): t["sha256"] for t in tokens} == {
        (name, role): hashlib.sha256(held[f"continual-gateway-{secret}"]["token"].encode()).hexdigest()
        for name, role, secret in (("admin", "admin", "admin"), ("helm-test", "viewer", "test"))
    }
