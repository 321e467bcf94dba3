"""Measurements kept by what they measure, so that a row run alone, twice or after a crash costs nothing again.

A figure is worth what the code was that made it: each entry carries a fingerprint of the trainer's and the benchmark's
sources (their syntax trees: comments and layout do not count), and counts only while that is the same.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from continual_workers.training import __path__ as trainer

from benchmarks.learning.rows import Unit

LEARNING = ("augment", "buffer", "correction", "experience", "importance", "learner", "models", "online", "samples",
            "strategies")  # fmt: skip
HERE = ("worlds", "lifelong", "measures", "verdicts")


def fingerprint() -> str:
    """Sixteen hex digits of everything a learned figure depends on."""
    files = [Path(trainer[0]) / f"{name}.py" for name in LEARNING]
    files += [Path(__file__).parent / f"{name}.py" for name in HERE]
    trees = "".join(ast.dump(_without_docstrings(ast.parse(file.read_text()))) for file in files)
    return hashlib.sha256(trees.encode()).hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]  # every node with a list of statements as its body
                statement
                for statement in body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ]
    return tree


class Cache:
    """One JSON line per measurement, appended as soon as it is there."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self.version = fingerprint()
        self._known: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not fresh:
            for text in path.read_text().splitlines():
                entry = json.loads(text)
                if entry["code"] == self.version:
                    self._known[entry["unit"]] = entry["result"]

    def __contains__(self, unit: Unit) -> bool:
        return unit.key() in self._known

    def get(self, unit: Unit) -> dict[str, Any]:
        """Raises KeyError when it was not measured."""
        return self._known[unit.key()]

    def put(self, unit: Unit, result: dict[str, Any]) -> None:
        self._known[unit.key()] = result
        with self.path.open("a") as file:
            file.write(json.dumps({"code": self.version, "unit": unit.key(), "result": result}) + "\n")
            file.flush()
            os.fsync(file.fileno())
