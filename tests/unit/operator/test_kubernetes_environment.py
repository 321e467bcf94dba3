"""What an installation may say, and how a wrong word is told."""

from __future__ import annotations

import pytest
from continual_contract.errors import UsageError
from continual_operator.kubernetes.environment import read_installation
from continual_operator.kubernetes.handlers import LONGEST_SILENCE_SECONDS, proven_fresh
from continual_operator.kubernetes.lease import LeaseTimes
from continual_operator.spec import Resources

ENOUGH = {
    "CONTINUAL_REDIS_URL": "redis://redis:6379/0",
    "CONTINUAL_STORE_URL": "s3://models?endpoint=http://minio:9000",
    "CONTINUAL_INSTALLATION": "team-continual",
    "CONTINUAL_OPERATOR_NAMESPACE": "team",
    "CONTINUAL_INFERENCE_IMAGE": "registry/inference:1",
    "CONTINUAL_EVALUATOR_IMAGE": "registry/inference:1",
    "CONTINUAL_TRAINER_IMAGE": "registry/trainer:1",
}


def test_defaults_serve_the_operators_own_namespace() -> None:
    installation = read_installation(ENOUGH)
    assert installation.namespaces == ("team",)
    assert (installation.lease_namespace, installation.lease_name, installation.lease_seconds) == (
        "team",
        "continual-operator",
        15.0,
    )
    assert installation.settings.trainer.command == ("python", "-m", "continual_workers.training")
    assert installation.settings.trainer.image == "registry/trainer:1"
    assert installation.with_token(7).token == 7


def test_every_process_is_another_holder() -> None:
    """A restarted pod of the same name must not take its predecessor's lease for its own."""
    env = ENOUGH | {"CONTINUAL_POD": "operator-0"}
    first, second = read_installation(env).holder, read_installation(env).holder
    assert first.startswith("operator-0_")
    assert first != second


def test_children_get_their_own_secrets_not_the_operators() -> None:
    env = ENOUGH | {
        "CONTINUAL_REDIS_PASSWORD_FILE": "/secrets/operator",
        "CONTINUAL_REDIS_USERNAME": "operator",
        "CONTINUAL_INFERENCE_REDIS_SECRET": "continual-redis-inference",
        "CONTINUAL_INFERENCE_REDIS_USERNAME": "inference",
        "CONTINUAL_TRAINER_STORE_SECRET": "continual-store-trainer",
    }
    installation = read_installation(env)
    assert str(installation.redis_password_file) == "/secrets/operator"
    settings = installation.settings
    assert (settings.redis_password_file, settings.redis_username, settings.store_credentials_file) == (None,) * 3
    assert settings.inference.redis_secret == "continual-redis-inference"
    assert settings.inference.redis_username == "inference"
    assert settings.trainer.redis_secret is None
    assert settings.trainer.store_secret == "continual-store-trainer"


def test_an_installation_says_how_large_a_component_is_and_where_images_come_from() -> None:
    """What the chart renders reaches the settings: resources, GPU image and resource, pull policy and secrets."""
    env = ENOUGH | {
        "CONTINUAL_TRAINER_RESOURCES": '{"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}}',
        "CONTINUAL_INFERENCE_GPU_IMAGE": "registry/inference-gpu:1",
        "CONTINUAL_GPU_RESOURCE": "example.com/gpu",
        "CONTINUAL_IMAGE_PULL_POLICY": "Never",
        "CONTINUAL_IMAGE_PULL_SECRETS": "one, two",
        "CONTINUAL_METRICS_ADDRESS": "0.0.0.0:8082",
    }
    installation = read_installation(env)
    settings = installation.settings
    assert settings.trainer.resources.requests == {"cpu": "500m"}
    assert settings.inference.resources == Resources()
    assert settings.inference.gpu_image == "registry/inference-gpu:1"
    assert (settings.gpu_resource, settings.image_pull_policy) == ("example.com/gpu", "Never")
    assert settings.image_pull_secrets == ("one", "two")
    assert installation.metrics == "0.0.0.0:8082"
    assert settings.disruption_budgets


@pytest.mark.parametrize(
    ("text", "namespaces"), [("*", ()), ("a,b", ("a", "b")), (" a , ", ("a",))], ids=["all", "two", "spaces"]
)
def test_watched_namespaces(text: str, namespaces: tuple[str, ...]) -> None:
    assert read_installation(ENOUGH | {"CONTINUAL_WATCH_NAMESPACES": text}).namespaces == namespaces


@pytest.mark.parametrize("name", sorted(ENOUGH.keys() - {"CONTINUAL_OPERATOR_NAMESPACE"}))
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        read_installation({key: value for key, value in ENOUGH.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONTINUAL_LEASE_SECONDS", "soon"),
        ("CONTINUAL_LEASE_SECONDS", "1"),
        ("CONTINUAL_TRAINER_COMMAND", "python -m training"),
        ("CONTINUAL_TRAINER_COMMAND", "[]"),
        ("CONTINUAL_TRAINER_COMMAND", '["python", 3]'),
        ("CONTINUAL_IMAGE_PULL_POLICY", "Sometimes"),
        ("CONTINUAL_TRAINER_RESOURCES", "cpu=1"),
        ("CONTINUAL_TRAINER_RESOURCES", '{"requests": {"cpu": "a lot"}}'),
        ("CONTINUAL_TRAINER_RESOURCES", '{"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}'),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_installation(ENOUGH | {name: value})
    assert name in str(caught.value)
    assert caught.value.value == value


@pytest.mark.parametrize("duration", [3.0, 15.0, 300.0])
def test_a_request_fits_between_a_holders_end_and_its_successor(duration: float) -> None:
    """What was begun in the last moment has ended before somebody else begins; and there is time to renew several times."""
    times = LeaseTimes(duration)
    assert times.renew_deadline + times.request_timeout <= duration
    assert times.renew_deadline >= 3 * times.retry


def test_the_probe_fails_when_two_lists_in_a_row_were_missed() -> None:
    assert proven_fresh(61.04) == 61.0
    with pytest.raises(Exception, match="nothing was listed for 151 s"):
        proven_fresh(LONGEST_SILENCE_SECONDS + 1)
