"""The books of the demo, kept from outside: what was accepted, what was answered, by whom, and whether it was right.

Nothing in here asks the system how it did. Requests are booked when the enqueue function returned their id, answers when they were
read from the predictions stream; everything else is arithmetic over the two.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from continual_contract.ids import id_key
from continual_contract.routing import BASIS_POINTS, Epoch


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was accepted. `second` counts from the story's start; `true_class` is the digit's own label."""

    request_id: str
    digit: int
    true_class: str
    key: bytes
    score_only: bool
    second: float


@dataclass(frozen=True, slots=True)
class Answered:
    """A published prediction, as a consumer read it."""

    request_id: str
    version: str
    why: str
    class_name: str
    second: float


@dataclass(slots=True)
class Books:
    """Requests and answers by request id. One writer each: the feeder books requests, the tracker answers."""

    sent: dict[str, Sent] = field(default_factory=dict)
    answers: dict[str, Answered] = field(default_factory=dict)
    duplicates: int = 0

    def book_request(self, request: Sent) -> None:
        self.sent[request.request_id] = request

    def book_answer(self, answer: Answered) -> None:
        """Keep the first answer of a request; every further one is a duplicate."""
        if answer.request_id in self.answers:
            self.duplicates += 1
        else:
            self.answers[answer.request_id] = answer

    def unanswered(self) -> list[str]:
        """Accepted request ids without an answer, oldest first. Copies first: the other thread goes on writing."""
        return sorted(self.sent.copy().keys() - self.answers.copy().keys(), key=id_key)

    def foreign(self) -> int:
        """Answers to requests that are not ours: somebody else used the model, or an id was invented."""
        return len(self.answers.copy().keys() - self.sent.copy().keys())


@dataclass(frozen=True, slots=True)
class Score:
    requests: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.requests if self.requests else math.nan


def score_only(books: Books, start: float, end: float, version: str | None = None) -> Score:
    """Accuracy of the published answers on score-only requests sent in [start, end) seconds, of one version or of all."""
    answers = books.answers
    total = correct = 0
    for request in books.sent.copy().values():
        if not request.score_only or not start <= request.second < end:
            continue
        answer = answers.get(request.request_id)
        if answer is None or (version is not None and answer.version != version):
            continue
        total += 1
        correct += answer.class_name == request.true_class
    return Score(total, correct)


@dataclass(frozen=True, slots=True)
class Bin:
    """Score-only answers of one version to requests of one stretch of time, beginning at `second`."""

    second: float
    version: str
    requests: int
    correct: int


def bins(books: Books, width: float) -> list[Bin]:
    """Accuracy over time per version, `width` seconds each, in order of time and version."""
    counts: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    answers = books.answers
    for request in books.sent.copy().values():
        answer = answers.get(request.request_id)
        if request.score_only and answer is not None:
            count = counts[int(request.second // width), answer.version]
            count[0] += 1
            count[1] += answer.class_name == request.true_class
    return [Bin(slot * width, version, *count) for (slot, version), count in sorted(counts.items())]


@dataclass(frozen=True, slots=True)
class Share:
    """The canaries' share of the stream: expected by the routing table, observed in the answers."""

    requests: int
    expected: float
    observed: float
    z: float
    """Deviation in standard deviations; requests of one key go together, so keys are the draws, not requests."""


class EpochTable:
    """Every routing epoch ever seen, so that an answer can be held against the table of its own time."""

    def __init__(self, epochs: Iterable[Epoch]) -> None:
        by_start = {id_key(epoch.after): epoch for epoch in epochs}
        self._starts = sorted(by_start)
        self._epochs = [by_start[start] for start in self._starts]

    def of(self, request_id: str) -> Epoch | None:
        place = bisect_left(self._starts, id_key(request_id)) - 1
        return self._epochs[place] if place >= 0 else None


def canary_part(epoch: Epoch) -> float:
    """Share of the stream that an epoch gives to canaries: everything beyond the first group; 0 while only one owns."""
    return sum(width for _, width in epoch.shares[1:]) / BASIS_POINTS


def canary_share(books: Books, table: EpochTable) -> Share:
    """Hold the canaries' answers against their share, over all epochs in which two versions owned requests.

    Within one rollout the salt is fixed, so a key's draws in two epochs are nested: covariance min(p, q) − pq.
    """
    draws: dict[tuple[str, bytes], dict[float, int]] = defaultdict(lambda: defaultdict(int))
    observed = 0
    for request in books.sent.copy().values():
        epoch, answer = table.of(request.request_id), books.answers.get(request.request_id)
        part = canary_part(epoch) if epoch else 0.0
        if epoch is None or answer is None or not 0 < part < 1:
            continue
        draws[epoch.salt, request.key][part] += 1
        observed += answer.why == "heir" or answer.version != _version(epoch.shares[0][0])
    return _share(draws.values(), observed)


def _share(draws: Iterable[Mapping[float, int]], observed: int) -> Share:
    total = expected = variance = 0.0
    for parts in draws:
        total += sum(parts.values())
        expected += sum(n * p for p, n in parts.items())
        variance += sum(n * m * (min(p, q) - p * q) for p, n in parts.items() for q, m in parts.items())
    if not total:
        return Share(0, math.nan, math.nan, math.nan)
    z = (observed - expected) / math.sqrt(variance) if variance else math.nan
    return Share(int(total), expected / total, observed / total, z)


def owner_version(epoch: Epoch, request: Sent) -> str:
    return _version(epoch.owner(request.request_id, request.key))


def wrong_owners(books: Books, table: EpochTable) -> list[str]:
    """Requests answered by a version that neither owned them nor stood in as an heir."""
    wrong = []
    for request in books.sent.copy().values():
        epoch, answer = table.of(request.request_id), books.answers.get(request.request_id)
        if epoch is None or answer is None or answer.why == "heir":
            continue
        if owner_version(epoch, request) != answer.version:
            wrong.append(request.request_id)
    return wrong


def labels_between(labelled: Sequence[str], start_id: str, end_id: str) -> int:
    """How many of the labelled request ids lie in (start, end]."""
    low, high = id_key(start_id), id_key(end_id)
    return sum(low < id_key(request_id) <= high for request_id in labelled)


def _version(group: str) -> str:
    return group.partition("@")[0]
