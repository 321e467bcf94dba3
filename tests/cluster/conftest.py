"""A real API server for the tests of this folder: started once, in seconds, gone with the session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from control_plane import ControlPlane, running


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scene(play): what must have been played before this test looks at it")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with RBAC, and the CRD of ContinualModels."""
    with running() as plane:
        plane.install_crd()
        yield plane


@pytest.fixture(scope="session")
def controllers(control_plane: ControlPlane) -> ControlPlane:
    """The same with kube-controller-manager: Deployments, Jobs, garbage collection, service accounts."""
    control_plane.start_controllers()
    return control_plane


@pytest.fixture(scope="session")
def nodes(control_plane: ControlPlane) -> ControlPlane:
    """The same with a node: kube-scheduler binds pods to it and kwok plays them."""
    control_plane.start_nodes()
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    name = f"test-{abs(hash(request.node.nodeid)):x}"[:40]
    answer = control_plane.create("/api/v1/namespaces", {"metadata": {"name": name}})
    assert answer.ok, answer.message
    return name
