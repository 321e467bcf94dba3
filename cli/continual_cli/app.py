"""The command tree: which verb lives where. Verbs import what they need when they run, so that this stays quick to open."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from continual_cli.guard import GuardedGroup
from continual_cli.local.commands import local_app
from continual_cli.local.paths import HOME_VARIABLE
from continual_cli.verbs import ask, dashboard, dead, judge, learn, look, manifest, setup, steer, stream
from continual_cli.where import Wishes, decide, settle

LOOK, ASK, STREAM, LEARN, STEER, SETUP = "Look", "Ask and correct", "Stream", "Learn", "Steer", "Set up"

app = typer.Typer(
    cls=GuardedGroup,
    name="continual",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"continual {setup.installed('continual')}")
        raise typer.Exit


WORLD, ADDRESSES = "Where", "Redis and object store of a Kubernetes cluster"


@app.callback()
def root(
    target: Annotated[
        str | None,
        typer.Option(
            help="local or kubernetes. Also $CONTINUAL_TARGET. Default: local; kubernetes when called as `kubectl continual`, in a pod, or with one of -n, --context, --kubeconfig.",
            metavar="TARGET",
            rich_help_panel=WORLD,
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the local cluster. Also $CONTINUAL_HOME.",
            show_default="~/.local/state/continual",
            rich_help_panel=WORLD,
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", help="Namespace in the cluster; default: the context's.", rich_help_panel=WORLD
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.", rich_help_panel=WORLD)] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(help="Default: $KUBECONFIG, ~/.kube/config, the pod's service account.", rich_help_panel=WORLD),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            help="redis://host:port, for verbs that send or read images and labels. Also $CONTINUAL_REDIS_URL.",
            metavar="URL",
            rich_help_panel=ADDRESSES,
        ),
    ] = None,
    redis_username: Annotated[
        str | None, typer.Option(help="Also $CONTINUAL_REDIS_USERNAME.", rich_help_panel=ADDRESSES)
    ] = None,
    redis_password_file: Annotated[
        Path | None,
        typer.Option(help="Also $CONTINUAL_REDIS_PASSWORD_FILE.", metavar="FILE", rich_help_panel=ADDRESSES),
    ] = None,
    store_url: Annotated[
        str | None,
        typer.Option(
            help="s3://bucket?endpoint=http://host:port. Also $CONTINUAL_STORE_URL.",
            metavar="URL",
            rich_help_panel=ADDRESSES,
        ),
    ] = None,
    store_credentials_file: Annotated[
        Path | None,
        typer.Option(
            help="JSON with access_key and secret_key. Also $CONTINUAL_STORE_CREDENTIALS_FILE.",
            metavar="FILE",
            rich_help_panel=ADDRESSES,
        ),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Image classifiers that keep learning: stream, late labels, drift, retraining, canary, promotion, rollback.

    Start here:

      continual init > digits.yaml
      continual local up -f digits.yaml --detach
      continual get --watch
      continual produce digits --rate 50 --labels-after 5
      continual predict seven.png
      continual correct seven.png --label 7

    The same verbs in a Kubernetes cluster (the options may stand after the verb, too):

      kubectl continual get --watch
      continual get -n team-a --context prod

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not available now, 5 conflict, 6 bytes do not match their digest, 7 training failed, 130 interrupted.
    """
    del show_version  # its callback has printed and ended
    if home is not None:
        os.environ[HOME_VARIABLE] = str(home)
    wishes = Wishes(
        target, home, context, namespace, kubeconfig,
        redis_url, redis_username, redis_password_file, store_url, store_credentials_file,
    )  # fmt: skip
    settle(decide(wishes, os.environ, sys.argv[0]))


PANELS: tuple[tuple[str, tuple[Callable[..., None], ...]], ...] = (
    (LOOK, (look.get, look.describe, look.history, look.compare, dashboard.dashboard)),
    (ASK, (ask.predict, ask.label, ask.correct)),
    (STREAM, (stream.produce, stream.consume, stream.serve)),
    (LEARN, (steer.retrain, steer.cancel)),
    (STEER, (steer.promote, steer.approve, steer.reject, steer.readmit, steer.rollback, steer.pin, steer.unpin)),
    (STEER, (steer.suspend, steer.resume)),
    (SETUP, (setup.init, manifest.apply, manifest.delete, setup.doctor, setup.export, setup.version)),
    (SETUP, (setup.completion,)),
)
for panel, verbs in PANELS:
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(local_app, name="local", rich_help_panel=SETUP)
app.add_typer(judge.decisions_app, name="decisions", rich_help_panel=LOOK)
app.add_typer(judge.simulate_app, name="simulate", rich_help_panel=LOOK)
app.add_typer(dead.dead_app, name="dead", rich_help_panel=STREAM)
app.add_typer(learn.train_app, name="train", rich_help_panel=LEARN)
