"""The rollout as a person follows it: where the candidate is on its way, what the gate has seen, and what it still lacks.

The verdict and its reason are the operator's, read from the status. The checks beside it show the same numbers the judge looks at, each with
how far it has come, so that `Inconclusive` is never a riddle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from continual_contract.report import PairEvidence, VersionScores

from continual_gateway.views import text
from continual_gateway.views.snapshot import Snapshot
from continual_gateway.views.text import Tone

GATE_DEFAULTS: Mapping[str, Any] = {
    "margin": 0.02, "alpha": 0.05, "rollbackAlpha": 0.05, "classAlpha": 0.05, "maxLag": "30s", "maxErrorRate": 0.01,
    "minLabels": 100, "minDuration": "24h", "cycle": "0s", "worstClassMargin": 0.05, "minCoverage": 95,
    "maxLatencyRatio": 1.5, "requireApproval": False,
}  # fmt: skip
"""What the resource means where it is silent; a test holds this equal to the operator's own defaults."""
PROBATION_DEFAULTS: Mapping[str, Any] = {"alpha": 0.01, "minDuration": "24h", "minLabels": 300, "deadline": "168h"}
STEP_DEFAULTS: tuple[Mapping[str, Any], ...] = (
    {"weight": 0, "hold": "0s"}, {"weight": 10, "hold": "1m"}, {"weight": 50, "hold": "1m"},
)  # fmt: skip
DEADLINE_DEFAULT = "168h"
LATENCY_ANSWERS = 100

State = Literal["met", "open", "against"]


@dataclass(frozen=True, slots=True)
class Stop:
    """One station on the way to stable."""

    name: str
    note: str
    state: Literal["done", "now", "ahead"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the gate looks at. `share` is how far it has come, 0..1."""

    name: str
    have: str
    need: str
    share: float
    state: State
    note: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions that are compared."""

    version: str
    role: str
    weight: int
    ready: int
    accuracy: str
    interval: str
    labels: str
    latency: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """The running judgement. `kind` is `none` when nothing is judged."""

    kind: Literal["none", "starting", "canary", "probation"]
    title: str
    sentence: str
    tone: Tone
    stops: tuple[Stop, ...] = ()
    checks: tuple[Check, ...] = ()
    sides: tuple[Side, ...] = ()
    candidate: str = ""
    verdict: str = ""
    reason: str = ""
    deadline: str = ""
    """When the declared default falls, ISO; empty where it is not known."""
    missing: tuple[str, ...] = ()
    """What is still missing, in sentences."""
    pairs: int = 0
    """Labelled requests that both versions answered; of them `wins` only the candidate had right, `losses` only the other."""
    wins: int = 0
    losses: int = 0
    awaits_approval: bool = False


def rollout(snapshot: Snapshot) -> Rollout:
    """The running canary, else the running probation, else nothing."""
    if snapshot.status("canary"):
        return _canary(snapshot)
    if snapshot.status("probation"):
        return _probation(snapshot)
    return _quiet(snapshot)


def _quiet(snapshot: Snapshot) -> Rollout:
    waiting = snapshot.status("waiting.version")
    if waiting:
        return Rollout(
            "none",
            f"{waiting} waits",
            "it passed the offline gate and starts when its turn comes",
            "busy",
            candidate=waiting,
        )
    stable = snapshot.status("stable.version")
    if stable is None:
        return Rollout("none", "No version yet", "the first version is being trained", "busy")
    return Rollout("none", f"{stable} serves everything", "no candidate is being judged", "idle")


def _canary(snapshot: Snapshot) -> Rollout:
    canary: dict[str, Any] = snapshot.status("canary")
    candidate, baseline = str(canary["version"]), str(canary.get("baseline", ""))
    pair = _pair(snapshot, candidate, "canary")
    evidence: dict[str, Any] = canary.get("evidence") or {}
    routed = canary.get("since") is not None
    checks = tuple(_canary_checks(snapshot, canary, pair)) if routed else ()
    verdict, reason = str(evidence.get("verdict", "")), str(evidence.get("reason", ""))
    return Rollout(
        kind="canary" if routed else "starting",
        title=f"{candidate} against {baseline}",
        sentence=_canary_sentence(canary, evidence, routed=routed),
        tone=_tone(verdict, reason),
        stops=_stops(snapshot, canary, routed=routed),
        checks=checks,
        sides=_sides(snapshot, candidate, baseline, int(canary.get("weight", 0))),
        candidate=candidate,
        verdict=verdict,
        reason=text.words(reason),
        deadline=_after(canary.get("started"), snapshot.spec("rollout.deadline", DEADLINE_DEFAULT)),
        missing=tuple(_still_missing(checks)),
        pairs=pair.pairs if pair else 0,
        wins=pair.wins if pair else 0,
        losses=pair.losses if pair else 0,
        awaits_approval=reason == "AwaitingApproval",
    )


def _canary_sentence(canary: Mapping[str, Any], evidence: Mapping[str, Any], *, routed: bool) -> str:
    if not routed:
        return "its pods are starting; it answers nothing yet"
    if canary.get("stage") == "Promoting":
        return (
            "promoted by hand, before its gate has passed"
            if canary.get("forced")
            else "the gate has passed; it takes over"
        )
    message = str(evidence.get("message", ""))
    if not evidence:
        return "it answers in the shadow; the first labels are awaited"
    return (
        f"{text.words(str(evidence.get('reason', '')))}: {message}"
        if message
        else text.words(str(evidence.get("reason", "")))
    )


def _tone(verdict: str, reason: str) -> Tone:
    if verdict == "Promote":
        return "good"
    if verdict == "Rollback":
        return "bad"
    return "warn" if verdict == "Error" or reason in {"LowCoverage", "TooSlow", "AwaitingApproval"} else "busy"


def _pair(snapshot: Snapshot, candidate: str, purpose: str) -> PairEvidence | None:
    pair = snapshot.report.pair if snapshot.report else None
    return pair if pair is not None and pair.candidate == candidate and pair.purpose == purpose else None


def _stops(snapshot: Snapshot, canary: Mapping[str, Any], *, routed: bool) -> tuple[Stop, ...]:
    steps = snapshot.spec("rollout.steps", STEP_DEFAULTS)
    at = int(canary.get("step", 0)) if routed else -1
    promoting = canary.get("stage") == "Promoting"
    stops = [Stop("Pods", "ready" if routed else "starting", "done" if routed else "now")]
    for index, step in enumerate(steps):
        weight = int(step.get("weight", 0))
        name = "Shadow" if weight == 0 else f"{weight} %"
        state = "done" if index < at or promoting else "now" if index == at else "ahead"
        stops.append(Stop(name, f"hold {step.get('hold', '0s')}", state))  # type: ignore[arg-type]  # one of the three literals
    stops.append(Stop("Promoted", "takes all requests", "now" if promoting else "ahead"))
    return (*stops, Stop("Probation", "the old version stays warm", "ahead"))


def _gate(snapshot: Snapshot) -> dict[str, Any]:
    return {**GATE_DEFAULTS, **snapshot.spec("rollout.gate", {})}


def _canary_checks(snapshot: Snapshot, canary: Mapping[str, Any], pair: PairEvidence | None) -> Iterator[Check]:
    gate = _gate(snapshot)
    alpha = float(canary.get("alpha") or gate["alpha"])
    yield _labels(pair, int(gate["minLabels"]))
    yield _elapsed(snapshot, canary.get("started"), text.seconds(gate["minDuration"]), text.seconds(gate["cycle"]))
    yield _coverage(pair, float(gate["minCoverage"]))
    yield _held(pair, alpha, float(gate["margin"]))
    yield _worse(pair, float(gate["rollbackAlpha"]))
    yield _class_veto(pair, float(gate["classAlpha"]), float(gate["worstClassMargin"]))
    yield from _operational(snapshot, str(canary["version"]), str(canary.get("baseline", "")), gate)
    if gate["requireApproval"]:
        approved = bool(canary.get("approved"))
        state: State = "met" if approved else "open"
        yield Check("Approval", "given" if approved else "not yet", "by a person", float(approved), state)


def _labels(pair: PairEvidence | None, need: int) -> Check:
    have = pair.pairs if pair else 0
    return Check(
        "Labelled pairs", text.count(have), f"at least {need}", _share(have, need), "met" if have >= need else "open"
    )


def _elapsed(snapshot: Snapshot, started: str | None, need: float, cycle: float) -> Check:
    begun = text.epoch_ms(started)
    have = max(0.0, (snapshot.now_ms - begun) / 1000) if begun is not None else 0.0
    note = f"judged at whole cycles of {text.span(cycle)}" if cycle else ""
    shown = text.span(min(have, need)) if need else text.span(have)
    return Check(
        "Time", shown, f"at least {text.span(need)}", _share(have, need), "met" if have >= need else "open", note
    )


def _coverage(pair: PairEvidence | None, need: float) -> Check:
    have = pair.coverage_percent if pair else None
    if have is None:
        return Check(
            "Coverage", text.DASH, f"{need:g} %", 0.0, "open", "no audited request is older than the window yet"
        )
    return Check(
        "Coverage",
        f"{have:.1f} %",
        f"{need:g} %",
        _share(have, need),
        "met" if have >= need else "open",
        "labelled of the audited requests",
    )


def _held(pair: PairEvidence | None, alpha: float, margin: float) -> Check:
    wealth = pair.log_wealth_not_inferior if pair else 0.0
    need = -math.log(alpha)
    note = f"not worse by more than {margin * 100:g} points, at level {alpha:.3g}"
    if pair:
        note += f"; paired gain {text.signed_points(pair.gain_lower)} to {text.signed_points(pair.gain_upper)} points"
    return Check(
        "Evidence for it", _odds(wealth), _odds(need), _share(wealth, need), "met" if wealth >= need else "open", note
    )


def _worse(pair: PairEvidence | None, alpha: float) -> Check:
    wealth, need = pair.log_wealth_worse if pair else 0.0, -math.log(alpha)
    state: State = "against" if wealth >= need else "met"
    return Check("Evidence against it", _odds(wealth), f"rolled back at {_odds(need)}", _share(wealth, need), state)


def _class_veto(pair: PairEvidence | None, alpha: float, margin: float) -> Check:
    wealth, need = pair.log_wealth_class_veto if pair else 0.0, -math.log(alpha)
    worst = min(pair.classes.items(), key=lambda item: item[1].mean_gain, default=None) if pair else None
    note = f"no class may lose more than {margin * 100:g} points"
    if worst is not None and worst[1].mean_gain < 0:
        note += f"; lowest is {worst[0]} with {text.signed_points(worst[1].mean_gain)}"
    return Check(
        "Worst class",
        _odds(wealth),
        f"rolled back at {_odds(need)}",
        _share(wealth, need),
        "against" if wealth >= need else "met",
        note,
    )


def _operational(snapshot: Snapshot, candidate: str, baseline: str, gate: Mapping[str, Any]) -> Iterator[Check]:
    report = snapshot.report
    if report is None:
        return
    ours, theirs = report.versions.get(candidate), report.versions.get(baseline)
    limit = text.seconds(gate["maxLag"])
    behind = report.lag_seconds.get(candidate, 0.0) - report.lag_seconds.get(baseline, 0.0)
    yield Check(
        "Lag",
        f"{max(behind, 0):.1f} s",
        f"at most {limit:g} s more",
        _share(behind, limit),
        "against" if behind > limit else "met",
    )
    if ours is not None:
        allowed = float(gate["maxErrorRate"])
        state: State = "against" if ours.error_rate > allowed else "met"
        yield Check(
            "Errors",
            text.percent(ours.error_rate),
            f"at most {text.percent(allowed)}",
            _share(ours.error_rate, allowed),
            state,
        )
    yield from _latency(ours, theirs, float(gate["maxLatencyRatio"]))


def _latency(ours: VersionScores | None, theirs: VersionScores | None, ratio: float) -> Iterator[Check]:
    if ours is None or theirs is None or ours.worker_us_p95 is None or not theirs.worker_us_p95:
        return
    have = ours.worker_us_p95 / theirs.worker_us_p95
    slower = ours.worker_us_p95 - theirs.worker_us_p95 > 2000 and have > ratio
    few = min(ours.answers, theirs.answers) < LATENCY_ANSWERS
    yield Check(
        "Latency p95",
        text.milliseconds(ours.worker_us_p95),
        f"at most {ratio:g} × stable’s {text.milliseconds(theirs.worker_us_p95)}",
        _share(have, ratio),
        "open" if slower and not few else "met",
    )


def _odds(log_wealth: float) -> str:
    """A wealth as what it is: how many times the stake it has become."""
    if log_wealth > math.log(1e6):
        return f"1e{log_wealth / math.log(10):.0f} : 1"
    value = math.exp(log_wealth)
    return f"{value:.2f} : 1" if value < 10 else f"{value:.0f} : 1"


def _share(have: float, need: float) -> float:
    return 1.0 if need <= 0 else max(0.0, min(1.0, have / need))


def _still_missing(checks: tuple[Check, ...]) -> Iterator[str]:
    for check in checks:
        if check.state == "open" and check.have == text.DASH:
            yield f"{check.name.lower()}: {check.note}"
        elif check.state == "open":
            yield f"{check.name.lower()}: {check.have} of {check.need.removeprefix('at least ')}"


def _sides(snapshot: Snapshot, candidate: str, baseline: str, weight: int) -> tuple[Side, ...]:
    blocks = {
        str(snapshot.status(f"{role}.version")): snapshot.status(role, {}) for role in ("stable", "canary", "probation")
    }
    pairs = ((baseline, "stable", 100 - weight), (candidate, "canary", weight))
    return tuple(
        _side(snapshot, version, role, share, blocks.get(version, {})) for version, role, share in pairs if version
    )


def _side(snapshot: Snapshot, version: str, role: str, weight: int, block: Mapping[str, Any]) -> Side:
    scores = snapshot.report.versions.get(version) if snapshot.report else None
    return Side(
        version=version,
        role=role,
        weight=weight,
        ready=int(block.get("readyReplicas", 0)),
        accuracy=text.percent(scores.accuracy if scores else None),
        interval=f"{scores.lower * 100:.1f}–{scores.upper * 100:.1f}"
        if scores and scores.lower is not None and scores.upper is not None
        else "",
        labels=text.count(scores.labels if scores else 0),
        latency=text.milliseconds(scores.worker_us_p95 if scores else None),
    )


def _probation(snapshot: Snapshot) -> Rollout:
    block: dict[str, Any] = snapshot.status("probation")
    version, previous = str(block["version"]), str(block.get("previous", ""))
    rules = {**PROBATION_DEFAULTS, **snapshot.spec("rollout.probation", {})}
    pair = _pair(snapshot, version, "probation")
    checks = (
        _labels(pair, int(rules["minLabels"])),
        _elapsed(snapshot, block.get("started"), text.seconds(rules["minDuration"]), 0.0),
        _worse(pair, float(rules["alpha"])),
    )
    sides = (
        _side(snapshot, previous, "kept warm", 0, {}),
        _side(snapshot, version, "on probation", 100, snapshot.status("stable", {})),
    )
    return Rollout(
        kind="probation",
        title=f"{version} on probation",
        sentence=f"it serves everything; {previous} stays warm, answers in the shadow and returns by itself if {version} turns out worse",
        tone="busy",
        stops=_probation_stops(snapshot),
        checks=checks,
        sides=sides,
        candidate=version,
        verdict=str((block.get("evidence") or {}).get("verdict", "")),
        reason=text.words(str((block.get("evidence") or {}).get("reason", ""))),
        deadline=_after(block.get("started"), rules["deadline"]),
        missing=tuple(_still_missing(checks)),
        pairs=pair.pairs if pair else 0,
        wins=pair.wins if pair else 0,
        losses=pair.losses if pair else 0,
    )


def _probation_stops(snapshot: Snapshot) -> tuple[Stop, ...]:
    """The way it came: by the gate through all steps; by hand or as a correction past them."""
    version = snapshot.status("probation.version")
    lines = [
        d for d in snapshot.status("decisions", ()) if d.get("version") == version and d.get("action") == "Probation"
    ]
    reason = str(lines[-1].get("reason", "")) if lines else ""
    steps = snapshot.spec("rollout.steps", STEP_DEFAULTS) if reason in {"", "AccuracyHeld"} else ()
    names = ("Shadow" if not step.get("weight") else f"{step['weight']} %" for step in steps)
    done = tuple(Stop(name, "", "done") for name in ("Pods", *names))
    note = "" if steps else text.words(reason).lower()
    return (*done, Stop("Promoted", note, "done"), Stop("Probation", "the old version stays warm", "now"))


def _after(started: str | None, duration: str) -> str:
    begun = text.epoch_ms(started)
    return text.iso(begun + text.seconds(duration) * 1000) if begun is not None else ""
