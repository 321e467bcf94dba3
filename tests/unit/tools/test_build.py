"""The builder of pinned tools: what wins, what is loud."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "hack/tools/build.py"


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BUILD), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_a_folder_of_ones_own_wins(tmp_path: Path) -> None:
    """CONTINUAL_TOOLS holds the binary: nothing is built, its path is the last line."""
    binary = tmp_path / "minio"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    done = run("minio", CONTINUAL_TOOLS=str(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (0, str(binary))


def test_without_go_the_failure_is_loud_and_says_what_to_do(tmp_path: Path) -> None:
    """No cached binary, no compiler: an error with both remedies, never an empty path."""
    done = run("minio", XDG_CACHE_HOME=str(tmp_path), PATH="/nonexistent", CONTINUAL_TOOLS="")
    assert done.returncode == 4
    assert "install Go" in done.stderr
    assert "CONTINUAL_TOOLS" in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("minio"))


def test_an_unknown_tool_shows_the_known_ones() -> None:
    """Exit code 2, as everywhere for usage."""
    done = run("nonsense")
    assert done.returncode == 2
    assert "minio" in done.stderr


def test_every_family_is_pinned_by_sums_and_names_no_host() -> None:
    """go.mod with a tool line, go.sum beside it, no replace and no proxy address."""
    families = [path.parent for path in (ROOT / "hack/tools").glob("*/go.mod")]
    assert families
    for family in families:
        text = (family / "go.mod").read_text()
        assert "\ntool " in text
        assert "://" not in text
        assert (family / "go.sum").stat().st_size > 0
