"""Verbs for the resource as a file: apply it, delete it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from continual_contract.errors import InvalidSpecError, NotFoundError, UsageError

from continual_cli.output import Format, OutputOption, dump
from continual_cli.target import ModelArgument, choose
from continual_cli.world import World, open_world


def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML or JSON; - is stdin.")],
    output: OutputOption = Format.table,
) -> None:
    """Create or change a ContinualModel from a file. The same file again changes nothing.

    Every wrong field is named with its value and what to do, before anything is written.

    Examples:
      continual apply -f digits.yaml
      continual init | continual apply -f -
    """
    world = open_world()
    done = [world.of(manifest).create_or_replace(manifest) for manifest in read_manifests(file)]
    if output is not Format.table:
        print(dump(output, [applied.model for applied in done]))
        return
    for applied in done:
        print(f"continualmodel.continual.dev/{applied.model['metadata']['name']} {applied.verb}")


def delete(
    model: ModelArgument = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Delete the models of this file.")] = None,
    missing_ok: Annotated[bool, typer.Option("--ignore-not-found", help="Deleting what is gone is success.")] = False,
) -> None:
    """Delete a ContinualModel. Its processes end; its checkpoints and streams are swept later.

    Examples:
      continual delete digits
      continual delete -f digits.yaml --ignore-not-found
    """
    if (model is None) == (file is None):
        raise UsageError("say what to delete", field="MODEL", remedy="name a model, or give --file")
    world = open_world()
    if file is None:
        delete_one(world, str(model), missing_ok=missing_ok)
        return
    for manifest in read_manifests(file):
        delete_one(world.of(manifest), str(manifest["metadata"]["name"]), missing_ok=missing_ok)


def delete_one(world: World, name: str, *, missing_ok: bool) -> None:
    try:
        choose(world, name)
        world.delete_model(name)
    except NotFoundError:
        if not missing_ok:
            raise
        return
    print(f"continualmodel.continual.dev/{name} deleted")


def read_manifests(file: Path) -> list[dict[str, Any]]:
    """The documents of a YAML or JSON file. Errors: NotFoundError, InvalidSpecError naming line and column."""
    import yaml

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except FileNotFoundError as error:
        raise NotFoundError("no such file", field="--file", value=str(file), remedy="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSpecError(
            f"is not YAML: {yaml_problem(error)}", field=str(file), remedy="correct this line"
        ) from error
    if not documents:
        raise InvalidSpecError("is empty", field=str(file), remedy="see `continual init`")
    for document in documents:
        if not isinstance(document, dict):
            raise InvalidSpecError("is not an object", field=str(file), value=document, remedy="see `continual init`")
    return [json.loads(json.dumps(document, default=str)) for document in documents]


def yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"
