"""The pages in a browser, signed in."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer
from continual_contract.errors import UsageError

from continual_cli.local.paths import Home, default_home
from continual_cli.output import Format, OutputOption, say
from continual_cli.where import here


def dashboard(
    open_browser: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open a browser; without it, on a terminal only.")
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Open the dashboard: models, rollouts, decisions, try an image, correct it, label.

    Prints an address that signs in once, within two minutes. It is served by `continual local up`.

    Examples:
      continual dashboard
      continual dashboard --no-open
    """
    from continual_cli.local.gateway import sign_in_url

    if here().kind == "kubernetes":
        raise UsageError(
            "the cluster's dashboard is behind its own address", field="--target", value="kubernetes",
            remedy="`kubectl -n OPERATOR_NAMESPACE port-forward svc/continual-gateway 8080`, then http://127.0.0.1:8080",
        )  # fmt: skip

    url = sign_in_url(Home(default_home()))
    say(output, url, {"url": url})
    if sys.stdout.isatty() if open_browser is None else open_browser:
        webbrowser.open(url)
