"""`continual local up`: Redis, the store, the one-machine cluster and the operator in one process.

The process holds the home's lock and the fencing token. What it starts outlives it: killed with -9 it leaves everything serving,
and the next `local up` adopts all of it. Ended by Ctrl-C or SIGTERM it takes everything down in order: operator, workers, Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis.asyncio
from continual_clients.logs import JsonFormatter, TextFormatter
from continual_clients.objectstore import open_store
from continual_clients.redis import connect_async, ensure_functions_async
from continual_contract import settings
from continual_contract.errors import ContinualError
from continual_operator.loop import run_operator
from continual_operator.reconcile import Deps
from continual_operator.settings import ComponentSettings, OperatorSettings
from continual_operator.spec import parse_model

from continual_cli.local.cluster import LocalCluster
from continual_cli.local.files import write_atomic, write_json
from continual_cli.local.gateway import GatewayProcess, stop_gateway
from continual_cli.local.options import UpOptions, acquire
from continual_cli.local.paths import Home
from continual_cli.local.redis import RedisServer, check_external, split_credentials
from continual_cli.local.state import Endpoints, LocalState

log = logging.getLogger("continual.local")


def check_manifests(manifests: Sequence[dict[str, Any]]) -> None:
    """Refuse a wrong model before anything is started.

    Raises:
        InvalidSpecError: naming the fields.
    """
    for manifest in manifests:
        metadata = {"namespace": "default", **(manifest.get("metadata") or {})}
        parse_model(manifest | {"metadata": metadata})


def run_foreground(options: UpOptions, environ: Mapping[str, str]) -> None:
    """Run until a signal says stop.

    Raises:
        ConflictError: another `local up` runs on this home.
        ContinualError: Redis or the store is not to be had.
    """
    home = Home(options.home).create()
    lock = acquire(home)
    try:
        with _logging_to(home):
            write_json(home.up_state, {"pid": os.getpid(), "phase": "starting"})
            _run(Up(home, options, environ))
            write_json(home.up_state, {"pid": os.getpid(), "phase": "stopped"})
    except ContinualError as error:
        failure = {"pid": os.getpid(), "phase": "failed", "message": error.describe(), "exit_code": error.exit_code}
        write_json(home.up_state, failure)
        raise
    finally:
        os.close(lock)


def _run(up: Up) -> None:
    """Run to the end; of several parts that failed together the first one says why."""
    try:
        asyncio.run(up.run())
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


class Up:
    """One life of `local up`."""

    def __init__(self, home: Home, options: UpOptions, environ: Mapping[str, str]) -> None:
        self._home, self._options, self._environ = home, options, environ
        self._state = LocalState(home)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Start all, wait for the end, stop all."""
        self._listen_for_signals()
        server = await self._start_redis()
        endpoints = self._state.endpoints()
        client = connect_async(
            endpoints.redis_url, endpoints.redis_username or "", _path(endpoints.redis_password_file)
        )
        await ensure_functions_async(client)
        cluster = LocalCluster(self._state, self._environ)
        for manifest in self._options.manifests:
            applied = self._state.create_or_replace(manifest)
            log.info("model %s %s", applied.model["metadata"]["name"], applied.verb)
        await self._serve(cluster, self._deps(cluster, client, endpoints), server)
        await client.aclose()
        log.info("stopping")
        await stop_gateway(self._home)
        await cluster.stop_all()
        if server is not None:
            await server.stop()
        log.info("stopped")

    async def _serve(self, cluster: LocalCluster, deps: Deps, server: RedisServer | None) -> None:
        """Run until the stop event; an error in any part ends this process and leaves what it started."""
        async with asyncio.TaskGroup() as group:
            machine = group.create_task(cluster.run(self._stop))
            if server is not None:
                group.create_task(server.supervise(self._stop))
            operator = group.create_task(run_operator(cluster, deps, self._stop))
            if self._options.gateway:
                group.create_task(self._open_gateway().supervise(self._stop))
            write_json(self._home.up_state, {"pid": os.getpid(), "phase": "ready"})
            log.info("ready", extra={"home": str(self._home.root), "redis": self._state.endpoints().redis_url})
            await asyncio.wait({machine, operator}, return_when=asyncio.FIRST_COMPLETED)
            self._stop.set()

    def _open_gateway(self) -> GatewayProcess:
        gateway = GatewayProcess(self._home, self._options.gateway_port, self._state.endpoints(), self._environ)
        gateway.start()
        return gateway

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)

    async def _start_redis(self) -> RedisServer | None:
        """The managed server, or the given one; endpoints are written either way."""
        if self._options.redis_url:
            self._use_external(self._options.redis_url)
            return None
        server = RedisServer(self._home, self._options.redis_port, self._environ)
        await server.start()
        self._write_endpoints(server.url, "", server.password_file, managed=True)
        return server

    def _use_external(self, given: str) -> None:
        url, username, password = split_credentials(given)
        file: Path | None = None
        if password:
            file = self._home.redis / "external-password"
            write_atomic(file, password.encode())
        check_external(url, username, file)
        self._write_endpoints(url, username, file, managed=False)

    def _write_endpoints(self, url: str, username: str, password_file: Path | None, *, managed: bool) -> None:
        self._state.write_endpoints(
            Endpoints(
                redis_url=url,
                redis_password_file=str(password_file) if password_file else None,
                redis_username=username or None,
                store_url=f"file://{self._home.store}",
                managed_redis=managed,
            )
        )

    def _deps(self, cluster: LocalCluster, client: redis.asyncio.Redis, endpoints: Endpoints) -> Deps:
        settings_ = operator_settings(self._state.next_token(), endpoints, self._environ)
        return Deps(cluster, client, open_store(endpoints.store_url), settings_)


def operator_settings(token: int, endpoints: Endpoints, environ: Mapping[str, str]) -> OperatorSettings:
    """The installation as local mode makes it: this interpreter for all components."""
    python = sys.executable
    return OperatorSettings(
        token=token,
        redis_url=endpoints.redis_url,
        store_url=endpoints.store_url,
        inference=ComponentSettings((python, "-m", "continual_workers.inference")),
        evaluator=ComponentSettings((python, "-m", "continual_workers.evaluation")),
        trainer=ComponentSettings((python, "-m", "continual_workers.training")),
        redis_password_file=endpoints.redis_password_file,
        redis_username=endpoints.redis_username,
        data_root=environ.get(settings.DATA),
        idle_interval=timedelta(seconds=3),  # a person waits, and one machine has few models
    )


@contextlib.contextmanager
def _logging_to(home: Home) -> Any:
    """Concise lines to the terminal, everything as JSON to logs/operator/operator.log."""
    file = home.logs / "operator" / "operator.log"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    whole = logging.FileHandler(file, encoding="utf-8")
    whole.setFormatter(JsonFormatter("operator"))
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(TextFormatter())
    screen.addFilter(lambda record: record.name == log.name or record.levelno >= logging.WARNING)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in (whole, screen):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (whole, screen):
            root.removeHandler(handler)
        whole.close()


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
