"""What kopf is used for: watches that reconnect, and the liveness probe. Its handlers only wake.

A watch must outlast an API server in trouble, and must not add to it: requests are repeated for ever, more and more slowly and never before
`Retry-After`; where kopf takes an answer for final (410 to a list, say) all its tasks are started again, while the loops go on with lists.

`on.event` handlers leave no annotation and no finalizer on anybody's object, so that an operator that is gone leaves nothing stuck.
Deciding, pacing and errors are the loop's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

import kopf
from kopf._cogs.clients.errors import APIError  # nothing public names what its watches fail with
from kopf._cogs.clients.watching import WatchingError
from kubernetes.aio.client import Configuration

from continual_operator import labels
from continual_operator.kubernetes.api import CHILDREN, MODEL, PAGE, token_of
from continual_operator.kubernetes.cluster import KubernetesCluster

LONGEST_SILENCE_SECONDS = 150.0
"""Liveness: everything is listed once a minute; two missed in a row mean that this process has lost the API server, or itself."""
RECONNECT_SECONDS = 1.0
"""Between the end of a watch and the next list of its kind."""
RESTART_SECONDS = 5.0
"""Between a failure that kopf takes for final and its next start."""

log = logging.getLogger(__name__)


class Patience:
    """Seconds between attempts: 1, 2, 4, 8, 15 and 15 for ever. Read anew for every request."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 2.0, 4.0, 8.0), itertools.repeat(15.0))


class Watches:
    """kopf for one cluster, from `start` to `stop`."""

    def __init__(
        self, cluster: KubernetesCluster, found: Configuration, namespaces: tuple[str, ...] = (), liveness: str = ""
    ) -> None:
        self._registry = build_registry(cluster, found)
        self._namespaces, self._liveness = namespaces, liveness
        self._stop = asyncio.Event()
        self._tasks: Collection[asyncio.Task[Any]] = ()

    async def start(self) -> None:
        """Spawn kopf's tasks. They take over SIGTERM and SIGINT: set your own handlers afterwards.

        The identity is for peering, which is off; without one kopf asks for the name of the user, and uid 10001 of a pod has none.
        """
        identity: Any = "continual-operator"
        self._tasks = await kopf.spawn_tasks(
            registry=self._registry,
            standalone=True,
            identity=identity,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            liveness_endpoint=self._liveness or None,
            stop_flag=self._stop,
        )

    async def run(self, restarted: Callable[[], object] = lambda: None) -> None:
        """Until `stop`, or a signal. `restarted` is called when kopf's tasks, which take over the signals, were started again.

        Not `kopf.run_tasks`: that one cancels every task of the loop that is younger than kopf, ours included.
        """
        while (error := await self._ended()) is not None:
            if self._stop.is_set() or not isinstance(error, (APIError, WatchingError, OSError)):
                raise error
            log.warning("watches failed", extra={"error": repr(error)})
            await asyncio.sleep(RESTART_SECONDS)
            await self.start()
            restarted()

    async def _ended(self) -> BaseException | None:
        """Wait for the first of kopf's tasks, end the others; returns its error."""
        done, pending = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return next((error for task in done if not task.cancelled() and (error := task.exception()) is not None), None)

    def stop(self) -> None:
        self._stop.set()


def build_registry(cluster: KubernetesCluster, found: Configuration) -> kopf.OperatorRegistry:
    """One handler per kind, all the same: tell the cluster."""
    registry = kopf.OperatorRegistry()

    async def saw(event: Any, **_: Any) -> None:
        obj = dict(event["object"])
        obj["metadata"] = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
        cluster.saw(event["type"], obj)

    for kind in (MODEL, *CHILDREN):
        group, _, version = kind.api_version.rpartition("/")
        kopf.on.event(group, version, kind.plural, id=f"saw-{kind.plural}", registry=registry)(saw)
    kopf.on.startup(id="settings", registry=registry)(_configure)

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(found)

    kopf.on.login(id="login", registry=registry)(login)

    async def fresh(**_: Any) -> float:
        proven_heard(cluster.watch_silence_seconds)
        return proven_fresh(cluster.resync_age_seconds)

    kopf.on.probe(id="resync_age_seconds", registry=registry)(fresh)
    return registry


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = PAGE
    settings.watching.reconnect_backoff = RECONNECT_SECONDS
    settings.networking.error_backoffs = Patience()
    settings.networking.enforce_retry_after = True
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    for kind in CHILDREN:
        settings.watching.label_selectors[kind.plural] = labels.MODEL
    for chatty in ("kopf.objects", "kopf.activities", "aiohttp.access"):  # of every event, and of every probe
        logging.getLogger(chatty).setLevel(logging.WARNING)


def proven_fresh(age_seconds: float) -> float:
    """The age, where it is young enough; raising makes the probe answer 500."""
    if age_seconds > LONGEST_SILENCE_SECONDS:
        raise kopf.PermanentError(f"nothing was listed for {age_seconds:.0f} s")
    return round(age_seconds, 1)


def proven_heard(silence_seconds: float) -> None:
    """Lists go on, but a watch is deaf: only a new process has new ones for certain."""
    if silence_seconds > LONGEST_SILENCE_SECONDS:
        raise kopf.PermanentError(f"a watch has not told of a change for {silence_seconds:.0f} s")


def connection_info(found: Configuration) -> kopf.ConnectionInfo:
    """The same credentials as the client's, the token read anew."""
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        token=token_of(found) or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )
