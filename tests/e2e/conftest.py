"""The end-to-end tests run when they are named (`make e2e`): they need root and a whole machine, so `pytest` alone leaves them out."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True for this folder's tests unless the command line names the folder or a file in it."""
    named = [Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args]
    wanted = any(path == HERE or HERE in path.parents for path in named)
    return None if wanted or HERE not in collection_path.parents else True
