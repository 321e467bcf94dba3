"""Who owns a request: the same answer everywhere, without coordination.

Every consumer group reads the whole stream. An *epoch* says which groups share the entries after a position, in basis
points; a keyed hash of the request decides. Shares are exact shares of the stream, whatever the number of pods. The rules and the
mutations that broke them are in `docs/architecture.md` (streams).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from continual_contract.ids import EntryId, GroupName, Version, id_key

BASIS_POINTS = 10_000


def keyed_point(unit: bytes, salt: str, purpose: str = "owner") -> int:
    """Where a unit falls in 0..9999. blake2b-64, keyed by salt, personalised by purpose: independent draws per purpose."""
    draw = _keyed(salt, purpose).copy()
    draw.update(unit)
    return int.from_bytes(draw.digest(), "big") * BASIS_POINTS >> 64


@lru_cache(maxsize=256)
def _keyed(salt: str, purpose: str) -> hashlib.blake2b:
    """The hash before its unit: to copy it costs a third less than to begin anew."""
    return hashlib.blake2b(digest_size=8, key=salt.encode()[:64], person=purpose.encode()[:16])


def is_audited(request_id: str, salt: str, audit_percent: float) -> bool:
    """Whether people are asked to label this request: the gate's fair sample."""
    return keyed_point(request_id.encode(), salt, "audit") < audit_percent * 100


def is_sampled(request_id: str, salt: str, sample_percent: float) -> bool:
    """Whether this request's answer is kept for labels (otherwise only the mark UNSAMPLED is)."""
    return sample_percent >= 100 or keyed_point(request_id.encode(), salt, "sample") < sample_percent * 100


def separation_unit(k: bytes, pixels: bytes) -> bytes:
    """What holdout and training are separated by: the caller's `k` if present, else blake2b-128 of the decoded HWC pixels."""
    return k or hashlib.blake2b(pixels, digest_size=16).digest()


def is_held_out(unit: bytes, holdout_percent: float) -> bool:
    """Whether a unit of separation (`k`, else the pixels' hash) belongs to the holdout; unsalted: same answer for ever."""
    return keyed_point(unit, "", "holdout") < holdout_percent * 100


@dataclass(frozen=True, slots=True)
class Epoch:
    """Who shares the entries with an id greater than `after`, until the next epoch begins."""

    after: EntryId
    shares: tuple[tuple[GroupName, int], ...]
    shadow: tuple[GroupName, ...]
    shadow_bp: int
    salt: str

    def owner(self, request_id: str, key: bytes) -> GroupName:
        """Group that owns the request: hash of `k` if it has one, else of its request id. One share needs no hash."""
        shares = self.shares
        if len(shares) == 1:
            return shares[0][0]
        point = keyed_point(key or request_id.encode(), self.salt)
        for group, width in shares:
            if point < width:
                return group
            point -= width
        raise AssertionError(f"shares of epoch {self.after} do not sum to {BASIS_POINTS}")

    def is_shadowed(self, request_id: str, key: bytes) -> bool:
        """Whether the groups in `shadow` that do not own this request answer it in the dark."""
        if self.shadow_bp >= BASIS_POINTS:
            return True
        return self.shadow_bp > 0 and keyed_point(key or request_id.encode(), self.salt, "shadow") < self.shadow_bp


@dataclass(frozen=True, slots=True)
class Group:
    version: Version
    serve: Version
    """The version whose workers work in it: its own, or its heir."""
    until: EntryId | None = None
    """Closed: owns nothing after this id; destroyed once drained."""


@dataclass(frozen=True, slots=True)
class Routing:
    """The routing table of one model; `gen` is its compare-and-set generation."""

    gen: int
    uid: str
    token: int
    epochs: tuple[Epoch, ...]
    groups: dict[GroupName, Group]
    afters: tuple[tuple[int, int], ...] = field(default=())

    def epoch_of(self, entry_id: str) -> Epoch | None:
        """Epoch with the largest `after` below the id; None: older than the table, never acknowledge it."""
        index = bisect_left(self.afters, id_key(entry_id)) - 1
        return self.epochs[index] if index >= 0 else None

    def groups_served_by(self, version: str) -> list[GroupName]:
        return [name for name, group in self.groups.items() if group.serve == version]


def parse_routing(raw: bytes | str) -> Routing:
    """Read the JSON that `route` writes. Lua spells an empty array `{}`: both are accepted."""
    document: dict[str, Any] = json.loads(raw)
    epochs = tuple(
        Epoch(
            after=EntryId(e["after"]),
            shares=tuple((GroupName(g), int(w)) for g, w in e["shares"]),
            shadow=tuple(GroupName(g) for g in (e.get("shadow") or ())),
            shadow_bp=int(e.get("shadow_bp", 0)),
            salt=e.get("salt", ""),
        )
        for e in (document.get("epochs") or ())
    )
    groups = {
        GroupName(name): Group(
            Version(g["version"]), Version(g["serve"]), EntryId(g["until"]) if g.get("until") else None
        )
        for name, g in (document.get("groups") or {}).items()
    }
    afters = tuple(id_key(e.after) for e in epochs)
    return Routing(int(document["gen"]), document.get("uid", ""), int(document.get("token", 0)), epochs, groups, afters)
