"""Other tiers' worlds, for use here: a conftest cannot be imported by name, since every folder has one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).resolve().parents[1]


def load(file: str) -> ModuleType:
    """A file under tests/ as a module of its own name."""
    path = TESTS / file
    name = "chart_uses_" + file.removesuffix(".py").replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


conformance_tier = load("conformance/conftest.py")
inference_tier = load("integration/inference/conftest.py")
