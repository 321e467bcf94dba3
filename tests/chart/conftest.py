"""Real helm, real API server, real MinIO and Redis for the tests of the chart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "cluster"))

from chart_tools import new_namespace  # noqa: E402 -- the path is set above
from chart_worlds import conformance_tier  # noqa: E402 -- the path is set above
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
