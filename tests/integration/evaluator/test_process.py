"""The evaluator as a process: readiness, metrics, graceful end, one per model, Redis coming and going."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from continual_clients.health import probe
from continual_contract.errors import FencedError
from continual_workers.evaluation.process import Evaluator
from evaluator_driver import World, wait_for
from test_kill import evaluator_process


def test_it_is_ready_with_orders_only_and_leaves_on_sigterm(world: World, redis_server: Any, tmp_path: Path) -> None:
    """Alive without orders, ready once it has reported under them, metrics by version, exit code 0 on SIGTERM."""
    address = f"unix:{tmp_path / 'store'}.sock"

    def ask(path: str) -> tuple[int, bytes]:
        return probe(address, path, timeout=20) or (0, b"")

    with evaluator_process(world, redis_server, tmp_path / "store") as process:
        wait_for(lambda: ask("/healthz")[0] == 200)
        assert ask("/readyz")[0] == 503
        world.configure(window_seconds=2.0)
        (rid,) = world.ask(1)
        world.answer({"v1": world.right})
        world.label(rid, world.right(rid))
        wait_for(lambda: ask("/readyz")[0] == 200)
        wait_for(lambda: b'version="v1"} 1.0' in ask("/metrics")[1])
        assert b"continual_labels_total" in ask("/metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_goes_on_after_redis_was_killed(world: World, redis_server: Any, tmp_path: Path) -> None:
    """kill -9 of Redis and its return: the same process reads on, and the sequence of reports goes on."""
    world.configure(window_seconds=2.0)
    with evaluator_process(world, redis_server, tmp_path / "store") as process:
        wait_for(lambda: world.client.hexists(world.keys.report, "json"))
        time.sleep(1.2)
        before = world.report().seq
        redis_server.restart(kill9=True)
        (rid,) = world.ask(1)
        world.answer({"v1": world.right})
        world.label(rid, world.right(rid))
        wait_for(lambda: world.report().versions.get("v1") is not None and world.report().versions["v1"].labels == 1)
        assert world.report().seq > before
        assert process.poll() is None


def test_it_starts_anew_after_flushall(world: World, evaluator: Evaluator) -> None:
    """S12: with all keys gone it waits for orders and then reports on what comes."""
    world.configure(window_seconds=2.0)
    world.answer({"v1": world.right})
    evaluator.step()
    world.client.flushall()
    evaluator.start()
    assert evaluator.step() is False
    world.route([("v1", 10_000)])
    world.configure(window_seconds=2.0)
    world.ask(3)
    world.answer({"v1": world.right})
    evaluator.step()
    assert evaluator.report is not None
    assert evaluator.report.versions["v1"].answers == 3


def test_a_replaced_evaluator_commits_nothing(world: World, evaluator: Evaluator, redis_server: Any) -> None:
    """Two evaluators of one model: the older one finds the newer one's number and stops."""
    world.configure(window_seconds=2.0)
    evaluator.step()
    newer = Evaluator(redis_server.client(), evaluator.store, world.keys, reports_every_seconds=0.0)
    newer.start()
    newer.step()
    world.ask(1)
    world.answer({"v1": world.right})
    seq = world.report().seq
    with pytest.raises(FencedError, match="another evaluator"):
        evaluator.step()
    assert world.report().seq == seq
    newer.step()
    assert world.report().versions["v1"].answers == 1


def test_another_resource_of_the_same_name_starts_anew(world: World, evaluator: Evaluator) -> None:
    """A new uid: scores, labels and shards of the former resource are forgotten."""
    world.configure(window_seconds=2.0)
    world.ask(3)
    world.answer({"v1": world.right})
    evaluator.step()
    assert evaluator.report is not None
    assert evaluator.report.versions["v1"].answers == 3
    world.client.delete(world.keys.predictions)
    world.configure(window_seconds=2.0, uid="another", token=2)
    evaluator.step()
    assert (evaluator.report.uid, evaluator.report.versions) == ("another", {})


def test_foreign_entries_are_passed_over(world: World, evaluator: Evaluator) -> None:
    """Entries that we did not write, in any of the streams, stop nothing."""
    world.configure(window_seconds=2.0)
    for stream in (world.keys.predictions, world.keys.dead, world.keys.labels):
        world.client.xadd(stream, {"r": b"\xff", "v": b"\xff", "zz": b"\x00"})
        world.client.xadd(
            stream, {"r": "x", "v": "v1", "dg": "d", "role": "?", "why": "?", "c": "1", "p": "1", "t": "1"}
        )
    world.client.xadd(world.keys.requests, {"d": b"zz", "t": "9" * 40, "k": b"\xff\x00"})
    last = world.client.xinfo_stream(world.keys.requests)["last-generated-id"].decode()
    world.answer({"v1": lambda rid: "1"})
    world.label(last, "1", source="correction", by="\udcff".encode("utf-8", "replace").decode(), d=b"x" * 16, enc="png")
    evaluator.step()
    assert evaluator.report is not None
    assert evaluator.report.labels.unknown == 2
    assert evaluator.report.labels.counted == 1


def test_the_report_is_a_sign_of_life(world: World, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged reports are written again after a while, and not before: silence means death."""
    world.configure(window_seconds=2.0)
    evaluator.step()
    seq = world.report().seq
    evaluator.step()
    assert world.report().seq == seq
    monkeypatch.setattr("continual_workers.evaluation.process.SIGN_OF_LIFE_MS", 0)
    evaluator.step()
    assert world.report().seq == seq + 1
