"""The simulation behind `continual simulate gate`, with few runs; its full size is a command of its own."""

from __future__ import annotations

import json

import pytest
from continual_workers.evaluation.simulate import (
    clustered,
    false_discoveries,
    format_table,
    main,
    ordered,
    promotions,
    rollbacks,
    simulate_gate,
)


@pytest.mark.parametrize(("gain", "loss", "margin"), [(0.005, 0.025, 0.02), (0.03, 0.05, 0.02), (0.04, 0.04, 0.0)])
def test_false_promotions_at_the_margin_stay_below_alpha(gain: float, loss: float, margin: float) -> None:
    """N3: a look after every one of 5000 labels, 2000 runs; 1.5 standard deviations of room for so few runs."""
    assert promotions(gain, loss, margin, 0.05, 2000).rate <= 0.05 + 1.5 * (0.05 * 0.95 / 2000) ** 0.5


def test_mutation_a_gate_that_bets_against_a_weaker_claim_promotes_falsely() -> None:
    """Betting at twice the margin promotes most candidates that sit at the margin."""
    assert promotions(0.03, 0.05, 0.04, 0.05, 500).rate > 0.5


def test_labels_to_promote_and_to_roll_back_meet_the_goals() -> None:
    """Median and p90 of learning: 600/1500 at m = 0, 180/400 at m = .02, 220/500 to roll back -5 %."""
    strict, lenient, back = (
        promotions(0.03, 0.01, 0.0, 0.05, 2000),
        promotions(0.03, 0.01, 0.02, 0.05, 2000),
        rollbacks(0.02, 0.07, 0.05, 2000),
    )
    assert (strict.quantile(0.5) <= 600, strict.quantile(0.9) <= 1500) == (True, True)
    assert (lenient.quantile(0.5) <= 180, lenient.quantile(0.9) <= 400) == (True, True)
    assert (back.quantile(0.5) <= 220, back.quantile(0.9) <= 500) == (True, True)


def test_clusters_counted_apart_break_the_gate_and_as_one_keep_it() -> None:
    """Rule 3."""
    assert clustered(10, 0.02, 0.05, 1000, corrected=False) > 0.4
    assert clustered(10, 0.02, 0.05, 1000, corrected=True) <= 0.05


def test_order_of_arrival_breaks_the_gate_and_order_of_requests_keeps_it() -> None:
    """Rule 1."""
    assert ordered(0.02, 0.05, 300, by_request=False) > 0.15
    assert ordered(0.02, 0.05, 300, by_request=True) <= 0.07


def test_the_alpha_budget_keeps_false_discoveries_down() -> None:
    """Rule 8: the same alpha for all finds too many; e-LOND holds alpha over the period."""
    assert false_discoveries(0.05, 200, 20, 0.1, budgeted=False, margin=0.02) > 0.1
    assert false_discoveries(0.05, 200, 20, 0.1, budgeted=True, margin=0.02) <= 0.05


def test_the_table_is_printed_with_json_and_its_verdict_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per claim, then one JSON line."""
    code = main(["--runs", "200", "--seed", "3"])
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(lines[-1])
    assert len(rows) == len(lines) - 1 > 20
    assert code == int(any(row["holds"] is False for row in rows))
    assert format_table(simulate_gate(50)[:1]).startswith("false promotions at the margin")
