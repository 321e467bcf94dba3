"""A Kubernetes cluster as the world of a verb: the ContinualModels of one namespace, through kubeconfig or a pod's service account.

Writes are what kubectl would send. A verb's annotation or field is a merge patch of just that, so nobody's work is overwritten;
`apply` is a server-side apply in the name of `continual-cli`, forced as a file is meant: what it states holds, what it leaves out
and others set stays. The verdict on a spec is the API server's, after the same check as on one machine, whose messages are better.

Redis and the object store of a cluster are not reachable from outside and their passwords are Secrets that this program never reads:
the user opens a way (`kubectl port-forward`) and says where it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from continual_cli.local.state import Applied, checked_metadata
from continual_cli.where import Where
from continual_cli.world import Document, RedisAddress, StoreAddress

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

GROUP_PATH = f"/apis/{API_VERSION}"
MANAGER = "continual-cli"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
TIMEOUT_SECONDS = (3.0, 30.0)
"""To connect, and to read."""
PAGE = 200
DEFAULT_KUBECONFIG = "~/.kube/config"
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""What Kubernetes calls a name (RFC 1123 subdomain)."""
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
REDIS_REMEDY = (
    "open a way and say where it ends: `kubectl -n OPERATOR_NAMESPACE port-forward svc/continual-redis 6379`, then "
    "--redis-url redis://127.0.0.1:6379 --redis-username USER --redis-password-file FILE (docs/cli.md)"
)
STORE_REMEDY = (
    "open a way and say where it ends: `kubectl -n OPERATOR_NAMESPACE port-forward svc/continual-minio 9000`, then "
    "--store-url 's3://BUCKET?endpoint=http://127.0.0.1:9000' --store-credentials-file FILE (docs/cli.md)"
)


class ClusterWorld:
    """The ContinualModels of `namespace`."""

    def __init__(self, client: ApiClient, namespace: str, where: Where) -> None:
        self._client, self.namespace, self._where = client, namespace, where

    @classmethod
    def open(cls, where: Where, environ: Mapping[str, str]) -> ClusterWorld:
        """Errors: UsageError when there is neither a kubeconfig nor a service account."""
        from kubernetes.client import ApiClient

        configuration, namespace = access(where, environ)
        return cls(ApiClient(configuration), where.namespace or namespace, where)

    # -- models

    def model_names(self) -> list[str]:
        return [str(model["metadata"]["name"]) for model in self.read_models()]

    def read_models(self) -> list[Document]:
        return self._listed(self._collection)

    def read_all_namespaces(self) -> list[Document]:
        return self._listed(f"{GROUP_PATH}/continualmodels")

    def _listed(self, path: str) -> list[Document]:
        items: list[Document] = []
        more = ""
        while True:
            query = [("limit", str(PAGE)), *([("continue", more)] if more else [])]
            reply = self._request("GET", path, query=query)
            items += [typed(item) for item in reply.get("items") or ()]
            more = str((reply.get("metadata") or {}).get("continue") or "")
            if not more:
                return sorted(
                    items, key=lambda item: (str(item["metadata"]["namespace"]), str(item["metadata"]["name"]))
                )

    def read_model(self, name: str) -> Document:
        return typed(self._request("GET", self._path(name)))

    def update_model(self, name: str, change: Callable[[Document], Document]) -> Document:
        """A merge patch of what `change` changed in labels, annotations and spec; nothing is sent for no change."""
        current = self.read_model(name)
        wanted = change(json.loads(json.dumps(current)))
        patch = merge_patch(_writable(current), _writable(wanted))
        if not patch:
            return current
        query = [("fieldManager", MANAGER), ("fieldValidation", "Strict")]
        return typed(self._request("PATCH", self._path(name), patch, MERGE, query))

    def create_or_replace(self, manifest: Document) -> Applied:
        from continual_operator.spec import parse_model

        manifest = self._normalised(manifest)
        parse_model(manifest)
        name = manifest["metadata"]["name"]
        before: Document | None = None
        with suppress(NotFoundError):
            before = self.read_model(name)
        query = [("fieldManager", MANAGER), ("force", "true"), ("fieldValidation", "Strict")]
        model = typed(self._request("PATCH", self._path(name), manifest, APPLY, query))
        if before is None:
            return Applied(model, "created")
        same = before["metadata"]["resourceVersion"] == model["metadata"]["resourceVersion"]
        return Applied(model, "unchanged" if same else "configured")

    def of(self, manifest: Document) -> ClusterWorld:
        """The namespace that the manifest names. Errors: UsageError when the user named another one."""
        metadata = manifest.get("metadata")
        named = metadata.get("namespace") if isinstance(metadata, dict) else None
        if named is None or named == self.namespace:
            return self
        if self._where.namespace is not None:
            raise UsageError(
                f"the file is for another namespace than --namespace {self._where.namespace}",
                field="metadata.namespace",
                value=named,
                remedy="leave one of them out",
            )
        return ClusterWorld(self._client, str(named), self._where)

    def _normalised(self, manifest: Document) -> Document:
        """What a user may set, and the namespace said. Errors: InvalidSpecError."""
        metadata = checked_metadata(manifest)
        kept = {key: metadata[key] for key in ("name", "labels", "annotations") if key in metadata}
        written = {key: value for key, value in manifest.items() if key != "status"}
        return {**written, "metadata": {**kept, "namespace": self.namespace}}

    def delete_model(self, name: str) -> None:
        self._request("DELETE", self._path(name))

    def events(self, name: str) -> list[Document]:
        query = [("fieldSelector", f"involvedObject.kind={KIND},involvedObject.name={name}"), ("limit", str(PAGE))]
        found = self._request("GET", f"/api/v1/namespaces/{self.namespace}/events", query=query)
        return sorted(map(plain_event, found.get("items") or ()), key=lambda event: str(event["lastTimestamp"]))

    # -- what the user says

    def redis_address(self) -> RedisAddress:
        where = self._where
        if where.redis_url is None:
            raise UsageError(
                "the Redis of a cluster is not reachable by itself", field="--redis-url", remedy=REDIS_REMEDY
            )
        return RedisAddress(where.redis_url, where.redis_username or "", where.redis_password_file)

    def store_address(self) -> StoreAddress:
        where = self._where
        if where.store_url is None:
            raise UsageError(
                "the object store of a cluster is not reachable by itself", field="--store-url", remedy=STORE_REMEDY
            )
        return StoreAddress(where.store_url, where.store_credentials_file)

    def remark(self) -> str | None:
        return None

    def how_to_create(self) -> str:
        return f"create one: `continual init` and `continual apply -f digits.yaml -n {self.namespace}`"

    # -- requests

    @property
    def _collection(self) -> str:
        if not NAME.fullmatch(self.namespace):
            raise UsageError(
                "is not a name", field="--namespace", value=self.namespace, remedy="see `kubectl get namespaces`"
            )
        return f"{GROUP_PATH}/namespaces/{self.namespace}/continualmodels"

    def _path(self, name: str) -> str:
        """Of one model. A name that is none must not become another path: an empty one would be the whole collection."""
        if not NAME.fullmatch(name):
            raise NotFoundError("no such ContinualModel", field="model", value=name, remedy="see `continual get`")
        return f"{self._collection}/{name}"

    def _request(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        kind: str = "",
        query: Sequence[tuple[str, str]] = (),
    ) -> Document:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if kind else {})
        try:
            parts = self._client.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response = self._client.call_api(*parts, _request_timeout=TIMEOUT_SECONDS)
            text = bytes(response.read())  # type: ignore[no-untyped-call]  # unannotated
        except (HTTPError, ApiException, OSError) as error:
            host = self._client.configuration.host
            raise ClusterUnavailableError(
                f"the API server did not answer: {error}",
                field="kubeconfig",
                value=host,
                remedy="see `kubectl cluster-info`",
            ) from error
        if not 200 <= response.status <= 299:
            raise refusal(response.status, _status(text), f"{method} {path}")
        return dict(json.loads(text))


# kubeconfig


def access(where: Where, environ: Mapping[str, str]) -> tuple[Configuration, str]:
    """(how to reach the API server, namespace of the context or of the pod), in kubectl's order: kubeconfig, then service account.

    Errors: UsageError.
    """
    from kubernetes import config
    from kubernetes.client import Configuration

    found = Configuration()
    found.retries = False
    file = str(where.kubeconfig or environ.get("KUBECONFIG") or Path(DEFAULT_KUBECONFIG).expanduser())
    given = where.kubeconfig is not None or where.context is not None or bool(environ.get("KUBECONFIG"))
    try:
        if given or Path(file).exists():
            config.load_kube_config(file, where.context, found, persist_config=False)  # type: ignore[no-untyped-call]  # unannotated
            contexts = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]  # unannotated
            return found, _context_namespace(contexts, where.context)
        config.load_incluster_config(found)  # type: ignore[no-untyped-call]  # unannotated
        return found, POD_NAMESPACE.read_text().strip()
    except (config.ConfigException, OSError) as error:
        raise UsageError(
            f"no way to a cluster: {error}", field="kubeconfig", value=file if given else None,
            remedy="name one with --kubeconfig or $KUBECONFIG and one of its contexts with --context, or use --target local",
        ) from error  # fmt: skip


def _context_namespace(listed: tuple[list[Document], Document], wanted: str | None) -> str:
    contexts, active = listed
    chosen = next((one for one in contexts if one["name"] == wanted), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")


# Documents


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Document:
    """RFC 7386: what turns `before` into `after`; empty when they are the same."""
    patch: Document = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch


def _writable(model: Document) -> Document:
    metadata = model.get("metadata") or {}
    kept = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    return {"metadata": kept, "spec": model.get("spec") or {}}


def _status(text: bytes) -> Document:
    """The API server's Status, or something like it: what a proxy in between sends is no JSON."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {"message": text.decode(errors="replace")[:200]}


REFUSALS: dict[int, tuple[type[ContinualError], str]] = {
    400: (InvalidSpecError, "correct the field; `kubectl explain ctm.spec` describes it"),
    401: (ClusterRefusedError, "sign in again: the credentials of the kubeconfig are not valid"),
    403: (ClusterRefusedError, "ask for this right in the namespace; `kubectl auth can-i --list` shows yours"),
    404: (NotFoundError, "is the chart installed? It brings the CRD of ContinualModels"),
    409: (ConflictError, "try again"),
    422: (InvalidSpecError, "correct the field; `kubectl explain ctm.spec` describes it"),
}


def refusal(status: int, said: Document, where: str) -> ContinualError:
    """What the API server's answer means to a person."""
    message = str(said.get("message") or "no reason given")
    if status == 404 and (said.get("details") or {}).get("name"):
        return NotFoundError(message, field="model", remedy="see `continual get`")
    kind, remedy = REFUSALS.get(status, (ClusterUnavailableError, "try again"))
    return kind(message, field="manifest" if kind is InvalidSpecError else where, remedy=remedy)
