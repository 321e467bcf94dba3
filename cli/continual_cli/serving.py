"""The classifier between a producer and a consumer: the inference worker on a run folder, without operator and resource.

It is the same consumer with the same fences as in a cluster. What an operator would do is done once at the start: load the
functions, and route the stream to this version. What an evaluator would do for the streams, tidying, happens every ten seconds.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual_contract.errors import ForeignOwnerError, UnavailableError
from continual_contract.keys import ModelKeys

from continual_cli import streams
from continual_cli.offline import Run, open_run
from continual_cli.output import note
from continual_cli.producing import checked_url

if TYPE_CHECKING:
    import redis
    from continual_contract.routing import Routing
    from continual_workers.streaming.consumer import Consumer

OWNER = "continual-serve"
"""The uid that `serve` routes under: streams of a ContinualModel carry another one, and are left alone."""
TIDY_SECONDS = 10.0
DIGEST_PREFIX = 12


def serve(folder: Path, url: str, model: str, version: str, batch_size: int) -> None:
    """Answer requests until Ctrl-C or SIGTERM; what was read is finished first.

    Errors: NotFoundError, IntegrityError, RedisUnavailableError, ForeignOwnerError.
    """
    from continual_clients.redis import check, connect_url, ensure_functions

    run, keys = open_run(folder), ModelKeys("default", model)
    with connect_url(checked_url(url)) as client:
        check(client, url)
        ensure_functions(client)
        route(client, keys, version)
        worker = consumer(run, url, keys, version, batch_size)
        digest = run.manifest.digest()
        note(f"{model} {version} ({digest[:19]}) answers on {url}; Ctrl-C ends it")
        with stopping() as stop, tidying(client, keys, stop):
            worker.run(stop)


def route(client: redis.Redis, keys: ModelKeys, version: str) -> None:
    """Make this version the owner of the stream; the one before hands its unfinished work over.

    Errors: ForeignOwnerError when the streams belong to a ContinualModel.
    """
    from continual_contract.functions import route_call
    from continual_contract.routing import parse_routing

    raw: Any = client.get(keys.routing)
    routing = parse_routing(raw) if raw else None
    if routing is not None and routing.uid != OWNER:
        raise ForeignOwnerError(
            "the streams belong to a ContinualModel",
            field="--model",
            value=keys.model,
            remedy="choose another name with -m",
        )
    gen, token = (routing.gen, routing.token) if routing else (0, 1)
    heirs = dict.fromkeys(others(routing, version), version)
    streams.run(client, route_call(keys, gen, token, OWNER, [(version, 10_000)], heirs=heirs))


def others(routing: Routing | None, version: str) -> list[str]:
    """Versions that serve some group now and will not any more."""
    groups = routing.groups.values() if routing else ()
    return sorted({str(group.serve) for group in groups} - {version})


def consumer(run: Run, url: str, keys: ModelKeys, version: str, batch_size: int) -> Consumer:
    from continual_clients.guard import check_model
    from continual_clients.onnxmodel import open_session
    from continual_clients.redis import connect_url
    from continual_workers.inference.engine import Engine
    from continual_workers.streaming.consumer import Consumer
    from continual_workers.streaming.options import ConsumerOptions

    check_model(run.onnx)
    engine = Engine(open_session(run.onnx, run.manifest, "cpu"), run.manifest)
    engine.warm_up(batch_size)
    return Consumer(
        connect=lambda: connect_url(url),
        keys=keys,
        version=version,
        digest_prefix=run.manifest.digest().removeprefix("sha256:")[:DIGEST_PREFIX],
        consumer_name=f"serve-{os.getpid()}-{secrets.token_hex(3)}",
        options=ConsumerOptions(batch_size=batch_size),
        handler=engine.answer,
    )


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C is the usual one."""
    stop = threading.Event()

    def leave(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def tidying(client: redis.Redis, keys: ModelKeys, stop: threading.Event) -> Iterator[None]:
    """Audit and trim the streams while the worker works."""
    from continual_workers.streaming.reaper import ReapOptions, reap_once

    def tidy() -> None:
        while not stop.wait(TIDY_SECONDS):
            try:
                with streams.reaching(client):
                    reap_once(client, keys, ReapOptions())
            except UnavailableError as error:
                note(f"tidying later: {error.describe()}")

    thread = threading.Thread(target=tidy, name="tidy")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
