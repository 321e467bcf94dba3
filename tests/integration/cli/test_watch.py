"""`get --watch`: a line per change, until somebody stops it."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("shown", ["table", "json"])
def test_watch_prints_a_line_per_change_and_ends_with_ctrl_c(spawn, model, shown):
    """Pins that an unchanged model is printed once, a changed one again, and that Ctrl-C is exit 130."""
    watching = spawn("get", "--watch", "--interval", "0.1", "-o", shown)
    out = watching.popen.stdout
    lines = [out.readline() for _ in range(2 if shown == "table" else 1)]
    model.update_model("digits", lambda d: d | {"status": {"stable": {"version": "v1"}}})
    changed = out.readline()
    if shown == "table":
        assert lines[0].split()[:3] == ["NAME", "READY", "STABLE"]
        assert changed.split()[:3] == ["digits", "-", "v1"]
    else:
        assert json.loads(changed)["status"] == {"stable": {"version": "v1"}}
    code, rest, err = watching.stop()
    assert (code, rest, err) == (130, "", "")
