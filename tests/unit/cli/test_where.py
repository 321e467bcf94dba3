"""Which world a call means: nothing is guessed, and contradictions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from continual_cli.cluster import merge_patch, refusal
from continual_cli.where import Where, Wishes, decide, hoisted
from continual_contract.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    ConflictError,
    InvalidSpecError,
    NotFoundError,
    UsageError,
)
from hypothesis import given
from hypothesis import strategies as st

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("wishes", "environ", "program", "kind", "asked"),
    [
        (Wishes(), {}, "continual", "local", False),
        (Wishes(), {"KUBECONFIG": "/somewhere"}, "continual", "local", False),
        (Wishes(), {}, "/usr/bin/kubectl-continual", "kubernetes", False),
        (Wishes(), POD, "continual", "kubernetes", False),
        (Wishes(), POD | {"CONTINUAL_HOME": "/data"}, "continual", "local", False),
        (Wishes(namespace="team"), {}, "continual", "kubernetes", True),
        (Wishes(context="prod"), {}, "continual", "kubernetes", True),
        (Wishes(kubeconfig=Path("f")), {"CONTINUAL_TARGET": "local"}, "continual", "kubernetes", True),
        (Wishes(), {"CONTINUAL_TARGET": "kubernetes"}, "continual", "kubernetes", True),
        (Wishes(target="local"), {"CONTINUAL_TARGET": "kubernetes"}, "continual", "local", True),
        (Wishes(target="local"), POD, "kubectl-continual", "local", True),
        (Wishes(home=Path("h")), {"CONTINUAL_TARGET": "kubernetes"}, "continual", "local", True),
        (Wishes(home=Path("h")), {}, "kubectl-continual", "local", True),
    ],
)
def test_the_world_is_said_and_not_guessed(
    wishes: Wishes, environ: dict[str, str], program: str, kind: str, asked: bool
) -> None:
    """A kubeconfig that happens to be there decides nothing; an option beats the environment; the name of the command comes last."""
    found = decide(wishes, environ, program)
    assert (found.kind, found.asked) == (kind, asked)


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        (Wishes(target="cloud"), "--target"),
        (Wishes(target="local", namespace="team"), "--namespace"),
        (Wishes(home=Path("h"), context="prod"), "--context"),
        (Wishes(home=Path("h"), target="kubernetes"), "--target"),
        (Wishes(redis_url="redis://h"), "--redis-url"),
        (Wishes(target="local", store_credentials_file=Path("f")), "--store-credentials-file"),
    ],
)
def test_contradictions_are_refused(wishes: Wishes, field: str) -> None:
    """An address without a cluster is one too: it must not send anybody to the current context of a kubeconfig."""
    with pytest.raises(UsageError) as refused:
        decide(wishes, {}, "continual")
    assert refused.value.field == field


def test_addresses_come_from_options_then_from_the_environment() -> None:
    """The names are the workers' own."""
    environ = {
        "CONTINUAL_REDIS_URL": "redis://env",
        "CONTINUAL_REDIS_PASSWORD_FILE": "/p",
        "CONTINUAL_STORE_URL": "s3://b",
    }
    found = decide(Wishes(namespace="n", redis_url="redis://option"), environ, "continual")
    assert found == Where(
        "kubernetes", True, namespace="n", redis_url="redis://option", redis_password_file=Path("/p"), store_url="s3://b"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["get", "-n", "team", "-w"], ["-n", "team", "get", "-w"]),
        (["get", "--namespace=team"], ["--namespace=team", "get"]),
        (["--context", "prod", "promote", "v8", "-n", "team"], ["--context", "prod", "-n", "team", "promote", "v8"]),
        (["predict", "a.png", "--redis-url", "redis://h"], ["--redis-url", "redis://h", "predict", "a.png"]),
        (["produce", "digits", "--redis-url", "redis://h"], ["produce", "digits", "--redis-url", "redis://h"]),
        (["local", "up", "--redis-url", "redis://h"], ["local", "up", "--redis-url", "redis://h"]),
        (["get", "--", "-n", "team"], ["get", "--", "-n", "team"]),
        (["get", "-n"], ["-n", "get"]),
        ([], []),
    ],
)
def test_where_it_works_may_stand_after_the_verb(words: list[str], expected: list[str]) -> None:
    """kubectl hands its plug-ins everything after their name; a verb's own option of the same name stays the verb's."""
    assert hoisted(words) == expected


DOCUMENTS = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), DOCUMENTS, max_size=4)


def applied(document: Any, patch: Any) -> Any:
    """RFC 7386, its own pseudo-code."""
    if not isinstance(patch, dict):
        return patch
    target = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = applied(target.get(name), value)
    return target


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_makes_one_document_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    """And is empty exactly when they are the same."""
    patch = merge_patch(before, after)
    assert applied(before, patch) == after
    assert (patch == {}) == (before == after)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (404, {"message": "not found", "details": {"name": "digits"}}, NotFoundError),
        (404, {"message": "404 page not found"}, NotFoundError),
        (401, {"message": "Unauthorized"}, ClusterRefusedError),
        (403, {"message": "cannot list"}, ClusterRefusedError),
        (409, {"message": "conflict"}, ConflictError),
        (422, {"message": "is invalid"}, InvalidSpecError),
        (429, {}, ClusterUnavailableError),
        (503, {"message": "etcd"}, ClusterUnavailableError),
    ],
)
def test_every_refusal_has_a_remedy(status: int, said: dict[str, Any], kind: type[Exception]) -> None:
    """A missing CRD is not a missing model: the remedy is the chart."""
    error = refusal(status, said, "GET /apis/x")
    assert type(error) is kind
    assert error.remedy
    if status == 404:
        assert ("chart" in error.remedy) == ("details" not in said)
