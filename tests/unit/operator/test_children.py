"""Manifests and what is read back from children: whole, hashed, and never adopted from somebody else."""

from __future__ import annotations

import json
from typing import Any

from continual_contract import settings as env
from continual_contract.artifacts import DatasetRef, InputShape, TrainingInputs
from continual_operator import labels
from continual_operator.children import evaluator_deployment, inference_deployment, training_job
from continual_operator.observe import deployment_facts, job_facts
from continual_operator.rehearsal import minimal_model, rehearsal_settings
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.spec import Model, parse_model

SETTINGS = OperatorSettings(
    1, "redis://redis:6379/0", "s3://bucket?endpoint=http://minio:9000",
    ComponentSettings(("python", "-m", "continual_workers.inference")),
    ComponentSettings(("python", "-m", "continual_workers.evaluation")),
    ComponentSettings(("python", "-m", "continual_workers.training")),
    redis_password_file="/secrets/redis", store_credentials_file="/secrets/store.json",
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
    inputs = TrainingInputs(
        namespace="default", model="digits", mode="bootstrap", architecture="mlp", classes=("a", "b"),
        input=InputShape(height=8, width=8, channels=1), dataset=DatasetRef(name="digits"),
    )  # fmt: skip
    job = training_job(model(retraining={"timeout": "90s"}), inputs, SETTINGS)
    assert job["metadata"]["name"] == inputs.job_name()
    assert job["metadata"]["labels"][labels.JOB] == inputs.job_hash()
    assert job["spec"]["activeDeadlineSeconds"] == 90
    assert job["spec"]["backoffLimit"] == 2
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "continual_workers.training", "--inputs"]
    assert TrainingInputs.model_validate(json.loads(command[4])) == inputs


def test_the_evaluator_is_one() -> None:
    """One process joins labels with answers."""
    assert evaluator_deployment(model(), rehearsal_settings())["spec"]["replicas"] == 1


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
        facts = deployment_facts([deployment, *pods], "uid-model")[0]
        return facts.trouble, facts.restarts, facts.ready

    assert read(waiting) == ("CrashLoopBackOff", 4, 1)
    assert read(killed) == ("OOMKilled", 1, 1)
    assert read(fine) == ("", 9, 1)


def test_a_job_has_failed_when_its_condition_says_so() -> None:
    """One failed pod is retried; only the Job's own condition ends it."""
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    assert not job_facts([child("Job", "j", failed=1, active=1)], "uid-model")[0].ended
    ended = job_facts([child("Job", "j", conditions=[failed])], "uid-model")[0]
    assert (ended.failed, ended.reason) == (True, "DeadlineExceeded: too long")
    assert job_facts([child("Job", "j", succeeded=1)], "uid-model")[0].succeeded


def test_a_child_of_another_uid_is_not_ours() -> None:
    """Same name, other resource: waited for, not adopted."""
    assert not deployment_facts([child("Deployment", "digits-v2", uid="uid-old")], "uid-model")[0].ours
