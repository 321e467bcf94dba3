"""Keeps an eye on the installed CRD: before the first look, then every twenty seconds, by the hash that the API server gives of it."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

from continual_contract.errors import ContinualError

from continual_operator.deps import NOT_LOOKED_YET, Deps
from continual_operator.kubernetes.api import Api
from continual_operator.safety import missing_fields

log = logging.getLogger(__name__)

INDEX = "/openapi/v3"
GROUP = "apis/continual.dev/v1alpha1"
CHECK_EVERY = timedelta(seconds=20)
RETRY_AFTER = timedelta(seconds=5)
SHOWN = 5
"""Missing fields named in a message."""


class InstalledCrd:
    """Sets `deps.refusal` as long as the installed CRD would lose what must be kept."""

    def __init__(self, api: Api, deps: Deps) -> None:
        self._api, self._deps = api, deps
        self._seen = ""
        deps.refusal = NOT_LOOKED_YET

    async def keep(self) -> None:
        """For ever. Until it was read once, nothing is done; later an answer that does not come changes nothing."""
        while True:
            pause = CHECK_EVERY if self._seen else RETRY_AFTER
            await asyncio.sleep(pause.total_seconds())
            await self.try_to_check()

    async def try_to_check(self) -> None:
        try:
            await self.check()
        except ContinualError as error:
            log.warning("installed CRD not read", extra={"error": str(error)})

    async def check(self) -> None:
        """Read the document if it changed.

        Raises:
            ContinualError: the API server did not answer.
        """
        where = _document(await self._api.document(INDEX))
        if where == self._seen:
            return
        missing = missing_fields(await self._api.document(where)) if where else ("continualmodels.continual.dev",)
        self._seen = where
        self._take(missing)

    def _take(self, missing: tuple[str, ...]) -> None:
        before, self._deps.refusal = self._deps.refusal, _refusal(missing)
        self._deps.metrics.refuses(refusing=bool(missing))
        if self._deps.refusal and self._deps.refusal != before:
            log.error("installed CRD is older than this operator", extra={"missing": list(missing)})
        elif before and before != NOT_LOOKED_YET and not missing:
            log.info("installed CRD knows everything again")


def _document(index: Any) -> str:
    """Address of our group's document, with its hash; empty where the group is not served."""
    return str(((index.get("paths") or {}).get(GROUP) or {}).get("serverRelativeURL") or "")


def _refusal(missing: tuple[str, ...]) -> str:
    if not missing:
        return ""
    named = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
    return f"the installed CRD lacks {named}; apply the CRD of this operator's version, nothing is done until then"
