"""Objects by key: one small protocol, two stores held to the same test battery.

Everything in the store is immutable and content-addressed, and the pointer of record is the resource's status. So five verbs
are enough, no conditional write is needed, and any S3 works. `put` is atomic in both: a reader sees the old bytes, the new bytes
or nothing, never a part (FileStore: temporary file, fsync, rename, fsync of the folder; S3: by its own contract).

    NotFoundError            no such key
    StoreUnavailableError    the store did not answer, or the disk is full
    IntegrityError           an object longer than the caller's limit: reading stops there
    UsageError               a key that could leave the store (`..`, leading `/`, control characters)
"""

from __future__ import annotations

import errno
import io
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import urllib3
from continual_contract.errors import IntegrityError, NotFoundError, StoreUnavailableError, UsageError
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
INCOMING = ".incoming"
ABANDONED_AFTER_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing; `modified` is aware, UTC."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Where bytes lie by key."""

    def get(self, key: str, limit: int | None = None) -> bytes:
        """The object's bytes. With `limit`: `IntegrityError` if it is longer; never reads more than `limit` + 1 bytes."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object, atomically; an existing one is replaced."""
        ...

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int: ...

    def delete(self, key: str) -> None:
        """Remove the object; gone already is success."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix` (a plain string prefix), in key order."""
        ...


def check_key(key: str) -> str:
    """Return `key`, or raise `UsageError`: relative, `/`-separated, no empty, `.` or `..` part, no control characters."""
    parts = key.split("/")
    sound = (
        key.isprintable()
        and "\\" not in key
        and len(os.fsencode(key)) <= MAX_KEY_BYTES
        and all(part not in ("", ".", "..") and len(os.fsencode(part)) <= MAX_SEGMENT_BYTES for part in parts)
        and parts[0] != INCOMING
    )
    if not sound:
        raise UsageError(
            "is not a key", field="object key", value=key, remedy="use a relative path like models/ns/name/file"
        )
    return key


def missing(key: str, where: str) -> NotFoundError:
    return NotFoundError(f"is not in the store {where}", field="object", value=key, remedy="check the key or upload it")


def _too_long(key: str, limit: int) -> IntegrityError:
    return IntegrityError(
        f"is longer than the {limit} bytes it must have",
        field="object",
        value=key,
        remedy="restore it from a backup, or publish it again",
    )


class FileStore:
    """A folder as object store: what `continual local` uses. Several processes may read and write it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / INCOMING
        with _disk(str(root)):
            self._incoming.mkdir(parents=True, exist_ok=True)
        self._sweep(time.time() - ABANDONED_AFTER_SECONDS)

    def __repr__(self) -> str:
        return f"file://{self.root}"

    def get(self, key: str, limit: int | None = None) -> bytes:
        path = self._path(key)
        try:
            with _disk(key), path.open("rb") as file:
                data = file.read() if limit is None else file.read(limit + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise missing(key, str(self)) from error
        if limit is not None and len(data) > limit:
            raise _too_long(key, limit)
        return data

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        temporary = self._incoming / uuid.uuid4().hex
        with _disk(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._write(temporary, data)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _fsync_folder(path.parent)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        path = self._path(key)
        if not path.is_file():
            raise missing(key, str(self))
        return path.stat().st_size

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _disk(key), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """A file that vanishes while the folder is walked is left out."""
        folder = self.root / prefix.rpartition("/")[0]
        if ".." in prefix.split("/") or prefix.startswith("/"):
            check_key(prefix)
        found = (path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file())
        for key in sorted(key for key in found if key.startswith(prefix) and not key.startswith(f"{INCOMING}/")):
            with suppress(FileNotFoundError):
                status = (self.root / key).stat()
                yield ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _sweep(self, before: float) -> None:
        """Remove temporary files that a killed writer left behind."""
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk(what: str) -> Iterator[None]:
    """Disk trouble (full, read-only, no permission) is the store being unavailable."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder's permissions"
        raise StoreUnavailableError(
            f"the disk refused: {error.strerror}", field="object", value=what, remedy=remedy
        ) from error


class S3Store:
    """A bucket of any S3; MinIO in our chart. One try per call, then a typed error: whoever may wait, waits."""

    def __init__(self, endpoint: str, bucket: str, access_key: str, secret_key: str, region: str = "us-east-1") -> None:
        address = urlsplit(endpoint)
        timeout = urllib3.Timeout(connect=3.0, read=30.0)
        self.bucket, self.endpoint = bucket, endpoint
        self._client = Minio(
            endpoint=address.netloc,
            access_key=access_key,
            secret_key=secret_key,
            secure=address.scheme == "https",
            region=region,
            http_client=urllib3.PoolManager(timeout=timeout, maxsize=8, retries=urllib3.Retry(total=0)),
        )

    def __repr__(self) -> str:
        return f"s3://{self.bucket} at {self.endpoint}"

    def ensure_bucket(self) -> None:
        """Create the bucket where the key pair may do so."""
        with self._reaching(self.bucket):
            if not self._client.bucket_exists(bucket_name=self.bucket):
                self._client.make_bucket(bucket_name=self.bucket)

    def get(self, key: str, limit: int | None = None) -> bytes:
        with self._reaching(key):
            response = self._client.get_object(bucket_name=self.bucket, object_name=check_key(key))
            try:
                data: bytes = response.read() if limit is None else _read_up_to(response, limit + 1)
            finally:
                response.close()
                response.release_conn()
        if limit is not None and len(data) > limit:
            raise _too_long(key, limit)
        return data

    def put(self, key: str, data: bytes) -> None:
        with self._reaching(key):
            self._client.put_object(
                bucket_name=self.bucket, object_name=check_key(key), data=io.BytesIO(data), length=len(data)
            )

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        with self._reaching(key):
            return self._client.stat_object(bucket_name=self.bucket, object_name=check_key(key)).size or 0

    def delete(self, key: str) -> None:
        with suppress(NotFoundError), self._reaching(key):
            self._client.remove_object(bucket_name=self.bucket, object_name=check_key(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._reaching(prefix):
            for found in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True):
                modified = found.last_modified or datetime.fromtimestamp(0, UTC)
                yield ObjectInfo(found.object_name or "", found.size or 0, modified)

    @contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._translated(error, key) from error
        except (InvalidResponseError, ServerError, MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailableError(
                f"no answer from {self}: {error}",
                field="object",
                value=key,
                remedy="start the store or fix its address",
            ) from error

    def _translated(self, error: S3Error, key: str) -> NotFoundError | StoreUnavailableError:
        if error.code in ("NoSuchKey", "NoSuchObject", "ResourceNotFound"):
            return missing(key, str(self))
        return StoreUnavailableError(
            f"{self} refused: {error.code}: {error.message}",
            field="object",
            value=key,
            remedy="check bucket and key pair",
        )


class _Readable(Protocol):
    def read(self, amt: int, /) -> bytes: ...


def _read_up_to(source: _Readable | BinaryIO, amount: int) -> bytes:
    """At most `amount` bytes, however long the other side goes on."""
    parts: list[bytes] = []
    while amount > 0 and (part := source.read(min(amount, 1 << 20))):
        parts.append(part)
        amount -= len(part)
    return b"".join(parts)


def open_store(url: str, credentials_file: Path | None = None) -> FileStore | S3Store:
    """`file:///path`, or `s3://bucket?endpoint=http://host:port[&region=…]` with a credentials file."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        return FileStore(Path(unquote(parts.path)))
    endpoint, bucket, region = parse_s3_url(url)
    return S3Store(endpoint, bucket, *read_key_pair(credentials_file), region)


def parse_s3_url(url: str) -> tuple[str, str, str]:
    """Endpoint, bucket and region of `s3://bucket?endpoint=http://host:port[&region=…]`; `UsageError` for anything else."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme == "s3" and parts.netloc and query.get("endpoint"):
        return query["endpoint"][0], parts.netloc, query.get("region", ["us-east-1"])[0]
    raise UsageError(
        "is not a store",
        field="store URL",
        value=url,
        remedy="use file:///path or s3://bucket?endpoint=http://host:port",
    )


def read_key_pair(path: Path | None) -> tuple[str, str]:
    """Access and secret key: JSON `{"access_key": …, "secret_key": …}` of a mounted secret."""
    try:
        document = json.loads(path.read_text() if path else "{}")
        return str(document["access_key"]), str(document["secret_key"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            "needs JSON with access_key and secret_key",
            field="store credentials file",
            value=None if path is None else str(path),
            remedy="mount the secret and name it in CONTINUAL_STORE_CREDENTIALS_FILE",
        ) from error
