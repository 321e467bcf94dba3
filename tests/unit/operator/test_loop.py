"""The loop: woken by changes, one task per model, one bad model hurts only itself; and the sweeper after deletions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from continual_operator import observe
from continual_operator.cluster import ModelRef
from continual_operator.loop import back_off, run_operator
from continual_operator.rehearsal import REF, MemoryCluster, Rehearsal, minimal_model
from continual_operator.sweeper import sweep

Stage = Callable[..., Rehearsal]


def named(name: str, uid: str, **parts: Any) -> dict[str, Any]:
    model = minimal_model(**parts)
    model["metadata"] |= {"name": name, "uid": uid}
    return model


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- what is waited for happens in another task's data
            await asyncio.sleep(0.02)


def job_of(play: Rehearsal, name: str) -> bool:
    return any(job["metadata"]["name"].startswith(f"{name}-train-") for job in play.cluster.jobs())


def test_the_operator_finds_its_models_and_ends_when_told(stage: Stage) -> None:
    """A model that is there and one that comes later are both looked at; stop ends it."""
    play = stage()

    async def scene() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(run_operator(play.cluster, play.deps, stop))
        await until(lambda: job_of(play, "digits"))
        play.cluster.models[ModelRef("default", "later")] = named("later", "uid-later")
        play.cluster.changed.put_nowait(ModelRef("default", "later"))
        await until(lambda: job_of(play, "later"))
        stop.set()
        async with asyncio.timeout(30):
            await running

    play.wait_for(scene())


class Failing(MemoryCluster):
    """One model's children make it stumble."""

    async def children(self, ref: ModelRef) -> list[dict[str, Any]]:
        if ref.name == "bad":
            raise ZeroDivisionError("nobody thought of this")
        return await super().children(ref)


def test_one_bad_model_hurts_only_itself(stage: Stage) -> None:
    """O9: an unforeseen error becomes a condition of that model; the other one is served."""
    play = stage()
    bad = ModelRef("default", "bad")
    play.cluster.models[bad] = named("bad", "uid-bad")
    play.cluster = play.deps.cluster = Failing(play.hooks, play.cluster.models)

    def degraded() -> bool:
        conditions = play.cluster.models[bad].get("status", {}).get("conditions", [])
        return any(c["type"] == "Degraded" and "nobody thought of this" in c["message"] for c in conditions)

    async def scene() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(run_operator(play.cluster, play.deps, stop))
        await until(lambda: degraded() and job_of(play, "digits"))
        stop.set()
        await running

    play.wait_for(scene())


class Stumbling(MemoryCluster):
    """Its first list and its first watch break."""

    broke = 0

    async def list_models(self) -> list[ModelRef]:
        self.broke += 1
        if self.broke == 1:
            raise OSError("no list today")
        return await super().list_models()

    async def changes(self) -> AsyncIterator[ModelRef]:
        self.broke += 1
        if self.broke <= 2:
            raise OSError("no watch either")
        while True:
            yield await self.changed.get()


def test_a_watch_and_a_list_that_break_are_taken_up_again(stage: Stage) -> None:
    """Neither ends silently: a change that comes after both broke still wakes its model."""
    play = stage()
    play.cluster = play.deps.cluster = Stumbling(play.hooks, play.cluster.models)

    async def scene() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(run_operator(play.cluster, play.deps, stop))
        play.cluster.changed.put_nowait(REF)
        await until(lambda: job_of(play, "digits"))
        stop.set()
        await running

    play.wait_for(scene())


def test_the_pause_after_errors_doubles_to_a_minute_with_jitter() -> None:
    """Half a second at first, never above ninety."""
    assert [back_off(n, 0.5) for n in (0, 1, 2)] == [timedelta(seconds=s) for s in (0.5, 1, 2)]
    assert back_off(50, 0.5) == timedelta(seconds=60)
    assert back_off(50, 1.0) <= timedelta(seconds=90)
    assert back_off(0, 0.0) == timedelta(seconds=0.25)


def test_the_sweeper_deletes_what_a_deleted_model_left_and_nothing_else(stage: Stage) -> None:
    """Keys and blobs of our dead uid go; a model of another installation and a living one stay."""
    play = stage()
    play.serve_first()
    play.redis.set("ctm:{default/foreign}:routing", '{"gen":1,"uid":"uid-foreign","token":1,"epochs":[],"groups":{}}')
    play.redis.xadd(play.keys.requests, {"d": "x"})
    other = ModelRef("default", "other")
    play.cluster.models[other] = named("other", "uid-other")
    play.store.put("models/default/other/blobs/x", b"x")
    assert play.wait_for(sweep(play.deps)) == []
    del play.cluster.models[REF]
    assert play.wait_for(sweep(play.deps)) == ["uid-model"]
    assert play.redis.keys("ctm:{default/digits}*") == []
    assert play.redis.exists("ctm:{default/foreign}:routing")
    assert [key for key in play.store.objects if "/digits/" in key] == []
    assert play.store.exists("models/default/other/blobs/x")
    assert play.wait_for(sweep(play.deps)) == []


def test_the_sweeper_leaves_a_successor_of_the_same_name_alone(stage: Stage) -> None:
    """Deleted and made again before the sweep: the new resource wipes for itself."""
    play = stage()
    play.serve_first()
    play.cluster.models[REF] = named("digits", "uid-second")
    before = set(play.store.objects)
    assert play.wait_for(sweep(play.deps)) == ["uid-model"]
    assert set(play.store.objects) == before


def test_mutation_what_is_not_written_down_is_never_swept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check: an operator that knows its models from memory alone leaves what went while none ran, for ever (O7)."""

    async def trust_memory(*_: object) -> None:
        return None

    monkeypatch.setattr(observe, "enroll", trust_memory)
    play = stage()
    play.serve_first()
    del play.cluster.models[REF]
    play.restart()
    assert play.wait_for(sweep(play.deps)) == []
    assert play.redis.keys("ctm:{default/digits}*")
    assert [key for key in play.store.objects if "/digits/" in key]


def test_an_imported_checkpoint_becomes_v1(stage: Stage) -> None:
    """bootstrap.checkpoint: read, verified, copied under this model, judged like any first version."""
    donor = stage()
    donor.serve_first()
    digest = donor.status.stable.digest
    key = donor.registry.layout.manifest(digest)
    model = named("copy", "uid-copy")
    model["spec"]["bootstrap"] = {"checkpoint": {"objectKey": key, "digest": digest}}
    model["metadata"]["name"] = "digits"
    play = stage(model)
    play.store.objects.update(donor.store.objects)
    play.settle()
    assert play.status.stable.digest == digest
    assert play.shares == {"v1": 10_000}


def test_a_checkpoint_that_is_not_the_declared_one_is_refused(stage: Stage) -> None:
    """The digest in the spec is what counts, whatever lies under the key."""
    model = minimal_model()
    model["spec"]["bootstrap"] = {"checkpoint": {"objectKey": "somewhere.json", "digest": "sha256:" + "0" * 64}}
    play = stage(model)
    play.store.put("somewhere.json", b"{}")
    play.settle()
    assert play.status.training.state == "Failed"
    assert "is not the declared checkpoint" in play.status.training.message
