"""What a verb works on: one ContinualModel, its Redis, its object store, in the world that `continual_cli.where` found.

The name of the model may be left out while there is exactly one. Redis and the store are opened when a verb first touches them, so
that `get` works while Redis is down, and `--help` opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer
from continual_contract.errors import NotFoundError, UnknownClassError, UsageError
from continual_contract.keys import ModelKeys

from continual_cli.document import dig
from continual_cli.output import note
from continual_cli.world import Document, World, open_world

if TYPE_CHECKING:
    import redis
    from continual_clients.objectstore import ObjectStore
    from continual_clients.registry import Registry
    from continual_contract.artifacts import InputShape, StoreLayout


def note_remark(world: World) -> None:
    """On stderr: what a person should know before believing what is shown."""
    if remark := world.remark():
        note(remark)


def complete_model(incomplete: str) -> list[str]:
    """Names of models, for the shell's completion."""
    return [name for name in open_world().model_names() if name.startswith(incomplete)]


def complete_version(incomplete: str) -> list[str]:
    """Versions of all models, for the shell's completion."""
    names = (
        str(entry["version"]) for model in open_world().read_models() for entry in dig(model, "status.versions", [])
    )
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


def choose(world: World, wanted: str | None) -> Document:
    """The model meant: the one named, or the only one.

    Errors: NotFoundError when there is no such model, UsageError when the name is needed to tell several apart.
    """
    if wanted is not None:
        try:
            return world.read_model(wanted)
        except NotFoundError as error:
            remedy = known(world, world.model_names())
            raise NotFoundError("no such ContinualModel", field="model", value=wanted, remedy=remedy) from error
    models = world.read_models()
    if len(models) == 1:
        return models[0]
    names = [str(dig(model, "metadata.name")) for model in models]
    if not models:
        raise NotFoundError("no ContinualModel here", field="model", remedy=known(world, names))
    raise UsageError(
        "there are several ContinualModels", field="model", value=names, remedy="say which one with --model"
    )


def known(world: World, names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"known: {listed}" if listed else world.how_to_create()


@dataclass(frozen=True)
class Target:
    """One model of a world. `document` is the whole object as read when the verb began."""

    world: World
    name: str
    document: Document

    @classmethod
    def open(cls, model: str | None = None) -> Target:
        """Errors: NotFoundError when there is no such model, UsageError when the name is needed to tell several apart."""
        world = open_world()
        return cls.of(world, choose(world, model))

    @classmethod
    def of(cls, world: World, document: Document) -> Target:
        return cls(world, str(dig(document, "metadata.name")), document)

    def fresh(self) -> Target:
        """The same model, read again."""
        return Target.of(self.world, self.world.read_model(self.name))

    @property
    def namespace(self) -> str:
        return str(dig(self.document, "metadata.namespace", "default"))

    @property
    def status(self) -> Document:
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
    def redis(self) -> redis.Redis:
        from continual_clients.redis import connect_url

        address = self.world.redis_address()
        return connect_url(address.url, address.username, address.password_file)

    @cached_property
    def store(self) -> ObjectStore:
        from continual_clients.objectstore import open_store

        address = self.world.store_address()
        return open_store(address.url, address.credentials_file)

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
