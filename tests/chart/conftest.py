"""Real helm, real API server, real MinIO and Redis for the tests of the chart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from continual_clients.objectstore import FileStore
from continual_clients.redis import ensure_functions
from continual_clients.registry import Registry
from continual_contract.artifacts import StoreLayout

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "cluster"))

from chart_redis import ADMIN, Users, start_with_users  # noqa: E402 -- the path is set above
from chart_releases import CRD  # noqa: E402 -- the path is set above
from chart_rendering import users_acl  # noqa: E402 -- the path is set above
from chart_tools import new_namespace, until  # noqa: E402 -- the path is set above
from chart_worlds import conformance_tier, inference_tier  # noqa: E402 -- the path is set above
from control_plane import ROOT, ControlPlane, running  # noqa: E402 -- the path is set above

minio_binary = conformance_tier.minio_binary
minio_server = conformance_tier.minio_server


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """An API server with controllers and without the CRD: the chart brings it."""
    with running() as made:
        made.start_controllers()
        yield made


@pytest.fixture(scope="session")
def schemas(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kubeconform's schemas, from this API server."""
    folder = tmp_path_factory.mktemp("schemas")
    script = ROOT / "hack/kubernetes_schemas.py"
    answer = plane.get("/openapi/v2")
    assert answer.ok, answer.message
    subprocess.run([sys.executable, script, folder], input=json.dumps(answer.body), text=True, check=True)
    return folder


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own that enforces the restricted profile."""
    return new_namespace(plane, f"chart-{abs(hash(request.node.nodeid)):x}"[:30])


@pytest.fixture
def clean(plane: ControlPlane) -> Iterator[ControlPlane]:
    """CRD and aggregated roles are cluster-wide, the CRD is kept on purpose: each test begins without."""
    yield plane
    plane.request("DELETE", CRD)
    for role in ("view", "edit"):
        plane.request("DELETE", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/continualmodels-{role}")
    until("the CRD is gone", lambda: plane.get(CRD).code == 404)


@pytest.fixture
def users(redis_server: Any, tmp_path: Path) -> Iterator[Users]:
    """The server starts again with the rendered file, as the chart starts it, and one more user for the test."""
    acl = tmp_path / "users.acl"
    acl.write_text(f"{users_acl()}{ADMIN}\n")
    redis_server.stop()
    made = Users(redis_server, tmp_path, [])
    start_with_users(redis_server, acl)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()


@pytest.fixture
def bench(users: Users) -> Iterator[Any]:
    """Inference workers as processes, under their user; the test routes as the operator."""
    registry = Registry(FileStore(users.folder / "store"), StoreLayout("default", "digits"))
    made = inference_tier.Bench(users.server.url, users.connect("operator"), users.folder, registry)
    ensure_functions(made.client)
    try:
        yield made
    finally:
        made.close()
