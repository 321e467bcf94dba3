"""`continual local`: the one-machine cluster from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from continual_cli.guard import GuardedGroup
from continual_cli.local.paths import Home, default_home
from continual_cli.output import Format, OutputOption, dump, duration, note, print_table

local_app = typer.Typer(
    cls=GuardedGroup,
    name="local",
    help="Continual on this machine, without a cluster: real Redis, real workers, the same operator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

REDIS_URL_VARIABLE = "CONTINUAL_LOCAL_REDIS_URL"
GATEWAY_VARIABLE = "CONTINUAL_LOCAL_GATEWAY"


@local_app.command()
def up(
    file: Annotated[list[Path] | None, typer.Option("--file", "-f", help="Models to apply; - is stdin.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background; return when ready.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With --detach: also wait until the models are Ready.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --detach and --wait wait.", min=1)] = 120.0,
    redis_port: Annotated[int | None, typer.Option(help="Port of the Redis to start.", min=1, max=65535)] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar=REDIS_URL_VARIABLE, help="Use this Redis instead of starting one.")
    ] = None,
    gateway: Annotated[
        bool,
        typer.Option("--gateway/--no-gateway", envvar=GATEWAY_VARIABLE, help="Dashboard and HTTP API on 127.0.0.1."),
    ] = True,
    gateway_port: Annotated[int | None, typer.Option(help="Port of the dashboard.", min=1, max=65535)] = None,
) -> None:
    """Start Continual on this machine, or take over what a killed one has left running.

    Without --detach it shows what happens until Ctrl-C, which ends everything in order; the data stay.

    Examples:
      continual local up -f examples/digits.yaml
      continual local up -f examples/digits.yaml --detach --wait
    """
    from continual_cli.local.options import UpOptions
    from continual_cli.local.up import check_manifests, run_foreground
    from continual_cli.verbs.manifest import read_manifests

    manifests = [document for path in file or () for document in read_manifests(path)]
    check_manifests(manifests)
    options = UpOptions(default_home(), manifests, redis_url, redis_port, gateway, gateway_port)
    if detach:
        _detach(options, manifests, timeout, wait=wait)
    else:
        run_foreground(options, os.environ)


def _detach(options: Any, manifests: list[dict[str, Any]], timeout: float, *, wait: bool) -> None:
    from continual_cli.local.detach import start_detached, wait_models
    from continual_cli.local.gateway import GatewayFiles
    from continual_cli.local.state import LocalState

    pid = start_detached(options, timeout, os.environ)
    home = Home(options.home)
    state = LocalState(home)
    print(f"continual is up (pid {pid}) in {home.root}")
    for manifest in manifests:
        applied = state.create_or_replace(manifest)
        print(f"continualmodel.continual.dev/{applied.model['metadata']['name']} {applied.verb}")
    if wait:
        wait_models(home, [m["metadata"]["name"] for m in manifests] or state.model_names(), timeout)
    if options.gateway:
        print(f"dashboard: {GatewayFiles(home).url} (sign in with `continual dashboard`)")
    print("next: `continual get --watch`, `continual local status`, `continual local logs -f`, `continual local down`")


@local_app.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove all data: models, streams, checkpoints, logs.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until `local up` is killed.", min=0)] = 60.0,
) -> None:
    """End everything that `local up` has started, also when `local up` itself is dead. The data stay.

    Examples:
      continual local down
      continual local down --purge
    """
    from continual_cli.local.detach import purge as remove
    from continual_cli.local.detach import stop_home

    home = Home(default_home())
    stopped = stop_home(home, os.environ, timeout)
    print("stopped" if stopped else "nothing was running")
    if purge:
        remove(home)
        print(f"removed all data in {home.root}")


@local_app.command()
def status(output: OutputOption = Format.table) -> None:
    """Processes, models, and a line to paste for redis-cli.

    Examples:
      continual local status
      continual local status -o json
    """
    from continual_cli.local.status import read_status, redis_cli

    seen = read_status(Home(default_home()))
    if output is not Format.table:
        print(dump(output, seen.to_dict()))
        return
    rows = [(p.component, p.name, p.pid, p.state, p.ready, p.restarts, _age(p.since_seconds)) for p in seen.processes]
    print_table(("component", "process", "pid", "state", "ready", "restarts", "age"), rows)
    if seen.models:
        print()
        models = [(m.name, m.ready, m.reason, m.stable, m.canary, m.training) for m in seen.models]
        print_table(("model", "ready", "reason", "stable", "canary", "training"), models)
    print(f"\nhome   {seen.home}")
    if seen.endpoints is not None:
        print(f"store  {seen.endpoints.store_url}\nredis  {redis_cli(seen.endpoints)}")
    if seen.dashboard is not None:
        print(f"pages  {seen.dashboard} (sign in with `continual dashboard`)")
    if not seen.up:
        note("`local up` is not running: nothing is decided, restarted or trained; start it with `continual local up`")


def _age(seconds: float | None) -> str:
    return "" if seconds is None else duration(int(seconds))


@local_app.command()
def logs(
    name: Annotated[
        str | None, typer.Argument(help="operator, redis, gateway, inference, evaluator, trainer, or a process.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    tail: Annotated[int, typer.Option(help="Lines per process.", min=0)] = 20,
) -> None:
    """What the processes wrote, also those that have ended.

    Examples:
      continual local logs inference --tail 50
      continual local logs -f
    """
    from continual_cli.local import logs as reading

    home = Home(default_home())
    chosen = reading.choose_logs(home, name)
    for file in chosen:
        for line in reading.last_lines(file.path, tail):
            _print_line(file.name, line, alone=len(chosen) == 1 and not follow)
    if follow:
        for file, line in reading.follow(home, name):
            _print_line(file.name, line, alone=False)


def _print_line(process: str, line: str, *, alone: bool) -> None:
    sys.stdout.write(line + "\n" if alone else f"{process}  {line}\n")
    sys.stdout.flush()
