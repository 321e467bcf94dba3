"""The stream: consumer, leases, claims, dead letters, reaper. The protocol is in `docs/architecture.md`."""

from __future__ import annotations

from continual_workers.streaming.consumer import Consumer
from continual_workers.streaming.options import ConsumerOptions
from continual_workers.streaming.outcomes import Counters, Handler, Outcome, Predicted, Refused, StreamMetrics

__all__ = ["Consumer", "ConsumerOptions", "Counters", "Handler", "Outcome", "Predicted", "Refused", "StreamMetrics"]
