"""Requests to the API server as plain dicts: seven kinds, six verbs, always with a timeout, always our own errors.

The kinds are known, so nothing is discovered: no request before the first one that matters, and no cache file in a folder that others can
write to. Nothing is retried here: whoever asks comes again. All of them share one pace, which a server in trouble slows down (`pace.py`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from continual_contract.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    ConflictError,
    ContinualError,
    NotFoundError,
    UsageError,
)
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.dynamic import DynamicClient

from continual_operator.cluster import Manifest
from continual_operator.kubernetes.pace import Pace, retry_after

FIELD_MANAGER = "continual-operator"
REQUEST_TIMEOUT = timedelta(seconds=5)
LIST_TIMEOUT = timedelta(seconds=30)
SLOTS = 16
"""Requests at once: an API server that is slow gets no more of them, and none times out in our own queue."""
PAGE = 200
"""Objects per answer to a list: neither side ever holds a whole fleet in one answer."""
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the API names it."""

    name: str
    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Of one object, or of all in a namespace, or (None) in the cluster."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        within = [f"namespaces/{namespace}"] if namespace is not None else []
        return "/".join([root, *within, self.plural, *filter(None, (name, subresource))])


MODEL = Kind("ContinualModel", "continual.dev/v1alpha1", "continualmodels")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
JOB = Kind("Job", "batch/v1", "jobs")
POD = Kind("Pod", "v1", "pods")
EVENT = Kind("Event", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
CHILDREN = (DEPLOYMENT, BUDGET, JOB, POD)
KINDS = {kind.name: kind for kind in (MODEL, *CHILDREN, EVENT, LEASE)}


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind, and the version of the whole at which they were read."""

    version: str
    items: list[Manifest] = field(default_factory=list)


async def configuration(environ: Mapping[str, str]) -> Configuration:
    """Who we are and where the API server is: KUBECONFIG where it is set, else the pod's service account.

    Raises:
        UsageError: neither is there.
    """
    result = Configuration()
    try:
        if file := environ.get("KUBECONFIG"):
            await config.load_kube_config(file, client_configuration=result, persist_config=False)  # type: ignore[no-untyped-call]  # unannotated
        else:
            config.load_incluster_config(result)  # type: ignore[no-untyped-call]  # unannotated
    except config.ConfigException as error:
        raise UsageError(
            f"is not set, and there is no service account: {error}", field="KUBECONFIG",
            remedy="run in a pod, or set KUBECONFIG to a file",
        ) from error  # fmt: skip
    return result


def token_of(found: Configuration) -> str:
    """The bearer token of now, without its scheme; empty where a client certificate speaks for us."""
    refresh: Callable[[Configuration], None] | None = getattr(found, "refresh_api_key_hook", None)
    if refresh is not None:
        refresh(found)
    return str(found.api_key.get("BearerToken") or "").split(" ")[-1].strip()


@asynccontextmanager
async def connect(found: Configuration, longest: timedelta = REQUEST_TIMEOUT) -> AsyncIterator[Api]:
    """One client per process, closed at the end."""
    async with ApiClient(found) as client:
        yield Api(DynamicClient(client), longest)  # type: ignore[no-untyped-call]  # unannotated; not awaited: no discovery


class Api:
    """The six verbs. Every method may raise `ClusterUnavailableError` (try again) or `ClusterRefusedError` (ask a person)."""

    def __init__(
        self, client: DynamicClient, longest: timedelta, may_write: Callable[[], None] = lambda: None,
        asked: Callable[[str, str], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        self._client, self._longest, self._may_write, self._asked = client, longest, may_write, asked
        self._slots, self._pace = asyncio.Semaphore(SLOTS), Pace()

    def fenced(self, may_write: Callable[[], None]) -> Api:
        """The same server, but every write asks `may_write` first; the two do not wait for each other."""
        return Api(self._client, self._longest, may_write, self._asked)

    def counted(self, asked: Callable[[str, str], None]) -> Api:
        """The same server; `asked` is told the verb and the code of every answer (`2xx`; `none` where none came)."""
        return Api(self._client, self._longest, self._may_write, asked)

    async def document(self, path: str) -> Any:
        """What the server says about itself, to everybody; some of it as JSON that is called text."""
        return await self._request("get", path, longest=LIST_TIMEOUT, serialize=False)

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        try:
            return _typed(await self._request("get", kind.path(namespace, name)), kind)
        except NotFoundError:
            return None

    async def list(self, kind: Kind, namespace: str | None, selector: str = "") -> Listing:
        """All of a kind in a namespace, or in the cluster; page by page, all of one moment."""
        asked: dict[str, Any] = {"limit": PAGE} | ({"label_selector": selector} if selector else {})
        items: list[Manifest] = []
        while True:
            reply = await self._request("get", kind.path(namespace), None, longest=LIST_TIMEOUT, **asked)
            items += [_typed(item, kind) for item in reply.get("items") or ()]
            asked["_continue"] = reply["metadata"].get("continue")
            if not asked["_continue"]:
                return Listing(str(reply["metadata"].get("resourceVersion", "")), items)

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Raises `ConflictError` when it exists."""
        path = kind.path(manifest["metadata"]["namespace"])
        return _typed(await self._request("post", path, manifest, field_manager=FIELD_MANAGER), kind)

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Server-side apply: what the manifest says is ours, whoever had it before."""
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        reply = await self._request(
            "patch", path, manifest, content_type=APPLY, field_manager=FIELD_MANAGER, force_conflicts=True
        )
        return _typed(reply, kind)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest, subresource: str = "") -> Manifest:
        """JSON merge patch; with `metadata.resourceVersion` in it, `ConflictError` when the object changed meanwhile."""
        path = kind.path(namespace, name, subresource)
        reply = await self._request("patch", path, patch, content_type=MERGE, field_manager=FIELD_MANAGER)
        return _typed(reply, kind)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """With all that it owns. Gone already, or another uid, is a success."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("delete", kind.path(namespace, name), body)
        except (NotFoundError, ConflictError):
            return

    async def _request(
        self, method: str, path: str, body: Manifest | None = None, *, longest: timedelta | None = None, **options: Any
    ) -> Any:
        """One request, when a slot is free: the timeout covers the whole answer, and not the queue of five hundred models before it."""
        seconds = (longest or self._longest).total_seconds()
        async with self._slots:
            await self._pace.turn()
            if method != "get":
                self._may_write()
            return await self._send(method, path, body, seconds, options)

    async def _send(
        self, method: str, path: str, body: Manifest | None, seconds: float, options: dict[str, Any]
    ) -> Any:
        try:
            answer = await self._client.request(
                method, path, body=body, serializer=_plain, header_params={}, query_params=[],
                _request_timeout=aiohttp.ClientTimeout(total=seconds), **options,
            )  # fmt: skip
            if isinstance(answer, aiohttp.ClientResponse):
                answer = json.loads(await answer.read())
        except ApiException as error:
            self._asked(method, str(error.status))
            self._slow_down(error, method)
            raise _as_ours(error, method, path) from error
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as error:  # a timeout is an OSError, half an answer a ValueError
            self._asked(method, "none")
            self._pace.failed()
            raise ClusterUnavailableError(
                f"the API server did not answer: {error or type(error).__name__}", field=f"{method} {path}",
                remedy="it is tried again",
            ) from error  # fmt: skip
        self._asked(method, "2xx")
        self._pace.succeeded()
        return answer

    def _slow_down(self, error: ApiException, method: str) -> None:
        """Every refusal that more requests would make worse. "Already exists" and "not found" are answers."""
        if _is_trouble(error.status) or (error.status == 409 and method == "patch"):
            self._pace.failed(retry_after((error.headers or {}).get("Retry-After")))
        else:
            self._pace.succeeded()


def _is_trouble(status: int) -> bool:
    return status in {0, 401, 410, 429} or status >= 500


def _plain(_: DynamicClient, document: Any) -> Any:
    return document


def _typed(document: Any, kind: Kind) -> Manifest:
    """Items of a list come without their kind; managedFields are nobody's business and a third of the size."""
    document["metadata"].pop("managedFields", None)
    return {"apiVersion": kind.api_version, "kind": kind.name, **document}


def _as_ours(error: ApiException, method: str, path: str) -> ContinualError:
    where, said = f"{method} {path}", _message(error)
    if error.status == 404:
        return NotFoundError(said, field=where)
    if error.status == 409:
        return ConflictError(said, field=where)
    if _is_trouble(error.status):
        return ClusterUnavailableError(f"{error.status}: {said}", field=where, remedy="it is tried again")
    return ClusterRefusedError(
        f"{error.status}: {said}", field=where, remedy="see the rights, quotas and policies of the namespace"
    )


def _message(error: ApiException) -> str:
    """The server's own sentence."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or "no reason given")


def service_account_namespace(file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")) -> str:
    """The namespace this pod runs in; `default` outside of a pod."""
    return file.read_text().strip() if file.exists() else "default"
