"""`decisions` and `decisions replay`: the ledger read back and decided again from its evidence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from continual_cli.local.state import Endpoints
from continual_clients.objectstore import FileStore
from continual_contract.artifacts import HoldoutScores, StoreLayout
from continual_operator.judges import CanaryFacts, OfflineFacts, dump_facts, judge_canary, offline_gate
from continual_operator.ledger import LedgerEntry
from continual_operator.spec import Gate, OfflineGate
from continual_workers.evaluation.evidence import Observation, digest_of, replay

LAYOUT = StoreLayout("default", "digits")
PAIRS = [Observation(f"{1_700_000_000_000 + n}-0", "", str(n % 10), -1.0 if n % 20 == 0 else 0.0) for n in range(200)]


def entry(sequence: int, **fields) -> LedgerEntry:
    told = {
        "namespace": "default",
        "model": "digits",
        "uid": "u",
        "generation": 1,
        "time": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return LedgerEntry.model_validate({"sequence": sequence, **told, **fields})


@pytest.fixture
def store(digits, home) -> FileStore:
    """A ledger of two entries: a rollback with its 200 pairs, and a training that no judge's pairs stand behind."""
    digits.write_endpoints(Endpoints("redis://127.0.0.1:1/0", None, None, f"file://{home.store}", managed_redis=False))
    store = FileStore(home.store)
    key = LAYOUT.evidence("v8-canary-1", "0.jsonl")
    store.put(key, b"".join(pair.line() for pair in PAIRS))
    names = {"evidence_id": "v8-canary-1", "candidate": "v8", "baseline": "v7"}
    evidence = replay(PAIRS, 0.02, 0.05, class_count=10, **names).model_copy(
        update={"evidence_objects": (key,), "coverage_percent": 99.0}
    )
    assert evidence.evidence_digest == digest_of(PAIRS)
    facts = CanaryFacts(
        gate=Gate(), alpha=0.025, evidence=evidence, report_age_seconds=1.0, elapsed=timedelta(hours=30)
    )
    verdict = judge_canary(facts)
    assert verdict.outcome == "Rollback"
    told = {"verdict": verdict.outcome, "reason": verdict.reason, "message": verdict.message}
    rollback = entry(2, action="Rollback", version="v8", judge="judge_canary", facts=dump_facts(facts), **told)
    for one in (entry(1, action="Train", verdict="Due", reason="Manual", message="asked for by hand"), rollback):
        store.put(LAYOUT.decision(one.sequence), one.model_dump_json().encode())
    return store


def test_the_ledger_reads_oldest_first(run, store):
    told = json.loads(run("decisions", "-o", "json").stdout)
    assert [(one["sequence"], one["action"], one["by"]) for one in told] == [
        (1, "Train", "operator"),
        (2, "Rollback", "operator"),
    ]


def test_the_same_evidence_gives_the_same_verdict_bit_for_bit(run, store):
    """Pins C7 at the command line: numbers recomputed from the pairs, verdict, reason and message equal, exit 0."""
    result = run("decisions", "replay", "-o", "json")
    assert result.exit_code == 0, result.output
    [one] = json.loads(result.stdout)
    assert (one["sequence"], one["pairs"], one["verdict"], one["recorded"], one["same"]) == (
        2,
        200,
        "Rollback",
        "Rollback",
        True,
    )


def test_changed_evidence_is_found_out(run, store):
    """Pins exit 6 when one stored pair is another; the check against the ledger's digest is what finds it."""
    key = LAYOUT.evidence("v8-canary-1", "0.jsonl")
    store.put(key, store.get(key).replace(b'"d":-1.0', b'"d":1.0', 1))
    result = run("decisions", "replay")
    assert result.exit_code == 6
    assert result.stderr.startswith("error: decision 2: the stored pairs are not those that were judged")


def test_a_changed_ledger_is_found_out(run, store):
    """Pins exit 6 when the recorded verdict is not what its facts give."""
    raw = json.loads(store.get(LAYOUT.decision(2)))
    store.put(LAYOUT.decision(2), json.dumps(raw | {"verdict": "Promote"}).encode())
    result = run("decisions", "replay", "2")
    assert result.exit_code == 6
    assert "1 of 1 decisions come out differently (got 'Rollback'); the ledger says Promote" in result.stderr


def test_changed_numbers_in_the_ledger_are_found_out(run, store):
    """Pins exit 6 when a wealth in the ledger is not the one its pairs give, though the verdict would be the same."""
    raw = json.loads(store.get(LAYOUT.decision(2)))
    raw["facts"]["evidence"]["log_wealth_worse"] += 1e-12
    store.put(LAYOUT.decision(2), json.dumps(raw).encode())
    result = run("decisions", "replay", "2")
    assert result.exit_code == 6
    assert "decision 2: log_wealth_worse comes out differently" in result.stderr


def test_another_gate_may_decide_otherwise(run, store, tmp_path):
    """Pins --gate-file: fields of the file over the recorded gate, no complaint about a difference."""
    gate = tmp_path / "gate.yaml"
    gate.write_text("rollbackAlpha: 0.000001\nclassAlpha: 0.000001\nminLabels: 1000\n")
    result = run("decisions", "replay", "--gate-file", str(gate), "-o", "json")
    assert result.exit_code == 0, result.output
    [one] = json.loads(result.stdout)
    assert (one["verdict"], one["reason"], one["same"]) == ("Inconclusive", "TooFewLabels", False)


def test_another_margin_is_another_question_to_the_same_pairs(run, store, tmp_path):
    """Pins that the pairs' evidence is computed for the file's margin and its share of alpha, not read from the ledger.

    v8 lost one pair in twenty; at a margin of 15 points that is not inferior, so the wealth that promotes has grown.
    """
    gate = tmp_path / "gate.yaml"
    gate.write_text("gate: {margin: 0.15, worstClassMargin: 0.5, rollbackAlpha: 0.000001, classAlpha: 0.000001}\n")
    [one] = json.loads(run("decisions", "replay", "--gate-file", str(gate), "-o", "json").stdout)
    assert (one["verdict"], one["reason"]) == ("Promote", "AccuracyHeld")
    gate.write_text("gate: {margin: 0.02, rollbackAlpha: 0.000001, classAlpha: 0.000001}\n")
    [one] = json.loads(run("decisions", "replay", "--gate-file", str(gate), "-o", "json").stdout)
    assert one["verdict"] == "Inconclusive"


def test_alpha_in_the_file_scales_the_candidates_share(run, store, tmp_path):
    """Pins that e-LOND's share of the second look stays a share: half of alpha becomes half of the new alpha."""
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        "{margin: 0.15, worstClassMargin: 0.5, rollbackAlpha: 0.000001, classAlpha: 0.000001, alpha: 0.02}\n"
    )
    [one] = json.loads(run("decisions", "replay", "--gate-file", str(gate), "-o", "json").stdout)
    assert one["verdict"] == "Promote"
    assert "alpha 0.0100" in one["message"]


@pytest.fixture
def judged_offline(store) -> FileStore:
    """Beside the rollback: a candidate the offline gate refused, four points below its parent."""
    scores = HoldoutScores(samples=400, accuracy=0.90, per_class={}, per_class_samples={}, parent_accuracy=0.94)
    facts = OfflineFacts(
        gate=OfflineGate(), scores=scores, classes=10, finite_loss=True, parity_max_abs_diff=0.0, has_parent=True
    )
    verdict = offline_gate(facts)
    assert verdict.outcome == "Reject"
    told = {"verdict": verdict.outcome, "reason": verdict.reason, "message": verdict.message}
    refused = entry(3, action="Reject", version="v9", judge="offline_gate", facts=dump_facts(facts), **told)
    store.put(LAYOUT.decision(3), refused.model_dump_json().encode())
    return store


@pytest.mark.parametrize(
    "form", ["offlineGate: {maxDrop: 0.05}\n", "spec: {rollout: {offlineGate: {maxDrop: 0.05}}}\n"]
)
def test_a_policy_may_be_a_part_of_rollout_or_a_whole_model(run, judged_offline, tmp_path, form):
    """Pins that each judge gets its own part: the offline gate changes its mind, the live gate's decision is as it was."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(form)
    result = run("decisions", "replay", "--gate-file", str(policy), "-o", "json")
    assert result.exit_code == 0, result.output
    assert [(one["verdict"], one["same"]) for one in json.loads(result.stdout)] == [("Rollback", True), ("Pass", False)]


def test_gate_fields_alone_leave_the_offline_gate_alone(run, judged_offline, tmp_path):
    """Pins that a file of live-gate fields is no error for decisions of other judges."""
    gate = tmp_path / "gate.yaml"
    gate.write_text("minLabels: 50\n")
    told = json.loads(run("decisions", "replay", "--gate-file", str(gate), "-o", "json").stdout)
    assert [one["same"] for one in told] == [True, True]


def test_a_wrong_gate_file_names_the_field(run, store, tmp_path):
    gate = tmp_path / "gate.yaml"
    gate.write_text("alfa: 0.05\n")
    result = run("decisions", "replay", "--gate-file", str(gate))
    assert result.exit_code == 2
    assert f"{gate}: alfa" in result.stderr


@pytest.mark.parametrize(
    ("sequence", "code", "said"),
    [("9", 3, "no such decision (got 9)"), ("1", 2, "was not made by a judge (got 'Train: Manual')")],
)
def test_a_decision_that_cannot_be_replayed_says_why(run, store, sequence, code, said):
    result = run("decisions", "replay", sequence)
    assert result.exit_code == code
    assert said in result.stderr


def test_simulate_gate_prints_claims_and_holds_them(run):
    """Pins that the command runs the evaluator's simulation and fails when a claim does not hold."""
    result = run("simulate", "gate", "--runs", "200", "-o", "json")
    rows = json.loads(result.stdout)
    assert {row["holds"] for row in rows} <= {True, False, None}
    assert result.exit_code == int(any(row["holds"] is False for row in rows))
