"""`python -m continual_gateway`: the front door of a cluster, an HTTP API and a dashboard."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import uvloop
from continual_clients import logs
from continual_clients.objectstore import open_store
from continual_clients.redis import connect_async
from continual_contract.errors import ContinualError

from continual_gateway.app import create_app
from continual_gateway.deps import GatewayDeps
from continual_gateway.resources import Resources
from continual_gateway.server import listen, server_for
from continual_gateway.settings import GatewaySettings, read_settings

log = logging.getLogger("continual.gateway")


def main() -> int:
    logs.configure("gateway")
    try:
        uvloop.run(run_in_cluster(os.environ))
    except ContinualError as error:
        log.error("cannot start", extra={"error": error.describe()})  # noqa: TRY400 -- the sentence says it all
        return error.exit_code
    return 0


async def run_in_cluster(environ: Mapping[str, str]) -> None:
    """Until SIGTERM. Errors: UsageError, AddressInUseError."""
    from continual_gateway.kubernetes import configuration, connect  # noqa: PLC0415 -- a second that one machine can save

    settings = read_settings(environ)
    await serve(settings, connect(await configuration(environ), settings.namespaces))


async def serve(settings: GatewaySettings, resources: AbstractAsyncContextManager[Resources]) -> None:
    """Serve until SIGTERM or SIGINT; requests that were accepted are answered first."""
    listener = listen(settings.host, settings.port)
    client = connect_async(settings.redis_url, settings.redis_username, settings.redis_password_file)
    store = open_store(settings.store_url, settings.store_credentials_file)
    try:
        async with resources as found:
            app = create_app(GatewayDeps(found, client, store, settings))
            warming = asyncio.create_task(app.state.gateway.decoder.start(), name="decoder")
            log.info("listening", extra={"host": settings.host, "port": listener.getsockname()[1]})
            await server_for(app).serve([listener])
            await warming
    finally:
        await client.aclose()
        listener.close()


if __name__ == "__main__":
    sys.exit(main())
