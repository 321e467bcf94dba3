"""What a verb works on: one ContinualModel, its Redis, its object store, found from `--model`, `$CONTINUAL_HOME` and little else.

The name of the model may be left out while there is exactly one. Redis and the store are opened when a verb first touches them, so
that `get` works while Redis is down, and `--help` opens nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer
from continual_contract import settings
from continual_contract.errors import NotFoundError, UnknownClassError, UsageError
from continual_contract.keys import ModelKeys

from continual_cli.document import dig
from continual_cli.local.paths import default_home
from continual_cli.output import note

if TYPE_CHECKING:
    import redis
    from continual_clients.environment import WorkerEnvironment
    from continual_clients.objectstore import ObjectStore
    from continual_clients.registry import Registry
    from continual_contract.artifacts import InputShape, StoreLayout

    from continual_cli.local.state import LocalState


STOPPED = "`local up` is not running: nothing is decided, restarted or trained; start it with `continual local up`"


def open_state() -> LocalState:
    from continual_cli.local.state import LocalState

    return LocalState(default_home())


def note_if_stopped(state: LocalState) -> None:
    """On stderr: what is shown is as `local up` left it, and what is asked for waits until it runs again.

    Its pid is asked, not its lock: who tries the lock while `local up` starts is in its way.
    """
    from continual_cli.local.files import read_json

    said = read_json(state.home.up_state) or {}
    if "pid" not in said or said.get("phase") == "stopped" or not is_process(int(said["pid"])):
        note(STOPPED)


def is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def complete_model(incomplete: str) -> list[str]:
    """Names of models, for the shell's completion."""
    return [name for name in open_state().model_names() if name.startswith(incomplete)]


def complete_version(incomplete: str) -> list[str]:
    """Versions of all models, for the shell's completion."""
    state = open_state()
    models = (state.read_model(name) for name in state.model_names())
    names = (str(entry["version"]) for model in models for entry in dig(model, "status.versions", []))
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name of the ContinualModel; may be left out while there is only one.",
        autocompletion=complete_model,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Name of the ContinualModel; may be left out while there is only one.",
        autocompletion=complete_model,
    ),
]


def choose(names: list[str], wanted: str | None) -> str:
    """The model meant: the one named, or the only one."""
    if wanted is not None:
        if wanted not in names:
            raise NotFoundError("no such ContinualModel", field="model", value=wanted, remedy=known(names))
        return wanted
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFoundError("no ContinualModel here", field="model", remedy=known(names))
    raise UsageError(
        "there are several ContinualModels", field="model", value=names, remedy="say which one with --model"
    )


def known(names: list[str]) -> str:
    if names:
        return f"known: {', '.join(names)}"
    return f"create one: `continual init` and `continual apply -f digits.yaml` (home: {default_home()})"


@dataclass(frozen=True)
class Target:
    """One model of the local cluster. `document` is the whole object as read when the verb began."""

    state: LocalState
    name: str
    document: dict[str, Any]

    @classmethod
    def open(cls, model: str | None = None) -> Target:
        """Errors: NotFoundError when there is no such model, UsageError when the name is needed to tell several apart."""
        state = open_state()
        name = choose(state.model_names(), model)
        return cls(state, name, state.read_model(name))

    def fresh(self) -> Target:
        """The same model, read again."""
        return Target.open(self.name)

    @property
    def namespace(self) -> str:
        return str(dig(self.document, "metadata.namespace", "default"))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.document.get("status") or {})

    @property
    def keys(self) -> ModelKeys:
        return ModelKeys(self.namespace, self.name)

    @property
    def layout(self) -> StoreLayout:
        from continual_contract.artifacts import StoreLayout

        return StoreLayout(self.namespace, self.name)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in dig(self.document, "spec.model.classes", []))

    @property
    def input(self) -> InputShape:
        from continual_contract.artifacts import InputShape

        shape = dig(self.document, "spec.model.input", {})
        return InputShape(height=shape["height"], width=shape["width"], channels=shape["channels"])

    @property
    def fit(self) -> str:
        """`Letterbox`, `Refuse` or `Stretch`: what is done with images of another size."""
        return str(dig(self.document, "spec.model.input.fit", "Letterbox"))

    @cached_property
    def environment(self) -> WorkerEnvironment:
        """Where Redis and the store are, as a worker of this model is told it."""
        return environment_of(self.state, self.namespace, self.name)

    @cached_property
    def redis(self) -> redis.Redis:
        from continual_clients.redis import connect

        return connect(self.environment)

    @cached_property
    def store(self) -> ObjectStore:
        from continual_clients.objectstore import open_store

        return open_store(self.environment.store_url, self.environment.store_credentials_file)

    @cached_property
    def registry(self) -> Registry:
        from continual_clients.registry import Registry

        return Registry(self.store, self.layout)

    def class_named(self, name: str) -> str:
        """The class, or UnknownClassError with the ones there are."""
        if name not in self.classes:
            some = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
            raise UnknownClassError("the model has no such class", field="class", value=name, remedy=f"classes: {some}")
        return name


def environment_of(state: LocalState, namespace: str, model: str) -> WorkerEnvironment:
    """The environment a worker would get, with the endpoints `continual local up` wrote."""
    from continual_clients.environment import WorkerEnvironment

    endpoints = state.endpoints()
    variables = {
        settings.NAMESPACE: namespace,
        settings.MODEL: model,
        settings.REDIS_URL: endpoints.redis_url,
        settings.REDIS_USERNAME: endpoints.redis_username,
        settings.REDIS_PASSWORD_FILE: endpoints.redis_password_file,
        settings.STORE_URL: endpoints.store_url,
    }
    return WorkerEnvironment.from_env({name: value for name, value in variables.items() if value})
