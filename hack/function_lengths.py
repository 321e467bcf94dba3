"""Hold the code to its taste: no function over 60 lines, median at most 10.

The weak operators fail in the tail: one 300-line function. This prints the distribution and fails on a breach.
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

LONGEST, MEDIAN = 60, 10
SOURCES = ("contract", "clients", "operator", "workers", "cli", "hack", "benchmarks", "examples")


def lengths(path: Path) -> list[tuple[int, str]]:
    """(lines, where) of every function in a file, its docstring included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def main() -> int:
    found = [entry for root in SOURCES for path in sorted(Path(root).rglob("*.py")) for entry in lengths(path)]
    too_long = [f"{lines} lines: {where}" for lines, where in sorted(found, reverse=True) if lines > LONGEST]
    median = statistics.median(lines for lines, _ in found)
    print(f"{len(found)} functions, median {median:g} lines, longest {max(found)[0]}")
    if too_long or median > MEDIAN:
        print(f"functions have at most {LONGEST} lines and a median of at most {MEDIAN}; split:", *too_long, sep="\n  ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
