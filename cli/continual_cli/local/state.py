"""The objects of local mode as files: what an API server does for one namespace, for a few models.

Command line and `local up` are different processes that write the same ContinualModels. Every write happens under one flock and
by rename, so there are no torn reads and no lost updates; `generation` grows with the spec and `resourceVersion` with every write, as
the operator expects of an API server. A write that changes nothing is not a write.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from continual_contract.errors import ConflictError, InvalidSpecError, NotFoundError, UnavailableError

from continual_cli.local.files import disk_errors, locked, read_json, write_atomic, write_json
from continual_cli.local.paths import NAMESPACE, Home

API_VERSION = "continual.dev/v1alpha1"
KIND = "ContinualModel"
EVENTS_KEPT = 1000

Verb = Literal["created", "configured", "unchanged"]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the processes find each other. The password is in a file, never here."""

    redis_url: str
    redis_password_file: str | None
    redis_username: str | None
    store_url: str
    managed_redis: bool
    """Whether `local up` runs the server itself."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `create_or_replace` did."""

    model: dict[str, Any]
    verb: Verb


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC, as the API server writes it."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class LocalState:
    """Read and write the objects of one home."""

    def __init__(self, home: Home | Path) -> None:
        self.home = home if isinstance(home, Home) else Home(home)

    # -- endpoints and token

    def endpoints(self) -> Endpoints:
        """Where Redis and the store are.

        Raises:
            UnavailableError: `local up` has never run in this home.
        """
        document = read_json(self.home.endpoints)
        if document is None:
            raise UnavailableError(
                "no local cluster here",
                field="CONTINUAL_HOME",
                value=str(self.home.root),
                remedy="start one with `continual local up`",
            )
        return Endpoints(**document)

    def write_endpoints(self, endpoints: Endpoints) -> None:
        write_json(self.home.endpoints, asdict(endpoints))

    def next_token(self) -> int:
        """A fencing token greater than every one before: what `leaseTransitions` is in a cluster."""
        with locked(self.home.objects_lock):
            path = self.home.root / "token"
            token = int(path.read_text()) + 1 if path.exists() else 1
            write_atomic(path, str(token).encode())
            return token

    # -- models

    def model_names(self) -> list[str]:
        return sorted(path.stem for path in self.home.objects(KIND).glob("*.json"))

    def find_model(self, name: str) -> dict[str, Any] | None:
        return read_json(self._path(name)) if _is_file_name(name) else None

    def read_model(self, name: str) -> dict[str, Any]:
        """The whole object.

        Raises:
            NotFoundError: there is no such model.
        """
        model = self.find_model(name)
        if model is None:
            known = ", ".join(self.model_names()) or "none"
            raise NotFoundError(
                f"no such ContinualModel; known: {known}",
                field="model",
                value=name,
                remedy="apply one with `continual local up -f FILE`",
            )
        return model

    def update_model(
        self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]], resource_version: str | None = None
    ) -> dict[str, Any]:
        """Read, change and write one model under the lock.

        Args:
            name: of the model.
            change: gets a copy of the object, returns the new one; identity fields it sets are ignored.
            resource_version: if given, the version the caller has seen.

        Raises:
            NotFoundError: no such model.
            ConflictError: the object is not the one the caller has seen.
            InvalidSpecError: the changed spec is not valid.
        """
        with locked(self.home.objects_lock):
            current = self.read_model(name)
            _check_version(current, resource_version)
            wanted = change(json.loads(json.dumps(current)))
            return self._write(current, wanted)

    def create_or_replace(self, manifest: dict[str, Any]) -> Applied:
        """Apply a manifest: its spec replaces the old one but for what verbs wrote, labels and annotations are merged in, the status stays.

        Raises:
            InvalidSpecError: a field is wrong, or changed though it must not.
        """
        manifest = _normalised(manifest)
        _validate(manifest)
        self.home.create()
        name = manifest["metadata"]["name"]
        with locked(self.home.objects_lock):
            current = self.find_model(name)
            if current is None:
                return Applied(self._write_new(manifest), "created")
            model = self._write(current, _merged(current, manifest))
            changed = model["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"]
            return Applied(model, "configured" if changed else "unchanged")

    def delete_model(self, name: str) -> None:
        """Remove the object; `local up` then ends its processes, as garbage collection does.

        Raises:
            NotFoundError: no such model.
        """
        with locked(self.home.objects_lock):
            self.read_model(name)
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.home.objects(KIND) / f"{name}.json"

    def _write_new(self, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = manifest["metadata"] | {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": timestamp(),
            "resourceVersion": self._next_version(),
        }
        model = manifest | {"metadata": metadata}
        model.pop("status", None)
        write_json(self._path(metadata["name"]), model)
        return model

    def _write(self, current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        """Store `wanted` over `current` with the server's own fields kept; the lock is held."""
        identity = ("name", "namespace", "uid", "generation", "creationTimestamp", "resourceVersion")
        metadata = wanted.get("metadata", {}) | {key: current["metadata"][key] for key in identity}
        model = wanted | {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata}
        if model == current:
            return current
        if model["spec"] != current["spec"]:
            _validate(model, current)
            metadata["generation"] += 1
        metadata["resourceVersion"] = self._next_version()
        write_json(self._path(metadata["name"]), model)
        return model

    def _next_version(self) -> str:
        """Grows over all objects for ever, so a deleted and created name never repeats a version; the lock is held."""
        path = self.home.root / "objects" / "version"
        version = int(path.read_text()) + 1 if path.exists() else 1
        write_atomic(path, str(version).encode())
        return str(version)

    # -- events

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of one model, oldest first; the same event again is one entry with a count."""
        path = self.home.events / f"{name}.jsonl"
        if not _is_file_name(name) or not path.exists():
            return []
        folded: dict[tuple[str, str, str], dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            event = json.loads(line)
            key = (event["type"], event["reason"], event["message"])
            first = folded.pop(key, event)
            folded[key] = event | {
                "firstTimestamp": first["firstTimestamp"],
                "count": first["count"] + (first is not event),
            }
        return list(folded.values())

    def record_event(self, name: str, type_: str, reason: str, message: str) -> None:
        """Append one event; the file keeps the newest thousand."""
        now = timestamp()
        event = {"type": type_, "reason": reason, "message": message, "count": 1} | dict.fromkeys(
            ("firstTimestamp", "lastTimestamp"), now
        )
        path = self.home.events / f"{name}.jsonl"
        with locked(self.home.objects_lock), disk_errors(path):
            with path.open("a") as file:
                file.write(json.dumps(event, ensure_ascii=False) + "\n")
            lines = path.read_bytes().splitlines(keepends=True)
            if len(lines) > 2 * EVENTS_KEPT:
                write_atomic(path, b"".join(lines[-EVENTS_KEPT:]))


def _is_file_name(name: str) -> bool:
    return bool(name) and "/" not in name and not name.startswith(".")


def _check_version(current: dict[str, Any], resource_version: str | None) -> None:
    actual = current["metadata"]["resourceVersion"]
    if resource_version is not None and resource_version != actual:
        raise ConflictError(
            f"the object changed meanwhile; it is at {actual}",
            field="metadata.resourceVersion",
            value=resource_version,
            remedy="read it again and repeat",
        )


def _normalised(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is written at creation: only what a user may set."""
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND or manifest.get("apiVersion") != API_VERSION:
        kind = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        field, found = ("kind", kind) if kind != KIND else ("apiVersion", manifest.get("apiVersion"))
        raise InvalidSpecError("not a ContinualModel", field=field, value=found, remedy=f"use {API_VERSION} {KIND}")
    metadata = checked_metadata(manifest)
    namespace = metadata.get("namespace", NAMESPACE)
    if namespace != NAMESPACE:
        remedy = "leave it out; use another CONTINUAL_HOME for another world"
        raise InvalidSpecError(
            f"local mode has the one namespace {NAMESPACE!r}",
            field="metadata.namespace",
            value=namespace,
            remedy=remedy,
        )
    kept = {key: metadata[key] for key in ("labels", "annotations") if metadata.get(key)}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata.get("name"), "namespace": NAMESPACE, **kept},
        "spec": manifest.get("spec"),
    }


def checked_metadata(manifest: dict[str, Any]) -> dict[str, Any]:
    """What was written under `metadata`; labels and annotations are text by name, as an API server wants them."""
    metadata = manifest.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidSpecError("must be a mapping", field="metadata", value=metadata, remedy="write name: digits")
    for key in ("labels", "annotations"):
        texts = metadata.get(key) or {}
        if not isinstance(texts, dict):
            raise InvalidSpecError(
                "must be a mapping", field=f"metadata.{key}", value=texts, remedy="write key: value pairs"
            )
        for name, text in texts.items():
            if not isinstance(text, str):
                raise InvalidSpecError(
                    "must be text", field=f"metadata.{key}.{name}", value=text, remedy="put it in quotes"
                )
    return metadata


def _merged(current: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    metadata = dict(current["metadata"])
    for key in ("labels", "annotations"):
        if added := manifest["metadata"].get(key):
            metadata[key] = metadata.get(key, {}) | added
    return current | {"metadata": metadata, "spec": _steered(current["spec"], manifest["spec"])}


def _steered(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The file's spec, and what `suspend` and `pin` wrote where the file is silent: `kubectl apply` keeps what others set, too."""
    spec = dict(wanted)
    if "suspend" not in spec and "suspend" in current:
        spec["suspend"] = current["suspend"]
    pinned = (current.get("rollout") or {}).get("pinnedVersion")
    rollout = spec.get("rollout") or {}
    if pinned is not None and "pinnedVersion" not in rollout:
        spec["rollout"] = rollout | {"pinnedVersion": pinned}
    return spec


def _validate(model: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """The verdict of the API server and the operator on a spec, and on its change."""
    from continual_operator.spec import check_change, parse_model

    parse_model(model)
    if before is not None:
        check_change(before, model)
