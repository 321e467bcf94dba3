"""Key pairs in a real MinIO: what the chart's provisioner makes of an empty store, and what each component can then do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from continual_clients import provisioning
from continual_clients.health import probe
from continual_clients.objectstore import S3Store
from continual_clients.provisioning import RIGHTS, KeyPair, Place, Provisioner
from continual_contract.artifacts import StoreLayout
from continual_contract.errors import StoreUnavailableError, UsageError

LAYOUT = StoreLayout("default", "digits")
HEX = "0" * 64
PLACES = {
    "checkpoint": LAYOUT.manifest(HEX),
    "blob": LAYOUT.blob(HEX),
    "shard": LAYOUT.shard(HEX),
    "holdout": LAYOUT.holdout(HEX),
    "evidence": LAYOUT.evidence("v2", "000.bin"),
    "outcome": LAYOUT.outcome("job"),
    "training": LAYOUT.training("job", "resume"),
    "decision": LAYOUT.decision(1),
    "dataset": "datasets/digits/train.npz",
    "weights": "weights/resnet50.safetensors",
}
"""One object of every kind that StoreLayout and the guides name."""
MODEL_OBJECTS = frozenset(PLACES) - {"dataset", "weights"}
READS = {
    "operator": frozenset(PLACES),
    "inference": {"checkpoint", "blob"},
    "evaluator": {"shard", "holdout", "evidence"},
    "trainer": frozenset(PLACES),
    "gateway": MODEL_OBJECTS,
}
WRITES = {
    "operator": MODEL_OBJECTS,
    "inference": frozenset[str](),
    "evaluator": {"shard", "holdout", "evidence"},
    "trainer": {"checkpoint", "blob", "holdout", "outcome", "training"},
    "gateway": frozenset[str](),
}
DELETES = {"operator": MODEL_OBJECTS, "trainer": {"outcome", "training"}}


@pytest.fixture
def place(minio_server: Any, request: pytest.FixtureRequest) -> Place:
    """A bucket of the test's own."""
    root = json.loads(minio_server.credentials_file.read_text())
    bucket = f"b{abs(hash(request.node.nodeid)):x}"[:30]
    return Place(minio_server.endpoint, bucket, "us-east-1", KeyPair(root["access_key"], root["secret_key"]))


@pytest.fixture
def users(place: Place) -> dict[str, KeyPair]:
    return {name: KeyPair(f"{place.bucket}-{name}", f"secret-of-{name}-and-long") for name in RIGHTS}


@pytest.fixture
def provision(place: Place) -> Callable[[dict[str, KeyPair]], list[str]]:
    def ensure(users: dict[str, KeyPair]) -> list[str]:
        provisioner = Provisioner(place, users)
        try:
            return provisioner.ensure()
        finally:
            provisioner.close()

    return ensure


def store(place: Place, pair: KeyPair) -> S3Store:
    return S3Store(place.endpoint, place.bucket, pair.access_key, pair.secret_key)


def allowed(act: Callable[[], object]) -> bool:
    """Whether the store let it happen; any other trouble than a refusal is the test's failure."""
    try:
        act()
    except StoreUnavailableError as error:
        if "AccessDenied" not in str(error):
            raise
        return False
    return True


def test_the_second_look_writes_nothing(place: Place, users: dict[str, KeyPair], provision: Any) -> None:
    """Idempotent and silent: the first look makes bucket, policies and key pairs, the next finds all of it."""
    made = provision(users)
    assert made[0] == f"bucket {place.bucket}"
    assert len(made) == 1 + 3 * len(RIGHTS)
    assert provision(users) == []


@pytest.mark.parametrize("component", sorted(RIGHTS))
def test_a_key_pair_does_what_its_component_does_and_nothing_else(
    component: str, place: Place, users: dict[str, KeyPair], provision: Any
) -> None:
    """Every verb on an object of every kind, with the pair of each component."""
    provision(users)
    root, own = store(place, place.root), store(place, users[component])
    for name, key in PLACES.items():
        root.put(key, b"bytes")
        assert allowed(lambda key=key: own.get(key)) == (name in READS[component]), f"{component} reads {name}"
        assert allowed(lambda key=key: own.put(key, b"b")) == (name in WRITES[component]), f"{component} writes {name}"
        wanted = name in DELETES.get(component, ())
        assert allowed(lambda key=key: own.delete(key)) == wanted, f"{component} deletes {name}"
    assert allowed(lambda: list(own.list(""))) == RIGHTS[component].lists


@pytest.mark.parametrize("component", [name for name, rights in RIGHTS.items() if rights.lists])
def test_who_asks_whether_something_exists_is_told_no_instead_of_forbidden(
    component: str, place: Place, users: dict[str, KeyPair], provision: Any
) -> None:
    """An outcome that is not there yet is an answer, not an error."""
    provision(users)
    readable = PLACES[min(READS[component])]
    assert not store(place, users[component]).exists(readable)


def test_no_key_pair_opens_another_bucket(place: Place, users: dict[str, KeyPair], provision: Any) -> None:
    """A store may hold more than us."""
    provision(users)
    other = Place(place.endpoint, place.bucket + "x", place.region, place.root)
    store(other, place.root).ensure_bucket()
    store(other, place.root).put("models/a/b/blobs/sha256/c", b"theirs")
    for component, pair in users.items():
        stranger = store(other, pair)
        assert not allowed(lambda s=stranger: s.get("models/a/b/blobs/sha256/c")), component
        assert not allowed(lambda s=stranger: list(s.list(""))), component


def test_what_somebody_changed_is_mended(place: Place, users: dict[str, KeyPair], provision: Any) -> None:
    """A rotated key, a widened policy, a user without rights: each is put right, and only it."""
    provision(users)
    rotated = users | {"inference": KeyPair(users["inference"].access_key, "another-secret-altogether")}
    assert provision(rotated) == ["key pair of inference"]
    assert not provisioning.Provisioner(place, rotated)._opens(users["inference"])
    admin = Provisioner(place, rotated)._admin
    admin.policy_add(
        policy_name=f"{place.bucket}-trainer",
        policy={
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}],
        },
    )
    admin.policy_set(policy_name="readwrite", user=users["gateway"].access_key)
    admin.user_disable(access_key=users["evaluator"].access_key)
    assert provision(rotated) == [
        "key pair of evaluator",
        f"policy {place.bucket}-trainer",
        "rights of gateway",
    ]
    assert provision(rotated) == []


def test_the_process_is_ready_once_all_is_made_and_says_why_it_is_not(
    place: Place, users: dict[str, KeyPair], tmp_path: Path
) -> None:
    """As the chart starts it: root and key pairs as mounted files, readiness over HTTP, a farewell on SIGTERM."""
    environment = mounted(tmp_path, place, users)
    from threading import Event, Thread

    stop = Event()
    thread = Thread(target=provisioning.keep, args=(environment, stop))
    thread.start()
    try:
        address = environment["HEALTH_ADDRESS"]
        deadline = 200
        while (answer := probe(address)) is None or answer[0] != 200:
            deadline -= 1
            assert deadline, answer
            stop.wait(0.05)
    finally:
        stop.set()
        thread.join(20)
    store(place, users["operator"]).put(PLACES["decision"], b"{}")


def test_a_store_that_is_away_is_an_error_that_names_it_and_no_secret(users: dict[str, KeyPair]) -> None:
    """What is logged while MinIO starts."""
    away = Place("http://127.0.0.1:1", "continual", "us-east-1", KeyPair("root", "canary-secret"))
    with pytest.raises(StoreUnavailableError) as raised:
        Provisioner(away, users).ensure()
    assert "http://127.0.0.1:1" in str(raised.value)
    assert "canary-secret" not in str(raised.value)
    assert "canary-secret" not in repr(away)


def test_two_components_with_one_access_key_are_refused(
    place: Place, users: dict[str, KeyPair], tmp_path: Path
) -> None:
    """One would get the rights of the other."""
    environment = mounted(tmp_path, place, users | {"trainer": users["gateway"]})
    with pytest.raises(UsageError, match="the same access key twice"):
        provisioning.read_users(environment)


def mounted(folder: Path, place: Place, users: dict[str, KeyPair]) -> dict[str, str]:
    """Files as the chart mounts them, and the environment that names them."""
    for name in ("root", "users"):
        (folder / name).mkdir()
    (folder / "root/user").write_text(place.root.access_key)
    (folder / "root/password").write_text(place.root.secret_key)
    for component, pair in users.items():
        document = {"access_key": pair.access_key, "secret_key": pair.secret_key}
        (folder / "users" / component).write_text(json.dumps(document))
    return {
        "CONTINUAL_STORE_URL": f"s3://{place.bucket}?endpoint={place.endpoint}",
        "CONTINUAL_STORE_ROOT_FOLDER": str(folder / "root"),
        "CONTINUAL_STORE_USERS_FOLDER": str(folder / "users"),
        "HEALTH_ADDRESS": f"unix:{folder / 'health.sock'}",
    }
