"""`python -m continual_workers.inference`: the command of an inference pod. Everything it needs is in its environment.

Exit codes are those of `continual_contract.errors`: 0 after SIGTERM, 2 a wrong setting, 3 no such checkpoint, 4 the store, the
device or the health address is not available, 6 bytes that are not what their digest says, or a model that is not safe to load.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping

from continual_clients import logs
from continual_clients.environment import WorkerEnvironment
from continual_contract.errors import ContinualError

from continual_workers.inference import supervisor, worker


def main() -> int:
    logs.configure("inference")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        return run(os.environ, stop)
    except ContinualError as error:
        worker.report_failure(error, os.environ)
        return error.exit_code


def run(environ: Mapping[str, str], stop: threading.Event) -> int:
    env = WorkerEnvironment.from_env(environ)
    if supervisor.is_child(environ):
        supervisor.stop_with_parent(stop)
    elif env.processes > 1:
        return supervisor.supervise(env, environ, stop)
    worker.serve(env, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
