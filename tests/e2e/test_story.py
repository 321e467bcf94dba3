"""One story on one real cluster, told in order: each test is a step, and builds on those before it.

Everything is real: containers of our own images, a registry-less containerd, the chart as a user installs it, namespaces that admit only
restricted pods, enforced network policies, and a stream of real digits whose labels come late. `make e2e` stops at the first
step that fails and keeps what the cluster said under out/e2e.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from continual_cli.demo.feeder import Labeler
from continual_contract.keys import ModelKeys
from kube import ROOT, Kube, until
from node import Node
from stream import DRIFTED, NIGHT_SHIFT, Stream, phase_of, wait_a_moment, weights

pytestmark = pytest.mark.timeout(900)

HOME = "learn"
MODEL = "digits"
RELEASE = "continual"
EXAMPLE = "examples/digits-fast.yaml"
INFERENCE = "continual.dev/component=inference"
OPERATOR = "app.kubernetes.io/component=operator"
LABELLED_RATE = 45.0
DRIFT_RATE = 90.0
IDLE_RATE = 2.0
"""While a Job runs: honest labels of that time would dilute the wrong ones that come later."""
WRONG_LABELS = 1200
CARELESS = {
    "feedback": {"gateSources": ["audit"]},
    "rollout": {"offlineGate": {"mode": "Observe"}},
    "retraining": {"strategy": "fine-tune"},
}
"""What somebody in a hurry does: no replay, and an offline gate that is not in the way. Wrong labels of source `truth` do not judge."""
CAREFUL = {"rollout": {"offlineGate": None}, "retraining": {"strategy": None}}
PATIENT = {
    "retraining": {"timeout": "15m"},
    "rollout": {"deadline": "10m", "gate": {"maxLag": "2m", "maxLatencyRatio": 5}, "probation": {"deadline": "10m"}},
}
"""The example's deadlines suit an idle machine; here two cores also run the control plane, kubelet and a training."""
BAD_SPEC = {
    "apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "metadata": {"name": "nightly"},
    "spec": {
        "model": {
            "architecture": "mlp", "input": {"height": 28, "width": 28, "channels": 1}, "classes": ["0", "1"],
        },
        "bootstrap": {"dataset": {"name": "digits"}},
        "retraining": {"triggers": [{"schedule": "61 3 * * *"}]},
    },
}  # fmt: skip
"""A schedule that the API server cannot judge and the operator can."""


@pytest.fixture(scope="module")
def stream(kube: Kube) -> Iterator[Stream]:
    """The producer and the consumer of `learn/digits`; started by the step that needs them first."""
    stream = Stream(kube.redis(HOME, "gateway"), ModelKeys(HOME, MODEL), lambda: kube.status(HOME, MODEL))
    try:
        yield stream
    finally:
        stream.stop()


@pytest.fixture(scope="module")
def remembered() -> dict[str, Any]:
    """What one step leaves to the next: names of versions."""
    return {}


def status(kube: Kube) -> dict[str, Any]:
    return kube.status(HOME, MODEL)


def stable(kube: Kube) -> str:
    return str((status(kube).get("stable") or {}).get("version", ""))


def canary(kube: Kube) -> dict[str, Any]:
    return dict(status(kube).get("canary") or {})


def settled(kube: Kube) -> bool:
    now = status(kube)
    return not any(now.get(block) for block in ("canary", "probation", "waiting"))


def said(kube: Kube) -> str:
    """What the status says, for a failure's message."""
    now = status(kube)
    blocks = {name: now.get(name) for name in ("stable", "canary", "probation", "waiting", "training")}
    told = [f"{one['action']} {one['reason']} {one.get('message', '')}" for one in (now.get("decisions") or [])[-4:]]
    return json.dumps({"conditions": now.get("conditions"), **blocks, "decisions": told}, default=str)[:4000]


def patch(kube: Kube, spec: dict[str, Any]) -> None:
    """As `kubectl edit` would."""
    kube.kubectl("patch", "ctm", MODEL, "-n", HOME, "--type", "merge", "-p", json.dumps({"spec": spec}))


def apply_patiently(kube: Kube, namespace: str) -> None:
    """`kubectl apply` of the example with longer deadlines."""
    manifest = yaml.safe_load((ROOT / EXAMPLE).read_text())
    kube.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(merged(manifest, {"spec": PATIENT})))


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` in it, mapping by mapping."""
    both = {
        key: merged(base[key], value) if isinstance(base.get(key), dict) else value for key, value in changes.items()
    }
    return {**base, **both}


# Installing -------------------------------------------------------------------------------------------------------------------


def test_helm_install_brings_everything_up_in_a_restricted_namespace(kube: Kube) -> None:
    """`helm install` with the embedded Redis and MinIO; every pod is Ready, none was refused."""
    kube.new_namespace(HOME)
    notes = kube.install(RELEASE, HOME)
    assert "kubectl -n learn apply -f examples/digits.yaml" in notes
    running = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in kube.pods(HOME)}
    assert running == {"operator", "gateway", "redis", "minio"}


def test_a_model_that_is_applied_trains_and_becomes_ready(kube: Kube) -> None:
    """`kubectl apply` of the example, a training Job in a pod, and `kubectl wait` returns."""
    apply_patiently(kube, HOME)
    until(
        "a Job trains v1",
        lambda: (status(kube).get("training") or {}).get("state") == "Running",
        told=lambda: said(kube),
    )
    kube.capture("training: the first version is being trained by a Job", HOME)
    kube.kubectl("wait", "-n", HOME, "--for=condition=Ready", f"ctm/{MODEL}", "--timeout=480s", seconds=500)
    kube.capture("ready: v1 serves", HOME)
    assert stable(kube) == "v1"
    assert [job["status"].get("succeeded") for job in kube.items("jobs", HOME, "continual.dev/component=trainer")] == [
        1
    ]


def test_helm_test_gets_one_prediction(kube: Kube) -> None:
    """Through the gateway, with its token, from a pod that the network policies let through."""
    assert "Succeeded" in kube.run("helm", "test", RELEASE, "-n", HOME, "--timeout", "180s")


def test_a_spec_that_cannot_work_says_why(kube: Kube) -> None:
    """`SpecValid=False` with the field's name; nothing is made for it."""
    kube.kubectl("apply", "-n", HOME, "-f", "-", stdin=json.dumps(BAD_SPEC))
    until("the spec is refused", lambda: kube.condition(HOME, "nightly", "SpecValid")[0] == "False")
    assert "schedule" in json.dumps(kube.status(HOME, "nightly")["conditions"])
    kube.capture("bad spec: `nightly` has a schedule that no calendar knows", HOME)
    assert kube.items("jobs", HOME, "continual.dev/model=nightly") == []
    kube.kubectl("delete", "ctm", "nightly", "-n", HOME)


def test_a_pod_that_no_policy_names_reaches_neither_redis_nor_the_store(kube: Kube) -> None:
    """The same connection passes from a pod with a worker's label: the policy decides, not the network."""
    for name, labels in STRANGERS.items():
        try_connecting(kube, name, labels, tries=20 if labels else 3)
    found = {name: connected(kube, name) for name in STRANGERS}
    assert found == {"stranger": {"redis": False, "minio": False}, "worker": {"redis": True, "minio": True}}


STRANGERS: dict[str, dict[str, str]] = {
    "stranger": {},
    "worker": {"app.kubernetes.io/managed-by": "continual-operator"},
}


def try_connecting(kube: Kube, name: str, labels: dict[str, str], tries: int) -> None:
    """A restricted pod with these labels opens TCP connections, again while one is refused, and prints which it got at last."""
    redis, minio = (kube.service_address(HOME, f"{RELEASE}-{server}") for server in ("redis", "minio"))
    program = (
        "import json, socket, time\n"
        "def reaches(host, port):\n"
        "    try: socket.create_connection((host, port), 3).close(); return True\n"
        "    except OSError: return False\n"
        f"for _ in range({tries}):\n"
        "    time.sleep(4)\n"
        f"    found = {{'redis': reaches('{redis}', 6379), 'minio': reaches('{minio}', 9000)}}\n"
        "    if all(found.values()): break\n"
        "print(json.dumps(found))"
    )
    right = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "try",
        "image": "localhost/continual-operator:dev",
        "command": ["python", "-c", program],
        "securityContext": right,
    }
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }  # fmt: skip
    kube.kubectl("apply", "-n", HOME, "-f", "-", stdin=json.dumps(pod))


def connected(kube: Kube, name: str) -> dict[str, bool]:
    """What it printed."""
    kube.kubectl("wait", "-n", HOME, "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=240s")
    told = kube.kubectl("logs", "-n", HOME, name)
    kube.kubectl("delete", "pod", name, "-n", HOME, "--wait=false")
    return dict(json.loads(told))


# Serving, under load ----------------------------------------------------------------------------------------------------------


def test_a_stream_of_digits_is_answered_and_labelled_late(kube: Kube, stream: Stream) -> None:
    """Real digits, their labels 2 to 5 seconds later; accuracy shows up in the status."""
    stream.start(labelled_rate=LABELLED_RATE)
    until("500 answers", lambda: stream.answered > 500, told=lambda: said(kube))
    until(
        "an accuracy in the status", lambda: (status(kube).get("stable") or {}).get("accuracy"), told=lambda: said(kube)
    )
    kube.capture("serving: labels arrive", HOME)


def test_an_evicted_worker_is_replaced_under_load(kube: Kube, stream: Stream) -> None:
    """Through the Eviction API, as a drain does it; the stream goes on with another pod."""
    (pod,) = kube.ready_pods(HOME, INFERENCE)
    kube.evict(HOME, pod)
    until(
        "another pod is ready",
        lambda: [one for one in kube.ready_pods(HOME, INFERENCE) if one != pod],
        told=lambda: said(kube),
    )
    moment = stream.seconds()
    until("answers after the eviction", lambda: stream.answers_a_request_sent_after(moment))


# Learning ---------------------------------------------------------------------------------------------------------------------


def test_drift_starts_a_training_job_by_itself(kube: Kube, stream: Stream) -> None:
    """Light and tilt change; the detector raises an alarm from labels alone, and a Job retrains in a pod."""
    until("the detector is armed", lambda: stream.drift() and stream.drift().armed, told=lambda: said(kube))
    before = stream.newest_shard()
    until("a shard closes", lambda: stream.newest_shard() > before, told=lambda: said(kube))
    stream.show(weather=DRIFTED, pools=("calm", "learn"), labelled_rate=DRIFT_RATE)
    until("the alarm", lambda: stream.drift().alarms, told=lambda: said(kube))
    stream.show(labelled_rate=LABELLED_RATE)
    until(
        "a training by Drift",
        lambda: (status(kube).get("training") or {}).get("trigger") == "Drift",
        told=lambda: said(kube),
    )
    kube.capture("drift: the alarm has started a training", HOME)
    stream.show(labelled_rate=IDLE_RATE)
    until("a candidate", lambda: canary(kube), told=lambda: said(kube))


def test_a_killed_operator_is_replaced_in_the_middle_of_a_canary(
    kube: Kube, stream: Stream, remembered: dict[str, Any]
) -> None:
    """Shadow, then a share of the stream; the operator's pod is killed without a farewell, the next one goes on with the same canary."""
    until("the candidate is judged", lambda: canary(kube).get("stage") == "Judging", told=lambda: said(kube))
    stream.show(pools=("gate",), labelled_rate=LABELLED_RATE, same_frames=True)
    kube.capture("shadow: the candidate answers beside the stable version", HOME)
    until("the canary owns a share", lambda: weights(status(kube)) >= 10, told=lambda: said(kube))
    version = remembered["good"] = canary(kube)["version"]
    kube.capture("canary: a tenth of the stream is the candidate's", HOME)
    (operator,) = kube.ready_pods(HOME, OPERATOR)
    kube.kubectl("delete", "pod", operator, "-n", HOME, "--force", "--grace-period=0")
    until("another operator is ready", lambda: [one for one in kube.ready_pods(HOME, OPERATOR) if one != operator])
    until(
        "the canary is judged to its end",
        lambda: phase_of(status(kube), version) in {"Probation", "Stable"},
        told=lambda: said(kube),
    )


def test_the_better_version_is_promoted(kube: Kube, stream: Stream, remembered: dict[str, Any]) -> None:
    """It owns the stream; the old one stays warm until probation is over, then it is gone."""
    version = remembered["good"]
    assert stable(kube) == version
    kube.capture("promoted: the new version owns the stream, the old one stays warm", HOME)
    stream.show(pools=("gate", "probation"))
    until("probation ends", lambda: settled(kube), told=lambda: said(kube))
    assert stable(kube) == version
    until(
        "only it is left",
        lambda: {p["metadata"]["labels"]["continual.dev/version"] for p in kube.pods(HOME, INFERENCE)} == {version},
    )
    assert stream.answered_by(version) > 0


def test_a_bad_candidate_is_rolled_back(kube: Kube, stream: Stream, remembered: dict[str, Any]) -> None:
    """Wrong labels are imported and learned without replay, the offline gate only observes: the live gate catches it."""
    patch(kube, CARELESS)
    stream.show(pools=("calm", "learn"), labeler=NIGHT_SHIFT, labelled_rate=DRIFT_RATE, same_frames=False)
    until("the wrong labels", lambda: stream.labels_by(NIGHT_SHIFT.name) >= WRONG_LABELS, told=lambda: said(kube))
    before = stream.newest_shard()
    until("a shard of them", lambda: stream.newest_shard() > before, told=lambda: said(kube))
    known = {record["version"] for record in status(kube)["versions"]}
    kube.kubectl(
        "annotate",
        "ctm",
        MODEL,
        "-n",
        HOME,
        f"continual.dev/retrain-requested-at={stream.seconds():.0f}",
        "--overwrite",
    )
    until(
        "a training by hand",
        lambda: (status(kube).get("training") or {}).get("trigger") == "Manual",
        told=lambda: said(kube),
    )
    stream.show(labeler=Labeler(), labelled_rate=IDLE_RATE)
    until("the bad candidate is judged", lambda: canary(kube).get("stage") == "Judging", told=lambda: said(kube))
    version = canary(kube)["version"]
    assert version not in known
    stream.show(pools=("gate", "probation", "bad"), labelled_rate=LABELLED_RATE, same_frames=True)
    until("the rollback", lambda: phase_of(status(kube), version) == "RolledBack", told=lambda: said(kube))
    kube.capture("rolled back: the bad candidate lost", HOME)
    assert stable(kube) == remembered["good"]
    last = [one for one in status(kube)["decisions"] if one["action"] == "Rollback"][-1]
    kube.notes.append(f"rolled back: {last['version']} {last['reason']}: {last['message']}")
    patch(kube, CAREFUL)


def test_a_helm_upgrade_without_a_change_restarts_no_pod(kube: Kube, stream: Stream) -> None:
    """The same pods, by uid, before and after; nothing waits to be rolled."""
    until("the rollback is done", lambda: settled(kube), told=lambda: said(kube))
    until("one version is left", lambda: len(kube.pods(HOME, INFERENCE)) == 1)
    before = uids(kube)
    kube.upgrade(RELEASE, HOME)
    assert uids(kube) == before
    moment = stream.seconds()
    until("answers after the upgrade", lambda: stream.answers_a_request_sent_after(moment))
    assert uids(kube) == before


def uids(kube: Kube) -> set[str]:
    """Of every pod that is not done."""
    return {pod["metadata"]["uid"] for pod in kube.pods(HOME) if pod["status"]["phase"] == "Running"}


def test_the_ledger_is_exact(kube: Kube, stream: Stream) -> None:
    """Through eviction, a killed operator, promotion and rollback: accepted = predictions + dead letters, none twice."""
    stream.finish()
    until(
        "every request is answered or dead",
        lambda: len(stream.books.unanswered()) <= stream.dead_letters(),
        told=lambda: said(kube),
    )
    wait_a_moment()
    books, dead = stream.books, stream.dead_letters()
    lost = len(books.unanswered()) - dead
    kube.notes.append(
        f"ledger: {len(books.sent)} accepted = {len(books.sent.keys() & books.answers.keys())} predictions + {dead} dead letters;"
        f" {lost} lost, {books.duplicates} duplicate"
    )
    assert len(books.sent) > 2000
    assert (lost, books.duplicates, dead) == (0, 0, 0)
    assert books.foreign() == 1, "the one that `helm test` asked for"


def test_no_pod_looks_up_a_name_outside_the_cluster(node: Node) -> None:
    """The name server knows the cluster only and complains about everything else: nothing of ours, or inside ours, calls home."""
    asked = {line.split()[3] for line in node.log("coredns").splitlines() if "no next plugin found" in line}
    assert asked == set()


# Losing things ----------------------------------------------------------------------------------------------------------------


def test_without_redis_the_model_says_so_and_recovers(kube: Kube) -> None:
    """Redis is scaled away and comes back with its volume: not Ready with the reason, then Ready again, the same version."""
    version = stable(kube)
    add_breaker(kube)
    kube.kubectl("scale", "statefulset", f"{RELEASE}-redis", "-n", HOME, "--replicas=0")
    until(
        "the model says so",
        lambda: kube.condition(HOME, MODEL) == ("False", "RedisUnavailable"),
        told=lambda: said(kube),
    )
    kube.capture("broken Redis: the server is gone", HOME)
    kube.kubectl("scale", "statefulset", f"{RELEASE}-redis", "-n", HOME, "--replicas=1")
    kube.kubectl("wait", "-n", HOME, "--for=condition=Ready", f"ctm/{MODEL}", "--timeout=240s", seconds=250)
    assert stable(kube) == version


def add_breaker(kube: Kube) -> None:
    """A Redis user who may do anything, for the next step: it is in force when Redis starts the next time."""
    acl = kube.secret(HOME, f"{RELEASE}-redis-acl", "users.acl")
    changed = {"stringData": {"users.acl": acl + "user breaker on nopass ~* &* +@all\n"}}
    kube.kubectl("patch", "secret", f"{RELEASE}-redis-acl", "-n", HOME, "--type", "merge", "-p", json.dumps(changed))


def test_a_flushed_redis_is_set_up_again_within_a_minute(kube: Kube) -> None:
    """FLUSHALL and FUNCTION FLUSH: Ready=False `StreamReset`, and predictions again within 60 seconds."""
    client = "redis-cli --user breaker --pass x --no-auth-warning"
    flush = (
        "exec",
        "-n",
        HOME,
        f"{RELEASE}-redis-0",
        "-c",
        "redis",
        "--",
        "sh",
        "-c",
        f"{client} flushall && {client} function flush",
    )
    stream = Stream(kube.redis(HOME, "gateway"), ModelKeys(HOME, MODEL), lambda: status(kube))
    try:
        with kube.watching(HOME) as told:
            kube.kubectl(*flush)
            stream.start(labelled_rate=IDLE_RATE)
            until("the reset is in the status", lambda: "StreamReset" in told(), 60, told)
            until("predictions again", lambda: stream.answered > 0, 60 - stream.seconds(), lambda: said(kube))
            kube.keep("reset: Redis has lost its data and functions", "kubectl get ctm --watch", told())
    finally:
        stream.stop()
    assert kube.condition(HOME, MODEL, "DataLoss") == ("True", "StreamReset")
    kube.kubectl("wait", "-n", HOME, "--for=condition=Ready", f"ctm/{MODEL}", "--timeout=120s", seconds=130)


# A second installation, and leaving -------------------------------------------------------------------------------------------


def test_a_second_release_in_another_namespace_works_beside_the_first(kube: Kube) -> None:
    """Its own Redis, store and operator, the CRD of the first; `helm test` passes in both."""
    kube.new_namespace("second")
    kube.install(RELEASE, "second", "--set", "crds.enabled=false")
    apply_patiently(kube, "second")
    kube.kubectl("wait", "-n", "second", "--for=condition=Ready", f"ctm/{MODEL}", "--timeout=480s", seconds=500)
    for namespace in ("second", HOME):
        assert "Succeeded" in kube.run("helm", "test", RELEASE, "-n", namespace, "--timeout", "180s")


def test_a_model_deleted_while_no_operator_runs_leaves_nothing(kube: Kube) -> None:
    """No finalizer holds it up; the next operator removes its keys and its blobs within two minutes."""
    assert kube.keys(HOME, MODEL)
    assert kube.blobs(HOME, MODEL)
    deployment = f"deployment/{RELEASE}-operator"
    kube.kubectl("scale", deployment, "-n", HOME, "--replicas=0")
    until("no operator runs", lambda: not kube.items("pods", HOME, OPERATOR))
    kube.kubectl("delete", "ctm", MODEL, "-n", HOME, "--timeout=30s")
    kube.kubectl("scale", deployment, "-n", HOME, "--replicas=1")
    until("no key and no blob is left", lambda: not kube.keys(HOME, MODEL) and not kube.blobs(HOME, MODEL), 120)
    until("its pods and Jobs are gone", lambda: not children(kube, HOME), 120)


def children(kube: Kube, namespace: str) -> list[str]:
    """Everything the operator made."""
    kinds = "deployments,jobs,pods,poddisruptionbudgets"
    found = kube.items(kinds, namespace, "app.kubernetes.io/managed-by=continual-operator")
    return [f"{one['kind']}/{one['metadata']['name']}" for one in found]


def test_helm_uninstall_before_kubectl_delete_leaves_nothing_stuck(kube: Kube) -> None:
    """The wrong order: the release goes first, then the model; its children follow, the namespace can be deleted."""
    kube.run("helm", "uninstall", RELEASE, "-n", "second", "--wait", "--timeout", "120s")
    kube.kubectl("delete", "ctm", MODEL, "-n", "second", "--timeout=30s")
    until("its pods and Jobs are gone", lambda: not children(kube, "second"), 120)
    kube.kubectl("delete", "namespace", "second", "--timeout=120s", seconds=130)


def test_helm_uninstall_leaves_nothing_behind(kube: Kube) -> None:
    """In the namespace only what every namespace has, and a Lease; in the cluster only the CRD, which keeps models safe, until it is deleted."""
    kube.run("helm", "uninstall", RELEASE, "-n", HOME, "--wait", "--timeout", "120s")
    until("only what may remain is left", lambda: leftovers(kube) == [], 120, lambda: leftovers(kube))
    assert (
        kube.kubectl(
            "get",
            "clusterroles,clusterrolebindings,validatingwebhookconfigurations",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/part-of=continual",
        )
        == ""
    )
    kube.kubectl("delete", "crd", "continualmodels.continual.dev", "--timeout=60s")
    kube.kubectl("delete", "namespace", HOME, "--timeout=120s", seconds=130)


REMAINING = {"configmap/kube-root-ca.crt", "serviceaccount/default", f"lease.coordination.k8s.io/{RELEASE}-operator"}
"""What every namespace has, and the Lease: its operator makes it and may not delete it; it goes with the namespace."""


def leftovers(kube: Kube) -> list[str]:
    """Every namespaced object of the home namespace, by `kubectl api-resources`; events tell of the past."""
    kinds = kube.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith(("events", "pods.metrics")))
    found = kube.kubectl("get", wanted, "-n", HOME, "-o", "name", "--ignore-not-found").split()
    return sorted(set(found) - REMAINING)
