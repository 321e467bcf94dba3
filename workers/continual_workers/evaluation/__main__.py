"""`python -m continual_workers.evaluation`: the evaluator of one model, told by its environment where everything is."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from continual_clients.environment import WorkerEnvironment
from continual_clients.health import HealthServer
from continual_clients.logs import configure
from continual_clients.objectstore import open_store
from continual_clients.redis import connect
from continual_contract.errors import ContinualError
from prometheus_client import CollectorRegistry

from continual_workers.evaluation.metrics import EvaluatorMetrics
from continual_workers.evaluation.process import Evaluator

log = logging.getLogger(__name__)


def main() -> int:
    """Run until SIGTERM; the exit code is that of the error that ended it."""
    configure("evaluator")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(WorkerEnvironment.from_env(os.environ), stop)
    except ContinualError as error:
        log.error("evaluator ends", extra={"reason": error.reason, "error": error.describe()})  # noqa: TRY400 -- the text says it all
        return error.exit_code
    return 0


def serve(env: WorkerEnvironment, stop: threading.Event) -> None:
    """Build the parts and run them."""
    store = open_store(env.store_url, env.store_credentials_file)
    evaluator = Evaluator(connect(env), store, env.keys)
    registry = CollectorRegistry()
    registry.register(EvaluatorMetrics(env.namespace, env.model, evaluator))
    with HealthServer(env.health_address, lambda: evaluator.ready, registry):
        log.info("evaluator started", extra={"model": env.model, "namespace": env.namespace})
        evaluator.run(stop)
    log.info("evaluator stopped")


if __name__ == "__main__":
    sys.exit(main())
