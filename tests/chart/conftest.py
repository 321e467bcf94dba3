"""Real helm, real API server, real MinIO and Redis for the tests of the chart."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(TESTS / "cluster"))


def _fixtures_of(folder: str) -> ModuleType:
    """Another tier's conftest as a module: its servers are started here in the same way."""
    spec = importlib.util.spec_from_file_location(f"fixtures_of_{folder}", TESTS / folder / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_conformance = _fixtures_of("conformance")
minio_binary = _conformance.minio_binary
minio_server = _conformance.minio_server
