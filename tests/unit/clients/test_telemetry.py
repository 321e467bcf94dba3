"""Nothing of ours tells anybody outside what it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
IMPORTS = re.compile(r"^\s*(?:import|from) onnxruntime\b", re.MULTILINE)


def users_of_onnxruntime() -> list[str]:
    """Our modules that import onnxruntime."""
    files = [path for folder in ("clients", "workers", "gateway", "cli") for path in (ROOT / folder).rglob("*.py")]
    found = [path.relative_to(ROOT) for path in files if IMPORTS.search(path.read_text())]
    return sorted(".".join(path.with_suffix("").parts[1:]) for path in found)


@pytest.mark.parametrize("module", users_of_onnxruntime())
def test_onnxruntime_is_told_to_be_silent_before_it_is_imported(module: str) -> None:
    """Its wheels look up an event collector on import, whatever is called afterwards; the variable has to be there first."""
    package = module.split(".", maxsplit=1)[0]
    program = f"import os, sys, {package}; assert 'onnxruntime' not in sys.modules; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_there_is_something_to_silence() -> None:
    """The search above finds the engine; else it would find nothing for ever."""
    assert "continual_clients.onnxmodel" in users_of_onnxruntime()
