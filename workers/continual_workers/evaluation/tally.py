"""What is counted per version: answers, labels, who was mistaken for whom, and how long a worker took."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from continual_contract.report import VersionScores

from continual_workers.evaluation.statistics import wilson

RECENT_LABELS = 500
RECENT_ANSWERS = 1000


@dataclass(slots=True)
class Tally:
    """Counters of one version. `confusion[true][predicted]` is the source of every accuracy figure."""

    answers: int = 0
    dead: int = 0
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT_LABELS))
    worker_us: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_ANSWERS))

    def score(self, true_class: str, predicted: str) -> None:
        row = self.confusion.setdefault(true_class, {})
        row[predicted] = row.get(predicted, 0) + 1
        self.recent.append(true_class == predicted)

    def scores(self, version: str) -> VersionScores:
        per_class = {name: sum(row.values()) for name, row in sorted(self.confusion.items())}
        correct = {name: row.get(name, 0) for name, row in self.confusion.items()}
        labels, right = sum(per_class.values()), sum(correct.values())
        lower, upper = wilson(right, labels)
        return VersionScores(
            version=version,
            answers=self.answers,
            labels=labels,
            correct=right,
            accuracy=right / labels if labels else None,
            lower=lower if labels else None,
            upper=upper if labels else None,
            recent_labels=len(self.recent),
            recent_accuracy=sum(self.recent) / len(self.recent) if self.recent else None,
            per_class_labels=per_class,
            per_class_recall={name: correct[name] / count for name, count in per_class.items()},
            confusion={name: dict(sorted(row.items())) for name, row in sorted(self.confusion.items())},
            error_rate=self.dead / (self.dead + self.answers) if self.dead + self.answers else 0.0,
            worker_us_p95=percentile(sorted(self.worker_us), 0.95),
        )

    def dump(self) -> dict[str, Any]:
        return {
            "answers": self.answers, "dead": self.dead, "confusion": self.confusion,
            "recent": "".join("1" if right else "0" for right in self.recent), "us": list(self.worker_us),
        }  # fmt: skip

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Tally:
        tally = cls(state["answers"], state["dead"], {name: dict(row) for name, row in state["confusion"].items()})
        tally.recent.extend(mark == "1" for mark in state["recent"])
        tally.worker_us.extend(state["us"])
        return tally


def percentile(ordered: list[int], share: float) -> float | None:
    """Nearest-rank percentile of sorted values; None without values."""
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else None
