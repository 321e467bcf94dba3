"""The training Job's process: inputs in argv, places in the environment, the outcome in the object store.

Exit codes: 0 when an outcome is recorded (a candidate or a failure that trying again would not change), else the error's
own code, so that the Job is tried again. SIGTERM ends it at once (143); it continues after its last epoch.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from continual_clients import logs
from continual_clients.environment import WorkerEnvironment
from continual_clients.objectstore import open_store
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import StoreLayout, TrainingInputs
from continual_contract.errors import ContinualError, UsageError
from continual_contract.keys import ModelKeys
from pydantic import ValidationError

PROGRESS_TTL_SECONDS = 3600
SMALL = frozenset({"mlp", "lenet5", "cnn3"})
log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run one Job; the exit code."""
    logs.configure("trainer")
    signal.signal(signal.SIGTERM, _leave)
    try:
        return _run(_inputs(argv), dict(os.environ))
    except ContinualError as error:
        log.error("training cannot run now", extra={"reason": error.reason, "error": str(error)})  # noqa: TRY400 -- one line
        return error.exit_code


def _inputs(argv: list[str] | None) -> TrainingInputs:
    parser = argparse.ArgumentParser(prog="continual-trainer", description=__doc__)
    parser.add_argument("--inputs", required=True, help="TrainingInputs as JSON")
    text = parser.parse_args(argv).inputs
    try:
        return TrainingInputs.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            first["msg"], field=f"--inputs {place}", remedy="pass the TrainingInputs of the contract"
        ) from error


def _run(inputs: TrainingInputs, environ: Mapping[str, str]) -> int:
    # A trainer needs no Redis: without a URL it only reports no progress.
    named = {
        settings.NAMESPACE: inputs.namespace,
        settings.MODEL: inputs.model,
        settings.REDIS_URL: "redis://127.0.0.1:1",
    }
    env = WorkerEnvironment.from_env({**named, **{k: v for k, v in environ.items() if v}})
    store = open_store(env.store_url, env.store_credentials_file)
    registry = Registry(store, StoreLayout(inputs.namespace, inputs.model))
    reporter = _reporter(env, inputs) if environ.get(settings.REDIS_URL) else None
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is loaded
    from continual_workers.training import run  # noqa: PLC0415 -- torch: after the cheap checks

    def report(progress: run.TrainingProgress) -> None:
        log.info("progress", extra={"phase": progress.phase, "epoch": progress.epoch, "loss": progress.loss})
        if reporter is not None:
            reporter(
                {
                    "phase": progress.phase,
                    "epoch": str(progress.epoch),
                    "epochs": str(progress.epochs),
                    "loss": "" if progress.loss is None else f"{progress.loss:.4f}",
                    "accuracy": "" if progress.accuracy is None else f"{progress.accuracy:.4f}",
                }
            )

    outcome = run.train(inputs, store, registry, report, env.data, threads=threads_for(inputs.architecture, env.cpus))
    log.info(
        "training ended", extra={"job": outcome.job, "manifest": outcome.manifest, "failure": str(outcome.failure)}
    )
    return 0


def threads_for(architecture: str, cpus: float) -> int:
    """One thread for small networks, else one per CPU of the Job.

    A step of a small network is shorter than what its threads lose on each other: on cores of its own a second one brings a tenth,
    beside a busy process it costs four fifths (`docs/decisions/0211`).
    """
    return 1 if architecture in SMALL else max(1, int(cpus))


def _reporter(env: WorkerEnvironment, inputs: TrainingInputs) -> Callable[[Mapping[str, str]], None]:
    """Writes progress to Redis; a Redis that is away costs one warning, never the training."""
    import redis  # noqa: PLC0415 -- a trainer without Redis needs no client
    from continual_clients.redis import connect  # noqa: PLC0415

    client, key = connect(env), ModelKeys(inputs.namespace, inputs.model).progress(inputs.job_hash())

    def write(fields: Mapping[str, str]) -> None:
        stored: dict[Any, Any] = dict(fields)
        try:
            client.hset(key, mapping=stored)
            client.expire(key, PROGRESS_TTL_SECONDS)
        except redis.RedisError as error:
            log.warning("progress not reported", extra={"error": str(error)})

    return write


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
