"""Layers out of buildah's store: put together bit for bit, checked, and only those that are missing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("layers", Path(__file__).resolve().parents[3] / "hack/layers.py")
assert SPEC is not None
assert SPEC.loader is not None
layers = sys.modules["layers"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(layers)

FILES = {
    "opt/a.txt": b"a" * 700,
    "opt/empty": b"",
    "opt/b\xff".encode("latin-1").decode(errors="surrogateescape"): b"b" * 512,
}


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put_layer(root: Path, name: str, files: dict[str, bytes]) -> dict[str, object]:
    """A layer as containers-storage keeps it: unpacked files and the recipe of their tar. Returns its line of the list."""
    buffer = io.BytesIO()
    entries: list[dict[str, object]] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            target = root / "overlay" / name / "diff" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    whole, position = buffer.getvalue(), 0
    for path, data in files.items():
        entries.append({"type": 2, "payload": base64.b64encode(whole[position : position + 512]).decode()})
        raw = path.encode(errors="surrogateescape")
        named = {"name": path} if raw.isascii() else {"name_raw": base64.b64encode(raw).decode()}
        entries.append({"type": 1, "size": len(data), **named})
        end = position + 512 + len(data)
        padding = -len(data) % 512
        entries.append({"type": 2, "payload": base64.b64encode(whole[end : end + padding]).decode()})
        position = end + padding
    entries.append({"type": 2, "payload": base64.b64encode(whole[position:]).decode()})
    (root / "overlay-layers").mkdir(exist_ok=True)
    with gzip.open(root / "overlay-layers" / f"{name}.tar-split.gz", "wt") as recipe:
        recipe.writelines(json.dumps(entry) + "\n" for entry in entries)
    return {"id": name, "diff-digest": sha256(whole), "diff-size": len(whole)}


@pytest.fixture
def store(tmp_path: Path) -> layers.Store:
    """A store with one image of two layers."""
    listed = [put_layer(tmp_path, "first", FILES), put_layer(tmp_path, "second", {"code.py": b"print()"})]
    (tmp_path / "overlay-layers" / "layers.json").write_text(json.dumps(listed))
    config = b'{"os":"linux"}'
    folder = tmp_path / "overlay-images" / "image"
    folder.mkdir(parents=True)
    described = [{"digest": one["diff-digest"], "size": one["diff-size"], "mediaType": "tar"} for one in listed]
    manifest = {"mediaType": layers.MANIFEST, "config": {"digest": sha256(config)}, "layers": described}
    (folder / "manifest").write_text(json.dumps(manifest))
    key = base64.b64encode(b"sha256:image").decode()
    (folder / f"={key}").write_bytes(config)
    return layers.Store(tmp_path)


def written(store: layers.Store, present: set[str]) -> dict[str, bytes]:
    """The files of the archive."""
    buffer = io.BytesIO()
    layers.write_archive(store, "image", "localhost/x:dev", present, buffer)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]  # files only


def test_every_blob_is_named_by_its_digest(store: layers.Store) -> None:
    """Layers come back bit for bit, names that are no text included; the index names manifest and image."""
    files = written(store, set())
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/")}
    assert len(blobs) == 4
    assert all(name == "blobs/" + sha256(data).replace(":", "/") for name, data in blobs.items())
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": "localhost/x:dev"}
    assert "blobs/" + entry["digest"].replace(":", "/") in blobs


def test_a_layer_that_is_there_is_not_written_again(store: layers.Store) -> None:
    """The manifest still names it: containerd finds it by its digest."""
    first, second = json.loads(store.manifest("image"))["layers"]
    files = written(store, {first["digest"]})
    assert "blobs/" + first["digest"].replace(":", "/") not in files
    assert "blobs/" + second["digest"].replace(":", "/") in files


def test_a_layer_that_was_changed_is_refused(store: layers.Store) -> None:
    """One byte of one unpacked file: the digest is wrong, and the error says what to do."""
    (store.root / "overlay/second/diff/code.py").write_bytes(b"evil()!")
    with pytest.raises(layers.LayerError, match="build it anew"):
        written(store, set())
