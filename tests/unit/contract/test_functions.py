"""Calls into the function library as values: keys of one slot, arguments in order, errors as our own."""

from __future__ import annotations

import json
import re

import pytest
from continual_contract import errors
from continual_contract.functions import (
    FUNCTIONS,
    LIBRARY,
    Answered,
    Author,
    Section,
    claim_call,
    commit_call,
    configure_call,
    dead_call,
    enqueue_call,
    error_from_reply,
    forget_call,
    library_source,
    parse_claim,
    parse_survey,
    reap_call,
    renew_call,
    replay_call,
    route_call,
    survey_call,
    wipe_call,
)
from continual_contract.keys import ModelKeys

KEYS = ModelKeys("team", "digits")
AUTHOR = Author("v1", "abc", 30)
CALLS = [
    enqueue_call(KEYS, {"d": b"x"}, "mine", 10, 60),
    commit_call(KEYS, "v1@1", AUTHOR, [Section("o", "stable", "owner", [Answered("1-0", "1-0", "cat", 0.5)])], ["2-0"]),
    renew_call(KEYS, "v1@1", "v1", "v1/a", ["1-0"]),
    claim_call(KEYS, "v1@1", "v1", "v1/a", 100, 10),
    forget_call(KEYS, "v1@1", "v1/a"),
    dead_call(KEYS, "v1@1", "v1", "1-0", "1-0", "Why", "because"),
    replay_call(KEYS, "1-0"),
    route_call(KEYS, 0, 1, "u", [("v1", 10_000)]),
    configure_call(KEYS, "u", 1, "{}"),
    wipe_call(KEYS, "u", 1),
    survey_call(KEYS),
    reap_call(KEYS, 1, 1, 1),
]


def test_every_function_of_the_library_has_a_builder() -> None:
    """Names in Lua, names in the list and names in the calls are the same, each with the library's version."""
    registered = re.findall(r"^register\('(\w+)'", library_source(), re.MULTILINE)
    assert sorted(registered) == sorted(FUNCTIONS)
    assert sorted(call.name for call in CALLS) == sorted(f"{LIBRARY}_{name}" for name in FUNCTIONS)
    assert library_source().startswith(f"#!lua name={LIBRARY}\n")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_touches_one_slot_and_counts_its_keys(call: object) -> None:
    """FCALL name numkeys keys… args…"""
    words = call.command()  # type: ignore[attr-defined]
    assert words[:2] == ("FCALL", call.name)  # type: ignore[attr-defined]
    assert {name.partition("}")[0] for name in words[3 : 3 + words[2]]} == {"ctm:{team/digits"}


def test_a_commit_names_each_hour_bucket_once() -> None:
    """Buckets come from the request ids; entries refer to them by position."""
    hour = 3_600_000
    owned = [Answered(f"{n}-1", f"{n}-1", "big cat", 0.25) for n in (0, 5, hour, hour + 7)]
    again = [Answered(f"{n}-9", f"{n}-0", "cat", 1.0) for n in (2 * hour, 6, 2 * hour)]
    sections = [Section("o", "stable", "owner", owned), Section("s", "shadow", "shadow", again)]
    call = commit_call(KEYS, "v1@1", AUTHOR, sections, ["9-9"], 60)
    assert call.keys[3:] == (KEYS.answers(0), KEYS.answers(1), KEYS.answers(2))
    assert call.args[:7] == ("v1@1", "v1", "abc", 30, 60, 1, "9-9")
    rows = list(call.args[7:])
    assert rows[:12] == ["o", "stable", "owner", 1, 0, 2, "0-1", "0.2500", "big cat", "5-1", "0.2500", "big cat"]
    assert rows[12:18] == ["o", "stable", "owner", 2, 0, 2]
    assert rows[24:34] == ["s", "shadow", "shadow", 3, 1, 1, f"{2 * hour}-9", "1.0000", "cat", f"{2 * hour}-0"]
    assert [rows[at : at + 6] for at in (34, 44)] == [["s", "shadow", "shadow", position, 1, 1] for position in (1, 3)]


def test_a_route_says_what_is_wanted_as_json() -> None:
    """Order of shares is kept: the first is the stable one."""
    call = route_call(KEYS, 4, 2, "u", [("v1", 9000), ("v2", 1000)], ["v1", "v2"], 10_000, "s", {"v0": "v1"}, 3)
    assert call.args[:4] == (4, 2, "u", 3)
    assert json.loads(str(call.args[4])) == {
        "shares": [["v1", 9000], ["v2", 1000]], "shadow": ["v1", "v2"], "shadow_bp": 10_000, "salt": "s", "heirs": {"v0": "v1"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("STALE routing is at generation 4", errors.StaleRoutingError),
        ("FENCED v1@1 is served by v2, not by v1", errors.FencedError),
        ("FOREIGN routing belongs to uid a", errors.ForeignOwnerError),
        ("BACKLOG 10 requests wait, limit 10", errors.BacklogFullError),
        ("SHARES sum is 1, not 10000", errors.UsageError),
        ("NOTFOUND no dead letter 1-0", errors.NotFoundError),
        ("NOGROUP No such key", errors.StaleRoutingError),
        ("command not allowed when used memory > 'maxmemory'.", errors.RedisUnavailableError),
        ("Function not found", errors.RedisUnavailableError),
        ("WRONGTYPE Operation", errors.ContinualError),
    ],
)
def test_error_replies_become_our_errors(text: str, kind: type[errors.ContinualError]) -> None:
    """The first word decides; the message names a remedy."""
    error = error_from_reply(text)
    assert type(error) is kind
    assert kind is errors.ContinualError or error.remedy


def test_replies_are_read_as_bytes_or_text() -> None:
    """Whatever the client decodes."""
    taken, gone = parse_claim([[[b"1-0", 2, [b"d", b"x"]]], [b"2-0"]])
    assert (taken[0].entry_id, taken[0].deliveries, taken[0].fields, gone) == ("1-0", 2, {b"d": b"x"}, ["2-0"])
    (state,) = parse_survey([["v1@1", "v1", "v1", "", 3, 4, "5-0", b"2000-0"]]).values()
    assert (state.backlog, state.until, state.lag_seconds(5000)) == (7, None, 3.0)
