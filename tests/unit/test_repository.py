"""Rules of the repository that no linter knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("folder", ["operator", "workers", "contract", "clients", "cli", "tests"])
def test_root_folders_are_not_packages(folder: str) -> None:
    """A root package named `operator` would break Python's standard library."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_source_deserialises_unsafely() -> None:
    """A checkpoint is data: what can run code while loading is not used anywhere."""
    banned = re.compile(r"\b(import pickle|from pickle|import joblib|torch\.load\(|allow_pickle\s*=\s*True)")
    offenders = [
        str(p.relative_to(ROOT)) for p in tracked("*.py") if "tests" not in p.parts and banned.search(p.read_text())
    ]
    assert offenders == []


def test_locks_pin_hashes_and_name_no_index() -> None:
    """A lock is the same wherever packages come from, and refuses a package that is not the one we tried."""
    for lock in tracked("requirements/*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock
        assert "index-url" not in text, lock
        packages = re.findall(r"^[A-Za-z0-9].*==.*", text, re.MULTILINE)
        assert packages, lock
        assert all(line.rstrip().endswith("\\") for line in packages), lock


def test_the_readme_opens_with_the_two_commands() -> None:
    """A new user meets `make demo` and `make test` first."""
    head = (ROOT / "README.md").read_text()[:2500]
    assert "make demo" in head
    assert "make test" in head
