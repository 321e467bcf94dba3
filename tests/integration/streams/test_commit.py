"""What `commit` writes, read back with the decoders: sections of any kind, ids given earlier, names in any script."""

from __future__ import annotations

from typing import Any

from continual_contract.entries import UNSAMPLED, Answer, decode_answer, decode_prediction
from continual_contract.functions import Answered, Author, Section, commit_call, parse_commit
from continual_contract.ids import Version
from streams_driver import KEYS, Bench
from test_faults import read

AUTHOR = Author("v1", "0123456789ab", 123)
NAMES = ("cat", "big cat", "Würfel – 骰子", "'; XADD x", "a\nb")


def test_every_section_is_stored_and_published_as_it_was_said(loaded_redis: Any) -> None:
    """Own, unsampled, shadow, and re-added requests in one call; each lies under its own request id, in that id's hour."""
    bench = Bench(loaded_redis)
    bench.route([("v1", 10_000)])
    bench.produce([b"x"] * 5)
    own, long_ago, plain, dark, gone = read(bench, "v1@1", "v1/a")
    bench.client.xack(KEYS.requests, "v1@1", gone)
    sections = [
        Section("o", "stable", "owner", [Answered(own, own, NAMES[0], 0.12345), Answered(long_ago, "7200000-3", NAMES[1], 1.0)]),
        Section("u", "canary", "heir", [Answered(plain, plain, NAMES[2], 0.5)]),
        Section("s", "shadow", "shadow", [Answered(dark, dark, NAMES[3], 0.25)]),
        Section("o", "stable", "owner", [Answered(gone, gone, NAMES[4], 0.25)]),
    ]  # fmt: skip
    result = parse_commit(bench.run(commit_call(KEYS, "v1@1", AUTHOR, sections, (), 7200)))
    assert (result.acknowledged, result.published, result.lost) == (4, 3, 1)
    assert bench.client.xpending(KEYS.requests, "v1@1")["pending"] == 0

    def stored(request_id: str, field: str = "") -> bytes:
        return bench.client.hget(KEYS.answers_of(request_id), field or request_id)

    assert decode_answer(stored(own)) == Answer(Version("v1"), "0123456789ab", "stable", "owner", "cat", 0.1235, 123)
    assert decode_answer(stored("7200000-3")) == Answer(
        Version("v1"), "0123456789ab", "stable", "owner", "big cat", 1.0, 123
    )
    assert stored(plain) == UNSAMPLED
    assert stored(dark) is None
    assert decode_answer(stored(dark, f"{dark}/v1")) == Answer(
        Version("v1"), "0123456789ab", "shadow", "shadow", NAMES[3], 0.25, 123
    )
    assert stored(gone) is None

    published = [decode_prediction(fields) for _, fields in bench.client.xrange(KEYS.predictions)]
    assert [(p.request_id, p.class_name, p.confidence, p.role, p.why, p.worker_us) for p in published] == [
        (own, NAMES[0], 0.1235, "stable", "owner", 123),
        ("7200000-3", NAMES[1], 1.0, "stable", "owner", 123),
        (plain, NAMES[2], 0.5, "canary", "heir", 123),
    ]
    assert {p.version for p in published} == {"v1"}
    assert all(0 < bench.client.ttl(KEYS.answers_of(i)) <= 7200 for i in (own, "7200000-3"))
