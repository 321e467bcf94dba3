"""Shards: the same samples are the same bytes, and hostile bytes are refused before memory is taken."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from continual_clients.objectstore import FileStore
from continual_clients.shards import (
    Shard,
    concatenate,
    decode_shard,
    encode_shard,
    make_shard,
    read_shard,
    write_shard,
)
from continual_contract.artifacts import SHARD_FIELDS, StoreLayout
from continual_contract.errors import IntegrityError, NotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

LAYOUT = StoreLayout("default", "digits")


def a_shard(n: int = 3) -> Shard:
    rng = np.random.default_rng(n)
    return make_shard(
        rng.integers(0, 255, (n, 4, 5, 3), np.uint8),
        rng.integers(0, 10, n),
        request_id=[f"{i}-0" for i in range(n)],
        event_time=range(n),
        source=["audit"] * n,
        k=[f"schlüssel {i}" for i in range(n)],
        labeler=["anna"] * n,
        metadata=["{}"] * n,
    )


def same(a: Shard, b: Shard) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in SHARD_FIELDS)


@given(n=st.integers(0, 5), text=st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_what_was_encoded_is_what_is_decoded(n: int, text: str) -> None:
    """Any text, any number of samples, none included."""
    shard = make_shard(np.zeros((n, 2, 2, 1), np.uint8), range(n), k=[text] * n)
    decoded = decode_shard(encode_shard(shard))
    assert same(shard, decoded)
    assert decoded.k.tolist() == [text.rstrip("\0")] * n


def test_the_same_samples_are_the_same_bytes() -> None:
    """No clock and no compression level in a digest."""
    assert encode_shard(a_shard()) == encode_shard(decode_shard(encode_shard(a_shard())))


def test_numpy_reads_a_shard() -> None:
    """The format is public: `numpy.load` gives the same arrays."""
    shard = a_shard()
    with np.load(io.BytesIO(encode_shard(shard))) as arrays:
        assert sorted(arrays.files) == sorted(SHARD_FIELDS)
        assert np.array_equal(arrays["image"], shard.image)
        assert arrays["k"].tolist() == shard.k.tolist()


def test_shards_join_in_order() -> None:
    """Text columns of different widths too."""
    joined = concatenate([a_shard(2), a_shard(12)])
    assert len(joined) == 14
    assert joined.request_id.tolist()[-1] == "11-0"


def repacked(**changes: np.ndarray) -> bytes:
    arrays = {name: getattr(a_shard(), name) for name in SHARD_FIELDS} | changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    return buffer.getvalue()


def compressed() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(a_shard(), name) for name in SHARD_FIELDS})
    return buffer.getvalue()


def lying() -> bytes:
    """A header that claims 8 GB over a few bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 64, 64, 2)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image.npy", header.getvalue() + b"\0" * 64)
    return buffer.getvalue()


HOSTILE = {
    "nothing": b"",
    "no zip": b"PK\3\4 hello",
    "missing array": repacked(label=None),  # type: ignore[arg-type]
    "float images": repacked(image=np.zeros((3, 4, 5, 3), np.float32)),
    "small labels": repacked(label=np.zeros(3, np.int32)),
    "lengths differ": repacked(label=np.zeros(4, np.int64)),
    "flat images": repacked(image=np.zeros((3, 60), np.uint8)),
    "scalar": repacked(label=np.array(1)),
    "bytes for text": repacked(k=np.array([b"a", b"b", b"c"])),
    "fortran order": repacked(image=np.asfortranarray(np.zeros((3, 4, 5, 3), np.uint8))),
    "compressed": compressed(),
    "lying header": lying(),
    "cut": encode_shard(a_shard())[:-30],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_shard_of_another_form_is_refused(name: str) -> None:
    """A typed error, and no memory taken on a header's word."""
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="shard"):
            decode_shard(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_objects_in_an_array_are_refused() -> None:
    """Nothing is ever unpickled: an object array is another type."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (3,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(encode_shard(a_shard()))) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) if name != "label.npy" else header.getvalue() + b"\x80\x04N.")
    with pytest.raises(IntegrityError, match="type object"):
        decode_shard(buffer.getvalue())


def test_a_shard_is_found_by_its_digest_and_checked(tmp_path: Path) -> None:
    """Each kind in its folder; other bytes under the same name are refused."""
    store = FileStore(tmp_path)
    digest = write_shard(store, LAYOUT, a_shard(), "holdout")
    assert same(read_shard(store, LAYOUT, digest, "holdout"), a_shard())
    with pytest.raises(NotFoundError):
        read_shard(store, LAYOUT, digest, "shards")
    store.put(LAYOUT.holdout(digest), encode_shard(a_shard(4)))
    with pytest.raises(IntegrityError, match="other bytes"):
        read_shard(store, LAYOUT, digest, "holdout")
