"""Many images at once: a folder or an archive, each image once, with what is known about it.

Every new image becomes a request, so it is answered and shown like any other, and its label, where one is known, follows at once. What the
model sees of an image names it: the same picture in another file is the same sample. The picture is stored last, under that name, as a PNG of
our own making; while it is missing, an upload that was interrupted takes the image up again (the request's key sees to it
that it is not asked twice).
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import posixpath
import unicodedata
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from continual_contract.entries import LabelSource, decode_answer
from continual_contract.errors import BacklogFullError, InvalidImageError, UsageError
from continual_contract.ids import content_hash

from continual_gateway import audit
from continual_gateway.auth import Principal
from continual_gateway.gateway import Gateway
from continual_gateway.inference import Context, fields_of
from continual_gateway.labelling import Label, send_labels
from continual_gateway.models import ModelFacts
from continual_gateway.reaching import in_store, reaching, replies

MAX_FILES = 2000
MAX_FILE_BYTES = 10 << 20
MAX_UNPACKED_BYTES = 1 << 30
MAX_TABLE_BYTES = 2 << 20
MAX_COLUMNS, MAX_VALUE = 20, 200
MAX_NAME = 200
ROWS_KEPT = 50_000
PATIENCE_SECONDS = 20.0
"""How long one image waits while too many requests are open."""
KEY = "sample:"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
NAME_COLUMNS = ("file", "filename", "image", "name", "path")
LABEL_COLUMNS = ("label", "class")

Outcome = Literal["added", "duplicate", "refused"]


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One file of an upload; `name` is what its sender called it, and is only ever shown."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What the sender's table says of a file."""

    label: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of one file."""

    file: str
    outcome: Outcome
    id: str = ""
    hash: str = ""
    label: str = ""
    message: str = ""

    def document(self) -> dict[str, Any]:
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class Upload:
    """What the whole upload is told."""

    source: LabelSource = "truth"
    label: str = ""
    """For every file without a label of its own; empty: the name of its folder, where that is a class."""
    table: Mapping[str, Known] = field(default_factory=dict)


# Reading what was sent ------------------------------------------------------------------------------------------------------------


def unpack(file: BinaryIO) -> Iterator[SampleFile]:
    """The images of a zip archive, one in memory at a time. Errors: UsageError for an archive that is damaged or too large."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if is_image(info.filename) and not info.is_dir()]
            if len(members) > MAX_FILES or sum(info.file_size for info in members) > MAX_UNPACKED_BYTES:
                raise UsageError(
                    "unpacks to too much", field="archive", value=len(members),
                    remedy=f"send at most {MAX_FILES} images and {MAX_UNPACKED_BYTES} bytes at once",
                )  # fmt: skip
            for info in members:
                yield SampleFile(info.filename, _member(archive, info))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UsageError(
            f"is no zip archive that can be read: {error}"[:200], field="archive", remedy="send a plain, whole zip file"
        ) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """At most one byte more than allowed, whatever the archive's index claims."""
    with archive.open(info) as member:
        return member.read(MAX_FILE_BYTES + 1)


def is_image(name: str) -> bool:
    """By its name: a folder also holds other things, which are passed over."""
    base = posixpath.basename(name.replace("\\", "/"))
    return base.lower().endswith(IMAGES) and not base.startswith(".") and "__MACOSX" not in name


def read_table(data: bytes) -> dict[str, Known]:
    """A CSV with a column `file`, perhaps `label`, and anything else about each image. Errors: UsageError."""
    if len(data) > MAX_TABLE_BYTES:
        raise _bad_table("is too large", f"keep it below {MAX_TABLE_BYTES} bytes")
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restkey="", restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad_table(
            f"cannot be read: {error}"[:150], "send UTF-8 with commas and a first line of names"
        ) from error
    named = [{str(name).strip().lower(): str(value).strip() for name, value in row.items() if name} for row in rows]
    if not named:
        return {}
    key = next((column for column in NAME_COLUMNS if column in named[0]), None)
    if key is None:
        raise _bad_table("has no column of file names", f"name one of its columns {', '.join(NAME_COLUMNS)}")
    return {base_name(row[key]): _known(row, key) for row in named[: 10 * MAX_FILES]}


def _known(row: Mapping[str, str], key: str) -> Known:
    label = next((row[column] for column in LABEL_COLUMNS if row.get(column)), "")
    rest = [(name, value) for name, value in row.items() if name not in {key, *LABEL_COLUMNS} and value]
    return Known(label, {tidy(name, 40): tidy(value, MAX_VALUE) for name, value in rest[:MAX_COLUMNS]})


def _bad_table(what: str, remedy: str) -> UsageError:
    return UsageError(what, field="metadata", remedy=remedy)


def base_name(name: str) -> str:
    return posixpath.basename(name.replace("\\", "/"))


def tidy(text: str, limit: int = MAX_NAME) -> str:
    """What a stranger called something, made harmless to look at: no control or direction characters, one spelling, bounded."""
    normal = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8", "replace"))
    visible = "".join(c for c in normal if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"})
    return visible if len(visible) <= limit else visible[: limit - 1] + "…"


# Taking it in ---------------------------------------------------------------------------------------------------------------------


async def ingest(
    gateway: Gateway, facts: ModelFacts, principal: Principal, files: Iterator[SampleFile], upload: Upload
) -> AsyncIterator[Ingested]:
    """One outcome per file, as it comes.

    Errors: RedisUnavailableError, StoreUnavailableError, BacklogFullError: what was told before stands, and sending all again is safe.
    """
    seen: set[str] = set()
    counts = {"added": 0, "duplicate": 0, "refused": 0}
    while (file := await asyncio.to_thread(next, files, None)) is not None:
        done = await _take(gateway, facts, principal, file, upload, seen)
        counts[done.outcome] += 1
        yield done
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    await audit.record(gateway.deps.redis, principal, facts.ref, "upload", said or "nothing")


async def _take(
    gateway: Gateway, facts: ModelFacts, principal: Principal, file: SampleFile, upload: Upload, seen: set[str]
) -> Ingested:
    name = tidy(file.name)
    try:
        label = label_of(facts, file.name, upload)
        if len(file.data) > MAX_FILE_BYTES:
            raise InvalidImageError("is too large", field="file", remedy=f"send at most {MAX_FILE_BYTES} bytes")
        kept = await gateway.decoder.keep(file.data, "", facts.input, facts.fit)
    except (InvalidImageError, UsageError) as error:
        return Ingested(name, "refused", message=error.describe())
    found = content_hash(kept.pixels)
    stored = facts.layout.sample(found)
    if found in seen or await in_store(gateway.deps.store.exists, stored):
        seen.add(found)
        return Ingested(name, "duplicate", hash=found)
    seen.add(found)
    known = upload.table.get(base_name(file.name), Known())
    request_id = await _enqueue(gateway, facts, kept.pixels, found, known)
    if label:
        await send_labels(gateway, facts, principal, [Label(request_id, label, upload.source, image=kept.pixels)])
    done = Ingested(name, "added", request_id, found, label)
    await _write_row(gateway, facts, principal, done, upload, known)
    await in_store(gateway.deps.store.put, stored, kept.png)
    return done


def label_of(facts: ModelFacts, name: str, upload: Upload) -> str:
    """The table's word, else the form's, else the folder's name where it is a class. Errors: UsageError for an unknown class."""
    parts = name.replace("\\", "/").split("/")
    folder = tidy(parts[-2]) if len(parts) > 1 else ""
    said = upload.table.get(parts[-1], Known()).label or upload.label
    if said and said not in facts.classes:
        raise UsageError("the model has no such class", field="label", value=said[:80], remedy="use one of its classes")
    return said or (folder if folder in facts.classes else "")


async def _enqueue(gateway: Gateway, facts: ModelFacts, pixels: bytes, found: str, known: Known) -> str:
    """The request's id; waits while too many are open. Errors: BacklogFullError after twenty seconds, RedisUnavailableError."""
    context = Context(metadata=_metadata(known))
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            return await gateway.answers(facts).add(
                fields_of(pixels, context), KEY + found, facts.window.total_seconds()
            )
        except BacklogFullError:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


def _metadata(known: Known) -> str:
    """At most 2 kB of JSON; values beyond that are only in the table."""
    kept: dict[str, str] = {}
    for name, value in known.values.items():
        if len(json.dumps({**kept, name: value}, ensure_ascii=False).encode()) > 2000:
            break
        kept[name] = value
    return json.dumps(kept, ensure_ascii=False) if kept else ""


async def _write_row(
    gateway: Gateway, facts: ModelFacts, principal: Principal, done: Ingested, upload: Upload, known: Known
) -> None:
    now_ms = int(gateway.deps.clock() * 1000)
    row = {
        "hash": done.hash, "id": done.id, "file": done.file, "label": done.label, "by": principal.name,
        "source": upload.source if done.label else "", "time_ms": now_ms, "values": dict(known.values),
    }  # fmt: skip
    async with reaching(gateway) as client:
        pipe = client.pipeline(transaction=False)
        pipe.hset(facts.keys.ingested_rows, done.hash, json.dumps(row, ensure_ascii=False))
        pipe.zadd(facts.keys.ingested, {done.hash: now_ms})
        pipe.zrange(facts.keys.ingested, 0, -ROWS_KEPT - 1)
        *_, old = await pipe.execute()
        if old:
            await replies(client.hdel(facts.keys.ingested_rows, *old))
            await replies(client.zrem(facts.keys.ingested, *old))


# Looking at it --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows; empty fields choose all."""

    label: str = ""
    predicted: str = ""
    text: str = ""
    """In the file's name or any value, in any case."""
    state: Literal["", "labelled", "unlabelled", "wrong"] = ""
    since_ms: int = 0
    until_ms: int = 1 << 60


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of the table, with what the stream said of it."""

    hash: str
    id: str
    file: str
    label: str
    source: str
    by: str
    time_ms: int
    values: Mapping[str, str]
    predicted: str = ""
    confidence: float = 0.0
    version: str = ""

    @property
    def wrong(self) -> bool:
        return bool(self.label and self.predicted and self.label != self.predicted)

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {
            "values": dict(self.values),
            "wrong": self.wrong,
        }


@dataclass(frozen=True, slots=True)
class Page:
    rows: tuple[Row, ...]
    total: int
    """Samples in the table, before the filter."""
    next: str
    """Cursor for the rows after these; empty at the end."""


PAGE_SCANNED = 500
PAGES_SCANNED = 20


async def listing(gateway: Gateway, facts: ModelFacts, wanted: Filter, limit: int, cursor: str = "") -> Page:
    """Newest first. Errors: UsageError for a cursor of nobody's, RedisUnavailableError."""
    if cursor and not cursor.isdigit():
        raise UsageError("is not a cursor", field="cursor", value=cursor[:40], remedy="use `next` of the page before")
    place, found = int(cursor or 0), list[Row]()
    async with reaching(gateway) as client:
        total = int(await replies(client.zcard(facts.keys.ingested)))
        for _ in range(PAGES_SCANNED):
            rows = await _rows(client, facts, place)
            for row in rows:
                place += 1
                if fits(row, wanted):
                    found.append(row)
                if len(found) == limit:
                    break
            if len(found) == limit or len(rows) < PAGE_SCANNED:
                break
    return Page(tuple(found), total, str(place) if place < total else "")


async def _rows(client: Any, facts: ModelFacts, start: int) -> list[Row]:
    hashes: Any = await replies(client.zrevrange(facts.keys.ingested, start, start + PAGE_SCANNED - 1))
    if not hashes:
        return []
    raw: Any = await replies(client.hmget(facts.keys.ingested_rows, hashes))
    documents = [json.loads(one) for one in raw if one]
    pipe = client.pipeline(transaction=False)
    for document in documents:
        pipe.hget(facts.keys.answers_of(document["id"]), document["id"])
    answers = await pipe.execute() if documents else []
    return [_row(document, answer) for document, answer in zip(documents, answers, strict=True)]


def _row(document: dict[str, Any], raw: bytes | None) -> Row:
    answer = decode_answer(raw) if raw else None
    if answer is None:
        return Row(**document)
    return Row(**document, predicted=answer.class_name, confidence=answer.confidence, version=answer.version)


def fits(row: Row, wanted: Filter) -> bool:
    """Whether the filter chooses this row."""
    states = {"": True, "labelled": bool(row.label), "unlabelled": not row.label, "wrong": row.wrong}
    text = wanted.text.casefold()
    return (
        wanted.since_ms <= row.time_ms <= wanted.until_ms
        and wanted.label in {"", row.label}
        and wanted.predicted in {"", row.predicted}
        and states[wanted.state]
        and (not text or any(text in part.casefold() for part in (row.file, *row.values.values())))
    )


def state_named(text: str) -> Literal["", "labelled", "unlabelled", "wrong"]:
    """Errors: UsageError."""
    for state in ("", "labelled", "unlabelled", "wrong"):
        if text == state:
            return state
    raise UsageError("is not a state", field="state", value=text[:40], remedy="use labelled, unlabelled or wrong")
