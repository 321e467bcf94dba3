"""ContinualModels on an API server: get, list, patch, and list of events. The service account needs no other verb."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from continual_clients.kubernetes_objects import API_VERSION, KIND, plain_event, typed
from continual_contract.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    ConflictError,
    ContinualError,
    InvalidSpecError,
    NotFoundError,
    UsageError,
)
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.dynamic import DynamicClient

from continual_gateway.resources import Document, ModelRef

MERGE = "application/merge-patch+json"
FIELD_MANAGER = "continual-gateway"
TIMEOUT_SECONDS = 5.0
EVENTS_LISTED = 200
PAGE = 500


async def configuration(environ: Mapping[str, str]) -> Configuration:
    """KUBECONFIG where it is set, else the pod's service account. Errors: UsageError."""
    found = Configuration()
    try:
        if file := environ.get("KUBECONFIG"):
            await config.load_kube_config(file, client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]  # unannotated
        else:
            config.load_incluster_config(found)  # type: ignore[no-untyped-call]  # unannotated
    except config.ConfigException as error:
        raise UsageError(
            f"is not set, and there is no service account: {error}", field="KUBECONFIG",
            remedy="run in a pod, or set KUBECONFIG to a file",
        ) from error  # fmt: skip
    return found


@asynccontextmanager
async def connect(found: Configuration, namespaces: tuple[str, ...]) -> AsyncIterator[KubernetesResources]:
    """One client per process, closed at the end."""
    async with ApiClient(found) as client:
        dynamic = DynamicClient(client)  # type: ignore[no-untyped-call]  # unannotated; not awaited: no discovery
        yield KubernetesResources(dynamic, namespaces)


class KubernetesResources:
    """`namespaces` empty: the whole cluster."""

    def __init__(self, client: DynamicClient, namespaces: tuple[str, ...]) -> None:
        self._client, self._namespaces = client, namespaces

    async def list_models(self) -> list[Document]:
        if not self._namespaces:
            return await self._pages(f"/apis/{API_VERSION}/continualmodels")
        return [model for namespace in self._namespaces for model in await self._pages(_collection(namespace))]

    async def read(self, ref: ModelRef) -> Document:
        return typed(await self._request("get", _path(ref)))

    async def patch_spec(self, ref: ModelRef, fields: Mapping[str, Any]) -> Document:
        patch: Document = {}
        for path, value in fields.items():
            put(patch, f"spec.{path}", value)
        return await self._merge(ref, patch)

    async def annotate(self, ref: ModelRef, annotations: Mapping[str, str]) -> Document:
        return await self._merge(ref, {"metadata": {"annotations": dict(annotations)}})

    async def events(self, ref: ModelRef) -> list[Document]:
        selector = f"involvedObject.kind={KIND},involvedObject.name={ref.name}"
        path = f"/api/v1/namespaces/{ref.namespace}/events"
        found = await self._request("get", path, field_selector=selector, limit=EVENTS_LISTED)
        return sorted(map(plain_event, found.get("items") or ()), key=lambda event: str(event["lastTimestamp"]))

    async def _merge(self, ref: ModelRef, patch: Document) -> Document:
        return typed(await self._request("patch", _path(ref), patch, content_type=MERGE, field_manager=FIELD_MANAGER))

    async def _pages(self, path: str) -> list[Document]:
        items: list[Document] = []
        more = ""
        while True:
            options: dict[str, Any] = {"_continue": more} if more else {}
            reply = await self._request("get", path, limit=PAGE, **options)
            items += [typed(item) for item in reply.get("items") or ()]
            more = str((reply.get("metadata") or {}).get("continue") or "")
            if not more:
                return items

    async def _request(self, method: str, path: str, body: Document | None = None, **options: Any) -> Any:
        try:
            return await self._client.request(
                method, path, body=body, serializer=_plain, header_params={}, query_params=[],
                _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), **options,
            )  # fmt: skip
        except ApiException as error:
            raise _as_ours(error, method, path) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ClusterUnavailableError(
                f"the API server did not answer: {error or type(error).__name__}", field=f"{method} {path}",
                remedy="try again",
            ) from error  # fmt: skip


def put(document: Document, path: str, value: Any) -> None:
    """Set a value at a dotted path, making what is missing on the way."""
    *parents, leaf = path.split(".")
    for part in parents:
        document = document.setdefault(part, {})
    document[leaf] = value


def _collection(namespace: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/continualmodels"


def _path(ref: ModelRef) -> str:
    return f"{_collection(ref.namespace)}/{ref.name}"


_plain: Callable[[Any, Any], Any] = lambda _, document: document


def _as_ours(error: ApiException, method: str, path: str) -> ContinualError:
    where, said = f"{method} {path}", _message(error)
    if error.status == 404:
        return NotFoundError(said, field="model", remedy="see the list of models")
    if error.status == 409:
        return ConflictError(said, field=where, remedy="try again")
    if error.status == 422:
        return InvalidSpecError(said, field="spec", remedy="correct the field")
    if error.status in {0, 401, 410, 429} or error.status >= 500:
        return ClusterUnavailableError(f"{error.status}: {said}", field=where, remedy="try again")
    return ClusterRefusedError(
        f"{error.status}: {said}", field=where, remedy="see the gateway's rights in the namespace"
    )


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or "no reason given")
