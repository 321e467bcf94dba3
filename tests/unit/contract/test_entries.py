"""Entries survive the wire: what is encoded is what is decoded, and what a stranger writes is read with sane defaults."""

from __future__ import annotations

from typing import Any

import pytest
from continual_contract.entries import (
    DEAD,
    UNSAMPLED,
    Answer,
    LabelEntry,
    decode_answer,
    decode_label,
    decode_prediction,
    decode_request,
    encode_label,
)
from continual_contract.ids import Version, hour_of
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    return Answer(
        version=Version(f"v{draw(st.integers(1, 10_000))}"),
        digest_prefix=draw(st.text("0123456789abcdef", min_size=1, max_size=12)),
        role=draw(st.sampled_from(["stable", "canary", "shadow"])),
        why=draw(st.sampled_from(["owner", "heir", "shadow"])),
        class_name=draw(NAMES),
        confidence=draw(st.integers(0, 10_000)) / 10_000,
        worker_us=draw(st.integers(0, 10**9)),
    )


@given(answers())
def test_an_answer_comes_back_as_it_was_stored(answer: Answer) -> None:
    """Class names may hold spaces and any script: the class comes last."""
    a = answer
    stored = f"{a.version} {a.digest_prefix} {a.role} {a.why} {a.confidence:.4f} {a.worker_us} {a.class_name}"
    assert decode_answer(stored.encode()) == answer


@pytest.mark.parametrize("mark", [UNSAMPLED, DEAD])
def test_a_mark_is_no_answer(mark: bytes) -> None:
    """Settled, but nothing to join."""
    assert decode_answer(mark) is None


@given(answers(), st.integers(0, 2**45))
def test_a_prediction_comes_back_as_it_was_published(answer: Answer, time_ms: int) -> None:
    """Field by field, as `commit` writes them (tests/integration/streams/test_commit.py holds the two together)."""
    a = answer
    fields = {"r": "17-3", "v": a.version, "dg": a.digest_prefix, "role": a.role, "why": a.why,
              "c": a.class_name, "p": f"{a.confidence:.4f}", "us": str(a.worker_us), "t": str(time_ms)}  # fmt: skip
    read = decode_prediction({name.encode(): value.encode() for name, value in fields.items()})
    assert (read.request_id, read.time_ms) == ("17-3", time_ms)
    assert (read.version, read.digest_prefix, read.role, read.why) == (
        answer.version,
        answer.digest_prefix,
        answer.role,
        answer.why,
    )
    assert (read.class_name, read.confidence, read.worker_us) == (
        answer.class_name,
        answer.confidence,
        answer.worker_us,
    )


@given(
    st.builds(
        LabelEntry,
        reference=NAMES,
        class_name=NAMES,
        labeler=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=128),
        source=st.sampled_from(["audit", "truth", "correction"]),
        time_ms=st.none() | st.integers(0, 2**45),
        image=st.binary(max_size=50),
        encoding=st.sampled_from(["", "png", "jpeg"]),
    )
)
def test_a_label_comes_back_as_it_was_sent(label: LabelEntry) -> None:
    wire = {name.encode(): _bytes(value) for name, value in encode_label(label).items()}
    assert decode_label(wire) == label


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def test_a_label_of_a_stranger_never_judges() -> None:
    """Without labeler and source it is an anonymous correction; an unknown source is one too."""
    bare = decode_label({b"r": b"1-0", b"c": b"7"})
    assert (bare.labeler, bare.source, bare.time_ms) == ("anonymous", "correction", None)
    assert decode_label({b"r": b"1-0", b"c": b"7", b"src": b"gospel"}).source == "correction"


def test_a_request_needs_only_its_image() -> None:
    """A plain XADD of `d` is a request under its own entry id."""
    request = decode_request(b"5-1", {b"d": b"abc"})
    assert (request.entry_id, request.request_id, request.data, request.key, request.encoding) == (
        "5-1",
        "5-1",
        b"abc",
        b"",
        "",
    )


def test_a_request_added_again_keeps_its_first_id() -> None:
    """Field `o` is the id under which it is answered and labelled."""
    request = decode_request("9-0", {b"d": b"abc", b"o": b"5-1", b"k": b"key", b"t": b"123"})
    assert (request.entry_id, request.request_id, request.key, request.event_time_ms) == ("9-0", "5-1", b"key", 123)


FIELDS = st.sampled_from([b"d", b"enc", b"k", b"t", b"m", b"o", b"r", b"c", b"by", b"src"]) | st.binary(max_size=5)
VALUES = st.binary(max_size=20) | st.sampled_from([b"9" * 5000, b"\xff-1", b"1-", "²".encode(), b"9" * 40 + b"-0"])


@given(st.dictionaries(FIELDS, VALUES, max_size=8))
def test_reading_a_hostile_entry_never_fails(fields: dict[bytes, bytes]) -> None:
    """Whatever a stranger writes becomes a request or a label with defaults, never an exception in the reader."""
    decode_label(fields)
    assert hour_of(decode_request(b"1-0", fields).request_id) >= 0
