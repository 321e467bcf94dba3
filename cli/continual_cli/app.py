"""The command tree: which verb lives where. Verbs import what they need when they run, so that this stays quick to open."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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


def _where(help_text: str, *names: str, panel: str = WORLD, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


TargetOption = Annotated[
    str | None,
    _where(
        "local or kubernetes. Also $CONTINUAL_TARGET. Default: local; kubernetes when called as `kubectl continual`, in a pod, or with one of -n, --context, --kubeconfig.",
        metavar="TARGET",
    ),
]
HomeOption = Annotated[
    Path | None,
    _where("Folder of the local cluster. Also $CONTINUAL_HOME.", show_default="~/.local/state/continual"),
]
NamespaceOption = Annotated[
    str | None, _where("Namespace in the cluster; default: the context's.", "--namespace", "-n")
]
ContextOption = Annotated[str | None, _where("Context of the kubeconfig.")]
KubeconfigOption = Annotated[Path | None, _where("Default: $KUBECONFIG, ~/.kube/config, the pod's service account.")]
RedisUrlOption = Annotated[
    str | None,
    _where(
        "redis://host:port, for verbs that send or read images and labels. Also $CONTINUAL_REDIS_URL.",
        panel=ADDRESSES,
        metavar="URL",
    ),
]
RedisUsernameOption = Annotated[str | None, _where("Also $CONTINUAL_REDIS_USERNAME.", panel=ADDRESSES)]
RedisPasswordOption = Annotated[
    Path | None, _where("Also $CONTINUAL_REDIS_PASSWORD_FILE.", panel=ADDRESSES, metavar="FILE")
]
StoreUrlOption = Annotated[
    str | None,
    _where("s3://bucket?endpoint=http://host:port. Also $CONTINUAL_STORE_URL.", panel=ADDRESSES, metavar="URL"),
]
StoreCredentialsOption = Annotated[
    Path | None,
    _where(
        "JSON with access_key and secret_key. Also $CONTINUAL_STORE_CREDENTIALS_FILE.", panel=ADDRESSES, metavar="FILE"
    ),
]


@app.callback()
def root(
    target: TargetOption = None,
    home: HomeOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    redis_url: RedisUrlOption = None,
    redis_username: RedisUsernameOption = None,
    redis_password_file: RedisPasswordOption = None,
    store_url: StoreUrlOption = None,
    store_credentials_file: StoreCredentialsOption = None,
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
