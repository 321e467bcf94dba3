"""Who runs this command, for the ledger and the labels. Not an identity: what may be done is Redis's and the API server's to judge."""

from __future__ import annotations

import getpass
import os


def name() -> str:
    """The user's name; in a container, where a uid often has none, `uid-10001`."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # before and since Python 3.13
        return f"uid-{os.getuid()}"
