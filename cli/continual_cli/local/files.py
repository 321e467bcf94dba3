"""Files that several processes write: whole or not at all, one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from continual_contract.errors import StoreUnavailableError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say what a person can do about a full, read-only or broken disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise StoreUnavailableError(
            f"cannot write: {error.strerror}", field=str(path), remedy="free space or set CONTINUAL_HOME elsewhere"
        ) from error


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file by rename: a reader sees the old bytes or the new ones, also after kill -9."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The document, or None if there is no such file."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return document


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive flock; the kernel releases it when the process dies."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Descriptor that holds the lock, or None if somebody else does. Not inherited by children."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    if not path.exists():
        return False
    descriptor = try_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
