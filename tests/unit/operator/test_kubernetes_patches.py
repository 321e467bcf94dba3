"""Patches: what is sent makes exactly what is wanted."""

from __future__ import annotations

from typing import Any

from continual_operator.kubernetes.patches import contains, merge_patch
from hypothesis import given
from hypothesis import strategies as st

leaves = st.one_of(
    st.booleans(), st.integers(-3, 3), st.text("ab", max_size=2), st.lists(st.integers(0, 2), max_size=2)
)
documents = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), leaves, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), st.one_of(leaves, inner), max_size=3),
    max_leaves=8,
)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7386, word by word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), value)
    return result


@given(documents, documents)
def test_a_merge_patch_makes_after_of_before(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Also where a value becomes a mapping, or a mapping a value."""
    assert patched(before, merge_patch(before, after)) == after


@given(documents)
def test_equal_documents_need_no_patch(document: dict[str, Any]) -> None:
    assert merge_patch(document, dict(document)) == {}


def test_a_patch_holds_only_what_differs() -> None:
    before = {"kept": 1, "deep": {"same": [1], "gone": 2}, "over": {"x": 1}}
    after = {"kept": 1, "deep": {"same": [1], "new": 3}}
    assert merge_patch(before, after) == {"deep": {"gone": None, "new": 3}, "over": None}


@given(documents, documents)
def test_a_document_contains_itself_and_what_it_was_made_of(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert contains(one, one)
    assert contains(one, {})
    assert contains({**other, **one}, one)


def test_lists_contain_by_item() -> None:
    """Another owner beside ours is no reason to write again."""
    live = {
        "ownerReferences": [{"uid": "other", "kind": "X"}, {"uid": "ours", "kind": "Y", "blockOwnerDeletion": True}]
    }
    assert contains(live, {"ownerReferences": [{"uid": "ours", "kind": "Y"}]})
    assert not contains(live, {"ownerReferences": [{"uid": "gone"}]})
    assert not contains({"labels": {"a": "1"}}, {"labels": {"a": "2"}})
