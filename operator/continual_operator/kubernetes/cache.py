"""What watches and lists told last, so that a look at a model costs no request.

Three sources write here in any order: watch events, a list per minute, and the answers to our own writes. Resource versions of one kind
can be compared, so the newest always wins; what was deleted stays deleted, although a list that began before may still show it.
"""

from __future__ import annotations

from collections.abc import Iterator

from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.kubernetes.api import MODEL, POD, Kind, Listing

Key = tuple[str, str, str]
"""Kind, namespace, name."""


class Cache:
    """Objects by kind, namespace and name. Readers must not change what they get."""

    def __init__(self) -> None:
        self._objects: dict[Key, Manifest] = {}
        self._children: dict[ModelRef, set[Key]] = {}
        self._gone: dict[str, tuple[str, int]] = {}
        """uid → kind and resource version of its deletion."""

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        return self._objects.get((kind.name, namespace, name))

    def get_like(self, obj: Manifest) -> Manifest | None:
        """What is known under the same kind, namespace and name."""
        return self._objects.get(_key(obj))

    def parents(self) -> set[ModelRef]:
        """Models that children name, there or gone."""
        return set(self._children)

    def models(self) -> list[ModelRef]:
        return sorted(
            (ModelRef(namespace, name) for kind, namespace, name in self._objects if kind == MODEL.name),
            key=lambda ref: (ref.namespace, ref.name),
        )

    def count(self, kind: Kind) -> int:
        """Of one kind; asked by another thread, so in one step over a copy."""
        return sum(name == kind.name for name, _, _ in list(self._objects))

    def children(self, ref: ModelRef) -> list[Manifest]:
        return [self._objects[key] for key in sorted(self._children.get(ref, ()))]

    def put(self, obj: Manifest) -> bool:
        """Remember what was seen; True when it is newer than what was known."""
        known = self._objects.get(_key(obj))
        if obj["metadata"]["uid"] in self._gone or (known is not None and version_of(obj) <= version_of(known)):
            return False
        self._forget(known)
        self._objects[_key(obj)] = _slim(obj)
        if (ref := _parent(obj)) is not None:
            self._children.setdefault(ref, set()).add(_key(obj))
        return True

    def drop(self, obj: Manifest) -> bool:
        """Forget what was deleted; True when it was known. Another object of that name stays."""
        uid = obj["metadata"]["uid"]
        self._gone[uid] = (obj["kind"], version_of(obj))
        known = self._objects.get(_key(obj))
        if known is None or known["metadata"]["uid"] != uid:
            return False
        self._forget(known)
        return True

    def replace(self, kind: Kind, namespace: str | None, listing: Listing) -> list[Manifest]:
        """Take a whole list; returns what it changed. What is newer than the list stays."""
        at = int(listing.version or 0)
        changed = [obj for obj in listing.items if self.put(obj)]
        listed = {obj["metadata"]["uid"] for obj in listing.items}
        missing = [obj for obj in self._of(kind, namespace) if _is_missing(obj, listed, at)]
        for obj in missing:
            self._forget(obj)
        self._gone = {uid: gone for uid, gone in self._gone.items() if gone[0] != kind.name or gone[1] > at}
        return changed + missing

    def _forget(self, known: Manifest | None) -> None:
        if known is None:
            return
        del self._objects[_key(known)]
        ref = _parent(known)
        siblings = self._children.get(ref, set()) if ref else set()
        siblings.discard(_key(known))
        if ref is not None and not siblings:
            self._children.pop(ref, None)

    def _of(self, kind: Kind, namespace: str | None) -> Iterator[Manifest]:
        return (obj for key, obj in self._objects.items() if key[0] == kind.name and namespace in {None, key[1]})


def _slim(obj: Manifest) -> Manifest:
    """Without what nobody looks at: a pod's spec says what its Deployment said, but for its volumes, and is half of all memory."""
    if obj["kind"] != POD.name:
        return obj
    return {**obj, "spec": {"volumes": (obj.get("spec") or {}).get("volumes") or []}}


def _is_missing(obj: Manifest, listed: set[str], at: int) -> bool:
    return obj["metadata"]["uid"] not in listed and version_of(obj) <= at


def version_of(obj: Manifest) -> int:
    """Resource version as a number (comparable among objects of one kind since Kubernetes 1.35 by promise, before in fact)."""
    return int(obj["metadata"]["resourceVersion"])


def model_of(obj: Manifest) -> ModelRef | None:
    """The model itself, or the one that a child's label names."""
    metadata = obj["metadata"]
    if obj["kind"] == MODEL.name:
        return ModelRef(metadata["namespace"], metadata["name"])
    name = (metadata.get("labels") or {}).get(labels.MODEL)
    return ModelRef(metadata["namespace"], name) if name else None


def _parent(obj: Manifest) -> ModelRef | None:
    return None if obj["kind"] == MODEL.name else model_of(obj)


def _key(obj: Manifest) -> Key:
    return obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]
