"""The gateway of local mode: a process of its own on 127.0.0.1, with a token that lies in a file of mode 0600.

Like Redis it outlives `local up`, is adopted by the next one, is started again when it ends, and keeps its port for the life of the home. Nobody
waits for it: models are served whether people can look or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from continual_contract import settings as names
from continual_contract.errors import AddressInUseError, UnavailableError, UsageError

from continual_cli.local.files import write_atomic
from continual_cli.local.paths import Home
from continual_cli.local.pods import backoff_seconds
from continual_cli.local.processes import Command, Exited, NotStarted, Running, Slot
from continual_cli.local.redis import check_free, free_port
from continual_cli.local.runner import INHERITED, rotate
from continual_cli.local.state import Endpoints

log = logging.getLogger("continual.local")

WISHES = tuple(
    f"CONTINUAL_GATEWAY_{name}"
    for name in ("WEBHOOK_URL", "WEBHOOK_URL_FILE", "TRUSTED_PROXIES", "BACKLOG", "ANSWER_SECONDS")
)
"""What a user may tell the gateway by the environment of `continual local up`."""
USER = "me"
"""The one person of a home: an admin."""
READY_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.2
STEADY_SECONDS = 30.0
"""A process that lived this long ended for a reason of its own: the next start is not delayed."""


@dataclass(frozen=True, slots=True)
class GatewayFiles:
    """What lies under `gateway/` in a home."""

    home: Home

    @property
    def port(self) -> int:
        """Errors: UnavailableError: this home has never had a gateway."""
        try:
            return int((self.home.gateway / "port").read_text())
        except FileNotFoundError as error:
            raise UnavailableError(
                "this home has no gateway", field="CONTINUAL_HOME", value=str(self.home.root),
                remedy="start it with `continual local up` (without --no-gateway)",
            ) from error  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home.gateway / "token").read_text().strip()

    @property
    def session_key(self) -> bytes:
        return (self.home.gateway / "session-key").read_text().strip().encode()

    def write_secrets(self) -> None:
        """Made once; they stay for the life of the home."""
        self.home.gateway.mkdir(mode=0o700, exist_ok=True)
        for name in ("token", "session-key"):
            if not (self.home.gateway / name).exists():
                write_atomic(self.home.gateway / name, secrets.token_urlsafe(48).encode())
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        people = [{"name": USER, "role": "admin", "sha256": digest}]
        write_atomic(self.home.gateway / "tokens.json", json.dumps(people).encode())


class GatewayProcess:
    """The managed gateway of one home."""

    def __init__(self, home: Home, port: int | None, endpoints: Endpoints, environ: Mapping[str, str]) -> None:
        self._home, self._wanted_port, self._endpoints, self._environ = home, port, endpoints, environ
        self.files = GatewayFiles(home)
        self._slot = Slot(home.run / "gateway")
        self._log = home.logs / "gateway" / "gateway.log"
        self._failed_starts = 0

    def start(self) -> None:
        """Adopt the running one, or start one; does not wait until it answers.

        Raises:
            AddressInUseError: the port that was asked for belongs to somebody else.
        """
        attempt = self._slot.latest()
        if isinstance(self._slot.observe(attempt), NotStarted | Exited):
            self.files.write_secrets()
            self._choose_port()
            self._slot.trim(attempt)
            self._slot.start(attempt + 1, self._command())
        else:
            self._refuse_other_port()
        log.info("dashboard", extra={"url": self.files.url, "open": "continual dashboard"})

    async def supervise(self, stop: asyncio.Event) -> None:
        """Start it again whenever it ends."""
        while not stop.is_set():
            seen = self._slot.observe(self._slot.latest())
            if isinstance(seen, Exited):
                await self._restart(seen)
            rotate(self._log)
            await asyncio.sleep(POLL_SECONDS)

    async def _restart(self, seen: Exited) -> None:
        log.warning("gateway ended, starting it again", extra={"exit_code": seen.exit_code, "reason": seen.reason})
        lived = seen.finished - seen.started
        self._failed_starts = 0 if lived > STEADY_SECONDS else self._failed_starts + 1
        await asyncio.sleep(backoff_seconds(max(0, self._failed_starts - 1)))
        with suppress(AddressInUseError):
            self.start()

    def _choose_port(self) -> None:
        file = self._home.gateway / "port"
        known = int(file.read_text()) if file.exists() else 0
        port = self._wanted_port or known or free_port()
        check_free(port, "--gateway-port", "the gateway")
        write_atomic(file, str(port).encode())

    def _refuse_other_port(self) -> None:
        if self._wanted_port not in {None, self.files.port}:
            raise UsageError(
                f"the gateway of this home already runs on port {self.files.port}", field="--gateway-port",
                value=self._wanted_port, remedy="leave it out, or run `continual local down` first",
            )  # fmt: skip

    def _command(self) -> Command:
        argv = (sys.executable, "-m", "continual_cli.local.serve_gateway")
        return Command(argv, self._variables(), self._home.gateway, self._log)

    def _variables(self) -> dict[str, str]:
        """Where everything is; secrets only as files."""
        folder = self._home.gateway
        said = {
            "CONTINUAL_HOME": str(self._home.root),
            names.REDIS_URL: self._endpoints.redis_url,
            names.REDIS_USERNAME: self._endpoints.redis_username,
            names.REDIS_PASSWORD_FILE: self._endpoints.redis_password_file,
            names.STORE_URL: self._endpoints.store_url,
            "CONTINUAL_GATEWAY_ADDRESS": f"127.0.0.1:{self.files.port}",
            "CONTINUAL_GATEWAY_TOKENS_FILE": str(folder / "tokens.json"),
            "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(folder / "session-key"),
        }
        inherited = {name: self._environ[name] for name in (*INHERITED, *WISHES) if name in self._environ}
        return inherited | {name: value for name, value in said.items() if value}


async def stop_gateway(home: Home) -> bool:
    """Ask it to answer what it has accepted and end; kill it when it does not. Returns whether it ran."""
    slot = Slot(home.run / "gateway")
    attempt, ran = slot.latest(), is_running(home)
    slot.signal(attempt, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while isinstance(slot.observe(attempt), Running):
        if time.monotonic() > deadline:
            slot.signal(attempt, signal.SIGKILL)
        await asyncio.sleep(POLL_SECONDS)
    return ran


def is_running(home: Home) -> bool:
    slot = Slot(home.run / "gateway")
    return isinstance(slot.observe(slot.latest()), Running)


def answers(port: int) -> bool:
    """Whether a gateway answers on this port of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def sign_in_url(home: Home) -> str:
    """The dashboard's address with a one-time sign-in of two minutes. Errors: UnavailableError."""
    from continual_gateway.auth import make_ticket

    files = GatewayFiles(home)
    deadline = time.monotonic() + READY_SECONDS
    while not answers(files.port):
        if time.monotonic() > deadline or not is_running(home):
            raise UnavailableError(
                "does not answer",
                field=files.url,
                remedy="see `continual local status` and `continual local logs gateway`",
            )
        time.sleep(POLL_SECONDS)
    return f"{files.url}/signin/ticket?ticket={make_ticket(files.session_key, USER, time.time())}"
