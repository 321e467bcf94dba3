"""The cache under any order of news: the newest wins, and what was deleted stays deleted."""

from __future__ import annotations

from typing import Any

import pytest
from continual_operator.cluster import ModelRef
from continual_operator.kubernetes.api import DEPLOYMENT, JOB, MODEL, POD, Kind, Listing
from continual_operator.kubernetes.cache import Cache
from hypothesis import given
from hypothesis import strategies as st

REF = ModelRef("team", "digits")


def obj(kind: Kind, name: str, version: int, uid: str = "", **labels: str) -> dict[str, Any]:
    marks = {"continual.dev/model": "digits"} if kind is not MODEL else {}
    metadata = {"namespace": "team", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {**metadata, "labels": marks | labels}}


def versions(cache: Cache) -> dict[str, int]:
    return {o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in cache.children(REF)}


def test_an_older_event_does_not_replace_a_newer_answer() -> None:
    """Our own write comes back before the watch tells of the one before it."""
    cache = Cache()
    assert cache.put(obj(DEPLOYMENT, "digits-v1", 7))
    assert not cache.put(obj(DEPLOYMENT, "digits-v1", 6))
    assert not cache.put(obj(DEPLOYMENT, "digits-v1", 7))
    assert versions(cache) == {"digits-v1": 7}


def test_what_was_deleted_is_not_brought_back_by_a_list_that_began_before() -> None:
    cache = Cache()
    cache.put(obj(JOB, "train", 5))
    assert cache.drop(obj(JOB, "train", 9))
    cache.replace(JOB, "team", Listing("8", [obj(JOB, "train", 5)]))
    assert versions(cache) == {}
    cache.replace(JOB, "team", Listing("12", [obj(JOB, "train", 11, uid="another")]))
    assert versions(cache) == {"train": 11}


def test_a_list_removes_what_nobody_told_was_deleted_and_keeps_what_is_newer_than_itself() -> None:
    """Missed events do no harm (O5)."""
    cache = Cache()
    cache.put(obj(JOB, "missed", 3))
    cache.put(obj(JOB, "younger", 20))
    cache.put(obj(POD, "other-kind", 3))
    changed = cache.replace(JOB, None, Listing("10", []))
    assert [o["metadata"]["name"] for o in changed] == ["missed"]
    assert versions(cache) == {"younger": 20, "other-kind": 3}


def test_the_deletion_of_an_earlier_object_leaves_the_one_of_the_same_name() -> None:
    cache = Cache()
    cache.put(obj(DEPLOYMENT, "digits-v1", 9, uid="new"))
    assert not cache.drop(obj(DEPLOYMENT, "digits-v1", 8, uid="old"))
    assert versions(cache) == {"digits-v1": 9}


def test_a_child_that_changes_its_label_changes_its_model() -> None:
    cache = Cache()
    cache.put(obj(POD, "p", 1))
    cache.put(obj(POD, "p", 2, **{"continual.dev/model": "other"}))
    assert cache.children(REF) == []
    assert len(cache.children(ModelRef("team", "other"))) == 1
    assert cache.parents() == {ModelRef("team", "other")}


def test_models_are_known_by_namespace_and_name() -> None:
    cache = Cache()
    cache.put(obj(MODEL, "digits", 1))
    assert cache.models() == [REF]
    assert cache.get(MODEL, "team", "digits") is not None
    cache.drop(obj(MODEL, "digits", 2))
    assert cache.models() == []


@given(st.permutations(range(1, 7)), st.integers(0, 6))
def test_any_order_of_news_ends_the_same(order: list[int], deleted_at: int) -> None:
    """Six versions of one object, each by watch or by answer, one of them its deletion."""
    cache = Cache()
    for version in order:
        news = obj(JOB, "train", version)
        if version == deleted_at:
            cache.drop(news)
        elif not deleted_at or version < deleted_at:
            cache.put(news)
    assert versions(cache) == ({} if deleted_at else {"train": 6})


@pytest.mark.parametrize("kind", [DEPLOYMENT, JOB, POD, MODEL])
def test_paths_are_those_of_the_api(kind: Kind) -> None:
    root = "/api/v1" if kind is POD else f"/apis/{kind.api_version}"
    assert kind.path("team", "x", "status") == f"{root}/namespaces/team/{kind.plural}/x/status"
    assert kind.path(None) == f"{root}/{kind.plural}"
