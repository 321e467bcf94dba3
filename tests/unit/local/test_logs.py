"""Logs of processes: chosen, read from the end, followed through rotation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from continual_cli.local import logs
from continual_cli.local.paths import Home
from continual_cli.local.runner import PodRunner, rotate, tail
from continual_contract.errors import NotFoundError


def put(home: Home, component: str, name: str, text: str, age: int = 0) -> Path:
    path = home.logs / component / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    put(home, "inference", "digits-v1-a", "one\ntwo\n", age=3)
    put(home, "inference", "digits-v2-b", "three\n", age=2)
    put(home, "redis", "redis", "ready\n", age=1)
    return home


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        (None, ["digits-v1-a", "digits-v2-b", "redis"]),
        ("inference", ["digits-v1-a", "digits-v2-b"]),
        ("digits-v1-a", ["digits-v1-a"]),
        ("digits-v2", ["digits-v2-b"]),
    ],
)
def test_logs_are_chosen_by_component_or_process(home: Home, selector: str | None, names: list[str]) -> None:
    assert [file.name for file in logs.choose_logs(home, selector)] == names


def test_an_unknown_log_lists_what_there_is(home: Home) -> None:
    with pytest.raises(NotFoundError, match="digits-v1-a, digits-v2-b, inference, redis"):
        logs.choose_logs(home, "trainer")


def test_last_lines_of_a_long_file_are_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("".join(f"line {n} {'x' * 500}\n" for n in range(2000)))
    assert [line.split()[1] for line in logs.last_lines(path, 50)] == [str(n) for n in range(1950, 2000)]
    assert logs.last_lines(path, 0) == []


def test_following_survives_rotation(tmp_path: Path) -> None:
    """The file is emptied in place, since its writer holds it open."""
    path = tmp_path / "x.log"
    path.write_text("a\nb\nhalf")
    offset, lines = logs._new_lines(path, 0)
    assert lines == ["a", "b"]
    assert rotate(path, limit=3)
    path.write_text("c\n")
    assert logs._new_lines(path, offset)[1] == ["c"]
    assert path.with_name("x.log.1").read_text() == "a\nb\nhalf"


def test_last_words_are_short(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("y" * 10_000 + "\nthe end\n")
    assert tail(path).endswith("the end")
    assert len(tail(path)) <= 2048
    assert tail(tmp_path / "none") == ""


def test_old_logs_of_gone_pods_are_removed_and_standing_ones_stay(home: Home) -> None:
    PodRunner(home, {}).prune_logs({"digits-v2-b"}, keep=0)
    assert [file.name for file in logs.log_files(home)] == ["digits-v2-b", "redis"]


def test_keeping_more_than_there_are_removes_nothing(home: Home) -> None:
    PodRunner(home, {}).prune_logs(set(), keep=200)
    assert len(logs.log_files(home)) == 3
