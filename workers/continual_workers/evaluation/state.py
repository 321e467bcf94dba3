"""The evaluator's mind: what every event changes. No clock, no Redis, no store.

Time here is the time of the streams. `clock` is how far the labels stream has been read; votes settle, windows end,
clusters and shards close when it passes them. So the evidence is a function of what the streams hold, and an evaluator that
was killed and read on comes to the same numbers as one that was not.

    configure   the operator's orders, fenced by token
    predicted   a published prediction: counts, latency, label-free signals, the population that should be labelled
    labelled    a label whose request is known: quotas, votes, corrections
    advance     the labels stream has been read up to here: votes settle, shards close
    answered    what the versions said of a decided request: scores, drift
    judge       count the pair's observations, in request order, as far as they are certain

The shell (`process`) reads streams, looks requests and answers up, writes shards and commits snapshots.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from continual_contract.config import DriftWatch, EvaluatorConfig, PairUnderJudgement
from continual_contract.entries import Answer, LabelEntry, PredictionEntry
from continual_contract.ids import Digest, id_key
from continual_contract.report import ShardRef
from continual_contract.routing import is_audited, is_held_out, is_sampled, separation_unit

from continual_workers.evaluation.drift import Watch
from continual_workers.evaluation.evidence import Observation, PairState, begin
from continual_workers.evaluation.joined import Joined, Vote, settle_milliseconds
from continual_workers.evaluation.samples import Bin, ClosedShard, Collector, Kind, Sample, decode_sample, short_hash
from continual_workers.evaluation.signals import Signals
from continual_workers.evaluation.table import Table
from continual_workers.evaluation.tally import Tally
from continual_workers.evaluation.votes import Quota, effective_source

KEPT_VERSIONS = 20

Position = tuple[int, int]
"""A stream id as it sorts."""


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """What the requests stream says of a request. `pixels` are decoded; empty when the image is gone or unreadable."""

    request_id: str
    key: bytes = b""
    pixels: bytes = b""
    event_time_ms: int | None = None
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A shard in the store. `gate` names the open gate it waits for; `units` are kept until it is released."""

    ref: ShardRef
    gate: str = ""
    units: tuple[str, ...] = ()


@dataclass(slots=True)
class LabelCounts:
    received: int = 0
    counted: int = 0
    unknown: int = 0
    throttled: int = 0
    late: int = 0
    unsampled: int = 0
    audit: int = 0
    truth: int = 0


@dataclass(slots=True)
class Tables:
    """The parts of the state that may grow large; each is one hash in Redis."""

    joined: Table[Joined] = field(default_factory=Table)
    population: Table[bytes] = field(default_factory=Table)
    """Requests of the pair's population that are neither counted nor skipped yet."""
    clusters: Table[bytes] = field(default_factory=Table)
    """Keys that the open gate has counted."""
    judged: Table[bytes] = field(default_factory=Table)
    """Units that the open gate has counted."""
    trained: Table[bytes] = field(default_factory=Table)
    """Units that have been released to training: they never enter a gate again."""
    held: Table[bytes] = field(default_factory=Table)
    """Units that are in the holdout: they never train."""
    contents: Table[bytes] = field(default_factory=Table)
    """Pixels with their label that have been sampled."""
    samples: Table[bytes] = field(default_factory=Table)
    pixels: Table[bytes] = field(default_factory=Table)
    """Samples of requests whose votes are still open."""
    shards: Table[Listed] = field(default_factory=Table)
    tail: Table[Observation] = field(default_factory=Table)
    """Observations of the pair in its last, unfinished object."""
    parts: Table[bytes] = field(default_factory=Table)
    """Long lists of the head, in pieces; see `codec`."""


@dataclass(slots=True)
class State:
    """Everything the evaluator knows; changed only by its methods."""

    config: EvaluatorConfig | None = None
    clock: int = 0
    tables: Tables = field(default_factory=Tables)
    labels: LabelCounts = field(default_factory=LabelCounts)
    quota: Quota = field(default_factory=Quota)
    tallies: dict[str, Tally] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    watch: Watch | None = None
    pair: PairState | None = None
    collector: Collector = field(init=False)
    shard_sequence: int = 0
    closed: list[ClosedShard] = field(default_factory=list)
    """Shards for the shell to write; empty between steps."""
    pair_is_new: bool = False
    """The shell must show the predictions since the pair's beginning again (`track`)."""
    _settling: list[tuple[int, tuple[int, int], str]] = field(default_factory=list)
    _expiring: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    _order: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    _clusters: dict[str, set[str]] = field(default_factory=dict)
    _unfinished: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.collector = Collector(self.tables.samples)

    # -- orders ---------------------------------------------------------------------------------------------------------

    def configure(self, config: EvaluatorConfig) -> bool:
        """Take new orders; False for orders of an older operator (lower token) or an older sequence."""
        current = self.config
        if current is not None:
            if config.token < current.token or (config.token == current.token and config.sequence < current.sequence):
                return False
            if config == current:
                return True
        self.config = config
        self._begin_pair(config.pair)
        self._begin_watch(config.drift)
        stable = next((v.version for v in config.versions if v.role == "stable"), "")
        if stable != self.signals.version:
            self.signals = Signals(stable)
        return True

    def _begin_pair(self, pair: PairUnderJudgement | None) -> None:
        if pair == (self.pair.pair if self.pair else None):
            return
        old = self.pair
        self.pair = begin(pair, self._population(), self._horizon(pair.since)) if pair else None
        self.pair_is_new = pair is not None
        for table in (self.tables.population, self.tables.clusters, self.tables.judged, self.tables.tail):
            table.clear()
        self._order = []
        if old is not None:
            self._release(old.pair.evidence_id)
        if pair is not None:
            self._ask_again(pair)

    def _horizon(self, since: str) -> str:
        """Where evidence can begin: labels of requests whose window has ended are forgotten, they would look unlabelled."""
        oldest = self.clock - self.window_ms - self.settle_ms
        return since if id_key(since)[0] >= oldest else f"{oldest}-0"

    def _ask_again(self, pair: PairUnderJudgement) -> None:
        """Requests that were decided before the pair was known may have answers that nobody looked for."""
        for row in self.tables.joined.rows.values():
            wanted = [v for v in (pair.candidate, pair.baseline) if v not in row.answers and v not in row.missing]
            if wanted and row.decided and row.verdict is not None and id_key(row.request_id) > id_key(pair.since):
                row.missing = row.missing + wanted
                self._unfinished.add(row.request_id)
                self.tables.joined.put(row.request_id, row)

    def _begin_watch(self, order: DriftWatch | None) -> None:
        current = self.watch
        if order is None:
            self.watch = None
        elif current is None or (order.version, order.since) != (current.order.version, current.order.since):
            self.watch = Watch(order)
        elif order != current.order:
            current.order = order
            current.detector.false_alarm_every = order.false_alarm_every

    @property
    def orders(self) -> EvaluatorConfig:
        """The configuration; the shell feeds nothing before there is one."""
        assert self.config is not None
        return self.config

    @property
    def window_ms(self) -> int:
        return int(self.orders.window_seconds * 1000)

    @property
    def settle_ms(self) -> int:
        return settle_milliseconds(self.orders.window_seconds)

    def is_over(self, time_ms: int) -> bool:
        """Whether labels of a request of this time can no longer count."""
        return self.clock > time_ms + self.window_ms + self.settle_ms

    # -- predictions ----------------------------------------------------------------------------------------------------

    def predicted(self, prediction: PredictionEntry) -> None:
        """Count a published prediction."""
        tally = self._tally(prediction.version)
        tally.answers += 1
        tally.worker_us.append(prediction.worker_us)
        if prediction.version == self.signals.version and prediction.why == "owner":
            self.signals.update(prediction.class_name, prediction.confidence)
        self.track(prediction.request_id)

    def track(self, request_id: str) -> None:
        """Note a request that the pair's evidence must wait for."""
        pair = self.pair
        if pair is None or request_id in self.tables.population or not self._in_population(pair.population, request_id):
            return
        key = id_key(request_id)
        if key <= id_key(pair.position):
            return
        pair.first_population_ms = min(key[0], pair.first_population_ms or key[0])
        self.tables.population.put(request_id, b"")
        heapq.heappush(self._order, (key, request_id))

    def _population(self) -> str:
        """Whose requests the gate waits for: the audit set, or every sampled request where the truth is known for all."""
        sources = self.orders.gate_sources
        if "audit" in sources and not ("truth" in sources and self.labels.truth > self.labels.audit):
            return "audit"
        return "sampled"

    def _in_population(self, population: str, request_id: str) -> bool:
        orders = self.orders
        if not is_sampled(request_id, orders.salt, orders.sample_percent):
            return False
        return population == "sampled" or is_audited(request_id, orders.salt, orders.audit_percent)

    def dead_letter(self, version: str) -> None:
        """Count a request that this version could not answer."""
        if version:
            self._tally(version).dead += 1

    @property
    def waiting(self) -> int:
        """Decided requests that nobody has answered yet."""
        return sum(not self.tables.joined.rows[request_id].owner for request_id in self._unfinished)

    def _tally(self, version: str) -> Tally:
        tally = self.tallies.get(version)
        if tally is None:
            tally = self.tallies[version] = Tally()
            while len(self.tallies) > KEPT_VERSIONS:
                del self.tallies[next(iter(self.tallies))]
        return tally

    # -- labels ---------------------------------------------------------------------------------------------------------

    def labelled(self, label: LabelEntry, time_ms: int, request: KnownRequest) -> None:
        """Count a label of a known request and class; `time_ms` is that of the label's entry."""
        orders = self.orders
        self.advance(time_ms)
        if not self.quota.admits(label.labeler, time_ms, orders.labeler_quota_per_hour):
            self.labels.throttled += 1
            return
        request_id = request.request_id
        source = effective_source(label.source, is_audited(request_id, orders.salt, orders.audit_percent))
        if source == "correction":
            self.labels.counted += 1
            self._correct(label, request, time_ms)
        elif time_ms > id_key(request_id)[0] + self.window_ms:
            self.labels.late += 1
        elif not is_sampled(request_id, orders.salt, orders.sample_percent):
            self.labels.unsampled += 1
        else:
            self.labels.counted += 1
            self.labels.audit += source == "audit"
            self.labels.truth += source == "truth"
            self._vote(label, source, request, time_ms)

    def _vote(self, label: LabelEntry, source: str, request: KnownRequest, time_ms: int) -> None:
        """One vote per labeler and request, the latest wins, until the votes settle; a tie may be broken later."""
        row = self.tables.joined.get(request.request_id)
        if row is None:
            row = self._join(request, time_ms + self.settle_ms)
        elif row.decided:
            if row.verdict is not None:
                return
            row.decided, row.settle_ms = False, time_ms + self.settle_ms
            heapq.heappush(self._settling, (row.settle_ms, id_key(row.request_id), row.request_id))
        row.votes[label.labeler] = Vote(label.class_name, source)
        self.tables.joined.put(row.request_id, row)

    def _join(self, request: KnownRequest, settle_ms: int) -> Joined:
        row = Joined(request.request_id, settle_ms, request.key.hex(), unit_of(request))
        if request.pixels:
            self.tables.pixels.put(row.request_id, _sample(request, row.unit, "", "", "").encode())
        self._index(row)
        return row

    def _index(self, row: Joined) -> None:
        key = id_key(row.request_id)
        if not row.decided:
            heapq.heappush(self._settling, (row.settle_ms, key, row.request_id))
        heapq.heappush(self._expiring, (key, row.request_id))
        if row.cluster:
            self._clusters.setdefault(row.cluster, set()).add(row.request_id)
        if row.unfinished:
            self._unfinished.add(row.request_id)

    # -- time -----------------------------------------------------------------------------------------------------------

    def advance(self, time_ms: int) -> None:
        """All labels before this time have been seen: settle votes and close shards that were due, in their order."""
        while self._settling and self._settling[0][0] < time_ms:
            settle_ms, _, request_id = heapq.heappop(self._settling)
            row = self.tables.joined.get(request_id)
            if row is None or row.decided or row.settle_ms != settle_ms:
                continue
            self._close_shards(settle_ms)
            self._decide(row)
        self._close_shards(time_ms)
        self.clock = max(self.clock, time_ms)
        self._forget()

    def _decide(self, row: Joined) -> None:
        class_name = row.decide(self.orders.gate_sources)
        if row.verdict is not None and not row.owner:
            row.missing = [v.version for v in self.orders.versions]
            self._unfinished.add(row.request_id)
        self.tables.joined.put(row.request_id, row)
        raw = self.tables.pixels.get(row.request_id)
        if raw is not None and class_name is not None:
            self.tables.pixels.remove(row.request_id)
            self._take(raw, row, class_name)

    def _forget(self) -> None:
        """Drop rows that no window and no gate needs any more."""
        while self._expiring and self.is_over(self._expiring[0][0][0]):
            key, request_id = self._expiring[0]
            if request_id in self.tables.population and self.pair is not None and key > id_key(self.pair.position):
                return
            heapq.heappop(self._expiring)
            row = self.tables.joined.get(request_id)
            if row is None:
                continue
            members = self._clusters.get(row.cluster, set())
            members.discard(request_id)
            if not members:
                self._clusters.pop(row.cluster, None)
            self._unfinished.discard(request_id)
            self.tables.joined.remove(request_id)
            self.tables.pixels.remove(request_id)

    # -- answers --------------------------------------------------------------------------------------------------------

    def unfinished(self, limit: int, passed: Mapping[str, Position]) -> list[Joined]:
        """Decided requests whose answers should be looked up, in the order of their votes: somebody has passed them."""

        def is_ready(row: Joined) -> bool:
            return not row.missing or any(id_key(row.request_id) < passed.get(v, (0, 0)) for v in row.missing)

        rows = (self.tables.joined.rows[request_id] for request_id in self._unfinished)
        return heapq.nsmallest(limit, filter(is_ready, rows), key=lambda row: (row.settle_ms, id_key(row.request_id)))

    def answered(
        self,
        request_id: str,
        owner: Answer | None,
        shadows: Iterable[Answer],
        passed: Mapping[str, Position],
        *,
        closed: bool = False,
    ) -> None:
        """Score what the versions said.

        Args:
            request_id: a decided request, as `unfinished` names it.
            owner: the published answer, if there is one.
            shadows: answers that were not published.
            passed: version → every id below it is final for that version; taken before the answers were looked up.
            closed: the request was dead-lettered: nobody will answer it.
        """
        row = self.tables.joined.get(request_id)
        if row is None or row.verdict is None:
            return
        before = (row.owner, len(row.answers), row.missing)
        for answer in filter(None, (owner, *shadows)):
            if row.answer(answer, answer is owner):
                self._score(row, answer, answer is owner)
        key = id_key(request_id)
        final = closed or all(key < passed.get(v, (0, 0)) for v in row.missing)
        row.missing = [] if final else [v for v in row.missing if not row.owner or key >= passed.get(v, (0, 0))]
        if before != (row.owner, len(row.answers), row.missing):
            self.tables.joined.put(request_id, row)
        if final or not row.unfinished:
            self._unfinished.discard(request_id)

    def _score(self, row: Joined, answer: Answer, is_owner: bool) -> None:
        assert row.verdict is not None
        tally = self._tally(answer.version)
        tally.score(row.verdict, answer.class_name)
        if not is_owner:
            tally.worker_us.append(answer.worker_us)
        watch = self.watch
        if watch and watch.order.version == answer.version and id_key(row.request_id) > id_key(watch.order.since):
            watch.update(row.request_id, answer.class_name != row.verdict)

    # -- the gate -------------------------------------------------------------------------------------------------------

    def judge(self, frontier: Position, shadow_is_full: bool) -> None:
        """Count the pair's observations in request order.

        Args:
            frontier: every request below it has been answered, or never will be, by both versions of the pair.
            shadow_is_full: whether both versions answer every request; else a request without a pair was never to have one.
        """
        while self.pair is not None and self._order:
            key, request_id = self._order[0]
            row = self.tables.joined.get(request_id)
            decided = row is not None and row.decided and row.verdict is not None
            certain = decided and key < frontier and request_id not in self._unfinished
            if not certain and not self.is_over(key[0]):
                return
            if row is None or not decided:
                self.pair.resolved += 1
            elif not self._count(self.pair, row, frontier, shadow_is_full):
                return
            heapq.heappop(self._order)
            self.tables.population.remove(request_id)
            self.pair.position = request_id

    def _count(self, pair: PairState, row: Joined, frontier: Position, shadow_is_full: bool) -> bool:
        """Count the request at the head of the line; False while it must wait for its cluster."""
        if row.unit and row.unit in self.tables.trained:
            return True
        gain = self._gain(pair, row)
        if gain is not None and not row.cluster:
            self._observe(pair, row, [gain])
        elif gain is not None and row.cluster not in self.tables.clusters:
            if not self._cluster_is_closed(row, frontier):
                return False
            self._observe(pair, row, [gain, *self._members(pair, row)])
        self._cover(pair, row, gain is not None, shadow_is_full)
        return True

    def _cluster_is_closed(self, first: Joined, frontier: Position) -> bool:
        """One window after its first member, once all that came before that moment is answered."""
        end = first.time_ms + self.window_ms
        answered = frontier[0] > end or self.clock > end + self.window_ms
        return (
            self.is_over(first.time_ms) and answered and not self._unfinished & self._clusters.get(first.cluster, set())
        )

    def _cover(self, pair: PairState, row: Joined, paired: bool, shadow_is_full: bool) -> None:
        pair.resolved += 1
        pair.substituted += row.substituted
        pair.covered += not row.substituted and bool(row.owner) and (paired or not shadow_is_full)

    def _gain(self, pair: PairState, row: Joined) -> int | None:
        """D of one request; None unless both versions answered it themselves."""
        new, old = row.answers.get(pair.pair.candidate), row.answers.get(pair.pair.baseline)
        if new is None or old is None or row.substituted:
            return None
        return int(new == row.verdict) - int(old == row.verdict)

    def _members(self, pair: PairState, first: Joined) -> list[int]:
        """Gains of the other requests of this cluster, up to one window after the first."""
        after, end = id_key(first.request_id), first.time_ms + self.window_ms
        rows = [self.tables.joined.rows[other] for other in self._clusters.get(first.cluster, ())]
        inside = [
            row
            for row in sorted(rows, key=lambda each: id_key(each.request_id))
            if row.request_id in self.tables.population
            and after < id_key(row.request_id)
            and row.time_ms <= end
            and row.verdict is not None
            and row.settle_ms <= end + self.settle_ms
        ]
        gains = (self._gain(pair, row) for row in inside)
        return [gain for gain in gains if gain is not None]

    def _observe(self, pair: PairState, row: Joined, gains: list[int]) -> None:
        assert row.verdict is not None
        observation = Observation(row.request_id, row.cluster, row.verdict, sum(gains) / len(gains), len(gains))
        pair.count(observation)
        self.tables.tail.put(f"{pair.test.observations:012d}", observation)
        if row.cluster:
            self.tables.clusters.put(row.cluster, b"")
        if row.unit:
            self.tables.judged.put(row.unit, b"")

    # -- samples --------------------------------------------------------------------------------------------------------

    def _correct(self, label: LabelEntry, request: KnownRequest, time_ms: int) -> None:
        if request.pixels:
            sample = _sample(request, unit_of(request), label.class_name, label.labeler, "correction")
            self._place(sample, "correction", time_ms)

    def _take(self, raw: bytes, row: Joined, class_name: str) -> None:
        """Take the image of a request whose votes have settled."""
        labeler, source = row.trained_by(class_name)
        sample = replace(decode_sample(raw), class_name=class_name, labeler=labeler, source=source)
        self._place(sample, "train", row.settle_ms)

    def _place(self, sample: Sample, kind: Kind, time_ms: int) -> None:
        """Holdout, shard, or a shard that waits for the open gate; the same pixels with the same label once.

        A correction is taken even if its image was seen with this very label before: somebody asks that it be learned now.
        """
        content = short_hash(sample.pixels + sample.class_name.encode())
        held, known = self._is_held(sample, kind), content in self.tables.contents
        if known and (held or kind != "correction"):
            return
        self.tables.contents.put(content, b"")
        if held:
            self.tables.held.put(sample.unit, b"")
            self.collector.add(Bin("holdout"), sample, time_ms)
            return
        gate = self._gate_of(sample)
        if not gate:
            self.tables.trained.put(sample.unit, b"")
        self.collector.add(Bin(kind, gate), sample, time_ms)

    def _is_held(self, sample: Sample, kind: Kind) -> bool:
        """Whether the sample belongs to the holdout: by the hash of its unit, for ever.

        A correction trains all the same, unless its unit is in the holdout already: somebody asks that it be learned. From then
        on its unit is one that trains.
        """
        if sample.unit in self.tables.held:
            return True
        if not is_held_out(separation_unit(sample.key, sample.pixels), self.orders.holdout_percent):
            return False
        if kind == "correction":
            self.tables.trained.put(sample.unit, b"")
        return sample.unit not in self.tables.trained

    def _gate_of(self, sample: Sample) -> str:
        """The open gate that may count this sample or has counted its unit; empty when none does."""
        pair = self.pair
        if pair is None:
            return ""
        counts = id_key(sample.request_id) > id_key(pair.pair.since) and self._in_population(
            pair.population, sample.request_id
        )
        return pair.pair.evidence_id if counts or sample.unit in self.tables.judged else ""

    def _close_shards(self, time_ms: int) -> None:
        orders = self.orders
        self.closed += self.collector.due(time_ms, orders.shard_samples, orders.shard_seconds)

    def shard_written(self, shard: ClosedShard, digest: Digest) -> None:
        """List a shard that is in the store; one that belongs to a gate of the past is released at once."""
        per_class: dict[str, int] = {}
        for sample in shard.samples:
            per_class[sample.class_name] = per_class.get(sample.class_name, 0) + 1
        ref = ShardRef(digest=digest, sequence=0, samples=len(shard.samples), per_class=per_class, kind=shard.bin.kind)
        listed = Listed(ref, shard.bin.gate, tuple(sorted({sample.unit for sample in shard.samples})))
        if listed.gate and self.pair is not None and self.pair.pair.evidence_id == listed.gate:
            self.tables.shards.put(digest, listed)
        else:
            self._list(listed)

    def _list(self, listed: Listed) -> None:
        """Give it its sequence number: from now on a training may take it."""
        self.shard_sequence += 1
        ref = listed.ref.model_copy(update={"sequence": self.shard_sequence})
        if ref.kind != "holdout":
            for unit in listed.units:
                self.tables.trained.put(unit, b"")
        self.tables.shards.put(ref.digest, Listed(ref))

    def _release(self, evidence_id: str) -> None:
        """The gate has its verdict: what waited for it may train."""
        for listed in sorted(self.tables.shards.rows.values(), key=lambda each: each.ref.digest):
            if listed.gate == evidence_id:
                self._list(listed)

    # -- rebuilding -----------------------------------------------------------------------------------------------------

    def reindex(self) -> None:
        """Rebuild what is derived from the tables, after they were loaded."""
        self._settling, self._expiring, self._order, self._clusters, self._unfinished = [], [], [], {}, set()
        for row in self.tables.joined.rows.values():
            self._index(row)
        self._order = [(id_key(request_id), request_id) for request_id in self.tables.population]
        heapq.heapify(self._order)


def unit_of(request: KnownRequest) -> str:
    """Short hash of the unit of separation; empty when there is neither a key nor an image."""
    if not request.key and not request.pixels:
        return ""
    return short_hash(separation_unit(request.key, request.pixels))


def _sample(request: KnownRequest, unit: str, class_name: str, labeler: str, source: str) -> Sample:
    event_time = request.event_time_ms
    return Sample(
        request_id=request.request_id,
        class_name=class_name,
        event_time_ms=id_key(request.request_id)[0] if event_time is None else event_time,
        source=source,
        key_hex=request.key.hex(),
        labeler=labeler,
        metadata=request.metadata,
        unit=unit,
        pixels=request.pixels,
    )
