"""The evaluator's state as bytes: a head of JSON, and the rows of each table. Floats survive JSON exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from continual_contract.config import EvaluatorConfig
from continual_contract.ids import canonical_json
from continual_contract.report import ShardRef

from continual_workers.evaluation.drift import CHUNK, Watch
from continual_workers.evaluation.evidence import PairState, parse_observation
from continual_workers.evaluation.joined import Joined
from continual_workers.evaluation.samples import Collector
from continual_workers.evaluation.signals import Signals
from continual_workers.evaluation.state import LabelCounts, Listed, State
from continual_workers.evaluation.table import Table
from continual_workers.evaluation.tally import Tally
from continual_workers.evaluation.votes import Quota


@dataclass(frozen=True, slots=True)
class RowCodec:
    """How one table's rows become bytes; `decode` is told the row's name."""

    encode: Callable[[Any], bytes]
    decode: Callable[[str, bytes], Any]


def _raw(value: bytes) -> bytes:
    return value


def _same(_: str, raw: bytes) -> bytes:
    return raw


def _encode_listed(listed: Listed) -> bytes:
    return canonical_json({"ref": listed.ref.model_dump(mode="json"), "gate": listed.gate, "units": listed.units})


def _decode_listed(_: str, raw: bytes) -> Listed:
    row = json.loads(raw)
    return Listed(ShardRef.model_validate(row["ref"]), row["gate"], tuple(row["units"]))


RAW = RowCodec(_raw, _same)
CODECS: dict[str, RowCodec] = {
    "joined": RowCodec(lambda row: canonical_json(row.dump()), lambda name, raw: Joined.load(name, json.loads(raw))),
    "population": RAW,
    "clusters": RAW,
    "judged": RAW,
    "trained": RAW,
    "held": RAW,
    "contents": RAW,
    "samples": RAW,
    "pixels": RAW,
    "shards": RowCodec(_encode_listed, _decode_listed),
    "tail": RowCodec(lambda observation: observation.line(), lambda _, raw: parse_observation(raw)),
    "parts": RAW,
}


def tables_of(state: State) -> dict[str, Table[Any]]:
    return {name: getattr(state.tables, name) for name in CODECS}


def fold_parts(state: State) -> None:
    """Lay the long lists of the head into the table `parts`, in pieces that change seldom."""
    parts = state.tables.parts
    _put_if_new(parts, "reference", canonical_json(state.signals.reference))
    marks = bytes(state.watch.marks) if state.watch else b""
    count = -(-len(marks) // CHUNK)
    for index in range(max(0, count)):
        _put_if_new(parts, f"marks/{index:06d}", marks[index * CHUNK : (index + 1) * CHUNK])
    for name in [name for name in parts if name.startswith("marks/") and int(name[6:]) >= count]:
        parts.remove(name)


def _put_if_new(parts: Table[bytes], name: str, value: bytes) -> None:
    if parts.get(name) != value:
        parts.put(name, value)


def encode_head(state: State, offsets: Mapping[str, str]) -> bytes:
    """Everything but the tables, and how far each stream has been read."""
    return canonical_json({
        "offsets": dict(offsets),
        "config": state.config.model_dump(mode="json") if state.config else None,
        "clock": state.clock,
        "labels": asdict(state.labels),
        "quota": state.quota.dump(),
        "tallies": [[version, tally.dump()] for version, tally in state.tallies.items()],
        "signals": state.signals.dump(),
        "watch": state.watch.dump() if state.watch else None,
        "pair": state.pair.dump() if state.pair else None,
        "pair_is_new": state.pair_is_new,
        "collector": state.collector.dump(),
        "shard_sequence": state.shard_sequence,
    })  # fmt: skip


def decode_state(head: bytes, rows: Mapping[str, Mapping[str, bytes]]) -> tuple[State, dict[str, str]]:
    """Rebuild a state and its offsets from what was committed."""
    raw: dict[str, Any] = json.loads(head)
    state = State()
    for name, table in tables_of(state).items():
        table.rows.update({row: CODECS[name].decode(row, value) for row, value in rows.get(name, {}).items()})
    parts = state.tables.parts.rows
    state.config = EvaluatorConfig.model_validate(raw["config"]) if raw["config"] else None
    state.clock, state.shard_sequence = raw["clock"], raw["shard_sequence"]
    state.labels, state.quota = LabelCounts(**raw["labels"]), Quota.load(raw["quota"])
    state.tallies = {version: Tally.load(tally) for version, tally in raw["tallies"]}
    reference = [(name, confidence) for name, confidence in json.loads(parts.get("reference", b"[]"))]
    state.signals = Signals.load(raw["signals"], reference)
    marks = b"".join(parts[name] for name in sorted(parts) if name.startswith("marks/"))
    state.watch = Watch.load(raw["watch"], marks.decode()) if raw["watch"] else None
    state.pair = PairState.load(raw["pair"]) if raw["pair"] else None
    state.pair_is_new = raw["pair_is_new"]
    state.collector = Collector.load(raw["collector"], state.tables.samples)
    state.reindex()
    return state, raw["offsets"]
