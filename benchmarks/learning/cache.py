"""Measurements kept by what they measure, so that a row run alone, twice or after a crash costs nothing again.

A figure is worth what the code was that made it: each entry carries a fingerprint of the trainer's and the benchmark's
sources (their syntax trees: comments and layout do not count), and counts only while that is the same. A change that is meant
to leave some rows as they are can be proved instead of paid for: `--carry` measures the first seed of a group of equal units
anew, and takes the others over from older code only when that one ends with the same result to the last digit.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from continual_workers.training import __path__ as trainer

from benchmarks.learning.rows import Unit

LEARNING = ("augment", "buffer", "correction", "experience", "importance", "learner", "mixing", "models", "online",
            "samples", "strategies")  # fmt: skip
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


def _groups(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    """Units that differ in nothing but their seed, by that."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(replace(unit, seed=0).key(), []).append(unit)
    return groups


class Cache:
    """One JSON line per measurement, appended as soon as it is there."""

    def __init__(self, path: Path, *, fresh: bool = False, code: str | None = None) -> None:
        """`code`: read what older code measured, by its fingerprint; by default what today's code measured."""
        self.path = path
        self.version = code or fingerprint()
        self._known: dict[str, dict[str, Any]] = {}
        self._older: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not fresh:
            for text in path.read_text().splitlines():
                entry = json.loads(text)
                kept = self._known if entry["code"] == self.version else self._older
                kept[entry["unit"]] = entry["result"]

    def __contains__(self, unit: Unit) -> bool:
        return unit.key() in self._known

    def get(self, unit: Unit) -> dict[str, Any]:
        """Raises KeyError when it was not measured."""
        return self._known[unit.key()]

    def carry(self, units: Sequence[Unit]) -> None:
        """Take results of older code over, group by group: where the seed measured anew ended exactly as it did then."""
        for group in _groups(units).values():
            older = [unit for unit in group if unit not in self and unit.key() in self._older]
            if len(older) > 1 and self._reproduced(group, older[0]):
                for unit in older:
                    if unit not in self:
                        self.put(unit, self._older[unit.key()])

    def _reproduced(self, group: Sequence[Unit], first: Unit) -> bool:
        """Whether every member known under both codes is equal; one of them is measured where there is none yet."""
        if not any(unit in self and unit.key() in self._older for unit in group):
            self.put(first, first.run())
        both = [unit for unit in group if unit in self and unit.key() in self._older]
        return all(self.get(unit) == self._older[unit.key()] for unit in both)

    def put(self, unit: Unit, result: dict[str, Any]) -> None:
        self._known[unit.key()] = result
        with self.path.open("a") as file:
            file.write(json.dumps({"code": self.version, "unit": unit.key(), "result": result}) + "\n")
            file.flush()
            os.fsync(file.fileno())
