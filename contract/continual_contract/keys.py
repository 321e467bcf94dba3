"""Where everything of one model lives in Redis: under `ctm:{<namespace>/<model>}:`, one hash slot."""

from __future__ import annotations

from dataclasses import dataclass

from continual_contract.ids import hour_of


@dataclass(frozen=True, slots=True)
class ModelKeys:
    """Key names of one model. Same hash tag everywhere: functions may touch several of them in one call."""

    namespace: str
    model: str

    @property
    def prefix(self) -> str:
        return f"ctm:{{{self.namespace}/{self.model}}}:"

    @property
    def requests(self) -> str:
        """Stream of requests (RequestEntry)."""
        return self.prefix + "requests"

    @property
    def predictions(self) -> str:
        """Stream of published predictions (PredictionEntry)."""
        return self.prefix + "predictions"

    @property
    def labels(self) -> str:
        """Stream of labels (LabelEntry)."""
        return self.prefix + "labels"

    @property
    def dead(self) -> str:
        """Stream of dead letters (DeadLetter)."""
        return self.prefix + "dead"

    @property
    def routing(self) -> str:
        """JSON of `routing.Routing`; written by the function `route` and `reap` only."""
        return self.prefix + "routing"

    @property
    def serve(self) -> str:
        """Hash group → version that works in it: the fence of every commit."""
        return self.prefix + "serve"

    @property
    def report(self) -> str:
        """Hash {seq, json}: the evaluator's `report.Report`."""
        return self.prefix + "report"

    def history(self, suffix: str) -> str:
        """Capped stream of `history.HistoryPoint`, field `p`; `suffix` is a `history.Resolution`'s."""
        return self.prefix + suffix

    @property
    def corrections(self) -> str:
        """Sorted set of request ids that people corrected through the gateway, scored by time (ms)."""
        return self.prefix + "corrections"

    def correction(self, request_id: str) -> str:
        """Hash of one correction: who, what was and is right, the pixels, and what the training made of it (TTL)."""
        return f"{self.prefix}correction:{request_id}"

    @property
    def ingested(self) -> str:
        """Sorted set of uploaded samples by their content hash, scored by time (ms); rows in `ingested_rows`."""
        return self.prefix + "ingested"

    @property
    def ingested_rows(self) -> str:
        """Hash content hash → JSON row of an uploaded sample: the gateway's table."""
        return self.prefix + "ingested:rows"

    @property
    def labelled(self) -> str:
        """Sorted set of request ids that the gateway's label queue is done with, scored by time (ms)."""
        return self.prefix + "labelled"

    @property
    def config(self) -> str:
        """JSON of `config.EvaluatorConfig`, written by the operator, fenced by its token."""
        return self.prefix + "config"

    @property
    def evaluator(self) -> str:
        """Prefix of the evaluator's own snapshot keys."""
        return self.prefix + "evaluator"

    @property
    def alarms(self) -> str:
        """Hash of counters that only grow: `lost_undelivered`, `lost_pending`, `lost_tail`, `readded`."""
        return self.prefix + "alarms"

    @property
    def audit(self) -> str:
        """Stream of the changes that people made through the gateway: fields `by role how verb value`."""
        return self.prefix + "audit"

    def answers(self, hour: int) -> str:
        """Hash request id → answer, and `<request id>/<version>` → shadow answer, of one hour."""
        return f"{self.prefix}answers:{hour}"

    def answers_of(self, request_id: str) -> str:
        return self.answers(hour_of(request_id))

    def seen(self, caller_key: str) -> str:
        """Entry id of the request a caller enqueued under its own key (TTL: window + 1 h)."""
        return f"{self.prefix}seen:{caller_key}"

    def progress(self, job: str) -> str:
        """Hash {epoch, epochs, loss, accuracy, phase} of a running training (TTL)."""
        return f"{self.prefix}progress:{job}"
