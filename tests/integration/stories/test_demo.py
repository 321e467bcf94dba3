"""The demo itself: the whole story, unattended, judged by its own books."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_demo_reaches_all_it_claims(tmp_path: Path, seed: int) -> None:
    """Nothing lost, nothing twice, a promotion, a rollback, recovery, a correction: exit code 0 or the table of what was missed."""
    command = [sys.executable, "-m", "continual_cli.demo", "--quick", "--seed", str(seed), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["lost"], summary["duplicates"]) == (0, 0), done.stdout
    assert summary["promotions"] >= 1, done.stdout
    assert summary["rollbacks"] >= 1, done.stdout
    assert summary["correction_fixed"] is True
    assert (tmp_path / "report.html").stat().st_size > 20_000
