"""The process around the engine: what it imports, how it restarts, what it tells before it goes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from continual_contract import settings
from continual_contract.errors import UnsafeModelError
from continual_workers.inference.supervisor import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, next_pause
from continual_workers.inference.worker import MAX_TERMINATION_BYTES, report_failure


def test_the_serving_image_needs_no_training_library() -> None:
    """torch, onnx, protobuf, kopf and the command line are never imported by a worker."""
    code = (
        "import sys, continual_workers.inference.__main__;"
        "print(*{m.partition('.')[0] for m in sys.modules} & {'torch', 'onnx', 'google', 'kopf', 'typer', 'scipy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_dying_child_is_restarted_ever_more_slowly_and_a_calm_life_forgives() -> None:
    """Doubling from the first pause to the longest; half a minute of life starts over."""
    pauses = [FIRST_PAUSE_SECONDS / 2]
    for _ in range(10):
        pauses.append(next_pause(pauses[-1], 1.0))
    assert pauses[1] == FIRST_PAUSE_SECONDS
    assert all(later == min(2 * sooner, LONGEST_PAUSE_SECONDS) for sooner, later in pairwise(pauses))
    assert next_pause(LONGEST_PAUSE_SECONDS, 60.0) == FIRST_PAUSE_SECONDS


def test_the_termination_log_holds_reason_and_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One bounded line, `<Reason>: <message>`; a folder that is not there is a warning, not another failure."""
    error = UnsafeModelError("is too large" + "!" * 10_000, field="ONNX model", remedy="shrink it")
    path = tmp_path / "log"
    report_failure(error, {settings.TERMINATION_LOG: str(path)})
    assert path.read_text().startswith("UnsafeModel: ONNX model: is too large!")
    assert path.stat().st_size == MAX_TERMINATION_BYTES
    report_failure(error, {settings.TERMINATION_LOG: str(tmp_path / "none" / "log")})
    assert [record.message for record in caplog.records] == ["giving up", "giving up", "termination log not written"]
