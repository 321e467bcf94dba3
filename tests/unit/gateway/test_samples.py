"""What strangers call their files, and what their tables and archives may cost."""

from __future__ import annotations

import io
import unicodedata
import zipfile

import pytest
from continual_contract.errors import UsageError
from continual_gateway import samples
from continual_gateway.resources import ModelRef, choose, dig
from continual_gateway.samples import Filter, Known, Row, Upload, fits, is_image, label_of, read_table, tidy, unpack
from hypothesis import given, settings
from hypothesis import strategies as st


class Facts:
    """As much of a model as naming needs."""

    classes = ("north", "south")


def archive(**files: bytes) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)
    buffer.seek(0)
    return buffer


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(max_size=500))
def test_a_tidied_name_is_harmless(text):
    """Pins: short, in one spelling, without control and direction characters."""
    name = tidy(text)
    assert len(name) <= samples.MAX_NAME
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in name)


@pytest.mark.parametrize(
    ("name", "image"),
    [("a.png", True), ("A.JPEG", True), ("x/y.webp", True), ("x\\y.jpg", True), (".hidden.png", False),
     ("__MACOSX/a.png", False), ("a.svg", False), ("a.png.exe", False), ("png", False), ("", False)],
)  # fmt: skip
def test_only_image_names_are_taken_up(name, image):
    assert is_image(name) is image


@pytest.mark.parametrize(
    ("name", "upload", "label"),
    [
        ("set/north/a.png", Upload(), "north"),
        ("set\\south\\a.png", Upload(), "south"),
        ("north.png", Upload(), ""),
        ("east/a.png", Upload(), ""),
        ("north/a.png", Upload(label="south"), "south"),
        ("north/a.png", Upload(label="south", table={"a.png": Known("north")}), "north"),
    ],
)
def test_a_label_comes_from_the_table_the_form_or_the_folder(name, upload, label):
    assert label_of(Facts, name, upload) == label


def test_an_unknown_class_is_refused():
    with pytest.raises(UsageError):
        label_of(Facts, "a.png", Upload(label="west"))


def test_a_table_is_read_by_its_names():
    table = read_table("﻿Filename;x\n".replace(";", ",").encode() + b"dir/a.png,1\nb.png,\n")
    assert table == {"a.png": Known("", {"x": "1"}), "b.png": Known("", {})}
    assert read_table(b"file,class,country\na.png,north,Peru\n") == {"a.png": Known("north", {"country": "Peru"})}
    assert read_table(b"") == {}


@pytest.mark.parametrize("raw", [b"country\nPeru\n", b"\xff\xfe", b"file\n" + b"x" * (2 << 20)])
def test_a_wrong_table_is_refused(raw):
    with pytest.raises(UsageError):
        read_table(raw)


def test_an_archive_is_unpacked_image_by_image():
    found = list(unpack(archive(**{"a.png": b"1", "notes.txt": b"2", "sub/b.jpg": b"3"})))
    assert [(file.name, file.data) for file in found] == [("a.png", b"1"), ("sub/b.jpg", b"3")]


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(monkeypatch):
    """Pins the bound on the sum before the first byte, and on each member while it is read, whatever its index claims."""
    bomb = archive(**{"a.png": bytes(1 << 20), "b.png": bytes(1 << 20)})
    monkeypatch.setattr(samples, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(UsageError):
        next(unpack(bomb))
    monkeypatch.setattr(samples, "MAX_UNPACKED_BYTES", 1 << 30)
    monkeypatch.setattr(samples, "MAX_FILE_BYTES", 1000)
    assert len(next(unpack(bomb)).data) == 1001


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"x" * 1000])
def test_what_is_no_archive_is_refused(raw):
    with pytest.raises(UsageError):
        list(unpack(io.BytesIO(raw)))


ROW = Row("h", "1-0", "Anna.png", "north", "truth", "me", 100, {"country": "Perú"}, "south", 0.9, "v1")


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Filter(), True), (Filter(label="north"), True), (Filter(label="south"), False), (Filter(predicted="south"), True),
        (Filter(text="anna"), True), (Filter(text="PERÚ"), True), (Filter(text="chile"), False), (Filter(state="wrong"), True),
        (Filter(state="labelled"), True), (Filter(state="unlabelled"), False), (Filter(since_ms=101), False),
        (Filter(until_ms=99), False),
    ],
)  # fmt: skip
def test_a_filter_chooses_rows(wanted, chosen):
    assert fits(ROW, wanted) is chosen


def test_a_model_is_chosen_by_name_or_namespace_and_name():
    documents = [
        {"metadata": {"namespace": space, "name": name}} for space, name in (("a", "x"), ("b", "x"), ("a", "y"))
    ]
    assert choose(documents, "y") is documents[2]
    assert choose(documents, "b.x") is documents[1]
    assert ModelRef("b", "x").qualified == "b.x"
    for wanted in ("x", "z", "a.z", ""):
        with pytest.raises(UsageError):
            choose(documents, wanted)
    assert dig({"a": {"b": None}}, "a.b", 7) == 7
