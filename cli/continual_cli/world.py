"""What a verb needs of a world, whichever it is: ContinualModels to read and write, and where their Redis and store are.

On one machine the other side is the files of `continual local`; in a cluster it is the API server (`continual_cli.cluster`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from continual_cli.local.paths import default_home
from continual_cli.where import Where, here

if TYPE_CHECKING:
    from continual_cli.local.state import Applied, LocalState

Document = dict[str, Any]
STOPPED = "`local up` is not running: nothing is decided, restarted or trained; start it with `continual local up`"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    url: str
    username: str = ""
    password_file: Path | None = None


@dataclass(frozen=True, slots=True)
class StoreAddress:
    url: str
    credentials_file: Path | None = None


class World(Protocol):
    """Every method may raise UnavailableError when the other side does not answer."""

    def model_names(self) -> list[str]: ...

    def read_models(self) -> list[Document]:
        """All models, by name."""
        ...

    def read_all_namespaces(self) -> list[Document]:
        """The models of the whole cluster, by namespace and name."""
        ...

    def read_model(self, name: str) -> Document:
        """Errors: NotFoundError."""
        ...

    def update_model(self, name: str, change: Callable[[Document], Document]) -> Document:
        """Write what `change` makes of the model, if that is anything new. Errors: NotFoundError, InvalidSpecError."""
        ...

    def of(self, manifest: Document) -> World:
        """The world that the manifest is for: its namespace. Errors: UsageError when the user named another one."""
        ...

    def create_or_replace(self, manifest: Document) -> Applied:
        """What the manifest says holds afterwards; what it leaves out and others set stays. Errors: InvalidSpecError."""
        ...

    def delete_model(self, name: str) -> None:
        """Errors: NotFoundError."""
        ...

    def events(self, name: str) -> list[Document]:
        """`{type, reason, message, count, firstTimestamp, lastTimestamp}`, oldest first."""
        ...

    def redis_address(self) -> RedisAddress: ...

    def store_address(self) -> StoreAddress: ...

    def remark(self) -> str | None:
        """What a person should know before believing what is shown."""
        ...

    def how_to_create(self) -> str:
        """The remedy where there is no model yet."""
        ...


def open_world(where: Where | None = None) -> World:
    """The world of this call. Errors: UsageError when there is no usable kubeconfig."""
    where = where or here()
    if where.kind == "local":
        return LocalWorld.open()
    from continual_cli.cluster import ClusterWorld

    return ClusterWorld.open(where, os.environ)


class LocalWorld:
    """The local cluster in `$CONTINUAL_HOME`."""

    def __init__(self, state: LocalState) -> None:
        self.state = state

    @classmethod
    def open(cls) -> LocalWorld:
        from continual_cli.local.state import LocalState

        return cls(LocalState(default_home()))

    def model_names(self) -> list[str]:
        return self.state.model_names()

    def read_models(self) -> list[Document]:
        return [self.state.read_model(name) for name in self.state.model_names()]

    def read_all_namespaces(self) -> list[Document]:
        return self.read_models()

    def read_model(self, name: str) -> Document:
        return self.state.read_model(name)

    def update_model(self, name: str, change: Callable[[Document], Document]) -> Document:
        return self.state.update_model(name, change)

    def of(self, manifest: Document) -> LocalWorld:
        """There is one namespace; `create_or_replace` refuses another."""
        del manifest
        return self

    def create_or_replace(self, manifest: Document) -> Applied:
        return self.state.create_or_replace(manifest)

    def delete_model(self, name: str) -> None:
        self.state.delete_model(name)

    def events(self, name: str) -> list[Document]:
        return self.state.events(name)

    def redis_address(self) -> RedisAddress:
        found = self.state.endpoints()
        password = Path(found.redis_password_file) if found.redis_password_file else None
        return RedisAddress(found.redis_url, found.redis_username or "", password)

    def store_address(self) -> StoreAddress:
        return StoreAddress(self.state.endpoints().store_url)

    def remark(self) -> str | None:
        """What is shown is as `local up` left it, and what is asked for waits until it runs again.

        Its pid is asked, not its lock: who tries the lock while `local up` starts is in its way.
        """
        from continual_cli.local.files import read_json

        said = read_json(self.state.home.up_state) or {}
        stopped = "pid" not in said or said.get("phase") == "stopped" or not _is_process(int(said["pid"]))
        return STOPPED if stopped else None

    def how_to_create(self) -> str:
        home = f"(home: {default_home()}; for a cluster: -n NAMESPACE, or `kubectl continual`)"
        return f"create one: `continual init` and `continual apply -f digits.yaml` {home}"


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
