"""Ownership as arithmetic: every request has one owner, shares are what they say, draws are independent."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from continual_contract.ids import EntryId, GroupName, Version, hour_of, id_key
from continual_contract.keys import ModelKeys
from continual_contract.routing import (
    BASIS_POINTS,
    Epoch,
    is_audited,
    is_held_out,
    is_sampled,
    keyed_point,
    parse_routing,
)
from hypothesis import given
from hypothesis import strategies as st

IDS = [f"{1_700_000_000_000 + n}-{n % 3}" for n in range(20_000)]


@st.composite
def shares(draw: st.DrawFn) -> tuple[tuple[GroupName, int], ...]:
    """Up to five groups with widths that sum to 10 000; zero widths included."""
    cuts = sorted(draw(st.lists(st.integers(0, BASIS_POINTS), min_size=0, max_size=4)))
    edges = [0, *cuts, BASIS_POINTS]
    return tuple((GroupName(f"v{i}@{i}"), b - a) for i, (a, b) in enumerate(pairwise(edges)))


def epoch(parts: tuple[tuple[GroupName, int], ...], salt: str = "s", after: str = "0-0", shadow_bp: int = 0) -> Epoch:
    return Epoch(EntryId(after), parts, tuple(g for g, _ in parts), shadow_bp, salt)


@given(parts=shares(), salt=st.text(max_size=30), key=st.binary(min_size=1, max_size=40))
def test_a_key_has_one_owner_and_it_has_a_share(
    parts: tuple[tuple[GroupName, int], ...], salt: str, key: bytes
) -> None:
    """Same key, same owner, whatever the request id; a group of width 0 owns nothing."""
    table = epoch(parts, salt)
    owners = {table.owner(request_id, key) for request_id in ("1-0", "2-7", "1700000000000-1")}
    assert len(owners) == 1
    assert dict(parts)[owners.pop()] > 0


@given(parts=shares())
def test_every_point_belongs_to_exactly_one_share(parts: tuple[tuple[GroupName, int], ...]) -> None:
    """The shares partition 0..9999: widths counted over all points are the widths declared."""
    ranges = []
    start = 0
    for _, width in parts:
        ranges.append(range(start, start + width))
        start += width
    assert start == BASIS_POINTS
    assert sum(map(len, ranges)) == BASIS_POINTS


@pytest.mark.parametrize("width", [0, 1, 100, 1000, 5000, 9999, 10_000])
@pytest.mark.parametrize("salt", ["s", "rollout-7", ""])
def test_shares_are_exact_within_binomial_bounds(width: int, salt: str) -> None:
    """Of 20 000 requests a share of p owns 20 000·p, give or take four standard deviations."""
    table = epoch(((GroupName("a"), BASIS_POINTS - width), (GroupName("b"), width)), salt)
    mine = sum(table.owner(request_id, b"") == "b" for request_id in IDS)
    p = width / BASIS_POINTS
    assert abs(mine - len(IDS) * p) <= 4 * math.sqrt(len(IDS) * p * (1 - p))


def test_a_growing_share_keeps_what_it_had() -> None:
    """Salt and order stay during a rollout: whoever the canary served at 10 % it serves at 50 %."""
    small = epoch(((GroupName("old"), 9000), (GroupName("new"), 1000)))
    large = epoch(((GroupName("old"), 5000), (GroupName("new"), 5000)))
    kept = [i for i in IDS[:5000] if small.owner(i, b"") == "new"]
    assert kept
    assert all(large.owner(i, b"") == "new" for i in kept)


def test_draws_for_different_purposes_are_independent() -> None:
    """Owner, shadow, audit and sample membership say nothing of each other: joint counts as under independence (chi-square)."""
    purposes = ("owner", "shadow", "audit", "sample")
    for first in purposes:
        for second in purposes:
            if first < second:
                both = sum(
                    keyed_point(i.encode(), "s", first) < 5000 and keyed_point(i.encode(), "s", second) < 5000
                    for i in IDS
                )
                assert abs(both - len(IDS) / 4) <= 4 * math.sqrt(len(IDS) * 3 / 16), (first, second)


@given(st.sampled_from(IDS), st.text(max_size=10))
def test_percentages_at_the_ends_are_none_and_all(request_id: str, salt: str) -> None:
    """0 % never, 100 % always."""
    assert not is_audited(request_id, salt, 0)
    assert is_audited(request_id, salt, 100)
    assert is_sampled(request_id, salt, 100)
    assert not is_sampled(request_id, salt, 0)


def test_the_holdout_never_changes_its_mind() -> None:
    """Unsalted: the same unit is held out in every model, run and version; a larger percentage keeps the smaller holdout."""
    units = [f"unit-{n}".encode() for n in range(5000)]
    held = [u for u in units if is_held_out(u, 10)]
    assert abs(len(held) - 500) < 4 * math.sqrt(5000 * 0.1 * 0.9)
    assert all(is_held_out(u, 20) for u in held)
    assert held[:3] == [u for u in units if is_held_out(u, 10)][:3]


def table(**changes: object) -> str:
    document = {
        "gen": 3,
        "uid": "u",
        "token": 2,
        "epochs": [
            {"after": "0-0", "shares": [["v1@1", 10_000]], "salt": "s"},
            {"after": "5-1", "shares": [["v1@1", 9000], ["v2@2", 1000]], "shadow": ["v1@1", "v2@2"], "shadow_bp": 10_000, "salt": "s"},
        ],
        "groups": {
            "v1@1": {"version": "v1", "serve": "v1"},
            "v2@2": {"version": "v2", "serve": "v1", "until": "9-0"},
        },
    }  # fmt: skip
    return json.dumps({**document, **changes})


def test_the_epoch_of_an_entry_begins_below_its_id() -> None:
    """`after` is exclusive; ids compare as numbers, not as text."""
    routing = parse_routing(table())
    assert [e.after if (e := routing.epoch_of(i)) else None for i in ("0-0", "0-1", "5-1", "5-2", "10-0", "40-0")] == [
        None, "0-0", "0-0", "5-1", "5-1", "5-1",
    ]  # fmt: skip


def test_a_table_without_an_epoch_for_the_entry_says_so() -> None:
    """Entries older than the table have no owner: None, and they are never acknowledged."""
    routing = parse_routing(table(epochs=[{"after": "100-0", "shares": [["v1@1", 10_000]]}]))
    assert routing.epoch_of("100-0") is None
    assert routing.epoch_of("100-1") is not None


def test_lua_spells_empty_lists_as_objects() -> None:
    """cjson writes an empty table as {}: both spellings read as empty."""
    routing = parse_routing(table(epochs={}, groups={}))
    assert (routing.epochs, routing.groups) == ((), {})
    one = parse_routing(table(epochs=[{"after": "0-0", "shares": [["v1@1", 10_000]], "shadow": {}}]))
    assert one.epochs[0].shadow == ()


def test_groups_are_found_by_the_version_that_works_in_them() -> None:
    """An heir works in its own group and in those it inherited."""
    routing = parse_routing(table())
    assert sorted(routing.groups_served_by("v1")) == ["v1@1", "v2@2"]
    assert routing.groups_served_by("v2") == []
    assert routing.groups[GroupName("v2@2")].version == Version("v2")


@given(st.integers(0, 2**48), st.integers(0, 2**20), st.integers(0, 2**48), st.integers(0, 2**20))
def test_ids_order_as_pairs_of_integers(a: int, b: int, c: int, d: int) -> None:
    """Text order would put 10-0 before 9-0."""
    assert (id_key(f"{a}-{b}") < id_key(f"{c}-{d}")) == ((a, b) < (c, d))
    assert hour_of(f"{a}-{b}") == a // 3_600_000


def test_all_keys_of_a_model_share_one_hash_tag() -> None:
    """Functions touch several keys in one call: they must lie in one slot."""
    keys = ModelKeys("team", "digits")
    names = [keys.requests, keys.predictions, keys.labels, keys.dead, keys.routing, keys.serve, keys.report, keys.config,
             keys.alarms, keys.answers(5), keys.seen("a"), keys.progress("j")]  # fmt: skip
    assert {name[: name.index("}") + 1] for name in names} == {"ctm:{team/digits}"}
    assert len(set(names)) == len(names)
