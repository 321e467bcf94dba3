"""Real helm, real API server, real MinIO and Redis for the tests of the chart."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "cluster"))

from chart_worlds import conformance_tier  # noqa: E402 -- the path is set above

minio_binary = conformance_tier.minio_binary
minio_server = conformance_tier.minio_server
