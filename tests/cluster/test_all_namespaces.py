"""CONTINUAL_WATCH_NAMESPACES=*: one operator for the whole cluster, with the chart's ClusterRole.

Nothing else may run beside it: it would serve the models of other tests, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from operators import PATHS, OperatorProcess, operator_account
from stories import Story

SWEPT_WITHIN_SECONDS = 120


@pytest.fixture
def story(nodes: ControlPlane, redis_server: Any, tmp_path: Path) -> Iterator[Story]:
    """A model in a namespace of its own; the operator lives in another one and is told of none."""
    home, told = Story(nodes, redis_server, tmp_path), Story(nodes, redis_server, tmp_path)
    account = operator_account(nodes, home.namespace, settings=("clusterWide=true",))
    told.operator = OperatorProcess(
        home.namespace, tmp_path, account, home.namespace, redis_server.url, CONTINUAL_WATCH_NAMESPACES="*",
        CONTINUAL_INSTALLATION=told.namespace, CONTINUAL_LEASE_SECONDS="60",
    )  # fmt: skip
    try:
        yield told
    finally:
        told.operator.close()
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            assert nodes.request("DELETE", f"{PATHS[kind]}/{home.namespace}-continual-operator").ok


def test_one_operator_serves_all_namespaces_and_a_deleted_one_leaves_nothing(story: Story) -> None:
    """O7: a model anywhere is trained and served; its namespace is deleted, and all of it goes."""
    story.create()
    own = f"roll {story.model()['metadata']['uid']}"
    assert story.plane.request("DELETE", f"/api/v1/namespaces/{story.namespace}").ok
    began = time.monotonic()
    while left := [name for name in story.left() if name == own or not name.startswith("roll ")]:
        assert time.monotonic() - began < SWEPT_WITHIN_SECONDS, left
        time.sleep(0.2)
    print(f"nothing left {time.monotonic() - began:.0f} s after the namespace was deleted")
