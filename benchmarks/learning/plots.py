"""Pictures of what was measured, for the guide; each is drawn when its measurements are in the cache."""

from __future__ import annotations

from pathlib import Path

from benchmarks.learning.cache import Cache
from benchmarks.learning.rows import Plan


def draw(plan: Plan, cache: Cache, folder: Path) -> None:
    """Write every picture whose measurements are there."""
