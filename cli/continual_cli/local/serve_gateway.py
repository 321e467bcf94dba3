"""`python -m continual_cli.local.serve_gateway`: the gateway over the files of a home; started by `local up`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from continual_clients import logs
from continual_contract.errors import ContinualError
from continual_gateway.__main__ import serve
from continual_gateway.settings import read_settings

from continual_cli.local.paths import Home, default_home
from continual_cli.local.resources import LocalResources
from continual_cli.local.state import LocalState

log = logging.getLogger("continual.local")


@asynccontextmanager
async def resources_of(home: Home) -> AsyncIterator[LocalResources]:
    yield LocalResources(LocalState(home))


def main() -> int:
    logs.configure("gateway")
    try:
        uvloop.run(serve(read_settings(os.environ), resources_of(Home(default_home()))))
    except ContinualError as error:
        log.error("cannot start", extra={"error": error.describe()})  # noqa: TRY400 -- the sentence says it all
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
