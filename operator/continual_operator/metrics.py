"""What the operator counts about itself, in a registry of its own: for alerts, not for decisions.

Nothing here is read back by the operator. Labels are bounded: verbs, codes and documented reasons, never names of models.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "continual_operator"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class OperatorMetrics:
    """Counters and gauges of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = self._counter("reconciles", "Looks at a model", "outcome")
        self._errors = self._counter("errors", "Looks at a model that failed, by the error's reason", "reason")
        self._requests = self._counter("api_requests", "Requests to the API server", "verb", "code")
        self._decisions = self._counter("decisions", "Entries of the ledger", "action", "reason")
        self._seconds = Histogram(
            f"{PREFIX}_reconcile_seconds", "Duration of a look at a model", registry=self.registry, buckets=BUCKETS
        )
        self._leader = self._gauge("leader", "1 while this process holds the Lease")
        self._models = self._gauge("models", "Models in the watched namespaces")
        self._resync = self._gauge("resync_age_seconds", "Seconds since everything was listed")
        self._unheard = self._gauge("watch_silence_seconds", "Seconds for which a change has not come by its watch")
        self._refusing = self._gauge("refusing", "1 while the installed CRD lacks fields and nothing is done")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, registry=self.registry)

    def looked(self, duration: timedelta, error_reason: str = "") -> None:
        """One look at one model ended."""
        self._reconciles.labels("failed" if error_reason else "done").inc()
        self._seconds.observe(duration.total_seconds())
        if error_reason:
            self._errors.labels(error_reason).inc()

    def asked(self, verb: str, code: str) -> None:
        """The API server answered a request, or (code `none`) did not."""
        self._requests.labels(verb, code).inc()

    def decided(self, action: str, reason: str) -> None:
        self._decisions.labels(action, reason).inc()

    def leads(self, *, leading: bool) -> None:
        self._leader.set(leading)

    def refuses(self, *, refusing: bool) -> None:
        self._refusing.set(refusing)

    def watch(self, models: Callable[[], float], resync_age: Callable[[], float], silence: Callable[[], float]) -> None:
        """Where the gauges of now come from."""
        self._models.set_function(models)
        self._resync.set_function(resync_age)
        self._unheard.set_function(silence)
