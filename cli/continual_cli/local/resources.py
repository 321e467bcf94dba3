"""The models of a home, as the gateway wants them: `LocalState` behind the protocol `continual_gateway.resources.Resources`."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from continual_contract.errors import NotFoundError
from continual_gateway.resources import Document, ModelRef

from continual_cli.local.paths import NAMESPACE
from continual_cli.local.state import LocalState


class LocalResources:
    """Files and locks, so every call goes to a thread."""

    def __init__(self, state: LocalState) -> None:
        self._state = state

    async def list_models(self) -> list[Document]:
        return await asyncio.to_thread(self._list)

    def _list(self) -> list[Document]:
        found = (self._state.find_model(name) for name in self._state.model_names())
        return [model for model in found if model is not None]

    async def read(self, ref: ModelRef) -> Document:
        return await asyncio.to_thread(self._state.read_model, local_name(ref))

    async def patch_spec(self, ref: ModelRef, fields: Mapping[str, Any]) -> Document:
        return await asyncio.to_thread(self._state.update_model, local_name(ref), lambda d: with_fields(d, fields))

    async def annotate(self, ref: ModelRef, annotations: Mapping[str, str]) -> Document:
        def change(document: Document) -> Document:
            document["metadata"].setdefault("annotations", {}).update(annotations)
            return document

        return await asyncio.to_thread(self._state.update_model, local_name(ref), change)

    async def events(self, ref: ModelRef) -> list[Document]:
        return await asyncio.to_thread(self._state.events, local_name(ref))


def local_name(ref: ModelRef) -> str:
    """Errors: NotFoundError for a namespace that one machine does not have."""
    if ref.namespace != NAMESPACE:
        raise NotFoundError("no such namespace here", field="namespace", value=ref.namespace, remedy=f"use {NAMESPACE}")
    return ref.name


def with_fields(document: Document, fields: Mapping[str, Any]) -> Document:
    """The document with fields of its spec set by dotted path; None removes one, as a merge patch does."""
    changed = copy.deepcopy(document)
    for path, value in fields.items():
        *parents, leaf = path.split(".")
        part: dict[str, Any] = changed["spec"]
        for name in parents:
            part = part.setdefault(name, {})
        if value is None:
            part.pop(leaf, None)
        else:
            part[leaf] = value
    return changed
