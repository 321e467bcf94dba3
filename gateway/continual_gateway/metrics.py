"""What Prometheus is told of the gateway. Labels are route, method, status class, model: never a path a stranger chose, never a name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One registry per app, so that tests and replicas share nothing."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "continual_gateway_requests",
            "HTTP requests answered",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "continual_gateway_request_seconds", "Time to answer", ["route"], buckets=BUCKETS, registry=self.registry
        )
        self.waiting = Gauge(
            "continual_gateway_waiting", "Accepted requests that wait for an answer", ["model"], registry=self.registry
        )
        self.answers = Counter(
            "continual_gateway_answers",
            "What became of accepted requests",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.labels = Counter("continual_gateway_labels", "Labels sent", ["model", "source"], registry=self.registry)
        self.images_refused = Counter(
            "continual_gateway_images_refused", "Images refused before the stream", ["reason"], registry=self.registry
        )
        self.decoder_restarts = Counter(
            "continual_gateway_decoder_restarts", "Decoder processes started again", registry=self.registry
        )
        self.notices = Counter(
            "continual_gateway_notices", "Webhook notices", ["kind", "outcome"], registry=self.registry
        )
        self.signins = Counter("continual_gateway_signins", "Sign-ins", ["outcome"], registry=self.registry)
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._answered: dict[tuple[str, str], Counter] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request. Its two series are looked up once."""
        key = (route, method if method in METHODS else "other", status // 100)
        found = self._counted.get(key)
        if found is None:
            counter = self.requests.labels(key[0], key[1], f"{key[2]}xx")
            found = self._counted[key] = (counter, self.seconds.labels(route))
        found[0].inc()
        found[1].observe(seconds)

    def answered(self, model: str, outcome: str, count: int = 1) -> None:
        """What became of requests to a model that there is; its series is looked up once."""
        found = self._answered.get((model, outcome))
        if found is None:
            found = self._answered[model, outcome] = self.answers.labels(model, outcome)
        found.inc(count)
