"""Objects as files: versions, generations, conflicts, and two writers at once."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from continual_cli.local.paths import Home, default_home
from continual_cli.local.state import EVENTS_KEPT, Endpoints, LocalState
from continual_contract.errors import InvalidSpecError, NotFoundError, UnavailableError


@pytest.fixture
def state(tmp_path: Path) -> LocalState:
    return LocalState(Home(tmp_path / "home").create())


def manifest(**spec: Any) -> dict[str, Any]:
    whole = {
        "model": {"architecture": "lenet5", "input": {"height": 28, "width": 28, "channels": 1}, "classes": ["0", "1"]},
        "bootstrap": {"dataset": {"name": "digits"}},
    }
    return {
        "apiVersion": "continual.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": "digits"},
        "spec": whole | spec,
    }


def test_applying_the_same_twice_is_unchanged(state: LocalState) -> None:
    first, second = state.create_or_replace(manifest()), state.create_or_replace(manifest())
    assert (first.verb, second.verb) == ("created", "unchanged")
    assert first.model == second.model


def test_an_apply_keeps_status_and_foreign_annotations(state: LocalState) -> None:
    """The verbs of the command line are annotations: an apply of the file must not undo them."""
    state.create_or_replace(manifest())
    state.update_model(
        "digits", lambda m: m | {"status": {"a": 1}, "metadata": m["metadata"] | {"annotations": {"verb": "x"}}}
    )
    model = state.create_or_replace(manifest(suspend=True)).model
    assert (model["status"], model["metadata"]["annotations"], model["metadata"]["generation"]) == (
        {"a": 1},
        {"verb": "x"},
        2,
    )


def test_an_apply_neither_unpins_nor_resumes(state: LocalState) -> None:
    """`pin` and `suspend` hold through `local up -f` of a file that says nothing of them; a file that does has its way."""
    state.create_or_replace(manifest())
    state.update_model(
        "digits", lambda m: m | {"spec": m["spec"] | {"suspend": True, "rollout": {"pinnedVersion": "v1"}}}
    )
    again = state.create_or_replace(manifest())
    assert (again.verb, again.model["spec"]["suspend"], again.model["spec"]["rollout"]["pinnedVersion"]) == (
        "unchanged",
        True,
        "v1",
    )
    said = state.create_or_replace(manifest(suspend=False, rollout={"pinnedVersion": "v2"})).model["spec"]
    assert (said["suspend"], said["rollout"]["pinnedVersion"]) == (False, "v2")


def test_an_invalid_change_is_refused_and_nothing_is_written(state: LocalState) -> None:
    state.create_or_replace(manifest())
    before = state.read_model("digits")
    with pytest.raises(InvalidSpecError, match="suspend"):
        state.update_model("digits", lambda m: m | {"spec": m["spec"] | {"suspend": "perhaps"}})
    assert state.read_model("digits") == before


def test_classes_can_be_appended_and_not_reordered(state: LocalState) -> None:
    """Their order is the order of the model's outputs."""
    state.create_or_replace(manifest())

    def with_classes(*classes: str) -> dict[str, Any]:
        changed = manifest()
        changed["spec"]["model"]["classes"] = list(classes)
        return changed

    assert state.create_or_replace(with_classes("0", "1", "2")).verb == "configured"
    with pytest.raises(InvalidSpecError, match="append-only"):
        state.create_or_replace(with_classes("1", "0", "2"))


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("model", {"architecture": "mlp"}, "spec.model.architecture: is immutable"),
        ("model", {"input": {"height": 9, "width": 28, "channels": 1}}, "spec.model.input.height: is immutable"),
        ("bootstrap", {"dataset": {"name": "mnist"}}, "spec.bootstrap: is immutable, the first version came from it"),
    ],
    ids=["architecture", "input", "bootstrap"],
)
def test_what_the_versions_came_from_cannot_change(
    state: LocalState, section: str, change: dict[str, Any], said: str
) -> None:
    """As the API server refuses it on a cluster; how images are fitted may change."""
    state.create_or_replace(manifest())
    changed = manifest()
    changed["spec"][section] |= change
    with pytest.raises(InvalidSpecError, match=said):
        state.create_or_replace(changed)
    fitted = manifest()
    fitted["spec"]["model"]["input"] = {**fitted["spec"]["model"]["input"], "fit": "Stretch"}
    assert state.create_or_replace(fitted).verb == "configured"


def test_identity_cannot_be_changed(state: LocalState) -> None:
    """uid and name are what children and streams hang on."""
    uid = state.create_or_replace(manifest()).model["metadata"]["uid"]
    changed = state.update_model("digits", lambda m: m | {"metadata": {"name": "other", "uid": "forged"}, "status": {}})
    assert (changed["metadata"]["name"], changed["metadata"]["uid"]) == ("digits", uid)


def test_a_name_used_again_is_another_object(state: LocalState) -> None:
    first = state.create_or_replace(manifest()).model["metadata"]
    state.delete_model("digits")
    second = state.create_or_replace(manifest()).model["metadata"]
    assert first["uid"] != second["uid"]
    assert int(second["resourceVersion"]) > int(first["resourceVersion"])


def test_concurrent_writers_lose_no_update(state: LocalState) -> None:
    """Read, change and write are one step under the lock."""
    state.create_or_replace(manifest())

    def add() -> None:
        for _ in range(20):
            state.update_model("digits", lambda m: m | {"status": {"n": m.get("status", {}).get("n", 0) + 1}})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.read_model("digits")["status"] == {"n": 80}


def test_every_token_is_greater_than_the_one_before(state: LocalState) -> None:
    """The fence of the routing table."""
    assert [state.next_token(), state.next_token(), LocalState(state.home).next_token()] == [1, 2, 3]


def test_another_namespace_kind_or_name_is_refused(state: LocalState) -> None:
    elsewhere = manifest()
    elsewhere["metadata"]["namespace"] = "prod"
    with pytest.raises(InvalidSpecError, match="one namespace"):
        state.create_or_replace(elsewhere)
    with pytest.raises(InvalidSpecError, match="not a ContinualModel"):
        state.create_or_replace(manifest() | {"kind": "Deployment"})
    for name in ("../../etc/passwd", ".hidden", ""):
        with pytest.raises(NotFoundError):
            state.read_model(name)
        bad = manifest()
        bad["metadata"]["name"] = name
        with pytest.raises(InvalidSpecError):
            state.create_or_replace(bad)


def test_events_are_folded_and_bounded(state: LocalState) -> None:
    for number in range(2 * EVENTS_KEPT + 5):
        state.record_event("digits", "Normal", "Same" if number % 2 else "Other", "message")
    folded = state.events("digits")
    assert {event["reason"] for event in folded} == {"Same", "Other"}
    assert EVENTS_KEPT <= sum(event["count"] for event in folded) <= 2 * EVENTS_KEPT + 1
    assert state.events("unknown") == []


def test_no_endpoints_means_start_it(state: LocalState) -> None:
    with pytest.raises(UnavailableError, match="continual local up"):
        state.endpoints()


def test_only_the_owner_can_read_the_endpoints(state: LocalState) -> None:
    state.write_endpoints(Endpoints("redis://127.0.0.1:1/0", None, None, "file:///x", managed_redis=True))
    assert stat.S_IMODE(state.home.endpoints.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.home.root.stat().st_mode) == 0o700


def test_the_home_is_where_the_environment_says() -> None:
    assert default_home({"CONTINUAL_HOME": "/x/y"}) == Path("/x/y")
    assert default_home({"XDG_STATE_HOME": "/s"}) == Path("/s/continual")
    assert default_home({}).is_relative_to(Path.home())


def test_a_socket_path_is_never_too_long(tmp_path: Path) -> None:
    deep = Home(tmp_path.joinpath(*["folder-of-some-length"] * 8))
    assert len(str(deep.socket("digits-v1-abcde-123456"))) < 104
