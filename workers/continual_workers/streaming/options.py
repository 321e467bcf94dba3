"""How a consumer works: every number it needs, fixed at its start."""

from __future__ import annotations

from dataclasses import dataclass

from continual_contract.entries import ISOLATE_AFTER_DELIVERIES, MAX_DELIVERIES


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """Times in milliseconds for what Redis takes in milliseconds, in seconds elsewhere."""

    batch_size: int = 64
    """Cap of one batch, and of one read but for groups with a small share. There is no batch window: the backlog makes the batch."""
    block_ms: int = 1000
    """At most 1000: a drain must not wait for traffic. The socket timeout of the connection must be longer."""
    min_idle_ms: int = 30_000
    """An entry idle for longer is taken over. Far above p99.9 of a batch: leases of long work are renewed at a third of it."""
    heir_interval_seconds: float = 0.5
    """How often an heir looks for what a dead version's consumers still hold."""
    salt: str = ""
    """Salt of sample membership (`EvaluatorConfig.salt`)."""
    sample_percent: float = 100.0
    answers_ttl_seconds: int = 90_000
    """feedback.window + 1 h."""
    max_lag_seconds: float = 30.0
    """Shadow work older than this is dropped and counted."""
    isolate_after: int = ISOLATE_AFTER_DELIVERIES
    max_deliveries: int = MAX_DELIVERIES
    drain_seconds: float = 20.0
    """How long a stopping consumer tries to commit what it has finished."""
    reconnect_seconds: float = 1.0
    """Longest pause between two attempts to reach Redis."""
    shadow_batches: int = 4
    """Shadow batches that may wait behind owned ones."""

    @property
    def claim_interval_seconds(self) -> float:
        return self.min_idle_ms / 2000

    @property
    def lease_interval_seconds(self) -> float:
        return self.min_idle_ms / 3000
