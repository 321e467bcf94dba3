"""Bucket, key pairs and rights in the embedded object store, made again whenever they are not as they should be.

    python -m continual_clients.provisioning                        keep it so: look now and every minute, until SIGTERM
    python -m continual_clients.provisioning --once                 look once; exit code 0 when all is as it should be
    python -m continual_clients.provisioning --policies BUCKET      print the policies, for the administrator of another S3

It runs beside MinIO and is the only other holder of its root key. Every component has a key pair of its own with one policy: what it
reads and writes, and nothing else. A Job at install time would not do: a store whose volume was lost, a rotated key, a policy that a new
version needs are all found and mended here. While all is well nothing is written.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import urllib3
from continual_contract import settings as names
from continual_contract.errors import ContinualError, StoreUnavailableError, UsageError
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException, S3Error

from continual_clients.health import HealthServer
from continual_clients.logs import configure
from continual_clients.objectstore import parse_s3_url, read_key_pair

log = logging.getLogger(__name__)

ROOT_FOLDER = "CONTINUAL_STORE_ROOT_FOLDER"
"""Folder with the files `user` and `password`: the root key pair."""
USERS_FOLDER = "CONTINUAL_STORE_USERS_FOLDER"
"""Folder with one credentials file per component, named like it."""
LOOK_EVERY_SECONDS = 60.0
RETRY_AFTER_SECONDS = 2.0
UNKNOWN_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch")
NO_SUCH = ("XMinioAdminNoSuchUser", "XMinioAdminNoSuchPolicy")


@dataclass(frozen=True, slots=True)
class Rights:
    """Which objects of the bucket a component may read, write and delete, as patterns; and whether it may list names.

    Without the right to list, S3 answers a missing object with 403: whoever asks whether something exists has it.
    """

    read: tuple[str, ...]
    write: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    lists: bool = True


RIGHTS: Mapping[str, Rights] = {
    "operator": Rights(read=("*",), write=("models/*",), delete=("models/*",)),
    "inference": Rights(read=("models/*/checkpoints/*", "models/*/blobs/*"), lists=False),
    "evaluator": Rights(
        read=("models/*/shards/*", "models/*/holdout/*", "models/*/evidence/*"),
        write=("models/*/shards/*", "models/*/holdout/*", "models/*/evidence/*"),
    ),
    "trainer": Rights(
        read=("*",),
        write=("models/*/blobs/*", "models/*/checkpoints/*", "models/*/holdout/*", "models/*/trainings/*"),
        delete=("models/*/trainings/*",),
    ),
    "gateway": Rights(
        read=("models/*",),
        write=("models/*/samples/*", "models/*/forgotten/*"),
        delete=("models/*/samples/*",),
    ),
}
"""Components and what they do in the store; `StoreLayout` says what lies where. `*` passes over slashes."""


def policy(bucket: str, rights: Rights) -> dict[str, Any]:
    """The rights in the words of S3."""
    granted = (("s3:GetObject", rights.read), ("s3:PutObject", rights.write), ("s3:DeleteObject", rights.delete))
    statements: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": [action],
            "Resource": [f"arn:aws:s3:::{bucket}/{pattern}" for pattern in patterns],
        }
        for action, patterns in granted
        if patterns
    ]
    on_bucket = ["s3:GetBucketLocation", *(["s3:ListBucket"] if rights.lists else [])]
    statements.append({"Effect": "Allow", "Action": on_bucket, "Resource": [f"arn:aws:s3:::{bucket}"]})
    return {"Version": "2012-10-17", "Statement": statements}


@dataclass(frozen=True, slots=True)
class KeyPair:
    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store is, and who is its root."""

    endpoint: str
    bucket: str
    region: str
    root: KeyPair


class Provisioner:
    """Looks whether everything is as it should be, and mends what is not."""

    def __init__(self, place: Place, users: Mapping[str, KeyPair]) -> None:
        self.place, self.users = place, users
        address = urlsplit(place.endpoint)
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=3.0, read=10.0), retries=urllib3.Retry(total=0)
        )
        self._root = self._client(place.root)
        self._admin = MinioAdmin(
            endpoint=address.netloc,
            credentials=StaticProvider(place.root.access_key, place.root.secret_key),
            region=place.region,
            secure=address.scheme == "https",
            http_client=self._pool,
        )

    def ensure(self) -> list[str]:
        """Mend what is not as it should be; what was mended, in words. Raises `StoreUnavailableError`."""
        try:
            mended = self._ensure_bucket()
            for component, pair in self.users.items():
                mended += self._ensure_policy(component)
                mended += self._ensure_user(component, pair)
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailableError(
                f"cannot be provisioned: {_told(error)}",
                field="object store",
                value=self.place.endpoint,
                remedy="start it, or check its root key",
            ) from error
        return mended

    def close(self) -> None:
        self._pool.clear()

    def _client(self, pair: KeyPair) -> Minio:
        address = urlsplit(self.place.endpoint)
        return Minio(
            endpoint=address.netloc,
            access_key=pair.access_key,
            secret_key=pair.secret_key,
            secure=address.scheme == "https",
            region=self.place.region,
            http_client=self._pool,
        )

    def _ensure_bucket(self) -> list[str]:
        if self._root.bucket_exists(bucket_name=self.place.bucket):
            return []
        self._root.make_bucket(bucket_name=self.place.bucket)
        return [f"bucket {self.place.bucket}"]

    def _ensure_policy(self, component: str) -> list[str]:
        name, wanted = policy_name(self.place.bucket, component), policy(self.place.bucket, RIGHTS[component])
        if _normalized(self._info(self._admin.policy_info, name)) == _normalized(wanted):
            return []
        self._admin.policy_add(policy_name=name, policy=wanted)
        return [f"policy {name}"]

    def _ensure_user(self, component: str, pair: KeyPair) -> list[str]:
        mended, name = [], policy_name(self.place.bucket, component)
        held = self._info(self._admin.user_info, pair.access_key)
        if held.get("status") != "enabled" or not self._opens(pair):
            self._admin.user_add(access_key=pair.access_key, secret_key=pair.secret_key)
            mended.append(f"key pair of {component}")
        if held.get("policyName") != name:
            self._admin.policy_set(policy_name=name, user=pair.access_key)
            mended.append(f"rights of {component}")
        return mended

    def _info(self, ask: Any, name: str) -> dict[str, Any]:
        """What MinIO says of a user or policy; empty when there is none."""
        try:
            found: dict[str, Any] = json.loads(ask(name))
        except MinioAdminException as error:
            if any(code in str(error) for code in NO_SUCH):
                return {}
            raise
        return found

    def _opens(self, pair: KeyPair) -> bool:
        """Whether the store knows this pair; what it may do is another question."""
        try:
            next(iter(self._client(pair).list_objects(bucket_name=self.place.bucket, prefix="models/")), None)
        except S3Error as error:
            return error.code not in UNKNOWN_KEY
        return True


def policy_name(bucket: str, component: str) -> str:
    return f"{bucket}-{component}"


def _normalized(document: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """A policy without what MinIO changes of it: order, and one string for a list of one."""
    inner = document.get("Policy", document)
    found = []
    for statement in inner.get("Statement", ()):
        actions, resources = _strings(statement.get("Action")), _strings(statement.get("Resource"))
        found.append((str(statement.get("Effect")), actions, resources))
    return sorted(found)


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(sorted(value or ()))


def _told(error: Exception) -> str:
    """What the server said in one line; an admin error carries a whole document."""
    return str(error).replace("\n", " ")[:300]


def read_place(env: Mapping[str, str]) -> Place:
    """Raises `UsageError` that names the variable that is missing or wrong."""
    endpoint, bucket, region = parse_s3_url(_required(env, names.STORE_URL))
    folder = Path(_required(env, ROOT_FOLDER))
    root = KeyPair(_secret(folder / "user", ROOT_FOLDER), _secret(folder / "password", ROOT_FOLDER))
    return Place(endpoint, bucket, region, root)


def read_users(env: Mapping[str, str]) -> dict[str, KeyPair]:
    """Key pairs by component; read again at every look, because a mounted Secret changes under us."""
    folder = Path(_required(env, USERS_FOLDER))
    pairs = {component: KeyPair(*read_key_pair(folder / component)) for component in RIGHTS}
    shared = {pair.access_key for pair in pairs.values()}
    if len(shared) != len(pairs):
        raise UsageError(
            "holds the same access key twice",
            field=USERS_FOLDER,
            value=str(folder),
            remedy="give each component its own",
        )
    return pairs


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise UsageError("is not set", field=name, remedy=f"set the environment variable {name}")
    return value


def _secret(path: Path, variable: str) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", field=variable, value=str(path), remedy="mount the secret"
        ) from error


def look(env: Mapping[str, str]) -> list[str]:
    """One look with what the files say now; what was mended."""
    provisioner = Provisioner(read_place(env), read_users(env))
    try:
        mended = provisioner.ensure()
    finally:
        provisioner.close()
    if mended:
        log.info("provisioned", extra={"mended": mended})
    return mended


def keep(env: Mapping[str, str], stop: Event) -> None:
    """Look again and again until told to stop; ready for good once a look succeeded.

    The store serves with what it has: a later look that fails must not take the pod, and the store with it, out of its Service.
    """
    ready = Event()
    with HealthServer(env.get(names.HEALTH_ADDRESS, ""), ready=ready.is_set):
        wait = 0.0
        while not stop.wait(wait):
            try:
                look(env)
            except ContinualError as error:
                log.warning("not provisioned", extra={"error": error.describe()})
                wait = RETRY_AFTER_SECONDS
            else:
                ready.set()
                wait = LOOK_EVERY_SECONDS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m continual_clients.provisioning", description=__doc__)
    parser.add_argument("--once", action="store_true", help="look once instead of for ever")
    parser.add_argument("--policies", metavar="BUCKET", help="print the policies for this bucket and do nothing")
    options = parser.parse_args(arguments)
    if options.policies:
        print(json.dumps({name: policy(options.policies, rights) for name, rights in RIGHTS.items()}, indent=2))
        return 0
    configure("provisioner")
    try:
        if options.once:
            look(os.environ)
        else:
            keep(os.environ, _stop_on_signals())
    except ContinualError as error:
        log.error("provisioner ends", extra={"error": error.describe()})  # noqa: TRY400 -- the error says it all
        return error.exit_code
    return 0


def _stop_on_signals() -> Event:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    sys.exit(main())
