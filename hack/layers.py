"""An image out of buildah's store as an archive for containerd, without the layers that containerd has already.

`buildah push` writes every layer anew; for the trainer that is 6 GB and minutes for a change of a few lines of code. The store keeps
with each layer the recipe (tar-split) by which its tar is put together again, bit for bit, from the files it was unpacked to; so a single layer
can be had. Layers are named by the digest of their uncompressed tar, and the digest is checked while writing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class LayerError(Exception):
    """The store does not hold what it says."""


@dataclass(frozen=True, slots=True)
class Store:
    """containers-storage with the overlay driver; `root` is what `buildah info` calls GraphRoot."""

    root: Path

    def manifest(self, image_id: str) -> bytes:
        """The newest manifest of an image: uncompressed layers, named by their digests."""
        folder = self.root / "overlay-images" / image_id
        for path in folder.iterdir():
            key = base64.b64decode(path.name[1:]).decode() if path.name.startswith("=") else path.name
            if key.startswith("manifest-sha256:"):
                return path.read_bytes()
        return (folder / "manifest").read_bytes()

    def config(self, image_id: str) -> bytes:
        key = base64.b64encode(f"sha256:{image_id}".encode()).decode()
        return (self.root / "overlay-images" / image_id / f"={key}").read_bytes()

    def layer(self, digest: str) -> str:
        """The folder of a layer. Raises LayerError when none has this digest."""
        listing = json.loads((self.root / "overlay-layers" / "layers.json").read_text())
        found = [layer["id"] for layer in listing if layer.get("diff-digest") == digest]
        if not found:
            raise LayerError(f"{self.root} has no layer {digest}")
        return str(found[0])

    def read(self, digest: str) -> Iterator[bytes]:
        """The tar of a layer, as it was when it was unpacked."""
        name = self.layer(digest)
        with gzip.open(self.root / "overlay-layers" / f"{name}.tar-split.gz", "rt") as recipe:
            for line in recipe:
                entry: dict[str, Any] = json.loads(line)
                if entry["type"] == 2:
                    yield base64.b64decode(entry["payload"])
                elif entry.get("size"):
                    yield from chunks(self.root / "overlay" / name / "diff" / file_of(entry))


def file_of(entry: dict[str, Any]) -> str:
    """The path of a file in a layer; names that are no text come encoded."""
    if "name_raw" in entry:
        return base64.b64decode(entry["name_raw"]).decode(errors="surrogateescape")
    return str(entry["name"]).removeprefix("/")


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data


def write_archive(store: Store, image_id: str, name: str, present: set[str], out: IO[bytes]) -> int:
    """Write an OCI archive to a pipe; returns how many layers went into it. Raises LayerError when a layer is not what it was."""
    raw = store.manifest(image_id)
    manifest = json.loads(raw)
    here = {
        "mediaType": manifest.get("mediaType", MANIFEST), "digest": digest_of(raw), "size": len(raw),
        "annotations": {"io.containerd.image.name": name},
    }  # fmt: skip
    missing = [layer for layer in manifest["layers"] if layer["digest"] not in present]
    add(out, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
    add(out, blob(here["digest"]), raw)
    add(out, blob(manifest["config"]["digest"]), store.config(image_id))
    for layer in {layer["digest"]: layer for layer in missing}.values():
        add_stream(out, layer["digest"], layer["size"], store.read(layer["digest"]))
    add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [here]}).encode())
    out.write(b"\0" * 1024)
    return len(missing)


def add(out: IO[bytes], name: str, data: bytes) -> None:
    out.write(header(name, len(data)) + data + b"\0" * (-len(data) % 512))


def add_stream(out: IO[bytes], digest: str, size: int, parts: Iterator[bytes]) -> None:
    """One blob of a known size, checked on the way."""
    out.write(header(blob(digest), size))
    seen, length = hashlib.sha256(), 0
    for part in parts:
        seen.update(part)
        length += len(part)
        out.write(part)
    if (length, f"sha256:{seen.hexdigest()}") != (size, digest):
        raise LayerError(
            f"layer {digest} has {length} bytes instead of {size}, or other ones; `buildah rmi` the image and build it anew"
        )
    out.write(b"\0" * (-size % 512))


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf()


def blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
