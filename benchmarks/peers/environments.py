"""Each peer in an environment of its own, pinned by hash in <peer>.txt, kept in the user's cache under the hash of that file.

The files are made from <peer>.in by `make lock-peers`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LARGEST_BYTES = 5 * 2**30
"""More than this altogether is not left on anybody's disk."""


class MissingPeerError(Exception):
    """A peer cannot be installed here; the message says why."""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "continual"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there. Raises MissingPeerError."""
    locked = HERE / f"{peer}.txt"
    folder = cache() / f"peer-{peer}-{hashlib.sha256(locked.read_bytes()).hexdigest()[:16]}"
    python = folder / "bin/python"
    if not (folder / ".ready").exists():
        for old in cache().glob(f"peer-{peer}-*"):
            shutil.rmtree(old)
        _run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)])
        uv = Path(sys.executable).with_name("uv")
        _run([str(uv), "pip", "install", "-q", "--python", str(python), "--require-hashes", "-r", str(locked)])
        (folder / ".ready").touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingPeerError(" ".join((done.stderr or done.stdout).split())[-300:])


def version_of(python: Path, package: str) -> str:
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def trim() -> int:
    """Bytes of all peers' environments; they are removed if that is too much."""
    folders = list(cache().glob("peer-*"))
    total = sum(file.lstat().st_size for folder in folders for file in folder.rglob("*") if not file.is_dir())
    if total > LARGEST_BYTES:
        for folder in folders:
            shutil.rmtree(folder)
    return total
