"""`python -m continual_cli.local`: the same verbs, for `--detach` to start itself without the rest of the command line."""

from __future__ import annotations

from continual_cli.local.commands import local_app

if __name__ == "__main__":
    local_app()
