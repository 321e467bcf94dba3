"""The gateway over one fixed model, as a process: everything but the resource is what a cluster runs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop
from continual_clients.objectstore import FileStore
from continual_clients.redis import connect_async
from continual_contract.errors import NotFoundError
from continual_gateway.app import create_app
from continual_gateway.deps import GatewayDeps
from continual_gateway.resources import Document, ModelRef
from continual_gateway.roles import Role
from continual_gateway.server import listen, server_for
from continual_gateway.settings import GatewaySettings, Token

TOKEN = "bench"  # noqa: S105 -- opens nothing but a benchmark
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


class OneModel:
    """A model that nobody changes."""

    def __init__(self, document: Document) -> None:
        self._document = document

    async def list_models(self) -> list[Document]:
        return [self._document]

    async def read(self, ref: ModelRef) -> Document:
        del ref
        return self._document

    async def patch_spec(self, ref: ModelRef, fields: Mapping[str, Any]) -> Document:
        raise NotFoundError("nobody changes this model", field="model", value=(ref.name, fields))

    async def annotate(self, ref: ModelRef, annotations: Mapping[str, str]) -> Document:
        raise NotFoundError("nobody changes this model", field="model", value=(ref.name, annotations))

    async def events(self, ref: ModelRef) -> list[Document]:
        del ref
        return []


async def serve(options: Mapping[str, Any]) -> None:
    settings = GatewaySettings(
        host="127.0.0.1", port=options["port"], redis_url=options["redis"], redis_username="", redis_password_file=None,
        store_url="", store_credentials_file=None, tokens=(Token("bench", Role.VIEWER, DIGEST),), session_key=b"k" * 32,
    )  # fmt: skip
    client = connect_async(options["redis"])
    app = create_app(GatewayDeps(OneModel(options["model"]), client, FileStore(Path(options["store"])), settings))
    await server_for(app).serve([listen("127.0.0.1", options["port"])])


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1])))
