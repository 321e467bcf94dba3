"""The pace of requests to an API server, as values."""

from __future__ import annotations

import pytest
from continual_operator.kubernetes.pace import FASTEST, LONGEST_WAIT_SECONDS, SLOWEST, Speed, retry_after


def test_a_failure_halves_and_a_success_adds_one() -> None:
    """Additive increase, multiplicative decrease; never above the fastest, never below the slowest."""
    assert Speed(8.0).after_failure(100.0).per_second == 4.0
    assert Speed(8.0).after_success().per_second == 9.0
    assert Speed(FASTEST).after_success().per_second == FASTEST
    assert Speed(SLOWEST).after_failure(0.0).per_second == SLOWEST


@pytest.mark.parametrize(("asked", "waited"), [(0.0, 0.25), (7.0, 7.0), (1e9, LONGEST_WAIT_SECONDS)])
def test_a_failure_puts_everybody_off_for_as_long_as_the_server_asks(asked: float, waited: float) -> None:
    """At least for a turn at the new speed, at most for two minutes."""
    assert Speed(8.0).after_failure(100.0, asked).next_at == 100.0 + waited


def test_an_earlier_failure_is_not_forgotten_for_a_later_one() -> None:
    """Two answers that cross: the longer wait counts."""
    first = Speed(8.0).after_failure(100.0, 30.0)
    assert first.after_failure(101.0, 1.0).next_at == 130.0


def test_a_server_that_refuses_every_second_request_is_asked_about_twice_a_second() -> None:
    """What the module promises: the speed settles, from wherever it starts."""
    speed, now, sent = Speed(), 0.0, 0
    while now < 200.0:
        now = max(now, speed.next_at)
        speed = speed.after_turn(now)
        speed = speed.after_failure(now) if sent % 2 else speed.after_success()
        sent += 1
    assert sent / 200.0 < 4.0


def test_a_server_that_is_well_again_is_asked_at_full_speed_within_seconds() -> None:
    """The storm is over: from the slowest to the fastest in less than eight seconds."""
    speed, now = Speed(SLOWEST), 0.0
    while speed.per_second < FASTEST:
        now = max(now, speed.next_at)
        speed = speed.after_turn(now).after_success()
    assert now < 8.0


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0.0), ("5", 5.0), ("1.5", 1.5), ("Fri, 01 Jan", 0.0), ("-3", 0.0)]
)
def test_retry_after_is_seconds_or_nothing(header: str | None, seconds: float) -> None:
    """A date is no number of seconds, and Kubernetes sends none."""
    assert retry_after(header) == seconds
