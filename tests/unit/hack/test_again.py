"""What `.ci/run` forgives: one disturbed test, never a broken one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "hack" / "again.py"
DISTURBED = """
from pathlib import Path

def test_disturbed():
    seen = Path("seen")
    first = not seen.exists()
    seen.touch()
    assert not first
"""
BROKEN = "def test_broken():\n    assert 1 + 1 == 3\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run_tests(project: Path) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=project, check=False).returncode


def again(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT], cwd=project, check=False, capture_output=True, text=True)


def test_a_disturbed_test_is_forgiven_and_named(project: Path) -> None:
    (project / "test_a.py").write_text(DISTURBED)
    assert run_tests(project) == 1
    tried = again(project)
    assert tried.returncode == 0
    assert tried.stdout.endswith(
        "passed only when tried again; each is a fault to mend:\n  test_a.py::test_disturbed\n"
    )


def test_a_broken_test_fails_twice(project: Path) -> None:
    (project / "test_a.py").write_text(DISTURBED)
    (project / "test_b.py").write_text(BROKEN)
    assert run_tests(project) == 1
    tried = again(project)
    assert tried.returncode == 1
    assert "failed twice" in tried.stdout


def test_what_is_no_failure_of_a_test_is_final(project: Path) -> None:
    tried = again(project)
    assert (tried.returncode, tried.stdout) == (
        1,
        "again: no test is on record as failed: what failed was something else\n",
    )


@pytest.mark.parametrize(
    ("failed", "final"),
    [
        (["tests/integration/streams/test_chaos.py::test_one"], True),
        (["tests/unit/operator/test_judges.py::test_one"], True),
        ([f"tests/cluster/test_{name}.py::test_one" for name in "abcd"], True),
        ([f"tests/cluster/test_a.py::test_{name}" for name in "abcd"], False),
        (["tests/browser/test_pages.py::test_one"], False),
    ],
)
def test_single_failures_that_count_and_many_are_final(project: Path, failed: list[str], final: bool) -> None:
    cache = project / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    assert ("tried once more" not in again(project).stdout) is final
