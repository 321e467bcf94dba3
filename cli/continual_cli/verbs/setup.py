"""Verbs around the work: begin a model file, check the machine, take a version home, complete the shell."""

from __future__ import annotations

import platform
from enum import StrEnum
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from continual_contract.errors import UsageError

from continual_cli.output import Format, OutputOption, emit, say
from continual_cli.target import ModelOption, Target, complete_version
from continual_cli.verbs.look import version_entry

LIBRARIES = ("redis", "onnxruntime", "torch", "torchvision", "numpy")


class Shell(StrEnum):
    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def init(
    name: Annotated[str, typer.Argument(help="Name of the model.")] = "digits",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write to this file instead of printing.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Print a ContinualModel to start from: real digits, every field explained, defaults for a laptop.

    Examples:
      continual init > digits.yaml
      continual init scans --out scans.yaml
      continual local up -f digits.yaml
    """
    text = (
        files("continual_cli")
        .joinpath("digits.yaml")
        .read_text(encoding="utf-8")
        .replace("name: digits  #", f"name: {name}  #")
    )
    if out is None:
        print(text, end="")
        return
    if out.exists() and out.read_text(encoding="utf-8") != text and not force:
        raise UsageError(
            "is there and differs", field="--out", value=str(out), remedy="choose another name, or give --force"
        )
    out.write_text(text, encoding="utf-8")
    print(f"{out} written; next: continual local up -f {out}")


def doctor(output: OutputOption = Format.table) -> None:
    """Check the machine and the local cluster, line by line; exit code 4 when something needed is not there.

    Python, redis-server, ports, disk, state folder, Redis, its functions, the store, worker heartbeats.

    Examples:
      continual doctor
      continual doctor -o json | jq '.[] | select(.ok == false)'
    """
    from continual_cli import health

    checks = health.examine()
    emit(output, [check.document() for check in checks], health.HEADS, [check.row() for check in checks])
    if any(check.ok is False for check in checks):
        raise typer.Exit(4)


def export(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="v7", autocompletion=complete_version)],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.", metavar="DIR")],
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Take a version home: model.onnx, its manifest and its training's plots, every byte checked against its digest.

    The ONNX file takes uint8 images [n, height, width, channels] as `image` and gives `logits`.

    Examples:
      continual export v7 --out v7/
    """
    target = Target.open(model)
    digest = str(version_entry(target, version)["digest"])
    manifest = target.registry.manifest(digest)
    contents = {"model.onnx": target.registry.get_blob(manifest.onnx), "manifest.json": manifest.encode()}
    contents |= {name: target.registry.get_blob(blob) for name, blob in manifest.artifacts.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_inside(out, name, content)
    written = sorted(contents)
    data = {"model": target.name, "version": version, "digest": digest, "folder": str(out), "files": written}
    say(output, f"{target.name} {version} ({digest}) in {out}: {', '.join(written)}", data)


def write_inside(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise UsageError(
            "leaves the folder", field="manifest.artifacts", value=name, remedy="do not trust this checkpoint"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def version(output: OutputOption = Format.table) -> None:
    """Show the version of continual and of what it stands on.

    Examples:
      continual version
      continual version -o json
    """
    found = {"continual": installed("continual"), "python": platform.python_version()}
    found |= {name: installed(name) for name in LIBRARIES}
    emit(output, found, ("Component", "Version"), found.items())


def installed(name: str) -> str | None:
    try:
        return package_version(name)
    except PackageNotFoundError:
        return None


def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish")],
    command: Annotated[str, typer.Option(help="Name under which you call it.")] = "continual",
) -> None:
    """Print the completion script for a shell.

    Examples:
      source <(continual completion bash)
      continual completion zsh > ~/.zfunc/_continual
      continual completion fish > ~/.config/fish/completions/continual.fish
    """
    from typer._completion_shared import get_completion_script

    variable = f"_{command.replace('-', '_').upper()}_COMPLETE"
    print(get_completion_script(prog_name=command, complete_var=variable, shell=shell.value))
