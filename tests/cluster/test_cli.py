"""The command line on a Kubernetes cluster: a real API server, the same verbs, the same output as on one machine."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from continual_cli import where
from continual_cli.app import app
from continual_cli.local.paths import Home
from continual_cli.local.state import LocalState
from continual_cli.world import open_world
from continual_contract.keys import ModelKeys
from control_plane import MODELS, ROOT, ControlPlane, free_port, tool
from operators import PATHS, digits, until
from PIL import Image
from typer.testing import CliRunner

Run = Callable[..., Any]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
DIGEST = "sha256:" + "8" * 64
STATUS: dict[str, Any] = {
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Serving", "message": "1 of 1", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
    "stable": {"version": "v7", "digest": "sha256:" + "7" * 64, "labels": 412, "accuracy": {"value": "0.953"}},
    "canary": {"version": "v8", "digest": DIGEST, "weight": 10},
    "backlog": 3,
    "versions": [
        {"version": "v7", "digest": "sha256:" + "7" * 64, "phase": "Stable", "created": "2026-01-02T00:00:00Z", "trigger": "Labels", "accuracy": "0.951"},
        {"version": "v8", "digest": DIGEST, "phase": "Canary", "created": "2026-01-03T00:00:00Z", "trigger": "Drift", "accuracy": "0.949"},
    ],
}  # fmt: skip


@pytest.fixture
def run(control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `continual` with these words on the test's namespace; an empty local home proves that it is not meant."""
    monkeypatch.setenv("CONTINUAL_HOME", str(tmp_path / "no-home"))
    monkeypatch.setattr(where._Now, "where", where.Where())  # the world of this test ends with it
    for name in ("CONTINUAL_TARGET", "CONTINUAL_REDIS_URL", "CONTINUAL_STORE_URL", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str, kubeconfig: Path | None = None, stdin: str | None = None) -> Any:
        options = ["--kubeconfig", str(kubeconfig or control_plane.kubeconfig), "-n", namespace]
        return CliRunner().invoke(app, [*words, *options], input=stdin)

    return call


@pytest.fixture
def path(control_plane: ControlPlane, namespace: str) -> str:
    """Of the model digits, in the middle of a canary."""
    path = f"{MODELS.format(namespace=namespace)}/digits"
    for target, body in ((path, digits()), (f"{path}/status", digits() | {"status": STATUS})):
        answer = control_plane.apply(target, body, manager="kubectl" if target == path else "continual-operator")
        assert answer.ok, answer.message
    return path


def file_of(tmp_path: Path, *manifests: dict[str, Any]) -> str:
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    return str(file)


# The resource as a file


def test_apply_creates_leaves_alone_and_changes(
    run: Run, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The words of kubectl; the same file again is not a write; a pin that the file does not mention stays."""
    words = ("apply", "-f", file_of(tmp_path, digits()))
    assert run(*words).stdout == "continualmodel.continual.dev/digits created\n"
    assert run(*words).stdout == "continualmodel.continual.dev/digits unchanged\n"
    path = f"{MODELS.format(namespace=namespace)}/digits"
    assert control_plane.apply(f"{path}/status", digits() | {"status": STATUS}, manager="continual-operator").ok
    assert run("pin", "v7").exit_code == 0
    changed = run("apply", "-f", file_of(tmp_path, digits(serving={"replicas": 3})))
    assert changed.stdout == "continualmodel.continual.dev/digits configured\n"
    body = control_plane.get(path).body
    assert body["spec"]["serving"]["replicas"] == 3
    assert body["spec"]["rollout"]["pinnedVersion"] == "v7"
    assert body["status"]["stable"]["version"] == "v7"


def test_what_a_file_states_holds_whoever_set_it_before(
    run: Run, control_plane: ControlPlane, path: str, tmp_path: Path
) -> None:
    """A field that somebody else owns is taken over, not a conflict; what get prints can be applied as it is."""
    assert control_plane.merge(path, {"spec": {"serving": {"replicas": 5}}}).ok
    shown = run("get", "digits", "-o", "yaml")
    again = run("apply", "-f", "-", stdin=shown.stdout)
    assert again.exit_code == 0, again.output
    assert control_plane.get(path).body["status"]["stable"]["version"] == "v7"
    assert run("apply", "-f", file_of(tmp_path, digits(serving={"replicas": 3}))).exit_code == 0
    assert control_plane.get(path).body["spec"]["serving"]["replicas"] == 3


def test_a_wrong_manifest_is_refused_field_by_field(
    run: Run, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Exit code 2, one line each, nothing written; what only the API server can judge is told in its words."""
    wrong = run("apply", "-f", file_of(tmp_path, digits(serving={"replicas": -1}, feedback={"window": "soon"})))
    assert wrong.exit_code == 2
    assert {"spec.serving.replicas", "spec.feedback.window"} <= set(re.findall(r"error: ([\w.]+):", wrong.stderr))
    assert control_plane.get(MODELS.format(namespace=namespace)).body["items"] == []
    assert run("apply", "-f", file_of(tmp_path, digits())).exit_code == 0
    turned = digits()
    turned["spec"]["model"]["classes"].reverse()
    refused = run("apply", "-f", file_of(tmp_path, turned))
    assert refused.exit_code == 2
    assert "classes are append-only" in refused.stderr


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("kind: Pod\napiVersion: v1\nmetadata: {name: digits}\n", "kind"),
        ("kind: {}\nmetadata: [1]\n", "metadata"),
        ("metadata: {name: digits, labels: {a: 1}}\n", "metadata.labels.a"),
        ("metadata: {name: ../x}\n", "metadata.name"),
    ],
)
def test_what_is_no_continual_model_never_reaches_the_server(run: Run, text: str, field: str) -> None:
    """Exit code 2 and the field; no traceback for whatever YAML can say, no path from a name."""
    refused = run("apply", "-f", "-", stdin=text)
    assert refused.exit_code == 2, refused.output
    assert f"error: {field}:" in refused.stderr


def test_a_file_is_for_its_own_namespace(run: Run, control_plane: ControlPlane, path: str, tmp_path: Path) -> None:
    """A file for team-b is neither applied to nor deleted from the namespace of -n; without -n its own counts."""
    elsewhere = digits()
    elsewhere["metadata"]["namespace"] = "team-b"
    for verb in ("apply", "delete"):
        refused = run(verb, "-f", file_of(tmp_path, elsewhere))
        assert refused.exit_code == 2
        assert "metadata.namespace" in refused.stderr
    words = ("delete", "-f", file_of(tmp_path, elsewhere), "--kubeconfig", str(control_plane.kubeconfig))
    missing = CliRunner().invoke(app, words)
    assert missing.exit_code == 3
    assert control_plane.get(path).ok


def test_delete_deletes_once(run: Run, control_plane: ControlPlane, path: str) -> None:
    """Deleting what is gone is exit code 3, or success where that was said."""
    assert run("delete", "digits").stdout == "continualmodel.continual.dev/digits deleted\n"
    assert control_plane.get(path).code == 404
    assert run("delete", "digits").exit_code == 3
    assert run("delete", "digits", "--ignore-not-found").exit_code == 0


@pytest.mark.parametrize("name", ["", ".", "..", "digits/status", "digits?x=1", "../digits"])
def test_a_name_never_becomes_another_path(run: Run, control_plane: ControlPlane, path: str, name: str) -> None:
    """An empty name must not delete the collection, nor a clever one reach another object."""
    refused = run("delete", name)
    assert refused.exit_code == 3, refused.output
    assert control_plane.get(path).ok
    assert (
        run("apply", "-f", "-", "--context", "tests", stdin="metadata: {name: digits, namespace: ../x}").exit_code == 2
    )


# Steering


@pytest.mark.parametrize(
    ("words", "annotation", "value"),
    [
        (("retrain",), "retrain-requested-at", STAMP),
        (("cancel",), "cancel-training-requested-at", STAMP),
        (("rollback",), "rollback-requested-at", STAMP),
        (("promote", "v8"), "promote", f"v8@{STAMP}"),
        (("approve", "v8"), "approve", f"v8@{STAMP}"),
        (("reject", "v8"), "reject", f"v8@{STAMP}"),
        (("readmit", DIGEST), "readmit", f"{DIGEST}@{STAMP}"),
    ],
)
def test_a_one_shot_verb_is_one_annotation(
    run: Run, control_plane: ControlPlane, path: str, words: tuple[str, ...], annotation: str, value: str
) -> None:
    """What the operator reads, and who asked; the spec is as it was."""
    before = control_plane.get(path).body
    result = run(*words)
    assert result.exit_code == 0, result.output
    after = control_plane.get(path).body
    assert re.fullmatch(value, after["metadata"]["annotations"][f"continual.dev/{annotation}"])
    assert after["metadata"]["annotations"]["continual.dev/requested-by"]
    assert (after["spec"], after["metadata"]["generation"]) == (before["spec"], before["metadata"]["generation"])


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("pin", "v7"), "pinnedVersion", "v7"),
        (("rollback", "--to", "v7"), "pinnedVersion", "v7"),
        (("suspend",), "suspend", True),
    ],
)
def test_a_lasting_verb_is_one_field_and_twice_is_once(
    run: Run, control_plane: ControlPlane, path: str, words: tuple[str, ...], field: str, value: object
) -> None:
    """A repetition sends nothing: the resourceVersion stays. Its opposite takes it back."""
    assert run(*words).exit_code == 0
    once = control_plane.get(path).body
    assert {**once["spec"].get("rollout", {}), **once["spec"]}[field] == value
    assert run(*words).exit_code == 0
    assert control_plane.get(path).body["metadata"]["resourceVersion"] == once["metadata"]["resourceVersion"]
    assert run({"suspend": "resume"}.get(words[0], "unpin")).exit_code == 0
    spec = control_plane.get(path).body["spec"]
    assert not {**spec.get("rollout", {}), **spec}.get(field)


def test_a_verb_overwrites_nobodys_work(run: Run, control_plane: ControlPlane, path: str) -> None:
    """What changed between reading and writing stays: the patch holds the verb's own field and nothing else."""

    def slow(document: dict[str, Any]) -> dict[str, Any]:
        assert control_plane.merge(path, {"spec": {"serving": {"replicas": 5}}}).ok
        return document | {"spec": document["spec"] | {"suspend": True}}

    assert run("get").exit_code == 0  # settles the world
    open_world().update_model("digits", slow)
    spec = control_plane.get(path).body["spec"]
    assert (spec["suspend"], spec["serving"]["replicas"]) == (True, 5)


# Looking


@pytest.mark.parametrize("words", [("get",), ("history",), ("describe",), ("history", "-o", "json")], ids=" ".join)
def test_the_output_is_the_local_clusters(
    run: Run, control_plane: ControlPlane, path: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """The same object in the files of local mode and on the API server: the same on the screen."""
    body = control_plane.get(path).body
    body["metadata"].pop("managedFields")
    state = LocalState(Home(tmp_path / "home").create())
    state.create_or_replace(digits())
    identity = {key: body["metadata"][key] for key in ("creationTimestamp", "resourceVersion")}
    state.update_model("digits", lambda document: document | {"spec": body["spec"], "status": body["status"]})
    stored = Home(tmp_path / "home").objects("ContinualModel") / "digits.json"
    stored.write_text(
        json.dumps((found := json.loads(stored.read_text())) | {"metadata": found["metadata"] | identity})
    )
    here = CliRunner().invoke(app, [*words, "--home", str(tmp_path / "home")])
    there = run(*words)
    assert (there.exit_code, ageless(there.stdout)) == (0, ageless(here.stdout))
    assert "v7" in there.stdout


def ageless(text: str) -> str:
    """Seconds pass between two looks."""
    return re.sub(r"\b\d+s\b *", "AGE ", text)


def test_describe_shows_the_events_of_the_model(
    run: Run, control_plane: ControlPlane, namespace: str, path: str
) -> None:
    """As `kubectl describe` would; those of others are not shown."""
    uid = control_plane.get(path).body["metadata"]["uid"]
    for name in ("digits", "others"):
        event = {
            "metadata": {"generateName": "e-", "namespace": namespace}, "type": "Warning", "count": 3,
            "reason": "RolledBack", "message": f"v9 of {name}", "lastTimestamp": "2026-01-01T00:00:00Z",
            "involvedObject": {"kind": "ContinualModel", "name": name, "namespace": namespace, "uid": uid},
        }  # fmt: skip
        answer = control_plane.create(PATHS["Event"].format(namespace), event)
        assert answer.ok, answer.message
    said = run("describe", "digits").stdout
    assert "2026-01-01T00:00:00Z  RolledBack  v9 of digits (x3)" in said
    assert "others" not in said


def test_watch_prints_a_model_again_when_it_changes(control_plane: ControlPlane, namespace: str, path: str) -> None:
    """One row at once, one per change, and Ctrl-C ends it with 130."""
    words = ("get", "--watch", "--interval", "0.1", "-n", namespace, "--kubeconfig", str(control_plane.kubeconfig))
    command = [sys.executable, "-m", "continual_cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            assert watch.stdout.readline().split()[0] == "NAME"
            assert "v8" in watch.stdout.readline().split()
            changed = digits() | {"status": STATUS | {"canary": {**STATUS["canary"], "weight": 50}}}
            assert control_plane.apply(f"{path}/status", changed, manager="continual-operator").ok
            assert "50" in watch.stdout.readline().split()
        finally:
            watch.send_signal(signal.SIGINT)
    assert watch.returncode == 130


def test_all_namespaces_is_one_list_with_a_column_more(
    run: Run, control_plane: ControlPlane, namespace: str, path: str
) -> None:
    """As `kubectl get -A`: models of other namespaces too, each named with its own."""
    other = f"{namespace}-other"
    assert control_plane.create("/api/v1/namespaces", {"metadata": {"name": other}}).ok
    assert control_plane.apply(f"{MODELS.format(namespace=other)}/digits", digits(), manager="kubectl").ok
    heads, *rows = (line.split() for line in run("get", "-A").stdout.splitlines())
    assert heads[:2] == ["NAMESPACE", "NAME"]
    assert {(namespace, "digits"), (other, "digits")} <= {(row[0], row[1]) for row in rows}
    assert run("get", "digits", "-A").exit_code == 2


def test_kubectl_finds_the_plug_in_and_means_its_own_cluster(
    control_plane: ControlPlane, namespace: str, path: str
) -> None:
    """`kubectl continual`: no option says so, its name does; the namespace stands where kubectl leaves it, after the verb."""
    scripts = str(Path(sys.executable).parent)
    environment = {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "HOME": str(control_plane.folder),
        "KUBECONFIG": str(control_plane.kubeconfig),
    }
    command = [tool("kubectl"), "continual", "get", "digits", "-n", namespace, "-o", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metadata"]["uid"] == control_plane.get(path).body["metadata"]["uid"]


# What goes wrong


def test_a_model_that_is_not_there_is_named_with_those_that_are(run: Run, path: str) -> None:
    result = run("get", "digit")
    assert result.exit_code == 3
    assert result.stderr == "error: model: no such ContinualModel (got 'digit'); known: digits\n"


def test_an_empty_namespace_says_how_to_fill_it(run: Run, namespace: str) -> None:
    result = run("describe")
    assert result.exit_code == 3
    assert f"`continual apply -f digits.yaml -n {namespace}`" in result.stderr


def test_credentials_and_rights_are_told_apart(
    run: Run, control_plane: ControlPlane, namespace: str, path: str, tmp_path: Path
) -> None:
    """401 is a matter of signing in, 403 of asking for a right; looking needs get and list, steering needs patch."""
    control_plane.write_kubeconfig(tmp_path / "nobody", "not-a-token")
    nobody = run("get", kubeconfig=tmp_path / "nobody")
    assert nobody.exit_code == 2
    assert "sign in again" in nobody.stderr
    viewer = account(control_plane, namespace, tmp_path, ("get", "list"))
    assert run("get", kubeconfig=viewer).exit_code == 0
    assert run("history", kubeconfig=viewer).exit_code == 0
    refused = run("suspend", kubeconfig=viewer)
    assert refused.exit_code == 2
    assert "cannot patch" in refused.stderr
    assert "ask for this right" in refused.stderr
    assert "suspend" not in control_plane.get(path).body["spec"] or not control_plane.get(path).body["spec"]["suspend"]


def account(plane: ControlPlane, namespace: str, folder: Path, verbs: tuple[str, ...]) -> Path:
    """A kubeconfig for a new service account that may do this much with ContinualModels."""
    rule = {"apiGroups": ["continual.dev"], "resources": ["continualmodels"], "verbs": list(verbs)}
    subject = {"kind": "ServiceAccount", "name": "viewer", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "viewer"}
    rbac = "rbac.authorization.k8s.io/v1"
    bodies = {
        "ServiceAccount": {"apiVersion": "v1"},
        "Role": {"apiVersion": rbac, "rules": [rule]},
        "RoleBinding": {"apiVersion": rbac, "subjects": [subject], "roleRef": role},
    }
    for kind, body in bodies.items():
        answer = plane.create(PATHS[kind].format(namespace), {**body, "kind": kind, "metadata": {"name": "viewer"}})
        assert answer.ok, answer.message
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = plane.create(f"{PATHS['ServiceAccount'].format(namespace)}/viewer/token", request)
    assert answer.ok, answer.message
    plane.write_kubeconfig(folder / "viewer", answer.body["status"]["token"])
    token = answer.body["status"]["token"]
    until("the role is in force", lambda: plane.get(MODELS.format(namespace=namespace), token=token).ok)
    return folder / "viewer"


def test_an_api_server_that_is_away_is_exit_4(run: Run, control_plane: ControlPlane, tmp_path: Path) -> None:
    """At once, one line, no traceback and no retry messages."""
    control_plane.write_kubeconfig(tmp_path / "away", "token", proxy=f"http://127.0.0.1:{free_port()}")
    result = run("get", kubeconfig=tmp_path / "away")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: kubeconfig: the API server did not answer")
    assert result.stderr.count("\n") == 1


def test_a_kubeconfig_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    result = run("get", kubeconfig=tmp_path / "nothing")
    assert result.exit_code == 2
    assert str(tmp_path / "nothing") in result.stderr
    assert "--kubeconfig" in result.stderr


# Data


@pytest.mark.parametrize(
    ("words", "option"),
    [(("consume",), "--redis-url"), (("dead", "list"), "--redis-url"), (("decisions",), "--store-url")],
    ids=" ".join,
)
def test_data_need_an_address_and_the_error_teaches_how(
    run: Run, path: str, words: tuple[str, ...], option: str
) -> None:
    """A cluster's Redis and store are not reachable by themselves: the remedy is a port-forward and the option."""
    result = run(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {option}: ")
    assert "kubectl -n OPERATOR_NAMESPACE port-forward" in result.stderr


@pytest.fixture
def gateway_user(redis_server: Any, tmp_path: Path) -> tuple[str, ...]:
    """Options for the Redis user that the guide hands to people: the gateway's, with exactly the chart's rights."""
    chart = str(ROOT / "charts/continual")
    words = (
        "template",
        "continual",
        chart,
        "--set",
        "redis.users.gateway.password=s3cret",
        "-s",
        "templates/secrets.yaml",
    )
    rendered = subprocess.run([tool("helm"), *words], capture_output=True, text=True, check=True).stdout
    (acl,) = (s["data"] for s in yaml.safe_load_all(rendered) if s and "users.acl" in s.get("data", {}))
    lines = base64.b64decode(acl["users.acl"]).decode().splitlines()
    (rules,) = (line.removeprefix("user gateway ") for line in lines if line.startswith("user gateway "))
    redis_server.load_functions()
    redis_server.client().execute_command("ACL", "SETUSER", "gateway", *re.findall(r"\([^)]*\)|\S+", rules))
    (tmp_path / "password").write_text("s3cret\n")
    return (
        "--redis-url", redis_server.url, "--redis-username", "gateway", "--redis-password-file", str(tmp_path / "password"),
    )  # fmt: skip


def test_a_person_works_on_a_clusters_stream_with_the_gateways_rights(
    run: Run, namespace: str, path: str, redis_server: Any, gateway_user: tuple[str, ...], tmp_path: Path
) -> None:
    """Send, label, ask, read, look at dead letters and replay them: on this model's keys, and nothing is refused to the user of the guide."""
    client: redis.Redis = redis_server.client()
    keys = ModelKeys(namespace, "digits")
    produced = run("produce", "digits", "--count", "5", "--rate", "0", "--labels-after", "0", *gateway_user)
    assert produced.exit_code == 0, produced.output
    assert (client.xlen(keys.requests), client.xlen(keys.labels)) == (5, 5)
    (entry, fields), *_ = client.xrange(keys.requests)
    labelled = run("label", "--id", entry.decode(), "--class", "7", *gateway_user)
    assert labelled.exit_code == 0, labelled.output
    assert client.xlen(keys.labels) == 6
    about = {"r": entry, "reason": "Poison", "message": "m", "deliveries": 5, "v": "v7", "t": 1}
    client.xadd(keys.dead, about | {f"x-{name.decode()}": value for name, value in fields.items()})
    assert "Poison" in run("dead", "list", *gateway_user).stdout
    replayed = run("dead", "replay", "--all", *gateway_user)
    assert (replayed.exit_code, client.xlen(keys.dead)) == (0, 0), replayed.output
    assert run("consume", *gateway_user).exit_code == 0
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    asked = run("predict", str(tmp_path / "image.png"), "--timeout", "0.2", *gateway_user)
    assert asked.exit_code == 4, asked.output
    assert "NOPERM" not in asked.output
    assert client.xlen(keys.requests) >= 6


def test_a_wrong_password_is_told_without_the_right_one(
    run: Run, path: str, redis_server: Any, gateway_user: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 4 and a sentence; no secret on the screen."""
    (tmp_path / "password").write_text("wr0ng\n")
    result = run("dead", "list", *gateway_user)
    assert result.exit_code == 4
    assert not re.search("s3cret|wr0ng|Traceback", result.output)
