"""A recording made up by hand: what the report is drawn from in unit tests."""

from __future__ import annotations

import math

import pytest
from continual_cli.demo.ledger import Bin
from continual_cli.demo.recording import Check, Happening, Recording, Sample, VersionNow

SUMMARY = {
    "requests": 30_000, "predictions": 30_000, "duplicates": 0, "lost": 0, "dead": 0, "promotions": 2, "rollbacks": 1,
    "versions": ["v1", "v2", "v3", "v4"], "accuracy_before_drift": 0.978, "accuracy_after_drift": 0.71,
    "accuracy_after_recovery": 0.969, "labels_to_detect_drift": 37, "labels_to_promote": 112, "labels_to_roll_back": 44,
    "canary_share_expected": 0.29, "canary_share_observed": 0.295, "correction_fixed": True, "seconds": 240.0,
}  # fmt: skip
STAGES = (
    (90, 120, "v2", "shadow", 0.0), (120, 132, "v2", "canary", 10.0), (132, 145, "v2", "canary", 50.0),
    (145, 170, "v2", "probation", 100.0), (170, 999, "v2", "stable", 100.0), (190, 215, "v3", "shadow", 0.0),
)  # fmt: skip


def _versions(second: float) -> tuple[VersionNow, ...]:
    live = [VersionNow(v, stage, weight, 0.9, 100) for a, b, v, stage, weight in STAGES if a <= second < b]  # type: ignore[arg-type]
    rest = 100.0 - sum(now.weight for now in live)
    return (*(() if second >= 170 else (VersionNow("v1", "stable", rest, 0.95, 800),)), *live)


def _sample(second: float) -> Sample:
    drift = 9.5 if 68 < second < 74 else 1.0 + math.sin(second)
    waiting = 180 if 50 < second < 53 else 2
    return Sample(second, "", _versions(second), drift, 9.21, 0.1, waiting, int(second * 120), int(second * 120), 0, "")


def _bins() -> list[Bin]:
    found = []
    for slot in range(20, 240, 3):
        good = 0.975 if slot < 65 else 0.7 if slot < 145 else 0.965
        wobble = 0.02 * math.sin(slot * 1.7)
        found.append(Bin(float(slot), "v1" if slot < 145 else "v2", 180, int(180 * (good + wobble))))
        if 120 <= slot < 145:
            found.append(Bin(float(slot), "v2", 60, int(60 * (0.96 + wobble))))
    return sorted(found, key=lambda b: (b.second, b.version))


@pytest.fixture
def recording() -> Recording:
    happenings = (
        Happening(50.0, "fault", "a worker is killed with -9"),
        Happening(65.0, "world", "the world drifts: contrast 0.6, tilt 20°"),
        Happening(72.0, "alarm", "drift detected <after 37 labels>"),
        Happening(100.0, "fault", "the operator is killed with -9"),
        Happening(220.0, "correction", "one image is corrected"),
    )
    checks = (Check("lost", "0", "0", True), Check("rollbacks", "1", "≥ 1", True))
    decisions = ({"sequence": 1, "version": "v2", "action": "Promote", "reason": "AccuracyHeld", "message": "gain"},)
    return Recording(
        0, tuple(_sample(0.5 * n) for n in range(480)), happenings, tuple(_bins()), 3.0, dict(SUMMARY), checks,
        ("Each digit judges once.",), decisions,
    )  # fmt: skip
