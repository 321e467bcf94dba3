"""The whole life of a version, pass by pass, on a real Redis with a cluster in memory."""

from __future__ import annotations

from collections.abc import Callable

from continual_operator.rehearsal import Rehearsal

Stage = Callable[..., Rehearsal]


def test_the_first_version_is_trained_accepted_and_gets_the_whole_stream(stage: Stage) -> None:
    """Bootstrap: one Job, v1, one epoch from 0-0."""
    play = stage()
    play.settle()
    assert [job["metadata"]["name"] for job in play.cluster.jobs()] == [f"digits-train-{play.status.training.job}"]
    play.end_training()
    play.settle()
    assert play.shares == {"v1": 10_000}
    assert play.routing.epochs[0].after == "0-0"
    assert play.status.stable.version == "v1"
    assert {c.type: c.status for c in play.status.conditions}["Ready"] == "True"


def test_a_good_candidate_goes_through_shadow_and_shares_to_stable(stage: Stage) -> None:
    """Shadow at 0, then 10, then 50 percent, promotion in one change, probation, and the old version's pods go last."""
    play = stage()
    play.serve_first()
    assert play.reach_shadow() == "v2"
    seen = [play.shares]
    for _ in range(3):
        play.pass_time(12)
        play.report(pairs=200, held=6.0)
        play.settle()
        seen.append(play.shares)
    assert seen == [
        {"v1": 10_000, "v2": 0},
        {"v1": 9_000, "v2": 1_000},
        {"v1": 5_000, "v2": 5_000},
        {"v2": 10_000, "v1": 0},
    ]
    play.end_probation()
    assert play.shares == {"v2": 10_000}
    assert set(play.cluster.deployments()) == {"v2"}
    assert play.status.probation is None
    assert play.status.record("v1").phase == "Retired"


def test_a_worse_candidate_is_rolled_back_and_its_digest_quarantined(stage: Stage) -> None:
    """Rollback: the whole stream to stable, the heir finishes the canary's entries, then its pods go."""
    play = stage()
    play.serve_first()
    play.reach_shadow()
    digest = play.status.canary.digest
    play.report(pairs=10, worse=3.5)
    play.settle()
    assert play.shares == {"v1": 10_000}
    assert set(play.cluster.deployments()) == {"v1"}
    assert {g.serve for g in play.routing.groups.values()} == {"v1"}
    assert digest in play.status.quarantine
    assert play.status.record("v2").phase == "RolledBack"


def test_a_promoted_version_that_turns_bad_goes_back_to_the_warm_one(stage: Stage) -> None:
    """Probation: the old version takes the stream back without a pod start."""
    play = stage()
    play.serve_first()
    play.reach_probation()
    play.report(pairs=60, worse=5.0)
    calls = len(play.hooks.calls)
    play.settle()
    assert play.shares == {"v1": 10_000}
    assert not [call for call in play.hooks.calls[calls:] if call.startswith("apply Deployment/digits-v1")]
    assert set(play.cluster.deployments()) == {"v1"}
