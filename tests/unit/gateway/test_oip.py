"""The protocol as values: what a body asks, and how answers are spelled."""

from __future__ import annotations

import contextlib
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from continual_contract.artifacts import InputShape
from continual_contract.entries import PredictionEntry
from continual_contract.errors import UsageError
from continual_gateway.errors import TooLargeError
from continual_gateway.oip import MAX_JSON_BYTES, ImageFiles, RawImages, head_length_of, parse_infer, spell
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = InputShape(height=2, width=3, channels=1)
ANSWER = PredictionEntry("1-0", "v7", "abc", "stable", "owner", "sept à neuf", 0.5, 10, 1)


def body(**tensor: object) -> bytes:
    return json.dumps({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 3, 1], **tensor}]}).encode()


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[[1], [2], [3]], [[4], [5], [6]]], [[1, 2, 3], [4, 5, 6]]])
def test_pixels_may_be_flat_or_nested(data):
    assert parse_infer(body(data=data), None, SHAPE).images == RawImages((1, 2, 3, 1), bytes(range(1, 7)))


@pytest.mark.parametrize(
    ("shape", "read"), [([2, 3, 1], (1, 2, 3, 1)), ([2, 1, 3], (1, 2, 1, 3)), ([1, 3, 2], (1, 3, 2, 1))]
)
def test_a_single_image_may_leave_dimensions_out(shape, read):
    """`[h, w, c]` where the last number can be channels, else `[n, h, w]`."""
    found = parse_infer(body(shape=shape, data=[1] * 6), None, SHAPE).images
    assert isinstance(found, RawImages)
    assert found.shape == read


def test_binary_pixels_follow_the_head():
    head = body(parameters={"binary_data_size": 6})
    assert parse_infer(head + bytes(6), len(head), SHAPE).images == RawImages((1, 2, 3, 1), bytes(6))


def test_a_body_without_a_head_is_cut_by_the_models_size():
    assert parse_infer(bytes(18), 0, SHAPE).images == RawImages((3, 2, 3, 1), bytes(18))


def test_files_come_with_their_lengths_or_as_base64():
    packed = struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0)
    head = body(datatype="BYTES", shape=[2], parameters={"binary_data_size": len(packed)})
    assert parse_infer(head + packed, len(head), SHAPE).images == ImageFiles((b"ab", b""))
    assert parse_infer(body(datatype="BYTES", shape=[1], data=["YWI="]), None, SHAPE).images == ImageFiles((b"ab",))


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"[]", "body"),
        (b"{}", "inputs"),
        (body(name="x"), "name"),
        (body(data=[1.5] * 6), "data"),
        (body(data=[True] * 6), "data"),
        (body(data=[-1] * 6), "data"),
        (body(data=[256] * 6), "data"),
        (body(data=[10**30] * 6), "data"),
        (body(data=[1] * 5), "data"),
        (body(data=[[1, 2], [3]]), "data"),
        (body(data="abc"), "data"),
        (body(), "data"),
        (body(shape=[0, 2, 3, 1], data=[]), "shape"),
        (body(shape=[True, 2, 3, 1], data=[1] * 6), "shape"),
        (body(shape=[1 << 40], data=[]), "shape"),
        (body(shape=[300, 1, 1, 1], data=[1] * 300), "shape"),
        (body(shape=None), "shape"),
        (body(datatype="BYTES", shape=[1], data=["?"]), "data"),
        (body(datatype="BYTES", shape=[2], data=["YQ=="]), "data"),
        (body(parameters={"binary_data_size": 6}), "binary_data_size"),
        (body(parameters=[]), "data"),
        (b'{"id": 7, ' + body(data=[1] * 6)[1:], "id"),
        (body(data=[1] * 6)[:-1] + b', "outputs": [{"name": "soul"}]}', "outputs"),
    ],
)
def test_what_is_wrong_is_named(raw, field):
    with pytest.raises(UsageError) as caught:
        parse_infer(raw, None, SHAPE)
    assert field in caught.value.field


def test_numbers_in_json_are_bounded():
    """Pins that a body whose numbers would take a hundred megabytes is not parsed."""
    with pytest.raises(TooLargeError):
        parse_infer(b" " * (MAX_JSON_BYTES + 1), None, SHAPE)


@pytest.mark.parametrize("header", ["-1", "x", "1.5", str(MAX_JSON_BYTES + 1)])
def test_a_head_length_is_a_number_in_bounds(header):
    with pytest.raises(UsageError):
        head_length_of(header)


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 300)))
def test_no_bytes_are_worse_than_wrong(raw, head_length):
    """Pins that parsing ends in a request or in a UsageError, whatever comes."""
    with contextlib.suppress(UsageError):
        parse_infer(raw, head_length, SHAPE)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs", "outputs", "id"]), inner, max_size=5), max_leaves=20)  # fmt: skip


@settings(max_examples=80, deadline=None, database=None)
@given(JSON, JSON, JSON)
def test_no_document_is_worse_than_wrong(tensor, outputs, parameters):
    """The same for documents of the right words in wrong places."""
    raw = json.dumps({"inputs": [tensor], "outputs": outputs, "parameters": parameters}).encode()
    with contextlib.suppress(UsageError):
        parse_infer(raw, None, SHAPE)


def test_answers_are_spelled_in_json():
    request = parse_infer(body(data=[1] * 6), None, SHAPE)
    raw, head_length = spell("digits", request, [ANSWER])
    assert head_length is None
    document = json.loads(raw)
    assert document["model_version"] == "v7"
    assert {one["name"]: one["data"] for one in document["outputs"]} == {
        "class": ["sept à neuf"], "confidence": [0.5], "version": ["v7"], "request_id": ["1-0"],
    }  # fmt: skip


def test_answers_are_spelled_in_binary_where_that_was_asked_for():
    head = (
        body(data=[1] * 6)[:-1]
        + b', "outputs": [{"name": "confidence", "parameters": {"binary_data": true}}, {"name": "class"}]}'
    )
    raw, head_length = spell("digits", parse_infer(head, None, SHAPE), [ANSWER, ANSWER])
    assert head_length is not None
    document = json.loads(raw[:head_length])
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(raw[head_length:], "<f4").tolist() == [0.5, 0.5]
    assert document["outputs"][1]["data"] == ["sept à neuf"] * 2


@settings(max_examples=100, deadline=None, database=None)
@given(st.text(max_size=20), st.text(max_size=20), st.floats(0, 1), st.sampled_from(["", "mine", '"\\', "\ud800"]))
def test_what_is_spelled_by_hand_is_what_a_parser_reads(model, class_name, confidence, request_id):
    """Pins names with quotes, backslashes and control characters; also an id of half a surrogate pair, which no encoding can spell."""
    request = replace(parse_infer(body(data=[1] * 6), None, SHAPE), id=request_id)
    answer = replace(ANSWER, class_name=class_name, confidence=confidence)
    document = json.loads(spell(model, request, [answer, answer])[0])
    assert document["model_name"] == model
    assert document.get("id", "") == request_id
    assert [one["data"] for one in document["outputs"]][:2] == [[class_name] * 2, [confidence] * 2]
    assert document["outputs"][0] == {"name": "class", "datatype": "BYTES", "shape": [2], "data": [class_name] * 2}
