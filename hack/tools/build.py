"""Build a pinned third-party binary from its Go module, once per pin.

    python hack/tools/build.py minio        prints the binary's path as its last line

Each family `hack/tools/<family>/` holds a go.mod with a `tool` line and its go.sum: that pair is the pin, and its hash names the
cache folder (${XDG_CACHE_HOME:-~/.cache}/continual/tools/<hash>/). A folder named by CONTINUAL_TOOLS that holds the binary wins.
A first build of MinIO takes about four minutes on two cores; afterwards nothing is built. Two builds at once wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Tool:
    """A binary: its module family and its main package."""

    family: str
    package: str
    ldflags: str = "-s -w"


TOOLS = {"minio": Tool("minio", "github.com/minio/minio")}


class BuildError(Exception):
    """The binary cannot be had; the message says what to do."""


def pin(family: Path) -> str:
    """Hash of go.mod and go.sum: what exactly is built."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((family / name).read_bytes())
    return digest.hexdigest()[:16]


def cached(name: str) -> Path:
    """Where the binary lies once it is built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "continual" / "tools" / pin(HERE / TOOLS[name].family) / name


def provided(name: str) -> Path | None:
    """The binary in the folder CONTINUAL_TOOLS, where somebody brings their own."""
    folder = os.environ.get("CONTINUAL_TOOLS")
    path = Path(folder, name) if folder else None
    return path if path is not None and os.access(path, os.X_OK) else None


def ensure(name: str) -> Path:
    """Path of the binary, built if need be."""
    path = provided(name) or cached(name)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            build(TOOLS[name], path)
    return path


def build(tool: Tool, path: Path) -> None:
    """Compile to a temporary name, then rename: a killed build leaves nothing that looks whole."""
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            f"{path.name} is built from its Go module and `go` is not on the PATH; install Go 1.26 or newer, "
            f"or set CONTINUAL_TOOLS to a folder that holds {path.name}"
        )
    print(f"building {tool.package} (once, a few minutes) …", file=sys.stderr)
    partial = path.with_suffix(".partial")
    command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags", tool.ldflags, "-o", str(partial), tool.package]
    environment = os.environ | {"CGO_ENABLED": "0"}
    done = subprocess.run(["nice", "-n", "10", *command], cwd=HERE / tool.family, env=environment, check=False)
    if done.returncode:
        raise BuildError(f"`{' '.join(command)}` failed with {done.returncode}; its output is above")
    partial.rename(path)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in TOOLS:
        print(f"usage: build.py {'|'.join(TOOLS)}", file=sys.stderr)
        return 2
    try:
        print(ensure(arguments[0]))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
