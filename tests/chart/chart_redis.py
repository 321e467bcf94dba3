"""A redis-server with the chart's users: started with the rendered ACL file, as the chart starts it."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from chart_rendering import PASSWORDS
from chart_tools import until
from continual_clients.redis import connect_url
from continual_contract import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

ADMIN_PASSWORD = "admin-of-the-test"
ADMIN = f"user admin on #{hashlib.sha256(ADMIN_PASSWORD.encode()).hexdigest()} ~* &* +@all"
"""The test itself looks at everything; no such user is in the chart."""


@dataclass
class Users:
    """A redis-server with the chart's users."""

    server: Any
    folder: Path
    clients: list[redis.Redis]

    def password_file(self, name: str) -> Path:
        path = self.folder / f"password-{name}"
        path.write_text(PASSWORDS.get(name, ADMIN_PASSWORD))
        return path

    def connect(self, name: str) -> redis.Redis:
        client = connect_url(self.server.url, name, self.password_file(name))
        self.clients.append(client)
        return client

    def url(self, name: str) -> str:
        return str(self.server.url).replace("redis://", f"redis://{name}:{PASSWORDS.get(name, ADMIN_PASSWORD)}@")

    def environment(self, name: str) -> dict[str, str]:
        return {settings.REDIS_USERNAME: name, settings.REDIS_PASSWORD_FILE: str(self.password_file(name))}

    def refused(self) -> list[str]:
        """What was refused to whom so far, as the server noted it."""
        log: Any = self.connect("admin").acl_log()
        return [f"{e['username']}: {e['object']} ({e['reason']}, {e['context']})" for e in log]


def start_with_users(server: Any, acl: Path) -> None:
    """`RedisServer.start` waits for a PING without a password; here nobody gets an answer without one."""

    def answers() -> bool:
        try:
            with closing(
                redis.Redis(port=server.port, username="admin", password=ADMIN_PASSWORD, retry=Retry(NoBackoff(), 0))
            ) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    server._wait_until_ready = lambda: until("the server answers", answers)
    server.start("--aclfile", str(acl), "--maxmemory-policy", "noeviction")
