"""How an attempt ended, read from what its shim wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from continual_cli.local.processes import VANISHED, Exited, NotStarted, Slot


def write(folder: Path, name: str, **record: Any) -> None:
    (folder / name).write_text(json.dumps(record))


ENDS = [
    ("a clean end", {"exit_code": 0}, "Completed"),
    ("an error", {"exit_code": 3}, "Error"),
    ("a kill by a person", {"exit_code": 137, "signal": 9}, "Error"),
    ("a kill by the kernel for memory", {"exit_code": 137, "signal": 9, "oom": True}, "OOMKilled"),
    ("a command that is not there", {"exit_code": 128, "start_error": "No such file"}, "StartError"),
]


@pytest.mark.parametrize(("record", "reason"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
def test_the_reason_of_an_end(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    """The words a kubelet uses, since the operator decides by them."""
    write(tmp_path, "start-0.json", pid=1, ticks=1, boot="x", time=5.0)
    write(
        tmp_path, "exit-0.json", **({"signal": 0, "time": 9.0, "oom": False, "start_error": "", "peak_kib": 1} | record)
    )
    seen = Slot(tmp_path).observe(0)
    assert isinstance(seen, Exited)
    assert (seen.reason, seen.exit_code, seen.finished - seen.started) == (reason, record["exit_code"], 4.0)


def test_a_process_of_before_a_reboot_has_ended(tmp_path: Path) -> None:
    """Pids repeat; start time and boot id do not."""
    write(tmp_path, "start-0.json", pid=1, ticks=1, boot="another boot", time=5.0)
    seen = Slot(tmp_path).observe(0)
    assert isinstance(seen, Exited)
    assert (seen.exit_code, seen.reason) == (VANISHED, "Unknown")


def test_an_attempt_without_any_record_was_never_started(tmp_path: Path) -> None:
    assert isinstance(Slot(tmp_path / "nothing").observe(0), NotStarted)
    assert Slot(tmp_path / "nothing").latest() == -1


def test_records_of_old_attempts_are_removed(tmp_path: Path) -> None:
    for attempt in range(3):
        write(tmp_path, f"spec-{attempt}.json")
        write(tmp_path, f"exit-{attempt}.json")
    slot = Slot(tmp_path)
    slot.trim(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exit-2.json", "spec-2.json"]
    assert slot.latest() == 2
