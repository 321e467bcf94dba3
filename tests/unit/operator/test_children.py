"""Manifests and what is read back from children: whole, hashed, and never adopted from somebody else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from continual_contract import settings as env
from continual_contract.artifacts import DatasetRef, InputShape, TrainingInputs
from continual_operator import labels
from continual_operator.children import disruption_budget, evaluator_deployment, inference_deployment, training_job
from continual_operator.observe import deployment_facts, job_facts
from continual_operator.rehearsal import START, minimal_model, rehearsal_settings
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.spec import Model, Resources, parse_model

SETTINGS = OperatorSettings(
    1, "redis://redis:6379/0", "s3://bucket?endpoint=http://minio:9000",
    ComponentSettings(("python", "-m", "continual_workers.inference")),
    ComponentSettings(("python", "-m", "continual_workers.evaluation")),
    ComponentSettings(("python", "-m", "continual_workers.training")),
    redis_password_file="/secrets/redis", store_credentials_file="/secrets/store.json",
)  # fmt: skip


INPUTS = TrainingInputs(
    namespace="default", model="digits", mode="bootstrap", architecture="mlp", classes=("a", "b"),
    input=InputShape(height=8, width=8, channels=1), dataset=DatasetRef(name="digits"),
)  # fmt: skip


def model(**parts: Any) -> Model:
    return parse_model(minimal_model(**parts))


def environment(manifest: dict[str, Any]) -> dict[str, str]:
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_a_worker_is_told_everything_by_its_environment() -> None:
    """Version, digest, where Redis and the store are; secrets only as paths."""
    resources = {"limits": {"cpu": "1500m"}}
    told = environment(
        inference_deployment(model(serving={"resources": resources}), "v7", "sha256:ab", 3, "salt", SETTINGS)
    )
    assert told[env.VERSION] == "v7"
    assert told[env.CHECKPOINT] == "sha256:ab"
    assert told[env.ANSWERS_TTL] == "3620"
    assert told[env.MAX_LAG] == "30"
    assert told[env.CPUS] == "1.5"
    assert told[env.REDIS_PASSWORD_FILE] == "/secrets/redis"
    assert env.POD_NAME in told


def test_children_carry_the_labels_others_look_for() -> None:
    """Model, component, version; the owner is the resource, and controls them."""
    made = inference_deployment(model(serving={"podLabels": {"team": "a"}}), "v7", "sha256:ab", 3, "salt", SETTINGS)
    assert made["metadata"]["name"] == "digits-v7"
    marks = made["spec"]["template"]["metadata"]["labels"]
    assert marks[labels.MODEL] == "digits"
    assert marks[labels.COMPONENT] == "inference"
    assert marks[labels.VERSION] == "v7"
    assert marks["team"] == "a"
    assert "team" not in made["spec"]["selector"]["matchLabels"]
    owner = made["metadata"]["ownerReferences"][0]
    assert owner["controller"] is True
    assert owner["uid"] == "uid-model"


def test_a_pod_label_of_the_user_never_replaces_ours() -> None:
    """Else a model could take another's children."""
    made = inference_deployment(
        model(serving={"podLabels": {labels.MODEL: "other"}}), "v7", "sha256:ab", 3, "s", SETTINGS
    )
    assert made["spec"]["template"]["metadata"]["labels"][labels.MODEL] == "digits"


def test_a_pod_label_of_the_user_never_takes_the_place_of_another_component() -> None:
    """Else a model could put its workers behind the Service of Redis, or past a NetworkPolicy."""
    wished = {"app.kubernetes.io/name": "continual", "app.kubernetes.io/component": "redis", "team": "a"}
    made = inference_deployment(model(serving={"podLabels": wished}), "v7", "sha256:ab", 3, "s", SETTINGS)
    marks = made["spec"]["template"]["metadata"]["labels"]
    assert {key: value for key, value in marks.items() if key in wished} == {"team": "a"}


def test_the_same_values_give_the_same_manifest_and_other_ones_another_hash() -> None:
    """What is applied is compared by its hash, so silence is possible."""

    def stamp(**parts: Any) -> str:
        made = inference_deployment(model(**parts), "v7", "sha256:ab", 3, "salt", SETTINGS)
        return str(made["metadata"]["annotations"][labels.MANIFEST_HASH])

    assert stamp() == stamp()
    assert stamp() != stamp(serving={"batchSize": 32})
    assert stamp() == stamp(rollout={"mode": "Observe"})


def test_a_training_job_is_named_by_its_inputs_and_bounded_in_time() -> None:
    """Create-only, three tries, the declared timeout."""
    job = training_job(model(retraining={"timeout": "90s"}), INPUTS, SETTINGS)
    assert job["metadata"]["name"] == INPUTS.job_name()
    assert job["metadata"]["labels"][labels.JOB] == INPUTS.job_hash()
    assert job["spec"]["activeDeadlineSeconds"] == 90
    assert job["spec"]["backoffLimit"] == 2
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "continual_workers.training", "--inputs"]
    assert TrainingInputs.model_validate(json.loads(command[4])) == INPUTS


def test_the_evaluator_is_one() -> None:
    """One process joins labels with answers; never two, not even while it is replaced."""
    spec = evaluator_deployment(model(), rehearsal_settings())["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def every_pod(settings: OperatorSettings = SETTINGS) -> list[dict[str, Any]]:
    """The pods of all components."""
    children = (
        inference_deployment(model(), "v7", "sha256:ab", 3, "salt", settings),
        evaluator_deployment(model(), settings),
        training_job(model(), INPUTS, settings),
    )
    return [child["spec"]["template"]["spec"] for child in children]


def test_every_pod_passes_the_restricted_profile_and_writes_only_to_tmp() -> None:
    """Pod Security, restricted: no root, no privilege, no capability, the runtime's seccomp profile, no token, no service variables."""
    for pod in every_pod():
        [container] = pod["containers"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_a_component_mounts_its_own_secrets_and_no_other() -> None:
    """Read-only files of root and our group, one key each; the environment holds paths, never a reference to a Secret's value."""
    trainer = ComponentSettings(("t",), redis_username="trainer", redis_secret="redis-t", store_secret="store-t")
    inference, evaluator, job = every_pod(replace(SETTINGS, trainer=trainer))
    assert [len(pod["volumes"]) for pod in (inference, evaluator, job)] == [1, 1, 3]
    secrets = [volume["secret"] for volume in job["volumes"][1:]]
    assert [(s["secretName"], s["defaultMode"], s["items"]) for s in secrets] == [
        ("redis-t", 0o440, [{"key": "password", "path": "password"}]),
        ("store-t", 0o440, [{"key": "credentials", "path": "credentials"}]),
    ]
    assert job["containers"][0]["volumeMounts"][1:] == [
        {"name": "redis", "mountPath": "/etc/continual/redis", "readOnly": True},
        {"name": "store", "mountPath": "/etc/continual/store", "readOnly": True},
    ]
    told = {entry["name"]: entry.get("value") for entry in job["containers"][0]["env"]}
    assert told[env.REDIS_USERNAME] == "trainer"
    assert told[env.REDIS_PASSWORD_FILE] == "/etc/continual/redis/password"
    assert told[env.STORE_CREDENTIALS_FILE] == "/etc/continual/store/credentials"
    assert "secretKeyRef" not in json.dumps(job)


def test_the_installation_says_how_large_a_pod_is_until_the_model_does() -> None:
    """Neither adds to the other: what a model declares is the whole of it."""
    component = ComponentSettings(("i",), resources=Resources(requests={"cpu": "2"}, limits={"memory": "1Gi"}))
    settings = replace(SETTINGS, inference=component)

    def made(**serving: Any) -> dict[str, Any]:
        return inference_deployment(model(serving=serving), "v7", "sha256:ab", 1, "salt", settings)

    def resources(manifest: dict[str, Any]) -> Any:
        return manifest["spec"]["template"]["spec"]["containers"][0]["resources"]

    assert resources(made()) == {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}
    assert environment(made())[env.CPUS] == "2"
    assert resources(made(resources={"limits": {"cpu": "3"}})) == {"limits": {"cpu": "3"}}


def test_a_gpu_comes_with_its_own_image_and_is_asked_for() -> None:
    """`device: cuda` is all that a model says; which image and which resource that means is the installation's."""
    component = ComponentSettings(("i",), "cpu-image", gpu_image="gpu-image")
    settings = replace(SETTINGS, inference=component, gpu_resource="example.com/gpu")

    def container(**serving: Any) -> dict[str, Any]:
        made = inference_deployment(model(serving=serving), "v7", "sha256:ab", 1, "salt", settings)
        return dict(made["spec"]["template"]["spec"]["containers"][0])

    assert container()["image"] == "cpu-image"
    assert "resources" not in container()
    assert container(device="cuda")["image"] == "gpu-image"
    assert container(device="cuda")["resources"] == {"limits": {"example.com/gpu": 1}}
    two = {"limits": {"example.com/gpu": 2, "cpu": "4"}}
    assert container(device="cuda", resources=two)["resources"] == two


def test_a_new_template_never_costs_a_ready_pod() -> None:
    """C1: serving pods are replaced one more at a time, never one less; a slow start is not taken for a hang."""
    made = inference_deployment(model(), "v7", "sha256:ab", 3, "salt", SETTINGS)
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    container = made["spec"]["template"]["spec"]["containers"][0]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 300
    assert {container[name]["httpGet"]["port"] for name in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        8081
    }


def test_a_budget_lets_one_pod_go_at_a_time_and_never_holds_a_drain_up() -> None:
    """maxUnavailable, so that a single pod may be evicted too; one that is ill does not stand in the way."""
    made = disruption_budget(model(), "v7")
    assert made["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in made["spec"]
    assert made["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    serving = inference_deployment(model(), "v7", "sha256:ab", 3, "salt", SETTINGS)
    assert made["spec"]["selector"] == serving["spec"]["selector"]
    assert made["metadata"]["ownerReferences"] == serving["metadata"]["ownerReferences"]


def test_what_jobs_before_it_spent_is_not_given_again() -> None:
    """The failure budget belongs to the training, not to the Job: deleting the Job does not refill it."""
    limits = [training_job(model(), INPUTS, SETTINGS, spent)["spec"]["backoffLimit"] for spent in (0, 1, 2, 3)]
    assert limits == [2, 1, 0, 0]


def test_an_evicted_trainer_is_replaced_and_costs_no_try() -> None:
    """O10: a drained node is nobody's fault; the next pod begins when the last has ended. Nothing removes a finished Job but us."""
    spec = training_job(model(), INPUTS, SETTINGS)["spec"]
    assert spec["podFailurePolicy"] == {
        "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    }
    assert spec["podReplacementPolicy"] == "Failed"
    assert "ttlSecondsAfterFinished" not in spec


def child(kind: str, name: str, uid: str = "uid-model", **status: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {
            "name": name, "uid": f"uid-{name}", "namespace": "default",
            "labels": {labels.COMPONENT: "inference", labels.VERSION: "v2", labels.JOB: "abc"},
            "ownerReferences": [{"uid": uid, "controller": True}],
        },
        "spec": {"replicas": 2},
        "status": status,
    }  # fmt: skip


def test_trouble_is_read_from_the_pods() -> None:
    """CrashLoopBackOff with its restarts; a Ready pod is no trouble whatever it died of once."""
    waiting = {"ready": False, "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    killed = {"ready": False, "restartCount": 1, "lastState": {"terminated": {"reason": "OOMKilled"}}}
    fine = {"ready": True, "restartCount": 9, "lastState": {"terminated": {"reason": "OOMKilled"}}}
    deployment = child("Deployment", "digits-v2", readyReplicas=1)

    def read(*containers: dict[str, Any]) -> tuple[str, int, int]:
        pods = [child("Pod", f"p{i}", containerStatuses=[c]) for i, c in enumerate(containers)]
        facts = deployment_facts([deployment, *pods], "uid-model", START)[0]
        return facts.trouble.reason, facts.trouble.restarts, facts.ready

    assert read(waiting) == ("CrashLoopBackOff", 4, 1)
    assert read(killed) == ("OOMKilled", 1, 1)
    assert read(fine) == ("", 9, 1)


def test_a_job_has_failed_when_its_condition_says_so() -> None:
    """One failed pod is retried; only the Job's own condition ends it."""
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    assert not job_facts([child("Job", "j", failed=1, active=1)], "uid-model", START)[0].ended
    ended = job_facts([child("Job", "j", conditions=[failed])], "uid-model", START)[0]
    assert (ended.failed, ended.reason) == (True, "DeadlineExceeded: too long")
    assert job_facts([child("Job", "j", succeeded=1)], "uid-model", START)[0].succeeded


def test_a_child_of_another_uid_is_not_ours() -> None:
    """Same name, other resource: waited for, not adopted."""
    assert not deployment_facts([child("Deployment", "digits-v2", uid="uid-old")], "uid-model", START)[0].ours
