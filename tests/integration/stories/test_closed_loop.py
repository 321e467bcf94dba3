"""`make bench-closedloop --quick`: two scenarios through the real loop, judged by their own recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.closedloop.__main__ import main


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_drift_is_recovered_from_and_a_worse_canary_is_not_promoted(tmp_path: Path) -> None:
    """Nothing lost, no wrong promotion, at least one promotion under the drift, the worse one stopped; judged again, the same figures."""
    main(["--quick", "--out", str(tmp_path)])
    lines = {line["scenario"]: line for line in json.loads((tmp_path / "closedloop.json").read_text())}
    assert set(lines) == {"sudden", "worse-canary"}
    assert [(line["wrong"], line["lost"]) for line in lines.values()] == [(0, 0)] * 2
    assert lines["sudden"]["promotions"] >= 1
    assert lines["sudden"]["final"] - lines["sudden"]["lowest"] > 0.3
    assert lines["worse-canary"]["stopped"] >= 1
    for judged in tmp_path.glob("*/judged.json"):
        judged.unlink()
    before = (tmp_path / "closedloop.csv").read_text()
    main(["--quick", "--cached", "--out", str(tmp_path)])
    assert (tmp_path / "closedloop.csv").read_text() == before
    assert (tmp_path / "closedloop.png").stat().st_size > 10_000
