"""The evaluator's mind under random histories: what trains, what judges, and in which order.

A history is drawn from a seed: requests with and without keys, repeated images, labels of all sources in any order, gates
that open and close. After every event the books are checked. Each protection is also taken away; then a history exists on
which the books are wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from continual_contract.artifacts import InputShape
from continual_contract.config import EvaluatorConfig, PairUnderJudgement, ServedVersion
from continual_contract.entries import Answer, LabelEntry, PredictionEntry
from continual_contract.ids import RequestId, Version, id_key, sha256_digest
from continual_contract.routing import is_held_out, separation_unit
from continual_workers.evaluation import state as module
from continual_workers.evaluation.codec import CODECS, decode_state, encode_head, fold_parts, tables_of
from continual_workers.evaluation.evidence import Observation
from continual_workers.evaluation.joined import Joined
from continual_workers.evaluation.samples import short_hash
from continual_workers.evaluation.state import KnownRequest, State
from hypothesis import given, settings
from hypothesis import strategies as st

CLASSES = ("a", "b", "c")
SHAPE = InputShape(height=1, width=2, channels=1)
START = 1_000_000


@dataclass
class History:
    """A state, and the test's own books about it."""

    seed: int
    audit_percent: float = 60.0
    state: State = field(default_factory=State)
    now: int = START
    sequence: int = 0
    released: dict[str, set[bytes]] = field(default_factory=lambda: {"train": set(), "holdout": set()})
    counted: list[tuple[str, Observation]] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.requests: dict[str, KnownRequest] = {}
        self.answers: dict[str, dict[str, str]] = {}
        self.seen = 0
        self.configure(None)

    def configure(self, pair: PairUnderJudgement | None) -> None:
        self.sequence += 1
        versions = tuple(ServedVersion(version=v, digest=v, role="stable") for v in ("v1", "v2"))
        config = EvaluatorConfig(
            uid="u", token=1, sequence=self.sequence, classes=CLASSES, input=SHAPE, salt="s", window_seconds=10.0,
            audit_percent=self.audit_percent, holdout_percent=30.0, versions=versions, pair=pair, shard_samples=5, shard_seconds=4.0,
        )  # fmt: skip
        assert self.state.configure(config)
        for rid in self.requests if pair else ():
            self.state.track(rid)
        self.state.pair_is_new = False

    def open_gate(self, since: int | None = None) -> None:
        pair = PairUnderJudgement(
            evidence_id=f"g{self.sequence}", purpose="canary", candidate="v2", baseline="v1",
            since=f"{self.now if since is None else since}-0", margin=0.02, worst_class_margin=0.05,
        )  # fmt: skip
        self.configure(pair)

    def ask(self, key: bytes | None = None, pixels: bytes | None = None) -> None:
        number = len(self.requests) + 1
        rid = f"{self.now}-{number}"
        key = self.random.choice([b"", b"", b"k%d" % self.random.randrange(12)]) if key is None else key
        self.requests[rid] = KnownRequest(rid, key, pixels or bytes([self.random.randrange(40), 7]))
        self.answers[rid] = {v: self.random.choice(CLASSES) for v in ("v1", "v2")}
        predicted = PredictionEntry(
            RequestId(rid), Version("v1"), "d", "stable", "owner", self.answers[rid]["v1"], 0.9, 10, self.now
        )
        self.state.predicted(predicted)

    def label(self, rid: str | None = None, source: str | None = None, class_name: str | None = None) -> None:
        rid = rid or self.random.choice(list(self.requests)[-30:])
        source = source or self.random.choice(["audit", "audit", "audit", "correction"])
        label = LabelEntry(rid, class_name or self.random.choice(CLASSES), "ann", source)  # type: ignore[arg-type]  # one of two literals
        self.state.labelled(label, self.now, self.requests[rid])
        self.settle()

    def settle(self) -> None:
        """What the shell does after reading: look up answers, judge, write shards; then the books are checked."""
        state = self.state
        state.advance(self.now)
        passed = dict.fromkeys(("v1", "v2"), (self.now + 1, 0))
        for row in state.unfinished(1000, passed):
            said = self.answers[row.request_id]
            owner, shadow = (
                Answer(Version(v), "d", "stable", "owner" if v == "v1" else "shadow", said[v], 0.9, 5)
                for v in ("v1", "v2")
            )
            state.answered(row.request_id, owner, [shadow], passed)
        state.judge((self.now + 1, 0), shadow_is_full=True)
        self.note_observations()
        self.write_shards()

    def note_observations(self) -> None:
        pair = self.state.pair
        if pair is None:
            return
        for name in sorted(self.state.tables.tail):
            entry = (pair.pair.evidence_id, self.state.tables.tail.rows[name])
            if entry not in self.counted:
                self.counted.append(entry)
                if self.unit(entry[1].request_id) in self.released["train"]:
                    self.wrongs.append(f"{entry[1].request_id} judged after it had trained")

    def write_shards(self) -> None:
        for closed in self.state.closed:
            self.seen += 1
            self.state.shard_written(closed, sha256_digest(repr(closed).encode()))
            self.written.append(closed)
        self.state.closed = []
        self.check_listed()

    written: list[Any] = field(default_factory=list)

    def check_listed(self) -> None:
        gate = self.state.pair.pair.evidence_id if self.state.pair else ""
        judged = {self.unit(o.request_id) for evidence, o in self.counted if evidence == gate}
        for closed in self.written:
            listed = self.state.tables.shards.rows[sha256_digest(repr(closed).encode())]
            if listed.gate:
                continue
            kind = "holdout" if closed.bin.kind == "holdout" else "train"
            units = {separation_unit(sample.key, sample.pixels) for sample in closed.samples}
            self.released[kind] |= units
            if kind == "train" and units & judged:
                self.wrongs.append("a unit trains while an open gate counts it")
        if self.released["train"] & self.released["holdout"]:
            self.wrongs.append("a unit is in training and in the holdout")

    def unit(self, rid: str) -> bytes:
        return separation_unit(self.requests[rid].key, self.requests[rid].pixels)

    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.settle()


def live(seed: int, events: int = 250) -> History:
    """Draw a history."""
    history = History(seed)
    for _ in range(events):
        history.now += history.random.randrange(1, 400)
        choice = history.random.random()
        if choice < 0.45 or not history.requests:
            history.ask()
        elif choice < 0.93:
            history.label()
        elif choice < 0.96:
            history.open_gate()
        elif choice < 0.97:
            history.configure(None)
        else:
            history.wait(3000)
    history.wait(30_000)
    history.configure(None)
    history.wait(5_000)
    return history


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_holdout_never_trains_and_gate_samples_not_before_the_verdict(seed: int) -> None:
    """C5, rule 7: by unit of separation, over random histories."""
    history = live(seed)
    assert history.wrongs == []
    assert all(is_held_out(unit, 30.0) for unit in history.released["holdout"])
    corrected = {history.unit(s.request_id) for c in history.written if c.bin.kind == "correction" for s in c.samples}
    assert not any(is_held_out(unit, 30.0) for unit in history.released["train"] - corrected)


def _no_gate(self: State, sample: Any) -> str:
    return ""


def _never_held(unit: bytes, percent: float) -> bool:
    return random.random() < percent / 100


@pytest.mark.parametrize(
    ("target", "name", "mutant", "complaint"),
    [
        (State, "_gate_of", _no_gate, "trains while"),
        (module, "is_held_out", _never_held, "training and in the holdout"),
        (module, "unit_of", lambda request: short_hash(request.request_id.encode()), "after it had trained"),
    ],
)
def test_mutation_without_separation_the_books_are_wrong(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, mutant: Callable[..., Any], complaint: str
) -> None:
    """Samples released during the gate, a holdout by chance, units by request: each leaves a wrong book somewhere."""
    monkeypatch.setattr(target, name, mutant)
    assert any(complaint in wrong for seed in range(600) for wrong in live(seed).wrongs)


def labelled_in(order: list[int], wait: int = 0) -> tuple[list[Observation], str]:
    """The evidence on forty requests whose labels arrive in this order."""
    history = History(4, audit_percent=100.0)
    history.open_gate()
    for number in range(40):
        history.now += 10
        history.ask(b"" if number % 4 else b"clip-%d" % (number // 8), bytes([number, 1]))
    ids = list(history.requests)
    for index in order:
        history.now += 5 + wait
        history.label(ids[index], "audit", CLASSES[index % 3])
    history.wait(30_000)
    assert history.state.pair is not None
    return [observation for _, observation in history.counted], history.state.pair.digest


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(40)))
def test_the_order_of_labels_changes_no_evidence(order: list[int]) -> None:
    """Rule 1: whatever comes first, pairs count in the order of their requests; digest included."""
    observations, digest = labelled_in(order)
    assert observations == sorted(observations, key=lambda each: id_key(each.request_id))
    assert (observations, digest) == labelled_in(list(range(40)))


def test_mutation_counting_on_arrival_depends_on_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an open request is not waited for, the order of labels decides what counts."""

    def impatient(self: State, frontier: Any, shadow_is_full: bool) -> None:
        for row in sorted(self.tables.joined.rows.values(), key=lambda each: (each.settle_ms, each.request_id)):
            if self.pair and row.verdict and row.request_id in self.tables.population and not row.unfinished:
                self._count(self.pair, row, (1 << 60, 0), shadow_is_full)
                self.tables.population.remove(row.request_id)

    monkeypatch.setattr(State, "judge", impatient)
    assert labelled_in(list(range(40)), 500)[1] != labelled_in(list(range(39, -1, -1)), 500)[1]


def test_corrections_do_not_judge_and_their_mutation_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2: a label of source `correction` makes no pair; when sources are not looked at, it does."""

    def pairs() -> int:
        history = History(9)
        history.open_gate()
        for _ in range(30):
            history.now += 10
            history.ask()
        for rid in history.requests:
            history.label(rid, "correction", "a")
        history.wait(30_000)
        assert history.state.pair is not None
        return history.state.pair.test.observations

    assert pairs() == 0
    monkeypatch.setattr(module, "effective_source", lambda source, audited: "audit")
    assert pairs() > 0


def test_a_correction_is_learned_even_if_its_image_was_labelled_so_before() -> None:
    """The stream's own label may have come first: who corrects asks that it be learned now, and gets a correction shard."""
    history = History(3, audit_percent=100.0)
    pixels = next(bytes([n, 9]) for n in range(256) if not is_held_out(separation_unit(b"", bytes([n, 9])), 30.0))
    for source in ("audit", "correction"):
        history.now += 10
        history.ask(b"", pixels)
        history.label(list(history.requests)[-1], source, "a")
        history.wait(30_000)
    assert [closed.bin.kind for closed in history.written if closed.samples[0].pixels == pixels] == [
        "train",
        "correction",
    ]


def test_a_correction_trains_unless_the_holdout_has_its_image_already() -> None:
    """Who corrects an image asks that it be learned, whatever its hash says; but what tests the versions never trains."""
    pixels = next(bytes([n, 9]) for n in range(256) if is_held_out(separation_unit(b"", bytes([n, 9])), 30.0))

    def bins(*sources: str) -> list[str]:
        history = History(3, audit_percent=100.0)
        for source in sources:
            history.now += 10
            history.ask(b"", pixels)
            history.label(list(history.requests)[-1], source, "a")
            history.wait(30_000)
        return [closed.bin.kind for closed in history.written]

    assert bins("correction", "audit") == ["correction"]
    assert set(bins("audit", "correction")) == {"holdout"}


def test_copies_of_one_image_count_once_and_their_mutation_counts_each() -> None:
    """Rule 3: ten requests of one key are one observation; without their key each counts."""

    def pairs() -> int:
        history = History(2, audit_percent=100.0)
        history.open_gate()
        for number in range(20):
            history.now += 10
            history.ask(b"" if plain else b"video", bytes([number, 1]))
            history.label(list(history.requests)[-1], "audit", "a")
        history.wait(30_000)
        assert history.state.pair is not None
        return history.state.pair.test.observations

    plain = False
    assert pairs() == 1
    plain = True
    assert pairs() == 20


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 249))
def test_a_stored_state_goes_on_as_if_never_stored(seed: int, cut: int) -> None:
    """Written and read back after any event, the rest of the history gives the same state, row by row."""
    whole = live(seed)
    original = History.settle
    count = 0

    def stored(self: History) -> None:
        nonlocal count
        original(self)
        count += 1
        if count == cut:
            self.state = through_bytes(self.state)

    History.settle = stored  # type: ignore[method-assign]  # restored below
    try:
        cut_history = live(seed)
    finally:
        History.settle = original  # type: ignore[method-assign]  # as it was
    assert as_bytes(cut_history.state) == as_bytes(whole.state)


def test_evidence_that_starts_again_late_does_not_take_forgotten_labels_for_missing() -> None:
    """A margin changed after the window: requests whose labels are forgotten are no gap in the coverage."""
    history = History(3, audit_percent=100.0)
    history.open_gate()
    for number in range(20):
        history.now += 10
        history.ask(b"", bytes([number, 1]))
        history.label(list(history.requests)[-1], "audit", "a")
    history.wait(30_000)
    history.open_gate(since=START)
    history.wait(1_000)
    assert history.state.pair is not None
    assert (history.state.pair.resolved, history.state.pair.coverage()) == (0, None)


def as_bytes(state: State) -> tuple[bytes, dict[str, dict[str, bytes]]]:
    fold_parts(state)
    rows = {
        name: {row: CODECS[name].encode(value) for row, value in sorted(table.rows.items())}
        for name, table in tables_of(state).items()
    }
    return encode_head(state, {}), rows


def through_bytes(state: State) -> State:
    head, rows = as_bytes(state)
    return decode_state(head, rows)[0]


def test_a_row_survives_its_bytes() -> None:
    """Every field of a joined row comes back."""
    row = Joined("5-1", 9, "6b", "ab", missing=["v2"], owner="v1", substituted=True, answers={"v1": "a"}, decided=True)
    assert Joined.load("5-1", row.dump()) == row
