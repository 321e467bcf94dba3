"""The command `continual` (and, under the name `kubectl-continual`, a plug-in of kubectl that means the cluster: see `where`)."""

from __future__ import annotations

from continual_cli.app import app


def main() -> None:
    """Run the command line; ends the process with a documented exit code (docs/cli.md)."""
    app()


if __name__ == "__main__":
    main()
