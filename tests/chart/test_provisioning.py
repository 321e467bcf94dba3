"""Key pairs in a real MinIO: what the chart's provisioner makes of an empty store, and what each component can then do."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from chart_rendering import env_of, one, render
from chart_tools import until
from chart_worlds import conformance_tier
from continual_clients import provisioning
from continual_clients.health import probe
from continual_clients.objectstore import S3Store
from continual_clients.provisioning import RIGHTS, KeyPair, Place, Provisioner
from continual_contract.artifacts import StoreLayout
from continual_contract.errors import StoreUnavailableError, UsageError
from control_plane import free_port

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
    "sample": LAYOUT.sample(HEX),
    "forgotten": LAYOUT.forgotten(HEX),
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
    "gateway": {"sample", "forgotten"},
}
DELETES = {"operator": MODEL_OBJECTS, "trainer": {"outcome", "training"}, "gateway": {"sample"}}


@dataclass(frozen=True)
class Bucket:
    """A bucket, and who shall work with it."""

    place: Place
    users: dict[str, KeyPair]

    def provision(self, users: dict[str, KeyPair] | None = None) -> list[str]:
        provisioner = Provisioner(self.place, users or self.users)
        try:
            return provisioner.ensure()
        finally:
            provisioner.close()

    def store(self, component: str = "") -> S3Store:
        """As a component sees it; as root without one."""
        pair = self.users[component] if component else self.place.root
        return S3Store(self.place.endpoint, self.place.bucket, pair.access_key, pair.secret_key)


def new_bucket(server: Any, name: str) -> Bucket:
    root = json.loads(server.credentials_file.read_text())
    place = Place(server.endpoint, name, "us-east-1", KeyPair(root["access_key"], root["secret_key"]))
    return Bucket(place, {part: KeyPair(f"{name}-{part}", f"secret-of-{part}-and-long") for part in RIGHTS})


@pytest.fixture(scope="module")
def provisioned(minio_server: Any) -> Bucket:
    """One for all tests that only look: making key pairs costs MinIO seconds."""
    made = new_bucket(minio_server, "provisioned")
    made.provision()
    return made


@pytest.fixture
def bucket(minio_server: Any) -> Bucket:
    """Key pairs of the test's own, not made yet."""
    return new_bucket(minio_server, f"b{uuid.uuid4().hex[:12]}")


def allowed(act: Callable[[], object]) -> bool:
    """Whether the store let it happen; any other trouble than a refusal is the test's failure."""
    try:
        act()
    except StoreUnavailableError as error:
        if "AccessDenied" not in str(error):
            raise
        return False
    return True


def test_the_second_look_writes_nothing(bucket: Bucket) -> None:
    """Idempotent and silent: the first look makes bucket, policies and key pairs, the next finds all of it."""
    made = bucket.provision()
    assert made[0] == f"bucket {bucket.place.bucket}"
    assert len(made) == 1 + 3 * len(RIGHTS)
    assert bucket.provision() == []


@pytest.mark.parametrize("component", sorted(RIGHTS))
def test_a_key_pair_does_what_its_component_does_and_nothing_else(component: str, provisioned: Bucket) -> None:
    """Every verb on an object of every kind, with the pair of each component."""
    root, own = provisioned.store(), provisioned.store(component)
    for name, key in PLACES.items():
        root.put(key, b"bytes")
        assert allowed(lambda key=key: own.get(key)) == (name in READS[component]), f"{component} reads {name}"
        assert allowed(lambda key=key: own.put(key, b"b")) == (name in WRITES[component]), f"{component} writes {name}"
        wanted = name in DELETES.get(component, ())
        assert allowed(lambda key=key: own.delete(key)) == wanted, f"{component} deletes {name}"
    assert allowed(lambda: list(own.list(""))) == RIGHTS[component].lists


@pytest.mark.parametrize("component", [name for name, rights in RIGHTS.items() if rights.lists])
def test_who_asks_whether_something_exists_is_told_no_instead_of_forbidden(component: str, provisioned: Bucket) -> None:
    """An outcome that is not there yet is an answer, not an error."""
    readable = PLACES[min(READS[component])]
    provisioned.store().delete(readable)
    assert not provisioned.store(component).exists(readable)


def test_no_key_pair_opens_another_bucket(minio_server: Any, provisioned: Bucket) -> None:
    """A store may hold more than us."""
    other = replace(provisioned, place=replace(provisioned.place, bucket="theirs"))
    other.store().ensure_bucket()
    other.store().put("models/a/b/blobs/sha256/c", b"theirs")
    for component in RIGHTS:
        stranger = other.store(component)
        assert not allowed(lambda s=stranger: s.get("models/a/b/blobs/sha256/c")), component
        assert not allowed(lambda s=stranger: list(s.list(""))), component


def test_what_somebody_changed_is_mended(bucket: Bucket) -> None:
    """A rotated key, a widened policy, other rights, a disabled pair: each is put right, and only it."""
    bucket.provision()
    users, name = bucket.users, bucket.place.bucket
    rotated = users | {"inference": KeyPair(users["inference"].access_key, "another-secret-altogether")}
    assert bucket.provision(rotated) == ["key pair of inference"]
    assert not Provisioner(bucket.place, rotated)._opens(users["inference"])
    admin = Provisioner(bucket.place, rotated)._admin
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    admin.policy_add(policy_name=f"{name}-trainer", policy={"Version": "2012-10-17", "Statement": [everything]})
    admin.policy_set(policy_name="readwrite", user=users["gateway"].access_key)
    admin.user_disable(access_key=users["evaluator"].access_key)
    assert bucket.provision(rotated) == ["key pair of evaluator", f"policy {name}-trainer", "rights of gateway"]
    assert bucket.provision(rotated) == []


def test_the_process_is_ready_once_all_is_made_and_stays_so(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the chart starts it: mounted files, readiness over HTTP, an end when told. A later look that fails takes no store from its Service."""
    monkeypatch.setattr(provisioning, "LOOK_EVERY_SECONDS", 0.05)
    environment = mounted(tmp_path, bucket)
    stop = Event()
    thread = Thread(target=provisioning.keep, args=(environment, stop))
    thread.start()
    try:
        until("it is ready", lambda: (probe(environment["HEALTH_ADDRESS"]) or (0,))[0] == 200)
        (tmp_path / "root/user").unlink()
        until("a look failed", lambda: "not provisioned" in caplog.messages)
        assert (probe(environment["HEALTH_ADDRESS"], timeout=20) or (0,))[0] == 200
    finally:
        stop.set()
        thread.join(20)
    bucket.store("operator").put(PLACES["decision"], b"{}")


def test_minio_starts_as_the_chart_starts_it(minio_binary: Path, tmp_path: Path) -> None:
    """The rendered arguments and environment: the root key comes from mounted files, nothing is written but to /data and /tmp."""
    bucket = Bucket(Place("", "continual", "us-east-1", KeyPair("continual-root", "root-password-from-a-file")), {})
    [container, _] = one(render(), "StatefulSet", "continual-minio")["spec"]["template"]["spec"]["containers"]
    (tmp_path / "root").mkdir()
    (tmp_path / "root/user").write_text(bucket.place.root.access_key)
    (tmp_path / "root/password").write_text(bucket.place.root.secret_key)
    port = free_port()
    here = {
        "/etc/continual/root": str(tmp_path / "root"),
        "/data": str(tmp_path / "data"),
        "/tmp": str(tmp_path / "tmp"),
    }

    def placed(word: str) -> str:
        found = next((folder for folder in here if word.startswith(folder)), "")
        return f"127.0.0.1:{port}" if word == ":9000" else here.get(found, "") + word.removeprefix(found)

    environment = {name: placed(value) for name, value in env_of(container).items()}
    command = [str(minio_binary), *map(placed, container["args"])]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        place = replace(bucket.place, endpoint=f"http://127.0.0.1:{port}")
        root = (place.root.access_key, place.root.secret_key)
        until("it is ready", lambda: conformance_tier.is_live(place.endpoint, *root) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert Provisioner(place, {}).ensure() == ["bucket continual"]
    finally:
        process.kill()
        process.wait()
    assert {p.name for p in tmp_path.iterdir()} <= {"root", "data", "tmp", "log"}


def test_a_store_that_is_away_is_an_error_that_names_it_and_no_secret() -> None:
    """What is logged while MinIO starts."""
    away = Place("http://127.0.0.1:1", "continual", "us-east-1", KeyPair("root", "canary-secret"))
    with pytest.raises(StoreUnavailableError) as raised:
        Provisioner(away, {}).ensure()
    assert "http://127.0.0.1:1" in str(raised.value)
    assert "canary-secret" not in str(raised.value)
    assert "canary-secret" not in repr(away)


def test_two_components_with_one_access_key_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    """One would get the rights of the other."""
    shared = replace(bucket, users=bucket.users | {"trainer": bucket.users["gateway"]})
    with pytest.raises(UsageError, match="the same access key twice"):
        provisioning.read_users(mounted(tmp_path, shared))


def test_the_policies_for_another_s3_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/guides/install.md hands to the administrator of an external store."""
    assert provisioning.main(["--policies", "models"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == set(RIGHTS)
    assert printed["inference"]["Statement"][0] == {
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": ["arn:aws:s3:::models/models/*/checkpoints/*", "arn:aws:s3:::models/models/*/blobs/*"],
    }


def mounted(folder: Path, bucket: Bucket) -> dict[str, str]:
    """Files as the chart mounts them, and the environment that names them."""
    for name in ("root", "users"):
        (folder / name).mkdir()
    (folder / "root/user").write_text(bucket.place.root.access_key)
    (folder / "root/password").write_text(bucket.place.root.secret_key)
    for component, pair in bucket.users.items():
        document = {"access_key": pair.access_key, "secret_key": pair.secret_key}
        (folder / "users" / component).write_text(json.dumps(document))
    return {
        "CONTINUAL_STORE_URL": f"s3://{bucket.place.bucket}?endpoint={bucket.place.endpoint}",
        "CONTINUAL_STORE_ROOT_FOLDER": str(folder / "root"),
        "CONTINUAL_STORE_USERS_FOLDER": str(folder / "users"),
        "HEALTH_ADDRESS": f"unix:{folder / 'health.sock'}",
    }
